"""FOCUS rows as files: typed Parquet, or CSV as RFC 4180 has it, with plain decimals and UTC instants."""

from __future__ import annotations

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import DecimalType, StructField, TimestampType

from spark_billing.core.columns import quoted
from spark_billing.focus.rows import plain, utc_text

FORMATS = ("parquet", "csv")

# A quote within quotes is doubled; blanks at the ends of a value are the value's; null is nothing, empty text is ""
CSV = {
    "header": "true",
    "quote": '"',
    "escape": '"',
    "encoding": "UTF-8",
    "ignoreLeadingWhiteSpace": "false",
    "ignoreTrailingWhiteSpace": "false",
}
_ROW_ORDER = ("BillingPeriodStart", "ChargePeriodStart", "SubAccountId", "SkuPriceId", "ListUnitPrice", "x_Run")


def write_focus(rows: DataFrame, path: str, file_format: str) -> None:
    """Rows in a folder that is not there yet, in order within each file. No value is changed: a spreadsheet that takes
    a workspace named `=1+1` for a formula must be told that it is text."""
    # without a number of partitions Spark joins small ones, so a small export is one file
    rows = rows.repartition(*_ROW_ORDER[:2]).sortWithinPartitions(*_ROW_ORDER)
    if file_format == "parquet":
        rows.write.parquet(path)
    else:
        as_text(rows).write.options(**CSV).csv(path)


def read_focus(spark: SparkSession, path: str, file_format: str) -> DataFrame:
    """The rows as they stand in the files: of CSV, text."""
    if file_format == "parquet":
        return spark.read.parquet(path)
    # values may hold line breaks; a row with too many or too few values is an error
    return spark.read.options(**CSV, multiLine="true", mode="FAILFAST").csv(path)


def as_text(rows: DataFrame) -> DataFrame:
    """Rows as text that reads the same everywhere: decimals plain, instants in UTC."""
    return rows.select(*(_plain_text(field).alias(field.name) for field in rows.schema.fields))


def _plain_text(field: StructField) -> Column:
    column = F.col(quoted(field.name))
    if isinstance(field.dataType, DecimalType):
        return plain(column, field.dataType.scale)
    return utc_text(column) if isinstance(field.dataType, TimestampType) else column.cast("string")
