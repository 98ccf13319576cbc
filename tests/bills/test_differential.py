"""The native plan, the vectorized UDF and the oracle hold each other to the same numbers."""

import random
from datetime import datetime, timedelta, timezone
from decimal import Decimal

import pytest
from pyspark.sql import functions as F

from spark_billing import bill_lines, check_usage, hourly_bills, model_call_cost, model_call_tier, price_calls
from tests import oracle
from tests.conftest import usage_frame

HOSTILE_IDS = (
    "",
    "w/../x",
    "o'brien",
    'say "hi"',
    "line\nbreak",
    "tab\t",
    "😀",
    "w=1,%3A",
    " w",
    "\\",
    "`",
    "é",
    "0" * 300,
)
COUNTS = (None, 0, -1, 1, 127_999, 128_000, 128_001, 131_072, 255_999, 256_000, 256_001, 262_144, 1_000_000, 1_000_001)


def hostile_calls(n, seed):
    """Calls of which about half can be billed; each value is now and then one that cannot."""
    rng = random.Random(seed)
    start = datetime(2026, 4, 7, tzinfo=timezone.utc)

    def one_of(good, bad):
        return rng.choice(bad if rng.random() < 0.12 else good)

    for i in range(n):
        size = one_of((5_000, 300_000, 1_000_000), (None,))
        at = start + timedelta(microseconds=rng.randrange(2 * 86400 * 10**6))
        yield {
            "request_id": f"r-{i}",
            "workspace_id": one_of(("w-1", "w-2"), (*HOSTILE_IDS, None)),
            "region": one_of((*oracle.GROUP_1, *oracle.GROUP_2), ("cn-chengdu", "cn-hangzhou ", None, "", "';--")),
            "model": one_of(("qwen-plus", "qwen-plus", "text-embedding-v4"), ("qwen-max", None, "", "qwen-plus\n")),
            "call_time": one_of((at,), (at, None)),
            "input_tokens": rng.randint(1, size) if size else rng.choice((*COUNTS, 2**31, 2**63 - 1, -(2**63))),
            "output_tokens": one_of((0, rng.randint(0, 8_000)), (None, 2**31 - 1, 2**31, -5, 2**63 - 1)),
        }


def amounts(lines):
    bills = hourly_bills(lines).collect()
    return {
        (b["workspace_id"], b["billing_date"], b["billing_hour"]): [
            b["requests"],
            b["input_tokens"],
            b["output_tokens"],
            b["amount"],
        ]
        for b in bills
    }


@pytest.fixture(autouse=True)
def campaigns_compile(request):
    """The arithmetic of many seeds is that of the plans that jobs run."""
    if request.node.get_closest_marker("campaign"):
        request.getfixturevalue("compiled")


@pytest.mark.parametrize(("currency", "k"), [("USD", 1000), pytest.param("CNY", 1024, marks=pytest.mark.campaign)])
def test_twenty_thousand_hostile_calls(spark, ansi, session_zone, currency, k):
    from spark_billing import PriceList

    prices = PriceList.bundled("emr-serverless-spark", currency=currency, tokens_per_k=k)
    calls = list(hostile_calls(20_000 if session_zone == "Asia/Kolkata" else 4_000, seed=k))
    usage = usage_frame(spark, calls).repartition(3).cache()
    arguments = ("model", "region", "input_tokens", "output_tokens", "call_time")
    priced = price_calls(usage, prices=prices).select(
        "request_id",
        "cost",
        "tier",
        model_call_cost(prices)(*arguments).alias("udf_cost"),
        model_call_tier(prices)(*arguments).alias("udf_tier"),
    )
    assert (
        priced.schema["udf_cost"].dataType.simpleString()
        == priced.schema["cost"].dataType.simpleString()
        == "decimal(18,12)"
    )
    expected = {c["request_id"]: oracle.cost(c, currency, k) for c in calls}
    assert sum(cost is not None for cost in expected.values()) > len(calls) / 3
    for row in priced.collect():
        assert row["cost"] == row["udf_cost"] == expected[row["request_id"]], row
        assert row["tier"] == row["udf_tier"], row

    checked = check_usage(usage, prices=prices)
    found = {row["request_id"]: row["reject_reason"] for row in checked.select("request_id", "reject_reason").collect()}
    assert found == {
        c["request_id"]: "missing_workspace_id" if not c["workspace_id"] else oracle.reason(c, currency, k)
        for c in calls
    }
    bills = oracle.bill(calls, currency, k)
    assert amounts(bill_lines(checked, prices=prices)) == bills
    assert amounts(bill_lines(checked, prices=prices, pricing="udf")) == bills
    native, udf = (sorted(bill_lines(checked, prices=prices, pricing=p).collect(), key=str) for p in ("native", "udf"))
    assert native == udf
    usage.unpersist()


@pytest.mark.campaign
def test_a_million_calls(spark, usd, tmp_path):
    """The bill of a million generated calls, against the oracle call by call."""
    n = 1_000_000
    rng = random.Random(7)
    regions, models = (*oracle.GROUP_1, *oracle.GROUP_2), ("qwen-plus", "qwen-plus", "qwen-plus", "text-embedding-v4")
    start = int(oracle.COMMERCIAL_START.timestamp()) - 6 * 3600
    tops = (1_000, 10_000, 150_000, 300_000, 1_000_000)
    rows = [
        (
            f"w-{rng.randrange(20)}",
            rng.choice(regions),
            rng.choice(models),
            start + rng.randrange(48 * 3600),
            rng.randint(1, rng.choice(tops)),
            rng.randrange(2_000),
        )
        for _ in range(n)
    ]
    # the oracle: a price per row by plain comparison, sums of exact fractions of 10^-12
    expected = {}
    paid_from = int(oracle.COMMERCIAL_START.timestamp())
    tables = {
        (m, r): [(oracle.tokens(t), i, o) for t, i, o in tiers] for m, rs, tiers in oracle.PUBLISHED["USD"] for r in rs
    }
    pico = {
        key: [(t, int(Decimal(i).scaleb(9)), o and int(Decimal(o).scaleb(9))) for t, i, o in tiers]
        for key, tiers in tables.items()
    }
    for w, r, m, at, n_in, n_out in rows:
        _, p_in, p_out = next(tier for tier in pico[m, r] if n_in <= tier[0])
        e = expected.setdefault((w, (at + 8 * 3600) // 3600), [0, 0, 0, 0])
        e[0] += 1
        e[1] += n_in
        e[2] += n_out if p_out is not None else 0
        e[3] += (n_in * p_in + n_out * (p_out or 0)) if at >= paid_from else 0
    import pandas as pd

    frame = pd.DataFrame(rows, columns=["workspace_id", "region", "model", "at", "input_tokens", "output_tokens"])
    frame.to_parquet(tmp_path / "calls.parquet")
    usage = spark.read.parquet(str(tmp_path / "calls.parquet")).withColumns(
        {"call_time": F.timestamp_seconds("at"), "request_id": F.monotonically_increasing_id().cast("string")}
    )
    usage = usage.repartition(4).cache()
    checked = check_usage(usage, prices=usd)
    for pricing in ("native", "udf"):
        bills = hourly_bills(bill_lines(checked, prices=usd, pricing=pricing)).withColumn(
            "hour", F.unix_seconds("period_start")
        )
        found = {
            (b["workspace_id"], b["hour"] // 3600 + 8): [
                b["requests"],
                b["input_tokens"],
                b["output_tokens"],
                int(b["amount"].scaleb(12)),
            ]
            for b in bills.collect()
        }
        assert found == expected
    assert sum(e[0] for e in expected.values()) == n
    usage.unpersist()
