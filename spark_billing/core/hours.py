"""Time: instants as numbers and as text, and clock hours in UTC+8, the provider's billing cycles. No Spark in here."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Optional

SECONDS_PER_HOUR = 3600
SECONDS_PER_DAY = 24 * SECONDS_PER_HOUR
UTC8_SECONDS = 8 * SECONDS_PER_HOUR  # the provider's billing cycles are clock hours in UTC+8, which has no summer time
UTC8 = timezone(timedelta(hours=8))
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
BEGINNING_US, END_US = -(2**63), 2**63 - 1  # of time, in microseconds: an open end of a period


def epoch_us(instant: datetime) -> int:
    """Microseconds from 1970-01-01T00:00Z to an aware `instant`, exactly."""
    return (instant - EPOCH) // timedelta(microseconds=1)


# A call time beyond the calendar's four-digit years is unreadable: no tool could print the hour it is billed in. A day
# is kept free at both ends, so that the hour has such a year in UTC+8 as well.
FIRST_INSTANT_US = epoch_us(datetime(1, 1, 2, tzinfo=timezone.utc))
LAST_INSTANT_US = epoch_us(datetime(9999, 12, 31, tzinfo=timezone.utc)) - 1

# A call that is dated earlier has its time from a clock that was never set, or in another unit
FIRST_CALL = int(datetime(2000, 1, 1, tzinfo=timezone.utc).timestamp())

# Instants as text are ISO 8601 with an offset. In usage they have seconds, as Spark reads an offset only after these:
# first its pattern for Spark, then the twin for the UDFs (`text_us`). The last is what people write.
INSTANT_TEXT = (
    r"\A[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?(Z|[+-][0-9]{2}(:?[0-9]{2})?)\z"
)
_INSTANT_PARTS = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[T ]((?:[01][0-9]|2[0-3]):[0-9]{2}:[0-9]{2})"
    r"(?:\.([0-9]{1,9}))?(Z|[+-][0-9]{2}(?::?[0-9]{2})?)"
)
ZONELESS_TEXT = r"\A[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,9})?)?\z"
_WRITTEN = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.([0-9]{1,6}))?)?)(Z|[+-][0-9]{2}:[0-9]{2})"
)
_MONTH = re.compile(r"([0-9]{4})-(0[1-9]|1[0-2])")


@dataclass(frozen=True)
class Period:
    """Whole UTC+8 hours, half open, as epoch seconds."""

    start: int
    end: int

    @classmethod
    def parse(cls, start: str, end: str) -> Period:
        """From UTC+8 hours such as 2026-04-08T00; `ValueError` says what is wrong."""
        edges = [parse_hour(start), parse_hour(end)]
        if edges[1] <= edges[0]:
            raise ValueError(
                f"the period from {start} to {end} is empty; it is half open, so give the hour after the last"
            )
        return cls(*edges)

    def __str__(self) -> str:
        return f"{hour_label(self.start)} to {hour_label(self.end)}"


def parse_hour(text: str) -> int:
    """The start, in epoch seconds, of a UTC+8 hour such as 2026-04-08T00; `ValueError` if it is none."""
    try:
        return int(datetime.strptime(text, "%Y-%m-%dT%H").replace(tzinfo=UTC8).timestamp())
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is not a UTC+8 hour such as 2026-04-08T00") from None


def parse_month(text: str) -> tuple[int, int]:
    """The start and the end, in epoch seconds, of a UTC+8 month such as 2026-04; `ValueError` if it is none."""
    match = _MONTH.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a UTC+8 month such as 2026-04")
    year, month = int(match[1]), int(match[2])
    year_after, month_after = (year + 1, 1) if month == 12 else (year, month + 1)
    return parse_hour(f"{text}-01T00"), parse_hour(f"{year_after:04}-{month_after:02}-01T00")


def iso_instant(text: str) -> Optional[datetime]:
    """The instant of text such as 2026-04-08T00:30:15.5+08:00, in UTC; None if it is not of that form, `ValueError` if
    the calendar has no such date and time."""
    match = _WRITTEN.fullmatch(text)
    if match is None:
        return None
    moment, fraction, offset = match.groups()
    try:  # Python 3.9 reads neither a Z nor a fraction of one digit
        zone = "+00:00" if offset == "Z" else offset
        whole = datetime.fromisoformat(moment.partition(".")[0] + zone).astimezone(timezone.utc)
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is no date and time of the calendar") from None
    return whole + timedelta(microseconds=int((fraction or "").ljust(6, "0")))


def parse_instant(text: str) -> int:
    """Epoch seconds of ISO 8601 text with an offset, such as 2026-04-08T00:30+08:00; `ValueError` if it is none."""
    found = None if "." in text else iso_instant(text)
    if found is None:
        raise ValueError(f"{text!r} is not an instant such as 2026-04-08T00:30+08:00; its offset must be given")
    if not FIRST_INSTANT_US <= epoch_us(found) <= LAST_INSTANT_US:  # it may have no year of four digits in UTC+8
        raise ValueError(f"{text!r} is too near the end of the calendar; give one of 0001-01-02 to 9999-12-30 in UTC")
    return epoch_us(found) // 1_000_000


def text_us(text: str) -> Optional[int]:
    """Microseconds from 1970-01-01T00:00Z to an instant as Spark reads it from `INSTANT_TEXT`; None if it does not."""
    match = _INSTANT_PARTS.fullmatch(text)
    if match is None:
        return None
    day, time, fraction, offset = match.groups()
    try:
        local = epoch_us(datetime.fromisoformat(f"{day}T{time}+00:00"))
    except ValueError:
        return None
    digits = "0000" if offset == "Z" else offset[1:].replace(":", "").ljust(4, "0")
    ahead = int(digits[:2]) * 60 + int(digits[2:])
    if int(digits[2:]) > 59 or ahead > 18 * 60:
        return None
    micros = int((fraction or "")[:6].ljust(6, "0"))
    return local + micros - (-1 if offset[0] == "-" else 1) * ahead * 60_000_000


def start_of_hour(seconds: int) -> int:
    """The start of the clock hour of an instant, both in epoch seconds: in UTC+8 as in UTC."""
    return seconds - seconds % SECONDS_PER_HOUR


def hour_number(seconds: int) -> int:
    """The hours from 1970-01-01T00 in UTC+8 to that of an instant in epoch seconds; modulo 24 it is the clock hour."""
    return (seconds + UTC8_SECONDS) // SECONDS_PER_HOUR


def hour_label(seconds: int) -> str:
    """An hour as the provider's bill names it, in UTC+8, such as 2026-04-08T00."""
    return instant_label(seconds)[:13]


def next_hour(seconds: int) -> int:
    """The start of the first hour that has not begun at an instant, both in epoch seconds."""
    return seconds - seconds % SECONDS_PER_HOUR + SECONDS_PER_HOUR


def date_label(seconds: int) -> str:
    """The date in UTC+8 of an instant in epoch seconds."""
    return instant_label(seconds)[:10]


def instant_label(seconds: int) -> str:
    """An instant given in epoch seconds, with its offset, such as 2026-04-08T00:00:00+08:00."""
    return (datetime(1970, 1, 1) + timedelta(seconds=seconds + UTC8_SECONDS)).isoformat() + "+08:00"


def ranges(hours: Iterable[int]) -> list[tuple[int, int]]:
    """Hours in order, as half-open periods without a gap."""
    found: list[tuple[int, int]] = []
    for hour in hours:
        start = found.pop()[0] if found and found[-1][1] == hour else hour
        found.append((start, hour + SECONDS_PER_HOUR))
    return found
