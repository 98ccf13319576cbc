"""The demo's provider: a bill of the same calls as DescribeInstanceBill gives it, with a mistake of each kind."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_billing.prices.price_list import PriceList

_BIG = 100_000  # tokens, so that a mistake is worth seeing
_LAST_DIGIT = Decimal("1E-12")
_AT = datetime(2026, 4, 8, tzinfo=timezone.utc)


def provider_mapping(prices: PriceList) -> dict[str, Any]:
    """The mapping for `demo_provider_bill`: its made-up item codes, which name model, token type and tier."""
    items = {
        _code(price.model, kind, price.tier): {"model": price.model, "token_type": kind, "tier": price.tier}
        for price in prices.prices
        for kind in ("input", "output")
    }
    return {"layout": "describe-instance-bill", "grain": "day", "units": {"1K tokens": 1000}, "items": items}


def demo_provider_bill(lines: DataFrame, prices: PriceList) -> str:
    """One response of DescribeInstanceBill, by day, made from the demo's ledger lines; free calls are on no bill."""
    keys = ("workspace_id", "region", "model", "token_type", "tier")
    sums = (F.sum("tokens").alias("tokens"), F.sum("amount").alias("amount"))
    days = lines.filter("amount > 0").groupBy(F.col("billing_date").cast("string").alias("day"), *keys).agg(*sums)
    rows = [row.asDict() for row in days.orderBy("day", *keys).collect()]
    big = [row for row in rows if row["token_type"] == "input" and row["tier"] != "0-1M" and row["tokens"] > _BIG]
    lost, more, dearer, other_tier, discounted, invented = big[0], big[7], big[14], big[21], big[28], big[35]
    rows.remove(lost)
    more["amount"] += Decimal(2000) * more["amount"] / more["tokens"]
    more["tokens"] += 2000
    dearer["amount"] *= Decimal("1.1")
    highest = prices.find(other_tier["model"], other_tier["region"], 1_000_000, _AT)
    if highest is not None:
        other_tier["amount"] = other_tier["tokens"] * highest.input_price_per_1k / 1000
    discounted["discount"] = discounted["amount"] / 2
    rows.append({**invented, "workspace_id": "w-of-somebody-else", "discount": Decimal(0)})
    _a_day_later(rows, big[42:], keys)
    content = {"Data": {"BillingCycle": "2026-04", "Items": [_bill_row(row, prices.currency) for row in rows]}}
    return json.dumps(content, indent=1)


def _a_day_later(rows: list[dict[str, Any]], candidates: list[dict[str, Any]], keys: tuple[str, ...]) -> None:
    """1,000 tokens of the first day that the provider has on the second."""
    for row in candidates:
        if row["day"] != "2026-04-08":
            continue
        for after in rows:
            if after["day"] == "2026-04-09" and all(after[key] == row[key] for key in keys):
                worth = 1000 * row["amount"] / row["tokens"]
                row["tokens"], row["amount"] = row["tokens"] - 1000, row["amount"] - worth
                after["tokens"], after["amount"] = after["tokens"] + 1000, after["amount"] + worth
                return


def _bill_row(row: dict[str, Any], currency: str) -> dict[str, str]:
    return {
        "BillingDate": row["day"],
        "InstanceID": row["workspace_id"],
        "Region": row["region"],
        "BillingItemCode": _code(row["model"], row["token_type"], row["tier"]),
        "Usage": f"{Decimal(row['tokens']) / 1000:f}",
        "UsageUnit": "1K tokens",
        "PretaxGrossAmount": f"{row['amount'].quantize(_LAST_DIGIT):f}",
        "InvoiceDiscount": f"{row.get('discount', Decimal(0)).quantize(_LAST_DIGIT):f}",
        "Currency": currency,
    }


def _code(model: str, kind: str, tier: str) -> str:
    return f"{model}_{kind}_{tier}".lower().replace("-", "_")
