"""What the bills leave out for other copies of the same call. When a better copy comes to light, a bill may become
lower, and nobody has withdrawn anything.

What explains a fall is only what is left out since the last run: so the ledger keeps, beside the bill lines and like
them by differences, what is left out in each workspace and hour (`schemas.LEFT_OUT`), for any number of copies.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Optional

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_billing.core.columns import billing_date, literal_rows, of_hours
from spark_billing.core.hours import SECONDS_PER_DAY, SECONDS_PER_HOUR, UTC8_SECONDS, date_label, ranges
from spark_billing.core.schemas import LEFT_OUT
from spark_billing.core.session import step
from spark_billing.ledger.earlier_conflicts import MEASURES
from spark_billing.ledger.ledger import Ledger, Work
from spark_billing.ledger.line_sums import sums_by_date
from spark_billing.ledger.run_record import LineSums

_KEY = ("workspace_id", "period_start", "region", "model", "rival_at")
_ALL = (*MEASURES, "beaten")
_EARLIER = ", ".join(
    ["workspace_id string, region string, model string, period_start bigint, rival_at bigint"]
    + [f"{name} {LEFT_OUT[name].dataType.simpleString()}" for name in _ALL]
)


@dataclass(frozen=True)
class SettledConflicts:
    """What has come to be left out since the last run on the hours of this one."""

    new_copies: DataFrame  # by workspace, hour, region and model: `copies`, left out or billed in place of others
    explained: DataFrame  # by workspace and hour: by how much the bill may fall, in each measure of a bill
    unbilled: DataFrame  # the hours (`hour`, in epoch seconds) with copies that win, but that nobody has billed
    added: Mapping[str, LineSums] = field(default_factory=dict)  # the rows of the run by UTC+8 date
    untold: int = 0  # hours of which an earlier version told nothing, so that nothing explains why they fall


def settle_conflicts(
    spark: SparkSession,
    ledger: Ledger,
    now: Optional[DataFrame],
    work: Work,
    *,
    number: int,
    run_id: str,
    closed: Sequence[int],
    covered: Sequence[int],
    lookback: int,
    billed_with: Sequence[tuple[int, int]] = (),
) -> Optional[SettledConflicts]:
    """What is left out `now` (`copies.conflicting_calls`) against what the ledger says, written once; None if neither
    has any. `lookback` is in seconds; other runs that belong to this one bill the hours `billed_with`."""
    if not closed:
        return None
    known = ledger.left_out(_dates_around(closed, lookback))
    earlier = ledger.runs.earlier
    here = set(closed)
    near = [row for row in earlier.rows if row["period_start"] in here]
    if now is None and known is None and not near:
        return None
    step(spark, "compare the conflicts with those of the ledger")
    before = literal_rows(spark, _EARLIER, map(dict, near)).withColumns(
        {name: F.timestamp_seconds(name) for name in ("period_start", "rival_at")}
    )
    # exactly these hours: one in between that the usage has no row of stays as it is, like its bill
    changes = _changes(now, known, before).join(of_hours(spark, closed), "period_start", "left_semi")
    changes = work.keep(f"conflicts-{run_id}", changes)
    added: Mapping[str, LineSums] = {}
    if covered:
        added = _add(work, changes, number=number, run_id=run_id, covered=covered)
    billed = [(covered[0], covered[-1] + SECONDS_PER_HOUR), *billed_with] if covered else list(billed_with)
    unknown = ranges(sorted(earlier.unknown & here))
    told = changes.filter(~_within("period_start", unknown))
    pairs = _pairs(told, known, billed)
    unbilled = pairs.filter(F.col("unbilled") & (F.col("requests") > 0))
    return SettledConflicts(
        new_copies=_new_copies(told),
        explained=_explained(pairs),
        unbilled=unbilled.select(F.unix_seconds("rival_at").alias("hour")).distinct(),
        added=added,
        untold=len(earlier.unknown & here),
    )


def _changes(now: Optional[DataFrame], known: Optional[DataFrame], earlier: DataFrame) -> DataFrame:
    """By `_KEY`: what has changed in each measure since the last run, what to add to the ledger's rows for that
    (`add_...`: they know nothing of what earlier versions told), and how many requests are left out now."""
    parts = []
    for rows, is_row, is_now in ((now, True, True), (known, True, False), (earlier, False, False)):
        if rows is not None:
            signed = {name: F.col(name) if is_now else -F.col(name) for name in _ALL}
            kind = F.lit(is_row).alias("is_row"), F.lit(is_now).alias("is_now")
            parts.append(rows.select(*_KEY, *(column.alias(name) for name, column in signed.items()), *kind))
    both = reduce(DataFrame.unionByName, parts)

    def total(name: str, of: Column) -> Column:
        dtype = LEFT_OUT[name].dataType
        return F.sum(F.when(of, F.col(name)).otherwise(F.lit(0).cast(dtype))).cast(dtype)

    sums = [total(name, F.lit(True)).alias(name) for name in _ALL]
    sums += [total(name, F.col("is_row")).alias(f"add_{name}") for name in _ALL]
    return both.groupBy(*_KEY).agg(*sums, total("requests", F.col("is_now")).alias("left_out_now"))


def _add(work: Work, changes: DataFrame, *, number: int, run_id: str, covered: Sequence[int]) -> Mapping[str, LineSums]:
    """Add the changes of the covered hours to the ledger's rows; what they come to, by date."""
    something = F.lit(False)
    for name in _ALL:
        something |= F.col(f"add_{name}") != 0
    here = changes.filter(something & F.unix_seconds("period_start").between(covered[0], covered[-1]))
    of_run = {
        **{name: F.col(f"add_{name}") for name in _ALL},
        "billing_date": billing_date(F.unix_seconds("period_start")),
        "run": F.lit(number).cast("bigint"),
        "run_id": F.lit(run_id),
    }
    rows = here.withColumns(of_run).select(*LEFT_OUT.fieldNames())
    return sums_by_date(work.leave_out(run_id, rows))


def _pairs(changes: DataFrame, known: Optional[DataFrame], billed: Sequence[tuple[int, int]]) -> DataFrame:
    """The changes by workspace, hour and `rival_at`, and whether the copies there are `unbilled`: not in hours that are
    billed now, and not known when those were billed before."""
    # the same calls at other prices explain nothing
    moved = (F.col("requests") != 0) | (F.col("input_tokens") != 0) | (F.col("output_tokens") != 0)
    of_moved = F.when(moved, F.col("amount")).otherwise(F.lit(0).cast(LEFT_OUT["amount"].dataType))
    pair = ("workspace_id", "period_start", "rival_at")
    sums = [F.sum(name).alias(name) for name in ("left_out_now", *MEASURES)]
    pairs = changes.withColumn("amount", of_moved).groupBy(*pair).agg(*sums)
    if known is None:
        pairs = pairs.withColumn("known", F.lit(0).cast("bigint"))
    else:
        # from the other side: what the runs on the hours of the better copies knew
        sides = {"workspace_id": "workspace_id", "rival_at": "period_start", "period_start": "rival_at"}
        seen = known.filter(~_within("period_start", billed)).select(
            *(F.col(name).alias(side) for side, name in sides.items()), "beaten"
        )
        pairs = pairs.join(seen.groupBy(*pair).agg(F.sum("beaten").alias("known")), list(pair), "left")
    unknown = F.col("left_out_now") > F.coalesce(F.col("known"), F.lit(0))
    return pairs.withColumn("unbilled", unknown & ~_within("rival_at", billed))


def _explained(pairs: DataFrame) -> DataFrame:
    """By how much a bill may fall in each measure: what is left out more than before, of all pairs of hours together.
    A call whose better copy is in no bill is no excuse: it would be in none."""
    counted = {}
    for name in MEASURES:
        zero = F.lit(0).cast(pairs.schema[name].dataType)
        counted[name] = F.when(F.col("unbilled"), F.least(F.col(name), zero)).otherwise(F.col(name))
    sums = [F.greatest(F.sum(name), F.lit(0)).alias(name) for name in MEASURES]
    return pairs.withColumns(counted).groupBy("workspace_id", "period_start").agg(*sums)


def _new_copies(changes: DataFrame) -> DataFrame:
    """The copies that were not left out, or not billed in place of others, at the last run."""
    copies = sum((F.greatest(F.col(name), F.lit(0)) for name in ("requests", "beaten")), F.lit(0))
    by = ("workspace_id", "period_start", "region", "model")
    return changes.groupBy(*by).agg(F.sum(copies).alias("copies")).filter(F.col("copies") > 0)


def _within(hour: str, periods: Iterable[tuple[int, int]]) -> Column:
    """Whether a time lies in one of some periods, in epoch seconds."""
    seconds, within = F.unix_seconds(hour), F.lit(False)
    for start, end in periods:
        within |= (seconds >= start) & (seconds < end)
    return within


def _dates_around(hours: Sequence[int], seconds: int) -> set[str]:
    """The UTC+8 dates of some hours, and those that lie so many seconds around them."""
    days = {(hour + UTC8_SECONDS) // SECONDS_PER_DAY for hour in hours}
    around = -(-seconds // SECONDS_PER_DAY)
    near = {day + moved for day in days for moved in range(-around, around + 1)}
    return {date_label(day * SECONDS_PER_DAY - UTC8_SECONDS) for day in near}
