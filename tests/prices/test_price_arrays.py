"""The arrays of a price list against the oracle, at every bound and at the largest values."""

from datetime import timedelta
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spark_billing import PriceList
from spark_billing.prices.price import MAX_TOKENS
from spark_billing.prices.price_arrays import UNPRICED, PriceTable
from tests import oracle

REGIONS = (*oracle.GROUP_1, *oracle.GROUP_2, "cn-chengdu")
MODELS = ("qwen-plus", "text-embedding-v4", "qwen-max")
LISTS = {
    (currency, k): PriceList.bundled("emr-serverless-spark", currency=currency, tokens_per_k=k)
    for currency in ("USD", "CNY")
    for k in (1000, 1024)
}
TABLES = {key: PriceTable.of(prices) for key, prices in LISTS.items()}


def priced(table, calls):
    """(row or None, cost) of each call, through the arrays."""

    def array(values):
        return np.array(values, dtype=np.int64)

    missing = np.array([c["output_tokens"] is None for c in calls])
    inputs, outputs = array([c["input_tokens"] for c in calls]), array([c["output_tokens"] or 0 for c in calls])
    rows = table.locate(
        array([table.models.get(c["model"], len(table.models)) for c in calls]),
        array([table.regions.get(c["region"], len(table.regions)) for c in calls]),
        inputs,
        outputs,
        missing,
        array([(c["call_time"] - oracle.EPOCH) // timedelta(microseconds=1) for c in calls]),
    )
    input_costs, output_costs = table.costs_pico(rows, inputs, outputs)
    assert rows.dtype == input_costs.dtype == output_costs.dtype == np.int64
    return [None if r == UNPRICED else Decimal(int(c)).scaleb(-12) for r, c in zip(rows, input_costs + output_costs)]


@pytest.mark.parametrize("key", LISTS)
def test_every_cell_at_every_bound(key):
    currency, k = key
    counts = {0, 1, 2, MAX_TOKENS, -1, 2**63 - 1, -(2**63)}
    for bound in ("128K", "256K", "1M"):
        counts |= {oracle.tokens(bound, k) + step for step in (-1, 0, 1)}
    calls = [
        {"model": model, "region": region, "input_tokens": n, "output_tokens": out, "call_time": at}
        for model in MODELS
        for region in REGIONS
        for n in sorted(counts)
        for out in (None, -1, 0, 1, MAX_TOKENS, MAX_TOKENS + 1, 2**63 - 1)
        for at in (oracle.COMMERCIAL_START - timedelta(microseconds=1), oracle.COMMERCIAL_START)
    ]
    assert priced(TABLES[key], calls) == [oracle.cost(call, currency, k) for call in calls]


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "model": st.sampled_from(MODELS),
                "region": st.sampled_from(REGIONS),
                "input_tokens": st.integers(-2, 1_100_000) | st.integers(-(2**63), 2**63 - 1),
                "output_tokens": st.none() | st.integers(-2, 70_000) | st.integers(-(2**63), 2**63 - 1),
                "call_time": st.datetimes(
                    min_value=oracle.COMMERCIAL_START.replace(tzinfo=None, year=2025),
                    max_value=oracle.COMMERCIAL_START.replace(tzinfo=None, year=2027),
                    timezones=st.just(oracle.COMMERCIAL_START.tzinfo),
                ),
            }
        ),
        max_size=50,
    ),
    st.sampled_from(list(LISTS)),
)
def test_any_calls(calls, key):
    assert priced(TABLES[key], calls) == [oracle.cost(call, *key) for call in calls]


def test_the_dearest_request_a_list_can_price(tmp_path):
    path = tmp_path / "dear.csv"
    path.write_text(
        "model,region,min_input_tokens,max_input_tokens,input_price_per_1k,output_price_per_1k,currency\n"
        f"m,r,0,{MAX_TOKENS},0.232830643,0.232830643,USD\n"
    )
    table = PriceTable.of(PriceList.from_csv(path))
    call = {
        "model": "m",
        "region": "r",
        "input_tokens": MAX_TOKENS,
        "output_tokens": MAX_TOKENS,
        "call_time": oracle.EPOCH,
    }
    assert priced(table, [call]) == [2 * MAX_TOKENS * Decimal("0.232830643") / 1000]
    assert priced(table, [call])[0] > 999_999


def test_the_whole_request_is_charged_at_its_tier():
    def cost(region, n, out):
        call = {"model": "qwen-plus", "region": region, "input_tokens": n, "output_tokens": out}
        return priced(TABLES["USD", 1000], [{**call, "call_time": oracle.COMMERCIAL_START}])[0]

    # worked examples, by hand: the sibling page's, Singapore, Hangzhou (graduated it would be 0.107732), one call
    assert cost("us-east-1", 750, 20) == Decimal("0.0003888")  # 0.000360 + 0.0000288
    assert cost("ap-southeast-1", 300_000, 1_000) == Decimal("0.43632")  # 0.43200 + 0.00432
    assert cost("cn-hangzhou", 300_000, 2_000) == Decimal("0.264614")  # 0.2481 + 0.016514
    assert cost("cn-hangzhou", 260, 50) == Decimal("0.00005308")  # 0.00003588 + 0.0000172
