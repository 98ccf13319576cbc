"""What each table format does for a ledger: its current version, a read of one version, and a commit that succeeds only
if the table is still as the run found it.

Measured, format by format; a blind append never conflicts in any of them, and a MERGE does not exclude either.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any, Optional

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from spark_billing.core.columns import quoted
from spark_billing.core.errors import OutputError
from spark_billing.core.session import settings
from spark_billing.core.spark_errors import spark_reason

COMMIT_ERRORS = (PySparkException, Py4JJavaError)


class TableName:
    """A table by its parts: the catalog, the namespace (which may have several), the table."""

    def __init__(self, namespace: str, table: str) -> None:
        self.parts = (*namespace.split("."), table)
        self.catalog, self.plain = self.parts[0], ".".join(self.parts)

    def __str__(self) -> str:
        return ".".join(quoted(part) for part in self.parts)

    def inside(self, name: str) -> str:
        """A metadata table of the format, such as `refs`."""
        return f"{self}.{quoted(name)}"


class TableFormat(ABC):
    """A table of the ledger in one format."""

    name: str
    partitioned_by: tuple[str, ...] = ("kind", "billing_date")
    properties: Mapping[str, str] = MappingProxyType({})  # of the table, when it is made

    def __init__(self, spark: SparkSession, table: TableName) -> None:
        self.spark, self.table = spark, table

    def version(self) -> Optional[str]:
        """The current version, as SQL names it after VERSION AS OF; None of a table without any."""
        return self._version()

    def read(self, version: Optional[str]) -> DataFrame:
        """The table at a version, and at no later one."""
        if version is None:
            return self.spark.table(str(self.table)).limit(0)
        return self.spark.sql(f"SELECT * FROM {self.table} VERSION AS OF {version}")

    @abstractmethod
    def _version(self) -> Optional[str]: ...

    @abstractmethod
    def commit(self, rows: DataFrame, number: int, version: Optional[str]) -> None:
        """Write the rows of the run `number` in one commit, if no other run was committed since `version`. Whether it
        is there afterwards only the table can tell: an error may come after the commit, and Delta leaves out a run that
        it has, and says nothing."""

    @abstractmethod
    def prepare(self) -> None:
        """See that the table is set up as a commit needs it; `OutputError` if it is not and cannot be."""

    def _first(self, statement: str) -> Optional[Row]:
        rows = self.spark.sql(statement).take(1)
        return rows[0] if rows else None


class Iceberg(TableFormat):
    name = "iceberg"
    properties = MappingProxyType({"format-version": "2"})

    def prepare(self) -> None:
        """Nothing is to be done: a version that has expired meanwhile only makes a commit fail."""

    def _version(self) -> Optional[str]:
        self.spark.sql(f"REFRESH TABLE {self.table}")  # the catalog keeps what it has seen for half a minute
        row = self._first(f"SELECT snapshot_id FROM {self.table.inside('refs')} WHERE name = 'main'")
        return None if row is None else str(row["snapshot_id"])

    def commit(self, rows: DataFrame, number: int, version: Optional[str]) -> None:
        write = rows.writeTo(str(self.table)).option("isolation-level", "serializable")
        if version is not None:  # else all of the table's history is looked at
            write = write.option("validate-from-snapshot-id", version)
        write.overwrite(_of_run(number))  # refused if a file that may hold this run was added since


class Delta(TableFormat):
    name = "delta"
    properties = MappingProxyType({"delta.columnMapping.mode": "name"})  # else no tag may have a space in its name
    _APP = "spark_billing.ledger"

    def _version(self) -> Optional[str]:
        row = self._first(f"DESCRIBE HISTORY {self.table} LIMIT 1")
        return None if row is None else str(row["version"])

    def prepare(self) -> None:
        kept = table_properties(self.spark, self.table).get("delta.setTransactionRetentionDuration")
        if kept is not None:
            raise OutputError(
                f"{self.table.plain} forgets after {kept} which run it has (delta.setTransactionRetentionDuration), "
                "and two runs could then get the same number. Unset that property of the table.",
                parameter="output_catalog",
            )

    def commit(self, rows: DataFrame, number: int, version: Optional[str]) -> None:
        # refused if a rival commits the same number meanwhile; left out without a word if it is there already
        write = rows.write.format("delta").mode("append").option("txnAppId", self._APP).option("txnVersion", number)
        write.saveAsTable(str(self.table))


class Paimon(TableFormat):
    name = "paimon"
    partitioned_by = ("run",)
    # else a version is gone after an hour, and a longer run could neither be read back nor committed
    properties = MappingProxyType(
        {
            "snapshot.time-retained": "7 d",
            "snapshot.num-retained.min": "1000",
            "snapshot.num-retained.max": "1000000",
        }
    )
    _CHECK = "commit.strict-mode.last-safe-snapshot"

    def _version(self) -> Optional[str]:
        row = self._first(f"SELECT max(snapshot_id) AS id FROM {self._snapshots()}")
        return None if row is None or row["id"] is None else str(row["id"])

    def prepare(self) -> None:
        found = table_properties(self.spark, self.table)
        missing = {name: value for name, value in self.properties.items() if found.get(name) != value}
        if missing:
            pairs = ", ".join(f"'{name}' = '{value}'" for name, value in missing.items())
            self.spark.sql(f"ALTER TABLE {self.table} SET TBLPROPERTIES ({pairs})")

    def commit(self, rows: DataFrame, number: int, version: Optional[str]) -> None:
        # as a setting of the session, under the table's full name: as an option of the writer it is passed over
        name = f"spark.paimon.{self.table.plain}.{self._CHECK}"
        with settings(self.spark, {name: version or "0"}):
            rows.writeTo(str(self.table)).overwrite(_of_run(number))

    def _snapshots(self) -> str:
        *above, table = self.table.parts
        return ".".join(quoted(part) for part in (*above, f"{table}$snapshots"))


FORMATS: dict[str, type[TableFormat]] = {each.name: each for each in (Iceberg, Delta, Paimon)}


_probed: set[tuple[str, str]] = set()  # (application, catalog) that have passed: neither becomes another while it runs


def probe_paimon(spark: SparkSession, namespace: str, scratch: str) -> Optional[str]:
    """Why a Paimon catalog lets a stale commit through, found by trying one on a scratch table; None if it does not.

    Before 1.2 Paimon does not know the check, and says nothing of a setting that it does not know.
    """
    table = TableName(namespace, scratch)
    key = (spark.sparkContext.applicationId, table.catalog)
    if key in _probed:
        return None
    spark.sql(f"CREATE TABLE {table} (run BIGINT, word STRING) PARTITIONED BY (run)")
    try:
        paimon = Paimon(spark, table)
        row = spark.range(1).select(F.lit(1).cast("bigint").alias("run"), F.lit("x").alias("word"))
        paimon.commit(row, 1, None)
        paimon.commit(row, 1, paimon.version())
        try:
            paimon.commit(row, 1, "1")  # of another writer that has not seen the second commit
        except COMMIT_ERRORS as error:
            if Paimon._CHECK in str(error):
                _probed.add(key)
                return None
            return f"a commit on a stale version ended otherwise than it must ({spark_reason(error)})"
        return "it commits on a version that is not the last one any more, as Paimon before 1.2 does"
    finally:
        with suppress(*COMMIT_ERRORS):  # left behind it does no harm, and may be dropped by anybody
            spark.sql(f"DROP TABLE IF EXISTS {table}")


def _of_run(number: int) -> Any:
    return F.col("run") == F.lit(number).cast("bigint")


def table_properties(spark: SparkSession, table: TableName) -> dict[str, str]:
    """The properties of a table or view, as text."""
    return {row["key"]: row["value"] for row in spark.sql(f"SHOW TBLPROPERTIES {table}").collect()}
