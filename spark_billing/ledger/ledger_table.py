"""The table of record of a ledger in a catalog: its columns, how it is made, and whether a table is one of ours."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from functools import reduce
from typing import Any, Optional
from uuid import uuid4

from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import DataType, StringType, StructType

from spark_billing.core.columns import quoted, tag_columns
from spark_billing.core.errors import OutputError
from spark_billing.core.schemas import LEDGER_LINES, LEFT_OUT, struct
from spark_billing.ledger.formats import COMMIT_ERRORS, FORMATS, TableFormat, TableName, table_properties

LINE, LEFT, RUN, CHECKPOINT = "line", "left_out", "run", "checkpoint"  # the kinds of rows
TABLE = "ledger"
_TRIES = 5  # to make a table or add columns, while other runs do
OURS, VERSION = "spark_billing.table", "1"  # a property, and of which version of this layout

_OF_LINES = {field.name: field.dataType for field in LEDGER_LINES.fields}
LEDGER_TABLE = struct(
    kind=StringType(),
    **_OF_LINES,
    **{field.name: field.dataType for field in LEFT_OUT.fields if field.name not in _OF_LINES},
    record=StringType(),  # of a run or a checkpoint, as text
)  # and the tag columns of lines

# What the session catalog makes of a table without a format, by the class that is set for it
_OF_SESSION_CATALOG = {
    "org.apache.spark.sql.delta.catalog.DeltaCatalog": "delta",
    "org.apache.iceberg.spark.SparkSessionCatalog": "iceberg",
    "org.apache.paimon.spark.SparkGenericCatalog": "paimon",
}


def find_table(spark: SparkSession, table: TableName, schema: StructType = LEDGER_TABLE) -> Optional[TableFormat]:
    """The table if it is there; `OutputError` if it is not ours, not of these types, or of a format whose commits do
    not exclude each other."""
    if not spark.catalog.tableExists(str(table)):
        return None
    provider = provider_of(spark, table)
    made = FORMATS.get(provider)
    if made is None:
        raise OutputError(
            f"{table.plain} is a table of {provider or 'no format that is known here'}: a ledger needs one of Iceberg, "
            "Delta or Paimon, whose commits exclude each other. Give a namespace of such a catalog, or a folder.",
            parameter="output_catalog",
        )
    properties = table_properties(spark, table)
    if properties.get(OURS) != VERSION:
        found = properties.get(OURS)
        raise OutputError(
            f"{table.plain} is not a table of these bills (its property {OURS} is "
            f"{'missing' if found is None else repr(found)}, needed is '{VERSION}'). It was left as it is: rename it, "
            "or give another namespace.",
            parameter="output_catalog",
        )
    _require_types(table, spark.table(str(table)).schema, schema)
    return made(spark, table)


def make_table(spark: SparkSession, table: TableName, schema: StructType = LEDGER_TABLE) -> TableFormat:
    """The table, made if it is not there; several runs may do so at once."""
    found = find_table(spark, table, schema)
    if found is not None:
        return found
    name = _format_of_catalog(spark, table) or _format_by_trial(spark, table)
    if name not in FORMATS:
        raise OutputError(_no_format(table, name), parameter="output_catalog")
    made = FORMATS[name]
    create_table(spark, table, schema, made.name, made.partitioned_by, made.properties)
    found = find_table(spark, table, schema)
    assert found is not None
    return found


def create_table(
    spark: SparkSession,
    table: TableName,
    schema: StructType,
    provider: Optional[str],
    by: Iterable[str],
    properties: Mapping[str, str],
) -> None:
    """A table of ours, unless it is there; several runs may do so at once, of which Delta refuses all but one."""
    columns = ", ".join(f"{quoted(f.name)} {f.dataType.simpleString()}" for f in schema.fields)
    using = f"USING {provider}" if provider else ""
    partitioned = f"PARTITIONED BY ({', '.join(by)})" if by else ""
    pairs = ", ".join(f"'{name}' = '{value}'" for name, value in {**properties, OURS: VERSION}.items())
    statement = f"CREATE TABLE IF NOT EXISTS {table} ({columns}) {using} {partitioned} TBLPROPERTIES ({pairs})"
    for tries_left in reversed(range(_TRIES)):
        try:
            spark.sql(statement)
            return
        except COMMIT_ERRORS:
            if spark.catalog.tableExists(str(table)):
                return
            if not tries_left:
                raise
        time.sleep(1)  # the one that was first has its files, and its name comes after them


def require_namespace(spark: SparkSession, namespace: str) -> None:
    """`OutputError` if there is no such catalog or namespace."""
    if "." not in namespace:
        raise OutputError(
            f"{namespace!r} is not CATALOG.NAMESPACE, such as ice.billing: needed is the catalog's name, too "
            "(Spark's own is spark_catalog)",
            parameter="output_catalog",
        )
    name = ".".join(quoted(part) for part in namespace.split("."))
    try:
        spark.sql(f"DESCRIBE NAMESPACE {name}").collect()
    except PySparkException as error:
        raise OutputError(
            f"{namespace}: no such namespace in the session's catalogs ({str(error).splitlines()[0]}). "
            f"Create it first: CREATE NAMESPACE {namespace}. A catalog is named by settings of the session "
            "(jobs/catalogs.md).",
            parameter="output_catalog",
        ) from None


def provider_of(spark: SparkSession, table: TableName) -> str:
    """The format of a table, such as `iceberg`."""
    rows = spark.sql(f"DESCRIBE TABLE EXTENDED {table}").collect()
    found = next((row["data_type"] for row in rows if row["col_name"] == "Provider"), "")
    return str(found).lower()


def add_columns(spark: SparkSession, table: TableName, wanted: Iterable[tuple[str, DataType]]) -> None:
    """Add the columns that the table lacks; several runs may do so at once."""
    columns = dict(wanted)
    for tries_left in reversed(range(_TRIES)):
        there = {name.lower() for name in spark.table(str(table)).columns}
        new = {name: dtype for name, dtype in columns.items() if name.lower() not in there}
        if not new:
            return
        added = ", ".join(f"{quoted(name)} {dtype.simpleString()}" for name, dtype in new.items())
        try:
            spark.sql(f"ALTER TABLE {table} ADD COLUMNS ({added})")
        except COMMIT_ERRORS:  # if another run was first, they are there now
            if not tries_left:
                raise
        spark.sql(f"REFRESH TABLE {table}")


def rows_of(kinds: Iterable[tuple[str, DataFrame]], tags: Iterable[str]) -> DataFrame:
    """Rows of several kinds as rows of the table: a column that a kind does not have is null."""
    parts = []
    for kind, rows in kinds:
        own = set(rows.columns)
        columns = {field.name: field.dataType for field in LEDGER_TABLE.fields}
        columns.update({tag: StringType() for tag in tags})
        parts.append(
            rows.select(
                *(
                    (F.col(quoted(name)) if name in own else F.lit(kind if name == "kind" else None))
                    .cast(dtype)
                    .alias(name)
                    for name, dtype in columns.items()
                )
            )
        )
    return reduce(DataFrame.unionByName, parts)


def tags_in(frame: DataFrame) -> list[str]:
    return sorted(tag_columns(frame))


def _format_of_catalog(spark: SparkSession, table: TableName) -> Optional[str]:
    """The format of a catalog's tables as its settings tell it; None if they do not."""
    catalog: Any = spark.conf.get(f"spark.sql.catalog.{table.catalog}", None)
    if table.catalog == "spark_catalog":
        if catalog not in _OF_SESSION_CATALOG:
            raise OutputError(_no_format(table, "Spark's own formats, such as Parquet"), parameter="output_catalog")
        return _OF_SESSION_CATALOG[catalog]
    for word in FORMATS:
        if catalog and f".{word}." in catalog.lower():
            return word
    return None


def _format_by_trial(spark: SparkSession, table: TableName) -> str:
    """The format of a catalog that has one and does not tell, such as a managed one: that of a table without any."""
    scratch = TableName(".".join(table.parts[:-1]), f"spark_billing_probe_{uuid4().hex[:8]}")
    create_table(spark, scratch, struct(word=StringType()), None, (), {})
    try:
        return provider_of(spark, scratch)
    finally:
        spark.sql(f"DROP TABLE IF EXISTS {scratch}")


def _no_format(table: TableName, found: str) -> str:
    return (
        f"the catalog {table.catalog} keeps tables of {found or 'a format that it does not tell'}, whose commits do "
        "not exclude each other: a ledger needs one of Iceberg, Delta or Paimon. Give a namespace of such a catalog, "
        "or bill into a folder and name it by CREATE TABLE ... USING parquet LOCATION ... (jobs/README.md)."
    )


def _require_types(table: TableName, found: StructType, wanted: StructType) -> None:
    types = {field.name: field.dataType.simpleString() for field in found.fields}
    differ = [
        f"{field.name} is {types.get(field.name, 'missing')}, not {field.dataType.simpleString()}"
        for field in wanted.fields
        if types.get(field.name) != field.dataType.simpleString()
    ]
    if differ:
        raise OutputError(
            f"the table {table.plain} is not as it must be: {'; '.join(differ)}. It was left as it is: rename it, or "
            "give another namespace.",
            parameter="output_catalog",
        )
