"""What proves a run: nothing of the usage is lost or doubled, no bill falls without a reason, and each table says what
the ledger says. All of it is read back from what was written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import reduce
from typing import Any, Optional

from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from spark_billing.bills.control_totals import TOKEN_COLUMNS, balance
from spark_billing.bills.lines import bill_sums
from spark_billing.bills.metering import Metered
from spark_billing.core.columns import hour_of, total
from spark_billing.core.errors import RetractionError
from spark_billing.core.hours import hour_label
from spark_billing.core.money import money
from spark_billing.core.schemas import AMOUNT, PRICED
from spark_billing.core.text import counted, listed, printable
from spark_billing.ledger.conflicts import SettledConflicts
from spark_billing.ledger.difference import lowered_bills
from spark_billing.ledger.ledger import Work
from spark_billing.ledger.run_record import LineSums, RunRecord
from spark_billing.ledger.scope import Scope
from spark_billing.usage.rating import with_costs
from spark_billing.usage.reasons import REJECT_REASONS, reason_of

_SHOWN_BILLS = 5  # workspaces, hours or lowered bills in a message or a summary
_BILL_SUMS = ("requests", *TOKEN_COLUMNS, "amount")


@dataclass(frozen=True)
class Proved:
    """What the covered hours are owed for, as the ledger says it, and the dearest of them."""

    amount: Decimal
    dearest_workspaces: Sequence[Row]
    dearest_hours: Sequence[Row]


def prove_bills(
    rows_read: int, owed: DataFrame, tables: Mapping[str, DataFrame], by_kind: Mapping[str, Mapping[str, int]]
) -> Proved:
    """That the ledger, read back, says what the usage says, and the tables what the ledger says; `TotalsError` if not.

    `owed` are the ledger's lines of the covered hours; `by_kind` is of `ControlTotals`.
    """

    def sums(what: str, rows: DataFrame, *by: str) -> DataFrame:
        name = F.col(by[0]).cast("string") if by else F.lit(None).cast("string")
        return rows.select(F.lit(what).alias("what"), name.alias("name"), *_BILL_SUMS)

    def top(by: str) -> DataFrame:
        lines = owed.withColumn("hour", F.unix_seconds("period_start"))
        return sums(by, bill_sums(lines, by).orderBy(F.col("amount").desc(), by).limit(_SHOWN_BILLS), by)

    parts = [sums("owed", bill_sums(owed)), top("workspace_id"), top("hour")]
    if tables:
        parts += [sums(name, bill_sums(tables[name])) for name in ("ledger", "bill_lines")]
        parts.append(sums("bills", _of_bills(tables["bills"])))
    rows = reduce(DataFrame.unionByName, parts).collect()
    found = {row["what"]: {name: row[name] or 0 for name in _BILL_SUMS} for row in rows}
    owed_sums = dict(found["owed"])
    amount = Decimal(owed_sums.pop("amount"))
    balance("rows read", rows_read, "rows summed", by_kind["read"]["requests"])
    balance("billed calls and charged tokens", by_kind["charged"], "those in the ledger", owed_sums)
    if tables:
        balance("the ledger of the dates", found["ledger"], "bill_lines", found["bill_lines"])
        balance("bill_lines", found["bill_lines"], "bills", found["bills"])
    workspaces, hours = ([row for row in rows if row["what"] == by] for by in ("workspace_id", "hour"))
    return Proved(amount, workspaces, hours)


def sums_of_bills(rows: DataFrame, *, of_lines: bool = True) -> dict[str, Any]:
    """What lines, or else bills, come to, as a bill has it."""
    row = (bill_sums(rows) if of_lines else _of_bills(rows)).collect()[0]
    counts = {name: int(row[name] or 0) for name in _BILL_SUMS[:3]}
    return {**counts, "amount": Decimal(row["amount"] or 0)}


def _of_bills(bills: DataFrame) -> DataFrame:
    sums = [total(F.col(name)).cast("bigint").alias(name) for name in _BILL_SUMS[:3]]
    return bills.agg(*sums, F.sum("amount").cast(AMOUNT).alias("amount"))


def write_calls(work: Work, metered: Metered, scope: Scope, record: RunRecord, *, detail: bool) -> None:
    """The rejected rows, and with `detail` the priced calls; `TotalsError` if what is read back is not what was
    counted."""
    totals = record.totals
    if not totals.rejected and not detail:
        return
    rated = metered.rated()
    if scope.is_limited:
        hour = hour_of(F.unix_seconds("call_time"))
        inside = F.lit(True)
        if scope.open_from is not None:
            inside &= hour < scope.open_from
        if scope.old_until is not None:
            inside &= hour >= scope.old_until
        rated = rated.filter(hour.isNull() | inside)
    run = F.lit(record.run).cast("bigint")
    if totals.rejected:
        rejected = rated.filter(F.col("reject").isNotNull())
        counted = work.calls("rejected", record.run_id, rejected, reject_reason=reason_of(F.col("reject")), run=run)
        balance("rejected rows", totals.rejected, "those in rejected", _by_reason(work.written("rejected")))
        expected = {name: getattr(totals, name)["rejected"] for name in TOKEN_COLUMNS}
        expected = {"requests": totals.rows["rejected"], **expected}
        balance("rejected calls and tokens", expected, "those rejected in writing", counted)
    if detail:
        costs = {name: F.col(name) for name in PRICED.fieldNames()}
        billed = with_costs(rated.filter(F.col("reject").isNull()))
        work.calls("priced_calls", record.run_id, billed, run=run, **costs)
        if totals.rows["billed"]:
            written = work.written("priced_calls")
            row = written.agg(F.count(F.lit(1)).alias("n"), F.sum("cost").cast(AMOUNT).alias("cost")).collect()[0]
            balance("billed calls", totals.rows["billed"], "those in priced_calls", row["n"])
            balance("amount billed", totals.amount, "cost in priced_calls", row["cost"])


def _by_reason(rejected: DataFrame) -> dict[str, int]:
    """The rows by reason, in the order of the reasons."""
    rows = {row["reject_reason"]: row["count"] for row in rejected.groupBy("reject_reason").count().collect()}
    return {reason: rows[reason] for reason in REJECT_REASONS if reason in rows}


def guard(
    added: DataFrame,
    reasons: Mapping[str, LineSums],
    conflicts: Optional[SettledConflicts],
    currency: str,
    *,
    may_lower: bool,
) -> list[Row]:
    """The bills that the added lines lower, the first few; `RetractionError` if that takes an explicit leave that is
    not given. `conflicts` are those that have come to light since the last run."""
    explained = None if conflicts is None else conflicts.explained
    lowered = lowered_bills(added, explained).withColumn("hour", F.unix_seconds("period_start"))
    worst = lowered.orderBy("by_conflict", "amount", "workspace_id", "hour").limit(_SHOWN_BILLS).collect()
    if worst and not worst[0]["by_conflict"] and not may_lower:
        bills = lowered.filter(~F.col("by_conflict")).count()
        refusal = _refusal(bills, worst, reasons, currency) + _copies_in_no_bill(conflicts) + _untold(conflicts)
        raise RetractionError(refusal, parameter="allow_retractions")
    return worst


def _refusal(bills: int, worst: Sequence[Row], reasons: Mapping[str, LineSums], currency: str) -> str:
    """Which bills a run would lower, by what, and why."""
    unexplained = [row for row in worst if not row["by_conflict"]]
    shown = [
        f"{printable(row['workspace_id'])} in {hour_label(row['hour'])} {_change(row, currency)}" for row in unexplained
    ]
    same_calls = all(not row["requests"] for row in unexplained)
    why = ", ".join(f"{reason} {money(sums.amount)} {currency}" for reason, sums in reasons.items())
    return (
        f"this run would lower {counted(bills, 'bill')} of the ledger: {'; '.join(shown)}"
        f"{'; and more' if bills > len(shown) else ''}. All it would add: {why}. Nothing was written. "
        f"{_OTHER_COUNTS if same_calls else 'Is the usage complete, and are the prices right?'} If so, run it again "
        "and allow retractions."
    )


_OTHER_COUNTS = (
    "The calls are the same, and only what they come to is other: are the columns mapped, and the prices chosen, as "
    "they should be?"
)


def _change(row: Row, currency: str) -> str:
    """What becomes lower in a bill, and what higher, such as `by 210 input tokens, though it rises by 1 call`."""
    falls: list[str] = []
    rises: list[str] = []
    for name, of in (("requests", "call"), ("input_tokens", "input token"), ("output_tokens", "output token")):
        if row[name]:
            (falls if row[name] < 0 else rises).append(counted(abs(row[name]), of))
    if row["amount"]:
        (falls if row["amount"] < 0 else rises).append(f"{money(row['amount'].copy_abs())} {currency}")
    return f"by {listed(falls)}{f', though it would rise by {listed(rises)}' if rises else ''}"


def _untold(conflicts: Optional[SettledConflicts]) -> str:
    if conflicts is None or not conflicts.untold:
        return ""
    return (
        f" Of {conflicts.untold:,} hours an earlier version of this job has kept no conflicts (it kept 1,000 at "
        "most): there a run may be right and still need leave, once."
    )


def _copies_in_no_bill(conflicts: Optional[SettledConflicts]) -> str:
    if conflicts is None:
        return ""
    rows = conflicts.unbilled.orderBy("hour").limit(_SHOWN_BILLS).collect()
    hours = [hour_label(row["hour"]) for row in rows]
    if not hours:
        return ""
    return (
        f" Other copies of calls that it rejects lie in {', '.join(hours)}, which it does not bill: a run that "
        "covers these hours as well needs no leave for them."
    )
