"""Bill lines over time: what a run adds to what was billed before, what is owed now, and whose bill it would lower.

Lines are only ever added. A run computes what the usage now says, subtracts what the ledger holds for the same hours
and adds the difference: `original` lines for a workspace and hour that was never billed, else `adjustment` lines with
their reason. The sum of all lines of a key is what is owed; a corrected price reverses the old line and adds a new one.
"""

from __future__ import annotations

from typing import Optional

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from spark_billing.bills.lines import bill_sums
from spark_billing.core.columns import quoted, sums_of_lines, tag_columns
from spark_billing.core.schemas import BILL_LINES, LINE_MEASURES

ORIGINAL, ADJUSTMENT = "original", "adjustment"
REVERSED = "reversed"

# Why a line of an hour that was billed before is added
ADJUSTMENT_REASONS = (
    "price_change",  # the same calls at another price or tier: the old line reversed, and a new one
    "conflict",  # another copy of a request is billed than before
    "late_usage",  # calls that were not there before
    "withdrawn_usage",  # calls that are not there any more
    "remapped_usage",  # either of these two, where the last run has read the usage by another mapping
    "regrouped",  # the same calls at the same price under other tags
    REVERSED,  # taken back, whatever the usage says (`reversing`)
)

_HOUR = ("workspace_id", "period_start")
_MODEL = (*_HOUR, "region", "model")


def net_lines(lines: DataFrame) -> DataFrame:
    """Ledger lines -> what is owed: one line per key, the sum of its entries; what has come to nothing is left out."""
    summed = lines.groupBy(*(quoted(key) for key in _keys(lines))).agg(*sums_of_lines())
    return summed.filter(_is_something()).select(*_line_columns(lines))


def difference(
    lines: DataFrame,
    held: Optional[DataFrame],
    new_copies: Optional[DataFrame] = None,
    remapped: Optional[DataFrame] = None,
) -> DataFrame:
    """What to add to the ledger so that it says `lines`: bill lines with `entry` and `reason` (null for originals).

    `held` are the ledger's lines of the same hours (None: there are none). `new_copies` (`conflicts.SettledConflicts`)
    explain a move between hours; `remapped` are the hours (`period_start`) that were billed by another mapping before.
    """
    if held is None:
        return lines.withColumns({"entry": F.lit(ORIGINAL), "reason": F.lit(None).cast("string")})
    minus = held.select(*_line_columns(held)).withColumns({name: -F.col(name) for name in LINE_MEASURES})
    both = lines.withColumn("held", F.lit(0)).unionByName(minus.withColumn("held", F.lit(1)), allowMissingColumns=True)
    summed = both.groupBy(*(quoted(key) for key in _keys(both))).agg(*sums_of_lines(), F.max("held").alias("held"))
    # the window must see the lines that come to nothing, too: their hour was billed before
    billed_before = F.max("held").over(Window.partitionBy(*_HOUR)) == 1
    changes = summed.withColumn("billed_before", billed_before).filter(_is_something())
    if new_copies is None:
        conflicts_here = F.lit(0).cast("bigint")
    else:
        changes = changes.join(new_copies, list(_MODEL), "left")
        conflicts_here = F.coalesce(F.col("copies"), F.lit(0))
    other_mapping = F.lit(False)
    if remapped is not None:
        changes = changes.join(remapped.withColumn("remapped", F.lit(True)), "period_start", "left")
        other_mapping = F.coalesce(F.col("remapped"), F.lit(False))
    entry = F.when(F.col("billed_before"), ADJUSTMENT).otherwise(ORIGINAL)
    reason = F.when(F.col("billed_before"), _reason(conflicts_here, other_mapping))
    added = changes.withColumns({"entry": entry, "reason": reason})
    return added.select(*_line_columns(both), "entry", "reason")


def lowered_bills(added: DataFrame, explained: Optional[DataFrame] = None) -> DataFrame:
    """The workspaces and hours whose bill the added lines would lower, in calls, tokens or money.

    Columns `workspace_id, period_start, requests, input_tokens, output_tokens, amount`: the change, below 0 where
    something is taken back; `by_conflict`: it takes back no more than is `explained` (`conflicts.SettledConflicts`).
    """
    change = bill_sums(added.filter(F.col("entry") == ADJUSTMENT), *_HOUR)
    names = ("requests", "input_tokens", "output_tokens", "amount")
    lost = {name: F.lit(0).cast(change.schema[name].dataType) for name in names}
    if explained is not None:
        may_fall = explained.select(*_HOUR, *(F.col(name).alias(f"lost_{name}") for name in names))
        change = change.join(may_fall, list(_HOUR), "left")
        lost = {name: F.coalesce(F.col(f"lost_{name}"), lost[name]) for name in names}
    lower, more_than_lost = F.lit(False), F.lit(False)
    for name in names:
        lower |= F.col(name) < 0
        more_than_lost |= F.col(name) < -lost[name]
    return change.filter(lower).select(*_HOUR, *names, (~more_than_lost).alias("by_conflict"))


def _reason(conflicts_here: Column, remapped: Column) -> Column:
    """Why an hour that was billed before changes, line by line, from all changes to its workspace, region and model."""
    of_price = Window.partitionBy(*_MODEL, "token_type", "price_id", "price_per_1k")
    of_tier = Window.partitionBy(*_MODEL, "token_type", "price_id")
    of_type = Window.partitionBy(*_MODEL, "token_type")
    regrouped = (F.sum("tokens").over(of_price) == 0) & (F.sum("requests").over(of_price) == 0)
    repriced = F.min("price_per_1k").over(of_tier) != F.max("price_per_1k").over(of_tier)
    retiered = (F.sum("tokens").over(of_type) == 0) & (F.sum("requests").over(of_type) == 0)
    calls_moved = F.abs(F.sum("requests").over(of_type))
    negative = (F.col("tokens") < 0) | ((F.col("tokens") == 0) & (F.col("requests") < 0))
    return (
        F.when(regrouped, "regrouped")
        .when((conflicts_here > 0) & (calls_moved <= conflicts_here) & ~repriced, "conflict")
        .when(repriced | retiered, "price_change")
        .when(remapped, "remapped_usage")
        .when(negative, "withdrawn_usage")
        .otherwise("late_usage")
    )


def _is_something() -> Column:
    return (F.col("requests") != 0) | (F.col("tokens") != 0) | (F.col("amount") != 0)


def _keys(lines: DataFrame) -> list[str]:
    return [name for name in _names(lines) if name not in LINE_MEASURES]


def _line_columns(lines: DataFrame) -> list[str]:
    return [quoted(name) for name in _names(lines)]


def _names(lines: DataFrame) -> list[str]:
    tags = sorted(tag_columns(lines))
    return [*BILL_LINES.fieldNames(), *tags]
