"""What runs and compactions that died have left in an output folder: no record and no manifest speaks of it.

Two things look like that and are not: what a run at work has written, and the lines of a run whose record was lost. So
only what is old is removed, and nothing while the published tables know of runs that the records do not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timezone
from typing import Optional

from pyspark.errors import PySparkException
from pyspark.sql import functions as F

from spark_billing.core.errors import OutputError
from spark_billing.core.storage import Storage, path_is_absent
from spark_billing.ledger.ledger import Ledger, Leftover
from spark_billing.ledger.places import KINDS, compacted, newest_places
from spark_billing.ledger.run_record import LINES

_STAGING = "_staging"
_NAME = re.compile(r"(?:run_id=|attempt=)?(([0-9]{8}T[0-9]{6}Z)-[0-9a-f]{8}(?:-[0-9]+)?)")


def leftovers(storage: Storage, open_ledger: Callable[[], Ledger]) -> list[Leftover]:
    """Folders of runs and compactions that have not committed. They are listed before the ledger is read: what has
    committed by then is told there."""
    above = [_STAGING, *KINDS, *(compacted(kind) for kind in KINDS)]
    there = [(folder, name) for folder in above for name in storage.names(folder)]
    ledger = open_ledger()
    told = set(_told(storage, ledger))
    found = []
    for folder, name in there:
        match, path = _NAME.fullmatch(name), f"{folder}/{name}"
        if match is None or path in told:
            continue
        began = max(_seconds(match[2]) or 0, *(storage.modified(each) for each in (path, *_below(storage, path))))
        found.append(Leftover(path, match[1], began))
    return found


def remove_leftovers(storage: Storage, ledger: Ledger, found: Sequence[Leftover]) -> None:
    """Remove some, once what stays on their dates is verified."""
    told = set(_told(storage, ledger))
    paths = [each.what for each in found if each.what not in told]
    names = (name for path in paths for name in storage.names(path))
    dates = {name.partition("=")[2] for name in names if name.startswith("billing_date=")}
    _require_all_records(storage, ledger)
    ledger.lines(dates)
    ledger.left_out(dates)
    for path in paths:
        storage.delete(path)
    storage.delete_if_empty(_STAGING)


def began_at(run_id: str) -> Optional[int]:
    """When a run began, by its id, in epoch seconds; None if it is no id of a run."""
    match = _NAME.fullmatch(run_id)
    return None if match is None else _seconds(match[2])


def _told(storage: Storage, ledger: Ledger) -> Iterator[str]:
    """The folders that the records or the newest manifest speak of."""
    if ledger.last is not None:  # what it has not published yet the next run will
        yield "/".join(ledger.last.staging.split("/")[:2])
    places = newest_places(storage)
    for kind in KINDS:
        by_date = ledger.runs.lines if kind == LINES else ledger.runs.left_out
        yield from (f"{kind}/run_id={run_id}" for of_date in by_date.values() for run_id in of_date)
        for place in places.by_kind[kind].values():
            yield from (f"{compacted(kind)}/{name}" for name in (place.attempt, *place.old))


def _below(storage: Storage, path: str) -> Iterable[str]:
    return (f"{path}/{name}" for name in storage.names(path))


def _seconds(moment: str) -> Optional[int]:
    try:
        return int(datetime.strptime(moment, "%Y%m%dT%H%M%SZ").replace(tzinfo=timezone.utc).timestamp())
    except ValueError:
        return None


def _require_all_records(storage: Storage, ledger: Ledger) -> None:
    """`OutputError` if the published bills are of a later run than the last record."""
    try:
        bills = storage.spark.read.schema("run bigint").parquet(storage.path("bills"))
        last = bills.agg(F.max("run").alias("run")).collect()[0]["run"]
    except PySparkException as error:
        if not path_is_absent(error):
            raise
        return
    if last is not None and last > ledger.runs.count:
        raise OutputError(
            f"{ledger.where} has bills of run {last}, and records of {ledger.runs.count} runs: what looks like the "
            "leftovers of a run that died may be the lines of a run whose record is lost. Nothing was removed. Restore "
            "the records of ledger/runs first."
        )
