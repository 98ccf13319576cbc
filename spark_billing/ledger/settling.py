"""What a run adds to the ledger: the difference between what its usage says and what was billed before."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Optional

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_billing.bills.lines import lines_of_sums
from spark_billing.bills.metering import Metered
from spark_billing.core.columns import of_hours, tag_columns
from spark_billing.core.hours import date_label
from spark_billing.core.session import step
from spark_billing.ledger.conflicts import SettledConflicts, settle_conflicts
from spark_billing.ledger.difference import difference
from spark_billing.ledger.ledger import Ledger, Work
from spark_billing.ledger.line_sums import sums_by_hour
from spark_billing.ledger.run_record import AddedLines
from spark_billing.ledger.scope import Scope
from spark_billing.prices.price_list import PriceList


@dataclass(frozen=True)
class Settled:
    """What one attempt at a run adds, and what is owed with it."""

    number: int  # of the run
    run_id: str
    added: DataFrame  # ledger lines, as they were written
    lines: AddedLines  # and what they come to
    too_old: AddedLines  # what would be added to hours that are too old to adjust
    held: Optional[DataFrame]  # the ledger's lines of the same dates; None: there are none
    owed: DataFrame  # all lines of the covered hours, with the added ones
    conflicts: Optional[SettledConflicts]  # those that have come to light since the last run
    tag_columns: list[str]

    @property
    def dates(self) -> set[str]:
        """The UTC+8 dates whose bills change."""
        return {date_label(hour) for hour in self.lines.hours}


def settle(
    spark: SparkSession,
    ledger: Ledger,
    metered: Metered,
    scope: Scope,
    prices: PriceList,
    work: Work,
    run_id: str,
    started: datetime,
    billed_with: Sequence[tuple[int, int]] = (),
) -> Settled:
    """The difference of the metered usage to the ledger, written once. Other runs that belong to this one bill the
    hours `billed_with`."""
    number, closed = ledger.runs.count + 1, scope.closed
    step(spark, "read and verify the ledger")
    held = ledger.lines({date_label(hour) for hour in closed})
    held_here = None if held is None else held.join(of_hours(spark, closed), "period_start", "left_semi")
    conflicts = settle_conflicts(
        spark,
        ledger,
        metered.conflicts,
        work,
        number=number,
        run_id=run_id,
        closed=closed,
        covered=scope.covered,
        lookback=metered.lookback,
        billed_with=billed_with,
    )
    lines = lines_of_sums(metered.sums, prices)
    if scope.open_from is not None:
        lines = lines.filter(_start() < scope.open_from)
    changes = difference(lines, held_here, None if conflicts is None else conflicts.new_copies).withColumns(
        {
            "run": F.lit(number).cast("bigint"),
            "run_at": F.timestamp_seconds(F.lit(int(started.timestamp()))),
            "run_id": F.lit(run_id),
        }
    )
    tags = sorted(tag_columns(changes))
    too_old = AddedLines()
    if scope.old_until is not None and len(scope.covered) < len(closed):
        too_old = AddedLines.of(sums_by_hour(changes.filter(_start() < scope.old_until)))
        changes = changes.filter(_start() >= scope.old_until)
    step(spark, "add the difference to the ledger")
    added = work.add(run_id, changes)
    sums = AddedLines.of(sums_by_hour(added))
    owed = added
    if held_here is not None:
        still = held_here if scope.old_until is None else held_here.filter(_start() >= scope.old_until)
        owed = still.unionByName(added, allowMissingColumns=True)
    return Settled(number, run_id, added, sums, too_old, held, owed, conflicts, tags)


def rebuild_tables(
    spark: SparkSession, ledger: Ledger, settled: Settled, behind: Collection[str], work: Work
) -> Mapping[str, DataFrame]:
    """The tables of the dates that change, or are `behind` the ledger, written aside and read back; beside them the
    ledger lines they are of."""
    if not settled.dates and not any(date in ledger.runs.lines for date in behind):
        return {}
    step(spark, "rebuild the tables of the touched dates")
    of_dates = settled.added
    for held, dates in ((settled.held, settled.dates), (ledger.lines({*behind} - settled.dates), {*behind})):
        if held is not None and dates:
            before = held.filter(F.col("billing_date").cast("string").isin(*dates))
            of_dates = before.unionByName(of_dates, allowMissingColumns=True)
    tables = work.rebuild(of_dates, settled.number)
    return {"ledger": of_dates, **tables} if tables else {}


def _start() -> Column:
    return F.unix_seconds("period_start")
