"""Where a table may have a call twice: found by 8-byte hashes first, so that a clean table is never sorted by id.

The hashes only say where to look. Whether two calls are the same, and which one is billed, is decided on full content
(`usage.copies`), so hashes that happen to be equal never lose a call.
"""

from __future__ import annotations

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from spark_billing.core.columns import quoted
from spark_billing.prices.price_list import PriceList
from spark_billing.usage.calls import BILLED_BY, as_id, no_id, require_columns, typed_calls, usage_field
from spark_billing.usage.copies import IDS, CopyRule, rate_usage
from spark_billing.usage.rating import rate_calls
from spark_billing.usage.reasons import REASON_CODE

SUSPECT = "suspect_hash"
# As many as a task keeps apart in memory under Spark's own settings, so that a query needs none of ours
BUCKETS = 128
_HASHES_PER_BUCKET = 65_536
_HASHES_PER_TASK = 1_000_000  # about 30 MB of memory while a task looks through them


def find_settings(calls: int) -> dict[str, str]:
    """The session settings that `find_suspects` needs for the buckets of so many calls."""
    return {
        "spark.sql.shuffle.partitions": str(calls // _HASHES_PER_TASK + 1),
        "spark.sql.adaptive.advisoryPartitionSizeInBytes": f"{16 * _HASHES_PER_TASK}b",
        # else Spark would sort the calls by bucket once a task has met 128 of them
        "spark.sql.objectHashAggregate.sortBased.fallbackThreshold": str(2 * buckets_of(calls)),
    }


def buckets_of(calls: int) -> int:
    """How many buckets a table of so many calls is best cut into (with `find_settings`)."""
    return min(max(64, calls // _HASHES_PER_BUCKET), 1 << 20)


def find_suspects(usage: DataFrame, buckets: int = BUCKETS) -> DataFrame:
    """Each hash of (workspace_id, request_id) that more than one of the calls has, in `suspect_hash`; and a null if
    any call has no id at all.

    The hashes travel packed, as one array per bucket and task: Spark moves and compares them several times as fast as
    rows of one hash each.
    """
    found = usage.select(_hash(usage).alias("hash"))
    packed = found.groupBy(F.pmod("hash", F.lit(buckets)).alias("bucket")).agg(F.collect_list("hash").alias("hashes"))
    twice = packed.filter(F.col("bucket").isNull() | (F.size(F.array_distinct("hashes")) < F.size("hashes")))
    in_order = twice.select(F.array_sort("hashes").alias("hashes"))
    again = F.filter("hashes", lambda hash, i: (i > 0) & (F.get(F.col("hashes"), i - F.lit(1)) == hash))
    return in_order.select(F.explode_outer(F.array_distinct(again)).alias(SUSPECT))


def rate_suspects(usage: DataFrame, suspects: DataFrame, prices: PriceList, rule: CopyRule) -> DataFrame:
    """The calls with a suspect hash, rated as `copies.rate_usage` does it: the exact check, on full content."""
    calls = usage.join(suspects, _hash(usage) == F.col(SUSPECT), "left_semi")
    return rate_usage(calls, prices, rule)


def rate_others(usage: DataFrame, suspects: DataFrame, prices: PriceList) -> DataFrame:
    """All other calls rated, those without an id among them; none of these can be a repeat."""
    calls = usage.join(suspects, _hash(usage) == F.col(SUSPECT), "left_anti")
    columns = ("request_id", *BILLED_BY)
    return rate_calls(typed_calls(calls, columns), prices, columns)


def without_id(usage: DataFrame, prices: PriceList) -> DataFrame:
    """The calls without a request id, which is their `reject`; in `before` what it would be if they had one."""
    typed = typed_calls(usage.filter(no_id(_ids(usage)[1])), ("request_id", *BILLED_BY))
    rated = rate_calls(typed, prices, BILLED_BY).withColumnRenamed("reject", "before")
    return rated.withColumn("reject", F.lit(REASON_CODE["missing_request_id"]))


def repeats_of(checked: DataFrame) -> DataFrame:
    """Of calls whose copies are marked those that are not billed as such; `before` is null: alone they would be."""
    repeats = F.col("reject").isin(REASON_CODE["duplicate_request"], REASON_CODE["conflicting_request"])
    return checked.filter(repeats).withColumn("before", F.lit(None).cast("int"))


def _hash(usage: DataFrame) -> Column:
    """Null where an id is missing: such a call is rejected, and any number may be without one."""
    ids = [as_id(text) for text in _ids(usage)]
    return F.when(ids[0].isNotNull() & ids[1].isNotNull(), F.xxhash64(*ids))


def _ids(usage: DataFrame) -> list[Column]:
    require_columns(usage, IDS)
    fields = (usage_field(usage, name) for name in IDS)
    return [F.col(quoted(field.name)).cast("string") for field in fields if field is not None]
