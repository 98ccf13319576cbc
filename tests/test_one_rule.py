"""The tier rule and the reasons stand in several forms. One table each runs through all of them.

The costs of tests/cases/tiers.csv are worked out by hand: input tokens x price per 1,000 tokens / 1,000, no output.
"""

import csv
from collections import Counter
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import functions as F

from spark_billing import (
    UsageError,
    bill_lines,
    check_usage,
    estimate_calls,
    model_call_cost,
    model_call_tier,
    price_calls,
    sql_function_ddl,
)
from spark_billing.core.hours import epoch_us
from spark_billing.prices.price_arrays import UNPRICED, PriceTable
from spark_billing.usage.reasons import REASONS, REJECT_REASONS
from tests.conftest import CALL, usage_frame

CASES = Path(__file__).parent / "cases"
CALL_COLUMNS = ("model", "region", "input_tokens", "output_tokens", "call_time")


def read(name):
    with (CASES / name).open(encoding="utf-8", newline="") as file:
        return [{column: value or None for column, value in row.items()} for row in csv.DictReader(file)]


TIERS = [
    {
        **row,
        "expected_cost": row["expected_cost"] and Decimal(row["expected_cost"]),
        "call_time": datetime.fromisoformat(row["call_time"]),
        "input_tokens": int(row["input_tokens"]),
        "output_tokens": 0,
    }
    for row in read("tiers.csv")
]
EXPECTED = [(row["expected_tier"], row["expected_cost"]) for row in TIERS]


@pytest.fixture
def calls(spark):
    return usage_frame(
        spark, [{**CALL, **row, "request_id": f"{number:02}"} for number, row in enumerate(TIERS)]
    ).coalesce(1)


def in_order(frame, tier, cost):
    return [tuple(row) for row in frame.orderBy("request_id").select(tier, cost).collect()]


def test_tiers_in_plain_python(usd):
    found = []
    for row in TIERS:
        price = usd.find(row["model"], row["region"], row["input_tokens"], row["call_time"])
        cost = price and price.input_price_per_1k * row["input_tokens"] / 1000
        found.append((price and price.tier, cost))
    assert found == EXPECTED


def test_tiers_in_arrays(usd):
    table = PriceTable.of(usd)

    def numbers(name, known):
        return np.array([known.get(row[name], len(known)) for row in TIERS])

    tokens, none = np.array([row["input_tokens"] for row in TIERS]), np.zeros(len(TIERS), dtype=np.int64)
    at = np.array([epoch_us(row["call_time"]) for row in TIERS])
    where = (numbers("model", table.models), numbers("region", table.regions))
    rows = table.locate(*where, tokens, none, none.astype(bool), at)
    costs, _ = table.costs_pico(rows, tokens, none)
    found = [
        (None, None) if row == UNPRICED else (usd.prices[row].tier, Decimal(int(cost)) / 10**12)
        for row, cost in zip(rows, costs)
    ]
    assert found == EXPECTED


def test_tiers_in_columns(usd, calls):
    assert in_order(price_calls(calls, prices=usd), "tier", "cost") == EXPECTED


def test_tiers_in_the_udfs(usd, calls):
    priced = calls.select(
        "request_id",
        model_call_tier(usd)(*CALL_COLUMNS).alias("tier"),
        model_call_cost(usd)(*CALL_COLUMNS).alias("cost"),
    )
    assert in_order(priced, "tier", "cost") == EXPECTED


@pytest.mark.spark4
def test_tiers_in_sql(spark, usd, calls):
    for statement in sql_function_ddl(usd, prefix="rule_"):
        spark.sql(statement)
    of_call = f"({', '.join(CALL_COLUMNS)})"
    priced = calls.selectExpr(
        "request_id", f"rule_model_call_tier{of_call} AS tier", f"rule_model_call_cost{of_call} AS cost"
    )
    assert in_order(priced, "tier", "cost") == EXPECTED
    for name in ("rule_model_call_tier", "rule_model_call_cost"):
        spark.sql(f"DROP TEMPORARY FUNCTION {name}")


def test_tiers_of_groups_of_calls(usd, calls):
    """Each call in a workspace of its own, so that each has a line of its own."""
    alone = calls.withColumn("workspace_id", F.col("request_id"))
    lines = bill_lines(alone, prices=usd).filter("token_type = 'input'").collect()
    found = {row["workspace_id"]: (row["tier"], row["amount"]) for row in lines}
    assert [found.get(f"{number:02}", (None, None)) for number in range(len(TIERS))] == EXPECTED


def test_tiers_of_prompts(spark, usd):
    """A digit is one token by every ratio, so that a text has as many tokens as it has digits."""
    of_where = {}
    for row in TIERS:
        if row["input_tokens"] == 0:  # no text at all has a reason of its own
            continue
        of_where.setdefault((row["model"], row["region"], row["call_time"]), []).append(row)
    with pytest.raises(UsageError, match="cn-chengdu"):  # refused as an argument, not row by row
        _estimated(spark, usd, *of_where.popitem())
    for where, rows in of_where.items():
        figures = _estimated(spark, usd, where, rows)
        assert figures.calls_by_price == Counter(
            f"{row['model']}/{row['region']}/{row['expected_tier']}" for row in rows if row["expected_tier"]
        )
        assert figures.cost == sum(row["expected_cost"] or 0 for row in rows)
        refused = sum(row["expected_tier"] is None for row in rows)
        assert figures.refused == ({"input_tokens_out_of_range": refused} if refused else {})


def _estimated(spark, prices, where, rows):
    counts = spark.createDataFrame([(row["input_tokens"],) for row in rows], "n int")
    prompts = counts.select(F.expr("repeat('1', n)").alias("text"))
    model, region, at = where
    asked = {"text": "text", "model": model, "region": region, "output_tokens": 0}
    return estimate_calls(prompts, **asked, prices=prices, at=at).middle


# --- reasons -------------------------------------------------------------------------------------------------------


def test_every_reason_has_a_name_a_text_and_a_place():
    assert len(set(REJECT_REASONS)) == len(REASONS) == 13
    assert all(reason.text for reason in REASONS)
    assert [reason.name for reason in REASONS if reason.applies is None] == ["duplicate_request", "conflicting_request"]


@pytest.mark.spark4
def test_where_a_row_has_a_reason_no_form_has_a_price(spark, usd):
    rows = read("reject_reasons.csv")
    columns = ", ".join(f"{name} string" for name in rows[0])
    usage = spark.createDataFrame([tuple(row.values()) for row in rows], columns)
    checked = check_usage(usage, prices=usd).withColumn("udf", model_call_cost(usd)(*CALL_COLUMNS))
    priced = price_calls(checked, prices=usd).collect()
    billed = {row["workspace_id"] for row in bill_lines(
        usage.withColumn("workspace_id", F.when(F.col("workspace_id") != "", F.col("request_id"))), prices=usd
    ).collect()}  # fmt: skip
    for row in priced:
        assert row["reject_reason"] == row["expected_reason"], row
        about_ids = row["expected_reason"] in ("missing_request_id", "missing_workspace_id")
        if not about_ids:
            assert (row["cost"] is None) == (row["udf"] is None) == (row["expected_reason"] is not None), row
        assert (row["request_id"] in billed) == (row["expected_reason"] is None), row
