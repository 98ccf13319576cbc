"""Clock hours in UTC+8, the provider's billing cycles, as epoch seconds and as people name them. No Spark in here."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from spark_billing.core.schemas import SECONDS_PER_HOUR, UTC8_SECONDS
from spark_billing.prices.price_list import FIRST_INSTANT_US, LAST_INSTANT_US, epoch_us

UTC8 = timezone(timedelta(hours=8))
_MONTH = re.compile(r"([0-9]{4})-(0[1-9]|1[0-2])")
_INSTANT = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}(?::[0-9]{2})?)(Z|[+-][0-9]{2}:[0-9]{2})")


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


def parse_instant(text: str) -> int:
    """Epoch seconds of ISO 8601 text with an offset, such as 2026-04-08T00:30+08:00; `ValueError` if it is none."""
    match = _INSTANT.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not an instant such as 2026-04-08T00:30+08:00; its offset must be given")
    try:
        instant = datetime.fromisoformat(match[1] + ("+00:00" if match[2] == "Z" else match[2]))
        found = epoch_us(instant)
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is no date and time of the calendar") from None
    if not FIRST_INSTANT_US <= found <= LAST_INSTANT_US:  # it may have no year of four digits in UTC+8
        raise ValueError(f"{text!r} is too near the end of the calendar; give one of 0001-01-02 to 9999-12-30 in UTC")
    return found // 1_000_000


def hour_label(seconds: int) -> str:
    """An hour as the provider's bill names it, in UTC+8, such as 2026-04-08T00."""
    return instant_label(seconds)[:13]


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
