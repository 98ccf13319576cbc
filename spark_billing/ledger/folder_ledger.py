"""A ledger in a folder: lines in Parquet, records in JSON, and the tables published from them beside it.

A run writes its lines into a folder of its own. They count once its record exists, and a record is the exclusive
creation of the next number. A checkpoint now and then holds what all records up to it come to: only those since are
read. What is old is compacted into fewer files (`compaction`), and found by `places`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import reduce
from typing import Optional

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from spark_billing.bills.lines import hourly_bills
from spark_billing.core.columns import tag_columns
from spark_billing.core.errors import OutputError
from spark_billing.core.hours import Period, hour_number
from spark_billing.core.schemas import LEFT_OUT
from spark_billing.core.spark_errors import spark_reason, storage_trouble
from spark_billing.core.storage import Folder, Storage, path_is_absent
from spark_billing.ledger.damage import CHECKPOINTS as CHECKPOINTS
from spark_billing.ledger.damage import RUNS as RUNS
from spark_billing.ledger.damage import (
    STAGING,
    broken_record,
    dates_behind,
    require_a_new_output,
    require_no_lost_runs,
)
from spark_billing.ledger.difference import net_lines
from spark_billing.ledger.files import Staging, lines_schema, read_compacted, read_written
from spark_billing.ledger.ledger import Expected, Ledger, Store, Work
from spark_billing.ledger.numbered import numbered, numbered_name
from spark_billing.ledger.places import newest_places
from spark_billing.ledger.published_files import FROM_LEDGER, by_date
from spark_billing.ledger.publishing import Touched, clear, finish_publishing, publish, touched_partitions
from spark_billing.ledger.run_record import CONFLICTS, LINES, BrokenRecordError, RunRecord, conflicts_path, lines_path
from spark_billing.ledger.summed_runs import EVERY, SummedRuns, require_follows

_REJECTED = "reject_reason string, billing_date date, billing_hour int"


class FolderLedger(Ledger):
    """The ledger of an output folder."""

    def __init__(self, storage: Folder, runs: SummedRuns, last: Optional[RunRecord], checkpointed: int) -> None:
        super().__init__(storage.spark, storage.root, runs, last, checkpointed)
        self.storage = storage

    @classmethod
    def open(cls, storage: Folder) -> FolderLedger:
        """Reads the last checkpoint and every record since; `OutputError` if a record is missing, incomplete or not on
        top of the one before it."""
        checkpoints = numbered(storage.names(CHECKPOINTS))  # before the records: each has its own when it is written
        names = numbered(storage.names(RUNS))
        for number, name in enumerate(names, start=1):
            if name != numbered_name(number):
                raise OutputError(
                    f"{storage.path(RUNS)} is not whole: {name} does not follow on the run before it "
                    f"({numbered_name(number)} was needed). Restore the records that are missing."
                )
        if checkpoints[-1:] > names[-1:]:
            raise OutputError(
                f"{storage.path(RUNS)} is not whole: {checkpoints[-1]} is gone, which a checkpoint of that name sums "
                "with all before it. Restore the records that are missing."
            )
        runs, of_checkpoint = _checkpointed(storage, checkpoints)
        if not names:
            require_a_new_output(storage)
        new: dict[int, tuple[RunRecord, str]] = {}
        for number, (name, text) in enumerate(_texts(storage, names[runs.count :]), start=runs.count + 1):
            try:
                new[number] = (RunRecord.from_json(storage.path(f"{RUNS}/{name}"), text), text)
            except BrokenRecordError as error:
                raise broken_record(storage, error, names, number, runs.after(list(new.values()))) from None
            parent = new[number - 1][0].run_id if number - 1 in new else runs.last_id
            require_follows(storage.path(RUNS), number, parent, new[number][0], name)
        last = new[len(names)][0] if new else of_checkpoint
        return cls(storage, runs.after(list(new.values())), last, runs.count)

    def _read_lines(self, expected: Expected, tags: set[str]) -> DataFrame:
        return self._read(LINES, expected, lines_schema(tags))

    def _read_left_out(self, expected: Expected) -> DataFrame:
        return self._read(CONFLICTS, expected, LEFT_OUT)

    def _read(self, kind: str, expected: Expected, schema: StructType) -> DataFrame:
        """Asks at each reading where the rows are: what was compacted long ago is no longer in the folders of runs."""
        found = newest_places(self.storage).found(kind, expected)
        parts = []
        if found.apart:
            parts.append(read_written(self.storage, kind, found.apart, schema))
        if found.together:
            rows = read_compacted(self.storage, kind, found.together, schema)
            for date, run_ids in found.others.items():
                of_others = (F.col("billing_date") == F.lit(date).cast("date")) & F.col("run_id").isin(*run_ids)
                rows = rows.filter(~of_others)
            parts.append(rows)
        return reduce(DataFrame.unionByName, parts)

    def _place(self, date: str, run_id: str, written: DataFrame) -> str:
        kind = LINES if "token_type" in written.columns else CONFLICTS
        found = newest_places(self.storage).found(kind, [(date, run_id)])
        return self.storage.path((*found.apart, *found.together)[0])

    def rejected(self, period: Period) -> Optional[DataFrame]:
        hour = F.unix_date("billing_date") * 24 + F.col("billing_hour")
        first, end = (hour_number(edge) for edge in (period.start, period.end))
        try:
            read = self.spark.read.schema(_REJECTED).option("pathGlobFilter", "*.parquet")
            rows = read.parquet(self.storage.path("rejected"))
            rows = rows.filter(F.col("billing_date").isNull() | ((hour >= first) & (hour < end)))
            rows.isEmpty()  # a path is looked for when it is read, on Spark Connect
        except PySparkException as error:
            if not path_is_absent(error):
                raise
            return None
        return rows


class FolderStore(Store):
    """An output folder that runs are billed into."""

    def __init__(self, storage: Storage, patience: float) -> None:
        self.spark, self.where, self.storage = storage.spark, storage.root, storage
        self.patience = patience  # seconds without progress, after which a run that is publishing counts as dead

    def open(self) -> FolderLedger:
        return FolderLedger.open(self.storage)

    def work(self, name: str) -> RunFolder:
        return RunFolder(self.storage, name, self.patience)

    def places(self, record: RunRecord) -> Sequence[tuple[str, str]]:
        folders = [("bill lines", "bill_lines"), ("bills", "bills")]
        folders += [("rejected rows", "rejected")] if record.totals.rows["rejected"] else []
        folders += [("priced calls", "priced_calls")] if record.arguments.get("detail") else []
        folders += [("run record", record_path(record.run))]
        return [(what, self.storage.path(path)) for what, path in folders]


class RunFolder(Work):
    """The folder of one run below the output, and what in it no committed record speaks of yet."""

    is_dry = False

    def __init__(self, storage: Storage, name: str, patience: float) -> None:
        self.spark, self.storage, self.patience = storage.spark, storage, patience
        self.path = f"{STAGING}/{name}"
        self._output_is_new = not storage.exists("")
        self._uncommitted = [self.path]
        self._published: dict[str, dict[str, int]] = {}
        _require_room(storage, self.path)
        self._attempt = self._staging("1")

    def keep(self, name: str, rows: DataFrame) -> DataFrame:
        path = self.storage.path(f"{self.path}/usage/{name}")
        rows.write.parquet(path)
        return self.spark.read.schema(rows.schema).parquet(path)

    def begin(self, ledger: Ledger, attempt: int) -> Collection[str]:
        finish_publishing(self.storage, ledger.last, self.patience)
        self._attempt, self._published = self._staging(str(attempt)), {}
        behind = dates_behind(self.storage, ledger.runs)
        if behind or ledger.last is None or ledger.last.published is None:
            require_no_lost_runs(self.storage, ledger.runs, behind)
        return behind

    def add(self, run_id: str, changes: DataFrame) -> DataFrame:
        path = lines_path(run_id)
        self._uncommitted.append(path)
        self._staging("lines").write_lines(changes.drop("run_id"), path)
        return read_written(self.storage, LINES, [path], lines_schema(tag_columns(changes)))

    def leave_out(self, run_id: str, changes: DataFrame) -> DataFrame:
        path = conflicts_path(run_id)
        self._uncommitted.append(path)
        self._staging("conflicts").write_conflicts(changes.drop("run_id"), path)
        return read_written(self.storage, CONFLICTS, [path], LEFT_OUT)

    def rebuild(self, of_dates: DataFrame, number: int) -> Mapping[str, DataFrame]:
        run = F.lit(number).cast("bigint").alias("run")
        lines = self._attempt.table("bill_lines", net_lines(of_dates).select("*", run))
        bills = self._attempt.table("bills", hourly_bills(lines).select("*", run))
        self._published = by_date(
            {table: self.storage.files(f"{self._attempt.folder}/{table}") for table in FROM_LEDGER}
        )
        return {"bill_lines": lines, "bills": bills}

    def calls(self, table: str, run_id: str, rated: DataFrame, **added: Column) -> dict[str, int]:
        return self._attempt.calls(table, rated, **added)

    def written(self, table: str) -> DataFrame:
        return self._attempt.read(table)

    def commit(self, ledger: Ledger, record: RunRecord, touched: Touched) -> Optional[RunRecord]:
        if not record.ledger.hours:
            clear(self.storage, record.lines_path)
        if not record.left_out:
            clear(self.storage, conflicts_path(record.run_id))
        replaced = self._attempt.partitions()
        emptied = sorted(set(touched_partitions(self.storage, touched)) - set(replaced))
        published = {date: self._published.get(date, {}) for date in sorted({*touched.dates, *self._published})}
        record = replace(record, staging=self._attempt.folder, replace=replaced, remove=emptied, published=published)
        # from here on the run may be committed, even if an error says otherwise: only a lost race clears its files
        self._uncommitted = []
        text = record.to_json()
        if not create_record(self.storage, record, text):
            clear(self.storage, record.lines_path)
            clear(self.storage, conflicts_path(record.run_id))
            self._uncommitted = [self.path]
            return None
        publish(self.storage, record)
        _write_checkpoint(self.storage, ledger, record, text)
        return record

    def clear(self) -> None:
        for folder in reversed(self._uncommitted):  # lines without a folder in staging look like those of a lost run
            clear(self.storage, folder)
        if self._output_is_new:
            self.storage.delete_if_empty("")

    def _staging(self, name: str) -> Staging:
        return Staging(self.spark, self.storage, f"{self.path}/{name}")


def record_path(number: int) -> str:
    """Where the record of a run is, below the output."""
    return f"{RUNS}/{numbered_name(number)}"


def create_record(storage: Storage, record: RunRecord, text: str) -> bool:
    """Create the record of the next run; False if another run has got that number."""
    path = record_path(record.run)
    if not storage.create(path, text):
        return False
    # where the storage has no exclusive creation, another run may have written over it
    return RunRecord.from_json(path, storage.read(path)).run_id == record.run_id


def _checkpointed(storage: Folder, names: Sequence[str]) -> tuple[SummedRuns, Optional[RunRecord]]:
    """The sum of the first runs by the last of some checkpoints that is whole and ends with the record of its number;
    with that record."""
    for name in reversed(names):
        runs = SummedRuns.from_text(storage.texts(CHECKPOINTS, [name]).get(name, ""))
        if runs is None or numbered_name(runs.count) != name:
            continue
        record = RunRecord.from_json(storage.path(f"{RUNS}/{name}"), storage.texts(RUNS, [name]).get(name, ""))
        if record.run_id == runs.last_id:
            return runs, record
    return SummedRuns(), None


def _require_room(storage: Storage, path: str) -> None:
    """Make a folder, so that an output that nobody can write into is told before the work, and in a line."""
    try:
        storage.make(path)
    except (OSError, Py4JJavaError) as error:
        trouble = storage_trouble(error)
        raise OutputError(
            f"cannot write into the output {storage.root!r}: {trouble or spark_reason(error)}", parameter="output"
        ) from None


def _write_checkpoint(storage: Storage, ledger: Ledger, record: RunRecord, text: str) -> None:
    """Now and then the sum of all runs; without it the next run has more to read, and nothing else is lost."""
    if record.run - ledger.checkpointed >= EVERY:
        with suppress(OSError, Py4JJavaError):
            storage.create(f"{CHECKPOINTS}/{numbered_name(record.run)}", ledger.runs.after([(record, text)]).to_text())


def _texts(storage: Folder, names: Sequence[str]) -> list[tuple[str, str]]:
    texts = storage.texts(RUNS, names)
    return [(name, texts.get(name, "")) for name in names]
