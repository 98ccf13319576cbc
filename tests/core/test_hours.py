"""Hours in UTC+8 and instants as numbers and as text, worked out by hand."""

from datetime import datetime, timedelta, timezone

import pytest

from spark_billing.core.hours import (
    Period,
    date_label,
    hour_label,
    hour_number,
    instant_label,
    parse_hour,
    parse_instant,
    start_of_hour,
)


def at(*clock):
    return int(datetime(*clock, tzinfo=timezone.utc).timestamp())


def test_labels():
    assert hour_label(at(2026, 12, 31, 16)) == "2027-01-01T00"
    assert date_label(at(2026, 12, 31, 15, 59, 59)) == "2026-12-31"
    assert instant_label(at(2026, 4, 7, 16, 0, 1)) == "2026-04-08T00:00:01+08:00"


def test_periods():
    period = Period.parse("2026-04-08T00", "2026-04-08T01")
    assert (period.start, period.end) == (at(2026, 4, 7, 16), at(2026, 4, 7, 17))
    assert str(period) == "2026-04-08T00 to 2026-04-08T01"
    with pytest.raises(ValueError, match="is empty"):
        Period.parse("2026-04-08T01", "2026-04-08T01")


@pytest.mark.parametrize(
    ("seconds", "start", "number"),
    [
        (0, 0, 8),
        (3599, 0, 8),
        (3600, 3600, 9),
        (-1, -3600, 7),
        (-8 * 3600, -8 * 3600, 0),
        (-8 * 3600 - 1, -9 * 3600, -1),
    ],
)
def test_the_hour_of_an_instant(seconds, start, number):
    """1970-01-01T00Z is 08 o'clock in UTC+8; before the epoch hours begin before the instant, too."""
    assert start_of_hour(seconds) == start
    assert hour_number(seconds) == number
    assert hour_label(seconds)[-2:] == f"{number % 24:02}"


def test_hour_numbers_are_dates_and_clock_hours():
    hour = parse_hour("2026-04-08T13")
    days = (datetime(2026, 4, 8) - datetime(1970, 1, 1)) // timedelta(days=1)
    assert divmod(hour_number(hour), 24) == (days, 13)


def test_instants_that_have_no_name_are_refused():
    """A day at each end of the calendar is kept free, as its hours may have no year of four digits in UTC+8."""
    for text in ("9999-12-31T23:59:59Z", "9999-12-31T00:00Z", "0001-01-01T23:59:59Z", "0001-01-01T00:00+14:00"):
        with pytest.raises(ValueError, match="calendar"):
            parse_instant(text)
    assert instant_label(parse_instant("9999-12-30T23:59:59Z")) == "9999-12-31T07:59:59+08:00"
    assert instant_label(parse_instant("0001-01-02T00:00Z")) == "0001-01-02T08:00:00+08:00"
