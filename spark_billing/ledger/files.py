"""The files of a run: written aside, read back and counted, and moved into place once its record is committed."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from typing import Any, Optional, Union

from pyspark.sql import Column, DataFrame, Observation, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StringType, StructField, StructType

from spark_billing.core.columns import billing_date, billing_hour, quoted, tag_columns, total
from spark_billing.core.hours import date_label, hour_number
from spark_billing.core.schemas import LEDGER_LINES, LEFT_OUT
from spark_billing.core.storage import Folder, Storage
from spark_billing.ledger.run_record import CONFLICTS, LINES, RunRecord, conflicts_path, lines_path
from spark_billing.usage.calls import countable
from spark_billing.usage.mapping import ROW, as_it_came
from spark_billing.usage.reasons import REJECT_REASONS

# The tables under the output and how each is partitioned: what a run replaces is whole partitions
PARTITIONED_BY = {
    "bill_lines": ("billing_date",),
    "bills": ("billing_date",),
    "rejected": ("billing_date", "billing_hour"),
    "priced_calls": ("billing_date", "billing_hour"),
}

_NO_TIME = "__HIVE_DEFAULT_PARTITION__"  # the partition of rows without a readable call_time
_LINE_ORDER = ("period_start", "workspace_id", "region", "model", "tier", "token_type", "price_per_1k")


class InMemory:
    """What a dry run computes and looks at more than once: it writes nothing, not even aside."""

    def __init__(self) -> None:
        self._persisted: list[DataFrame] = []

    def keep(self, name: str, rows: DataFrame) -> DataFrame:
        """The rows from now on as they are computed here, once."""
        self._persisted.append(rows.persist())
        rows.count()  # now, under the settings that hold now
        return rows

    def add(self, run_id: str, changes: DataFrame) -> DataFrame:
        """The changes to the ledger, computed once."""
        return self.keep("added", changes)

    def leave_out(self, run_id: str, changes: DataFrame) -> DataFrame:
        """The changes to what is left out as conflicts."""
        return changes

    def clear(self) -> None:
        for rows in self._persisted:
            rows.unpersist()


class RunFolder:
    """The folder of one run below the output, and what in it no committed record speaks of yet."""

    def __init__(self, spark: SparkSession, storage: Storage, name: str) -> None:
        self.spark, self.storage = spark, storage
        self.path = f"_staging/{name}"
        self._output_is_new = not storage.exists("")
        self._uncommitted = [self.path]

    def keep(self, name: str, rows: DataFrame) -> DataFrame:
        """The rows from now on as they are computed here, once."""
        path = self.storage.path(f"{self.path}/usage/{name}")
        rows.write.parquet(path)
        return self.spark.read.schema(rows.schema).parquet(path)

    def add(self, run_id: str, changes: DataFrame) -> DataFrame:
        """The changes to the ledger, computed once: in a folder that does not count before the run's record exists."""
        path = lines_path(run_id)
        self._uncommitted.append(path)
        self.attempt("lines").write_lines(changes.drop("run_id"), path)
        return read_lines(self.spark, self.storage, [path], set(tag_columns(changes)))

    def leave_out(self, run_id: str, changes: DataFrame) -> DataFrame:
        """The changes to what is left out as conflicts, written and read back as `add` does it."""
        path = conflicts_path(run_id)
        self._uncommitted.append(path)
        self.attempt("conflicts").write_conflicts(changes.drop("run_id"), path)
        return read_conflicts(self.spark, self.storage, [path])

    def attempt(self, name: str) -> Staging:
        """Where the tables of one attempt to commit are written."""
        return Staging(self.spark, self.storage, f"{self.path}/{name}")

    def commits(self) -> None:
        """From here on the run may be committed, even if an error says otherwise: only a lost race clears its files."""
        self._uncommitted = []

    def lost(self, run_id: str) -> None:
        """Another run was first: the lines of this attempt will never count."""
        clear(self.storage, lines_path(run_id))
        clear(self.storage, conflicts_path(run_id))
        self._uncommitted = [self.path]

    def clear(self) -> None:
        """Remove what no committed record speaks of."""
        for folder in self._uncommitted:
            clear(self.storage, folder)
        if self._output_is_new:
            self.storage.delete_if_empty("")


# Where a run keeps what it computes once: a dry run in memory
RunFiles = Union[RunFolder, InMemory]


class Staging:
    """A folder below the output that no reader of the tables looks into: the tables of one attempt, written aside."""

    def __init__(self, spark: SparkSession, storage: Storage, folder: str) -> None:
        self.spark, self.storage, self.folder = spark, storage, folder

    def write_lines(self, lines: DataFrame, path: str) -> None:
        """Bill lines in a folder, by date and in order."""
        tags = sorted(tag_columns(lines))
        self.write(lines, path, ("billing_date",), (*_LINE_ORDER, *tags))

    def write_conflicts(self, rows: DataFrame, path: str) -> None:
        """What is left out as conflicts, in a folder, by date and in order."""
        self.write(rows, path, ("billing_date",), ("period_start", "workspace_id"))

    def table(self, table: str, rows: DataFrame) -> DataFrame:
        """A table of bill lines or bills, written and read back."""
        path = f"{self.folder}/{table}"
        if table == "bill_lines":
            self.write_lines(rows, path)
        else:
            self.write(rows, path, PARTITIONED_BY[table], ("period_start", "workspace_id"))
        return self.spark.read.schema(rows.schema).parquet(self.storage.path(path))

    def calls(self, table: str, rated: DataFrame, **added: Column) -> dict[str, int]:
        """A table of calls as they came, with some columns added, by their UTC+8 hour; what was counted in writing."""
        counted = Observation(table)
        counts = {name: countable(F.col(name)) for name in ("input_tokens", "output_tokens")}
        rated = rated.observe(
            counted, F.count(F.lit(1)).alias("requests"), *(total(c).alias(name) for name, c in counts.items())
        )
        seconds = F.unix_seconds("call_time")
        added = {**added, "billing_date": billing_date(seconds), "billing_hour": billing_hour(seconds)}
        source: Any = rated.schema["source"].dataType
        rows = rated.select(
            *as_it_came(F.col("source").getField(ROW), tuple(added), source[ROW].dataType),
            *(column.alias(name) for name, column in added.items()),
        )
        self.write(rows, f"{self.folder}/{table}", PARTITIONED_BY[table], ())
        return {name: int(value) for name, value in counted.get.items()}

    def rejected_rows(self) -> dict[str, int]:
        """The rows in the written table of rejected calls by reason, in the order of the reasons."""
        path = self.storage.path(f"{self.folder}/rejected")
        written = self.spark.read.parquet(path).groupBy("reject_reason").count().collect()
        rows = {row["reject_reason"]: row["count"] for row in written}
        return {reason: rows[reason] for reason in REJECT_REASONS if reason in rows}

    def read(self, table: str) -> DataFrame:
        return self.spark.read.parquet(self.storage.path(f"{self.folder}/{table}"))

    def partitions(self) -> list[str]:
        """The partitions written here, as paths below the output once they are moved there."""
        return [part for table in PARTITIONED_BY for part in _partitions(self.storage, f"{self.folder}/", table)]

    def write(self, rows: DataFrame, path: str, by: Sequence[str], in_order: Sequence[str]) -> None:
        """Rows in a folder of the output, partitioned, and in order within each file."""
        ordered = rows.repartition(*by).sortWithinPartitions(*by, *(quoted(name) for name in in_order))
        ordered.write.partitionBy(*by).parquet(self.storage.path(path))


def touched_partitions(
    storage: Storage, changed_dates: Collection[str], covered: Collection[int], *, without_time: bool, before: str
) -> list[str]:
    """The partitions in place that a run replaces or removes: bills by date, calls by hour; calls `without_time`, and
    those of dates `before` all calls, with any period."""
    hours = {(date_label(hour), str(hour_number(hour) % 24)) for hour in covered}
    if without_time:
        hours.add((_NO_TIME, _NO_TIME))
    touched = []
    for table, by in PARTITIONED_BY.items():
        for part in _partitions(storage, "", table):
            values = tuple(folder.partition("=")[2] for folder in part.split("/")[1:])
            of_calls = by[-1] == "billing_hour"
            if (values in hours or values[0] < before) if of_calls else values[0] in changed_dates:
                touched.append(part)
    return touched


def _partitions(storage: Storage, under: str, table: str) -> list[str]:
    """The partitions of a table below a folder of the output, as paths such as bills/billing_date=2026-04-08."""
    found = [table]
    for column in PARTITIONED_BY[table]:
        found = [
            f"{part}/{name}" for part in found for name in storage.names(under + part) if name.startswith(f"{column}=")
        ]
    return found


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
    """Move a committed run's partitions into place. Done again from the start after a kill, it ends the same."""
    of_run = record.staging.rpartition("/")[0]
    if not storage.exists(of_run):
        return
    for part in _unpublished(storage, record):
        if storage.exists(f"{record.staging}/{part}"):  # else another process has just moved it
            storage.delete(part)
            storage.move(f"{record.staging}/{part}", part)
    for part in record.remove:
        if not storage.exists(of_run):  # another process has finished this, and later runs may have written since
            return
        storage.delete(part)
        for folder in (part.rpartition("/")[0], part.split("/")[0]):
            storage.delete_if_empty(folder)
    clear(storage, of_run)  # with what the run has kept of its usage


def clear(storage: Storage, folder: str) -> None:
    """Delete a folder, and the one above it if nothing else is in it."""
    storage.delete(folder)
    storage.delete_if_empty(folder.rpartition("/")[0])


def read_lines(spark: SparkSession, storage: Folder, paths: Sequence[str], tags: set[str]) -> DataFrame:
    """The ledger lines in some folders of runs."""
    schema = StructType([*LEDGER_LINES.fields, *(StructField(tag, StringType()) for tag in sorted(tags))])
    read = spark.read.schema(schema).option("basePath", storage.path(LINES))
    return read.parquet(*(storage.path(path) for path in paths))


def read_conflicts(spark: SparkSession, storage: Folder, paths: Sequence[str]) -> DataFrame:
    """What runs have left out as conflicts, from some of their folders."""
    read = spark.read.schema(LEFT_OUT).option("basePath", storage.path(CONFLICTS))
    return read.parquet(*(storage.path(path) for path in paths))


def _unpublished(storage: Storage, record: RunRecord) -> list[str]:
    return [part for part in record.replace if storage.exists(f"{record.staging}/{part}")]
