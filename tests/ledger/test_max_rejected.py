"""How many rejected rows are too many: limits by number and by share, identical repeats aside."""

from fractions import Fraction

import pytest

from spark_billing import UsageError
from spark_billing.ledger.max_rejected import max_rejected_of, rejected_too_many

REJECTED = {"unknown_model": 3, "duplicate_request": 50, "conflicting_request": 2}


@pytest.mark.parametrize(
    ("limit", "billed", "rejected", "too_many"),
    [
        (None, 1, {"unknown_model": 99}, False),
        (None, 0, {"unknown_model": 1}, True),
        (None, 0, {"duplicate_request": 1}, False),  # its copy is billed in another hour
        (None, 0, {}, False),  # no rows at all
        ("5", 0, REJECTED, False),  # said: so many may be, also if they are all
        ("4", 95, REJECTED, True),
        ("5", 95, REJECTED, False),
        ("0", 95, {}, False),
        ("0", 95, {"duplicate_request": 7}, False),
        ("0", 95, {"missing_model": 1}, True),
        ("5%", 95, REJECTED, False),  # 5 of 100
        ("5%", 94, REJECTED, True),
        ("4.999999999%", 95, REJECTED, True),
        ("0%", 10**14, {"missing_model": 1}, True),
        ("100%", 0, REJECTED, False),
    ],
)
def test_too_many(limit, billed, rejected, too_many):
    found = rejected_too_many(limit, billed, rejected)
    assert (found is not None) == too_many
    if found:
        assert "duplicate_request" not in found
        assert all(f"{reason} {rows}" in found for reason, rows in rejected.items() if reason != "duplicate_request")


@pytest.mark.parametrize("given", ["0", 0, 100, "0.5%", "100 %", "1%", "100.0%", None])
def test_limits(given):
    assert max_rejected_of(given) == (None if given is None else str(given))


@pytest.mark.parametrize("given", ["", "-1", -1, "1.5", 1.5, "101%", "100.1%", "%", "many", "1%%", True, "1e3", "٣"])
def test_what_is_no_limit(given):
    with pytest.raises(UsageError, match="number of rows") as refused:
        max_rejected_of(given)
    assert refused.value.parameter == "max_rejected"


@pytest.mark.parametrize("percent", ["0.1", "1", "33.333333333"])
@pytest.mark.parametrize("rows", range(1, 12))
def test_a_share_is_exact(percent, rows):
    for billed in range(0, 1200, 37):
        found = rejected_too_many(f"{percent}%", billed, {"unknown_model": rows})
        assert (found is not None) == (Fraction(rows, billed + rows) > Fraction(percent) / 100)
