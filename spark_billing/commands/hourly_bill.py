"""The job that turns a usage table into bills."""

from __future__ import annotations

import argparse
import tempfile

from spark_billing.commands.arguments import add_usage_arguments, columns_of, period_of, price_list_of, whole_number
from spark_billing.commands.command import DONE, Command, say
from spark_billing.commands.demo import run_demo
from spark_billing.core.errors import RejectedError, UsageError
from spark_billing.core.session import job_session
from spark_billing.ledger.billing import bill_table, instant_of, last_hours, require_last
from spark_billing.ledger.max_rejected import max_rejected_of
from spark_billing.ledger.run import Outcome
from spark_billing.reports.run_summary import printed_run
from spark_billing.usage.aliases import aliases_of

_EXAMPLES = """
examples:
  # a usage table that has the contract's columns
  {prog} --usage oss://bucket/usage --output oss://bucket/bills --currency USD

  # the hours of one day, another log format, the log's times written without an offset
  {prog} --usage oss://bucket/log.csv --output oss://bucket/bills --currency USD \\
      --from 2026-04-08T00 --to 2026-04-09T00 --no-dedup --call-time-zone UTC \\
      --column "call_time=TIMESTAMP" --column "input_tokens=ContextTokens" --column "output_tokens=GeneratedTokens" \\
      --column "workspace_id='w-1234567890abcdef'" --column "region='cn-hangzhou'" --column "model='qwen-plus'"

  # every hour: the two days before, with whatever arrived late
  {prog} --usage oss://bucket/usage --output oss://bucket/bills --currency USD --last 48

  # into the table ledger of a catalog that the Spark session knows by the name ice
  {prog} --usage ice.logs.calls --usage-format table --output-catalog ice.billing --currency USD

  # see it work on made-up usage
  {prog} --demo

exit codes:
  0 billed
  2 arguments, price list or usage refused (nothing was written)
  4 the run would lower bills of the ledger (nothing was written; see --allow-retractions)
  5 other runs kept committing first (run it again)
  6 done and committed, but more rows were rejected than --max-rejected allows (see rejected/)
  1 anything else (nothing half-written is ever taken for a bill; run it again)
a scheduler may repeat a run after 1 and 5; after 2, 4 and 6 a person must look
"""


def _run(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    _check(parser, arguments)
    prices = price_list_of(arguments)
    limits = {"closed_after": arguments.closed_after, "adjust_within": arguments.adjust_within}
    as_of = instant_of(arguments.as_of, last=arguments.last, **limits)
    period = period_of(arguments)
    if arguments.last is not None:
        period = last_hours(arguments.last, period, as_of)
    require_last(arguments.last, arguments.cover_gap)
    columns = columns_of(arguments)
    aliases_of(arguments.model_alias, prices)  # refused before Spark starts
    max_rejected = max_rejected_of(arguments.max_rejected)
    if arguments.pricing == "udf":
        _need_arrow()
    spark = job_session("spark-billing hourly_bill")
    if arguments.demo:
        arguments.output = arguments.output or tempfile.mkdtemp(prefix="spark-billing-demo-")
        return run_demo(spark, prices, arguments.output)
    outcome = bill_table(
        spark,
        prices,
        usage=arguments.usage,
        output=arguments.output,
        catalog=arguments.output_catalog,
        usage_format=arguments.usage_format,
        period=period,
        columns=columns,
        call_time_zone=arguments.call_time_zone,
        where=arguments.where,
        model_alias=arguments.model_alias,
        usage_schema=arguments.usage_schema,
        max_rejected=max_rejected,
        pricing=arguments.pricing,
        duplicates=not arguments.no_dedup,
        group_by_tags=arguments.group_by_tag,
        detail=arguments.detail,
        source=arguments.source,
        one_writer=arguments.one_writer,
        dedup_lookback=arguments.dedup_lookback,
        keep_copy=arguments.keep_copy,
        as_of=None if arguments.as_of is None else as_of,  # the machine's own clock is not taken on trust
        is_of_last_hours=arguments.last is not None,
        cover_gap=arguments.cover_gap,
        **limits,
        allow_retractions=arguments.allow_retractions,
        dry_run=arguments.dry_run,
    )
    say("\n".join(printed_run(outcome, prices)))
    _look_at_rejected(outcome)
    return DONE


def _look_at_rejected(outcome: Outcome) -> None:
    found = outcome.record.rejected_too_many
    if found is None:
        return
    if outcome.record.arguments["dry_run"]:
        raise RejectedError(f"{found}. Nothing was written: it is a dry run.", parameter="max_rejected")
    where = dict(outcome.places).get("rejected rows", "rejected")
    raise RejectedError(
        f"{found}. The run is done and committed; these rows are in {where}. Mend the usage or "
        "its mapping and run it again, which adds only what is missing; or allow more.",
        parameter="max_rejected",
    )


def _need_arrow() -> None:
    try:
        import spark_billing.prices.udfs  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"--pricing udf needs pyarrow, numpy and pandas in the cluster's Python ({error}); "
            "install them, or leave --pricing native, which needs none and gives the same bill"
        ) from None


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add, count = parser.add_argument, whole_number(0, 6)
    add("--demo", action="store_true", help="make a usage table in a scratch folder, bill it and show the bill")
    add_usage_arguments(parser, required=False)
    add("--output", metavar="DIR", help="where bill_lines/, bills/, rejected/ and ledger/ are written")
    add(
        "--output-catalog",
        metavar="CATALOG.NAMESPACE",
        help="instead of --output: the table ledger of a catalog of Iceberg, Delta or Paimon, and views of it",
    )
    add(
        "--one-writer",
        action="store_true",
        help="with --output-catalog: the scheduler sees to it that only one run bills at a time; for a catalog that "
        "cannot keep two runs apart, which is refused otherwise",
    )
    add("--source", metavar="NAME", help="names the usage over time, wherever it lies (default: what --usage says)")
    add("--closed-after", metavar="HOURS", type=count, help="bill an hour only so long after its end")
    add(
        "--adjust-within",
        metavar="DAYS",
        type=count,
        help="report, but do not add, changes to older hours",
    )
    add(
        "--last",
        metavar="HOURS",
        type=count,
        help="instead of --from and --to: the last hours that are over",
    )
    add(
        "--cover-gap",
        action="store_true",
        help="with --last: bill also the hours between the last one that any run has covered and the last hours",
    )
    add(
        "--max-rejected",
        metavar="N|N%",
        help="end with exit code 6 if more rows are rejected, identical repeats aside (default: if all are)",
    )
    add(
        "--as-of",
        metavar="INSTANT",
        help="the run's clock (default: now), such as 2026-04-09T00:00Z: --last, --closed-after and --adjust-within "
        "count from it, and hours that begin later are not billed yet; needed where now is before the last run began",
    )
    add("--allow-retractions", action="store_true", help="let bills become lower than what the ledger says")
    add("--dry-run", action="store_true", help="show what would be added to the ledger, and write nothing")
    add(
        "--group-by-tag",
        metavar="KEY",
        action="append",
        default=[],
        help="split bill lines by a key of the column tags",
    )
    add("--pricing", choices=("native", "udf"), default="native", help="udf prices each request alone (the same bill)")
    add("--detail", action="store_true", help="also write every billed call with its price to priced_calls/")


def _check(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """What argparse cannot say: which arguments the demo excludes, and which the job needs."""
    if arguments.demo:
        arguments.currency = arguments.currency or "USD"
        names = ["usage", "usage_format", "from", "to", "column", "price_list", "group_by_tag", "call_time_zone"]
        names += ["no_dedup", "detail", "source", "closed_after", "adjust_within", "as_of", "last", "cover_gap"]
        names += ["allow_retractions", "dry_run", "output_catalog", "where", "usage_schema", "model_alias"]
        names += ["max_rejected", "keep_copy", "dedup_lookback", "pricing", "one_writer"]
        given = (name for name in names if getattr(arguments, name) != parser.get_default(name))
        unused = [f"--{name.replace('_', '-')}" for name in given]
        if unused:
            parser.error(f"--demo makes its own usage; leave out {', '.join(unused)}")
    else:
        needed = {name: getattr(arguments, name) for name in ("usage", "output", "currency")}
        needed["output"] = needed["output"] or arguments.output_catalog
        missing = [f"--{name}" for name, value in needed.items() if not value]
        if missing:
            parser.error(f"{', '.join(missing)} is needed; or try --demo")
        if arguments.output and arguments.output_catalog:
            parser.error("give either --output or --output-catalog")
        if arguments.one_writer and arguments.output:
            parser.error("--one-writer is about the catalog of --output-catalog; leave it out with --output")


hourly_bill = Command(
    name="bill",
    job="hourly_bill.py",
    description="Bill model calls exactly: one bill per workspace and UTC+8 hour, from a usage table with one row per "
    "call. Every row is billed or written to rejected/ with a reason, and the run proves it. What was billed before is "
    "kept in a ledger: a run adds the difference.",
    examples=_EXAMPLES,
    add_arguments=_add_arguments,
    run=_run,
    cannot="the usage cannot be billed",
)
