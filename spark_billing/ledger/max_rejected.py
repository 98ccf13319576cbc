"""How many rows a run may reject before somebody should look. It is done and committed all the same: the others are
billed, and the next run adds what has been mended. No Spark in here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Optional, Union

from spark_billing.core.errors import UsageError

MaxRejected = Union[int, str, None]
_LIMIT = re.compile(r"([0-9]{1,15})|([0-9]{1,3}(?:\.[0-9]{1,9})?) ?%")
_COPY = "duplicate_request"  # an identical copy of a call that is billed: nothing is missing from the bill


def max_rejected_of(given: MaxRejected) -> Optional[str]:
    """A limit as the record keeps it: "100" rows, or "1%" of those that are billed or rejected; None: all but all.

    `UsageError` if it is neither.
    """
    if given is None:
        return None
    text = str(given).strip() if not isinstance(given, bool) else repr(given)
    found = _LIMIT.fullmatch(text)
    if found is None or (found[2] and Decimal(found[2]) > 100):
        raise UsageError(
            f"max_rejected is {given!r}; needed is a number of rows from 0 on, such as 100, or a share of them from 0% "
            "to 100%, such as 0.5%",
            parameter="max_rejected",
        )
    return text


def rejected_too_many(limit: Optional[str], billed: int, rejected: Mapping[str, int]) -> Optional[str]:
    """What is said if more rows were rejected than the limit allows, else None. `rejected` are rows by reason."""
    by_reason = {reason: rows for reason, rows in rejected.items() if reason != _COPY}
    rows = sum(by_reason.values())
    if limit is None:
        if billed or not rows:
            return None
        found = f"all {rows:,} rows were rejected and none was billed"
    else:
        found = f"{rows:,} of {billed + rows:,} rows were rejected, and max_rejected allows {limit}"
        if limit.endswith("%"):
            if rows * 100 <= Decimal(limit[:-1]) * (billed + rows):
                return None
        elif rows <= int(limit):
            return None
    return f"{found}: {', '.join(f'{reason} {count:,}' for reason, count in by_reason.items())}"
