"""The job that keeps a ledger in order, by one action at a time."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

from pyspark.sql import SparkSession

from spark_billing.commands.arguments import add_ledger_arguments, whole_number
from spark_billing.commands.command import DONE, UNEXPLAINED, Command, say
from spark_billing.core.errors import OutputError, UsageError
from spark_billing.core.session import SESSION_SETTINGS, job_session, settings
from spark_billing.core.storage import Storage
from spark_billing.ledger.compaction import compact
from spark_billing.ledger.folder_ledger import FolderStore
from spark_billing.ledger.printed import printed_compaction, printed_verified
from spark_billing.ledger.stores import kept_of
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
    if not verified.records and not verified.differences:
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
    add("--dry-run", action="store_true", help="tell what there is to do, and do nothing")


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


ACTIONS = (
    Action(
        "verify",
        "Read all of a ledger and of what was published from it, and name every difference. Nothing is changed.",
        lambda parser: None,
        _verify,
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
    description="Keep a ledger in order: verify all of it, or compact its old dates.",
    examples="""
examples:
  {prog} verify --output bills
  {prog} compact --output bills --dry-run
  {prog} compact --output bills --older-than 30 --keep-hours 48
  {prog} verify --output-catalog ice.billing

exit codes:
  0  whole, or done
  1  anything else: run it again
  2  arguments or ledger refused: nothing was changed
  3  verify: there are differences, each is named on a line
  5  compact: another compaction was first, run it again

{prog} ACTION --help has the arguments of an action.
""",
    add_arguments=_add_arguments,
    run=_run,
    cannot="the ledger cannot be maintained",
)
