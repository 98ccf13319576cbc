"""The job that compares the ledger with the provider's bill."""

from __future__ import annotations

import argparse
import json

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_billing.commands.arguments import add_ledger_arguments, ledger_of, month_of, read_prices
from spark_billing.commands.command import DONE, UNEXPLAINED, Command, say
from spark_billing.commands.files import read_text, write_lines
from spark_billing.core.errors import OutputError, UsageError
from spark_billing.core.hours import Period, hour_label, hour_number
from spark_billing.core.money import money
from spark_billing.core.published import AMOUNT_DECIMALS, CENT, PRICE_LIST
from spark_billing.core.session import SESSION_SETTINGS, job_session, settings
from spark_billing.core.storage import Storage
from spark_billing.focus.files import CSV, as_text
from spark_billing.ledger.reading import ledger_lines, lines_in_currency
from spark_billing.prices.price_list import PriceList
from spark_billing.provider.causes import reconcile
from spark_billing.provider.comparison import summarize
from spark_billing.provider.files import read_bill
from spark_billing.provider.mapping import BillMapping
from spark_billing.provider.printed import printed_comparison
from spark_billing.provider.rows import provider_bill
from spark_billing.provider.schemas import ADDEND

_EXAMPLES = """
examples:
  # a month, from the pages of DescribeInstanceBill (Granularity DAILY, IsBillingItem true)
  {prog} --output bills --month 2026-05 --provider describe-instance-bill.json --mapping mapping.toml

  # as a table for every difference, and for the report
  {prog} --output bills --month 2026-05 --provider bill.csv --mapping mapping.toml \\
      --differences differences --format csv --summary reconciliation.json

the mapping, for DescribeInstanceBill (made-up codes: look them up in your bill):
  layout = "describe-instance-bill"   # or focus, or table with all of [columns]
  grain = "day"                       # what period a row is of: hour, day, month
  ignore_items = ["emr_spark_cu"]     # codes of other products on the same bill
  [items]
  qwen_plus_in_128k = { model = "qwen-plus", token_type = "input", tier = "0-128K" }
  [units]
  "1K tokens" = 1000                  # tokens in a unit of Usage
  [workspaces]
  "emr-instance-1" = "w-1234567890abcdef"
  [columns]                           # where the bill has other names, Spark SQL expressions
  vouchers = "cast(DeductedByCoupons as decimal(28,10)) + cast(DeductedByCashCoupons as decimal(28,10))"

exit codes:
  0 no difference, or each has its cause
  2 arguments, ledger, mapping or provider's bill refused
  3 a difference is unexplained
  1 anything else
"""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_ledger_arguments(parser)
    add = parser.add_argument
    add("--provider", metavar="PATH", required=True, help="the provider's bill: JSON, CSV, Parquet, or a table")
    add("--provider-format", choices=("json", "csv", "parquet", "table"), help="(default: by the name, else parquet)")
    add("--mapping", metavar="FILE", required=True, help="what its words mean, as TOML or JSON; see below")
    when = parser.add_mutually_exclusive_group(required=True)
    when.add_argument("--month", help="the UTC+8 month to compare, such as 2026-05")
    when.add_argument("--from", metavar="HOUR", help="or its first UTC+8 hour, such as 2026-05-01T00, and")
    add("--to", metavar="HOUR", help="the UTC+8 hour after the last one")
    add("--price-list", metavar="FILE.csv", help="your own prices (default: the bundled list of the ledger's currency)")
    add("--other-output", metavar="DIR", help="the same usage billed with the other --tokens-per-k, to recognise that")
    add(
        "--decimals",
        type=int,
        choices=range(2, 13),
        default=AMOUNT_DECIMALS,
        metavar="N",
        help="of the provider's amounts: a row may be less than one unit of the last off (default 10)",
    )
    add("--tokens-tolerance", type=int, default=0, metavar="N", help="tokens that a quantity may be off (default 0)")
    add("--differences", metavar="DIR", help="write every difference there: a folder that is not there yet")
    add("--format", choices=("parquet", "csv"), default="parquet", help="of these files (default parquet)")
    add("--summary", metavar="FILE.json", help="write the totals and causes there, for the report")


def _run(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    if arguments.tokens_tolerance < 0:
        raise UsageError("--tokens-tolerance is negative; give a number of tokens, 0 or more")
    spark = job_session("spark-billing reconcile")
    with settings(spark, SESSION_SETTINGS):
        mapping = BillMapping.parse(arguments.mapping, read_text(spark, "--mapping", arguments.mapping))
        period = _period_to_compare(arguments, mapping.grain)
        if arguments.differences and Storage(spark, arguments.differences).exists("."):
            raise OutputError(f"--differences {arguments.differences} is there already; give a new folder")
        span = {"start": hour_label(period.start), "end": hour_label(period.end)}
        lines = lines_in_currency(ledger_of(spark, arguments), period.start, period.end)
        other = ledger_lines(spark, arguments.other_output, **span) if arguments.other_output else None
        bill = read_bill(spark, arguments.provider, arguments.provider_format)
        rows = provider_bill(bill, mapping)
        at = F.unix_seconds("period_start")
        inside = (at >= period.start) & (at < period.end)
        provider = rows.filter(inside)
        differences = reconcile(
            lines,
            provider,
            prices=_prices(arguments, lines, provider),
            grain=mapping.grain,
            other_lines=other,
            decimals=arguments.decimals,
            tokens_tolerance=arguments.tokens_tolerance,
        ).cache()
        try:
            found = summarize(lines, provider, differences, mapping.grain)
            outside = rows.filter(~inside).agg(F.count(F.lit(1)), F.sum(F.col("amount").cast(ADDEND)))
            left_out = outside.collect()[0]
            if arguments.differences:
                _write(differences, arguments.differences, arguments.format)
        finally:
            differences.unpersist()
        if arguments.summary:
            write_lines(spark, "--summary", arguments.summary, [json.dumps(found.as_json(), indent=2)])
    say(f"{period}, UTC+8")
    say("\n".join(printed_comparison(found)))
    say(f"\n{_tolerances(arguments, mapping.grain)}")
    if left_out[0]:
        say(f"{left_out[0]:,} rows of the provider's bill ({money(left_out[1])}) are of other periods: left out.")
    return DONE if found.explained else UNEXPLAINED


def _period_to_compare(arguments: argparse.Namespace, grain: str) -> Period:
    start, end = getattr(arguments, "from"), arguments.to
    try:
        if arguments.month is not None:
            if end is not None:
                raise ValueError("--month is a whole month; leave --to out")
            return month_of(arguments.month)
        if end is None:
            raise ValueError("--from needs --to, the UTC+8 hour after the last one")
        period = Period.parse(start, end)
    except ValueError as error:
        raise UsageError(str(error)) from None
    for edge in (period.start, period.end):
        label = hour_label(edge)
        of_day = hour_number(edge) % 24 == 0
        if (grain != "hour" and not of_day) or (grain == "month" and label[8:10] != "01"):
            raise UsageError(f"{label} is within a {grain}, and the provider's rows are of whole ones; move the edge")
    return period


def _prices(arguments: argparse.Namespace, *sides: DataFrame) -> PriceList:
    if arguments.price_list:
        return read_prices("--price-list", arguments.price_list)
    rows = (side.select("currency").first() for side in sides)
    return PriceList.bundled(PRICE_LIST, currency=next((row[0] for row in rows if row is not None), "USD"))


def _write(differences: DataFrame, to: str, file_format: str) -> None:
    one = differences.coalesce(1)  # they are few; in one file a person finds them
    if file_format == "csv":
        as_text(one).write.options(**CSV).csv(to)
    else:
        one.write.parquet(to)


def _tolerances(arguments: argparse.Namespace, grain: str) -> str:
    cent = f", or of a month less than {CENT} below ours" if grain == "month" else ""
    return (
        f"Taken for rounding: less than 10^-{arguments.decimals} for each row of the provider's bill{cent}. "
        f"Quantities may be {arguments.tokens_tolerance:,} tokens off."
    )


reconcile_bill = Command(
    name="reconcile",
    job="reconcile_bill.py",
    description="Compare what was billed with the provider's bill, by the finest grain that both have. Every "
    "difference gets one cause, and the differences add up to the total difference; discounts and vouchers are kept "
    "apart from the list price.",
    examples=_EXAMPLES,
    add_arguments=_add_arguments,
    run=_run,
    cannot="the bills cannot be compared",
)
