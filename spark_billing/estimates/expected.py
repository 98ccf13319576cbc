"""What a run was expected to cost: an estimate kept as JSON, for the report. Decimals are text, so that no reader makes
them floats.

    {"currency": "USD", "low": "1.0", "middle": "2.0", "high": "3.0", "calls": 10}
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import Decimal

from spark_billing.core.errors import UsageError
from spark_billing.core.json_fields import amount_of, json_object, text_of, whole_of
from spark_billing.estimates.estimate import Estimate


@dataclass(frozen=True)
class Expected:
    """What a job was expected to cost, and how many calls it was to make."""

    currency: str
    low: Decimal
    middle: Decimal
    high: Decimal
    calls: int

    @classmethod
    def of(cls, estimate: Estimate) -> Expected:
        """What an estimate comes to."""
        costs = (estimate.low.cost, estimate.middle.cost, estimate.high.cost)
        return cls(estimate.prices.currency, *costs, estimate.middle.calls)

    def to_json(self) -> str:
        costs = {name: f"{getattr(self, name):f}" for name in ("low", "middle", "high")}
        return json.dumps({"currency": self.currency, **costs, "calls": self.calls}, indent=2)

    @classmethod
    def parse(cls, text: str) -> Expected:
        """From JSON; `UsageError` says what is wrong."""
        found = json_object("estimate", text)
        low, middle, high = (amount_of("estimate", found, name) for name in ("low", "middle", "high"))
        if min(low, middle, high) < 0:  # in order they need not be: a longer prompt may be refused, which costs nothing
            raise UsageError(f"the estimate has a cost below 0: {low}, {middle}, {high}")
        return cls(text_of("estimate", found, "currency"), low, middle, high, whole_of("estimate", found, "calls"))
