"""A ledger: what was billed for one usage, run by run, wherever it is kept.

A run adds lines, which are the difference to what the ledger says, and a record of itself, with the count and the sums
of its lines. Both count from one moment on, and only on top of the run that the difference was computed from: of two
runs at once, one gets the next number. Where that is kept is a store: a folder (`folder_ledger`), or a table of a
catalog (`table_ledger`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Optional

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession

from spark_billing.core.errors import OutputError
from spark_billing.core.hours import Period
from spark_billing.core.spark_errors import storage_trouble, users_error
from spark_billing.core.storage import path_is_absent, unseen_in
from spark_billing.ledger.line_sums import sums_by_run_and_date
from spark_billing.ledger.publishing import Touched
from spark_billing.ledger.run_record import LineSums, RunRecord
from spark_billing.ledger.summed_runs import ByDate, SummedRuns

Expected = Mapping[tuple[str, str], LineSums]  # (UTC+8 date, run_id) -> the sums of its rows


class Ledger(ABC):
    """The committed runs of a ledger as they stood when it was opened."""

    def __init__(
        self, spark: SparkSession, where: str, runs: SummedRuns, last: Optional[RunRecord], checkpointed: int
    ) -> None:
        self.spark, self.where = spark, where
        self.runs, self.last = runs, last
        self.checkpointed = checkpointed  # how many of the runs were read from a checkpoint

    @property
    def version(self) -> str:
        """What names this state of the ledger to a reader: its last run, and where that is recorded."""
        return f"run {self.runs.count} of {self.where}"

    def require(self, source: str, currency: str, tags: Iterable[str]) -> None:
        """`OutputError` if the ledger was begun for another usage table or in another currency, or has a tag column
        that differs from one of these by case alone: Spark could not read the two together."""
        if self.last is None:
            return
        if self.last.price_list.currency != currency:
            raise OutputError(
                f"{self.where} holds bills in {self.last.price_list.currency}, and this run bills in "
                f"{currency}; give each currency an output of its own",
                parameter="output",
            )
        if self.last.source != source:
            raise OutputError(
                f"{self.where} holds the bills of the usage {self.last.source!r}, and this run reads "
                f"{source!r}. If that is the same log at another place, name its source {self.last.source!r}; if not, "
                "give it an output of its own, or it would take back what the other is billed.",
                parameter="source",
            )
        known = {tag.lower(): tag for tag in self.runs.tag_columns}
        for tag in tags:
            if known.get(tag.lower(), tag) != tag:
                raise OutputError(
                    f"{self.where} holds bills by {known[tag.lower()]}, and this run bills by {tag}: Spark does "
                    "not tell these apart. Spell the key as before, or give another output.",
                    parameter="group_by_tags",
                )

    def lines(self, dates: Iterable[str]) -> Optional[DataFrame]:
        """The committed lines of some UTC+8 dates (`LEDGER_LINES` and tags), verified; None if there are none.

        `OutputError` if they are not, in number and sums, what their runs have recorded.
        """
        expected = _of_dates(self.runs.lines, dates)
        if not expected:
            return None
        tags = {tag for date, _ in expected for tag in self.runs.tags.get(date, ())}
        return self._verified(lambda: self._read_lines(expected, tags), expected)

    def left_out(self, dates: Iterable[str]) -> Optional[DataFrame]:
        """What the runs have left out as conflicts on some UTC+8 dates (`LEFT_OUT`), verified; None if there is none.

        `OutputError` as for `lines`.
        """
        expected = _of_dates(self.runs.left_out, dates)
        return self._verified(lambda: self._read_left_out(expected), expected) if expected else None

    def unverified(self, expected: Expected, *, left_out: bool) -> DataFrame:
        """The lines of some dates and runs, or what they have left out, as it is there."""
        if left_out:
            return self._read_left_out(expected)
        tags = {tag for date, _ in expected for tag in self.runs.tags.get(date, ())}
        return self._read_lines(expected, tags)

    def _verified(self, read: Callable[[], DataFrame], expected: Expected) -> DataFrame:
        try:
            written = read()
            found = sums_by_run_and_date(written)
        except (PySparkException, Py4JJavaError) as error:
            unseen = unseen_in(str(error))
            if unseen:
                raise OutputError(unseen) from None
            if isinstance(error, PySparkException) and path_is_absent(error):
                reason = str(error).splitlines()[0]
                raise OutputError(f"lines that a committed run wrote are gone ({reason}). Restore them.") from None
            if storage_trouble(error) or not users_error(error):
                raise
            raise OutputError(  # else it would be told of the usage
                f"{self.where} has a file in its ledger that cannot be read as what a run wrote: {users_error(error)} "
                "Restore it; or if it is none of the ledger's, remove it."
            ) from None
        for date, run_id in (*expected, *found):
            recorded, there = (sums.get((date, run_id), "none") for sums in (expected, found))
            if there != recorded:
                raise OutputError(
                    f"{self._place(date, run_id, written)} is not what its run wrote: recorded are {recorded}, there "
                    f"are {there}. Restore it."
                )
        return written

    @abstractmethod
    def _read_lines(self, expected: Expected, tags: set[str]) -> DataFrame:
        """The lines of some dates and runs, and of no others."""

    @abstractmethod
    def _read_left_out(self, expected: Expected) -> DataFrame:
        """Likewise what they have left out as conflicts."""

    @abstractmethod
    def _place(self, date: str, run_id: str, written: DataFrame) -> str:
        """Where the rows of a run on a date are, for a message."""

    @abstractmethod
    def rejected(self, period: Period) -> Optional[DataFrame]:
        """The rejected rows of a period's hours and those without a time, as the last run on each hour has left them:
        `reject_reason, billing_date, billing_hour`; None if there are none."""


class Work(ABC):
    """What a run keeps while it works: what it computes once, what it adds, and the tables that it writes."""

    is_dry: bool  # nothing is written, not even aside

    @abstractmethod
    def keep(self, name: str, rows: DataFrame) -> DataFrame:
        """The rows from now on as they are computed here, once."""

    @abstractmethod
    def begin(self, ledger: Ledger, attempt: int) -> Collection[str]:
        """An attempt to commit on top of a ledger. What its last run has left undone is done first; the UTC+8 dates
        whose tables are not as they were published, and are to be rebuilt. `OutputError` if runs are lost."""

    @abstractmethod
    def add(self, run_id: str, changes: DataFrame) -> DataFrame:
        """The changes to the ledger, computed once; they count when the run is committed."""

    @abstractmethod
    def leave_out(self, run_id: str, changes: DataFrame) -> DataFrame:
        """The changes to what is left out as conflicts, likewise."""

    @abstractmethod
    def rebuild(self, of_dates: DataFrame, number: int) -> Mapping[str, DataFrame]:
        """`bill_lines` and `bills` of some dates from all of their ledger lines, written and read back; nothing where
        they are views of the ledger."""

    @abstractmethod
    def calls(self, table: str, run_id: str, rated: DataFrame, **added: Column) -> dict[str, int]:
        """A table of calls as they came, with some columns added; what was counted in writing."""

    @abstractmethod
    def written(self, table: str) -> DataFrame:
        """These calls, read back."""

    @abstractmethod
    def commit(self, ledger: Ledger, record: RunRecord, touched: Touched) -> Optional[RunRecord]:
        """Commit a run with what it added and wrote, on top of the ledger: its record as it is kept; None if another
        run was first, and nothing of this attempt is left."""

    @abstractmethod
    def clear(self) -> None:
        """Remove what no committed record speaks of."""


class InMemory(Work):
    """What a dry run computes and looks at more than once."""

    is_dry = True

    def __init__(self) -> None:
        self._persisted: list[DataFrame] = []

    def keep(self, name: str, rows: DataFrame) -> DataFrame:
        self._persisted.append(rows.persist())
        rows.count()  # now, under the settings that hold now
        return rows

    def begin(self, ledger: Ledger, attempt: int) -> Collection[str]:
        return ()

    def add(self, run_id: str, changes: DataFrame) -> DataFrame:
        return self.keep("added", changes)

    def leave_out(self, run_id: str, changes: DataFrame) -> DataFrame:
        return changes

    def rebuild(self, of_dates: DataFrame, number: int) -> Mapping[str, DataFrame]:
        return {}

    def calls(self, table: str, run_id: str, rated: DataFrame, **added: Column) -> dict[str, int]:
        raise NotImplementedError("a dry run writes no calls")

    def written(self, table: str) -> DataFrame:
        raise NotImplementedError("a dry run writes no calls")

    def commit(self, ledger: Ledger, record: RunRecord, touched: Touched) -> Optional[RunRecord]:
        return record

    def clear(self) -> None:
        for rows in self._persisted:
            rows.unpersist()


class Store(ABC):
    """Where a ledger is kept: a folder, or a table of a catalog."""

    spark: SparkSession
    where: str  # as a person names it

    @abstractmethod
    def open(self) -> Ledger:
        """The ledger as it is now; `OutputError` if it is not whole."""

    @abstractmethod
    def work(self, name: str) -> Work:
        """What a run of this name works with."""

    @abstractmethod
    def places(self, record: RunRecord) -> Sequence[tuple[str, str]]:
        """Where a person finds what a committed run has written: what it is, and where."""


def _of_dates(sums: ByDate, dates: Iterable[str]) -> dict[tuple[str, str], LineSums]:
    return {(date, run_id): found for date in sorted(set(dates)) for run_id, found in sums.get(date, {}).items()}
