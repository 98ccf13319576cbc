"""What of an output folder is not as its runs have left it: published tables that differ, and records that are lost.

What is published can be rebuilt from the ledger, so it is only looked for. A record can not, and a run that did without
would bill again what is billed, or take back what it does not see. So what else tells of runs is asked: the run in the
published rows, the lines, the checkpoints. A run that was killed before it was committed leaves lines as well, but with
them its folder in `_staging`, which a committed one removes; whoever cleans up removes the lines first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Optional

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import functions as F

from spark_billing.core.errors import OutputError
from spark_billing.core.hours import date_label
from spark_billing.core.storage import Folder, Storage
from spark_billing.ledger.numbered import numbered
from spark_billing.ledger.published_files import FROM_LEDGER, by_date, digest_of, has_all_tables
from spark_billing.ledger.publishing import PARTITIONED_BY
from spark_billing.ledger.run_record import CONFLICTS, LINES, BrokenRecordError
from spark_billing.ledger.summed_runs import SummedRuns

RUNS, CHECKPOINTS, STAGING = "ledger/runs", "ledger/checkpoints", "_staging"
_RUN = "run_id="


def dates_behind(storage: Storage, runs: SummedRuns) -> set[str]:
    """The UTC+8 dates where other files of `bill_lines` and `bills` are than the last run on them has published. Of
    dates that an older version has published only files that are lost altogether, or of no run, are seen."""
    there = by_date({table: storage.files(table) for table in FROM_LEDGER})
    nothing = digest_of({})
    digests = {date: digest_of(files) for date, files in there.items()}
    behind = {date for date, digest in runs.published.items() if digests.get(date, nothing) != digest}
    behind |= {date for date in there if date not in runs.published and date not in runs.lines}
    if runs.lines.keys() - runs.published.keys():
        owed = {date_label(hour) for hour, sums in runs.hours.items() if not sums.is_nothing}
        behind |= {date for date in owed - runs.published.keys() if not has_all_tables(there.get(date, {}))}
    return behind


def require_a_new_output(storage: Folder) -> None:
    """`OutputError` if an output that has no record of a run has what runs have published."""
    if not isinstance(storage, Storage):
        return  # Spark Connect: no way to look into it
    for table in PARTITIONED_BY:
        if any(name.startswith("billing_date=") for name in storage.names(table)):
            raise OutputError(
                f"{storage.path(table)} has bills, but {storage.path(RUNS)} has no record of any run: the ledger that "
                "they were published from is gone. Restore it from a backup, and with it all that was under this "
                "output; or give another output, and bill the whole usage into it.",
                parameter="output",
            )
    require_no_lost_runs(storage, SummedRuns())


def require_no_lost_runs(storage: Folder, runs: SummedRuns, behind: Iterable[str] = ()) -> None:
    """`OutputError` if what is published on some dates, or lines that are there, tell of runs after the last record."""
    if not isinstance(storage, Storage):
        return
    published = max((_last_run(storage, table, behind) for table in FROM_LEDGER), default=0)
    lines = _lines_of_lost_runs(storage, runs)
    if published <= runs.count and not lines:
        return
    if len(numbered(storage.names(RUNS))) > runs.count:
        return  # a run was committed just now, and is what these tell of
    last = f"run {runs.count} is the last of which {storage.path(RUNS)} has a record"
    if published > runs.count:
        raise OutputError(
            f"{last}, but {storage.path(FROM_LEDGER[0])} or {FROM_LEDGER[1]}/ has rows of run {published}. Restore the "
            "records of the runs between, with all that is in ledger/. If they are gone for good, move "
            "bill_lines/ and bills/ to another place and keep them: the next run adds anew what is missing.",
            parameter="output",
        )
    raise OutputError(
        f"{last if runs.count else f'{storage.path(RUNS)} has no record'}, but {storage.path(lines[0])} has lines of a "
        f"later run, and {STAGING}/ nothing of it, as if it had been committed. Restore its record. If there never was "
        "one, as that run was killed, or if it is gone for good, move that folder to another place and keep it.",
        parameter="output",
    )


def broken_record(
    storage: Folder, error: BrokenRecordError, names: Sequence[str], number: int, runs: SummedRuns
) -> OutputError:
    """What is said of a record that is not whole, the one of the run `number`; `runs` are those before it. Only of a
    run that has left nothing, and that is the last, the record may go."""
    path = storage.path(f"{RUNS}/{names[number - 1]}")
    if number < len(names) or not isinstance(storage, Storage):
        return error
    if any(int(name[:-5]) >= number for name in numbered(storage.names(CHECKPOINTS))):
        return error
    if _unknown_lines(storage, runs):
        return error
    if any(_last_run(storage, table) >= number for table in PARTITIONED_BY):
        return error
    return BrokenRecordError(
        path,
        f"Neither lines nor published rows of run {number} are there, so nothing is lost with it: if you cannot "
        "restore it, delete that file and run again.",
    )


def _lines_of_lost_runs(storage: Storage, runs: SummedRuns) -> list[str]:
    """The lines of runs that began after the last record's and were neither killed nor are at work."""
    since = (runs.last_id or "").partition("-")[0]
    later = [path for path, run_id in _unknown_lines(storage, runs) if run_id.partition("-")[0] > since]
    return [path for path in later if not storage.exists(f"{STAGING}/{_name_of(path)}")]


def _unknown_lines(storage: Storage, runs: SummedRuns) -> list[tuple[str, str]]:
    known = {run_id for sums in (runs.lines, runs.left_out) for of_date in sums.values() for run_id in of_date}
    found = [
        (kind, name[len(_RUN) :])
        for kind in (LINES, CONFLICTS)
        for name in storage.names(kind)
        if name.startswith(_RUN)
    ]
    return [(f"{kind}/{_RUN}{run_id}", run_id) for kind, run_id in found if run_id not in known]


def _name_of(path: str) -> str:
    """The name of a run in `_staging`, by the folder of the lines of one of its attempts."""
    return path.rpartition(_RUN)[2].rpartition("-")[0]


def _last_run(storage: Storage, table: str, dates: Optional[Iterable[str]] = None) -> int:
    """The last run that rows of a table say they are of, on some dates or on all; 0 if there are none, or none that can
    be read."""
    paths = [table] if dates is None else [f"{table}/billing_date={date}" for date in sorted(dates)]
    paths = [storage.path(path) for path in paths if storage.exists(path)]
    if not paths:
        return 0
    rows = (
        storage.spark.read.schema("run bigint")
        .option("pathGlobFilter", "*.parquet")
        .options(recursiveFileLookup=True, ignoreCorruptFiles=True)
    )
    with suppress(PySparkException, Py4JJavaError):
        return int(rows.parquet(*paths).agg(F.max("run").alias("run")).collect()[0]["run"] or 0)
    return 0
