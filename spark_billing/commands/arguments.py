"""The arguments of every job that reads usage: the table, how its columns are mapped, the prices, the period."""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Optional

from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession

from spark_billing.commands.files import read_text
from spark_billing.core.errors import PriceListError, UsageError
from spark_billing.core.hours import Period
from spark_billing.core.published import PRICE_LIST
from spark_billing.core.session import SESSION_SETTINGS, job_session, settings
from spark_billing.prices.price_list import PriceList
from spark_billing.usage.files import FORMATS, read_usage
from spark_billing.usage.mapping import MAPPABLE, map_columns

_ZONE = re.compile(r"UTC|Z|[+-][0-9]{2}:[0-9]{2}|[A-Za-z_]+(/[A-Za-z0-9_+-]+)+")


def add_usage_arguments(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """The usage, how it is read, and the prices: what every job on a usage table takes."""
    add = parser.add_argument
    add("--usage", metavar="PATH", required=required, help="a path, or a catalog table with --usage-format table")
    add("--usage-format", choices=FORMATS, help="what it is (default: by the name's ending, else parquet)")
    add_price_arguments(parser, required=required)
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


def add_price_arguments(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Which price list (`price_list_of`)."""
    add = parser.add_argument
    add("--currency", metavar="CODE", required=required, help="of the price list, such as USD or CNY; never converted")
    add(
        "--price-list",
        metavar="FILE.csv",
        help="your own prices, oss://... too (default: the bundled list of --currency)",
    )
    add(
        "--tokens-per-k",
        type=int,
        choices=(1000, 1024),
        default=1000,
        help="what K means in tier bounds (default 1000)",
    )


@contextmanager
def mapped_usage(
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


def columns_of(arguments: argparse.Namespace) -> dict[str, str]:
    columns = dict(arguments.column)
    if len(columns) < len(arguments.column):
        raise UsageError("the same --column is given twice; give each usage column one expression")
    return columns


def price_list_of(arguments: argparse.Namespace, tokens_per_k: Optional[int] = None) -> PriceList:
    tokens_per_k = tokens_per_k or arguments.tokens_per_k
    if arguments.price_list is None:
        return PriceList.bundled(PRICE_LIST, currency=arguments.currency, tokens_per_k=tokens_per_k)
    prices = read_prices("--price-list", arguments.price_list, tokens_per_k)
    if prices.currency != arguments.currency:
        raise PriceListError(
            f"the price list {arguments.price_list} is in {prices.currency}, but --currency is {arguments.currency}; "
            "prices are never converted: give the list's currency, or another list"
        )
    return prices


def read_prices(argument: str, path: str, tokens_per_k: int = 1000) -> PriceList:
    """A price list on the driver's disk, or by its URI (`oss://...`) on any storage that Spark knows."""
    if "://" not in path:
        return PriceList.from_csv(path, tokens_per_k=tokens_per_k)
    text = read_text(job_session("spark-billing"), argument, path)
    if "\ufffd" in text:  # what Java puts in place of bytes that are no UTF-8
        raise PriceListError(f"{path} is not UTF-8 text; save the file as CSV in UTF-8")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.rpartition("/")[2]
        copy.write_bytes(text.encode("utf-8"))
        return PriceList.from_csv(copy, tokens_per_k=tokens_per_k)


def period_of(arguments: argparse.Namespace) -> Optional[Period]:
    start, end = getattr(arguments, "from"), arguments.to
    if start is None and end is None:
        return None
    if start is None or end is None:
        raise UsageError("--from and --to belong together: both are UTC+8 hours, such as 2026-04-08T00, half open")
    try:
        return Period.parse(start, end)
    except ValueError as error:
        raise UsageError(f"--from/--to: {error}") from None


def _mapping(text: str) -> tuple[str, str]:
    name, equals, expression = text.partition("=")
    if not equals or not expression.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=EXPRESSION, such as input_tokens=usage.prompt_tokens")
    return name.strip(), expression.strip()
