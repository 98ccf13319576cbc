"""Columns that several rooms need: quoted names, hours and days in UTC+8, exact sums, tags, rows in the plan."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_billing.core.hours import SECONDS_PER_DAY, SECONDS_PER_HOUR, UTC8_SECONDS
from spark_billing.core.schemas import BILL_LINES, LINE_MEASURES, TOTAL_TOKENS


def quoted(name: str) -> str:
    """A column name as Spark reads it whatever is in it."""
    return "`" + name.replace("`", "``") + "`"


def billing_date(seconds: Column) -> Column:
    """The date in UTC+8 of an instant in epoch seconds, whatever the session's zone."""
    local = seconds + F.lit(UTC8_SECONDS)
    day = F.lit(SECONDS_PER_DAY)
    return F.date_from_unix_date(((local - F.pmod(local, day)) / day).cast("int"))


def billing_hour(seconds: Column) -> Column:
    """The clock hour in UTC+8, 0 to 23, of an instant in epoch seconds."""
    second = F.pmod(seconds + F.lit(UTC8_SECONDS), F.lit(SECONDS_PER_DAY))
    return ((second - F.pmod(second, F.lit(SECONDS_PER_HOUR))) / F.lit(SECONDS_PER_HOUR)).cast("int")


def hour_of(seconds: Column) -> Column:
    """The start, in epoch seconds, of the clock hour of an instant: in UTC+8 as in UTC, whatever the session's zone."""
    return seconds - F.pmod(seconds, F.lit(SECONDS_PER_HOUR))


GRAINS = ("hour", "day", "month")
_SECONDS = {"hour": SECONDS_PER_HOUR, "day": SECONDS_PER_DAY}


def period_start(seconds: Column, grain: str) -> Column:
    """The start, in epoch seconds, of the UTC+8 hour, day or month that an instant is in."""
    if grain == "month":
        return midnight(F.trunc(billing_date(seconds), "month"))
    return hour_of(seconds) if grain == "hour" else midnight(billing_date(seconds))


def period_end(seconds: Column, grain: str) -> Column:
    """Its end, in epoch seconds."""
    if grain == "month":
        return midnight(F.add_months(F.trunc(billing_date(seconds), "month"), 1))
    return period_start(seconds, grain) + F.lit(_SECONDS[grain])


def midnight(day: Column) -> Column:
    """The instant, in epoch seconds, at which a day begins in UTC+8."""
    return F.unix_date(day).cast("bigint") * F.lit(SECONDS_PER_DAY) - F.lit(UTC8_SECONDS)


def total(count: Column) -> Column:
    """A sum of whole numbers that cannot overflow; 0 of nothing."""
    dtype = TOTAL_TOKENS.simpleString()
    return F.coalesce(F.sum(count.cast(dtype)), F.lit(0)).cast(dtype)


def sums_of_lines() -> list[Column]:
    """What bill lines or ledger lines come to, of the types that a line has."""
    return [F.sum(name).cast(BILL_LINES[name].dataType).alias(name) for name in LINE_MEASURES]


def tag_column(key: str) -> str:
    """The bill line column of a tag."""
    return f"tag_{key}"


def tag_columns(lines: DataFrame) -> list[str]:
    """The columns of bill lines, ledger lines or sums that hold tags."""
    return [name for name in lines.columns if name.startswith(tag_column(""))]


def tag_keys(lines: DataFrame) -> list[str]:
    """The tags that they hold, as the usage calls them."""
    return [name[len(tag_column("")) :] for name in tag_columns(lines)]


def of_hours(spark: SparkSession, hours: Iterable[int]) -> DataFrame:
    """Hours, in epoch seconds, as the `period_start` that bills of them have: small, to join with."""
    rows = literal_rows(spark, "hour bigint", ({"hour": hour} for hour in hours))
    return F.broadcast(rows.select(F.timestamp_seconds("hour").alias("period_start")))


def literal_rows(spark: SparkSession, schema: str, rows: Iterable[dict[str, Any]]) -> DataFrame:
    """A small table that stands in the plan as one literal: no Python rows to ship, no data set to scan."""
    content = F.from_json(F.lit(json.dumps(list(rows))), f"array<struct<{schema}>>")
    return spark.range(0, 1, 1, 1).select(F.inline(content))
