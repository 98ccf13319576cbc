"""Calls with rivals: the same request id with other content. When one comes to light, the bill of a call may move to
another hour or become lower, and nobody has withdrawn anything.

What explains a change is only what is new since the last run, so each run's record keeps the conflicts that it found.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Optional

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_billing.hours import hour_label, parse_hour
from spark_billing.rating import REASON_CODE, cost_of, literal_rows
from spark_billing.schemas import AMOUNT, SECONDS_PER_HOUR
from spark_billing.usage import countable

_MEASURES = ("requests", "input_tokens", "output_tokens", "amount")
_STANDING = (
    "workspace_id string, period_start bigint, region string, model string, rejected boolean, requests bigint, "
    f"input_tokens bigint, output_tokens bigint, amount {AMOUNT.simpleString()}"
)
_KEPT = 1000  # rows of conflicts in one record


def conflicting_calls(checked: DataFrame) -> DataFrame:
    """The calls that have a rival of the same id with other content, billed (`rejected` false) or not, counted by
    workspace, hour, region and model: what explains why a bill moves when another copy comes to light."""
    conflict = F.col("reject") == REASON_CODE["conflicting_request"]
    ids = checked.filter(conflict).select("workspace_id", "request_id").distinct()
    rivals = checked.filter(F.col("reject").isNull() | conflict).join(ids, ["workspace_id", "request_id"], "left_semi")
    seconds = F.unix_seconds("call_time")
    tokens = {name: countable(F.col(f"{name}_tokens")) for name in ("input", "output")}
    cost = cost_of(tokens["input"] * F.col("input_nano") + tokens["output"] * F.col("output_nano"))
    return rivals.groupBy(
        "workspace_id",
        F.timestamp_seconds(seconds - F.pmod(seconds, F.lit(SECONDS_PER_HOUR))).alias("period_start"),
        "region",
        "model",
        F.col("reject").isNotNull().alias("rejected"),
    ).agg(
        F.count(F.lit(1)).alias("requests"),
        *(F.sum(count).alias(f"{name}_tokens") for name, count in tokens.items()),
        F.sum(cost).cast(AMOUNT).alias("amount"),
    )


def new_conflicts(conflicts: DataFrame, standing: Iterable[Sequence[Any]]) -> DataFrame:
    """The `conflicting_calls` that were not there at the last run, in count: only these explain a change since.
    `standing` are those of before, as `kept_conflicts` gives them."""
    names = [name for name in conflicts.columns if name not in _MEASURES]
    schema = (
        "workspace_id string, period_start bigint, region string, model string, rejected boolean, requests bigint, "
    )
    schema += "input_tokens bigint, output_tokens bigint, amount decimal(38,12)"
    rows = ({**dict(zip(conflicts.columns, row)), "period_start": parse_hour(row[1])} for row in standing)
    before = literal_rows(conflicts.sparkSession, _STANDING, rows).withColumns(
        {
            "period_start": F.timestamp_seconds("period_start"),
            **{name: (-F.col(name)).cast(conflicts.schema[name].dataType) for name in _MEASURES},
        }
    )
    both = conflicts.unionByName(before).groupBy(*names)
    since = both.agg(*(F.sum(name).cast(conflicts.schema[name].dataType).alias(name) for name in _MEASURES))
    return since.filter(F.col("requests") > 0)


def kept_conflicts(conflicts: DataFrame, first: int, after: int) -> Optional[list[list[Any]]]:
    """The `conflicting_calls` of the hours from `first` to `after` in epoch seconds, as plain values for a record, the
    hours by their names; None if they are too many to keep there."""
    hour = F.unix_seconds("period_start")
    here = conflicts.filter((hour >= first) & (hour < after)).withColumn("period_start", hour)
    rows = here.orderBy("period_start", *(name for name in here.columns if name != "period_start")).limit(_KEPT + 1)
    found = rows.collect()
    if len(found) > _KEPT:
        return None
    return [[row[0], hour_label(row[1]), *row[2:-1], f"{row[-1]:f}"] for row in found]
