"""Fields that no row of a JSON table has: null, as they are for every row that leaves them out.

Spark takes the fields of JSON from its rows. Where every call of an hour failed, none has a count of tokens, and an
expression over it would not be one for Spark: the hour's rows are to be rejected, not the run refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Optional

from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import DataType, StringType, StructField, StructType

from spark_billing.core.columns import quoted

COUNTS = ("input_tokens", "output_tokens")  # what the answer to a call may lack
_QUOTED_TEXT = re.compile(r"'(?:[^'\\]|\\.|'')*'|\"(?:[^\"\\]|\\.|\"\")*\"", re.S)
_NAME = r"(?:`(?:[^`]|``)+`|\w+)"
_PATH = re.compile(rf"(?<![\w.`])({_NAME}(?:\s*\.\s*{_NAME})*)(?!\s*\()(?![\w`])")
_MOST_FIELDS = 50  # of one expression


def without_text(expression: str) -> str:
    """A Spark SQL expression without the text literals in it, so that a word in it is a word of SQL or a name."""
    return _QUOTED_TEXT.sub("''", expression)


def with_absent_fields(
    source: DataFrame, columns: Mapping[str, str], needed: Sequence[str]
) -> tuple[DataFrame, list[str]]:
    """The source with a null for each field that its rows lack and an expression of `columns` asks for, and for a
    count of tokens that is `needed`; and what these are called.

    A name that is written wrong looks the same. So only a count may lack every field that it is made of, and only where
    it is then null (`coalesce(absent, 0)` would be billed as 0); of what says who called, what and when, at least one
    field must be there (`coalesce(created, created_at)`).
    """
    wide, absent = source, list[str]()
    for name, expression in columns.items():
        found, of_expression = wide, []
        for _ in range(_MOST_FIELDS):
            path = _absent_path(found, expression)
            if path is None:
                break
            found = _with_null(found, path)
            of_expression.append(".".join(path))
        if not of_expression:
            continue
        some = any(_there(source.schema, path) for path in _paths(expression))
        if some or (name in COUNTS and _is_null_of_nulls(found, expression)):
            wide, absent = found, [*absent, *of_expression]
    names = {field.name.lower() for field in source.schema.fields}
    for name in COUNTS:
        if name in needed and name not in columns and name not in names:
            wide, absent = wide.withColumn(name, F.lit(None)), [*absent, name]
    return wide, absent


def _paths(expression: str) -> Iterator[list[str]]:
    """What may be a column, or a field in one, in an expression: its names from the outside in."""
    for found in _PATH.finditer(without_text(expression)):
        yield [part.strip("`").replace("``", "`") for part in re.findall(_NAME, found[1])]


def _absent_path(source: DataFrame, expression: str) -> Optional[list[str]]:
    """A field that makes Spark refuse the expression, as it is not there; None if it is refused for another reason, or
    not at all."""
    try:
        _ = source.select(F.expr(expression)).schema
    except PySparkException as error:
        refusal = str(error)
    else:
        return None
    for path in _paths(expression):
        depth, dtype = _walk(source.schema, path)
        if depth == len(path):
            continue
        if depth == 0:  # a word such as CASE, or the variable of a lambda, is no column: Spark says which name is one
            if "UNRESOLVED_COLUMN" in refusal and ".".join(f"`{part}`" for part in path) in refusal:
                return path
        elif isinstance(dtype, StructType) or _is_null_everywhere(source, path[:depth], dtype):
            return path
    return None


def _is_null_of_nulls(source: DataFrame, expression: str) -> bool:
    """Whether an expression is null where all fields are."""
    nulls = (F.lit(None).cast(field.dataType).alias(field.name) for field in source.schema.fields)
    row = source.sparkSession.range(1).select(*nulls).select(F.expr(expression).isNull()).first()
    return row is not None and bool(row[0])


def _walk(schema: StructType, path: Sequence[str]) -> tuple[int, DataType]:
    """How many names of a path are there, and the type at the last of these."""
    dtype: DataType = schema
    for depth, name in enumerate(path):
        field = _field(dtype, name)
        if field is None:
            return depth, dtype
        dtype = field.dataType
    return len(path), dtype


def _there(schema: StructType, path: Sequence[str]) -> bool:
    return _walk(schema, path)[0] == len(path)


def _field(dtype: DataType, name: str) -> Optional[StructField]:
    fields = dtype.fields if isinstance(dtype, StructType) else []
    return next((field for field in fields if field.name.lower() == name.lower()), None)


def _is_null_everywhere(source: DataFrame, path: Sequence[str], dtype: DataType) -> bool:
    """Spark takes a field that is null in every row for text, in which no other field can be."""
    if not isinstance(dtype, StringType):
        return False
    column = F.col(".".join(quoted(name) for name in path))
    return source.where(column.isNotNull()).select(column).first() is None


def _with_null(source: DataFrame, path: Sequence[str]) -> DataFrame:
    depth, dtype = _walk(source.schema, path)
    if not isinstance(dtype, StructType):  # text that is null everywhere: put what is asked for in its place
        depth -= 1
    if depth == 0:
        return source.withColumn(path[0], _null_within(path[1:]))
    field = ".".join(quoted(name) for name in path[1 : depth + 1])
    return source.withColumn(path[0], F.col(quoted(path[0])).withField(field, _null_within(path[depth + 1 :])))


def _null_within(path: Sequence[str]) -> Column:
    return F.struct(_null_within(path[1:]).alias(path[0])) if path else F.lit(None)
