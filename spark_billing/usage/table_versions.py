"""A table of Iceberg, Delta or Paimon, read at one version.

A run reads its usage several times: to meter it, to prove the bill, to write what was rejected. Each of these queries
sees the table as it is then, so rows that come in between would be billed and not counted, or the other way round. What
is current when the usage is read is therefore asked once, and every query reads that version.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Optional

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_billing.core.columns import quoted
from spark_billing.core.errors import UsageError
from spark_billing.core.spark_errors import is_storage_failure, spark_reason
from spark_billing.usage.used_version import UsedVersion

_Found = tuple[Sequence[str], Optional[int]]  # the table, and its version; None: it has none yet, and no row
_PART = re.compile(r"`((?:[^`]|``)*)`|([^.`\s]+)")
# What may follow the name of an Iceberg table: a branch or tag of it, a moment of it, or a table about it
_OF_ICEBERG = re.compile(
    r"(?:branch|tag)_(?P<ref>.+)|(?:snapshot_id|at_timestamp)_[0-9]+|(?:all_)?(?:entries|(?:data_|delete_)?files|manifests)"
    r"|history|metadata_log_entries|snapshots|refs|partitions|position_deletes|changes",
    re.I,
)


def pinned(spark: SparkSession, name: str) -> tuple[DataFrame, Optional[UsedVersion]]:
    """A table of the catalog at the version that is current now, and that version; None if its format has none, as
    that of Parquet and of every view, or if it is empty.

    `UsageError` if the version of such a table cannot be told or read: what is not pinned must not look as if it were.
    """
    table = spark.table(name)  # refused here, as any table, if it cannot be read
    try:
        parts = parts_of(name)
        provider = _provider(spark, parts)
        found = None if provider is None else _FORMATS[provider](spark, parts)
        if provider is None or found is None:
            return table, None
        of, version = found
        table = spark.table(name)  # a catalog may have kept the columns of before
        if version is None:
            return table.where(F.lit(False)), None
        rows = spark.sql(f"SELECT * FROM {_sql(of)} VERSION AS OF {version}")
        used = UsedVersion(provider, str(version))
        _require_the_columns_of_now(name, used, rows, table)
    except (PySparkException, Py4JJavaError) as error:
        if is_storage_failure(error):
            raise
        raise UsageError(
            f"cannot tell which version of the table {name} is the current one, or read it: {spark_reason(error)}. "
            "Needed is one version for all that a run reads, as rows may come in meanwhile. Allow this user to "
            "DESCRIBE the table and to read its versions, or give a view over it, which is not pinned.",
            parameter="usage",
        ) from None
    return rows, used


def parts_of(name: str) -> list[str]:
    """The parts of a name such as ``catalog.`my-db`.table``."""
    return [one.replace("``", "`") or other for one, other in _PART.findall(name)]


def provider_of(described: Iterable[Sequence[Any]]) -> Optional[str]:
    """The format of a table from what DESCRIBE TABLE EXTENDED says of it, if it is one whose versions can be read."""
    told = iter(described)
    for key, *_ in told:
        if key == "# Detailed Table Information":  # before it stand columns, of any name
            break
    information: dict[str, str] = {}
    for key, value, *_ in told:
        information.setdefault(key, value or "")
    provider = information.get("Provider", "").lower()
    return None if provider not in _FORMATS or "VIEW" in information.get("Type", "") else provider


def _provider(spark: SparkSession, parts: Sequence[str]) -> Optional[str]:
    try:
        return provider_of(spark.sql(f"DESCRIBE TABLE EXTENDED {_sql(parts)}").collect())
    except PySparkException as error:
        if _is_not_found(error):
            return None  # parquet.`oss://bucket/usage`, which can be read and not described
        raise


def _iceberg(spark: SparkSession, parts: Sequence[str]) -> Optional[_Found]:
    """Of a branch or tag its snapshot; other selections within a table are left as they are."""
    if len(parts) == 1:
        parts = [spark.catalog.currentCatalog(), *parts_of(spark.catalog.currentDatabase()), *parts]
    ref, within = "main", _OF_ICEBERG.fullmatch(parts[-1])
    if within and not _has_refs(spark, parts):
        if within["ref"] is None:
            return None
        ref, parts = within["ref"], parts[:-1]
    spark.sql(f"REFRESH TABLE {_sql(parts)}")  # the catalog keeps for half a minute what it has seen
    row = spark.table(_sql([*parts, "refs"])).where(F.col("name") == ref).select("snapshot_id").first()
    return parts, None if row is None else row[0]


def _has_refs(spark: SparkSession, parts: Sequence[str]) -> bool:
    try:
        _ = spark.table(_sql([*parts, "refs"])).schema
    except PySparkException as error:
        if _is_not_found(error):
            return False
        raise
    return True


def _delta(spark: SparkSession, parts: Sequence[str]) -> Optional[_Found]:
    row = spark.sql(f"DESCRIBE HISTORY {_sql(parts)} LIMIT 1").select("version").first()
    return parts, None if row is None else row[0]


def _paimon(spark: SparkSession, parts: Sequence[str]) -> Optional[_Found]:
    *namespace, table = parts
    version = spark.table(_sql([*namespace, f"{table}$snapshots"])).agg(F.max("snapshot_id")).collect()[0][0]
    tag = spark.table(_sql([*namespace, f"{table}$tags"])).where(F.col("tag_name") == str(version)).first()
    if tag is not None and tag["snapshot_id"] != version:
        raise UsageError(
            f"the Paimon table {'.'.join(parts)} is at snapshot {version}, and has a tag of that name on snapshot "
            f"{tag['snapshot_id']}, which would be read instead. Rename the tag, or bill again once the table has "
            "another snapshot.",
            parameter="usage",
        )
    return parts, version


_FORMATS: Mapping[str, Callable[[SparkSession, Sequence[str]], Optional[_Found]]] = {
    "iceberg": _iceberg,
    "delta": _delta,
    "paimon": _paimon,
}


def _require_the_columns_of_now(name: str, used: UsedVersion, rows: DataFrame, table: DataFrame) -> None:
    """A snapshot has the columns of its time. One that was added since has no value in it; if another has been renamed
    or has become of another type, the snapshot would be read by names that mean something else by now."""
    now, then = ({field.name: field.dataType.simpleString() for field in one.schema.fields} for one in (table, rows))
    changed = [name for name, dtype in then.items() if now.get(name) != dtype]
    if changed:
        raise UsageError(
            f"the columns of {name} have been changed since its last commit: {', '.join(changed)} of {used} "
            f"{'is' if len(changed) == 1 else 'are'} not there any more, or of another type. Bill again once the table "
            "has a commit with its new columns, such as the next rows that it gets.",
            parameter="usage",
        )


def _is_not_found(error: PySparkException) -> bool:
    return "TABLE_OR_VIEW_NOT_FOUND" in str(error)


def _sql(parts: Iterable[str]) -> str:
    return ".".join(map(quoted, parts))
