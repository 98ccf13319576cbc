"""The schema of JSON or CSV files as a user gives it, so that none is taken from what happens to lie in the folder."""

from __future__ import annotations

from collections.abc import Iterator

from pyspark.errors import PySparkException
from pyspark.sql import Column, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import (
    ArrayType,
    BooleanType,
    ByteType,
    DataType,
    DateType,
    DoubleType,
    IntegerType,
    LongType,
    MapType,
    ShortType,
    StringType,
    StructField,
    StructType,
    TimestampNTZType,
    TimestampType,
)

from spark_billing.core.columns import quoted
from spark_billing.core.errors import UsageError
from spark_billing.core.spark_errors import spark_reason

_EXACT = (StringType, LongType, IntegerType, ShortType, ByteType, BooleanType, DoubleType, DateType)
_TIMES = (TimestampType, TimestampNTZType)


def given_schema(spark: SparkSession, ddl: str, kind: str) -> StructType:
    """The columns that DDL such as `id string, usage struct<prompt_tokens: bigint>` names, in `json` or `csv`.

    A timestamp is read as the text that it is, as Spark would guess a zone for one without an offset. `UsageError` if
    it is no such DDL, or has a type that would not keep a value exactly.
    """
    try:
        found = spark.range(1).select(F.from_json(F.lit("{}"), ddl).alias("row")).schema["row"].dataType
    except PySparkException as error:
        raise _refusal(ddl, spark_reason(error)) from None
    if not isinstance(found, StructType) or not found.fields:
        raise _refusal(ddl, "it names no column")
    names = [name.lower() for name in found.names]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise _refusal(ddl, f"it has {', '.join(twice)} more than once")
    for path, dtype in _leaves("", found):
        if kind == "csv" and (not isinstance(dtype, (*_EXACT, *_TIMES)) or "." in path):
            raise _refusal(ddl, f"{path} is {dtype.simpleString()}, which a CSV value cannot be")
        if not isinstance(dtype, (*_EXACT, *_TIMES)):
            raise _refusal(
                ddl, f"{path} is {dtype.simpleString()}, in which a number would be rounded; write bigint or string"
            )
    readable = _readable(found)
    assert isinstance(readable, StructType)
    return readable


def _refusal(ddl: str, why: str) -> UsageError:
    return UsageError(
        f"usage_schema is {ddl!r}: {why}. Needed are the columns of the files with their types, such as "
        '"id string, created bigint, usage struct<prompt_tokens: bigint>".',
        parameter="usage_schema",
    )


def _leaves(path: str, dtype: DataType) -> Iterator[tuple[str, DataType]]:
    """The types that are not made of others, each with where it stands."""
    if isinstance(dtype, StructType):
        for field in dtype.fields:
            yield from _leaves(f"{path}.{field.name}" if path else field.name, field.dataType)
    elif isinstance(dtype, ArrayType):
        yield from _leaves(f"{path}.element", dtype.elementType)
    elif isinstance(dtype, MapType):
        yield from _leaves(f"{path}.value", dtype.valueType)
    else:
        yield path, dtype


def _readable(dtype: DataType) -> DataType:
    """The type with text in place of each timestamp, and null allowed everywhere."""
    if isinstance(dtype, StructType):
        return StructType([StructField(field.name, _readable(field.dataType)) for field in dtype.fields])
    if isinstance(dtype, ArrayType):
        return ArrayType(_readable(dtype.elementType))
    if isinstance(dtype, MapType):
        return MapType(StringType(), _readable(dtype.valueType))
    return StringType() if isinstance(dtype, _TIMES) else dtype


def typed_cell(name: str, dtype: DataType) -> Column:
    """A column of CSV text as another type; null where the text is not exactly of it, with ANSI and without."""
    return (
        F.col(quoted(name))
        if isinstance(dtype, StringType)
        else F.expr(f"try_cast({quoted(name)} AS {dtype.simpleString()})")
    )
