"""A usage table as typed calls: whole token counts, instants and ids, null where a value is not exactly that."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import product
from typing import Callable, Optional

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import (
    DataType,
    DecimalType,
    DoubleType,
    FloatType,
    IntegralType,
    NullType,
    StringType,
    StructField,
    TimestampType,
)

from spark_billing.core.columns import quoted
from spark_billing.core.errors import UsageError
from spark_billing.core.hours import FIRST_INSTANT_US, INSTANT_TEXT, LAST_INSTANT_US
from spark_billing.core.schemas import TAGS, USAGE
from spark_billing.prices.price import MAX_TOKENS

PRICED_BY = ("region", "model", "call_time", "input_tokens", "output_tokens")  # what the price of a call depends on
BILLED_BY = ("workspace_id", *PRICED_BY)  # and the line it goes to
AMBIGUOUS = "call_time_is_ambiguous"  # of mapped usage: whether a local time was none, or two (`usage.local_times`)
_NO_IDS = ("", "none", "null", "nan")  # what programs write where they have no id, in any case
_NO_ID_TEXTS = [
    "".join(letters) for text in _NO_IDS for letters in product(*((letter, letter.upper()) for letter in text))
]
_WHOLE_TEXT = r"\A *([+-]?[0-9]{1,38})(\.0*)? *\z"
_LONG_MIN, _LONG_MAX = -(2**63), 2**63 - 1


def typed_calls(usage: DataFrame, columns: Collection[str]) -> DataFrame:
    """The usage `columns` as `schemas.USAGE` types them, beside `source`: the row as it came.

    A value that is not exactly of its type (a token count of 1.5, a time without a zone, None for an id) is null;
    `output_missing` tells a null output count from an unreadable one, `time_ambiguous` a local time that is not exactly
    one instant from a time that is not there. `tags` follows if the usage has it as map<string,string>.
    """
    fields = {name: usage_field(usage, name) for name in columns}
    require_columns(usage, columns)
    problems = [_type_problem(name, field) for name, field in fields.items() if field is not None]
    if any(problems):
        found = "; ".join(problem for problem in problems if problem)
        raise UsageError(f"the usage table does not fit: {found}", parameter="columns")

    typed = [F.struct("*").alias("source")]
    for name, field in fields.items():
        if field is None:  # require_columns has refused it
            continue
        typed.append(_TYPED[name](F.col(quoted(field.name)), field.dataType).alias(name))
        if name == "output_tokens":
            typed.append(F.col(quoted(field.name)).isNull().alias("output_missing"))
        if name == "call_time":
            known = AMBIGUOUS in usage.columns
            typed.append((F.col(AMBIGUOUS) if known else F.lit(False)).alias("time_ambiguous"))
    tags = usage_field(usage, "tags")
    if tags is not None and tags.dataType.simpleString() == TAGS.simpleString():  # whether values may be null or not
        typed.append(F.col(quoted(tags.name)).alias("tags"))
    return usage.select(*typed)


def require_columns(usage: DataFrame, columns: Iterable[str]) -> None:
    """`UsageError` naming every usage column that the table lacks, and what it has instead."""
    missing = [name for name in columns if usage_field(usage, name) is None]
    if missing:
        found = ", ".join(f"{f.name} {f.dataType.simpleString()}" for f in usage.schema.fields) or "no column at all"
        raise UsageError(
            f"the usage table has no column {', '.join(missing)}; it has: {found}. Rename or add the column.",
            parameter="columns",
        )


def usage_field(usage: DataFrame, name: str) -> Optional[StructField]:
    """The field of a usage column, found without regard to case; None if there is none."""
    fields = [field for field in usage.schema.fields if field.name.lower() == name]
    if len(fields) > 1:
        raise UsageError(
            f"the usage table has the column {name} {len(fields)} times ({', '.join(f.name for f in fields)}); "
            "drop or rename all but one"
        )
    return fields[0] if fields else None


def no_id(column: Column) -> Column:
    """Whether the text of an id is none: null, empty, or None, null or nan in any case."""
    # equalities, not a function of the id: they reach the scan, and a long id is compared with none of them
    return column.isNull() | ((F.octet_length(column) <= F.lit(4)) & column.isin(_NO_ID_TEXTS))


def readable_instant(call_time: Column) -> Column:
    """Whether an instant lies within the years that can be billed (1 to 9999)."""
    return (call_time >= _instant_at(FIRST_INSTANT_US)) & (call_time <= _instant_at(LAST_INSTANT_US))


def in_period(call_time: Column, dtype: DataType, start_us: int, end_us: int) -> Column:
    """Whether a call belongs to a half-open period: by its time, or because it has no readable time (such a row is
    rejected in every period, never lost). Comparisons of a bare timestamp column, so that the scan can skip files."""
    if not isinstance(dtype, TimestampType):
        call_time = _call_time(call_time, dtype)
    within = (call_time >= _instant_at(start_us)) & (call_time < _instant_at(end_us))
    unreadable = (call_time < _instant_at(FIRST_INSTANT_US)) | (call_time > _instant_at(LAST_INSTANT_US))
    return within | unreadable | call_time.isNull()


def out_of_time(call_time: Column, dtype: DataType, before_us: int, from_us: int) -> Column:
    """Whether a call is dated before all calls, or in an hour that has not begun: told by every run, whatever its
    period."""
    if not isinstance(dtype, TimestampType):
        call_time = _call_time(call_time, dtype)
    far = (call_time < _instant_at(before_us)) | (call_time >= _instant_at(from_us))
    return F.coalesce(far, F.lit(False))


def _instant_at(micros: int) -> Column:
    return F.timestamp_micros(F.lit(micros))


def _type_problem(name: str, field: StructField) -> Optional[str]:
    """Why a usage column cannot be used at all, or None; a bad value in a row is not one of these."""
    needed, hint = {
        "call_time": (
            (TimestampType, StringType),
            "an instant is needed: a timestamp, or ISO 8601 text with an offset (map an expression that gives a "
            "timestamp, such as timestamp_millis(...), and name the call_time_zone)",
        ),
        "input_tokens": ((IntegralType, DecimalType, DoubleType, FloatType, StringType), "a whole number is needed"),
        "output_tokens": ((IntegralType, DecimalType, DoubleType, FloatType, StringType), "a whole number is needed"),
    }.get(name, ((StringType,), "text is needed: cast(... as string)"))
    if isinstance(field.dataType, (*needed, NullType)):
        return None
    return f"{name} is {field.dataType.simpleString()}, but {hint}"


def _as_text(column: Column, dtype: DataType) -> Column:
    return column.cast(StringType())  # also of a column with a collation, under which other ids would be the same


def as_id(column: Column) -> Column:
    """An id as text; null where it is none (`no_id`)."""
    text = column.cast(StringType())
    return F.when(~no_id(text), text)


def _whole_number(column: Column, dtype: DataType) -> Column:
    """As bigint if it is exactly a whole number of that range, else null; the same under ANSI and not."""
    if isinstance(dtype, (IntegralType, NullType)):
        return column.cast("bigint")
    if isinstance(dtype, StringType):
        digits = F.regexp_extract(column.cast(StringType()), _WHOLE_TEXT, 1)
        number = F.when(digits != "", digits.cast("decimal(38,0)"))
        return F.when(number.between(_LONG_MIN, _LONG_MAX), number.cast("bigint"))
    if isinstance(dtype, DecimalType):
        whole = column % F.lit(1).cast("decimal(1,0)") == 0
        return F.when(whole & column.between(_LONG_MIN, _LONG_MAX), column.cast("bigint"))
    number = column.cast("double")  # a count, not money; exactly whole or refused
    whole = ~F.isnan(number) & (F.rint(number) == number) & (F.abs(number) < F.lit(2.0**63))
    return F.when(whole, number.cast("bigint"))


def _call_time(column: Column, dtype: DataType) -> Column:
    """As an instant; text only if it carries its offset, so that the session's zone is never asked."""
    if isinstance(dtype, NullType):
        return column.cast(TimestampType())
    instant = column
    if isinstance(dtype, StringType):
        text = column.cast(StringType())
        instant = F.when(text.rlike(INSTANT_TEXT), F.try_to_timestamp(text))
    return F.when(readable_instant(instant), instant)


def countable(tokens: Column) -> Column:
    """A count that control totals add up: 0 for what cannot be the tokens of one request, so no sum can overflow."""
    return F.when(is_count(tokens), tokens).otherwise(F.lit(0).cast("bigint"))


def is_count(tokens: Column) -> Column:
    """Whether a number can be the tokens of one request; null for null."""
    return tokens.between(0, MAX_TOKENS)


_TYPED: dict[str, Callable[[Column, DataType], Column]] = {
    **{field.name: _as_text for field in USAGE.fields},
    "request_id": lambda column, dtype: as_id(column),
    "workspace_id": lambda column, dtype: as_id(column),
    "call_time": _call_time,
    "input_tokens": _whole_number,
    "output_tokens": _whole_number,
}
