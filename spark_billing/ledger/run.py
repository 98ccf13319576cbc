"""One billing run: the usage metered, the difference to the ledger written, proved, committed and published.

Nothing that others read changes before the run is committed, and it is committed only if the control totals of what was
written balance. Where that is, and how it is committed, is a matter of the store (`ledger.Store`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any, Optional
from uuid import uuid4

from pyspark.sql import DataFrame, Row, SparkSession

from spark_billing.bills.control_totals import TOKEN_COLUMNS, ControlTotals, sums_by_fate
from spark_billing.bills.metering import Metered, first_call_of, meter
from spark_billing.bills.sums import Pricing, require_pricing
from spark_billing.core.columns import tag_column
from spark_billing.core.errors import LostRaceError, UsageError
from spark_billing.core.hours import (
    SECONDS_PER_HOUR,
    Period,
    date_label,
    hour_label,
    instant_label,
    next_hour,
    ranges,
)
from spark_billing.core.session import named_steps, step
from spark_billing.ledger.ledger import InMemory, Ledger, Store, Work
from spark_billing.ledger.proof import Proved, guard, prove_bills, write_calls
from spark_billing.ledger.publishing import Touched
from spark_billing.ledger.run_record import RunRecord, SeenHours, Totals, UsedPrices
from spark_billing.ledger.scope import Scope
from spark_billing.ledger.settling import Settled, rebuild_tables, settle
from spark_billing.prices.price_list import PriceList
from spark_billing.usage.aliases import names_taken
from spark_billing.usage.copies import CopyRule, KeepCopy
from spark_billing.usage.mapping import refuse_zoneless_times
from spark_billing.usage.used_version import UsedVersion

_MANY_CONFLICTS = 10  # from so many on, a summary names the ids that have the most
_NO_TIME = {"missing_call_time", "ambiguous_call_time"}  # the reasons of rows that are in no hour
_SHOWN_FILES = 5  # of those that are empty
_ATTEMPTS = 3  # at a commit: each time another run was first, the difference is computed anew


@dataclass(frozen=True)
class Job:
    """What a run is asked to do. `usage` is mapped (`mapping.map_columns`)."""

    usage: DataFrame
    prices: PriceList
    store: Store
    source: str  # names the usage table over time; a ledger holds the bills of one
    arguments: Mapping[str, Any]  # as given, for the record
    period: Optional[Period] = None
    pricing: Pricing = "native"
    duplicates: bool = True
    dedup_lookback: int = 24  # hours
    keep_copy: KeepCopy = "fullest"
    group_by_tags: Sequence[str] = ()
    detail: bool = False
    as_of: Optional[int] = None  # epoch seconds; None: when the run starts
    closed_after: Optional[int] = None  # hours; None: every hour is closed
    adjust_within: Optional[int] = None  # days; None: however old
    allow_retractions: bool = False
    dry_run: bool = False
    billed_with: Sequence[Period] = ()  # what other runs bill that belong to this one: all of them, or none, are right
    absent_fields: Sequence[str] = ()  # of the usage (`reading.Mapped`), for the record
    usage_version: Optional[UsedVersion] = None  # that is read, for the record
    empty_files: Sequence[str] = ()  # of the usage, likewise
    is_of_last_hours: bool = False  # the period is: hours before it that no run has covered are told
    cover_gap: bool = False  # and billed with it

    def __post_init__(self) -> None:
        require_pricing(self.pricing)
        for name, unit in (("dedup_lookback", "hours"), ("closed_after", "hours"), ("adjust_within", "days")):
            count = getattr(self, name)
            if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 0):
                raise UsageError(f"{name} is {count!r}; needed is a whole number of {unit}, 0 or more", parameter=name)


@dataclass(frozen=True)
class Outcome:
    """What a run did: its record (of a dry run: what it would be), and what a person asks first."""

    record: RunRecord
    dearest_workspaces: Sequence[Row]
    dearest_hours: Sequence[Row]
    lowered: Sequence[Row]  # bills that became lower: by rival copies, by leave, or in a dry run
    places: Sequence[tuple[str, str]] = ()  # where a person finds what was written: what it is, and where
    most_conflicts: Sequence[Row] = ()  # where many calls are conflicts: the ids with the most of them


@dataclass(frozen=True)
class _Started:
    """A run, and what its usage comes to, whatever the ledger says."""

    spark: SparkSession
    job: Job
    work: Work
    name: str
    at: datetime
    as_of: int
    metered: Metered
    totals: ControlTotals
    scope: Scope
    model_aliases: Sequence[Mapping[str, Any]]
    gap: Optional[Period] = None  # the hours before its period that no run has covered


def bill_run(job: Job) -> Outcome:
    """Bill the usage of a job into its output folder and return what was done.

    `UsageError` or `OutputError` before anything is written; `RetractionError` if bills would become lower;
    `TotalsError` if what was written does not prove itself; `LostRaceError` if other runs kept committing meanwhile. In
    each case the bills are as before.
    """
    spark, store = job.usage.sparkSession, job.store
    ledger = _open(job)
    gap = _gap(job, ledger) if job.is_of_last_hours else None
    if gap is not None and job.cover_gap and job.period is not None:
        job = replace(job, period=Period(gap.start, job.period.end))
    at = datetime.now(timezone.utc)
    name = f"{at:%Y%m%dT%H%M%SZ}-{uuid4().hex[:8]}"
    work = InMemory() if job.dry_run else store.work(name)
    with named_steps(spark, f"bill {job.source} into {store.where}"):
        try:
            started = replace(_meter(spark, job, work, name, at), gap=gap)
            for attempt in range(1, _ATTEMPTS + 1):
                outcome = _attempt(started, attempt)
                if outcome is not None:
                    return outcome
        finally:
            work.clear()
    raise LostRaceError(
        f"other runs committed to {store.where} {_ATTEMPTS} times while this one was computing; nothing of this run "
        "was published. Run it again."
    )


def _open(job: Job) -> Ledger:
    ledger = job.store.open()
    ledger.require(job.source, job.prices.currency, [tag_column(key) for key in job.group_by_tags])
    if job.as_of is None and ledger.last is not None:
        _require_clock(ledger.last)
    return ledger


def _require_clock(last: RunRecord) -> None:
    """`UsageError` if it is earlier now than when the last run began: of two clocks one is wrong, and hours that are
    over would be open, or the last hours others than the last."""
    now, began = datetime.now(timezone.utc), last.started_at
    if began and now < datetime.fromisoformat(began):
        raise UsageError(
            f"the clock says {instant_label(int(now.timestamp()))}, but run {last.run} began at {began} by its clock: "
            "one of the two is wrong. Set this one right; or if it is right, say so by giving the instant.",
            parameter="as_of",
        )


def _gap(job: Job, ledger: Ledger) -> Optional[Period]:
    """The hours between the last one that any run has covered and the period."""
    covered = ledger.runs.covered_by
    end = max(covered) + SECONDS_PER_HOUR if covered else None
    return Period(end, job.period.start) if end is not None and job.period and end < job.period.start else None


def _meter(spark: SparkSession, job: Job, work: Work, name: str, at: datetime) -> _Started:
    """Sum the calls, and see which hours this run bills."""
    step(spark, "meter the usage")
    as_of = int(at.timestamp()) if job.as_of is None else job.as_of
    open_from = next_hour(as_of)
    metered = meter(
        job.usage,
        job.prices,
        work.keep,
        period=job.period,
        rule=CopyRule(job.dedup_lookback, job.keep_copy) if job.duplicates else None,
        open_from=open_from,
        group_by_tags=job.group_by_tags,
        pricing=job.pricing,
    )
    sums = sums_by_fate(metered.sums, job.prices)
    hours = {row["hour"] for row in sums}
    if None in hours:
        refuse_zoneless_times(job.usage)
    limits = {"closed_after": job.closed_after, "adjust_within": job.adjust_within}
    scope = Scope.of(sorted(hours - {None}), job.period, as_of=as_of, **limits)
    totals = ControlTotals(sums, scope.open_from, scope.old_until)
    taken = names_taken(metered.usage)
    return _Started(spark, job, work, name, at, as_of, metered, totals, scope, taken)


def _attempt(run: _Started, attempt: int) -> Optional[Outcome]:
    """Settle on the ledger as it is now, prove it and commit; None if another run was first."""
    job, work = run.job, run.work
    ledger = _open(job)
    behind = work.begin(ledger, attempt)
    with_it = [(period.start, period.end) for period in job.billed_with]
    run_id = f"{run.name}-{attempt}"
    settled = settle(run.spark, ledger, run.metered, run.scope, job.prices, work, run_id, run.at, with_it)
    lowered: Sequence[Row] = []
    if settled.held is not None and settled.lines.hours:
        lowered = guard(
            settled.added,
            settled.lines.reasons,
            settled.conflicts,
            job.prices.currency,
            may_lower=job.allow_retractions or job.dry_run,
        )
    tables = rebuild_tables(run.spark, ledger, settled, behind, work)
    step(run.spark, "prove the totals from what was written")
    proved = prove_bills(run.metered.rows, settled.owed, tables, run.totals.by_kind())
    totals = _totals(run, proved)
    step(run.spark, "write the rejected rows and the details")
    record = replace(_record(run, ledger, settled, totals), rebuilt=sorted(behind))
    most_conflicts: Sequence[Row] = []
    if not work.is_dry:
        write_calls(work, run.metered, run.scope, record, detail=job.detail)
        if totals.rejected.get("conflicting_request", 0) >= _MANY_CONFLICTS:
            most_conflicts = run.metered.most_conflicts()
    committed = work.commit(ledger, record, _touched(run, {*settled.dates, *behind}, totals))
    if committed is None:
        return None
    places = [] if work.is_dry else job.store.places(committed)
    return Outcome(committed, proved.dearest_workspaces, proved.dearest_hours, lowered, places, most_conflicts)


def _touched(run: _Started, dates: Collection[str], totals: Totals) -> Touched:
    period, first_call = run.job.period, first_call_of(run.job.prices)
    without_time = period is not None or not _NO_TIME.isdisjoint(totals.rejected)
    before = date_label(first_call) if period is not None and first_call > 0 else ""
    return Touched(dates, run.scope.covered, without_time, before)


def _totals(run: _Started, proved: Proved) -> Totals:
    sums, kinds = run.totals.by_kind(), run.totals.kinds()
    tokens = {name: {kind: sums[kind][name] for kind in (*kinds, "charged")} for name in TOKEN_COLUMNS}
    rows = {kind: sums[kind]["requests"] for kind in kinds}
    return Totals(rows, run.totals.rejected(), **tokens, amount=proved.amount, currency=run.job.prices.currency)


def _record(
    run: _Started,
    ledger: Ledger,
    settled: Settled,
    totals: Totals,
) -> RunRecord:
    job, prices, covered = run.job, run.job.prices, run.scope.covered
    begun = [hour for hour in run.scope.with_usage if hour <= run.as_of]
    ahead = [hour for hour in run.scope.with_usage if hour > run.as_of]
    absent = [] if job.period is not None else sorted(set(ledger.runs.amounts()) - set(run.scope.with_usage))
    return RunRecord(
        run=settled.number,
        run_id=settled.run_id,
        parent=ledger.runs.last_id,
        started_at=run.at.isoformat(timespec="seconds"),
        committed_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        as_of=instant_label(run.as_of),
        spark_version=run.spark.version,
        source=job.source,
        arguments=dict(job.arguments),
        tag_columns=settled.tag_columns,
        price_list=UsedPrices(prices.name, prices.version, prices.currency, prices.tokens_per_k, prices.sha256),
        period=job.period,
        hours=SeenHours(
            with_usage=len(begun),
            first=hour_label(begun[0]) if begun else None,
            last=hour_label(begun[-1]) if begun else None,
            billed_before_but_not_in_usage=[hour_label(hour) for hour in absent],
            not_begun=[hour_label(hour) for hour in (ahead[0], ahead[-1])] if ahead else [],
            calls_not_begun=run.totals.calls_from(next_hour(run.as_of)),
        ),
        totals=totals,
        covered=ranges(covered),
        left_out={} if settled.conflicts is None else settled.conflicts.added,
        ledger=settled.lines,
        not_adjusted=settled.too_old,
        model_aliases=run.model_aliases,
        absent_fields=job.absent_fields,
        usage_version=job.usage_version,
        not_covered=run.gap,
        empty_files=job.empty_files[:_SHOWN_FILES],
        empty_files_count=len(job.empty_files),
    )
