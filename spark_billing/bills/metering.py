"""The calls of a run, counted: the one pass over the usage, and the search for repeats in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Optional

from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F
from pyspark.sql.types import NullType

from spark_billing.bills.sums import Pricing, sum_calls
from spark_billing.core.hours import FIRST_CALL, FIRST_INSTANT_US, Period
from spark_billing.core.session import settings, step
from spark_billing.prices.price_list import PriceList
from spark_billing.usage.calls import BILLED_BY, in_period, out_of_time, typed_calls, usage_field
from spark_billing.usage.copies import IDS, RIVAL, CopyRule, conflicting_calls, rate_usage
from spark_billing.usage.reasons import REASON_CODE
from spark_billing.usage.repeats import (
    SUSPECT,
    buckets_of,
    find_settings,
    find_suspects,
    rate_others,
    rate_suspects,
    repeats_of,
    without_id,
)

_SHOWN_IDS = 3
Keep = Callable[[str, DataFrame], DataFrame]  # computes a table once, for all who read it afterwards


@dataclass(frozen=True)
class Metered:
    """The usage of a run, summed."""

    rows: int  # of the usage, counted apart from the sums
    sums: DataFrame  # `sums.sum_calls`
    conflicts: Optional[DataFrame]  # `copies.conflicting_calls`, around the period too; None if no call has a copy
    usage: DataFrame  # that was summed
    prices: PriceList
    told_apart: Optional[DataFrame] = None  # the calls rated, where some are copies or have no id
    repeats: Optional[DataFrame] = None  # those of them that are left out for a copy
    lookback: int = 0  # seconds around the period in which copies were looked for

    def most_conflicts(self) -> list[Row]:
        """The first few ids with the most calls that are left out for other content, with these `copies`."""
        if self.repeats is None:
            return []
        conflicts = self.repeats.filter(F.col("reject") == REASON_CODE["conflicting_request"])
        found = conflicts.groupBy(*IDS).agg(F.count(F.lit(1)).alias("copies"))
        return found.orderBy(F.col("copies").desc(), *IDS).limit(_SHOWN_IDS).collect()

    def rated(self) -> DataFrame:
        """Every call with its price or its reason, for whoever needs the calls once more."""
        if self.told_apart is not None:
            return self.told_apart
        return rate_usage(self.usage, self.prices, None)


def meter(
    usage: DataFrame,
    prices: PriceList,
    keep: Keep,
    *,
    period: Optional[Period],
    open_from: int,
    rule: Optional[CopyRule],
    group_by_tags: Sequence[str],
    pricing: Pricing,
) -> Metered:
    """Sum the calls of a period (None: all). Copies are looked for within the lookback around it, too: all that decides
    the fate of a call of the period lies there, so it does not depend on the period. Without a rule copies are billed.
    Calls dated from the hour `open_from` on, in epoch seconds, and those before all prices and calls
    (`first_call_of`) are summed with any period: each run tells of a clock that is wrong.

    It is the plan of `lines.bill_lines`, cut where a run looks at what it has found so far.
    """
    columns = BILLED_BY if rule is None else ("request_id", *BILLED_BY)
    typed_calls(usage, columns)  # refuses columns that do not fit before any pass
    of_run, around = usage, usage
    spark = usage.sparkSession
    if period is not None:
        calls = Period(first_call_of(prices), open_from)
        of_run = of_period(usage, period, calls)
        if rule is not None:
            around = of_period(usage, Period(period.start - rule.seconds, period.end + rule.seconds), calls)

    def summed(*moved: DataFrame) -> DataFrame:
        step(spark, "sum the calls by price")
        return keep("sums", sum_calls(of_run, prices, group_by_tags, pricing, moved))

    if rule is None:
        return Metered(of_run.count(), summed(), None, of_run, prices)

    step(spark, "count the calls and look for repeats by hash")
    rows = of_run.count()
    rows_around = rows if period is None else around.count()
    with settings(spark, find_settings(rows_around)):
        suspects = keep("suspects", find_suspects(around, buckets_of(rows_around)))
    found = suspects.agg(F.count(F.lit(1)).alias("rows"), F.count(SUSPECT).alias("hashes")).collect()[0]
    if found["rows"] == 0:
        return Metered(rows, summed(), None, of_run, prices)

    step(spark, "compare the calls that share a hash")
    apart = rate_others(of_run, suspects, prices)
    # none where no call lacks an id: a scan that is saved
    nameless = [without_id(of_run, prices)] if found["rows"] > found["hashes"] else []
    if not found["hashes"]:
        return Metered(rows, summed(*nameless), None, of_run, prices, apart)
    checked = rate_suspects(around, suspects, prices, rule)
    repeats = keep("repeats", repeats_of(checked).drop("source"))
    conflicts = conflicting_calls(repeats, prices)
    if period is not None:  # its copies before and after have only had their say in which one is billed
        at = F.unix_seconds("call_time")
        inside = at.isNull() | ((at >= period.start) & (at < period.end)) | (at < calls.start) | (at >= calls.end)
        checked, repeats = checked.filter(inside), repeats.filter(inside)
    sums = summed(*nameless, repeats)
    told_apart = apart.unionByName(checked.drop(RIVAL))
    return Metered(rows, sums, conflicts, of_run, prices, told_apart, repeats, rule.seconds)


def first_call_of(prices: PriceList) -> int:
    """The instant, in epoch seconds, before which no call can be: the list has no price yet, and there was no model."""
    return min(FIRST_CALL, min(price.from_us for price in prices.prices) // 1_000_000)


def of_period(usage: DataFrame, period: Period, calls: Optional[Period] = None) -> DataFrame:
    """The calls of a period, and those without a readable time; and those dated outside of `calls`, where none can
    be."""
    field = usage_field(usage, "call_time")
    call_time, dtype = F.col("call_time"), NullType() if field is None else field.dataType
    here = in_period(call_time, dtype, period.start * 1_000_000, period.end * 1_000_000)
    if calls is not None:
        here |= out_of_time(call_time, dtype, max(calls.start * 1_000_000, FIRST_INSTANT_US), calls.end * 1_000_000)
    return usage.filter(here)
