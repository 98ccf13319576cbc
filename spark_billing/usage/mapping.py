"""A usage table of any shape -> the columns of the contract, without ever guessing a time zone."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Optional

from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import NullType, StringType, StructType, TimestampNTZType

from spark_billing.core.columns import quoted
from spark_billing.core.errors import UsageError
from spark_billing.core.hours import INSTANT_TEXT, ZONELESS_TEXT
from spark_billing.core.schemas import USAGE
from spark_billing.core.session import SESSION_SETTINGS, settings
from spark_billing.core.spark_errors import spark_reason
from spark_billing.usage.calls import AMBIGUOUS, require_columns, usage_field
from spark_billing.usage.file_times import NAME_THE_ZONE, check_files, looked_at_once
from spark_billing.usage.local_times import is_ambiguous

MAPPABLE = (*USAGE.fieldNames(), "tags")
ROW = "row_as_it_came"  # the mapped table's column with the source's row
_COLUMN = re.compile(r"(`(?:[^`]|``)+`|\w+)(\s*\.\s*(`(?:[^`]|``)+`|\w+))*")
_ZONE = re.compile(r"UTC|Z|[+-][0-9]{2}:[0-9]{2}|[A-Za-z_]+(/[A-Za-z0-9_+-]+)+")


@contextmanager
def usage_session(spark: SparkSession, call_time_zone: Optional[str]) -> Iterator[None]:
    """The session settings that reading, mapping and billing usage need, for as long as it takes.

    Times without an offset are in `call_time_zone`. `UsageError` if that is no zone.
    """
    if call_time_zone and not _ZONE.fullmatch(call_time_zone):
        raise UsageError(
            f"call_time_zone is {call_time_zone!r}; needed is a zone such as Asia/Shanghai, UTC or +08:00 "
            "(short names mean several zones: CST is one of China and one of Chicago)",
            parameter="call_time_zone",
        )
    try:
        wanted = {**SESSION_SETTINGS, "spark.sql.session.timeZone": call_time_zone or "UTC"}
        with settings(spark, wanted), looked_at_once():
            yield
    except PySparkException as error:
        if call_time_zone and call_time_zone in str(error) and "zone" in str(error).lower():
            raise UsageError(
                f"call_time_zone is {call_time_zone!r}, no zone that Spark knows; give one such as Asia/Shanghai or "
                "+08:00",
                parameter="call_time_zone",
            ) from None
        raise


def map_columns(
    source: DataFrame,
    columns: Mapping[str, str],
    *,
    call_time_zone: Optional[str] = None,
    duplicates: bool = True,
    has_row: bool = False,
) -> DataFrame:
    """The usage columns of a source table: its own, or Spark SQL expressions over it; its row in `row_as_it_came`
    (with `has_row` it is there already).

    `call_time_zone` says that the session's zone is that of the log: it is what gives instants to times without an
    offset, and a local time that the zone has twice or not at all is null, and true in `calls.AMBIGUOUS`. Without it
    only a plain column of instants, or of text with an offset, is taken. `UsageError` otherwise, and if the files under
    the source say of their times what the source does not (`file_times.check_files`).
    """
    for name, expression in columns.items():
        _check_expression(source, name, expression)
    needed = [name for name in USAGE.fieldNames() if duplicates or name != "request_id"]
    require_columns(source.drop(ROW) if has_row else source, [name for name in needed if name not in columns])

    mapped = [F.col(ROW) if has_row else F.struct("*").alias(ROW)]
    for name in [*needed, "tags"]:
        field = usage_field(source, name)
        if name in columns:
            mapped.append(F.expr(columns[name]).alias(name))
        elif field is not None:
            mapped.append(F.col(quoted(field.name)).alias(name))
    usage = source.select(*mapped)
    plain = "call_time" not in columns or is_column(source, columns["call_time"])
    dtype = usage.schema["call_time"].dataType
    if call_time_zone is None and not plain:
        raise UsageError(
            f"call_time is mapped to {columns['call_time']!r}, and what instant that gives depends on a time zone; "
            + NAME_THE_ZONE,
            parameter="call_time_zone",
        )
    check_files(usage, plain=plain, zone_is_known=call_time_zone is not None)
    if call_time_zone is None:
        if isinstance(dtype, TimestampNTZType):
            raise UsageError(
                f"call_time is timestamp_ntz, a time without a zone; {NAME_THE_ZONE}", parameter="call_time_zone"
            )
    elif isinstance(dtype, TimestampNTZType):
        usage = _zoned(usage, F.col("call_time"), F.col("call_time").cast("timestamp"), call_time_zone)
    elif isinstance(dtype, StringType):
        zoneless = F.col("call_time").rlike(ZONELESS_TEXT)
        instant = F.when(F.col("call_time").rlike(INSTANT_TEXT) | zoneless, F.try_to_timestamp("call_time"))
        local = F.when(zoneless, F.expr("try_cast(call_time AS timestamp_ntz)"))
        usage = _zoned(usage, local, instant, call_time_zone)
    return usage


def _zoned(usage: DataFrame, local: Column, instant: Column, zone: str) -> DataFrame:
    """The usage with the instants of its local times; null where they are ambiguous."""
    ambiguous = is_ambiguous(usage.sparkSession, local, instant, zone)
    return usage.withColumns({"call_time": F.when(~ambiguous, instant), AMBIGUOUS: ambiguous})


def refuse_zoneless_times(usage: DataFrame) -> None:
    """`UsageError` if a call time of the mapped usage is text without an offset. Scans until it has found one."""
    if not isinstance(usage.schema["call_time"].dataType, StringType):
        return
    row = usage.filter(F.col("call_time").rlike(ZONELESS_TEXT)).select("call_time").first()
    if row is not None:
        raise UsageError(
            f"call_time has text without an offset, such as {row['call_time']!r}, and a zone is never guessed; "
            + NAME_THE_ZONE,
            parameter="call_time_zone",
        )


def as_it_came(row: Column, taken: Collection[str], source: StructType) -> list[Column]:
    """The source's columns from the struct `row`; one whose name is `taken` by an added column is `source_NAME`."""
    columns, own = [], {field.name.lower() for field in source.fields}
    for field in source.fields:
        column = row.getField(field.name)
        if isinstance(field.dataType, NullType):
            column = column.cast("string")  # Parquet has no type for a column of nothing
        name = field.name
        while name.lower() in taken or (name != field.name and name.lower() in own):
            name = f"source_{name}"
        columns.append(column.alias(name))
    return columns


def is_column(source: DataFrame, expression: str) -> bool:
    """Whether an expression is nothing but a column of the source, or a field nested in one."""
    if not _COLUMN.fullmatch(expression.strip()):
        return False
    first = re.match(r"`(?:[^`]|``)+`|\w+", expression.strip())
    name = first[0].strip("`").replace("``", "`") if first else ""
    return name.lower() in (field.name.lower() for field in source.schema.fields)


def _check_expression(source: DataFrame, name: str, expression: str) -> None:
    if name not in MAPPABLE:
        raise UsageError(
            f"{name}={expression}: no such usage column; they are {', '.join(MAPPABLE)}", parameter="columns"
        )
    try:
        # what may stand in a WHERE is one value per row: no explode, which would bill a call twice, no aggregate
        _ = source.where(F.expr(expression).isNull()).schema
    except PySparkException as error:
        hint = ""
        if "UNRESOLVED" in str(error) and re.fullmatch(r"[\w.-]+", expression):
            hint = f" If it is meant as text, quote it: \"{name}='{expression}'\"."
        elif "UNRESOLVED" in str(error) or "FIELD_NOT_FOUND" in str(error):
            hint = " If rows may lack such a field in JSON, give the columns as usage_schema."
        raise UsageError(f"{name}={expression}: {spark_reason(error)}.{hint}", parameter="columns") from None
