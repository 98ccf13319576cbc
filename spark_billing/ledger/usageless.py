"""Runs that need no usage: they put a ledger in order, and are recorded and committed like any other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Optional
from uuid import uuid4

from spark_billing.core.errors import LostRaceError, OutputError
from spark_billing.core.hours import instant_label
from spark_billing.core.session import named_steps
from spark_billing.core.version import __version__
from spark_billing.ledger.ledger import InMemory, Ledger, Store, Work
from spark_billing.ledger.publishing import Touched
from spark_billing.ledger.run import Outcome
from spark_billing.ledger.run_record import AddedLines, RunRecord, SeenHours, Totals

_ATTEMPTS = 3
_NOTHING = dict.fromkeys(("read", "billed", "rejected"), 0)
_NO_TOKENS = {**_NOTHING, "charged": 0}


@dataclass(frozen=True)
class Attempt:
    """One attempt at such a run, on top of the ledger as it is now."""

    ledger: Ledger
    last: RunRecord
    work: Work
    run_id: str
    at: datetime
    arguments: Mapping[str, Any]
    reason: str

    @property
    def number(self) -> int:
        return self.ledger.runs.count + 1

    def record(self, **of_run: Any) -> RunRecord:
        """The record of the run: one that has read nothing and covers no hour, but for what is given."""
        given: dict[str, Any] = {
            "source": self.last.source,
            "tag_columns": (),
            "left_out": {},
            "ledger": AddedLines(),
            "totals": nothing_read(self.last.price_list.currency),
            **of_run,
        }
        started = int(self.at.timestamp())
        return RunRecord(
            run=self.number,
            run_id=self.run_id,
            parent=self.last.run_id,
            started_at=self.at.isoformat(timespec="seconds"),
            committed_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            as_of=instant_label(started),
            spark_version=self.ledger.spark.version,
            arguments=self.arguments,
            price_list=self.last.price_list,
            period=None,
            hours=SeenHours(),
            covered=(),
            not_adjusted=AddedLines(),
            reason=self.reason,
            version=__version__,
            **given,
        )


@dataclass(frozen=True)
class Done:
    """What an attempt comes to: to be committed."""

    outcome: Outcome
    touched: Touched


def nothing_read(currency: str) -> Totals:
    """The control totals of a run that reads no usage."""
    return Totals(dict(_NOTHING), {}, dict(_NO_TOKENS), dict(_NO_TOKENS), currency=currency)


def run_without_usage(
    store: Store,
    attempt: Callable[[Attempt], Optional[Done]],
    *,
    arguments: Mapping[str, Any],
    reason: str = "",
    dry_run: bool = False,
) -> Optional[Outcome]:
    """Make and commit a run; None if an attempt says that there is nothing to do.

    `OutputError` if nothing was ever billed, `LostRaceError` if other runs kept committing meanwhile.
    """
    spark, at = store.spark, datetime.now(timezone.utc)
    require_ledger(store)  # before a store makes what it needs for one
    name = f"{at:%Y%m%dT%H%M%SZ}-{uuid4().hex[:8]}"
    work = InMemory() if dry_run else store.work(name)
    with named_steps(spark, f"{arguments['action']} in {store.where}"):
        try:
            for number in range(1, _ATTEMPTS + 1):
                ledger, last = require_ledger(store)
                work.begin(ledger, number)
                told = {**arguments, "dry_run": dry_run}
                done = attempt(Attempt(ledger, last, work, f"{name}-{number}", at, told, reason))
                if done is None:
                    return None
                outcome = done.outcome
                record = work.commit(ledger, outcome.record, done.touched)
                if record is not None:
                    places = () if dry_run else store.places(record)
                    return Outcome(record, (), (), outcome.lowered, places)
        finally:
            work.clear()
    raise LostRaceError(
        f"other runs committed to {store.where} {_ATTEMPTS} times meanwhile; nothing was changed. Run it again."
    )


def require_ledger(store: Store) -> tuple[Ledger, RunRecord]:
    """The ledger and its last record; `OutputError` if nothing was ever billed."""
    ledger = store.open()
    if ledger.last is None:
        raise OutputError(f"nothing was ever billed into {store.where}, it has no ledger", parameter="output")
    return ledger, ledger.last
