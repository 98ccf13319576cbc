"""What a run covers, worked out on a clock by hand. Hours are numbered from 0; as of hour 100, sharp."""

import pytest

from spark_billing.core.hours import Period
from spark_billing.ledger.scope import Scope

HOUR = 3600
AS_OF = 100 * HOUR


def hours(*numbers):
    return [number * HOUR for number in numbers]


@pytest.mark.parametrize(
    ("closed_after", "adjust_within", "closed", "covered"),
    [
        (None, None, (1, 50, 51, 98, 99, 100), (1, 50, 51, 98, 99, 100)),  # hour 101 has not begun
        (0, None, (1, 50, 51, 98, 99), (1, 50, 51, 98, 99)),  # hour 99 ended as hour 100 began
        (1, None, (1, 50, 51, 98), (1, 50, 51, 98)),
        (48, None, (1, 50, 51), (1, 50, 51)),  # hour 51 ended 48 hours before
        (49, None, (1, 50), (1, 50)),
        (None, 2, (1, 50, 51, 98, 99, 100), (51, 98, 99, 100)),  # hour 51 ended two days before, hour 50 more
        (0, 2, (1, 50, 51, 98, 99), (51, 98, 99)),
    ],
)
def test_open_and_old_hours(closed_after, adjust_within, closed, covered):
    with_usage = hours(1, 50, 51, 98, 99, 100, 101)
    scope = Scope.of(with_usage, None, as_of=AS_OF, closed_after=closed_after, adjust_within=adjust_within)
    assert (scope.closed, scope.covered) == (hours(*closed), hours(*covered))
    assert scope.is_limited


@pytest.mark.parametrize(("second", "covered"), [(-1, (98, 99)), (0, (98, 99, 100)), (HOUR - 1, (98, 99, 100))])
def test_an_hour_begins_with_its_first_second(second, covered):
    limits = {"closed_after": None, "adjust_within": None}
    scope = Scope.of(hours(98, 99, 100), None, as_of=AS_OF + second, **limits)
    assert (scope.covered, scope.is_limited) == (hours(*covered), second < 0)
    # also of a period that reaches beyond
    assert Scope.of(hours(98), Period(98 * HOUR, 104 * HOUR), as_of=AS_OF + second, **limits).covered == hours(*covered)


def test_a_period_covers_all_its_hours_and_no_other():
    scope = Scope(hours(1, 5), Period(3 * HOUR, 7 * HOUR))
    assert scope.covered == hours(3, 4, 5, 6)
    assert Scope(hours(1, 5), Period(3 * HOUR, 7 * HOUR), open_from=6 * HOUR, old_until=4 * HOUR).covered == hours(4, 5)


@pytest.mark.parametrize("second", [0, 1, HOUR - 1])
def test_an_hour_is_open_to_its_last_second(second):
    scope = Scope.of(hours(99, 100), None, as_of=AS_OF + second, closed_after=0, adjust_within=None)
    assert scope.closed == hours(99)
