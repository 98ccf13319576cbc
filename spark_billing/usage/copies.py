"""Calls that are in a usage table more than once: which copy is billed, and which are not.

Where to look for copies is another question (`usage.repeats`); here they are compared by their content.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Optional, get_args

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from spark_billing.core.columns import hour_of
from spark_billing.core.errors import UsageError
from spark_billing.core.hours import SECONDS_PER_HOUR
from spark_billing.core.schemas import AMOUNT, COST
from spark_billing.prices.price_list import PriceList
from spark_billing.prices.price_rows import cost_of
from spark_billing.usage.calls import BILLED_BY, countable, typed_calls
from spark_billing.usage.rating import pico_cost, rate_calls
from spark_billing.usage.reasons import REASON_CODE

IDS = ("workspace_id", "request_id")  # calls that share these are copies of one call
RIVAL = "rival"  # of a call that is left out: the other content that it is left out for
KeepCopy = Literal["fullest", "earliest", "latest"]
KEEP_COPY: tuple[KeepCopy, ...] = get_args(KeepCopy)
_MOST_HOURS = 999_999


@dataclass(frozen=True)
class CopyRule:
    """A copy is left out if a better one lies within so many hours of it. `UsageError` if there is no such rule."""

    lookback: int = 24  # hours
    keep: KeepCopy = "fullest"

    def __post_init__(self) -> None:
        hours = self.lookback
        if isinstance(hours, bool) or not isinstance(hours, int) or not 0 <= hours <= _MOST_HOURS:
            raise UsageError(
                f"dedup_lookback is {hours!r}; needed is a whole number of hours from 0 to {_MOST_HOURS:,}",
                parameter="dedup_lookback",
            )
        if self.keep not in KEEP_COPY:
            raise UsageError(
                f"keep_copy is {self.keep!r}; it says which copy of a call is billed: {', '.join(KEEP_COPY)}",
                parameter="keep_copy",
            )

    @property
    def seconds(self) -> int:
        return self.lookback * SECONDS_PER_HOUR


def rate_usage(usage: DataFrame, prices: PriceList, rule: Optional[CopyRule]) -> DataFrame:
    """Typed calls beside their `source` row, each with its `price_row`, or with the code of its reason in `reject`.
    Without a rule copies are left alone."""
    columns = BILLED_BY if rule is None else ("request_id", *BILLED_BY)
    rated = rate_calls(typed_calls(usage, columns), prices, columns)
    return rated if rule is None else mark_copies(rated, rule)


def mark_copies(rated: DataFrame, rule: CopyRule) -> DataFrame:
    """Rejects each billable call that has a better one with the same ids within the lookback, whether or not that one
    is itself rejected; of identical calls one stays. So the fate of a call hangs on the calls around it alone.

    A call that is identical to a billed one is a duplicate, any other a conflict, which has in `rival` the call that
    it is left out for: `call_time, region, model`.

    Linear, also where one id has a million copies: time is cut into buckets as wide as the lookback. All calls of a
    bucket are near each other, so that only its best can stay, and that one can be beaten only from next door, though
    not only by the best there, which may be too far away. Every frame below only grows: one that moves at both ends
    would be computed anew for each call.
    """
    reach = rule.seconds * 1_000_000
    width = max(reach, 1)
    fine, micros = F.col("reject").isNull(), F.unix_micros("call_time")
    calls = rated.withColumns(
        {
            "copy_fine": fine,
            # rejected calls only pass through: the hash spreads them, as many may share a null id
            "copy_spread": F.when(~fine, F.xxhash64("request_id", "call_time", "input_tokens", "output_tokens")),
            "copy_at": micros,
            "copy_bucket": micros - F.pmod(micros, F.lit(width)),  # where it begins
            "copy_key": _key(rated, rule.keep),
        }
    )
    of_id = [*IDS, "copy_fine", "copy_spread"]
    calls = calls.repartition(*of_id)  # once: every window below finds its calls together
    at, bucket, key = (F.col(f"copy_{name}") for name in ("at", "bucket", "key"))
    this = F.struct(bucket.alias("bucket"), key.alias("key"), at.alias("at"))
    in_bucket = Window.partitionBy(*of_id, "copy_bucket").orderBy("copy_key")
    so_far = in_bucket.rowsBetween(Window.unboundedPreceding, Window.currentRow)
    whole = in_bucket.rowsBetween(Window.unboundedPreceding, Window.unboundedFollowing)
    earlier, later = (
        Window.partitionBy(*of_id).orderBy(order).rangeBetween(Window.unboundedPreceding, -1)
        for order in (bucket.asc(), bucket.desc())
    )
    calls = calls.withColumns({"copy_place": F.row_number().over(so_far), "copy_best": F.first(this).over(so_far)})
    # of the last bucket before this the best, and of this one the best that beats it; then the same of the next bucket.
    # All calls of a bucket say the same of it, so that the last of a frame speaks for its bucket
    calls = calls.withColumn("copy_before", F.last("copy_best").over(earlier))
    before, after = F.col("copy_before"), F.col("copy_after")
    beats_before = (before["bucket"] == bucket - width) & (key < before["key"]) & (at <= before["at"] + reach)
    calls = calls.withColumn("copy_beats_before", F.first(F.when(beats_before, this), ignorenulls=True).over(whole))
    calls = calls.withColumns(
        {
            "copy_after": F.last("copy_best").over(later),
            "copy_from_after": F.last("copy_beats_before").over(later),
        }
    )
    beats_after = (after["bucket"] == bucket + width) & (key < after["key"]) & (at >= after["at"] - reach)
    calls = calls.withColumn("copy_beats_after", F.first(F.when(beats_after, this), ignorenulls=True).over(whole))
    calls = calls.withColumn("copy_from_before", F.last("copy_beats_after").over(earlier))

    best = F.col("copy_best")
    from_before, from_after = (
        F.when(F.col(side)["bucket"] == there, F.col(side))
        for side, there in (("copy_from_before", bucket - width), ("copy_from_after", bucket + width))
    )
    better = F.coalesce(from_before["key"] < from_after["key"], from_before.isNotNull())
    beaten_by = F.when(better, from_before).otherwise(from_after)
    rival = F.when(key.eqNullSafe(best["key"]), beaten_by).otherwise(best)
    calls = calls.withColumn("copy_rival", F.when(fine, rival))
    rival = F.col("copy_rival")
    same, other = (F.lit(REASON_CODE[name]) for name in ("duplicate_request", "conflicting_request"))
    reject = F.when(rival.isNotNull(), other).when(fine & (F.col("copy_place") > 1), same).otherwise(F.col("reject"))
    of_rival = {"call_time": F.timestamp_micros(rival["at"])}
    of_rival.update({name: rival["key"][name] for name in ("region", "model")})
    told = F.when(rival.isNotNull(), F.struct(*(column.alias(name) for name, column in of_rival.items())))
    names = [name for name in rated.columns if name != "reject"]
    return calls.select(*names, reject.alias("reject"), told.alias(RIVAL))


def _key(rated: DataFrame, keep: KeepCopy) -> Column:
    """What orders the copies of a call, whatever the engine: the better one is the smaller. Prices play no part."""

    def most(count: Column) -> Column:
        return F.bitwise_not(count)  # a minus that no bigint overflows

    at = F.unix_micros("call_time")
    output = F.coalesce(F.col("output_tokens"), F.lit(-1).cast("bigint"))
    fuller = {"input": most(F.col("input_tokens")), "output": most(output)}
    first = {"fullest": {**fuller, "at": at}, "earliest": {"at": at, **fuller}, "latest": {"at": most(at), **fuller}}
    rest = {name: F.col(name) for name in ("region", "model")}
    if "tags" in rated.columns:
        rest["tags"] = F.array_sort(F.map_entries("tags"))  # a map has no order of its own
    return F.struct(*(column.alias(name) for name, column in {**first[keep], **rest}.items()))


def conflicting_calls(checked: DataFrame, prices: PriceList) -> DataFrame:
    """What is left out as a conflict, by workspace, hour, region and model, and by `rival_at`: the hour of the call
    that it is left out for. Its requests, tokens and amount, as they would be billed; and on the other side, in the
    hour of that call, `beaten`: how many calls in the hour `rival_at` are left out for those of this one."""
    free = F.col("price_row").isin([n for n, price in enumerate(prices.prices) if price.output_price_per_1k is None])
    zero = F.lit(0).cast("bigint")
    rival = F.col(RIVAL)
    hour, rival_hour = (
        F.timestamp_seconds(hour_of(F.unix_seconds(at))) for at in (F.col("call_time"), rival["call_time"])
    )
    left_out = {
        "requests": F.lit(1).cast("bigint"),
        "input_tokens": countable(F.col("input_tokens")),
        "output_tokens": F.when(free, zero).otherwise(countable(F.col("output_tokens"))),
        "amount": cost_of(pico_cost("input") + pico_cost("output")),
        "beaten": zero,
    }
    beats = {**dict.fromkeys(left_out, zero), "amount": F.lit(0).cast(COST), "beaten": F.lit(1).cast("bigint")}

    def side(at: Column, region: Column, model: Column, rival_at: Column, measures: dict[str, Column]) -> Column:
        columns = {"period_start": at, "region": region, "model": model, "rival_at": rival_at, **measures}
        return F.struct(*(column.alias(name) for name, column in columns.items()))

    sides = F.array(
        side(hour, F.col("region"), F.col("model"), rival_hour, left_out),
        side(rival_hour, rival["region"], rival["model"], hour, beats),
    )
    conflicts = checked.filter(F.col("reject") == REASON_CODE["conflicting_request"])
    sums = {name: F.sum(name).cast(AMOUNT if name == "amount" else "bigint").alias(name) for name in left_out}
    by = ("workspace_id", "period_start", "region", "model", "rival_at")
    return conflicts.select("workspace_id", F.inline(sides)).groupBy(*by).agg(*sums.values())
