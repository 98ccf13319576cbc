"""A usage table read from where it lies: Parquet, ORC, JSON, CSV, or a table of the catalog."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Any, Optional

from py4j.protocol import Py4JError, Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StringType, StructField, StructType

from spark_billing.core.columns import quoted
from spark_billing.core.errors import UsageError
from spark_billing.core.spark_errors import is_storage_failure, spark_reason
from spark_billing.core.storage import not_allowed_to_see, unseen_in
from spark_billing.usage.file_times import nanoseconds_as_times
from spark_billing.usage.given_schema import given_schema, typed_cell
from spark_billing.usage.table_versions import pinned
from spark_billing.usage.used_version import UsedVersion

FORMATS = ("parquet", "orc", "json", "csv", "table")
CORRUPT = "_corrupt_record"  # as Spark names it for JSON: the text of a row that was not read, or only in part
_STATUS = re.compile(r"\{path=(.*?); isDirectory=false; length=(\d+)")  # of a file, as Hadoop writes it
_ENDINGS = {"csv": "csv", "json": "json", "jsonl": "json", "ndjson": "json", "orc": "orc"}


def format_of(location: str, file_format: Optional[str]) -> str:
    """What a usage table is: as said, else by its name's ending, else Parquet."""
    if file_format is not None:
        return file_format
    parts = location.rstrip("/").rsplit("/", 1)[-1].lower().split(".")
    return next((_ENDINGS[part] for part in reversed(parts[1:]) if part in _ENDINGS), "parquet")


def partition_columns(spark: SparkSession, location: str) -> list[str]:
    """The columns that the names of a path's folders give (`dt=2026-04-08`)."""
    return spark.read.text(location).columns[1:]


@dataclass(frozen=True)
class Source:
    """A usage table as it is, and the version of it that is read, if its format has any."""

    rows: DataFrame
    version: Optional[UsedVersion] = None
    empty_files: Sequence[str] = ()  # that Spark passes over, by their paths


def read_usage(
    spark: SparkSession,
    location: str,
    file_format: Optional[str],
    what: str = "usage",
    schema: Optional[str] = None,
    where: Optional[str] = None,
) -> Source:
    """The usage table at a path (Parquet unless its name ends otherwise) or in the catalog (`table`), as it is; or
    another table, which messages call `what`.

    CSV has a header and is read as text; files whose headers differ are refused. A CSV file is one task, as a value may
    have line breaks: write a huge one as several. JSON and CSV may come with a `schema` (`given_schema.given_schema`):
    a row that does not fit it has null where a value is of another type, and its text in `_corrupt_record`. Of Parquet
    only files that may have rows `where` a condition holds are looked at; it is for the caller to filter the rows. Of a
    table of the catalog one version is read, if it has any (`table_versions.pinned`).
    `UsageError` if it cannot be read. The session needs `session.SESSION_SETTINGS`.
    """
    file_format = format_of(location, file_format)
    given = _given(spark, location, file_format, schema)
    version, empty = None, list[str]()
    try:
        if file_format == "table":
            usage, version = pinned(spark, location)
        elif file_format == "csv":
            usage = _read_csv(spark, location, given)
        elif given is not None:
            rows = spark.read.schema(StructType([*given.fields, StructField(CORRUPT, StringType())]))
            usage = rows.option("columnNameOfCorruptRecord", CORRUPT).json(location)
        else:
            usage = spark.read.format(file_format).load(location)
        empty = empty_files(usage)
        if file_format == "parquet":
            usage = nanoseconds_as_times(spark, location, usage, where)
        fields = usage.schema.fields
    except (PySparkException, Py4JJavaError) as error:
        if is_storage_failure(error):
            raise
        unseen = not_allowed_to_see(location) or unseen_in(str(error))
        raise UsageError(
            f"cannot read the {what} {location!r} as {file_format}: "
            f"{unseen or f'{spark_reason(error)}. Give an existing path or table, and its format.'}",
            parameter=f"{what}_format",
        ) from None
    if file_format == "json" and [field.name for field in fields] == [CORRUPT]:
        raise UsageError(
            f"the {what} {location!r} has no line that is JSON; give its format", parameter=f"{what}_format"
        )
    if not fields:
        raise UsageError(f"the {what} {location!r} has no column when read as {file_format}; is it empty?")
    return Source(usage, version, empty)


def empty_files(usage: DataFrame) -> list[str]:
    """The files under a table that have not a byte: Spark passes them over without a word, and a broken upload would be
    calls that nobody bills. What Spark has listed anyway is looked at, so nothing is listed for it."""
    frame: Any = usage
    if not hasattr(frame, "_jdf"):
        return []  # Spark Connect has no way to the files
    found: set[str] = set()
    leaves = frame._jdf.queryExecution().analyzed().collectLeaves()
    for n in range(leaves.size()):
        with suppress(Py4JError, TypeError):  # no files, or not listed yet: a table of a catalog
            listed = leaves.apply(n).relation().location().allFiles().toString()
            found.update(path for path, size in _STATUS.findall(listed) if int(size) == 0)
    return sorted(found)


def _given(spark: SparkSession, location: str, file_format: str, schema: Optional[str]) -> Optional[StructType]:
    if schema is None:
        return None
    if file_format not in ("json", "csv"):
        raise UsageError(
            f"usage_schema is for files of JSON or CSV, and {location!r} is read as {file_format}; leave it out",
            parameter="usage_schema",
        )
    return given_schema(spark, schema, file_format)


def _read_csv(spark: SparkSession, location: str, given: Optional[StructType]) -> DataFrame:
    """Text columns by the header, but for those of a schema. A row with more or fewer values than the header has none
    of them, and its text in `_corrupt_record`: which value belongs to which column would be a guess (1,000 is two
    values).

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
    schema = StructType([StructField(name, StringType()) for name in (*names, CORRUPT)])
    rows = reader.schema(schema).option("columnNameOfCorruptRecord", CORRUPT).csv(location)
    whole = F.col(CORRUPT).isNull()
    values = {name: F.col(quoted(name)) for name in names}
    # if only some lines end with CR LF, Spark leaves the CR with their last value
    of_rows = names[: len(header)]  # the others are those of the folders' names, which hold for every row
    values.update({name: F.regexp_replace(values[name], "\r$", "") for name in of_rows[-1:]})
    values.update({name: F.when(whole, values[name]) for name in of_rows})
    texts = rows.select(*(value.alias(name) for name, value in values.items()), CORRUPT)
    return texts if given is None else _typed(texts, given, location)


def _typed(texts: DataFrame, given: StructType, location: str) -> DataFrame:
    """CSV with some columns of other types than text; a row whose text is not of its type, as a row that cannot be read
    as a whole, has its text in `_corrupt_record`."""
    own = {name.lower(): name for name in texts.columns}
    absent = [name for name in given.names if name.lower() not in own]
    if absent:
        raise UsageError(
            f"usage_schema has {', '.join(absent)}, but the CSV header of {location!r} has only: "
            f"{', '.join(name for name in texts.columns if name != CORRUPT)}. Write the names of the header.",
            parameter="usage_schema",
        )
    typed = {own[field.name.lower()]: typed_cell(own[field.name.lower()], field.dataType) for field in given.fields}
    wrong = reduce(or_, (F.col(quoted(n)).isNotNull() & cell.isNull() for n, cell in typed.items()), F.lit(False))
    text = F.to_csv(F.struct(*(quoted(name) for name in texts.columns if name != CORRUPT)))
    typed[CORRUPT] = F.coalesce(F.col(CORRUPT), F.when(wrong, text))
    return texts.select(*(typed.get(name, F.col(quoted(name))).alias(name) for name in texts.columns))


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
