"""Fields of JSON that a person may have touched: each is what it must be, or `UsageError` says what was found."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from spark_billing.core.errors import UsageError


def json_object(what: str, text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise UsageError(f"the {what} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise UsageError(f"the {what} is not a JSON object")
    return found


def amount_of(what: str, found: Mapping[str, Any], name: str) -> Decimal:
    value = found.get(name)
    try:
        amount = Decimal(value) if isinstance(value, str) else Decimal("NaN")
    except InvalidOperation:
        amount = Decimal("NaN")
    if not amount.is_finite() or not -38 < amount.adjusted() < 26:
        raise UsageError(f'the {what} has {name} {value!r}; needed is a decimal number as text, such as "1.25"')
    return amount


def whole_of(what: str, found: Mapping[str, Any], name: str) -> int:
    value = found.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise UsageError(f"the {what} has {name} {value!r}; needed is a whole number from 0 on")
    return value


def text_of(what: str, found: Mapping[str, Any], name: str) -> str:
    value = found.get(name)
    if not isinstance(value, str) or not value:
        raise UsageError(f"the {what} has {name} {value!r}; needed is text")
    return value
