"""The files of a run, written aside and read back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pyspark.sql import Column, DataFrame, Observation, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StringType, StructField, StructType

from spark_billing.core.columns import billing_date, billing_hour, quoted, tag_columns, total
from spark_billing.core.schemas import LEDGER_LINES
from spark_billing.core.storage import Folder, Storage
from spark_billing.ledger.places import compacted
from spark_billing.ledger.publishing import PARTITIONED_BY, partitions
from spark_billing.usage.calls import countable
from spark_billing.usage.mapping import ROW, as_it_came

LINE_ORDER = ("period_start", "workspace_id", "region", "model", "tier", "token_type", "price_per_1k")
CONFLICT_ORDER = ("period_start", "workspace_id")


class Staging:
    """A folder below the output that no reader of the tables looks into: the tables of one attempt, written aside."""

    def __init__(self, spark: SparkSession, storage: Storage, folder: str) -> None:
        self.spark, self.storage, self.folder = spark, storage, folder

    def write_lines(self, lines: DataFrame, path: str) -> None:
        """Bill lines in a folder, by date and in order."""
        tags = sorted(tag_columns(lines))
        self.write(lines, path, ("billing_date",), (*LINE_ORDER, *tags))

    def write_conflicts(self, rows: DataFrame, path: str) -> None:
        """What is left out as conflicts, in a folder, by date and in order."""
        self.write(rows, path, ("billing_date",), CONFLICT_ORDER)

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
        rows, counted = calls_as_they_came(table, rated, **added)
        self.write(rows, f"{self.folder}/{table}", PARTITIONED_BY[table], ())
        return {name: int(value) for name, value in counted.get.items()}

    def read(self, table: str) -> DataFrame:
        return self.spark.read.parquet(self.storage.path(f"{self.folder}/{table}"))

    def partitions(self) -> list[str]:
        """The partitions written here, as paths below the output once they are moved there."""
        return [part for table in PARTITIONED_BY for part in partitions(self.storage, f"{self.folder}/", table)]

    def write(self, rows: DataFrame, path: str, by: Sequence[str], in_order: Sequence[str]) -> None:
        """Rows in a folder of the output, partitioned, and in order within each file."""
        ordered = rows.repartition(*by).sortWithinPartitions(*by, *(quoted(name) for name in in_order))
        ordered.write.partitionBy(*by).parquet(self.storage.path(path))


def calls_as_they_came(table: str, rated: DataFrame, **added: Column) -> tuple[DataFrame, Observation]:
    """Rated calls as rows of the usage, with some columns added and their UTC+8 hour, and what counts them as they are
    written: `requests`, `input_tokens`, `output_tokens`."""
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
    return rows, counted


def lines_schema(tags: Iterable[str]) -> StructType:
    """Ledger lines with some tag columns."""
    return StructType([*LEDGER_LINES.fields, *(StructField(tag, StringType()) for tag in sorted(tags))])


def read_written(storage: Folder, kind: str, paths: Sequence[str], schema: StructType) -> DataFrame:
    """Ledger lines, or what runs have left out as conflicts, in some folders of runs."""
    read = storage.spark.read.schema(schema).option("basePath", storage.path(kind))
    read = read.option("pathGlobFilter", "*.parquet")  # not what else somebody's tools leave in a folder
    return read.parquet(*(storage.path(path) for path in paths))


def read_compacted(storage: Folder, kind: str, paths: Sequence[str], schema: StructType) -> DataFrame:
    """Likewise in some folders of compactions; the columns are in the same order."""
    in_path = ("run_id", "billing_date")  # of the folders of runs, where Spark puts them last
    names = [*(name for name in schema.fieldNames() if name not in in_path), *in_path]
    return read_written(storage, compacted(kind), paths, schema).select(*(quoted(name) for name in names))
