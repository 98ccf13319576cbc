"""Ledger lines counted and added up by Spark: what a record says of them, and what is compared with it."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Optional

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from spark_billing.core.schemas import AMOUNT, TOTAL_TOKENS
from spark_billing.ledger.run_record import LineSums


def sums_by_hour(lines: DataFrame) -> dict[int, dict[str, LineSums]]:
    """The count and sums of ledger lines by hour, in epoch seconds, and by reason (`original` has none)."""
    hour, reason = F.unix_seconds("period_start").alias("hour"), F.coalesce("reason", "entry").alias("reason")
    sums: dict[int, dict[str, LineSums]] = {}
    for row in lines.groupBy(hour, reason).agg(*_counts_and_sums()).orderBy("hour", "reason").collect():
        sums.setdefault(row["hour"], {})[row["reason"]] = _sums_of(row)
    return sums


def sums_by_date(conflicts: DataFrame) -> dict[str, LineSums]:
    """The count and sums of rows of `LEFT_OUT` by UTC+8 date."""
    rows = _with_tokens(conflicts).groupBy("billing_date").agg(*_counts_and_sums()).orderBy("billing_date").collect()
    return {str(row["billing_date"]): _sums_of(row) for row in rows}


def sums_by_run_and_date(written: DataFrame) -> dict[tuple[str, str], LineSums]:
    """The count and sums of ledger lines, or rows of `LEFT_OUT`, by UTC+8 date and run_id."""
    rows = _with_tokens(written).groupBy("run_id", "billing_date").agg(*_counts_and_sums()).collect()
    return {(str(row["billing_date"]), row["run_id"]): _sums_of(row) for row in rows}


def sums_by_kind(rows: DataFrame) -> dict[tuple[str, Optional[str], str], LineSums]:
    """The count and sums of rows of a ledger's table by kind, UTC+8 date (None: it has none) and run_id."""
    kinds = (F.col(name).cast(TOTAL_TOKENS) for name in ("tokens", "input_tokens", "output_tokens"))
    tokens = sum((F.coalesce(kind, F.lit(0)) for kind in kinds), F.lit(0)).cast(TOTAL_TOKENS)
    by = ("kind", "billing_date", "run_id")
    found = rows.withColumn("tokens", tokens).groupBy(*by).agg(*_counts_and_sums()).collect()
    return {
        (row["kind"], row["billing_date"] and str(row["billing_date"]), row["run_id"]): _sums_of(row) for row in found
    }


def sums_by_run_hour_and_reason(written: DataFrame) -> dict[tuple[str, str, int, str], LineSums]:
    """The count and sums of ledger lines, or rows of `LEFT_OUT`, by UTC+8 date, run_id, hour in epoch seconds, and
    reason (`original` has none, nor has what is left out)."""
    reason = F.coalesce("reason", "entry") if "entry" in written.columns else F.lit("")
    by = ("billing_date", "run_id", F.unix_seconds("period_start").alias("hour"), reason.alias("reason"))
    rows = _with_tokens(written).groupBy(*by).agg(*_counts_and_sums()).collect()
    return {(str(row["billing_date"]), row["run_id"], row["hour"], row["reason"]): _sums_of(row) for row in rows}


def _with_tokens(written: DataFrame) -> DataFrame:
    """Lines as they are; of what is left out, which has tokens of both kinds in a row, their sum."""
    if "tokens" in written.columns:
        return written
    kinds = [F.col(name).cast(TOTAL_TOKENS) for name in ("input_tokens", "output_tokens")]
    return written.withColumn("tokens", (kinds[0] + kinds[1]).cast(TOTAL_TOKENS))


def _counts_and_sums() -> list[Column]:
    sums = [F.sum(F.col(name).cast(TOTAL_TOKENS)).cast(TOTAL_TOKENS).alias(name) for name in ("requests", "tokens")]
    return [F.count(F.lit(1)).alias("lines"), *sums, F.sum("amount").cast(AMOUNT).alias("amount")]


def _sums_of(row: Any) -> LineSums:
    return LineSums(int(row["lines"]), int(row["requests"] or 0), int(row["tokens"] or 0), Decimal(row["amount"] or 0))
