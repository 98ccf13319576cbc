"""Calls that are in a usage table more than once: which copy is billed, and which are not.

Where to look for copies is another question (`usage.repeats`); here they are compared by their content.
"""

from __future__ import annotations

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from spark_billing.core.columns import hour_of
from spark_billing.core.schemas import AMOUNT
from spark_billing.prices.price_list import PriceList
from spark_billing.prices.price_rows import cost_of
from spark_billing.usage.calls import BILLED_BY, PRICED_BY, countable, typed_calls
from spark_billing.usage.rating import pico_cost, rate_calls
from spark_billing.usage.reasons import REASON_CODE

IDS = ("workspace_id", "request_id")  # calls that share these are copies of one call


def rate_usage(usage: DataFrame, prices: PriceList, *, duplicates: bool) -> DataFrame:
    """Typed calls beside their `source` row, each with its `price_row`, or with the code of its reason in `reject`."""
    columns = ("request_id",) * duplicates + BILLED_BY
    rated = rate_calls(typed_calls(usage, columns), prices, columns)
    return mark_copies(rated) if duplicates else rated


def mark_copies(rated: DataFrame) -> DataFrame:
    """Of the billable copies of a call leaves one and rejects the others.

    Billed is the earliest, then the dearest, then the first by the remaining columns: the same one whatever the
    partitioning. A copy with the same content is a duplicate, any other a conflict.
    """
    fine = F.col("reject").isNull()
    content = [F.col(name) for name in PRICED_BY if name != "call_time"]
    if "tags" in rated.columns:
        content.append(F.array_sort(F.map_entries("tags")))  # a map has no order of its own
    # rejected rows only pass through: the hash spreads them, as many may share a null id
    spread = F.when(~fine, F.xxhash64("request_id", "call_time", "input_tokens", "output_tokens"))
    copies = Window.partitionBy(*IDS, fine, spread).orderBy(
        F.col("call_time"), F.when(fine, pico_cost("input") + pico_cost("output")).desc(), *content
    )
    this = F.struct(F.col("call_time"), *content)
    same, other = (F.lit(REASON_CODE[name]) for name in ("duplicate_request", "conflicting_request"))
    of_copy = F.when(this.eqNullSafe(F.first(this).over(copies)), same).otherwise(other)
    marked = F.when(fine & (F.row_number().over(copies) > 1), of_copy).otherwise(F.col("reject"))
    return rated.withColumn("reject", marked)


def conflicting_calls(checked: DataFrame) -> DataFrame:
    """The calls that have a rival of the same ids with other content, billed (`rejected` false) or not, counted by
    workspace, hour, region, model and the hour of the copy that is billed: what explains why a bill moves when another
    copy comes to light."""
    conflict = F.col("reject") == REASON_CODE["conflicting_request"]
    ids = checked.filter(conflict).select(*IDS).distinct()
    rivals = checked.filter(F.col("reject").isNull() | conflict).join(ids, list(IDS), "left_semi")
    hour = F.timestamp_seconds(hour_of(F.unix_seconds("call_time")))
    billed_at = F.max(F.when(F.col("reject").isNull(), hour)).over(Window.partitionBy(*IDS))
    by = {"period_start": hour, "rejected": F.col("reject").isNotNull(), "billed_at": billed_at}
    return (
        rivals.withColumns(by)
        .groupBy("workspace_id", "period_start", "region", "model", "rejected", "billed_at")
        .agg(
            F.count(F.lit(1)).alias("requests"),
            *(F.sum(countable(F.col(name))).alias(name) for name in ("input_tokens", "output_tokens")),
            F.sum(cost_of(pico_cost("input") + pico_cost("output"))).cast(AMOUNT).alias("amount"),
        )
    )
