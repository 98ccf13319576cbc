"""Sums of money in Python: to the last digit, whatever precision the process has set for decimals. No Spark in here."""

from __future__ import annotations

from decimal import Context, Decimal
from functools import reduce

EXACT = Context(prec=60)  # the usual 28 digits are fewer than an amount may have, and a notebook may have set fewer


def add(*amounts: Decimal) -> Decimal:
    """The sum, to the last digit."""
    return reduce(EXACT.add, amounts, Decimal(0))


def subtract(one: Decimal, other: Decimal) -> Decimal:
    """The difference, to the last digit."""
    return EXACT.subtract(one, other)
