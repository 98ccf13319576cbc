"""Times without an offset as instants of a zone, where the zone's clock leaves no doubt.

When a clock is set back, the times of an hour exist twice, and which one a log means cannot be told; when it is set
forward, the times of an hour do not exist at all. A zone without such a change near a time never meets either.
"""

from __future__ import annotations

from typing import Any

from pyspark.sql import Column, SparkSession
from pyspark.sql import functions as F

from spark_billing.usage.calls import readable_instant

_BEYOND_A_SHIFT = 25 * 3_600_000_000  # microseconds; zones have skipped and repeated whole days, never more


def is_ambiguous(spark: SparkSession, local: Column, instant: Column, zone: str) -> Column:
    """Whether a local time (timestamp_ntz) is two instants or none in a zone that is the session's; `instant` is what
    Spark takes for it, which is the earlier of two. False for null."""
    session: Any = spark
    rules = session._jvm.java.time.ZoneId.of(zone).getRules()
    if rules.isFixedOffset():
        return F.lit(False)

    def offset(at: Column) -> Column:
        return F.unix_micros(F.from_utc_timestamp(F.timestamp_micros(at), zone)) - at

    at = F.unix_micros(instant)
    before, after = offset(at), offset(at + F.lit(_BEYOND_A_SHIFT))
    twice = (before != after) & (offset(at + before - after) == after)
    never = instant.cast("timestamp_ntz") != local
    asked = local.isNotNull() & readable_instant(instant)
    if rules.getTransitionRules().isEmpty():  # no change after the last that was: for most calls one comparison
        changes = rules.getTransitions()
        last = changes.get(changes.size() - 1).toEpochSecond() * 1_000_000
        asked &= at <= F.lit(last + _BEYOND_A_SHIFT)
    return F.coalesce(F.when(asked, never | twice), F.lit(False))
