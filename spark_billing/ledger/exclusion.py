"""Which catalogs keep two runs apart that commit at once, and which cannot.

A commit replaces a pointer to the table's state. A database, a service or HDFS does that in one step that only one of
two can do; a rename on an object store or on a local disk is no such step.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Optional

from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from spark_billing.core.errors import OutputError
from spark_billing.ledger.formats import TableName, probe_paimon

_HDFS = ("hdfs", "viewfs")  # where a file is renamed only if the target is not there
_OF_DELTA = (*_HDFS, "abfs", "abfss", "gs")  # where Delta creates, or renames, a file of its log likewise
_WAY_OUT = (
    "If your scheduler sees to it that only one run bills into it at a time, say so with one_writer (job: "
    "--one-writer); else take a catalog that excludes two writers (jobs/catalogs.md), or an output folder on HDFS."
)


def why_not_exclusive(spark: SparkSession, provider: str, table: TableName, scratch: str) -> Optional[str]:
    """Why two runs could both commit into a table; None if they cannot. Of a catalog whose settings the session does
    not show, such as a managed one, it is the service that commits."""
    if provider == "delta":
        return _delta(spark, table)
    return _iceberg(spark, table) if provider == "iceberg" else _paimon(spark, table, scratch)


def require_exclusive(spark: SparkSession, provider: str, table: TableName, scratch: str) -> None:
    """`OutputError` if two runs could both commit."""
    why = why_not_exclusive(spark, provider, table, scratch)
    if why is not None:
        raise OutputError(
            f"{table.plain} cannot keep two runs apart that commit at once: {why}. {_WAY_OUT}",
            parameter="output_catalog",
        )


def _iceberg(spark: SparkSession, table: TableName) -> Optional[str]:
    kind = _setting(spark, table, "type") or _setting(spark, table, "catalog-impl") or ""
    if not kind.lower().endswith(("hadoop", "hadoopcatalog")):
        return None
    return _renames(_setting(spark, table, "warehouse"), _HDFS, "Iceberg's Hadoop catalog renames a file")


def _delta(spark: SparkSession, table: TableName) -> Optional[str]:
    location = spark.sql(f"DESCRIBE DETAIL {table}").collect()[0]["location"]
    scheme = _scheme(location)
    if scheme and spark.conf.get(f"spark.delta.logStore.{scheme}.impl", None) is not None:
        return None  # the user's own, such as the one for S3 with a DynamoDB table
    return _renames(location, _OF_DELTA, "Delta renames the files of its log")


def _paimon(spark: SparkSession, table: TableName, scratch: str) -> Optional[str]:
    metastore = (_setting(spark, table, "metastore") or "").lower()
    if not metastore and not _setting(spark, table, "warehouse"):
        metastore = "rest"  # nothing to be seen of it: the platform's own
    has_lock = (_setting(spark, table, "lock.enabled") or "").lower() == "true"
    if metastore == "jdbc" and not has_lock:
        return "the JDBC catalog of Paimon locks only with lock.enabled=true"
    if metastore in ("", "filesystem") or (metastore == "hive" and not has_lock):
        why = _renames(_setting(spark, table, "warehouse"), _HDFS, "Paimon renames its snapshot file")
        if why is not None:
            return why
    return probe_paimon(spark, ".".join(table.parts[:-1]), scratch)


def _renames(location: Optional[str], exclusive: Collection[str], what: str) -> Optional[str]:
    scheme = _scheme(location or "") or "file"
    if scheme in exclusive:
        return None
    where = "a local disk" if scheme == "file" else f"{scheme}://"
    return f"{what}, and on {where} that does not say who was first"


def _scheme(location: str) -> str:
    return location.partition(":")[0].lower() if ":" in location else ""


def _setting(spark: SparkSession, table: TableName, name: str) -> Optional[str]:
    try:
        return spark.conf.get(f"spark.sql.catalog.{table.catalog}.{name}", None)
    except PySparkException:
        return None
