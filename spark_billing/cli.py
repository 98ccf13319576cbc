"""The command lines of the jobs: arguments, exit codes, and messages of one line."""

from __future__ import annotations

import argparse
import io
import logging
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, Optional

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession

import spark_billing
from spark_billing import history, rerating
from spark_billing.catalog import CatalogTables
from spark_billing.errors import (
    LostRaceError,
    OutputError,
    PriceListError,
    RetractionError,
    SparkBillingError,
    UsageError,
)
from spark_billing.hours import Period, parse_instant
from spark_billing.metering import of_period
from spark_billing.price_list import PriceList
from spark_billing.runs import SESSION_SETTINGS, Job, Outcome, bill_hours
from spark_billing.session import job_session, settings
from spark_billing.sources import FORMATS, MAPPABLE, ROW, map_columns, read_usage, spark_reason, users_error
from spark_billing.summary import summary

BILLED = 0
FAILED = 1  # nothing half-written is ever taken for a bill
REFUSED = 2  # arguments, price list, usage: nothing was written
RETRACTION = 4  # it would lower bills, and may not
LOST_RACE = 5  # another run committed first

_ZONE = re.compile(r"UTC|Z|[+-][0-9]{2}:[0-9]{2}|[A-Za-z_]+(/[A-Za-z0-9_+-]+)+")
BUNDLED = "emr-serverless-spark"

_EPILOG = """
examples:
  # a usage table that has the contract's columns
  spark-submit --py-files spark_billing.zip jobs/hourly_bill.py \\
      --usage oss://bucket/usage --output oss://bucket/bills --currency USD

  # the hours of one day, another log format, the log's times written without an offset
  spark-submit --py-files spark_billing.zip jobs/hourly_bill.py \\
      --usage oss://bucket/log.csv --output oss://bucket/bills --currency USD \\
      --from 2026-04-08T00 --to 2026-04-09T00 --no-dedup --call-time-zone UTC \\
      --column "call_time=TIMESTAMP" --column "input_tokens=ContextTokens" --column "output_tokens=GeneratedTokens" \\
      --column "workspace_id='w-1234567890abcdef'" --column "region='cn-hangzhou'" --column "model='qwen-plus'"

  # see it work on made-up usage
  jobs/hourly_bill.py --demo

exit codes:
  0 billed
  2 arguments, price list or usage refused (nothing was written)
  4 the run would lower bills of the ledger (nothing was written; see --allow-retractions)
  5 other runs kept committing first
  1 anything else (nothing half-written is ever taken for a bill)
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(REFUSED, f"{self.prog}: {message} (see --help)\n")


def hourly_bill(argv: Optional[Sequence[str]] = None) -> int:
    """The job that turns a usage table into bills; returns its exit code."""
    parser = _hourly_bill_parser()
    arguments = parser.parse_args(argv)
    _check_arguments(parser, arguments)
    return _guarded(parser, lambda: _run(arguments))


def bill_history(argv: Optional[Sequence[str]] = None) -> int:
    """The job that shows every ledger line of one workspace and hour; returns its exit code."""
    parser = _history_parser()
    arguments = parser.parse_args(argv)

    if (arguments.output is None) == (arguments.output_catalog is None):
        parser.error("give either --output or --output-catalog")

    def run() -> int:
        spark = job_session("spark-billing bill_history")
        output = arguments.output or CatalogTables(spark, arguments.output_catalog).output
        with settings(spark, SESSION_SETTINGS):
            lines = history.bill_history(spark, output, workspace_id=arguments.workspace, hour=arguments.hour)
            _print("\n".join(history.told(lines, arguments.workspace, arguments.hour)))
        return BILLED

    return _guarded(parser, run)


def rerate(argv: Optional[Sequence[str]] = None) -> int:
    """The job that compares two price lists, or the two readings of K, on one usage table; returns its exit code."""
    parser = _rerate_parser()
    arguments = parser.parse_args(argv)
    if (arguments.against is None) == (arguments.against_tokens_per_k is None):
        parser.error("give either --against FILE.csv or --against-tokens-per-k")

    def run() -> int:
        prices = _price_list(arguments)
        if arguments.against is None:
            other = _price_list(arguments, tokens_per_k=arguments.against_tokens_per_k)
        else:
            other = PriceList.from_csv(arguments.against, tokens_per_k=arguments.tokens_per_k)
        period, columns, zone = _period(arguments), _columns(arguments), arguments.call_time_zone
        spark = job_session("spark-billing rerate")
        with _usage(spark, arguments.usage, arguments.usage_format, columns, zone, not arguments.no_dedup) as usage:
            if period is not None:
                usage = of_period(usage, period)
            changes = rerating.rerate(usage.drop(ROW), prices=prices, other=other, duplicates=not arguments.no_dedup)
            _print("\n".join(rerating.told(changes, prices, other)))
        return BILLED

    return _guarded(parser, run)


def _guarded(parser: argparse.ArgumentParser, run: Callable[[], int]) -> int:
    """What a job does, with every failure as one line and an exit code."""
    for name in ("DataFrameQueryContextLogger", "SQLQueryContextLogger"):  # PySpark's stack trace before our one line
        logging.getLogger(name).disabled = True
    _any_text_can_be_printed()
    try:
        return run()
    except (PriceListError, UsageError, OutputError) as error:
        return _say(parser, error, REFUSED)
    except RetractionError as error:
        return _say(parser, error, RETRACTION)
    except LostRaceError as error:
        return _say(parser, error, LOST_RACE)
    except SparkBillingError as error:
        return _say(parser, error, FAILED)
    except (PySparkException, Py4JJavaError) as error:
        reason = users_error(error)
        if reason:
            return _say(parser, f"the usage cannot be billed: {reason}", REFUSED)
        return _say(parser, f"Spark failed: {spark_reason(error)}", FAILED)
    except OSError as error:
        return _say(parser, error, FAILED)


def _print(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:  # nobody reads it (`| head`): what the job did is done all the same
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(arguments: argparse.Namespace) -> int:
    prices = _price_list(arguments)
    period = _period(arguments)
    columns = _columns(arguments)
    if arguments.pricing == "udf":
        _need_arrow()
    spark = job_session("spark-billing hourly_bill")
    if arguments.demo:
        from spark_billing import demo

        arguments.output = arguments.output or tempfile.mkdtemp(prefix="spark-billing-demo-")
        return demo.run(spark, prices, arguments.output)
    tables = CatalogTables(spark, arguments.output_catalog) if arguments.output_catalog else None
    if tables is not None:
        tables.check()
        arguments.output = tables.output
    outcome = bill(
        spark,
        prices,
        usage=arguments.usage,
        output=arguments.output,
        usage_format=arguments.usage_format,
        period=period,
        columns=columns,
        call_time_zone=arguments.call_time_zone,
        pricing=arguments.pricing,
        duplicates=not arguments.no_dedup,
        group_by_tags=arguments.group_by_tag,
        detail=arguments.detail,
        source=arguments.source,
        dedup_lookback=arguments.dedup_lookback,
        as_of=_as_of(arguments),
        closed_after=arguments.closed_after,
        adjust_within=arguments.adjust_within,
        allow_retractions=arguments.allow_retractions,
        dry_run=arguments.dry_run,
    )
    if tables is not None and not arguments.dry_run:
        with settings(spark, SESSION_SETTINGS):
            tables.sync()
    _print(summary(outcome, prices, arguments.output))
    return BILLED


def bill(
    spark: SparkSession,
    prices: PriceList,
    *,
    usage: str,
    output: str,
    usage_format: Optional[str] = None,
    period: Optional[Period] = None,
    columns: Optional[dict[str, str]] = None,
    call_time_zone: Optional[str] = None,
    duplicates: bool = True,
    source: Optional[str] = None,
    **options: Any,
) -> Outcome:
    """Read, map and bill a usage table, with the session settings that this needs and for as long as it takes."""
    asked = {
        "usage": usage,
        "usage_format": usage_format,
        "columns": columns or {},
        "call_time_zone": call_time_zone,
        "duplicates": duplicates,
        **options,
    }
    here, there = (f"{path.rstrip('/')}/" for path in (usage, output))
    if usage_format != "table" and there.startswith(here):
        raise OutputError(f"the output {output!r} lies in the usage {usage!r}, which a later run would read")
    if usage_format != "table" and here.startswith(there):
        raise OutputError(
            f"the usage {usage!r} lies in the output {output!r}, whose hours its own bill would replace; "
            "give another --output (rejected rows are billed there by a run over the whole usage)"
        )
    with _usage(spark, usage, usage_format, columns or {}, call_time_zone, duplicates) as mapped:
        job = Job(mapped, prices, output, source or usage.rstrip("/"), asked, period, duplicates=duplicates, **options)
        return bill_hours(spark, job)


@contextmanager
def _usage(
    spark: SparkSession,
    usage: str,
    usage_format: Optional[str],
    columns: dict[str, str],
    call_time_zone: Optional[str],
    duplicates: bool,
) -> Iterator[DataFrame]:
    """The mapped usage table, with the session settings that reading and billing it need."""
    if call_time_zone and not _ZONE.fullmatch(call_time_zone):
        raise UsageError(
            f"--call-time-zone {call_time_zone!r}: needed is a zone such as Asia/Shanghai, UTC or +08:00 "
            "(short names mean several zones: CST is one of China and one of Chicago)"
        )
    try:
        with settings(spark, {**SESSION_SETTINGS, "spark.sql.session.timeZone": call_time_zone or "UTC"}):
            source = read_usage(spark, usage, usage_format)
            yield map_columns(source, columns, call_time_zone=call_time_zone, duplicates=duplicates)
    except PySparkException as error:
        if call_time_zone and call_time_zone in str(error) and "zone" in str(error).lower():
            raise UsageError(
                f"--call-time-zone {call_time_zone!r} is no zone that Spark knows; "
                "give one such as Asia/Shanghai or +08:00"
            ) from None
        raise


def _columns(arguments: argparse.Namespace) -> dict[str, str]:
    columns = dict(arguments.column)
    if len(columns) < len(arguments.column):
        raise UsageError("the same --column is given twice; give each usage column one expression")
    return columns


def _price_list(arguments: argparse.Namespace, tokens_per_k: Optional[int] = None) -> PriceList:
    tokens_per_k = tokens_per_k or arguments.tokens_per_k
    if arguments.price_list is None:
        return PriceList.bundled(BUNDLED, currency=arguments.currency, tokens_per_k=tokens_per_k)
    prices = PriceList.from_csv(arguments.price_list, tokens_per_k=tokens_per_k)
    if prices.currency != arguments.currency:
        raise PriceListError(
            f"the price list {arguments.price_list} is in {prices.currency}, but --currency is {arguments.currency}; "
            "prices are never converted: give the list's currency, or another list"
        )
    return prices


def _period(arguments: argparse.Namespace) -> Optional[Period]:
    start, end = getattr(arguments, "from"), arguments.to
    if start is None and end is None:
        return None
    if start is None or end is None:
        raise UsageError("--from and --to belong together: both are UTC+8 hours, such as 2026-04-08T00, half open")
    try:
        return Period.parse(start, end)
    except ValueError as error:
        raise UsageError(f"--from/--to: {error}") from None


def _as_of(arguments: argparse.Namespace) -> Optional[int]:
    within, closed = arguments.adjust_within, arguments.closed_after
    if within is not None and closed is not None and within * 24 <= closed:
        raise UsageError(
            f"--adjust-within {within} days ends before --closed-after {closed} hours: no hour would ever be billed"
        )
    if arguments.as_of is None:
        return None
    if within is None and closed is None:
        raise UsageError("--as-of says as of when --closed-after and --adjust-within are meant; give one of them")
    try:
        return parse_instant(arguments.as_of)
    except ValueError as error:
        raise UsageError(f"--as-of: {error}") from None


def _need_arrow() -> None:
    try:
        import spark_billing.udfs  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"--pricing udf needs pyarrow, numpy and pandas in the cluster's Python ({error}); "
            "install them, or leave --pricing native, which needs none and gives the same bill"
        ) from None


def _say(parser: argparse.ArgumentParser, error: object, code: int) -> int:
    print(f"{parser.prog}: {' '.join(str(error).split())}", file=sys.stderr)
    return code


def _any_text_can_be_printed() -> None:
    """A name that the terminal's encoding lacks must not end a run that is already committed."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _mapping(text: str) -> tuple[str, str]:
    name, equals, expression = text.partition("=")
    if not equals or not expression.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=EXPRESSION, such as input_tokens=usage.prompt_tokens")
    return name.strip(), expression.strip()


def _count(text: str) -> int:
    if not re.fullmatch("[0-9]{1,6}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 999,999")
    return int(text)


def _parser(prog: str, description: str, epilog: str) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=prog,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"spark-billing {spark_billing.__version__}")
    return parser


def _add_usage_arguments(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """The usage, how it is read, and the prices: what every job on a usage table takes."""
    add = parser.add_argument
    add("--usage", metavar="PATH", required=required, help="a path, or a catalog table with --usage-format table")
    add("--usage-format", choices=FORMATS, help="what it is (default: by the name's ending, else parquet)")
    add("--currency", metavar="CODE", required=required, help="of the price list, such as USD or CNY; never converted")
    add("--price-list", metavar="FILE.csv", help="your own prices (default: the bundled list of --currency)")
    add(
        "--tokens-per-k",
        type=int,
        choices=(1000, 1024),
        default=1000,
        help="what K means in tier bounds (default 1000)",
    )
    add("--from", metavar="HOUR", help="first UTC+8 hour, such as 2026-04-08T00")
    add("--to", metavar="HOUR", help="the UTC+8 hour after the last one")
    add(
        "--column",
        metavar="NAME=EXPRESSION",
        type=_mapping,
        action="append",
        default=[],
        help=f"a usage column ({', '.join(MAPPABLE)}) as a Spark SQL expression over the source's columns",
    )
    add("--call-time-zone", metavar="ZONE", help="the zone of times that carry no offset, such as Asia/Shanghai")
    add("--no-dedup", action="store_true", help="count repeated request ids too; request_id is then not read")


def _hourly_bill_parser() -> argparse.ArgumentParser:
    parser = _parser(
        "hourly_bill.py",
        "Bill model calls exactly: one bill per workspace and UTC+8 hour, from a usage table with one row per call. "
        "Every row is billed or written to rejected/ with a reason, and the run proves it. What was billed before is "
        "kept in a ledger: a run adds the difference.",
        _EPILOG,
    )
    add = parser.add_argument
    add("--demo", action="store_true", help="make a usage table in a scratch folder, bill it and show the bill")
    _add_usage_arguments(parser, required=False)
    add("--output", metavar="DIR", help="where bill_lines/, bills/, rejected/ and ledger/ are written")
    add(
        "--output-catalog",
        metavar="CATALOG.NAMESPACE",
        help="instead of --output: at the namespace's location, and as its tables bill_lines, bills, rejected, ...",
    )
    add("--source", metavar="NAME", help="names the usage over time, wherever it lies (default: what --usage says)")
    add(
        "--dedup-lookback",
        metavar="HOURS",
        type=_count,
        default=24,
        help="look for repeats so many hours before and after the period, too (default 24)",
    )
    add("--closed-after", metavar="HOURS", type=_count, help="bill an hour only so long after its end")
    add("--adjust-within", metavar="DAYS", type=_count, help="report, but do not add, changes to older hours")
    add("--as-of", metavar="INSTANT", help="the time these two count from (default: now), such as 2026-04-09T00:00Z")
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
    return parser


def _history_parser() -> argparse.ArgumentParser:
    parser = _parser(
        "bill_history.py",
        "Show every line that was ever added to the bill of one workspace and hour: when, by which run, and why.",
        "example:\n  jobs/bill_history.py --output bills --workspace w-1234567890abcdef --hour 2026-04-08T10\n",
    )
    add = parser.add_argument
    add("--output", metavar="DIR", help="the folder that hourly_bill.py bills into")
    add("--output-catalog", metavar="CATALOG.NAMESPACE", help="or the namespace")
    add("--workspace", metavar="ID", required=True, help="the workspace_id, exactly")
    add("--hour", metavar="HOUR", required=True, help="the UTC+8 hour, such as 2026-04-08T10")
    return parser


def _rerate_parser() -> argparse.ArgumentParser:
    parser = _parser(
        "rerate.py",
        "Show what the same calls cost under two price lists, per workspace and model. Nothing is written.",
        """examples:
  # a new price list
  jobs/rerate.py --usage usage --currency USD --against new-prices.csv

  # what the unclear meaning of K is worth: 128K as 128,000 tokens, and as 131,072
  jobs/rerate.py --usage usage --currency USD --against-tokens-per-k 1024
""",
    )
    _add_usage_arguments(parser, required=True)
    add = parser.add_argument
    add("--against", metavar="FILE.csv", help="the other price list")
    add("--against-tokens-per-k", type=int, choices=(1000, 1024), help="the same list with another meaning of K")
    return parser


def _check_arguments(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """What argparse cannot say: which arguments the demo excludes, and which the job needs."""
    if arguments.demo:
        arguments.currency = arguments.currency or "USD"
        names = ["usage", "usage_format", "from", "to", "column", "price_list", "group_by_tag", "call_time_zone"]
        names += ["no_dedup", "detail", "source", "closed_after", "adjust_within", "as_of"]
        names += ["allow_retractions", "dry_run", "output_catalog"]
        unused = [f"--{name.replace('_', '-')}" for name in names if getattr(arguments, name)]
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
