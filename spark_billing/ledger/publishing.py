"""The tables under an output, moved into place: whole partitions, once the record of their run is committed.

If a run is killed in the middle of that, the next one finishes it from the record.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Optional

from py4j.protocol import Py4JJavaError

from spark_billing.core.errors import BehindError, OutputError, StorageError
from spark_billing.core.hours import date_label, hour_number
from spark_billing.core.spark_errors import spark_reason, storage_trouble
from spark_billing.core.storage import Storage
from spark_billing.ledger.run_record import RunRecord

_STORAGE_ERRORS = (OSError, Py4JJavaError, OutputError, StorageError)

# The tables under the output and how each is partitioned: what a run replaces is whole partitions
PARTITIONED_BY = {
    "bill_lines": ("billing_date",),
    "bills": ("billing_date",),
    "rejected": ("billing_date", "billing_hour"),
    "priced_calls": ("billing_date", "billing_hour"),
}

_NO_TIME = "__HIVE_DEFAULT_PARTITION__"  # the partition of rows without a readable call_time


@dataclass(frozen=True)
class Touched:
    """What a run writes anew: bills by date, calls by hour."""

    dates: Collection[str]  # UTC+8 dates whose bills change
    covered: Collection[int]  # the hours that it bills, in epoch seconds
    without_time: bool  # with the calls that have no time
    before: str = ""  # and those of earlier dates, where no call can be


def touched_partitions(storage: Storage, touched: Touched) -> list[str]:
    """The partitions in place that a run replaces or removes."""
    hours = {(date_label(hour), str(hour_number(hour) % 24)) for hour in touched.covered}
    if touched.without_time:
        hours.add((_NO_TIME, _NO_TIME))
    dates = {date for date, _ in hours}
    found = []
    for table, by in PARTITIONED_BY.items():
        of_calls = by[-1] == "billing_hour"
        for part, date in _folders(storage, table, by[0]):
            if not of_calls:
                found += [part] if date in touched.dates else []
            elif date < touched.before:
                found += [hour for hour, _ in _folders(storage, part, by[1])]
            elif date in dates:  # no other is looked into: a ledger may have thousands of them
                found += [hour for hour, value in _folders(storage, part, by[1]) if (date, value) in hours]
    return found


def partitions(storage: Storage, under: str, table: str) -> list[str]:
    """The partitions of a table below a folder of the output, as paths such as bills/billing_date=2026-04-08."""
    found = [f"{under}{table}"]
    for column in PARTITIONED_BY[table]:
        found = [part for above in found for part, _ in _folders(storage, above, column)]
    return [part[len(under) :] for part in found]


def _folders(storage: Storage, above: str, column: str) -> list[tuple[str, str]]:
    """The folders of a column's values, with these."""
    names = (name.partition("=") for name in storage.names(above))
    return [(f"{above}/{name}={value}", value) for name, _, value in names if name == column]


def finish_publishing(storage: Storage, record: Optional[RunRecord], patience: float) -> None:
    """See that the last run's tables are in place: wait while it gets on with that itself, else do it. So many seconds
    without progress, and it counts as dead."""
    if record is None:
        return
    left = None
    while _unpublished(storage, record) not in ([], left):
        left = _unpublished(storage, record)
        time.sleep(patience)
    publish(storage, record)


def publish(storage: Storage, record: RunRecord) -> None:
    """Move a committed run's partitions into place. Done again from the start after a kill, it ends the same.

    `BehindError` if the storage does not do it: the run is committed all the same, and the next one tries again."""
    of_run = record.staging.rpartition("/")[0]
    behind: list[tuple[str, Exception]] = []
    try:
        if not of_run or not storage.exists(of_run):  # without a folder of its own, the rest would be the whole output
            return
        for part in _unpublished(storage, record):
            try:
                _replace(storage, record, part)
            except _STORAGE_ERRORS as error:  # the others may be possible
                behind.append((part, error))
        for part in record.remove:
            if not storage.exists(of_run):  # another process has finished this, and later runs may have written since
                return
            try:
                storage.delete(part)
                for folder in (part.rpartition("/")[0], part.split("/")[0]):
                    storage.delete_if_empty(folder)
            except _STORAGE_ERRORS as error:
                behind.append((part, error))
        if not behind:
            clear(storage, of_run)  # with what the run has kept of its usage
    except _STORAGE_ERRORS as error:
        behind.append((of_run, error))
    if behind:
        part, failure = behind[0]
        more = f" (and {len(behind) - 1:,} more)" if len(behind) > 1 else ""
        raise BehindError(
            f"run {record.run} is committed, but {storage.path(part)}{more} is behind: "
            f"{storage_trouble(failure) or f'{spark_reason(failure)}.'} The ledger has all of it; mend that, and the "
            "next run puts it in place."
        )


def _replace(storage: Storage, record: RunRecord, part: str) -> None:
    """Put a partition in the place of what is there."""
    staged = f"{record.staging}/{part}"
    try:
        if storage.exists(staged):
            storage.delete(part)
            storage.move(staged, part)
    except _STORAGE_ERRORS:
        if storage.exists(staged):  # else another process has just moved it
            raise


def clear(storage: Storage, folder: str) -> None:
    """Delete a folder, and the one above it if nothing else is in it."""
    storage.delete(folder)
    storage.delete_if_empty(folder.rpartition("/")[0])


def _unpublished(storage: Storage, record: RunRecord) -> list[str]:
    return [part for part in record.replace if storage.exists(f"{record.staging}/{part}")]
