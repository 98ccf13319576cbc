"""A way back from a wrong run: what it added, or what is owed, taken back by the opposite lines. No usage is needed.

What the runs have left out as conflicts goes with the lines: else the guard would think that copies of calls are in
bills that are there no more. So a later run over the right usage bills these hours as if for the first time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Optional

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from spark_billing.bills.control_totals import TOKEN_COLUMNS, balance
from spark_billing.core.columns import tag_columns
from spark_billing.core.errors import OutputError, TotalsError, UsageError
from spark_billing.core.hours import Period, date_label, hour_label
from spark_billing.core.money import add
from spark_billing.core.schemas import LEFT_OUT, LINE_MEASURES
from spark_billing.core.session import step
from spark_billing.core.text import printable
from spark_billing.ledger.billing import reason_of
from spark_billing.ledger.difference import ADJUSTMENT, REVERSED, net_lines
from spark_billing.ledger.earlier_conflicts import MEASURES
from spark_billing.ledger.ledger import Store
from spark_billing.ledger.line_sums import sums_by_date, sums_by_hour
from spark_billing.ledger.proof import guard, prove_bills, sums_of_bills
from spark_billing.ledger.publishing import Touched
from spark_billing.ledger.run import Outcome
from spark_billing.ledger.run_record import AddedLines, LineSums, RunRecord
from spark_billing.ledger.settling import Settled, rebuild_tables
from spark_billing.ledger.usageless import Attempt, Done, nothing_read, run_without_usage

_KEY = ("workspace_id", "region", "model", "period_start", "billing_date", "rival_at")
_COUNTS = (*MEASURES, "beaten")


@dataclass(frozen=True)
class Reversal:
    """What is taken back: what a run has added, or else what is owed in a period, by a workspace, or at all."""

    run: Optional[int] = None
    period: Optional[Period] = None
    workspace: Optional[str] = None

    def __str__(self) -> str:
        if self.run is not None:
            return f"what run {self.run} has added"
        of = [] if self.workspace is None else [f"by {printable(self.workspace)}"]
        of += [] if self.period is None else [f"for {self.period} (UTC+8)"]
        return f"what is owed {' '.join(of)}".rstrip() if of else "all that is owed"

    def asked(self) -> dict[str, Any]:
        """As it stands in the record."""
        period = self.period and {"from": hour_label(self.period.start), "to": hour_label(self.period.end)}
        return {"action": "reverse", "run": self.run, "period": period, "workspace": self.workspace}


def reverse(store: Store, what: Reversal, *, reason: Optional[str], dry_run: bool = False) -> Optional[Outcome]:
    """Take it back, as a run of its own; None if it comes to nothing already.

    `UsageError` if there never was such a thing, `OutputError` if bills would fall below zero, `TotalsError` if what is
    owed then is not nothing (of a run: the total less what it added).
    """
    if what.run is not None and (what.period is not None or what.workspace is not None):
        raise UsageError("a run is reversed whole: give either the run, or a period and a workspace", parameter="run")
    if not reason_of(reason):
        raise UsageError("reason is needed: say in your words why this is reversed", parameter="reason")
    asked = what.asked()
    return run_without_usage(
        store, lambda attempt: _reverse(attempt, what), arguments=asked, reason=reason_of(reason), dry_run=dry_run
    )


def _reverse(attempt: Attempt, what: Reversal) -> Optional[Done]:
    ledger, work, spark = attempt.ledger, attempt.work, attempt.ledger.spark
    step(spark, "read and verify the ledger")
    of_run = _record_of(attempt, what.run)
    hours = [hour for hour in ledger.runs.hours if _is_of(what, of_run, hour)]
    held = ledger.lines({date_label(hour) for hour in hours})
    if held is None:
        if of_run is not None:
            return None
        raise UsageError(f"nothing was ever billed for {what.period} (UTC+8) into {ledger.where}", parameter="period")
    tags = sorted(tag_columns(held))
    here = held.filter(_rows_of(what))
    if what.workspace is not None and here.isEmpty():
        raise UsageError(
            f"nothing was ever billed to {what.workspace!r} there. Give the workspace_id exactly.",
            parameter="workspace",
        )
    opposite = net_lines(here).withColumns({name: -F.col(name) for name in LINE_MEASURES})
    changes = opposite.withColumns(
        {
            "entry": F.lit(ADJUSTMENT),
            "reason": F.lit(REVERSED),
            "run": F.lit(attempt.number).cast("bigint"),
            "run_at": F.timestamp_seconds(F.lit(int(attempt.at.timestamp()))),
            "run_id": F.lit(attempt.run_id),
        }
    )
    step(spark, "add the opposite lines to the ledger")
    added = work.add(attempt.run_id, changes)
    lines = AddedLines.of(sums_by_hour(added))
    left_out = _take_back_left_out(attempt, what, of_run)
    if not lines.hours and not left_out:
        return None
    owed = (held if of_run is not None else here).unionByName(added, allowMissingColumns=True)
    _require_right(attempt, what, of_run, owed, lines)
    settled = Settled(
        attempt.number, attempt.run_id, added, lines, AddedLines(), held, owed, None, tags if lines.hours else []
    )
    tables = rebuild_tables(spark, settled, work)
    step(spark, "prove the totals from what was written")
    before, taken = sums_of_bills(held), sums_of_bills(here)
    stays = {name: before[name] - taken[name] if of_run is not None else 0 for name in ("requests", *TOKEN_COLUMNS)}
    prove_bills(0, owed, tables, {"read": {"requests": 0}, "charged": stays})
    currency = attempt.last.price_list.currency
    lowered = guard(added, lines.reasons, None, currency, may_lower=True) if lines.hours else []
    record = attempt.record(
        tag_columns=settled.tag_columns, left_out=left_out, ledger=lines, totals=nothing_read(currency)
    )
    return Done(Outcome(record, (), (), lowered), Touched(settled.dates, (), without_time=False))


def _record_of(attempt: Attempt, number: Optional[int]) -> Optional[RunRecord]:
    if number is None:
        return None
    if not 1 <= number <= attempt.ledger.runs.count:
        raise UsageError(
            f"{attempt.ledger.where} has the runs 1 to {attempt.ledger.runs.count}, and no run {number}",
            parameter="run",
        )
    return attempt.ledger.records([number])[number]


def _is_of(what: Reversal, of_run: Optional[RunRecord], hour: int) -> bool:
    if of_run is not None:
        return hour in of_run.ledger.hours or date_label(hour) in (of_run.left_out or {})
    return what.period is None or what.period.start <= hour < what.period.end


def _rows_of(what: Reversal) -> Column:
    """Which rows of a ledger, lines or what was left out, are reversed."""
    rows, seconds = F.lit(True), F.unix_seconds("period_start")
    if what.run is not None:
        rows &= F.col("run") == F.lit(what.run).cast("bigint")
    if what.period is not None:
        rows &= (seconds >= what.period.start) & (seconds < what.period.end)
    if what.workspace is not None:
        rows &= F.col("workspace_id") == what.workspace
    return rows


def _take_back_left_out(attempt: Attempt, what: Reversal, of_run: Optional[RunRecord]) -> Mapping[str, LineSums]:
    """Add the opposite of what was left out; what that comes to, by date. Of a run no more than is still left out."""
    dates = set(attempt.ledger.runs.left_out)
    if of_run is not None:
        dates = set(of_run.left_out or {})
    elif what.period is not None:
        first, last = date_label(what.period.start), date_label(what.period.end - 1)
        dates = {date for date in dates if first <= date <= last}
    known = attempt.ledger.left_out(dates)
    if known is None:
        return {}
    here = known.withColumn("here", _rows_of(what))
    sums = []
    for name in _COUNTS:
        dtype = LEFT_OUT[name].dataType
        of_here = F.sum(F.when(F.col("here"), F.col(name)).otherwise(F.lit(0).cast(dtype))).cast(dtype)
        sums.append(F.least(of_here, F.sum(name).cast(dtype)).alias(name))
    net = here.groupBy(*_KEY).agg(*sums)
    something = F.lit(False)
    for name in _COUNTS:
        something |= F.col(name) != 0
    rows = net.filter(something).withColumns(
        {
            **{name: -F.col(name) for name in _COUNTS},
            "run": F.lit(attempt.number).cast("bigint"),
            "run_id": F.lit(attempt.run_id),
        }
    )
    return sums_by_date(attempt.work.leave_out(attempt.run_id, rows.select(*LEFT_OUT.fieldNames())))


def _require_right(
    attempt: Attempt, what: Reversal, of_run: Optional[RunRecord], owed: DataFrame, lines: AddedLines
) -> None:
    """That nothing is owed any more of what is reversed; of a run, that the total is less by what it has added, and no
    line below zero."""
    ledger, net = attempt.ledger, net_lines(owed)
    if of_run is None:
        left = net.limit(1).collect()
        if left:
            raise TotalsError(f"{what} is not taken back: {left[0]} would stay. Nothing was written; run it again.")
        if what.workspace is None:
            for hour, sums in lines.hours.items():
                balance(hour_label(hour), _of_sums(ledger.runs.hours[hour] + sums), "nothing", _of_sums(LineSums()))
        return
    below = F.lit(False)
    for name in LINE_MEASURES:
        below |= F.col(name) < 0
    worst = net.filter(below).orderBy("period_start", "workspace_id").limit(1)
    for row in worst.select("workspace_id", F.unix_seconds("period_start").alias("hour")).collect():
        raise OutputError(
            f"run {what.run} cannot be reversed alone: later runs have changed what it billed, and "
            f"{printable(row['workspace_id'])} would owe less than nothing in {hour_label(row['hour'])} (UTC+8). "
            "Nothing was written. Reverse the later runs first, or the hours as they are now owed, by their period.",
            parameter="run",
        )
    took = sum(of_run.ledger.hours.values(), LineSums())
    balance("reversed", _of_sums(sum(lines.hours.values(), LineSums()), -1), "added by the run", _of_sums(took))


def _of_sums(sums: LineSums, sign: int = 1) -> dict[str, Any]:
    amount = add(sums.amount) if sign > 0 else add(sums.amount.copy_negate())
    return {"requests": sign * sums.requests, "tokens": sign * sums.tokens, "amount": amount}
