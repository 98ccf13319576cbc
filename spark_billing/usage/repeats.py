"""Where a table may have a request twice: found by 8-byte hashes first, so that a clean table is never sorted by id.

The hashes only say where to look. Whether two calls are the same request, and which one is billed, is decided on full
content (`usage.check_usage`), so hashes that happen to be equal never lose a call.
"""

from __future__ import annotations

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from spark_billing.prices.price_list import PriceList
from spark_billing.usage.calls import BILLED_BY, quoted, typed_calls, usage_field
from spark_billing.usage.checks import rate_calls, rate_usage

SUSPECT = "suspect_hash"

_HASHES_PER_BUCKET = 65_536
_HASHES_PER_TASK = 1_000_000  # about 30 MB of memory while a task looks through them


def find_settings(calls: int) -> dict[str, str]:
    """The session settings that `find_suspects` needs for a table of so many calls."""
    return {
        "spark.sql.shuffle.partitions": str(calls // _HASHES_PER_TASK + 1),
        "spark.sql.adaptive.advisoryPartitionSizeInBytes": f"{16 * _HASHES_PER_TASK}b",
        # else Spark would sort the calls by bucket once a task has met 128 of them
        "spark.sql.objectHashAggregate.sortBased.fallbackThreshold": str(2 * _buckets(calls)),
    }


def find_suspects(usage: DataFrame, calls: int) -> DataFrame:
    """Each hash of (workspace_id, request_id) that more than one of the calls has, in `suspect_hash`; and a null if
    any call has no id at all.

    The hashes travel packed, as one array per bucket and task: Spark moves and compares them several times as fast as
    rows of one hash each.
    """
    found = usage.select(_hash(usage).alias("hash"))
    buckets = found.groupBy(F.pmod("hash", F.lit(_buckets(calls))).alias("bucket")).agg(
        F.collect_list("hash").alias("hashes")
    )
    twice = buckets.filter(F.col("bucket").isNull() | (F.size(F.array_distinct("hashes")) < F.size("hashes")))
    in_order = twice.select(F.array_sort("hashes").alias("hashes"))
    again = F.filter("hashes", lambda hash, i: (i > 0) & (F.get(F.col("hashes"), i - F.lit(1)) == hash))
    return in_order.select(F.explode_outer(F.array_distinct(again)).alias(SUSPECT))


def rate_suspects(usage: DataFrame, suspects: DataFrame, prices: PriceList) -> DataFrame:
    """The calls with a suspect hash, rated as `usage.rate_usage` does it: the exact check, on full content."""
    calls = usage.join(suspects, _hash(usage) == F.col(SUSPECT), "left_semi")
    return rate_usage(calls, prices, duplicates=True)


def rate_others(usage: DataFrame, suspects: DataFrame, prices: PriceList) -> DataFrame:
    """All other calls rated, those without an id among them; none of these can be a repeat."""
    calls = usage.join(suspects, _hash(usage) == F.col(SUSPECT), "left_anti")
    columns = ("request_id", *BILLED_BY)
    return rate_calls(typed_calls(calls, columns), prices, columns)


def rate_without_id(usage: DataFrame, prices: PriceList) -> DataFrame:
    """The calls without a request id, rated as if they had one."""
    typed = typed_calls(usage, ("request_id", *BILLED_BY))
    return rate_calls(typed.filter(F.coalesce(F.col("request_id"), F.lit("")) == ""), prices, BILLED_BY)


def _hash(usage: DataFrame) -> Column:
    """Null where an id is missing: such a call is rejected, and any number may be without one."""
    ids = [F.col(quoted(usage_field(usage, name).name)).cast("string") for name in ("workspace_id", "request_id")]  # type: ignore[union-attr]
    return F.when((ids[0] != "") & (ids[1] != ""), F.xxhash64(*ids))


def _buckets(calls: int) -> int:
    return min(max(64, calls // _HASHES_PER_BUCKET), 1 << 20)
