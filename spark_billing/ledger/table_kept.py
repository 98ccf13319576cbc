"""What a table of a catalog keeps of its ledger, as it lies there. Its `bill_lines` and `bills` are views, which have
nothing of their own to be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Optional

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_billing.core.errors import OutputError
from spark_billing.ledger.formats import TableName
from spark_billing.ledger.kept import Kept
from spark_billing.ledger.ledger_table import CHECKPOINT, LEFT, LINE, RUN, TABLE, find_table, require_namespace
from spark_billing.ledger.run_record import RunRecord
from spark_billing.ledger.summed_runs import SummedRuns
from spark_billing.ledger.table_ledger import TableLedger


class TableKept(Kept):
    """The ledger of a namespace, at the version of its table that is the newest now."""

    def __init__(self, spark: SparkSession, namespace: str) -> None:
        self.spark, self.where = spark, namespace
        require_namespace(spark, namespace)
        table = find_table(spark, TableName(namespace, TABLE))
        if table is None:
            raise OutputError(f"nothing was ever billed into {namespace}, it has no ledger", parameter="output_catalog")
        self.table, self.version = table, table.version()
        self._rows = table.read(self.version)

    def records(self) -> Sequence[tuple[int, str, str]]:
        rows = self._of(RUN).select("run", "record").collect()
        return sorted((row["run"], f"run {row['run']} of {self.where}.{TABLE}", row["record"]) for row in rows)

    def checkpoints(self) -> Sequence[tuple[int, str]]:
        rows = self._of(CHECKPOINT).select("run").collect()
        return sorted((row["run"], f"that of run {row['run']} of {self.where}.{TABLE}") for row in rows)

    def checkpoint(self, number: int) -> Optional[SummedRuns]:
        rows = self._of(CHECKPOINT).filter(F.col("run") == F.lit(number).cast("bigint")).select("record").collect()
        runs = SummedRuns.from_text(rows[0]["record"] or "")
        return runs if runs is not None and runs.count == number else None

    def ledger(self, runs: SummedRuns, last: Optional[RunRecord]) -> TableLedger:
        return TableLedger(self.spark, self.where, self.table, self.version, runs, last, 0)

    def published(self) -> Mapping[str, Sequence[str]]:
        return {}

    def of_dates(self, table: str, dates: Sequence[str], tags: Sequence[str]) -> DataFrame:
        raise NotImplementedError("its tables are views of the ledger")

    def seen_runs(self) -> Sequence[str]:
        rows = self._rows.filter(F.col("kind").isin(LINE, LEFT)).select("run_id").distinct().collect()
        return [str(row["run_id"]) for row in rows]

    def untold(self, runs: SummedRuns) -> Sequence[str]:
        return ()

    def _of(self, kind: str) -> DataFrame:
        return self._rows.filter(F.col("kind") == kind)
