"""How a usage table is read and mapped: what the jobs' options say, in one value that all of them share."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Optional

from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import NullType, NumericType, StringType

from spark_billing.core.columns import quoted
from spark_billing.core.errors import UsageError
from spark_billing.core.schemas import USAGE
from spark_billing.core.spark_errors import spark_reason
from spark_billing.prices.price_list import PriceList
from spark_billing.usage.absent import with_absent_fields, without_text
from spark_billing.usage.aliases import Aliases, GivenAliases, aliases_of, pairs_of, take_models
from spark_billing.usage.files import CORRUPT, Source, empty_files, format_of, partition_columns, read_usage
from spark_billing.usage.mapping import ROW, map_columns
from spark_billing.usage.used_version import UsedVersion

# Each query of a run has a clock of its own, and would read other rows; and a query reads other tables than the usage
_MOVING = re.compile(
    r"\b(?:current_(?:timestamp|date|time)|curdate|localtimestamp|select)\b|\b(?:now|unix_timestamp)\s*\(\s*\)", re.I
)


@dataclass(frozen=True)
class Mapped:
    """A usage table in the columns of the contract (`mapping.map_columns`)."""

    usage: DataFrame
    absent: list[str]  # fields that an expression asks for and no row of the JSON has
    version: Optional[UsedVersion] = None  # of a table of the catalog: the one that is read
    empty_files: Sequence[str] = ()  # that Spark passes over


@dataclass(frozen=True)
class Reading:
    """How a usage table is read and mapped. The names are those of the jobs' options."""

    columns: Mapping[str, str] = field(default_factory=dict)
    call_time_zone: Optional[str] = None
    duplicates: bool = True
    where: Optional[str] = None
    model_alias: GivenAliases = ()
    usage_format: Optional[str] = None
    usage_schema: Optional[str] = None

    def asked(self) -> dict[str, Any]:
        """As it stands in the record of a run."""
        return {
            "columns": dict(self.columns),
            "call_time_zone": self.call_time_zone,
            "duplicates": self.duplicates,
            "where": self.where,
            "model_alias": [list(pair) for pair in pairs_of(self.model_alias)],
            "usage_schema": self.usage_schema,
        }

    def read(self, spark: SparkSession, location: str, prices: PriceList) -> Mapped:
        """The usage at a path or in the catalog, mapped. The session needs `mapping.usage_session`."""
        aliases = aliases_of(self.model_alias, prices)  # refused before anything is read
        kind = format_of(location, self.usage_format)
        inferred = kind == "json" and self.usage_schema is None
        told_apart = inferred or kind == "csv"  # as `files` reads them
        source = self.source(spark, location)
        mapped = self._mapped(
            source.rows, aliases, prices, absent_is_null=inferred, half_rows_are_told_apart=told_apart
        )
        return replace(mapped, version=source.version, empty_files=source.empty_files)

    def source(self, spark: SparkSession, location: str) -> Source:
        """The rows of the usage that are read, in its own columns."""
        source = read_usage(spark, location, self.usage_format, schema=self.usage_schema, where=self.where)
        if self.where is None:
            return source
        in_folders = format_of(location, self.usage_format) in ("json", "csv")
        of_files = partition_columns(spark, location) if in_folders else []
        return replace(source, rows=_only(source.rows, self.where, of_files))

    def map(self, table: DataFrame, prices: PriceList) -> Mapped:
        """A table that is there as a DataFrame, mapped."""
        if self.usage_schema is not None:
            raise UsageError(
                "usage_schema is for files of JSON or CSV, and this usage is a DataFrame; leave it out, and give the "
                "schema where the DataFrame is read",
                parameter="usage_schema",
            )
        aliases = aliases_of(self.model_alias, prices)
        mapped = self._mapped(table if self.where is None else _only(table, self.where, []), aliases, prices)
        return replace(mapped, empty_files=empty_files(table))

    def _mapped(
        self,
        source: DataFrame,
        aliases: Aliases,
        prices: PriceList,
        *,
        absent_is_null: bool = False,
        half_rows_are_told_apart: bool = False,
    ) -> Mapped:
        absent: list[str] = []
        if absent_is_null:
            needed = [name for name in USAGE.fieldNames() if self.duplicates or name != "request_id"]
            wide, absent = with_absent_fields(source.withColumn(ROW, F.struct("*")), self.columns, needed)
            source = wide if absent else source
        usage = map_columns(
            source,
            self.columns,
            call_time_zone=self.call_time_zone,
            duplicates=self.duplicates,
            has_row=bool(absent),
        )
        usage = _without_half_rows(usage, told_apart=half_rows_are_told_apart)
        return Mapped(take_models(usage, aliases, prices), absent)


def _only(source: DataFrame, where: str, of_files: list[str]) -> DataFrame:
    """The rows for which a condition holds; of JSON and CSV also those that could not be read, so that they come to be
    rejected. `of_files` are the partition columns, which every row has: over these alone Spark skips whole folders."""
    moving = _MOVING.search(without_text(re.sub(r"`(?:[^`]|``)*`", "a", where)))
    if moving:
        raise _where_refusal(where, f"{moving[0]!r} makes it a question of more than the row")
    try:
        condition = F.expr(where)
        _ = source.where(condition).schema  # no explode, no aggregate, no window
        _ = source.agg(F.count(F.when(condition, 1))).schema  # nothing that comes by chance
    except PySparkException as error:
        raise _where_refusal(where, spark_reason(error)) from None
    if CORRUPT not in source.columns or (
        of_files and _is_over(source.select(*(quoted(name) for name in of_files)), condition)
    ):
        return source.where(condition)
    return source.where(F.coalesce(condition, F.col(CORRUPT).isNotNull()))


def _is_over(source: DataFrame, condition: Column) -> bool:
    """Whether a condition asks for no other column."""
    try:
        _ = source.select(condition).schema  # a filter would find them further down
    except PySparkException:
        return False
    return True


def _where_refusal(where: str, reason: str) -> UsageError:
    return UsageError(
        f"where is {where!r}: {reason}. Needed is a condition over the columns of one row of the source, such as "
        "\"call_type = 'chat'\".",
        parameter="where",
    )


def _without_half_rows(usage: DataFrame, *, told_apart: bool) -> DataFrame:
    """The mapped usage in which no row is billed that was read only in part.

    Such a row has its text in `_corrupt_record`, and null where a value is not of its type: null can mean something
    else (embeddings have no output), and an expression may make a number of it. Spark looks only at the fields that a
    query needs, and would find the same row whole for one query and not for another; unless it is `told_apart` which
    rows are whole, every query needs all fields.
    """
    row = usage.schema[ROW].dataType
    names = [field.name for field in getattr(row, "fields", []) if field.name != CORRUPT]
    dtype = usage.schema["output_tokens"].dataType
    if len(names) == len(getattr(row, "fields", [])) or not isinstance(dtype, (NumericType, StringType, NullType)):
        return usage
    whole = F.col(ROW).getField(CORRUPT).isNull()
    if names and not told_apart:
        whole &= F.hash(*(F.col(ROW).getField(name).isNull() for name in names)) >= F.lit(-(2**31))  # always true
    output, none = F.col("output_tokens"), F.lit("-1" if isinstance(dtype, StringType) else -1)
    return usage.withColumns(
        {
            "input_tokens": F.when(whole | output.isNull(), F.col("input_tokens")),
            "output_tokens": F.when(whole | output.isNotNull(), output).otherwise(none),
        }
    )
