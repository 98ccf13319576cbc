"""What a run covers: the hours that it bills, and those that it leaves because they are open or too old.

No Spark in here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

from spark_billing.core.hours import SECONDS_PER_DAY, SECONDS_PER_HOUR, Period


@dataclass(frozen=True)
class Scope:
    """The hours of a run, in epoch seconds."""

    with_usage: Sequence[int]  # in which the usage has rows, in order
    period: Optional[Period] = None
    open_from: Optional[int] = None  # hours from here on are still open; None: none is
    old_until: Optional[int] = None  # hours before this are too old to adjust; None: none is

    @classmethod
    def of(
        cls,
        with_usage: Sequence[int],
        period: Optional[Period],
        *,
        as_of: int,
        closed_after: Optional[int],
        adjust_within: Optional[int],
    ) -> Scope:
        """As of an instant: an hour is open until `closed_after` hours after its end (None: until it begins), and too
        old to adjust `adjust_within` days after it (None: never)."""
        open_from = as_of + 1 if closed_after is None else as_of - (closed_after + 1) * SECONDS_PER_HOUR + 1
        old_until = None if adjust_within is None else as_of - adjust_within * SECONDS_PER_DAY - SECONDS_PER_HOUR
        return cls(with_usage, period, open_from, old_until)

    @property
    def is_limited(self) -> bool:
        """Whether some hours with usage are left for another run, or for ever."""
        return not set(self.covered).issuperset(self.with_usage)

    @property
    def closed(self) -> list[int]:
        """The hours that are over: of the period all, else those that the usage has rows in."""
        hours = self.with_usage
        if self.period is not None:
            hours = range(self.period.start, self.period.end, SECONDS_PER_HOUR)
        return [hour for hour in hours if self.open_from is None or hour < self.open_from]

    @property
    def covered(self) -> list[int]:
        """The hours that this run bills."""
        return [hour for hour in self.closed if self.old_until is None or hour >= self.old_until]
