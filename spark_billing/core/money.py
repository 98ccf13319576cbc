"""Money in Python, to the last digit, whatever precision the process has set for decimals. No Spark in here."""

from __future__ import annotations

from decimal import Context, Decimal
from functools import reduce
from typing import Optional

EXACT = Context(prec=60)  # the usual 28 digits are fewer than an amount may have, and a notebook may have set fewer


def add(*amounts: Decimal) -> Decimal:
    """The sum, to the last digit."""
    return reduce(EXACT.add, amounts, Decimal(0))


def subtract(one: Decimal, other: Decimal) -> Decimal:
    """The difference, to the last digit."""
    return EXACT.subtract(one, other)


def plain_units(units: Optional[int], scale: int) -> Optional[str]:
    """So many units of 10^-scale as plain text."""
    if units is None:
        return None
    digits = str(units).zfill(scale + 1)
    return f"{digits[:-scale]}.{digits[-scale:]}"


def money(amount: Decimal) -> str:
    """An amount in full, plain and unrounded, without needless zeros but with two decimals at least."""
    whole, _, decimals = f"{amount.copy_abs():f}".partition(".")
    return f"{'-' if amount < 0 else ''}{int(whole):,}.{decimals.rstrip('0').ljust(2, '0')}"
