"""Calls with rivals: the same request id with other content. When one comes to light, the bill of a call may move to
another hour or become lower, and nobody has withdrawn anything.

What explains a change is only what is new since the last run, so each run's record keeps the conflicts that it found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Optional

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_billing.core.columns import literal_rows
from spark_billing.core.hours import hour_label, parse_hour
from spark_billing.core.schemas import AMOUNT
from spark_billing.ledger.run_record import RunRecord

_CONFLICT_MEASURES = ("requests", "input_tokens", "output_tokens", "amount")

_STANDING = (
    "workspace_id string, period_start bigint, region string, model string, rejected boolean, "
    f"billed_at bigint, requests bigint, input_tokens bigint, output_tokens bigint, amount {AMOUNT.simpleString()}"
)

_AS_SECONDS = ("period_start", "billed_at")
_KEPT = 1000  # rows of conflicts in one record


def standing_conflicts(records: Iterable[RunRecord]) -> tuple[list[Sequence[Any]], list[tuple[int, int]]]:
    """The conflicts of copies that stand, as the last run on each hour has kept them (`kept_conflicts`); and the
    periods, in epoch seconds, whose last run had too many to keep."""
    standing: list[Sequence[Any]] = []
    unknown: list[tuple[int, int]] = []
    for record in records:
        standing = [row for row in standing if not _inside(parse_hour(row[1]), record.covered)]
        unknown = [(start, end) for start, end in unknown if not _inside(start, record.covered)]
        if record.conflicts is None:
            unknown += record.covered
        else:
            standing += record.conflicts
    return standing, unknown


def conflicts_since(conflicts: DataFrame, records: Iterable[RunRecord]) -> DataFrame:
    """The `conflicting_calls` that have come to light since the last run on their hours."""
    standing, unknown = standing_conflicts(records)
    for start, end in unknown:
        for name in _AS_SECONDS:
            hour = F.unix_seconds(name)
            conflicts = conflicts.filter((hour < start) | (hour >= end))
    return new_conflicts(conflicts, standing)


def new_conflicts(conflicts: DataFrame, standing: Iterable[Sequence[Any]]) -> DataFrame:
    """The `conflicting_calls` that were not there at the last run, in count: only these explain a change since.
    `standing` are those of before, as `kept_conflicts` gives them."""
    names = [name for name in conflicts.columns if name not in _CONFLICT_MEASURES]
    given = (dict(zip(conflicts.columns, row)) for row in standing)
    rows = ({**row, **{name: parse_hour(row[name]) for name in _AS_SECONDS}} for row in given)
    before = literal_rows(conflicts.sparkSession, _STANDING, rows).withColumns(
        {
            **{name: F.timestamp_seconds(name) for name in _AS_SECONDS},
            **{name: (-F.col(name)).cast(conflicts.schema[name].dataType) for name in _CONFLICT_MEASURES},
        }
    )
    both = conflicts.unionByName(before).groupBy(*names)
    since = both.agg(*(F.sum(name).cast(conflicts.schema[name].dataType).alias(name) for name in _CONFLICT_MEASURES))
    return since.filter(F.col("requests") > 0)


def unbilled(new: DataFrame, covered: Sequence[int]) -> DataFrame:
    """The workspaces and hours (`billed_at`) with copies that others are rejected for, of the `new_conflicts`, and that
    nobody has billed: they are new, and the run bills only the hours from the first to the last of `covered`."""
    outside = new.filter(~F.col("rejected") & ~F.unix_seconds("billed_at").between(covered[0], covered[-1]))
    return outside.select("workspace_id", "billed_at").distinct()


def kept_conflicts(conflicts: DataFrame, covered: Sequence[int]) -> Optional[list[list[Any]]]:
    """The `conflicting_calls` from the first to the last of the covered hours, in epoch seconds, as plain values for a
    record, the hours by their names; None if they are too many to keep there."""
    here = conflicts.filter(F.unix_seconds("period_start").between(covered[0], covered[-1]))
    here = here.withColumns({name: F.unix_seconds(name) for name in _AS_SECONDS})
    rows = here.orderBy("period_start", *(name for name in here.columns if name != "period_start")).limit(_KEPT + 1)
    found = rows.collect()
    if len(found) > _KEPT:
        return None
    as_text: dict[str, Callable[[Any], str]] = {**dict.fromkeys(_AS_SECONDS, hour_label), "amount": "{:f}".format}
    return [[as_text[name](row[name]) if name in as_text else row[name] for name in here.columns] for row in found]


def _inside(hour: int, periods: Iterable[tuple[int, int]]) -> bool:
    return any(start <= hour < end for start, end in periods)
