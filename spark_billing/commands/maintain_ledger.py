"""The job that keeps a ledger in order, by one action at a time."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass

from pyspark.sql import SparkSession

from spark_billing.commands.arguments import add_ledger_arguments, ledger_of, period_of, whole_number
from spark_billing.commands.command import DONE, UNEXPLAINED, Command, say
from spark_billing.commands.files import say_lines
from spark_billing.core.errors import OutputError, UsageError
from spark_billing.core.session import SESSION_SETTINGS, job_session, settings
from spark_billing.core.storage import Storage
from spark_billing.ledger.billing import reason_of
from spark_billing.ledger.compaction import compact
from spark_billing.ledger.folder_ledger import FolderStore
from spark_billing.ledger.housekeeping import clean, rebuild, rename_source
from spark_billing.ledger.ledger import Store
from spark_billing.ledger.past_runs import printed_runs, told_run
from spark_billing.ledger.printed import (
    printed_cleaned,
    printed_compaction,
    printed_gaps,
    printed_rebuilt,
    printed_rename,
    printed_reversal,
    printed_verified,
)
from spark_billing.ledger.reversing import Reversal, reverse
from spark_billing.ledger.stores import kept_of, store_of
from spark_billing.ledger.verifying import verify


@dataclass(frozen=True)
class Action:
    """Something that the job does with a ledger; each has arguments of its own besides the ledger's."""

    name: str
    description: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[SparkSession, argparse.Namespace], int]


def _verify(spark: SparkSession, arguments: argparse.Namespace) -> int:
    verified = verify(spark, kept_of(spark, arguments.output, arguments.output_catalog))
    if not verified.runs and not verified.differences:
        raise OutputError(
            f"nothing was ever billed into {arguments.output or arguments.output_catalog}, it has no ledger",
            parameter="output",
        )
    say("\n".join(printed_verified(verified)))
    return UNEXPLAINED if verified.differences else DONE


def _add_compact_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--older-than",
        metavar="DAYS",
        type=whole_number(0, 6),
        default=7,
        help="compact the UTC+8 dates that no run has added to for so many days (default 7)",
    )
    add(
        "--keep-hours",
        metavar="HOURS",
        type=whole_number(0, 6),
        default=24,
        help="remove what was replaced so many hours ago or earlier (default 24); longer than any reader runs",
    )
    _add_dry_run(parser)


def _compact(spark: SparkSession, arguments: argparse.Namespace) -> int:
    if arguments.output is None:
        raise UsageError(
            "a table is compacted by its format's own procedure, which a ledger takes at any time: Iceberg "
            "CALL cat.system.rewrite_data_files(table => 'namespace.ledger'), Delta OPTIMIZE cat.namespace.ledger, "
            "Paimon CALL cat.sys.compact(table => 'namespace.ledger')",
            parameter="output_catalog",
        )
    store = FolderStore(Storage(spark, arguments.output), 0)
    options = {"older_than": arguments.older_than, "keep_hours": arguments.keep_hours}
    done = compact(store, **options, dry_run=arguments.dry_run)
    say("\n".join(printed_compaction(done, dry_run=arguments.dry_run)))
    return DONE


def _add_period(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--from", metavar="HOUR", help="first UTC+8 hour, such as 2026-04-08T00")
    parser.add_argument("--to", metavar="HOUR", help="the UTC+8 hour after the last one")


def _add_dry_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="tell what there is to do, and do nothing")


def _store(spark: SparkSession, arguments: argparse.Namespace) -> Store:
    return store_of(
        spark, arguments.output, arguments.output_catalog, one_writer=getattr(arguments, "one_writer", False)
    )


def _add_one_writer(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--one-writer",
        action="store_true",
        help="with --output-catalog: nothing else bills into it now; for a catalog that cannot keep two runs apart",
    )


def _add_rebuild_arguments(parser: argparse.ArgumentParser) -> None:
    _add_period(parser)
    _add_dry_run(parser)


def _rebuild(spark: SparkSession, arguments: argparse.Namespace) -> int:
    kept = kept_of(spark, arguments.output, arguments.output_catalog)
    done = rebuild(_store(spark, arguments), kept, period=period_of(arguments), dry_run=arguments.dry_run)
    say("\n".join(printed_rebuilt(done, dry_run=arguments.dry_run)))
    return DONE


def _add_clean_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--older-than",
        metavar="HOURS",
        type=whole_number(0, 6),
        default=24,
        help="remove what was last written so many hours ago or earlier (default 24); longer than any run takes",
    )
    _add_dry_run(parser)


def _clean(spark: SparkSession, arguments: argparse.Namespace) -> int:
    done = clean(_store(spark, arguments), older_than=arguments.older_than, dry_run=arguments.dry_run)
    say("\n".join(printed_cleaned(done, dry_run=arguments.dry_run)))
    return DONE


def _add_runs_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as JSON, a list of runs; amounts are text")


def _runs(spark: SparkSession, arguments: argparse.Namespace) -> int:
    ledger = ledger_of(spark, arguments)
    found = ledger.records(range(1, ledger.runs.count + 1))
    records = [record for _, record in sorted(found.items())]
    if arguments.json:
        say(json.dumps([told_run(record) for record in records], indent=2, ensure_ascii=False))
    else:
        say_lines(printed_runs(records))
    return DONE


def _add_reverse_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--run", metavar="N", type=whole_number(1, 12), help="what this run has added, and nothing else")
    _add_period(parser)
    add("--workspace", metavar="ID", help="what this workspace owes (in the period, if one is given)")
    add("--all", action="store_true", help="all that is owed")
    add("--reason", metavar="TEXT", required=True, help="why, for the record, the history and the report")
    _add_one_writer(parser)
    _add_dry_run(parser)


def _reverse(spark: SparkSession, arguments: argparse.Namespace) -> int:
    what = Reversal(arguments.run, period_of(arguments), arguments.workspace)
    is_limited = what != Reversal()
    if arguments.all == is_limited:
        raise UsageError(
            "give what is to be reversed: --run N, or --from and --to, --workspace ID or both, or --all, which goes "
            "with none of them"
        )
    store = _store(spark, arguments)
    outcome = reverse(store, what, reason=arguments.reason, dry_run=arguments.dry_run)
    say("\n".join(printed_reversal(what, outcome, dry_run=arguments.dry_run)))
    return DONE


def _gaps(spark: SparkSession, arguments: argparse.Namespace) -> int:
    say_lines(printed_gaps(ledger_of(spark, arguments).runs))
    return DONE


def _add_rename_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--to", metavar="NAME", required=True, help="what later runs give as --source")
    parser.add_argument("--reason", metavar="TEXT", help="why, for the record")
    _add_one_writer(parser)
    _add_dry_run(parser)


def _rename(spark: SparkSession, arguments: argparse.Namespace) -> int:
    store, reason = _store(spark, arguments), reason_of(arguments.reason)
    outcome = rename_source(store, arguments.to, reason=reason, dry_run=arguments.dry_run)
    say(printed_rename(outcome, arguments.to, dry_run=arguments.dry_run))
    return DONE


ACTIONS = (
    Action(
        "verify",
        "Read all of a ledger and of what was published from it, and name every difference. Nothing is changed.",
        lambda parser: None,
        _verify,
    ),
    Action(
        "rebuild",
        "Make bills/ and bill_lines/ anew from the ledger, of some dates or of all; of a catalog its views. A run that "
        "adds nothing publishes them.",
        _add_rebuild_arguments,
        _rebuild,
    ),
    Action(
        "clean",
        "Remove what runs that never committed have left: their staging folders and lines; of a catalog their rejected "
        "rows and priced calls.",
        _add_clean_arguments,
        _clean,
    ),
    Action(
        "runs",
        "List the runs: when, by which version of the job, what was asked, what each has added and why.",
        _add_runs_arguments,
        _runs,
    ),
    Action(
        "reverse",
        "Take back what a run has added, or what is owed for a period, by a workspace, or at all, by adding the "
        "opposite lines as a run of their own. No usage is needed, and no other leave.",
        _add_reverse_arguments,
        _reverse,
    ),
    Action(
        "gaps",
        "List the hours, between the first and the last that a run has covered, that none has covered.",
        lambda parser: None,
        _gaps,
    ),
    Action(
        "rename-source",
        "Name the usage of a ledger anew, for later runs. A run that adds nothing says so.",
        _add_rename_arguments,
        _rename,
    ),
    Action(
        "compact",
        "Rewrite the many small files of old dates into one for each date, prove that nothing has changed, and remove "
        "what earlier compactions have replaced. Bills, history and later runs stay the same.",
        _add_compact_arguments,
        _compact,
    ),
)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, title="actions")
    for action in ACTIONS:
        of_action = actions.add_parser(
            action.name, help=action.description, description=action.description, allow_abbrev=False
        )
        add_ledger_arguments(of_action)
        action.add_arguments(of_action)


def _run(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    (action,) = (each for each in ACTIONS if each.name == arguments.action)
    spark = job_session(f"spark-billing {action.name}")
    with settings(spark, SESSION_SETTINGS):
        return action.run(spark, arguments)


maintain_ledger = Command(
    name="maintain",
    job="maintain_ledger.py",
    description="Keep a ledger in order: verify all of it, make anew what is derived from it, clean up, list its runs "
    "and gaps, reverse what was billed wrongly, or compact its old dates.",
    examples="""
examples:
  {prog} verify --output bills
  {prog} rebuild --output bills --from 2026-04-08T00 --to 2026-04-09T00
  {prog} clean --output bills --dry-run
  {prog} runs --output bills --json
  {prog} gaps --output bills
  {prog} reverse --output bills --run 12 --reason "the price list of May was used" --dry-run
  {prog} reverse --output bills --all --reason "billed in the wrong currency"
  {prog} rename-source --output bills --to "gateway log"
  {prog} compact --output bills --dry-run
  {prog} compact --output bills --older-than 30 --keep-hours 48
  {prog} verify --output-catalog ice.billing

exit codes:
  0  whole, or done
  1  anything else: run it again
  2  arguments or ledger refused: nothing was changed
  3  verify: there are differences, each is named on a line
  5  other runs, or another compaction, were first: run it again

{prog} ACTION --help has the arguments of an action.
""",
    add_arguments=_add_arguments,
    run=_run,
    cannot="the ledger cannot be maintained",
)
