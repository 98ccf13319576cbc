"""Bill lines and bills against worked examples, in every session zone, and against the UDF's plan."""

import itertools
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal, localcontext

import pytest
from chispa import assert_df_equality
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import functions as F

from spark_billing import PriceList, UsageError, bill_lines, check_usage, hourly_bills
from spark_billing.core.schemas import BILL_LINES, BILLS
from spark_billing.prices.price import MAX_TOKENS
from tests.conftest import CALL, usage_frame
from tests.oracle import COMMERCIAL_START

FAILURE = (PySparkException, Py4JJavaError)  # the second before Spark 4
HEADER = "model,region,min_input_tokens,max_input_tokens,input_price_per_1k,output_price_per_1k,currency"


def lines_of(spark, prices, calls, **options):
    return bill_lines(check_usage(usage_frame(spark, calls), prices=prices, duplicates=False), prices=prices, **options)


@pytest.mark.parametrize(
    ("currency", "amount", "lines"), [("USD", "0.5308", ("0.3588", "0.172")), ("CNY", "3.696", ("2.496", "1.2"))]
)
@pytest.mark.parametrize("pricing", ["native", "udf"])
def test_the_providers_own_example(spark, usd, cny, currency, amount, lines, pricing):
    """10,000 calls of 260 input and 50 output tokens in Hangzhou: 2.6 million input tokens, but each call is small."""
    prices = {"USD": usd, "CNY": cny}[currency]
    call = usage_frame(spark, [{**CALL, "call_time": COMMERCIAL_START}])
    usage = call.crossJoin(spark.range(10_000)).withColumn("request_id", F.col("id").cast("string"))
    made = bill_lines(check_usage(usage, prices=prices), prices=prices, pricing=pricing).cache()
    bill = hourly_bills(made).collect()
    assert [(b["requests"], b["input_tokens"], b["output_tokens"], b["amount"], b["currency"]) for b in bill] == [
        (10_000, 2_600_000, 500_000, Decimal(amount), currency)
    ]
    assert {row["token_type"]: row["amount"] for row in made.collect()} == {
        "input": Decimal(lines[0]),
        "output": Decimal(lines[1]),
    }
    made.unpersist()


def test_schemas_and_one_full_line(spark, usd, ansi, session_zone):
    calls = [
        {**CALL, "call_time": COMMERCIAL_START, "input_tokens": n, "output_tokens": 1_000}
        for n in (128_000, 128_001, 300_000, 300_001)
    ]
    lines = lines_of(spark, usd, calls)
    start = datetime(2026, 4, 7, 16, tzinfo=timezone.utc)
    key = ("w-1", "cn-hangzhou", "qwen-plus", start, start + timedelta(hours=1), date(2026, 4, 8), 0)

    def line(token_type, tier, requests, tokens, price, amount):
        price_id = f"qwen-plus/cn-hangzhou/{tier}"
        return (*key, token_type, tier, price_id, "USD", requests, tokens, Decimal(price), Decimal(amount))

    expected = [
        line("input", "0-128K", 1, 128_000, "0.000138", "0.017664"),
        line("output", "0-128K", 1, 1_000, "0.000344", "0.000344"),
        line("input", "128K-256K", 1, 128_001, "0.000414", "0.052992414"),
        line("output", "128K-256K", 1, 1_000, "0.003442", "0.003442"),
        line("input", "256K-1M", 2, 600_001, "0.000827", "0.496200827"),
        line("output", "256K-1M", 2, 2_000, "0.008257", "0.016514"),
    ]
    assert_df_equality(lines, spark.createDataFrame(expected, BILL_LINES), ignore_nullable=True, ignore_row_order=True)
    bill = (*key[:1], *key[3:], "USD", 4, 856_002, 4_000, Decimal("0.587157241"))
    assert_df_equality(hourly_bills(lines), spark.createDataFrame([bill], BILLS), ignore_nullable=True)


def test_hours_across_midnight_and_month_end_in_utc8(spark, usd, session_zone):
    """The instants around three UTC+8 midnights; New York's fall-back hour is 2026-11-01T05Z and T06Z."""
    edges = {
        datetime(2026, 4, 30, 16, tzinfo=timezone.utc): (date(2026, 5, 1), 0),
        datetime(2026, 12, 31, 16, tzinfo=timezone.utc): (date(2027, 1, 1), 0),
        datetime(2028, 2, 28, 16, tzinfo=timezone.utc): (date(2028, 2, 29), 0),
        datetime(2026, 11, 1, 5, tzinfo=timezone.utc): (date(2026, 11, 1), 13),
        datetime(2026, 11, 1, 6, tzinfo=timezone.utc): (date(2026, 11, 1), 14),
        datetime(2026, 11, 1, 7, tzinfo=timezone.utc): (date(2026, 11, 1), 15),
    }
    calls, expected = [], set()
    for edge, (day, hour) in edges.items():
        before = (day - timedelta(days=hour == 0), (hour - 1) % 24)
        for at, label in ((edge - timedelta(microseconds=1), before), (edge, (day, hour))):
            calls.append({**CALL, "call_time": at})
            start = int(edge.timestamp()) - (3600 if at < edge else 0)
            expected.add((start, start + 3600, *label))
    lines = lines_of(spark, usd, calls)
    seconds = (F.unix_seconds(c).alias(c) for c in ("period_start", "period_end"))
    found = lines.filter("token_type = 'input'").select(*seconds, "billing_date", "billing_hour").collect()
    assert sorted(map(tuple, found)) == sorted(expected)


def test_an_embedding_has_no_output_line(spark, usd):
    embedding = {**CALL, "model": "text-embedding-v4", "call_time": COMMERCIAL_START, "input_tokens": 1_000}
    calls = [{**embedding, "output_tokens": None}, {**embedding, "output_tokens": 7}]
    rows = lines_of(spark, usd, calls).collect()
    assert [(r["token_type"], r["requests"], r["tokens"], r["amount"]) for r in rows] == [
        ("input", 2, 2_000, Decimal("0.000172"))
    ]
    bill = hourly_bills(lines_of(spark, usd, calls)).collect()[0]
    assert (bill["requests"], bill["output_tokens"], bill["amount"]) == (2, 0, Decimal("0.000172"))


def test_an_output_line_stands_there_even_with_no_tokens(spark, usd):
    rows = lines_of(spark, usd, [{**CALL, "call_time": COMMERCIAL_START, "output_tokens": 0}]).collect()
    assert {r["token_type"]: (r["tokens"], r["amount"]) for r in rows} == {
        "input": (260, Decimal("0.00003588")),
        "output": (0, Decimal(0)),
    }


def test_the_free_trial_stays_visible(spark, usd):
    free = lines_of(spark, usd, [{**CALL, "call_time": COMMERCIAL_START - timedelta(microseconds=1)}]).collect()
    assert {(r["billing_date"], r["billing_hour"], r["requests"], r["amount"]) for r in free} == {
        (date(2026, 4, 7), 23, 1, Decimal(0))
    }


@pytest.mark.parametrize("pricing", ["native", "udf"])
def test_a_price_that_changes_within_the_hour(spark, tmp_path, pricing):
    path = tmp_path / "p.csv"
    path.write_text(
        f"{HEADER},effective_from,effective_to\n"
        "m,r,0,1M,0.1,0.2,USD,,2026-04-08T00:20Z\n"
        "m,r,0,1M,0.1,0.3,USD,2026-04-08T00:20Z,2026-04-08T00:40Z\n"
        "m,r,0,1M,0.4,0.3,USD,2026-04-08T00:40Z,\n"
    )
    calls = [
        {**CALL, "model": "m", "region": "r", "call_time": datetime(2026, 4, 8, 0, minute, tzinfo=timezone.utc)}
        for minute in (19, 20, 39, 40)
    ]
    rows = lines_of(spark, PriceList.from_csv(path), calls, pricing=pricing).collect()
    found = sorted((r["token_type"], r["price_per_1k"], r["requests"], r["tokens"], r["amount"]) for r in rows)
    assert found == [  # one line a price: the input price did not change at 00:20, the output price not at 00:40
        ("input", Decimal("0.1"), 3, 780, Decimal("0.078")),
        ("input", Decimal("0.4"), 1, 260, Decimal("0.104")),
        ("output", Decimal("0.2"), 1, 50, Decimal("0.01")),
        ("output", Decimal("0.3"), 3, 150, Decimal("0.045")),
    ]


def test_a_row_without_a_price_fails_the_query(spark, usd, cny):
    embedding = {**CALL, "model": "text-embedding-v4", "call_time": COMMERCIAL_START}
    checked = check_usage(usage_frame(spark, [embedding]), prices=usd)
    with pytest.raises(FAILURE, match="not rejected, but has no price: unknown_model"):
        bill_lines(checked, prices=cny).collect()
    checked = usage_frame(spark, [CALL]).withColumn("reject_reason", F.lit(None).cast("string"))
    with pytest.raises(FAILURE, match="not rejected, but has no price: missing_call_time"):
        hourly_bills(bill_lines(checked, prices=usd)).collect()


def test_grouping_by_tags(spark, usd, ansi):
    tags = [{"team": "a", "Cost Center": "7"}, {"team": "b"}, {}, None]
    calls = [{**CALL, "call_time": COMMERCIAL_START, "request_id": str(n), "tags": t} for n, t in enumerate(tags)]
    checked = check_usage(usage_frame(spark, calls, tags=True), prices=usd)
    lines = bill_lines(checked, prices=usd, group_by_tags=["team", "Cost Center"])
    assert lines.columns == [*BILL_LINES.fieldNames(), "tag_team", "tag_Cost Center"]
    found = {(r["tag_team"], r["tag_Cost Center"]): r["requests"] for r in lines.collect()}
    assert found == {("a", "7"): 1, ("b", None): 1, (None, None): 2}
    assert hourly_bills(lines).collect()[0]["requests"] == 4
    with pytest.raises(UsageError, match="clash"):
        bill_lines(checked, prices=usd, group_by_tags=["team", "Team"])
    with pytest.raises(UsageError, match="no column tags"):
        bill_lines(checked.drop("tags"), prices=usd, group_by_tags=["team"])


def test_sums_too_large_for_a_product_in_floats(spark, usd):
    """A billion calls' worth of tokens in one line: 2**53 + 1 tokens must not lose the 1."""
    from spark_billing.bills.lines import lines_of_sums

    sums = spark.createDataFrame(
        [("w", 0, 2, None, 1, 2**53 + 1, 2**53 + 1)],
        "workspace_id string, hour bigint, price_row int, reject int, requests bigint, input_tokens bigint, "
        "output_tokens bigint",
    )
    amounts = {r["token_type"]: r["amount"] for r in lines_of_sums(sums, usd).collect()}
    assert amounts == {
        "input": (2**53 + 1) * Decimal("0.000827") / 1000,
        "output": (2**53 + 1) * Decimal("0.008257") / 1000,
    }


@pytest.mark.parametrize("pricing", ["native", "udf"])
def test_the_last_digit(spark, tmp_path, pricing):
    path = tmp_path / "p.csv"
    path.write_text(f"{HEADER}\nm,r,0,1M,0.000000001,0.000000003,USD\n")
    calls = [
        {**CALL, "model": "m", "region": "r", "call_time": COMMERCIAL_START, "input_tokens": 1, "output_tokens": 1}
    ]
    found = lines_of(spark, PriceList.from_csv(path), calls, pricing=pricing).collect()
    assert {r["token_type"]: r["amount"] for r in found} == {"input": Decimal("1E-12"), "output": Decimal("3E-12")}


@pytest.mark.parametrize("pricing", ["native", "udf"])
def test_sums_of_the_dearest_requests_keep_every_digit(spark, tmp_path, pricing):
    path = tmp_path / "p.csv"
    path.write_text(f"{HEADER}\nm,r,0,{MAX_TOKENS},0.232830643,0.000000007,USD\n")
    call = {**CALL, "model": "m", "region": "r", "call_time": COMMERCIAL_START, "input_tokens": MAX_TOKENS}
    calls = [{**call, "output_tokens": tokens} for tokens in (1, 3, MAX_TOKENS)]
    found = lines_of(spark, PriceList.from_csv(path), calls, pricing=pricing).collect()
    assert {r["token_type"]: r["amount"] for r in found} == {
        "input": Decimal("1499999.995088985063"),  # 3 x 2147483647 x 0.232830643 / 1000
        "output": Decimal("0.015032385557"),  # (1 + 3 + 2147483647) x 0.000000007 / 1000
    }


@pytest.mark.classic
def test_the_udf_runs_once_per_request(spark, usd):
    lines = lines_of(spark, usd, [{**CALL, "call_time": COMMERCIAL_START}], pricing="udf")
    plan = lines._jdf.queryExecution().executedPlan().toString()
    assert plan.count("EvalPython [") == plan.count("request_costs(") == 1, plan


def test_the_precision_of_the_process_changes_no_price(spark, tmp_path):
    path = tmp_path / "p.csv"
    path.write_text(f"{HEADER}\nm,r,0,1M,0.123456789,,USD\n")
    call = {**CALL, "model": "m", "region": "r", "call_time": COMMERCIAL_START}
    with localcontext() as context:
        context.prec = 4
        prices = PriceList.from_csv(path)
        lines = lines_of(spark, prices, [call]).collect()
        udf = lines_of(spark, prices, [call], pricing="udf").collect()
    assert lines == udf
    assert lines[0]["amount"] == Decimal("0.032098765140")  # 260 x 0.123456789 / 1000


def test_the_same_lines_whatever_the_order_of_the_price_list(spark, tmp_path):
    rows = ["m,r,0,128K,0.1,0.2,USD", "m,r,128K,1M,0.3,0.4,USD", "m,s,0,1M,0.5,,USD"]
    seen = set()
    for order in itertools.permutations(rows):
        path = tmp_path / "p.csv"
        path.write_text("\n".join([HEADER, *order]))
        calls = [
            {**CALL, "model": "m", "region": r, "input_tokens": n, "call_time": COMMERCIAL_START}
            for r in "rs"
            for n in (1, 128_001)
        ]
        seen.add(frozenset(lines_of(spark, PriceList.from_csv(path), calls).collect()))
    assert len(seen) == 1
