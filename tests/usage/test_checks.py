"""Each reject reason, repeats, and what a usage table may look like."""

import csv
import random
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from chispa import assert_df_equality
from pyspark.sql import functions as F

from spark_billing import PriceList, UsageError, check_usage, model_call_cost, price_calls
from spark_billing.core.schemas import PRICED, USAGE
from spark_billing.usage.reasons import REJECT_REASONS
from tests.conftest import CALL, usage_frame
from tests.oracle import COMMERCIAL_START

CASES = Path(__file__).parent.parent / "cases"
HEADER = "model,region,min_input_tokens,max_input_tokens,input_price_per_1k,output_price_per_1k,currency"


def reasons(checked):
    return {row["request_id"]: row["reject_reason"] for row in checked.select("request_id", "reject_reason").collect()}


def test_every_reason(spark, usd, ansi, session_zone):
    with (CASES / "reject_reasons.csv").open(encoding="utf-8", newline="") as file:
        rows = [{name: value or None for name, value in row.items()} for row in csv.DictReader(file)]
    names = list(rows[0])
    usage = spark.createDataFrame(
        [tuple(row[n] for n in names) for row in rows], ", ".join(f"{n} string" for n in names)
    )
    checked = check_usage(usage, prices=usd)
    assert checked.columns == [*names, "reject_reason"]
    wrong = checked.filter(~F.col("reject_reason").eqNullSafe(F.col("expected_reason"))).collect()
    assert wrong == []
    # the UDF and price_calls have no price exactly where there is a reason other than ids
    cost = model_call_cost(usd)("model", "region", "input_tokens", "output_tokens", "call_time")
    priced = price_calls(checked.drop("reject_reason"), prices=usd).withColumn("udf", cost)
    by_id = {"missing_request_id", "missing_workspace_id"}
    for row in priced.collect():
        if row["expected_reason"] not in by_id:
            assert (row["cost"] is None) == (row["expected_reason"] is not None), row
        assert row["udf"] == row["cost"], row


def test_reasons_that_need_other_prices_or_repeats(spark, tmp_path):
    path = tmp_path / "p.csv"
    path.write_text(
        f"{HEADER},effective_from,effective_to\n"
        "m,r,0,100,0.1,0.2,USD,2026-01-01T00:00Z,2026-02-01T00:00Z\n"
        "m,r,0,100,0.3,0.2,USD,2026-03-01T00:00Z,\n"
    )
    prices = PriceList.from_csv(path)
    start = COMMERCIAL_START.replace(month=1, day=1, hour=8)  # 2026-01-01T00:00Z
    at = {"before": -1, "first": 0, "last": 31 * 86400 - 1, "gap": 31 * 86400, "again": 59 * 86400}
    call = {**CALL, "model": "m", "region": "r", "input_tokens": 1}
    calls = [{**call, "request_id": k, "call_time": start + timedelta(seconds=s)} for k, s in at.items()]
    calls.append({**calls[3], "request_id": "gap and too many", "input_tokens": 101})
    checked = check_usage(usage_frame(spark, calls), prices=prices)
    assert reasons(checked) == {
        "before": "no_price_in_force",
        "first": None,
        "last": None,
        "gap": "no_price_in_force",
        "again": None,
        "gap and too many": "no_price_in_force",
    }


def repeats():
    """Copies of calls with the reason each must get, by hand: fullest, then earliest, then by the remaining columns."""
    call = {**CALL, "call_time": COMMERCIAL_START, "tags": {"team": "a", "user": "b"}}
    later = call["call_time"] + timedelta(microseconds=1)
    return [
        # two identical copies, in whatever order their tags were written: one is billed
        ("same", {**call, "request_id": "same"}, [None, "duplicate_request"]),
        ("same", {**call, "request_id": "same", "tags": {"user": "b", "team": "a"}}, [None, "duplicate_request"]),
        # the same id elsewhere is another call
        ("other workspace", {**call, "request_id": "same", "workspace_id": "w-2"}, [None]),
        # the one with more input is billed, although another has more output
        ("more output", {**call, "request_id": "t", "output_tokens": 99}, ["conflicting_request"]),
        ("more input", {**call, "request_id": "t", "call_time": later, "input_tokens": 261}, [None]),
        # of as much input the one with more output, although it is later
        ("less", {**call, "request_id": "c"}, ["conflicting_request"]),
        ("more", {**call, "request_id": "c", "call_time": later, "output_tokens": 51}, [None]),
        # equally full: the earlier one, though Singapore is dearer
        ("earlier", {**call, "request_id": "e"}, [None]),
        ("dear", {**call, "request_id": "e", "call_time": later, "region": "ap-southeast-1"}, ["conflicting_request"]),
        # at the same time the first region
        ("hangzhou", {**call, "request_id": "g"}, ["conflicting_request"]),
        ("beijing", {**call, "request_id": "g", "region": "cn-beijing"}, [None]),
        # only the tags differ
        ("tags", {**call, "request_id": "m"}, [None]),
        ("tags z", {**call, "request_id": "m", "tags": {"team": "z"}}, ["conflicting_request"]),
        # a copy that cannot be billed keeps its own reason and does not stand in the way
        ("bad", {**call, "request_id": "b", "input_tokens": None}, ["invalid_input_tokens"]),
        ("bad again", {**call, "request_id": "b", "input_tokens": None}, ["invalid_input_tokens"]),
        ("good", {**call, "request_id": "b", "call_time": later}, [None]),
        # no id, no repeat
        ("no id", {**call, "request_id": None}, ["missing_request_id"]),
        ("no id either", {**call, "request_id": None}, ["missing_request_id"]),
    ]


@pytest.mark.parametrize("seed", range(3))
def test_repeats_whatever_the_order_and_partitioning(spark, usd, ansi, seed):
    cases = repeats()
    random.Random(seed).shuffle(cases)
    frame = usage_frame(spark, [call for _, call, _ in cases], tags=True)
    rows = check_usage(frame.repartition(seed + 1), prices=usd).collect()
    found = {}
    for row in rows:
        found.setdefault(str((row["request_id"], row["workspace_id"])), []).append(row["reject_reason"])
    assert len(rows) == len(cases)
    assert sorted(found["('same', 'w-1')"], key=str) == [None, "duplicate_request"]
    for name, call, reason in cases:
        if len(reason) == 1:
            match = [r for r in rows if all(r[k] == v for k, v in call.items() if k != "call_time")]
            match = [
                r
                for r in match
                if str(r["call_time"]) == str(call["call_time"].replace(tzinfo=None) - timedelta(hours=8))
            ]
            assert {r["reject_reason"] for r in match} == set(reason), name


def test_without_duplicates_repeats_are_left_alone(spark, usd):
    calls = usage_frame(spark, [{**CALL, "call_time": COMMERCIAL_START}] * 3).drop("request_id")
    rows = check_usage(calls, prices=usd, duplicates=False).collect()
    assert [row["reject_reason"] for row in rows] == [None] * 3


def test_the_row_comes_back_as_it_was(spark, usd):
    usage = usage_frame(spark, [{**CALL, "call_time": COMMERCIAL_START}]).withColumn("a.b`c", F.lit(1))
    checked = check_usage(usage, prices=usd)
    assert_df_equality(checked.drop("reject_reason"), usage, ignore_nullable=True)
    assert set(REJECT_REASONS) >= {r for r in reasons(checked).values() if r}


@pytest.mark.parametrize(
    "dtype", ["tinyint", "int", "bigint", "float", "double", "decimal(10,2)", "decimal(38,18)", "string"]
)
def test_whole_numbers_of_any_type(spark, usd, ansi, dtype):
    usage = usage_frame(spark, [{**CALL, "call_time": COMMERCIAL_START, "input_tokens": 100, "output_tokens": 0}])
    usage = usage.withColumns({c: F.col(c).cast(dtype) for c in ("input_tokens", "output_tokens")})
    cost = model_call_cost(usd)("model", "region", "input_tokens", "output_tokens", "call_time")
    row = price_calls(usage, prices=usd).select("cost", cost.alias("udf")).collect()[0]
    assert row["cost"] == row["udf"] == Decimal("0.0000138")


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1.5", "9.3e18", "-1", "1e300", "0"])
def test_doubles_that_are_no_count(spark, usd, ansi, value):
    usage = usage_frame(spark, [{**CALL, "call_time": COMMERCIAL_START}])
    usage = usage.withColumn("input_tokens", F.lit(float(value)))
    cost = model_call_cost(usd)("model", "region", "input_tokens", "output_tokens", "call_time")
    row = price_calls(usage, prices=usd).withColumn("udf", cost).collect()[0]
    assert (row["cost"], row["udf"]) == (None, None)


def test_price_calls(spark, usd):
    calls = [
        {**CALL, "call_time": COMMERCIAL_START, "input_tokens": 300_000, "output_tokens": 2_000},
        {
            **CALL,
            "call_time": COMMERCIAL_START,
            "model": "text-embedding-v4",
            "input_tokens": 1_000,
            "output_tokens": None,
        },
        {**CALL, "call_time": COMMERCIAL_START - timedelta(microseconds=1)},
        {**CALL, "call_time": None},
    ]
    priced = price_calls(usage_frame(spark, calls), prices=usd)
    expected = [
        ("qwen-plus/cn-hangzhou/256K-1M", "256K-1M", Decimal("0.2481"), Decimal("0.016514"), Decimal("0.264614")),
        ("text-embedding-v4/cn-hangzhou/0-1M", "0-1M", Decimal("0.000086"), Decimal(0), Decimal("0.000086")),
        ("qwen-plus/cn-hangzhou/0-128K", "0-128K", Decimal(0), Decimal(0), Decimal(0)),
        (None, None, None, None, None),
    ]
    assert_df_equality(
        priced.select(*PRICED.fieldNames()), spark.createDataFrame(expected, PRICED), ignore_nullable=True
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda u: u.drop("model", "region"), "no column region, model"),
        (lambda u: u.withColumn("MODEL", F.lit("x")).select("*", F.lit("y").alias("model ")), None),
        (lambda u: u.withColumn("call_time", F.lit(1)), "call_time is int"),
        (lambda u: u.withColumn("call_time", F.to_date("call_time")), "call_time is date"),
        (lambda u: u.withColumn("call_time", F.col("call_time").cast("timestamp_ntz")), "call_time is timestamp_ntz"),
        (lambda u: u.withColumn("input_tokens", F.lit(True)), "input_tokens is boolean"),
        (lambda u: u.withColumn("workspace_id", F.lit(7)), "workspace_id is int, but text is needed"),
        (lambda u: u.withColumn("reject_reason", F.lit("")), "already has the column reject_reason"),
    ],
)
def test_a_table_that_does_not_fit(spark, usd, change, words):
    usage = change(usage_frame(spark, [CALL]))
    if words is None:  # names are found as Spark finds them, without regard to case
        assert reasons(check_usage(usage, prices=usd)) == {"r-1": "missing_call_time"}
        return
    with pytest.raises(UsageError) as refusal:
        check_usage(usage, prices=usd)
    assert words in str(refusal.value)


def test_a_void_column_is_all_null(spark, usd):
    usage = usage_frame(spark, [{**CALL, "call_time": COMMERCIAL_START}])
    voids = usage.select(*(F.lit(None).alias(f.name) for f in USAGE.fields))
    assert reasons(check_usage(voids, prices=usd)) == {None: "missing_request_id"}


@pytest.mark.spark4
def test_a_collation_makes_no_two_ids_the_same(spark, usd):
    calls = [{**CALL, "call_time": COMMERCIAL_START}, {**CALL, "call_time": COMMERCIAL_START, "request_id": "R-1"}]
    usage = usage_frame(spark, calls)
    ids = ("request_id", "workspace_id", "model")
    collated = usage.withColumns({n: F.expr(f"{n} COLLATE UTF8_LCASE") for n in ids})
    assert reasons(check_usage(collated, prices=usd)) == {"r-1": None, "R-1": None}
    assert [r["cost"] for r in price_calls(collated, prices=usd).collect()] == [Decimal("0.00005308")] * 2
