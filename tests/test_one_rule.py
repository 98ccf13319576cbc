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
from spark_billing.usage.calls import PRICED_BY, no_id, typed_calls
from spark_billing.usage.reasons import REASONS, REJECT_REASONS
from tests import oracle
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
    assert len(set(REJECT_REASONS)) == len(REASONS) == 14
    assert all(reason.text for reason in REASONS)
    assert [reason.name for reason in REASONS if reason.applies is None] == ["duplicate_request", "conflicting_request"]


REASON_ROWS = read("reject_reasons.csv")
ABOUT_IDS = ("missing_request_id", "missing_workspace_id")  # known only where a call has ids: in checks and bills


@pytest.fixture
def rejected(spark):
    """The table of reasons as a usage table of text."""
    columns = ", ".join(f"{name} string" for name in REASON_ROWS[0])
    return spark.createDataFrame([tuple(row.values()) for row in REASON_ROWS], columns)


@pytest.mark.spark4
def test_where_a_row_has_a_reason_no_form_has_a_price(usd, rejected):
    usage = rejected
    checked = check_usage(usage, prices=usd).withColumn("udf", model_call_cost(usd)(*CALL_COLUMNS))
    priced = price_calls(checked, prices=usd).collect()
    billed = {row["workspace_id"] for row in bill_lines(
        usage.withColumn("workspace_id", F.when(~no_id(F.col("workspace_id")), F.col("request_id"))), prices=usd
    ).collect()}  # fmt: skip
    for row in priced:
        assert row["reject_reason"] == row["expected_reason"], row
        if row["expected_reason"] not in ABOUT_IDS:
            assert (row["cost"] is None) == (row["udf"] is None) == (row["expected_reason"] is not None), row
        assert (row["request_id"] in billed) == (row["expected_reason"] is None), row


@pytest.mark.spark4
def test_reasons_in_sql(spark, usd, rejected):
    """The functions take typed calls. They are not given ids; and a count that is no number is null to them, which is
    fine for an embedding."""
    for statement in sql_function_ddl(usd, prefix="reason_"):
        spark.sql(statement)
    cost = f"reason_model_call_cost({', '.join(CALL_COLUMNS)}) AS cost"
    for row in typed_calls(rejected, PRICED_BY).selectExpr("source.*", cost).collect():
        only_ids = row["expected_reason"] in ABOUT_IDS and row["model"] is not None
        fine = row["expected_reason"] is None or only_ids or row["output_tokens"] == "many"
        assert (row["cost"] is not None) == fine, row
    for name in ("reason_model_call_cost", "reason_model_call_tier"):
        spark.sql(f"DROP TEMPORARY FUNCTION {name}")


def test_reasons_of_prompts(spark, usd):
    """A prompt has no ids, no time of its own and a whole number of tokens; one without any has a reason of its own."""
    of_others = (*ABOUT_IDS, "missing_call_time", "invalid_input_tokens")
    rows = [row for row in REASON_ROWS if row["expected_reason"] not in of_others]
    rows = [row for row in rows if row["call_time"] is None or not row["call_time"].startswith(("1970", "2024"))]
    rows = [row for row in rows if row["request_id"] not in ("r61", "r63")]  # 0 tokens, 2^63 - 1 tokens: no such text
    counts = [(oracle.whole(row["input_tokens"]) or 1, *(row[n] for n in ("model", "region", "output_tokens")))
              for row in rows]  # fmt: skip
    prompts = spark.createDataFrame(counts, "n int, model string, region string, output_tokens string")
    asked = {name: F.col(name) for name in ("model", "region", "output_tokens")}
    prompts = prompts.withColumn("text", F.expr("repeat('1', n)"))
    figures = estimate_calls(prompts, text="text", **asked, prices=usd, at=oracle.COMMERCIAL_START).middle
    expected = Counter(row["expected_reason"] for row in rows)
    assert figures.calls == expected.pop(None)
    assert figures.refused == expected


def test_reasons_of_the_oracle():
    """It knows no ids, and is given instants: which text is one is not for it to say."""

    def instant(row):
        if row["expected_reason"] == "missing_call_time":
            return None
        try:
            return datetime.fromisoformat(row["call_time"].replace("Z", "+00:00"))
        except ValueError:  # Spark reads more forms than Python
            return oracle.COMMERCIAL_START

    for row in REASON_ROWS:
        if row["expected_reason"] not in ABOUT_IDS:
            at = row["call_time"] and instant(row)
            assert oracle.reason({**row, "call_time": at}) == row["expected_reason"], row
