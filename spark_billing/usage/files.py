"""Read a usage table of any shape and map its columns to the contract, without ever guessing a time zone."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Optional

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import NullType, StringType, StructField, StructType, TimestampNTZType

from spark_billing.core.errors import UsageError
from spark_billing.core.schemas import USAGE
from spark_billing.core.storage import orc_zone_conflict
from spark_billing.usage.calls import INSTANT_TEXT, ZONELESS_TEXT, quoted, require_columns, usage_field

FORMATS = ("parquet", "orc", "json", "csv", "table")
MAPPABLE = (*USAGE.fieldNames(), "tags")
_CORRUPT = "_corrupt_record"  # as Spark names it for JSON
ROW = "row_as_it_came"  # the mapped table's column with the source's row

_ENDINGS = {"csv": "csv", "json": "json", "jsonl": "json", "ndjson": "json", "orc": "orc"}
_COLUMN = re.compile(r"(`(?:[^`]|``)+`|\w+)(\s*\.\s*(`(?:[^`]|``)+`|\w+))*")

# What a run can meet in the rows of a usage table or in the user's own expressions (Spark's error conditions)
_USERS_ERRORS = re.compile(
    r"\[((?:CAST_|DIVIDE_BY_ZERO|ARITHMETIC_OVERFLOW|INTERVAL_|INVALID_|CANNOT_PARSE|NUMERIC_VALUE|FAILED_READ_FILE|"
    r"MALFORMED_|UNRESOLVED_|DATATYPE_MISMATCH|PARSE_SYNTAX|PATH_NOT_FOUND|TABLE_OR_VIEW_NOT_FOUND|UNABLE_TO_INFER|"
    r"MAP_KEY_|NULL_MAP_KEY|REMAINDER_BY_ZERO|BINARY_ARITHMETIC_|INCONSISTENT_BEHAVIOR|CANNOT_DECODE|DATETIME_|UNSUPPORTED_|AMBIGUOUS_|COLUMN_ALREADY_EXISTS|WRONG_NUM_ARGS)[A-Z_0-9.]*)\]\s*([^\n]*)"
)

# Spark 3.5 has no condition for a file that it cannot read
_UNREADABLE_FILE = re.compile(
    r"(?:Encountered error while reading file|Parquet column cannot be converted in file|CSV header does not conform|"
    r"\S+ is not a Parquet file|Malformed ORC file|Not a valid ORC file|"
    r"Unexpected end of input stream|Unescaped quote character|Unexpected character '.' following quoted value)[^\n]*"
)


def read_usage(spark: SparkSession, location: str, file_format: Optional[str], what: str = "usage") -> DataFrame:
    """The usage table at a path (Parquet unless its name ends otherwise) or in the catalog (`table`), as it is; or
    another table, which messages call `what`.

    CSV has a header and is read as text; files whose headers differ are refused. A CSV file is one task, as a value may
    have line breaks: write a huge one as several. `UsageError` if it cannot be read. The session needs
    `runs.SESSION_SETTINGS`.
    """
    if file_format is None:
        parts = location.rstrip("/").rsplit("/", 1)[-1].lower().split(".")
        file_format = next((_ENDINGS[part] for part in reversed(parts[1:]) if part in _ENDINGS), "parquet")
    try:
        if file_format == "table":
            usage = spark.table(location)
        elif file_format == "csv":
            usage = _read_csv(spark, location)
        else:
            usage = spark.read.format(file_format).load(location)
        fields = usage.schema.fields
        if "timestamp" in usage.schema.simpleString() and file_format in ("orc", "table"):
            # the catalog does not say of a view that there is ORC under it: the files of a table tell
            files = [file for file in usage.inputFiles() if file_format == "orc" or not file.endswith(".parquet")]
            zones = orc_zone_conflict(spark, files, only_orc=file_format == "orc")
            if zones is not None:
                raise UsageError(
                    f"the ORC files of {location!r} were written in {zones[0]}, and this Spark runs in {zones[1]}: ORC "
                    "keeps times without a zone, so all would be shifted. Start Spark with -Duser.timezone="
                    f"{zones[0]} in spark.driver.extraJavaOptions and spark.executor.extraJavaOptions, or give Parquet."
                )
    except (PySparkException, Py4JJavaError) as error:
        raise UsageError(
            f"cannot read the {what} {location!r} as {file_format}: {spark_reason(error)}. "
            f"Give an existing path or table, and its --{what}-format."
        ) from None
    if not fields:
        raise UsageError(f"the {what} {location!r} has no column when read as {file_format}; is it empty?")
    return usage


def _read_csv(spark: SparkSession, location: str) -> DataFrame:
    """Text columns by the header. A row with more or fewer values than the header has none of them, and its text in
    `_corrupt_record`: which value belongs to which column would be a guess (1,000 is two values).

    A quoted value may have line breaks, so a file is read by one task; a file is refused if its quotes are not those
    of RFC 4180, as where a row ends would be a guess too.
    """
    quotes = {"escape": '"', "multiLine": "true", "unescapedQuoteHandling": "RAISE_ERROR"}
    reader = spark.read.options(**quotes, header=True, enforceSchema=False)
    header = [name or "" for name in spark.read.options(**quotes).csv(location).head() or ()]
    folded = [name.lower() for name in header]
    unclear = sorted({name for name in header if not name or folded.count(name.lower()) > 1})
    if unclear:
        raise UsageError(
            f"the CSV header of {location!r} has {', '.join(map(repr, unclear))} as a name more than once, or as no "
            "name at all; give each column a name of its own (pandas: to_csv(index=False))"
        )
    _refuse_an_open_quote(spark, location)
    names = reader.csv(location).columns
    schema = StructType([StructField(name, StringType()) for name in (*names, _CORRUPT)])
    rows = reader.schema(schema).option("columnNameOfCorruptRecord", _CORRUPT).csv(location)
    whole = F.col(_CORRUPT).isNull()
    values = {name: F.col(quoted(name)) for name in names}
    # if only some lines end with CR LF, Spark leaves the CR with their last value
    values.update({name: F.regexp_replace(values[name], "\r$", "") for name in names[-1:]})
    return rows.select(*(F.when(whole, value).alias(name) for name, value in values.items()), _CORRUPT)


def _refuse_an_open_quote(spark: SparkSession, location: str) -> None:
    """Spark takes a quoted value without an end to the end of the file, with all rows on the way, and says nothing.

    A scan of its own, but by lines, so that many tasks share a file.
    """
    quotes = F.length("value") - F.length(F.translate("value", '"', ""))
    files = spark.read.text(location).groupBy(F.input_file_name().alias("file")).agg(F.sum(quotes).alias("quotes"))
    odd = files.filter(F.col("quotes") % 2 != 0).first()
    if odd is not None:
        raise UsageError(
            f"the CSV file {odd['file']!r} has an odd number of quotes, so a quoted value has no end, and what follows "
            'would be part of it; write a quote as "" inside a quoted value (RFC 4180), or give Parquet'
        )


def map_columns(
    source: DataFrame,
    columns: Mapping[str, str],
    *,
    call_time_zone: Optional[str] = None,
    duplicates: bool = True,
) -> DataFrame:
    """The usage columns of a source table: its own, or Spark SQL expressions over it; its row in `row_as_it_came`.

    `call_time_zone` says that the session's zone is that of the log: it is what gives instants to times without an
    offset. Without it only a plain column of instants, or of text with an offset, is taken. `UsageError` otherwise.
    """
    for name, expression in columns.items():
        _check_expression(source, name, expression)
    needed = [name for name in USAGE.fieldNames() if duplicates or name != "request_id"]
    require_columns(source, [name for name in needed if name not in columns])

    mapped = [F.struct("*").alias(ROW)]
    for name in [*needed, "tags"]:
        field = usage_field(source, name)
        if name in columns:
            mapped.append(F.expr(columns[name]).alias(name))
        elif field is not None:
            mapped.append(F.col(quoted(field.name)).alias(name))
    usage = source.select(*mapped)
    plain = "call_time" not in columns or is_column(source, columns["call_time"])
    dtype = usage.schema["call_time"].dataType
    if call_time_zone is None:
        if not plain:
            raise UsageError(
                f"call_time is mapped to {columns['call_time']!r}, and what instant that gives depends on a time zone; "
                "add --call-time-zone ZONE, the zone of the log's times (such as Asia/Shanghai or UTC)"
            )
        if isinstance(dtype, TimestampNTZType):
            raise UsageError(
                "call_time is timestamp_ntz, a time without a zone; "
                "add --call-time-zone ZONE, the zone of the log's times (such as Asia/Shanghai or UTC)"
            )
    elif isinstance(dtype, TimestampNTZType):
        usage = usage.withColumn("call_time", F.col("call_time").cast("timestamp"))
    elif isinstance(dtype, StringType):
        readable = F.col("call_time").rlike(INSTANT_TEXT) | F.col("call_time").rlike(ZONELESS_TEXT)
        usage = usage.withColumn("call_time", F.when(readable, F.try_to_timestamp("call_time")))
    return usage


def refuse_zoneless_times(usage: DataFrame) -> None:
    """`UsageError` if a call time of the mapped usage is text without an offset. Scans until it has found one."""
    if not isinstance(usage.schema["call_time"].dataType, StringType):
        return
    row = usage.filter(F.col("call_time").rlike(ZONELESS_TEXT)).select("call_time").first()
    if row is not None:
        raise UsageError(
            f"call_time has text without an offset, such as {row['call_time']!r}, and a zone is never guessed; "
            "add --call-time-zone ZONE, the zone of the log's times (such as Asia/Shanghai or UTC)"
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


def users_error(error: Exception) -> Optional[str]:
    """What Spark says of a usage table or a user's expression, in a line; None if the failure is of another kind."""
    causes = _USERS_ERRORS.findall(str(error))
    if not causes:
        unreadable = _UNREADABLE_FILE.search(str(error))
        return f"FAILED_READ_FILE: {unreadable[0].strip()}" if unreadable else None
    condition, text = causes[-1]  # the innermost cause
    return f"{condition}: {text.strip()}"


def spark_reason(error: Exception) -> str:
    """A Spark error in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith("An error occurred while calling")]  # py4j's own words
    return users_error(error) or next(iter(told), repr(error))


def _check_expression(source: DataFrame, name: str, expression: str) -> None:
    if name not in MAPPABLE:
        raise UsageError(f"--column {name}={expression}: no such usage column; they are {', '.join(MAPPABLE)}")
    try:
        # what may stand in a WHERE is one value per row: no explode, which would bill a call twice, no aggregate
        _ = source.where(F.expr(expression).isNull()).schema
    except PySparkException as error:
        hint = ""
        if "UNRESOLVED" in str(error) and re.fullmatch(r"[\w.-]+", expression):
            hint = f" If it is meant as text, quote it: --column \"{name}='{expression}'\"."
        raise UsageError(f"--column {name}={expression}: {spark_reason(error)}.{hint}") from None
