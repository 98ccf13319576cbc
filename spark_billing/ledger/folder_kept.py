"""What an output folder keeps of its ledger, as it lies there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Optional

from pyspark.sql import DataFrame
from pyspark.sql.types import StringType, StructField, StructType

from spark_billing.core.schemas import BILL_LINES, BILLS, RUN
from spark_billing.core.storage import Storage
from spark_billing.ledger.folder_ledger import CHECKPOINTS, RUNS, FolderLedger
from spark_billing.ledger.kept import Kept
from spark_billing.ledger.numbered import numbered, numbered_name
from spark_billing.ledger.places import KINDS, compacted, newest_places
from spark_billing.ledger.run_record import LINES, RunRecord
from spark_billing.ledger.summed_runs import SummedRuns

_SCHEMAS = {"bill_lines": BILL_LINES, "bills": BILLS}


class FolderKept(Kept):
    """The ledger of an output folder, and the tables that were published from it."""

    def __init__(self, storage: Storage) -> None:
        self.where, self.storage = storage.root, storage

    def records(self) -> Sequence[tuple[int, str, str]]:
        names = numbered(self.storage.names(RUNS))
        texts = self.storage.texts(RUNS, names)
        return [(_number(name), self.storage.path(f"{RUNS}/{name}"), texts[name]) for name in names]

    def checkpoints(self) -> Sequence[tuple[int, str]]:
        names = numbered(self.storage.names(CHECKPOINTS))
        return [(_number(name), self.storage.path(f"{CHECKPOINTS}/{name}")) for name in names]

    def checkpoint(self, number: int) -> Optional[SummedRuns]:
        runs = SummedRuns.from_text(self.storage.read(f"{CHECKPOINTS}/{numbered_name(number)}"))
        return runs if runs is not None and runs.count == number else None

    def ledger(self, runs: SummedRuns, last: Optional[RunRecord]) -> FolderLedger:
        return FolderLedger(self.storage, runs, last, 0)

    def published(self) -> Mapping[str, Sequence[str]]:
        return {
            table: [value for name, _, value in _parts(self.storage.names(table)) if name == "billing_date"]
            for table in _SCHEMAS
        }

    def of_dates(self, table: str, dates: Sequence[str], tags: Sequence[str]) -> DataFrame:
        spark, added = self.storage.spark, tags if table == "bill_lines" else ()
        schema = StructType([*_SCHEMAS[table].fields, *(StructField(tag, StringType()) for tag in added), RUN])
        paths = [self.storage.path(f"{table}/billing_date={date}") for date in dates]
        if not paths:
            return spark.createDataFrame([], schema)
        return spark.read.schema(schema).option("basePath", self.storage.path(table)).parquet(*paths)

    def seen_runs(self) -> Sequence[str]:
        return ()  # what a folder publishes is beside its ledger

    def untold(self, runs: SummedRuns) -> Sequence[str]:
        places = newest_places(self.storage)
        found = [f"_staging/{name}" for name in self.storage.names("_staging")]
        for kind in KINDS:
            of_kind = runs.lines if kind == LINES else runs.left_out
            of_runs = {f"run_id={run_id}" for of_date in of_kind.values() for run_id in of_date}
            found += [f"{kind}/{name}" for name in self.storage.names(kind) if name not in of_runs]
            attempts = {name for place in places.by_kind[kind].values() for name in (place.attempt, *place.old)}
            where = compacted(kind)
            found += [f"{where}/{name}" for name in self.storage.names(where) if name not in attempts]
        names = self.storage.names(RUNS)
        found += [f"{RUNS}/{name}" for name in sorted({*names} - {*numbered(names)})]
        return [self.storage.path(path) for path in found]


def _number(name: str) -> int:
    return int(name.partition(".")[0])


def _parts(names: Sequence[str]) -> list[tuple[str, str, str]]:
    return [name.partition("=") for name in names]
