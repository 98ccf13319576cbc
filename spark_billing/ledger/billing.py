"""Usage billed into a ledger, from a DataFrame or from a table by its path: the way of jobs, streams and notebooks."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Optional

from pyspark.sql import DataFrame, SparkSession

from spark_billing.bills.sums import Pricing
from spark_billing.core.errors import OutputError, UsageError
from spark_billing.core.hours import SECONDS_PER_HOUR, Period, parse_instant
from spark_billing.ledger.max_rejected import MaxRejected, max_rejected_of
from spark_billing.ledger.run import Job, Outcome, bill_run
from spark_billing.ledger.run_record import RunRecord
from spark_billing.ledger.stores import store_of
from spark_billing.prices.price_list import PriceList
from spark_billing.usage.aliases import GivenAliases
from spark_billing.usage.copies import KeepCopy
from spark_billing.usage.mapping import usage_session
from spark_billing.usage.reading import Mapped, Reading


def bill_usage(
    usage: DataFrame,
    *,
    prices: PriceList,
    source: str,
    output: Optional[str] = None,
    catalog: Optional[str] = None,
    period: Optional[tuple[str, str]] = None,
    last: Optional[int] = None,
    cover_gap: bool = False,
    columns: Optional[Mapping[str, str]] = None,
    call_time_zone: Optional[str] = None,
    where: Optional[str] = None,
    model_alias: GivenAliases = (),
    usage_schema: Optional[str] = None,
    max_rejected: MaxRejected = None,
    pricing: Pricing = "native",
    duplicates: bool = True,
    dedup_lookback: int = 24,
    keep_copy: KeepCopy = "fullest",
    group_by_tags: Sequence[str] = (),
    detail: bool = False,
    as_of: Optional[str] = None,
    closed_after: Optional[int] = None,
    adjust_within: Optional[int] = None,
    allow_retractions: bool = False,
    dry_run: bool = False,
    one_writer: bool = False,
    publishing_patience: float = 10,
) -> RunRecord:
    """Bill usage into a ledger, as the job `hourly_bill.py` does, and return the run's record.

    What the usage comes to is compared with what the ledger says, and the difference is added, proved and committed.
    The ledger is in the folder `output`, new or of earlier runs, where `bill_lines/`, `bills/` and `rejected/` are
    written anew for the dates that change; or in the table `ledger` of the namespace `catalog`, such as `ice.billing`,
    where `bill_lines` and `bills` are views of it. `source` names the usage over time, as a ledger holds the bills of
    one. `period` is two UTC+8 hours, half open, such as `("2026-04-08T00", "2026-04-09T00")` (None: all of the usage),
    or `last` the number of hours that are over; hours before these that no run has covered are told in the record
    (`not_covered`), and with `cover_gap` billed as well. Hours that have not begun `as_of` an instant (None: now) are
    left for a later run; it is needed where now is earlier than when the last run began. The other options are those of
    the job. `columns` gives usage columns as Spark SQL expressions over those of the DataFrame, `where` is a condition
    over them for the rows that are read, `model_alias` names that mean a model of the list, by patterns; times without
    an offset are in `call_time_zone`. Of copies of a call within `dedup_lookback` hours the `keep_copy` is billed.
    `usage_schema` is refused, as the DataFrame has its own. With `dry_run` nothing is written. `one_writer` says that
    nothing else bills into the ledger at the same time, where its catalog could not see to that. The run reads the
    DataFrame several times, so it must be the same each time: of a table that gets rows meanwhile give one version
    (`VERSION AS OF`), which the job does by itself.
    If more rows are rejected than `max_rejected` says, the run is committed all the same: the record's
    `rejected_too_many` says so, and a warning of the logger `spark_billing`.

    Needs a classic Spark session, not Spark Connect. `UsageError` or `OutputError` if arguments, usage or output do not
    fit, `RetractionError` if bills would become lower, `TotalsError` if the run does not prove itself, `LostRaceError`
    if others kept committing first; the bills are then as before.

    Examples
    --------
    >>> prices = PriceList.bundled("emr-serverless-spark", currency="USD")
    >>> done = bill_usage(usage, prices=prices, output=new_output, source="gateway log")
    >>> done.run, done.totals.rows, str(done.totals.amount)
    (1, {'read': 2, 'billed': 1, 'rejected': 1}, '0.000053080000')
    """
    instant = instant_of(as_of, last=last, closed_after=closed_after, adjust_within=adjust_within)
    hours = None if period is None else hours_between(*period)
    if last is not None:
        hours = last_hours(last, hours, instant)
    require_last(last, cover_gap)
    limit = max_rejected_of(max_rejected)
    reading = Reading(dict(columns or {}), call_time_zone, duplicates, where, model_alias, usage_schema=usage_schema)
    options: dict[str, Any] = {
        "pricing": pricing,
        "group_by_tags": list(group_by_tags),
        "detail": detail,
        "dedup_lookback": dedup_lookback,
        "keep_copy": keep_copy,
        "as_of": None if as_of is None else instant,  # the machine's own clock is not taken on trust
        "closed_after": closed_after,
        "adjust_within": adjust_within,
        "allow_retractions": allow_retractions,
        "dry_run": dry_run,
    }
    asked = {"usage": None, "usage_format": None, **reading.asked(), "max_rejected": limit, **options}
    store = store_of(usage.sparkSession, output, catalog, one_writer=one_writer, patience=publishing_patience)
    of_job = {**options, "store": store, "source": source, "period": hours}
    of_job.update(is_of_last_hours=last is not None, cover_gap=cover_gap)
    record = _bill(usage.sparkSession, prices, reading, lambda: reading.map(usage, prices), asked, **of_job).record
    warn_of_rejected(record, store.where)
    return record


def bill_table(
    spark: SparkSession,
    prices: PriceList,
    *,
    usage: str,
    output: Optional[str] = None,
    catalog: Optional[str] = None,
    usage_format: Optional[str] = None,
    period: Optional[Period] = None,
    columns: Optional[Mapping[str, str]] = None,
    call_time_zone: Optional[str] = None,
    where: Optional[str] = None,
    model_alias: GivenAliases = (),
    usage_schema: Optional[str] = None,
    max_rejected: MaxRejected = None,
    duplicates: bool = True,
    source: Optional[str] = None,
    one_writer: bool = False,
    publishing_patience: float = 10,
    billed_with: Sequence[Period] = (),
    is_of_last_hours: bool = False,
    cover_gap: bool = False,
    **options: Any,
) -> Outcome:
    """Bill a usage table at a path or in the catalog, as `bill_usage` does; `options` are those of `run.Job`, as are
    the three before them."""
    if output is not None and usage_format != "table":
        _require_apart(usage, output)
    limit = max_rejected_of(max_rejected)
    reading = Reading(dict(columns or {}), call_time_zone, duplicates, where, model_alias, usage_format, usage_schema)
    asked = {"usage": usage, "usage_format": usage_format, **reading.asked(), "max_rejected": limit, **options}
    store = store_of(spark, output, catalog, one_writer=one_writer, patience=publishing_patience)
    of_job = {**options, "store": store, "source": source or usage.rstrip("/"), "period": period}
    of_job.update(billed_with=billed_with, is_of_last_hours=is_of_last_hours, cover_gap=cover_gap)
    return _bill(spark, prices, reading, lambda: reading.read(spark, usage, prices), asked, **of_job)


def _bill(
    spark: SparkSession,
    prices: PriceList,
    reading: Reading,
    read: Callable[[], Mapped],
    asked: Mapping[str, Any],
    **of_job: Any,
) -> Outcome:
    """The one way into a ledger. `read` gives the usage in the session that it needs, and `asked` goes into the
    record; the rest is of `run.Job`."""
    with usage_session(spark, reading.call_time_zone):
        mapped = read()
        of_usage: dict[str, Any] = {"duplicates": reading.duplicates, "absent_fields": mapped.absent}
        of_usage.update(usage_version=mapped.version, empty_files=mapped.empty_files)
        return bill_run(Job(mapped.usage, prices, arguments=asked, **of_usage, **of_job))


def _require_apart(usage: str, output: str) -> None:
    """`OutputError` if one of two folders lies in the other."""
    here, there = (f"{path.rstrip('/')}/" for path in (usage, output))
    if there.startswith(here):
        raise OutputError(f"the output {output!r} lies in the usage {usage!r}, which a later run would read")
    if here.startswith(there):
        raise OutputError(
            f"the usage {usage!r} lies in the output {output!r}, whose hours its own bill would replace; "
            "give another output (rejected rows are billed there by a run over the whole usage)",
            parameter="output",
        )


def warn_of_rejected(record: RunRecord, where: str) -> None:
    """Say in the log that a committed run has rejected more than it was to: an exception would look as if it were not
    done."""
    if record.rejected_too_many:
        run = "a dry run" if record.arguments.get("dry_run") else f"run {record.run}, which is committed"
        logging.getLogger("spark_billing").warning("%s (%s, into %s)", record.rejected_too_many, run, where)


def instant_of(
    as_of: Optional[str], *, last: Optional[int], closed_after: Optional[int], adjust_within: Optional[int]
) -> Optional[int]:
    """A run's clock, in epoch seconds: hours that begin after it are open, and from it the last hours, closed hours and
    hours too old are counted; None: when the run starts. `UsageError` if the options do not go together."""
    if adjust_within is not None and closed_after is not None and adjust_within * 24 <= closed_after:
        raise UsageError(
            f"adjust_within, {adjust_within} days, ends before closed_after, {closed_after} hours: no hour would ever "
            "be billed",
            parameter="adjust_within",
        )
    if as_of is None:
        return None if last is None else int(time.time())
    try:
        return parse_instant(as_of)
    except ValueError as error:
        raise UsageError(f"as_of: {error}", parameter="as_of") from None


def last_hours(last: int, period: Optional[Period], as_of: Optional[int]) -> Period:
    """The period of the last hours that are over."""
    if period is not None or last < 1 or as_of is None:
        raise UsageError(
            "last takes the place of a period: give a number of hours, 1 or more, and no period", parameter="last"
        )
    end = as_of - as_of % SECONDS_PER_HOUR
    return Period(end - last * SECONDS_PER_HOUR, end)


def require_last(last: Optional[int], cover_gap: bool) -> None:
    """`UsageError` if a gap is to be covered before no last hours."""
    if cover_gap and last is None:
        raise UsageError(
            "cover_gap is about the hours between what was covered and the last hours: give last, too, or name the "
            "hours by a period",
            parameter="cover_gap",
        )


def hours_between(start: str, end: str) -> Period:
    """The period from one UTC+8 hour to another, half open; `UsageError` if it is none."""
    try:
        return Period.parse(start, end)
    except ValueError as error:
        raise UsageError(f"period: {error}", parameter="period") from None
