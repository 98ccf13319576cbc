"""What others say the period costs, read from JSON: an estimate made before, and a comparison with the provider's bill.

    {"currency": "USD", "low": "1.0", "middle": "2.0", "high": "3.0", "calls": 10}

    {"currency": "USD", "ours": "2.00", "provider": "1.99", "difference": "-0.01",
     "causes": [{"cause": "rounding", "rows": 3, "difference": "-0.01"}]}

Decimals are text, so that no reader makes them floats.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from spark_billing.core.errors import UsageError
from spark_billing.core.money import add


@dataclass(frozen=True)
class Estimate:
    """What a job was expected to cost, and how many calls it was to make."""

    currency: str
    low: Decimal
    middle: Decimal
    high: Decimal
    calls: int

    @classmethod
    def parse(cls, text: str) -> Estimate:
        """From JSON; `UsageError` says what is wrong."""
        found = _object("estimate", text)
        low, middle, high = (_amount("estimate", found, name) for name in ("low", "middle", "high"))
        if min(low, middle, high) < 0:  # in order they need not be: a longer prompt may be refused, which costs nothing
            raise UsageError(f"the estimate has a cost below 0: {low}, {middle}, {high}")
        return cls(_text("estimate", found, "currency"), low, middle, high, _whole("estimate", found, "calls"))


@dataclass(frozen=True)
class Cause:
    """Why some rows of two bills differ, and by how much in all."""

    cause: str
    rows: int
    difference: Decimal


@dataclass(frozen=True)
class Reconciliation:
    """Our bill beside the provider's. The difference is theirs less ours, or ours less theirs: as its maker has it."""

    currency: str
    ours: Decimal
    provider: Decimal
    difference: Decimal
    causes: Sequence[Cause]

    @property
    def unexplained(self) -> Decimal:
        """What the causes leave of the difference."""
        return add(self.difference, *(-cause.difference for cause in self.causes))

    @classmethod
    def parse(cls, text: str) -> Reconciliation:
        """From JSON; `UsageError` says what is wrong."""
        what = "reconciliation"
        found = _object(what, text)
        ours, provider, difference = (_amount(what, found, name) for name in ("ours", "provider", "difference"))
        if difference not in (add(provider, -ours), add(ours, -provider)):
            raise UsageError(f"the {what} does not add up: {ours:f} and {provider:f} do not differ by {difference:f}")
        listed = found.get("causes")
        if not isinstance(listed, list) or not all(isinstance(cause, dict) for cause in listed):
            raise UsageError(f"the {what} has no list of objects causes")
        causes = [
            Cause(_text(what, cause, "cause"), _whole(what, cause, "rows"), _amount(what, cause, "difference"))
            for cause in listed
        ]
        return cls(_text(what, found, "currency"), ours, provider, difference, causes)


def _object(what: str, text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise UsageError(f"the {what} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise UsageError(f"the {what} is not a JSON object")
    return found


def _amount(what: str, found: Mapping[str, Any], name: str) -> Decimal:
    value = found.get(name)
    try:
        amount = Decimal(value) if isinstance(value, str) else Decimal("NaN")
    except InvalidOperation:
        amount = Decimal("NaN")
    if not amount.is_finite() or not -38 < amount.adjusted() < 26:
        raise UsageError(f'the {what} has {name} {value!r}; needed is a decimal number as text, such as "1.25"')
    return amount


def _whole(what: str, found: Mapping[str, Any], name: str) -> int:
    value = found.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise UsageError(f"the {what} has {name} {value!r}; needed is a whole number from 0 on")
    return value


def _text(what: str, found: Mapping[str, Any], name: str) -> str:
    value = found.get(name)
    if not isinstance(value, str) or not value:
        raise UsageError(f"the {what} has {name} {value!r}; needed is text")
    return value
