"""The tables of an output in the session's catalog: Parquet tables over the folders that the runs publish.

The files, and so the guarantees of a commit, are those of an output folder, which lies at the location of the
namespace. The catalog gets the names: after each run the tables and partitions are brought in line with the committed
records, so a run that dies before that is caught up by the next one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Optional

from pyspark.errors import PySparkException
from pyspark.sql import SparkSession
from pyspark.sql.types import StringType, StructField, StructType

from spark_billing.core.columns import quoted
from spark_billing.core.errors import OutputError
from spark_billing.core.hours import date_label
from spark_billing.core.schemas import BILL_LINES, BILLS, LEDGER_LINES, RUN
from spark_billing.core.storage import Storage
from spark_billing.ledger.files import PARTITIONED_BY
from spark_billing.ledger.records import Ledger
from spark_billing.ledger.run_record import LINES

FOLDER = "spark_billing"  # below the location of the namespace
_PARTITIONED_BY = {**PARTITIONED_BY, "ledger_lines": ("run_id", "billing_date")}
_PATHS = {"ledger_lines": LINES}  # others are folders of their own names


class CatalogTables:
    """A namespace, such as billing in `spark_catalog`, whose tables are those of one output."""

    def __init__(self, spark: SparkSession, namespace: str) -> None:
        self.spark, self.namespace = spark, namespace
        self.name = ".".join(quoted(part) for part in namespace.split("."))
        try:
            described = spark.sql(f"DESCRIBE NAMESPACE {self.name}").collect()
        except PySparkException as error:
            raise OutputError(
                f"{namespace}: no such namespace in the session's catalog ({str(error).splitlines()[0]}). "
                f"Create it first: CREATE NAMESPACE {namespace}.",
                parameter="output_catalog",
            ) from None
        location = {row["info_name"]: row["info_value"] for row in described}.get("Location")
        if not location:
            raise OutputError(
                f"{namespace}: the namespace has no location to keep files at; give an output folder",
                parameter="output",
            )
        self.output = f"{location.rstrip('/')}/{FOLDER}"

    def check(self) -> None:
        """`OutputError` if a table is there already and is not one of this output, with the types it must have."""
        storage = Storage(self.spark, self.output)
        for table in _PARTITIONED_BY:
            found = self._schema(table)
            if found is None:
                continue
            path, location = _PATHS.get(table, table), self._location(table)
            if location is None or not storage.is_at(location, path):
                raise OutputError(
                    f"{self.namespace}.{table} is not a table of these bills: it lies at {location or 'no path'}, "
                    f"not at {storage.path(path)}. Rename or drop it, or give another namespace.",
                    parameter="output_catalog",
                )
            expected = _FIXED.get(table)
            if expected is None:
                continue
            types = {field.name: field.dataType.simpleString() for field in found.fields}
            differ = [
                f"{f.name} is {types.get(f.name, 'missing')}, not {f.dataType.simpleString()}"
                for f in expected.fields
                if types.get(f.name) != f.dataType.simpleString()
            ]
            if differ:
                raise OutputError(
                    f"the table {self.namespace}.{table} is not as it must be: {'; '.join(differ)}. "
                    "Rename or drop it, or give another namespace.",
                    parameter="output_catalog",
                )

    def sync(self) -> None:
        """Bring the tables and their partitions in line with the committed runs."""
        storage = Storage(self.spark, self.output)
        ledger = Ledger.open(storage)
        tags = ledger.tag_columns
        for table in _PARTITIONED_BY:
            path = _PATHS.get(table, table)
            if storage.exists(path):
                self._create(table, storage.path(path), tags)
                self._sync_partitions(table, ledger)
            elif self._schema(table) is not None:  # its last partition is gone
                self.spark.sql(f"DROP TABLE {self.name}.{table}")
        self.check()

    def _create(self, table: str, path: str, tags: list[str]) -> None:
        by = _PARTITIONED_BY[table]
        if table in _FIXED:
            has_tags = [StructField(tag, StringType()) for tag in tags if table != "bills"]
            wanted = StructType([*_FIXED[table].fields, *has_tags])
        else:  # the columns of the usage, whatever they are
            wanted = self.spark.read.option("mergeSchema", True).parquet(path).schema
        found = self._schema(table)
        if found is None:
            columns = ", ".join(f"{quoted(f.name)} {f.dataType.simpleString()}" for f in wanted.fields)
            self.spark.sql(
                f"CREATE TABLE {self.name}.{table} ({columns}) USING parquet PARTITIONED BY ({', '.join(by)}) "
                f"LOCATION {_literal(path)}"
            )
            return
        new = [f for f in wanted.fields if f.name not in found.fieldNames()]
        if new:
            columns = ", ".join(f"{quoted(f.name)} {f.dataType.simpleString()}" for f in new)
            self.spark.sql(f"ALTER TABLE {self.name}.{table} ADD COLUMNS ({columns})")

    def _sync_partitions(self, table: str, ledger: Ledger) -> None:
        name = f"{self.name}.{table}"
        if table != "ledger_lines":
            self.spark.sql(f"MSCK REPAIR TABLE {name} SYNC PARTITIONS")
        else:  # only what is committed: the folder has the lines of runs that died, too
            known = {row["partition"] for row in self.spark.sql(f"SHOW PARTITIONS {name}").collect()}
            for record in ledger.records:
                for date in sorted({date_label(hour) for hour in record.ledger.hours}):
                    if f"run_id={record.run_id}/billing_date={date}" not in known:
                        partition = f"run_id = '{record.run_id}', billing_date = '{date}'"
                        self.spark.sql(f"ALTER TABLE {name} ADD IF NOT EXISTS PARTITION ({partition})")
        self.spark.sql(f"REFRESH TABLE {name}")

    def _location(self, table: str) -> Optional[str]:
        """Where a table's files are; None for a view."""
        described = self.spark.sql(f"DESCRIBE TABLE EXTENDED {self.name}.{table}").collect()
        return next((row["data_type"] for row in described if row["col_name"] == "Location"), None)

    def _schema(self, table: str) -> Optional[StructType]:
        name = f"{self.name}.{table}"
        return self.spark.table(name).schema if self.spark.catalog.tableExists(name) else None


def _literal(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _ordered(schema: StructType, table: str) -> StructType:
    """A table's columns as the catalog has them: those it is partitioned by at the end."""
    by = _PARTITIONED_BY[table]
    return StructType([*(f for f in schema.fields if f.name not in by), *(schema[name] for name in by)])


_FIXED: Mapping[str, StructType] = {
    "bill_lines": _ordered(StructType([*BILL_LINES.fields, RUN]), "bill_lines"),
    "bills": _ordered(StructType([*BILLS.fields, RUN]), "bills"),
    "ledger_lines": _ordered(LEDGER_LINES, "ledger_lines"),
}
