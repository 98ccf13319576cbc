"""A ledger in a table of a catalog: the lines, what is left out, and a row for each run with its record.

All rows of a run are one commit of the format, which succeeds only if the ledger is still at the run before. Whether it
did is never taken from an exception, nor from none: the table is asked.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Optional

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_billing.core.columns import literal_rows, quoted
from spark_billing.core.errors import OutputError, TotalsError
from spark_billing.core.hours import Period, date_label, hour_number
from spark_billing.core.schemas import LEDGER_LINES, LEFT_OUT
from spark_billing.ledger.exclusion import require_exclusive
from spark_billing.ledger.files import calls_as_they_came
from spark_billing.ledger.formats import COMMIT_ERRORS, TableFormat, TableName
from spark_billing.ledger.ledger import Expected, Ledger, Store, Work
from spark_billing.ledger.ledger_table import (
    CHECKPOINT,
    LEFT,
    LINE,
    RUN,
    TABLE,
    add_columns,
    find_table,
    make_table,
    require_namespace,
    rows_of,
    tags_in,
)
from spark_billing.ledger.line_sums import sums_by_kind
from spark_billing.ledger.publishing import Touched
from spark_billing.ledger.run_record import LineSums, RunRecord
from spark_billing.ledger.summed_runs import EVERY, SummedRuns, require_follows
from spark_billing.ledger.table_calls import CallTable
from spark_billing.ledger.views import keep_views, require_views, views_of

_COMMITS = 5  # tries of a commit that a compaction was in the way of


class TableLedger(Ledger):
    """The ledger of a namespace, at one version of its table."""

    def __init__(
        self,
        spark: SparkSession,
        namespace: str,
        table: Optional[TableFormat],
        version: Optional[str],
        runs: SummedRuns,
        last: Optional[RunRecord],
        checkpointed: int,
    ) -> None:
        super().__init__(spark, namespace, runs, last, checkpointed)
        self.table, self.table_version = table, version

    @classmethod
    def open(cls, spark: SparkSession, namespace: str) -> TableLedger:
        """Reads the last checkpoint and every record since; `OutputError` if the table is not ours or not whole."""
        require_namespace(spark, namespace)
        table = find_table(spark, TableName(namespace, TABLE))
        if table is None:
            return cls(spark, namespace, None, None, SummedRuns(), None, 0)
        version, where = table.version(), table.table.plain
        rows = table.read(version)
        runs = _checkpoint(rows)
        found = rows.filter((F.col("kind") == RUN) & (F.col("run") >= runs.count)).select("run", "record").collect()
        records = [(RunRecord.from_json(f"{where}, run {run},", text), text) for run, text in sorted(map(tuple, found))]
        if runs.count and (not records or records[0][0].run_id != runs.last_id):
            raise OutputError(
                f"{where} is not whole: run {runs.count} is gone. Restore an earlier version of the table."
            )
        new = records[1:] if runs.count else records
        parent = runs.last_id
        for number, (record, _) in enumerate(new, start=runs.count + 1):
            require_follows(where, number, parent, record, f"run {record.run}")
            parent = record.run_id
        last = records[-1][0] if records else None
        return cls(spark, namespace, table, version, runs.after(new), last, runs.count)

    @property
    def version(self) -> str:
        at = f", {self.table.name} version {self.table_version}" if self.table is not None else ""
        return f"run {self.runs.count} of {self.where}.{TABLE}{at}"

    def rows(self) -> DataFrame:
        """The whole table at the version that was opened."""
        if self.table is None:
            raise OutputError(f"nothing was ever billed into {self.where}")
        return self.table.read(self.table_version)

    def _read_lines(self, expected: Expected, tags: set[str]) -> DataFrame:
        return _of_dates(self.rows(), LINE, expected).select(
            *LEDGER_LINES.fieldNames(), *(quoted(tag) for tag in sorted(tags))
        )

    def _read_left_out(self, expected: Expected) -> DataFrame:
        return _of_dates(self.rows(), LEFT, expected).select(*LEFT_OUT.fieldNames())

    def _place(self, date: str, run_id: str, written: DataFrame) -> str:
        return f"what {self.where}.{TABLE} has of the run {run_id} on {date}"

    def rejected(self, period: Period) -> Optional[DataFrame]:
        table = CallTable(self.spark, self.where, "rejected").find()
        if table is None:
            return None
        first, end = (hour_number(edge) for edge in (period.start, period.end))
        last_runs = [
            {"hour_number": hour_number(hour), "run": run}
            for hour, run in self.runs.covered_by.items()
            if period.start <= hour < period.end
        ]
        by_hour = literal_rows(self.spark, "hour_number bigint, run bigint", last_runs)
        records = self.rows().filter(F.col("kind") == RUN).select("run_id")
        rows = self.spark.table(str(table)).join(records, "run_id", "left_semi")
        number = F.unix_date("billing_date").cast("bigint") * 24 + F.col("billing_hour")
        rows = rows.withColumn("hour_number", number)
        dated = rows.filter(rows["hour_number"].between(first, end - 1)).join(
            F.broadcast(by_hour), ["hour_number", "run"], "left_semi"
        )
        without = rows.filter(F.col("billing_date").isNull() & (F.col("run") == self.runs.count))
        columns = ("reject_reason", "billing_date", "billing_hour")
        return dated.select(*columns).unionByName(without.select(*columns))


class TableStore(Store):
    """A namespace of a catalog that runs are billed into."""

    def __init__(self, spark: SparkSession, namespace: str, *, one_writer: bool) -> None:
        self.spark, self.where, self.one_writer = spark, namespace, one_writer

    def open(self) -> TableLedger:
        return TableLedger.open(self.spark, self.where)

    def work(self, name: str) -> RunTable:
        name_of_table = TableName(self.where, TABLE)
        was_there = find_table(self.spark, name_of_table) is not None
        require_views(self.spark, self.where)
        table = make_table(self.spark, name_of_table)
        try:
            table.prepare()
            if not self.one_writer:
                scratch = f"spark_billing_probe_{name[-8:]}"
                require_exclusive(self.spark, table.name, name_of_table, scratch)
        except OutputError:
            if not was_there and table.version() in (None, "0"):
                self.spark.sql(f"DROP TABLE IF EXISTS {name_of_table}")
            raise
        return RunTable(self.spark, self.where, table)

    def places(self, record: RunRecord) -> Sequence[tuple[str, str]]:
        tables = [("ledger", TABLE)]
        tables += [("rejected rows", "rejected")] if record.totals.rows["rejected"] else []
        tables += [("priced calls", "priced_calls")] if record.arguments.get("detail") else []
        views = [(name.replace("_", " "), name) for name in views_of(self.spark, self.where)]
        return [(what, f"{self.where}.{table}") for what, table in (*views, *tables)]


class RunTable(Work):
    """What a run keeps in the session's memory and disks until its one commit, and the calls that it appends before."""

    is_dry = False

    def __init__(self, spark: SparkSession, namespace: str, table: TableFormat) -> None:
        self.spark, self.namespace, self.table = spark, namespace, table
        self._rows: list[tuple[str, DataFrame]] = []
        self._uncommitted: list[CallTable] = []
        self._written: dict[str, DataFrame] = {}

    def keep(self, name: str, rows: DataFrame) -> DataFrame:
        return rows.localCheckpoint()  # not cached: what is lost with an executor must not be computed again, otherwise

    def begin(self, ledger: Ledger, attempt: int) -> Collection[str]:
        self._rows = []
        return ()  # what is published are views

    def add(self, run_id: str, changes: DataFrame) -> DataFrame:
        added = self.keep("added", changes)
        self._rows.append((LINE, added))
        return added

    def leave_out(self, run_id: str, changes: DataFrame) -> DataFrame:
        rows = self.keep("left_out", changes)
        self._rows.append((LEFT, rows))
        return rows

    def rebuild(self, of_dates: DataFrame, number: int) -> Mapping[str, DataFrame]:
        return {}

    def calls(self, table: str, run_id: str, rated: DataFrame, **added: Column) -> dict[str, int]:
        rows, counted = calls_as_they_came(table, rated, **added, run_id=F.lit(run_id))
        calls = CallTable(self.spark, self.namespace, table)
        self._uncommitted.append(calls)
        self._written[table] = calls.append(rows, self.table.name, run_id)
        return {name: int(value) for name, value in counted.get.items()}

    def written(self, table: str) -> DataFrame:
        return self._written[table]

    def commit(self, ledger: Ledger, record: RunRecord, touched: Touched) -> Optional[RunRecord]:
        assert isinstance(ledger, TableLedger)
        text = record.to_json()
        tags = sorted({tag for kind, rows in self._rows if kind == LINE for tag in tags_in(rows)})
        add_columns(self.spark, self.table.table, [(tag, _TEXT) for tag in tags])
        own = [(RUN, text)]
        if record.run - ledger.checkpointed >= EVERY:
            own.append((CHECKPOINT, ledger.runs.after([(record, text)]).to_text()))
        rows = [*self._rows, *((kind, _record_row(self.spark, record, content)) for kind, content in own)]
        version = ledger.table_version
        # from here on it may be committed, whatever an error says
        uncommitted, self._uncommitted = self._uncommitted, []
        committed = self._commit(rows_of(rows, tags), record, version)
        if not committed:
            self._uncommitted = uncommitted
            self._forget(record.run_id)
            return None
        keep_views(self.spark, self.namespace)
        return record

    def _commit(self, rows: DataFrame, record: RunRecord, version: Optional[str]) -> bool:
        """Commit, and ask the table what came of it: mine, another's, or nobody's."""
        number, failure = record.run, None
        for _ in range(_COMMITS):
            failure = None
            try:
                self.table.commit(rows, number, version)
            except COMMIT_ERRORS as error:
                failure = error
            now = self.table.version()
            mine = self._whose(now, record)
            if mine is not None:
                return mine
            if failure is None or now == version:
                break
            version = now  # a compaction was first: the ledger is where it was, in other files
        if failure is not None:
            raise failure
        raise OutputError(
            f"{self.table.table.plain} took run {number} without an error and does not have it. Run it again."
        )

    def _whose(self, version: Optional[str], record: RunRecord) -> Optional[bool]:
        """Whether the run of this number is this one, with all of its rows; None if there is none."""
        here = self.table.read(version).filter(F.col("run") == F.lit(record.run).cast("bigint"))
        sums = sums_by_kind(here)
        found = sorted(run_id for kind, _, run_id in sums if kind == RUN)
        if not found:
            return None
        if len(found) > 1 or sums[RUN, None, found[0]].lines > 1:
            raise OutputError(
                f"{self.table.table.plain} has two runs of the number {record.run}: its catalog did not keep two "
                "writers apart. Restore the table to the version before them."
            )
        if found != [record.run_id]:
            return False
        by_kind = ((LINE, _by_date(record.ledger.hours)), (LEFT, record.left_out or {}))
        expected = {(kind, date, record.run_id): each for kind, sums in by_kind for date, each in sums.items()}
        written = {key: each for key, each in sums.items() if key[0] in (LINE, LEFT)}
        if written != expected:
            raise TotalsError(
                f"run {record.run} is committed in {self.table.table.plain}, but its rows are not what was proved: "
                f"recorded are {_told(expected)}, there are {_told(written)}. Restore the version before it."
            )
        return True

    def _forget(self, run_id: str) -> None:
        for calls in self._uncommitted:
            calls.remove(run_id)
        self._uncommitted = []

    def clear(self) -> None:
        for calls in self._uncommitted:
            calls.remove_appended()
        self._uncommitted = []


_TEXT = LEDGER_LINES["workspace_id"].dataType


def _checkpoint(rows: DataFrame) -> SummedRuns:
    """The last checkpoint, if it is whole."""
    rows = rows.filter(F.col("kind") == CHECKPOINT)
    last = rows.agg(F.max("run").alias("run")).collect()[0]["run"]  # not all of their texts, to sort them
    if last is None:
        return SummedRuns()
    text = rows.filter(F.col("run") == F.lit(last).cast("bigint")).select("record").collect()[0]["record"]
    return SummedRuns.from_text(text) or SummedRuns()


def _record_row(spark: SparkSession, record: RunRecord, content: str) -> DataFrame:
    row = {"run": record.run, "run_id": record.run_id, "record": content}
    return literal_rows(spark, "run bigint, run_id string, record string", [row])


def _by_date(hours: Mapping[int, LineSums]) -> dict[str, LineSums]:
    by_date: dict[str, LineSums] = {}
    for hour, sums in hours.items():
        date = date_label(hour)
        by_date[date] = by_date.get(date, LineSums()) + sums
    return by_date


def _told(sums: Mapping[Any, LineSums]) -> str:
    return "; ".join(f"{kind} {date}: {each}" for (kind, date, _), each in sorted(sums.items())) or "none"


def _of_dates(rows: DataFrame, kind: str, expected: Expected) -> DataFrame:
    dates = (F.to_date(F.lit(date)) for date in sorted({date for date, _ in expected}))
    return rows.filter((F.col("kind") == kind) & F.col("billing_date").isin(*dates))
