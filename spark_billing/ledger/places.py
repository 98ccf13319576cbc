"""Where the rows of a run on a date are in a folder ledger: in the run's own folder, or compacted with those of others.

A compaction says so in a manifest. The newest one is enough, as each takes over what the one before it says, and none
is trusted: rows are compared with the records of their runs wherever they were found. A manifest that is not whole is
passed over.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

from spark_billing.core.storage import Folder
from spark_billing.ledger.numbered import numbered, numbered_name, sealed, unsealed
from spark_billing.ledger.run_record import CONFLICTS, LINES

MANIFESTS = "ledger/compactions"
KINDS = (LINES, CONFLICTS)


@dataclass(frozen=True)
class Place:
    """The rows of some runs on one UTC+8 date, in one folder."""

    attempt: str  # `attempt=...`, the folder of the compaction that wrote it
    since: int  # epoch seconds
    runs: frozenset[str]  # the run_ids
    old: Sequence[str] = ()  # the folders that they were in before (`folder_of`), as long as these are there


@dataclass(frozen=True)
class Found:
    """The folders in which some rows are."""

    apart: Sequence[str]  # of one run and date each
    together: Sequence[str]  # of one date each
    others: Mapping[str, Sequence[str]]  # UTC+8 date -> the run_ids in these that were not asked for


@dataclass(frozen=True)
class Places:
    """What has been compacted, up to a manifest."""

    number: int = 0  # the next manifest is the one after it
    by_kind: Mapping[str, Mapping[str, Place]] = field(default_factory=lambda: {kind: {} for kind in KINDS})

    def found(self, kind: str, wanted: Iterable[tuple[str, str]]) -> Found:
        """Where the rows of some (UTC+8 date, run_id) are."""
        apart: list[str] = []
        by_date: dict[str, set[str]] = {}
        places = self.by_kind[kind]
        for date, run_id in sorted(wanted):
            place = places.get(date)
            if place is None or run_id not in place.runs:
                apart.append(folder_of(kind, f"run_id={run_id}", date))
            else:
                by_date.setdefault(date, set()).add(run_id)
        together = [folder_of(kind, places[date].attempt, date) for date in by_date]
        others = {date: sorted(places[date].runs - runs) for date, runs in by_date.items()}
        return Found(apart, together, {date: runs for date, runs in others.items() if runs})

    def with_places(self, number: int, new: Mapping[str, Mapping[str, Place]]) -> Places:
        """These, and some that take their place."""
        return Places(number, {kind: {**of, **new.get(kind, {})} for kind, of in self.by_kind.items()})

    def to_text(self) -> str:
        """As a manifest, sealed."""
        return sealed(
            {
                "number": self.number,
                "compacted": {
                    kind: {
                        date: [place.attempt, place.since, sorted(place.runs), list(place.old)]
                        for date, place in of.items()
                    }
                    for kind, of in self.by_kind.items()
                },
            }
        )

    @classmethod
    def from_text(cls, text: str) -> Optional[Places]:
        """From a manifest; None if it is not whole."""
        found: Any = unsealed(text)
        if found is None:
            return None
        by_kind = {
            kind: {
                date: Place(attempt, since, frozenset(runs), tuple(old))
                for date, (attempt, since, runs, old) in found["compacted"].get(kind, {}).items()
            }
            for kind in KINDS
        }
        return cls(found["number"], by_kind)


def folder_of(kind: str, name: str, date: str) -> str:
    """The folder of the rows of a date, in that of a run (`run_id=...`) or of a compaction (`attempt=...`)."""
    return f"{root_of(kind, name)}/{name}/billing_date={date}"


def root_of(kind: str, name: str) -> str:
    return compacted(kind) if name.startswith("attempt=") else kind


def compacted(kind: str) -> str:
    """Where what is compacted of the lines, or of what is left out, lies."""
    return kind.replace("ledger/", "ledger/compacted/")


def newest_places(storage: Folder) -> Places:
    """What the newest manifest says that is whole; its number is that of the newest there is."""
    names = numbered(storage.names(MANIFESTS))
    for name in reversed(names):
        places = Places.from_text(storage.texts(MANIFESTS, [name]).get(name, ""))
        if places is not None and numbered_name(places.number) == name:
            return Places(int(names[-1][:-5]), places.by_kind)
    return Places(int(names[-1][:-5])) if names else Places()
