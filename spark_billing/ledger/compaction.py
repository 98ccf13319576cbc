"""The many small files of old dates in a folder ledger, rewritten into few.

A run adds a file for each date that it changes, so a date of hourly runs has dozens of files. Compacting reads all rows
of a date, verified against the records of their runs, writes them anew into one folder, reads that back and compares
the two. Only then does a manifest say where the rows are now (`places`), created exclusively like a record: of two
compactions at once, one has the next number. What was there before stays for readers that hold it, and is removed by a
later compaction, after the rows have been verified without it once more. A kill in between leaves folders that no
manifest speaks of, which the next compaction removes likewise.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any, Optional
from uuid import uuid4

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_billing.core.columns import quoted, tag_columns
from spark_billing.core.errors import LostRaceError, OutputError, TotalsError
from spark_billing.core.hours import SECONDS_PER_DAY, SECONDS_PER_HOUR
from spark_billing.core.schemas import LEFT_OUT, TOTAL_TOKENS
from spark_billing.core.session import named_steps, step
from spark_billing.core.storage import PARALLEL_READS, Storage
from spark_billing.ledger.files import CONFLICT_ORDER, LINE_ORDER, Staging, lines_schema, read_compacted
from spark_billing.ledger.folder_ledger import FolderStore
from spark_billing.ledger.line_sums import sums_by_run_and_date
from spark_billing.ledger.numbered import numbered_name
from spark_billing.ledger.places import (
    KINDS,
    MANIFESTS,
    Place,
    compacted,
    folder_of,
    newest_places,
)
from spark_billing.ledger.run_record import LINES
from spark_billing.ledger.summed_runs import ByDate

_AT_ONCE = 31  # dates with one manifest: so much is done again after a kill


@dataclass(frozen=True)
class Size:
    """Files and their bytes."""

    files: int = 0
    bytes: int = 0

    def __add__(self, other: Size) -> Size:
        return Size(self.files + other.files, self.bytes + other.bytes)


@dataclass(frozen=True)
class Compaction:
    """What compacting has done, or would do."""

    dates: Sequence[str]  # UTC+8
    before: Size  # of their files
    after: Size  # likewise; nothing in a dry run
    removed: Size  # what earlier compactions had replaced, or left when they died
    kept: Size  # what is replaced and still kept for readers


def compact(
    store: FolderStore, *, older_than: int = 7, keep_hours: int = 24, dry_run: bool = False, now: Optional[int] = None
) -> Compaction:
    """Compact the UTC+8 dates that no run has added to for `older_than` days, and remove what compactions have replaced
    more than `keep_hours` ago. `now` is in epoch seconds.

    `OutputError` if rows are not what their runs recorded, `TotalsError` if what was written is not what was read,
    `LostRaceError` if another compaction was first; the ledger then says what it said before.
    """
    with named_steps(store.spark, f"compact the ledger in {store.where}"):
        return _Compacting(store, int(time.time()) if now is None else now, dry_run).run(older_than, keep_hours)


class _Compacting:
    def __init__(self, store: FolderStore, now: int, dry_run: bool) -> None:
        self.storage, self.now, self.dry_run = store.storage, now, dry_run
        self.ledger = store.open()
        if self.ledger.last is None:
            raise OutputError(f"nothing was ever billed into {store.where}, it has no ledger", parameter="output")
        self.places = newest_places(self.storage)

    def run(self, older_than: int, keep_hours: int) -> Compaction:
        left = self._left_by_dead_ones()
        removed, changed = self._remove(left, self._due(self.now - keep_hours * SECONDS_PER_HOUR))
        dates, before, after = self._dates(self.now - older_than * SECONDS_PER_DAY), Size(), Size()
        for first in range(0, len(dates), _AT_ONCE):
            sizes = self._compact(dates[first : first + _AT_ONCE])
            before, after = before + sizes[0], after + sizes[1]
        if not self.dry_run:
            if not dates and (changed or left):
                self._commit({})
            _each(self.storage.delete, left)  # whoever was still writing there has lost the race by now
        return Compaction(dates, before, after, removed, _size(self.storage, _old(self.places.by_kind)))

    def _dates(self, until: int) -> list[str]:
        """The dates with more than one folder that only runs until then have added to."""
        found = set()
        for kind, by_date in self._recorded().items():
            for date in by_date:
                if len(self._found(kind, by_date, date)) > 1:
                    found.add(date)
        ran = {date: [run_id for of in self._recorded().values() for run_id in of.get(date, ())] for date in found}
        return sorted(date for date, run_ids in ran.items() if max(map(_started, run_ids)) <= until)

    def _recorded(self) -> Mapping[str, ByDate]:
        return dict(zip(KINDS, (self.ledger.runs.lines, self.ledger.runs.left_out)))

    def _compact(self, dates: Sequence[str]) -> tuple[Size, Size]:
        """Compact some dates with one manifest; the size of what they were in before, and of what they are in now."""
        attempt = f"attempt={datetime.fromtimestamp(self.now, timezone.utc):%Y%m%dT%H%M%SZ}-{uuid4().hex[:8]}"
        new: dict[str, dict[str, Place]] = {kind: {} for kind in KINDS}
        before, after = Size(), Size()
        for kind, by_date in self._recorded().items():
            for date in dates:
                found = self._found(kind, by_date, date)
                if len(found) > 1:
                    before += _size(self.storage, found)
                    new[kind][date] = self._place(kind, date, attempt, by_date[date])
        if self.dry_run:
            return before, after
        try:
            for kind in KINDS:
                if new[kind]:
                    self._write(kind, attempt, list(new[kind]))
                    after += _size(self.storage, [folder_of(kind, attempt, date) for date in new[kind]])
            self._commit(new)
        except (TotalsError, LostRaceError):
            for kind in KINDS:
                self.storage.delete(f"{compacted(kind)}/{attempt}")
            raise
        return before, after

    def _found(self, kind: str, by_date: ByDate, date: str) -> list[str]:
        """The folders in which the rows of a date are."""
        found = self.places.found(kind, ((date, run_id) for run_id in by_date.get(date, ())))
        return [*found.apart, *found.together]

    def _place(self, kind: str, date: str, attempt: str, run_ids: Iterable[str]) -> Place:
        place = self.places.by_kind[kind].get(date)
        known = place.runs if place else frozenset()
        old = [*(f"run_id={run_id}" for run_id in sorted(set(run_ids) - known))]
        if place:
            old += [place.attempt, *place.old]
        return Place(attempt, self.now, known.union(run_ids), tuple(old))

    def _write(self, kind: str, attempt: str, dates: Sequence[str]) -> None:
        """Write the rows of some dates into one folder, and prove that what is there is what the ledger has."""
        step(self.storage.spark, f"rewrite {kind} from {dates[0]} to {dates[-1]}")
        rows = self.ledger.lines(dates) if kind == LINES else self.ledger.left_out(dates)
        assert rows is not None, "they are recorded"
        tags = sorted(tag_columns(rows)) if kind == LINES else []
        order = (*(LINE_ORDER if kind == LINES else CONFLICT_ORDER), *tags, "run")
        folder = f"{compacted(kind)}/{attempt}"
        Staging(self.storage.spark, self.storage, "").write(rows, folder, ("billing_date",), order)
        schema = lines_schema(tags) if kind == LINES else LEFT_OUT
        written = read_compacted(self.storage, kind, [folder_of(kind, attempt, date) for date in dates], schema)
        recorded = {(date, run_id): sums for date in dates for run_id, sums in self._recorded()[kind][date].items()}
        if sums_by_run_and_date(written) != recorded or _contents(written) != _contents(rows):
            raise TotalsError(
                f"what was compacted into {self.storage.path(folder)} is not, row by row, what was read. Nothing was "
                "changed; run it again."
            )

    def _commit(self, new: Mapping[str, Mapping[str, Place]]) -> None:
        places = self.places.with_places(self.places.number + 1, new)
        path = f"{MANIFESTS}/{numbered_name(places.number)}"
        text = places.to_text()
        # where the storage has no exclusive creation, another may have written over it
        if not self.storage.create(path, text) or self.storage.read(path) != text:
            raise LostRaceError(
                f"another compaction of {self.storage.root} was first, and nothing of this one counts. Run it again."
            )
        self.places = places

    def _left_by_dead_ones(self) -> list[str]:
        """Folders of compactions that no manifest speaks of, in the order that makes it safe to remove them: listed
        before the number of the next manifest is known."""
        names = ((kind, name) for kind in KINDS for name in self.storage.names(compacted(kind)))
        there = [(kind, name) for kind, name in names if name.startswith("attempt=")]
        self.places = newest_places(self.storage)
        told = {
            (kind, name)
            for kind, of in self.places.by_kind.items()
            for place in of.values()
            for name in (place.attempt, *place.old)
        }
        return [f"{compacted(kind)}/{name}" for kind, name in there if (kind, name) not in told]

    def _due(self, until: int) -> Mapping[str, Mapping[str, Place]]:
        """Places whose rows have been in them for so long that the folders they were in before can go."""
        return {
            kind: {date: place for date, place in of.items() if place.old and place.since <= until}
            for kind, of in self.places.by_kind.items()
        }

    def _remove(self, left: Sequence[str], due: Mapping[str, Mapping[str, Place]]) -> tuple[Size, bool]:
        """Remove what has been replaced and is due, once all rows of these dates, and of those in what dead compactions
        have left, have been found elsewhere; its size with that of the latter, and whether the places have changed."""
        old = _old(due)
        dates = {date for of in due.values() for date in of}
        for folder in left:
            dates |= {name.partition("=")[2] for name in self.storage.names(folder) if name.startswith("billing_date=")}
        removed = _size(self.storage, [*old, *left])
        if self.dry_run or not (old or left):
            return removed, False
        step(self.storage.spark, "verify what stays before anything is removed")
        self.ledger.lines(dates)
        self.ledger.left_out(dates)
        _each(self.storage.delete, old)
        _each(self._delete_if_done, sorted({folder.rpartition("/")[0] for folder in old}))
        done = {kind: {date: replace(place, old=()) for date, place in of.items()} for kind, of in due.items()}
        self.places = self.places.with_places(self.places.number, done)
        return removed, bool(old)

    def _delete_if_done(self, folder: str) -> None:
        """Delete the folder of a run or compaction in which nothing is left but Spark's word that it was written."""
        if set(self.storage.names(folder)) <= {"_SUCCESS"}:
            self.storage.delete(folder)


def _old(places: Mapping[str, Mapping[str, Place]]) -> list[str]:
    return [
        folder_of(kind, name, date) for kind, of in places.items() for date, place in of.items() for name in place.old
    ]


def _started(run_id: str) -> int:
    """When a run began, by its id, in epoch seconds; long ago if the id does not say."""
    try:
        moment = datetime.strptime(run_id.partition("-")[0], "%Y%m%dT%H%M%SZ")
    except ValueError:
        return 0
    return int(moment.replace(tzinfo=timezone.utc).timestamp())


def _contents(rows: DataFrame) -> dict[tuple[str, str], tuple[int, Any]]:
    """The count of rows by date and run, and the sum of the hashes of their content."""
    columns = [quoted(name) for name in sorted(rows.columns)]
    content = F.sum(F.xxhash64(*columns).cast(TOTAL_TOKENS)).cast(TOTAL_TOKENS).alias("content")
    counted = rows.groupBy("billing_date", "run_id").agg(F.count(F.lit(1)).alias("rows"), content)
    return {(str(row["billing_date"]), row["run_id"]): (row["rows"], row["content"]) for row in counted.collect()}


def _size(storage: Storage, folders: Sequence[str]) -> Size:
    return sum((Size(*found) for found in _each(storage.size, folders)), Size())


def _each(do: Callable[[str], Any], paths: Sequence[str]) -> list[Any]:
    """For each of some paths, many at once: on an object store each takes some milliseconds."""
    with ThreadPoolExecutor(PARALLEL_READS) as workers:
        return list(workers.map(do, paths))
