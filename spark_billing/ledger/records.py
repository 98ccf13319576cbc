"""The committed runs of an output: numbered records, each created once, that say which ledger lines count.

A run writes its lines into a folder of its own. They count once its record exists, and a record is the exclusive
creation of the next number, on top of the run its difference was computed from: of two runs at once, one gets it. The
record holds the count and the sums of the run's lines, which whoever reads them verifies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Optional

from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_billing.core.errors import OutputError
from spark_billing.core.hours import date_label
from spark_billing.core.schemas import AMOUNT, TOTAL_TOKENS
from spark_billing.core.storage import Folder, Storage, path_is_absent
from spark_billing.ledger.files import read_conflicts, read_lines
from spark_billing.ledger.run_record import LineSums, RunRecord, conflicts_path, lines_path

RUNS = "ledger/runs"


@dataclass(frozen=True)
class Ledger:
    """The committed runs of an output, in the order of their numbers."""

    storage: Folder
    records: Sequence[RunRecord]

    @classmethod
    def open(cls, storage: Folder) -> Ledger:
        """Reads every record; `OutputError` if one is missing, incomplete or not on top of the one before it."""
        texts = storage.texts(RUNS)
        names = sorted(name for name in texts if name.endswith(".json") and name[:-5].isdigit())
        records = [RunRecord.from_json(storage.path(f"{RUNS}/{name}"), texts[name]) for name in names]
        parent = None
        for number, (name, record) in enumerate(zip(names, records), start=1):
            if (int(name[:-5]), record.run, record.parent) != (number, number, parent):
                raise OutputError(
                    f"{storage.path(RUNS)} is not whole: {name} does not follow on the run before it (number {number} "
                    f"on {parent} was needed). Restore the records that are missing."
                )
            parent = record.run_id
        return cls(storage, records)

    @property
    def last(self) -> Optional[RunRecord]:
        return self.records[-1] if self.records else None

    @property
    def tag_columns(self) -> list[str]:
        """The tags that any run has grouped its lines by."""
        return sorted({tag for record in self.records for tag in record.tag_columns})

    def require(self, source: str, currency: str, tags: Iterable[str]) -> None:
        """`OutputError` if the ledger was begun for another usage table or in another currency, or has a tag column
        that differs from one of these by case alone: Spark could not read the two together."""
        if self.last is None:
            return
        if self.last.price_list.currency != currency:
            raise OutputError(
                f"{self.storage.root} holds bills in {self.last.price_list.currency}, and this run bills in "
                f"{currency}; give each currency an output of its own",
                parameter="output",
            )
        if self.last.source != source:
            raise OutputError(
                f"{self.storage.root} holds the bills of the usage {self.last.source!r}, and this run reads "
                f"{source!r}. If that is the same log at another place, name its source {self.last.source!r}; if not, "
                "give it an output of its own, or it would take back what the other is billed.",
                parameter="source",
            )
        known = {tag.lower(): tag for tag in self.tag_columns}
        for tag in tags:
            if known.get(tag.lower(), tag) != tag:
                raise OutputError(
                    f"{self.storage.root} holds bills by {known[tag.lower()]}, and this run bills by {tag}: Spark does "
                    "not tell these apart. Spell the key as before, or give another output.",
                    parameter="group_by_tags",
                )

    def hours(self) -> dict[int, Decimal]:
        """The hours, in epoch seconds, that hold lines whose sum is not nothing, each with its amount."""
        lines: dict[int, LineSums] = {}
        for record in self.records:
            for hour, sums in record.ledger.hours.items():
                lines[hour] = lines.get(hour, LineSums()) + sums
        return {hour: sums.amount for hour, sums in sorted(lines.items()) if not sums.is_nothing}

    def lines(self, spark: SparkSession, dates: Iterable[str]) -> Optional[DataFrame]:
        """The committed lines of some UTC+8 dates (`LEDGER_LINES` and tags), verified; None if there are none.

        `OutputError` if they are not, in number and sums, what their runs have recorded.
        """
        wanted = set(dates)
        expected: dict[tuple[str, str], LineSums] = {}
        tags: set[str] = set()
        for record in self.records:
            for hour, sums in record.ledger.hours.items():
                date = date_label(hour)
                if date in wanted:
                    expected[record.run_id, date] = expected.get((record.run_id, date), LineSums()) + sums
                    tags.update(record.tag_columns)
        return self._verified(lines_path, expected, lambda paths: read_lines(spark, self.storage, paths, tags))

    def conflicts(self, spark: SparkSession, dates: Iterable[str]) -> Optional[DataFrame]:
        """What the runs have left out as conflicts on some UTC+8 dates (`LEFT_OUT`), verified; None if there is none.

        Only the folders of runs that have such rows of these dates are read. `OutputError` as for `lines`.
        """
        wanted = set(dates)
        expected = {
            (record.run_id, date): sums
            for record in self.records
            for date, sums in (record.left_out or {}).items()
            if date in wanted
        }
        return self._verified(conflicts_path, expected, lambda paths: read_conflicts(spark, self.storage, paths))

    def _verified(
        self,
        path_of: Callable[[str], str],
        expected: Mapping[tuple[str, str], LineSums],
        read: Callable[[Sequence[str]], DataFrame],
    ) -> Optional[DataFrame]:
        """What runs wrote on some dates, if it comes to what is `expected` by run_id and date."""
        if not expected:
            return None
        paths = [f"{path_of(run_id)}/billing_date={date}" for run_id, date in sorted(expected)]
        try:
            written = read(paths)
            rows = _with_tokens(written).groupBy("run_id", "billing_date").agg(*_counts_and_sums()).collect()
        except PySparkException as error:
            if not path_is_absent(error):
                raise
            reason = str(error).splitlines()[0]
            raise OutputError(f"lines that a committed run wrote are gone ({reason}). Restore them.") from None
        found = {(row["run_id"], str(row["billing_date"])): _sums_of(row) for row in rows}
        for (run_id, date), sums in expected.items():
            if found.get((run_id, date)) != sums:
                raise OutputError(
                    f"{self.storage.path(path_of(run_id))}/billing_date={date} is not what its run wrote: recorded "
                    f"are {sums}, there are {found.get((run_id, date), 'none')}. Restore the folder."
                )
        return written

    def commit(self, storage: Storage, record: RunRecord) -> bool:
        """Create the record of the next run; False if another run has got that number."""
        path = record_path(record.run)
        if not storage.create(path, record.to_json()):
            return False
        # where the storage has no exclusive creation, another run may have written over it
        return RunRecord.from_json(path, storage.read(path)).run_id == record.run_id


def record_path(number: int) -> str:
    """Where the record of a run is, below the output."""
    return f"{RUNS}/{number:020}.json"


def sums_by_hour(lines: DataFrame) -> dict[int, dict[str, LineSums]]:
    """The count and sums of ledger lines by hour, in epoch seconds, and by reason (`original` has none)."""
    hour, reason = F.unix_seconds("period_start").alias("hour"), F.coalesce("reason", "entry").alias("reason")
    sums: dict[int, dict[str, LineSums]] = {}
    for row in lines.groupBy(hour, reason).agg(*_counts_and_sums()).orderBy("hour", "reason").collect():
        sums.setdefault(row["hour"], {})[row["reason"]] = _sums_of(row)
    return sums


def sums_by_date(conflicts: DataFrame) -> dict[str, LineSums]:
    """The count and sums of rows of `LEFT_OUT` by UTC+8 date."""
    rows = _with_tokens(conflicts).groupBy("billing_date").agg(*_counts_and_sums()).orderBy("billing_date").collect()
    return {str(row["billing_date"]): _sums_of(row) for row in rows}


def _with_tokens(written: DataFrame) -> DataFrame:
    """Lines as they are; of what is left out, which has tokens of both kinds in a row, their sum."""
    if "tokens" in written.columns:
        return written
    kinds = [F.col(name).cast(TOTAL_TOKENS) for name in ("input_tokens", "output_tokens")]
    return written.withColumn("tokens", (kinds[0] + kinds[1]).cast(TOTAL_TOKENS))


def _counts_and_sums() -> list[Column]:
    sums = [F.sum(F.col(name).cast(TOTAL_TOKENS)).cast(TOTAL_TOKENS).alias(name) for name in ("requests", "tokens")]
    return [F.count(F.lit(1)).alias("lines"), *sums, F.sum("amount").cast(AMOUNT).alias("amount")]


def _sums_of(row: Any) -> LineSums:
    return LineSums(int(row["lines"]), int(row["requests"]), int(row["tokens"]), Decimal(row["amount"]))
