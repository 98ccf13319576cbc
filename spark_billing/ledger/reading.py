"""What was billed, as the ledger has it: the lines of a period, and the audit trail of one workspace and hour."""

from __future__ import annotations

from typing import Optional

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_billing.bills.lines import hourly_bills
from spark_billing.core.columns import quoted, tag_columns
from spark_billing.core.errors import UsageError
from spark_billing.core.hours import date_label, parse_hour
from spark_billing.core.schemas import LEDGER_LINES
from spark_billing.ledger.difference import net_lines
from spark_billing.ledger.ledger import Ledger
from spark_billing.ledger.stores import open_ledger


def ledger_lines(
    spark: SparkSession,
    output: Optional[str] = None,
    *,
    catalog: Optional[str] = None,
    start: Optional[str] = None,
    end: Optional[str] = None,
) -> DataFrame:
    """Every ledger line of the UTC+8 hours from `start` to before `end`, such as 2026-04-08T00 (`LEDGER_LINES`, tags).

    The ledger is in the folder `output` that the job bills into, or in the namespace `catalog`, such as `ice.billing`;
    without `start` or `end`, that side is open. The lines are verified against the records of their runs, and their
    `amount` adds up to what is owed for these hours. `UsageError` if an hour is none, `OutputError` if nothing was ever
    billed there or its ledger is damaged.

    Examples
    --------
    >>> ledger_lines(spark, output, start="2026-04-01T00", end="2026-05-01T00").groupBy("entry").count().show()
    +--------+-----+
    |   entry|count|
    +--------+-----+
    |original|    2|
    +--------+-----+
    """
    first, last = (None if text is None else _hour(text) for text in (start, end))
    return lines_between(open_ledger(spark, output, catalog), first, last)


def ledger_bill_lines(
    spark: SparkSession,
    output: Optional[str] = None,
    *,
    catalog: Optional[str] = None,
    start: Optional[str] = None,
    end: Optional[str] = None,
) -> DataFrame:
    """What is owed for some UTC+8 hours, by bill line (`BILL_LINES`, tags): the sums of `ledger_lines`, which takes the
    same arguments. It is what the table `bill_lines` of a folder says, and the view of a catalog that has views.

    Examples
    --------
    >>> ledger_bill_lines(spark, output).select("token_type", "tokens", "amount").orderBy("token_type").show()
    +----------+------+--------------+
    |token_type|tokens|        amount|
    +----------+------+--------------+
    |     input|   260|0.000035880000|
    |    output|    50|0.000017200000|
    +----------+------+--------------+
    """
    return net_lines(ledger_lines(spark, output, catalog=catalog, start=start, end=end))


def ledger_bills(
    spark: SparkSession,
    output: Optional[str] = None,
    *,
    catalog: Optional[str] = None,
    start: Optional[str] = None,
    end: Optional[str] = None,
) -> DataFrame:
    """What each workspace owes for each of some UTC+8 hours (`BILLS`): `ledger_bill_lines`, summed. It is what the
    table `bills` of a folder says, and the view of a catalog that has views.

    Examples
    --------
    >>> ledger_bills(spark, output).select("workspace_id", "requests", "amount").show()
    +------------+--------+--------------+
    |workspace_id|requests|        amount|
    +------------+--------+--------------+
    |         w-1|       1|0.000053080000|
    +------------+--------+--------------+
    """
    return hourly_bills(ledger_bill_lines(spark, output, catalog=catalog, start=start, end=end))


def lines_in_currency(ledger: Ledger, first: Optional[int], last: Optional[int]) -> DataFrame:
    """`lines_between`, of the currency that the ledger owes in: those of another one, which it was begun in, come to
    nothing, and amounts of both would be added."""
    lines = lines_between(ledger, first, last)
    return lines if ledger.last is None else lines.filter(F.col("currency") == ledger.last.price_list.currency)


def lines_between(ledger: Ledger, first: Optional[int], last: Optional[int]) -> DataFrame:
    """The lines of the hours from `first` to before `last`, in epoch seconds, as the ledger was when it was opened."""
    hours = ledger.runs.hours
    wanted = {date_label(hour) for hour in hours if (first is None or hour >= first) and (last is None or hour < last)}
    lines = ledger.lines(wanted)
    if lines is None:
        return ledger.spark.createDataFrame([], LEDGER_LINES)
    at = F.unix_seconds("period_start")
    if first is not None:
        lines = lines.filter(at >= first)
    return lines if last is None else lines.filter(at < last)


def _hour(text: str) -> int:
    try:
        return parse_hour(text)
    except ValueError as error:
        raise UsageError(str(error)) from None


def bill_history(
    spark: SparkSession, output: Optional[str] = None, *, catalog: Optional[str] = None, workspace_id: str, hour: str
) -> DataFrame:
    """The ledger lines of a workspace and a UTC+8 hour such as 2026-04-08T00, oldest first (`LEDGER_LINES` and tags).

    `output` is the folder that the job bills into, or `catalog` the namespace. The lines are verified against the
    records of their runs; their `amount` adds up to what is owed for the hour. `UsageError` if the hour is none or
    nothing was ever billed in it, `OutputError` if the ledger is damaged.
    """
    start = _hour(hour)
    ledger = open_ledger(spark, output, catalog)
    lines = ledger.lines({date_label(start)})
    if lines is None:
        raise UsageError(f"nothing was ever billed in {ledger.where} on {date_label(start)} (UTC+8)")
    wanted = (F.unix_seconds("period_start") == start) & (F.col("workspace_id") == workspace_id)
    tags = sorted(tag_columns(lines))
    order = ["run", "region", "model", "tier", "token_type", "price_per_1k", *map(quoted, tags)]
    return lines.filter(wanted).orderBy(*order)
