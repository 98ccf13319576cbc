"""An independent oracle: the provider's published tables typed in by hand, Decimal arithmetic on single rows, no numpy,
no Spark and nothing of the package. It is short, so that one can check it against the published page by eye."""

import re
from datetime import datetime, timedelta, timezone
from decimal import Decimal

GROUP_1 = ("cn-beijing", "cn-shanghai", "cn-hangzhou", "cn-shenzhen")
GROUP_2 = (
    *("cn-hongkong", "ap-southeast-1", "eu-central-1", "us-east-1"),
    *("us-west-1", "ap-northeast-1", "ap-southeast-5", "na-south-1"),
)
K128, K256, M1 = "128K", "256K", "1M"

# model, regions, tiers: (top, input price, output price), per 1,000 tokens
PUBLISHED = {
    "USD": [
        (
            "qwen-plus",
            GROUP_1,
            [(K128, "0.000138", "0.000344"), (K256, "0.000414", "0.003442"), (M1, "0.000827", "0.008257")],
        ),
        ("qwen-plus", GROUP_2, [(K256, "0.000480", "0.001440"), (M1, "0.001440", "0.004320")]),
        ("text-embedding-v4", GROUP_1, [(M1, "0.000086", None)]),
        ("text-embedding-v4", GROUP_2, [(M1, "0.000084", None)]),
    ],
    "CNY": [
        (
            "qwen-plus",
            GROUP_1,
            [(K128, "0.000960", "0.002400"), (K256, "0.002880", "0.024000"), (M1, "0.005760", "0.057600")],
        ),
        ("qwen-plus", GROUP_2, [(K256, "0.003523", "0.010568"), (M1, "0.010568", "0.031705")]),
    ],
}
TRIAL_START = datetime(2025, 1, 1, tzinfo=timezone(timedelta(hours=8)))  # not published: no call is earlier
COMMERCIAL_START = datetime(2026, 4, 8, tzinfo=timezone(timedelta(hours=8)))
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def tokens(bound, k=1000):
    return {"128K": 128 * k, "256K": 256 * k, "1M": 1_000_000}[bound]


def whole(value):
    """A count if it is exactly whole, else None."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, str):
        return int(value.strip(" ").split(".")[0]) if re.fullmatch(r" *[+-]?[0-9]{1,38}(\.0*)? *", value) else None
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return int(value) if value == int(value) else None


def reason(call, currency="USD", k=1000):
    """Why a call is not billed, leaving ids and repeats aside; None if it is."""
    model, region, at = call["model"], call["region"], call["call_time"]
    count, output = whole(call["input_tokens"]), whole(call["output_tokens"])
    known = {m for m, _, _ in PUBLISHED[currency]}
    if not region:
        return "missing_region"
    if not model:
        return "missing_model"
    if at is None:
        return "missing_call_time"
    if count is None or count < 0:
        return "invalid_input_tokens"
    output_free = model in known and model == "text-embedding-v4"
    if not (call["output_tokens"] is None and output_free) and (output is None or not 0 <= output <= 2147483647):
        return "invalid_output_tokens"
    if model not in known:
        return "unknown_model"
    tiers = [tiers for m, regions, tiers in PUBLISHED[currency] if m == model and region in regions]
    if not tiers:
        return "unknown_region"
    if at < TRIAL_START:
        return "no_price_in_force"
    if not 0 < count <= tokens(tiers[0][-1][0], k):
        return "input_tokens_out_of_range"
    return None


def price(call, currency="USD", k=1000):
    """(tier, input cost, output cost) of a call that has no reason; output cost None where output is not billed."""
    (tiers,) = (t for m, regions, t in PUBLISHED[currency] if m == call["model"] and call["region"] in regions)
    tops = ["0", *(top for top, _, _ in tiers)]
    at = next(i for i, tier in enumerate(tiers) if whole(call["input_tokens"]) <= tokens(tier[0], k))
    top, input_price, output_price = tiers[at]
    trial = 0 if call["call_time"] < COMMERCIAL_START else 1
    input_cost = whole(call["input_tokens"]) * Decimal(input_price) * trial / 1000
    output_cost = None if output_price is None else whole(call["output_tokens"]) * Decimal(output_price) * trial / 1000
    return f"{tops[at]}-{top}", input_cost, output_cost


def cost(call, currency="USD", k=1000):
    """The cost of a call, None if it cannot be priced."""
    if reason(call, currency, k):
        return None
    _, input_cost, output_cost = price(call, currency, k)
    return input_cost + (output_cost or 0)


def hour(at):
    """The UTC+8 hour of an instant, as (date, hour)."""
    local = at.astimezone(timezone(timedelta(hours=8)))
    return local.date(), local.hour


def bill(calls, currency="USD", k=1000):
    """(workspace, date, hour) -> [requests, input tokens, billed output tokens, amount], call by call."""
    bills = {}
    for call in calls:
        if not call["workspace_id"] or reason(call, currency, k):
            continue
        _, input_cost, output_cost = price(call, currency, k)
        entry = bills.setdefault((call["workspace_id"], *hour(call["call_time"])), [0, 0, 0, Decimal(0)])
        entry[0] += 1
        entry[1] += whole(call["input_tokens"])
        entry[2] += 0 if output_cost is None else whole(call["output_tokens"])
        entry[3] += input_cost + (output_cost or 0)
    return bills
