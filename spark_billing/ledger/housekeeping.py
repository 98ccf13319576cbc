"""A ledger put in order, with nothing of what it says changed: what is derived from it made anew, what runs that died
have left removed, its source named anew.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Optional

from spark_billing.bills.control_totals import balance
from spark_billing.core.errors import UsageError
from spark_billing.core.hours import SECONDS_PER_HOUR, Period, date_label
from spark_billing.core.schemas import BILL_LINES
from spark_billing.core.session import named_steps, step
from spark_billing.ledger.kept import Kept
from spark_billing.ledger.ledger import Ledger, Leftover, Store
from spark_billing.ledger.proof import prove_bills, sums_of_bills
from spark_billing.ledger.publishing import Touched
from spark_billing.ledger.reading import lines_between
from spark_billing.ledger.run import Outcome
from spark_billing.ledger.usageless import Attempt, Done, require_ledger, run_without_usage


@dataclass(frozen=True)
class Rebuilt:
    """What was made anew from the ledger, or would be."""

    dates: Sequence[str]  # UTC+8, of the tables that are published
    removed: Sequence[str]  # of these the dates that the ledger has nothing of
    views: Sequence[str]
    amount: Decimal
    currency: str
    outcome: Optional[Outcome] = None  # of the run that published the tables


def rebuild(store: Store, kept: Kept, *, period: Optional[Period] = None, dry_run: bool = False) -> Rebuilt:
    """Make `bill_lines` and `bills` anew from the ledger, of the dates of a period or of all; of a catalog its views.

    The tables are published by a run that adds nothing: if it is killed, the next one finishes it, and of it and a run
    that bills at the same time one is first. `OutputError` if the ledger is damaged, `TotalsError` if what was written
    is not what the ledger says.
    """
    ledger, last = require_ledger(store)
    published, currency = kept.published(), last.price_list.currency
    if not published:
        return _views(store, ledger, currency, period, dry_run)
    there = {date for dates in published.values() for date in dates}
    dates = sorted(date for date in there.union(ledger.runs.lines) if _is_in(period, date))
    rebuilt: list[Rebuilt] = []

    def attempt(of_run: Attempt) -> Done:
        held = of_run.ledger.lines(dates)
        of_ledger = sorted(date for date in dates if date in of_run.ledger.runs.lines)
        amount = Decimal(0)
        if held is not None:
            step(store.spark, "rebuild the tables")
            tables = of_run.work.rebuild(held, of_run.number)
            step(store.spark, "prove the totals from what was written")
            owed = sums_of_bills(held)
            amount = owed.pop("amount")
            prove_bills(0, held, {"ledger": held, **tables} if tables else {}, _as_it_is(owed))
        record = of_run.record()
        removed = sorted(set(dates) - set(of_ledger))
        rebuilt.append(Rebuilt(dates, removed, (), amount, currency))
        return Done(Outcome(record, (), (), ()), Touched(dates, (), without_time=False))

    asked = {"action": "rebuild", "from": dates[0] if dates else None, "to": dates[-1] if dates else None}
    outcome = run_without_usage(store, attempt, arguments=asked, dry_run=dry_run)
    done = rebuilt[-1]
    return Rebuilt(done.dates, done.removed, (), done.amount, done.currency, outcome)


def _as_it_is(sums: Mapping[str, int]) -> Mapping[str, Mapping[str, int]]:
    return {"read": {"requests": 0}, "charged": sums}


def _views(store: Store, ledger: Ledger, currency: str, period: Optional[Period], dry_run: bool) -> Rebuilt:
    if period is not None:
        raise UsageError("the views of a catalog have no dates of their own; leave the period out", parameter="period")
    with named_steps(store.spark, f"rebuild the views of {store.where}"):
        lines = lines_between(ledger, None, None)
        owed = sums_of_bills(lines)
        if dry_run:
            return Rebuilt((), (), (), owed["amount"], currency)
        views = store.make_views()
        names = [field.name for field in BILL_LINES.fields]
        for view in views:
            rows = store.spark.table(f"{store.where}.{view}")
            found = sums_of_bills(rows.select(*names)) if view == "bill_lines" else sums_of_bills(rows, of_lines=False)
            if store.open().runs.count == ledger.runs.count:  # else a run has added to it meanwhile
                balance("owed by the ledger", owed, f"by the view {view}", found)
        return Rebuilt((), (), views, owed["amount"], currency)


def _is_in(period: Optional[Period], date: str) -> bool:
    """Whether a date of a table has hours of a period; what is no date has none."""
    return period is None or date_label(period.start) <= date <= date_label(period.end - SECONDS_PER_HOUR)


@dataclass(frozen=True)
class Cleaned:
    """What runs that died have left: what was removed or would be, and what is not old enough."""

    removed: Sequence[Leftover]
    kept: Sequence[Leftover]


def clean(store: Store, *, older_than: int = 24, dry_run: bool = False, now: Optional[int] = None) -> Cleaned:
    """Remove what runs that never committed have left more than `older_than` hours ago. `now` is in epoch seconds.

    `OutputError` if it may be more than that: then nothing is removed.
    """
    with named_steps(store.spark, f"clean {store.where}"):
        require_ledger(store)
        until = (int(time.time()) if now is None else now) - older_than * SECONDS_PER_HOUR
        found = store.leftovers()
        old = [each for each in found if each.began <= until]
        if old and not dry_run:
            step(store.spark, "verify what stays, and remove what is left over")
            store.remove(old)
        return Cleaned(old, [each for each in found if each.began > until])


def rename_source(store: Store, to: str, *, reason: str = "", dry_run: bool = False) -> Optional[Outcome]:
    """Name anew the usage that a ledger holds the bills of; None if that is its name already."""
    if not to.strip():
        raise UsageError("the new name of the source is empty", parameter="to")

    def attempt(of_run: Attempt) -> Optional[Done]:
        if of_run.last.source == to:
            return None
        record = of_run.record(source=to)
        return Done(Outcome(record, (), (), ()), Touched((), (), without_time=False))

    asked = {"action": "rename-source", "from": require_ledger(store)[1].source, "to": to}
    return run_without_usage(store, attempt, arguments=asked, reason=reason, dry_run=dry_run)
