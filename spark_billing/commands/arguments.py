"""The arguments that jobs share: a usage table and how its columns are mapped, prices, a period, a ledger."""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Optional

from pyspark.sql import SparkSession

from spark_billing.commands.files import read_text
from spark_billing.core.errors import PriceListError, UsageError
from spark_billing.core.hours import Period, parse_month
from spark_billing.core.published import PRICE_LIST
from spark_billing.core.session import job_session
from spark_billing.ledger.ledger import Ledger
from spark_billing.ledger.stores import open_ledger
from spark_billing.prices.price_list import PriceList
from spark_billing.usage.copies import KEEP_COPY
from spark_billing.usage.files import FORMATS
from spark_billing.usage.mapping import MAPPABLE, usage_session
from spark_billing.usage.reading import Mapped, Reading


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
    add_reading_arguments(parser)
    add("--call-time-zone", metavar="ZONE", help="the zone of times that carry no offset, such as Asia/Shanghai")
    add("--no-dedup", action="store_true", help="count repeated request ids too; request_id is then not read")
    add(
        "--dedup-lookback",
        metavar="HOURS",
        type=whole_number(0, 6),
        default=24,
        help="a copy of a call is left out if a better one lies within so many hours of it (default 24)",
    )
    add(
        "--keep-copy",
        choices=KEEP_COPY,
        default="fullest",
        help="which copy is the better one (default fullest: most input tokens, then most output tokens)",
    )


def add_reading_arguments(parser: argparse.ArgumentParser) -> None:
    """What is read of the usage, and which of its models are meant (`reading.Reading`)."""
    add = parser.add_argument
    add(
        "--where",
        metavar="PREDICATE",
        help="read only these rows: Spark SQL over the source's own columns, partitions included",
    )
    add(
        "--usage-schema",
        metavar="DDL",
        help="the columns of JSON or CSV, such as 'id string, usage struct<prompt_tokens: bigint>'; else JSON is read "
        "twice, once to find them",
    )
    add(
        "--model-alias",
        metavar="PATTERN=MODEL",
        type=_alias,
        action="append",
        default=[],
        help="a name that means a model of the list; * is any text, the first that fits wins; a model of the list is "
        "taken for another only by its name in full",
    )


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
def mapped_usage(spark: SparkSession, arguments: argparse.Namespace, prices: PriceList) -> Iterator[Mapped]:
    """The mapped usage table, with the session settings that reading and using it need."""
    reading = Reading(
        columns_of(arguments),
        arguments.call_time_zone,
        not arguments.no_dedup,
        arguments.where,
        arguments.model_alias,
        arguments.usage_format,
        arguments.usage_schema,
    )
    with usage_session(spark, arguments.call_time_zone):
        yield reading.read(spark, arguments.usage, prices)


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


def month_of(text: str) -> Period:
    """A UTC+8 month such as 2026-04; `UsageError` if it is none."""
    try:
        return Period(*parse_month(text))
    except ValueError as error:
        raise UsageError(str(error), parameter="month") from None


def whole_number(lowest: int, digits: int) -> Callable[[str], int]:
    """What argparse reads a count with: a whole number of at most so many digits, from the lowest on."""

    def read(text: str) -> int:
        if not re.fullmatch(f"[0-9]{{1,{digits}}}", text) or int(text) < lowest:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {lowest} to {10**digits - 1:,}")
        return int(text)

    return read


def add_ledger_arguments(parser: argparse.ArgumentParser) -> None:
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--output", metavar="DIR", help="the folder that hourly_bill.py bills into")
    where.add_argument("--output-catalog", metavar="CATALOG.NAMESPACE", help="or the namespace")


def ledger_of(spark: SparkSession, arguments: argparse.Namespace) -> Ledger:
    """The ledger, as it is now."""
    return open_ledger(spark, arguments.output, arguments.output_catalog)


def _alias(text: str) -> tuple[str, str]:
    pattern, equals, model = text.rpartition("=")  # a model of the list has no = in its name, a pattern may
    if not equals or not pattern.strip() or not model.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not PATTERN=MODEL, such as qwen-plus-*=qwen-plus")
    return pattern, model


def _mapping(text: str) -> tuple[str, str]:
    name, equals, expression = text.partition("=")
    if not equals or not expression.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=EXPRESSION, such as input_tokens=usage.prompt_tokens")
    return name.strip(), expression.strip()
