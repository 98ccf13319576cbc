"""The command lines of the jobs: arguments, exit codes, and messages of one line."""

from __future__ import annotations

import argparse
import io
import logging
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from typing import Any, NoReturn, Optional

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

import spark_billing
from spark_billing.errors import LostRaceError, OutputError, PriceListError, SparkBillingError, UsageError
from spark_billing.price_list import PriceList
from spark_billing.runs import SESSION_SETTINGS, Job, Outcome, Period, bill_hours
from spark_billing.session import job_session, settings
from spark_billing.sources import FORMATS, MAPPABLE, map_columns, read_usage, spark_reason, users_error
from spark_billing.summary import summary

BILLED = 0
FAILED = 1  # nothing half-written is ever taken for a bill
REFUSED = 2  # arguments, price list, usage: nothing was written
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
  0 billed   2 arguments, price list or usage refused (nothing was written)   5 another run committed first
  1 anything else (nothing half-written is ever taken for a bill)
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(REFUSED, f"{self.prog}: {message} (see --help)\n")


def hourly_bill(argv: Optional[Sequence[str]] = None) -> int:
    """The job that turns a usage table into bills; returns its exit code."""
    parser = _hourly_bill_parser()
    arguments = parser.parse_args(argv)
    for name in ("DataFrameQueryContextLogger", "SQLQueryContextLogger"):  # PySpark's stack trace before our one line
        logging.getLogger(name).disabled = True
    _check_arguments(parser, arguments)
    _any_text_can_be_printed()
    try:
        return _run(arguments)
    except (PriceListError, UsageError, OutputError) as error:
        return _say(parser, error, REFUSED)
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


def _run(arguments: argparse.Namespace) -> int:
    prices = _price_list(arguments)
    period = _period(arguments)
    columns = dict(arguments.column)
    if len(columns) < len(arguments.column):
        raise UsageError("the same --column is given twice; give each usage column one expression")
    if arguments.pricing == "udf":
        _need_arrow()
    spark = job_session("spark-billing hourly_bill")
    if arguments.demo:
        from spark_billing import demo

        arguments.output = arguments.output or tempfile.mkdtemp(prefix="spark-billing-demo-")
        return demo.run(spark, prices, arguments.output)
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
    )
    try:
        print(summary(outcome, prices, arguments.output), flush=True)
    except BrokenPipeError:  # nobody reads it (`| head`): the bill is written all the same
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
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
    **options: Any,
) -> Outcome:
    """Read, map and bill a usage table, with the session settings that this needs and for as long as it takes."""
    wanted = {**SESSION_SETTINGS, "spark.sql.session.timeZone": call_time_zone or "UTC"}
    asked = {
        "usage": usage,
        "usage_format": usage_format,
        "columns": columns or {},
        "call_time_zone": call_time_zone,
        "duplicates": duplicates,
        **options,
    }
    if call_time_zone and not _ZONE.fullmatch(call_time_zone):
        raise UsageError(
            f"--call-time-zone {call_time_zone!r}: needed is a zone such as Asia/Shanghai, UTC or +08:00 "
            "(short names mean several zones: CST is one of China and one of Chicago)"
        )
    here, there = (f"{path.rstrip('/')}/" for path in (usage, output))
    if usage_format != "table" and there.startswith(here):
        raise OutputError(f"the output {output!r} lies in the usage {usage!r}, which a later run would read")
    if usage_format != "table" and here.startswith(there):
        raise OutputError(
            f"the usage {usage!r} lies in the output {output!r}, whose hours its own bill would replace; "
            "give another --output (rejected rows are billed there by a run over the whole usage)"
        )
    try:
        with settings(spark, wanted):
            mapped = map_columns(
                read_usage(spark, usage, usage_format),
                columns or {},
                call_time_zone=call_time_zone,
                duplicates=duplicates,
            )
            job = Job(mapped, prices, output, asked, period, duplicates=duplicates, **options)
            return bill_hours(spark, job)
    except PySparkException as error:
        if call_time_zone and call_time_zone in str(error) and "zone" in str(error).lower():
            raise UsageError(
                f"--call-time-zone {call_time_zone!r} is no zone that Spark knows; "
                "give one such as Asia/Shanghai or +08:00"
            ) from None
        raise


def _price_list(arguments: argparse.Namespace) -> PriceList:
    if arguments.price_list is None:
        return PriceList.bundled(BUNDLED, currency=arguments.currency, tokens_per_k=arguments.tokens_per_k)
    prices = PriceList.from_csv(arguments.price_list, tokens_per_k=arguments.tokens_per_k)
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


def _hourly_bill_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="hourly_bill.py",
        description="Bill model calls exactly: one bill per workspace and UTC+8 hour, from a usage table with one row "
        "per call. Every row is billed or written to rejected/ with a reason, and the run proves it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--version", action="version", version=f"spark-billing {spark_billing.__version__}")
    add("--demo", action="store_true", help="make a usage table in a scratch folder, bill it and show the bill")
    add("--usage", metavar="PATH", help="the usage table: a path, or a catalog table with --usage-format table")
    add("--usage-format", choices=FORMATS, help="what it is (default: by the name's ending, else parquet)")
    add("--output", metavar="DIR", help="where bill_lines/, bills/, rejected/ and ledger/ are written")
    add("--currency", metavar="CODE", help="of the price list, such as USD or CNY; never converted")
    add("--price-list", metavar="FILE.csv", help="your own prices (default: the bundled list of --currency)")
    add(
        "--tokens-per-k",
        type=int,
        choices=(1000, 1024),
        default=1000,
        help="what K means in tier bounds (default 1000)",
    )
    add("--from", metavar="HOUR", help="first UTC+8 hour to bill, such as 2026-04-08T00")
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
    add("--no-dedup", action="store_true", help="bill repeated request ids too; request_id is then not read")
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


def _check_arguments(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """What argparse cannot say: which arguments the demo excludes, and which the job needs."""
    if arguments.demo:
        arguments.currency = arguments.currency or "USD"
        names = ["usage", "usage_format", "from", "to", "column", "price_list", "group_by_tag", "call_time_zone"]
        names += ["no_dedup", "detail"]
        unused = [f"--{name.replace('_', '-')}" for name in names if getattr(arguments, name)]
        if unused:
            parser.error(f"--demo makes its own usage; leave out {', '.join(unused)}")
    else:
        missing = [f"--{name}" for name in ("usage", "output", "currency") if not getattr(arguments, name)]
        if missing:
            parser.error(f"{', '.join(missing)} is needed; or try --demo")
