"""The calls of a run, counted: the one pass over the usage, and the search for repeats in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Optional

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_billing.bills.lines import Pricing, merge_sums, move_calls, rate_groups, sum_calls, with_measures
from spark_billing.core.hours import Period
from spark_billing.core.schemas import SECONDS_PER_HOUR
from spark_billing.core.session import settings, step
from spark_billing.ledger.conflicts import conflicting_calls
from spark_billing.prices.price_list import PriceList
from spark_billing.prices.price_rows import REASON_CODE
from spark_billing.usage.calls import BILLED_BY, in_period, typed_calls
from spark_billing.usage.checks import rate_usage
from spark_billing.usage.repeats import (
    SUSPECT,
    find_settings,
    find_suspects,
    rate_others,
    rate_suspects,
    rate_without_id,
)

Keep = Callable[[str, DataFrame], DataFrame]  # computes a table once, for all who read it afterwards


@dataclass(frozen=True)
class Metered:
    """The usage of a run, summed."""

    rows: int  # of the usage, counted apart from the sums
    sums: DataFrame  # `bills.merge_sums`
    rated: Callable[[], DataFrame]  # every call with its price or its reason, for whoever needs the calls once more
    conflicts: Optional[DataFrame]  # `conflicts.conflicting_calls`; None if no call may have a rival


def meter(
    usage: DataFrame,
    prices: PriceList,
    keep: Keep,
    *,
    period: Optional[Period],
    lookback_hours: int,
    duplicates: bool,
    group_by_tags: Sequence[str],
    pricing: Pricing,
) -> Metered:
    """Sum the calls of a period (None: all). Repeats are looked for among the calls of so many hours around it, too,
    so that which copy is billed does not depend on the period."""
    typed_calls(usage, ("request_id",) * duplicates + BILLED_BY)  # refuses columns that do not fit before any pass
    of_run, around = usage, usage
    spark = usage.sparkSession
    if period is not None:
        seconds = lookback_hours * SECONDS_PER_HOUR
        of_run, around = (
            of_period(usage, period),
            of_period(usage, Period(period.start - seconds, period.end + seconds)),
        )

    def summed(moved: Sequence[DataFrame]) -> DataFrame:
        groups = rate_groups(sum_calls(of_run, prices, group_by_tags, pricing), prices)
        for calls in moved:
            groups = move_calls(groups, with_measures(calls, prices, group_by_tags, pricing))
        step(spark, "sum the calls by price")
        return keep("sums", merge_sums(groups).filter(F.col("requests") != 0))

    def rated() -> DataFrame:
        return rate_usage(of_run, prices, duplicates=False)

    if not duplicates:
        return Metered(of_run.count(), summed(()), rated, None)

    step(spark, "count the calls and look for repeats by hash")
    rows = of_run.count()
    rows_around = rows if period is None else around.count()
    with settings(spark, find_settings(rows_around)):
        suspects = keep("suspects", find_suspects(around, rows_around))
    found = suspects.agg(F.count(F.lit(1)).alias("rows"), F.count(SUSPECT).alias("hashes")).collect()[0]
    if found["rows"] == 0:
        return Metered(rows, summed(()), rated, None)

    step(spark, "compare the calls that share a hash")
    apart, conflicts = rate_others(of_run, suspects, prices), None
    reject = F.col("reject")
    without_id = rate_without_id(of_run, prices).withColumn("before", reject)
    moved = [without_id.withColumn("reject", F.lit(REASON_CODE["missing_request_id"]))]
    if found["hashes"]:
        checked = rate_suspects(around, suspects, prices)
        conflicts = keep("conflicts", conflicting_calls(checked))
        if period is not None:  # its copies before and after have only had their say in which one is billed
            at = F.unix_seconds("call_time")
            checked = checked.filter(at.isNull() | ((at >= period.start) & (at < period.end)))
        apart = apart.unionByName(checked)
        repeats = reject.isin(REASON_CODE["duplicate_request"], REASON_CODE["conflicting_request"])
        moved.append(checked.filter(repeats).withColumn("before", F.lit(None).cast("int")))
    return Metered(rows, summed(moved), lambda: apart, conflicts)


def of_period(usage: DataFrame, period: Period) -> DataFrame:
    """The calls of a period, and those without a readable time."""
    dtype = usage.schema["call_time"].dataType
    return usage.filter(in_period(F.col("call_time"), dtype, period.start * 1_000_000, period.end * 1_000_000))
