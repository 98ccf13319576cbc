"""One billing run: the usage metered, the difference to the ledger written, proved, committed and published.

Nothing under the output changes before the run's record is committed, and the record is created only if the control
totals of what was written balance. The tables of the touched dates are rebuilt from the ledger aside and then moved
into place; if a run is killed in the middle of that, the next run finishes it from the record.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from decimal import Decimal
from functools import reduce
from typing import Any, Optional
from uuid import uuid4

from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from spark_billing.bills.control_totals import TOKENS, ControlTotals, balance
from spark_billing.bills.lines import bill_sums, hourly_bills, lines_of_sums
from spark_billing.bills.metering import meter
from spark_billing.bills.sums import Pricing
from spark_billing.core.columns import hour_of, literal_rows, tag_column, tag_columns, total
from spark_billing.core.errors import LostRaceError, RetractionError
from spark_billing.core.hours import SECONDS_PER_HOUR, Period, date_label, hour_label, instant_label, ranges
from spark_billing.core.money import money
from spark_billing.core.schemas import AMOUNT, PRICED
from spark_billing.core.session import named_steps, step
from spark_billing.core.storage import Storage
from spark_billing.core.text import printable
from spark_billing.ledger.conflicts import kept_conflicts, new_conflicts, unbilled
from spark_billing.ledger.difference import difference, lowered_bills, net_lines
from spark_billing.ledger.files import Staging, touched_partitions
from spark_billing.ledger.records import (
    Ledger,
    clear,
    finish_publishing,
    lines_path,
    publish,
    recorded_sums,
    sums_by_hour,
)
from spark_billing.prices.price_list import PriceList
from spark_billing.usage.mapping import refuse_zoneless_times
from spark_billing.usage.rating import with_costs
from spark_billing.usage.reasons import reason_of

_ATTEMPTS = 3  # at a commit: each time another run was first, the difference is computed anew
_SHOWN = 5  # workspaces, hours or lowered bills in a message or a summary
_BILL_SUMS = ("requests", *TOKENS, "amount")
_SECONDS_PER_DAY = 24 * SECONDS_PER_HOUR


@dataclass(frozen=True)
class Job:
    """What a run is asked to do. `usage` is mapped (`sources.map_columns`)."""

    usage: DataFrame
    prices: PriceList
    output: str
    source: str  # names the usage table over time; an output holds the bills of one
    arguments: Mapping[str, Any]  # as given, for the record
    period: Optional[Period] = None
    pricing: Pricing = "native"
    duplicates: bool = True
    dedup_lookback: int = 24  # hours
    group_by_tags: Sequence[str] = ()
    detail: bool = False
    as_of: Optional[int] = None  # epoch seconds; None: when the run starts
    closed_after: Optional[int] = None  # hours; None: every hour is closed
    adjust_within: Optional[int] = None  # days; None: however old
    allow_retractions: bool = False
    dry_run: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a run did: its record (of a dry run: what it would be), and what a person asks first."""

    record: Mapping[str, Any]
    dearest_workspaces: Sequence[Row]
    dearest_hours: Sequence[Row]
    lowered: Sequence[Row]  # bills that became lower: by rival copies, by leave, or in a dry run


def bill_hours(spark: SparkSession, job: Job) -> Outcome:
    """Bill the usage of a job into its output folder and return what was done.

    `UsageError` or `OutputError` before anything is written; `RetractionError` if bills would become lower;
    `TotalsError` if what was written does not prove itself; `LostRaceError` if other runs kept committing meanwhile. In
    each case the bills are as before.
    """
    storage = Storage(spark, job.output)
    _require(Ledger.open(storage), job)
    run = _Run(spark, job, storage)
    with named_steps(spark, f"bill {job.source} into {job.output}"):
        return _bill(run)


def _bill(run: _Run) -> Outcome:
    job, storage = run.job, run.storage
    try:
        run.meter()
        for attempt in range(1, _ATTEMPTS + 1):
            ledger = Ledger.open(storage)
            _require(ledger, job)
            if not job.dry_run:
                finish_publishing(storage, ledger.last)
            outcome = run.settle(ledger, attempt)
            if job.dry_run:
                return outcome
            # from here on the run may be committed, even if an error says otherwise: only a lost race clears its files
            run.uncommitted = []
            if ledger.commit(storage, outcome.record):
                publish(storage, outcome.record)
                return outcome
            clear(storage, lines_path(run.run_id))
            run.uncommitted = [run.folder]
    finally:
        run.clear()
    raise LostRaceError(
        f"other runs committed to {job.output} {_ATTEMPTS} times while this one was computing; nothing of this run was "
        "published. Run it again."
    )


def _require(ledger: Ledger, job: Job) -> None:
    ledger.require(job.source, job.prices.currency, [tag_column(key) for key in job.group_by_tags])


class _Run:
    def __init__(self, spark: SparkSession, job: Job, storage: Storage) -> None:
        self.spark, self.job, self.storage = spark, job, storage
        self.started = datetime.now(timezone.utc)
        self.as_of = int(self.started.timestamp()) if job.as_of is None else job.as_of
        self.name = f"{self.started:%Y%m%dT%H%M%SZ}-{uuid4().hex[:8]}"
        self.folder = f"_staging/{self.name}"
        self.usage_staging = Staging(spark, storage, f"{self.folder}/usage")
        self.uncommitted = [self.folder]  # what to clear when the run ends
        self.output_is_new = not storage.exists("")
        self.persisted: list[DataFrame] = []

    def clear(self) -> None:
        """Remove what no committed record speaks of."""
        for rows in self.persisted:
            rows.unpersist()
        for folder in self.uncommitted:
            clear(self.storage, folder)
        if self.output_is_new:
            self.storage.delete_if_empty("")

    def _keep(self, name: str, rows: DataFrame) -> DataFrame:
        if not self.job.dry_run:
            return self.usage_staging.keep(name, rows)
        self.persisted.append(rows.persist())  # a dry run writes nothing, not even aside
        rows.count()  # now, under the settings that hold now
        return rows

    # --- the usage, whatever the ledger says -------------------------------------------------------------------------

    def meter(self) -> None:
        """Sum the calls, and see which hours this run bills: those in scope that are neither open nor too old."""
        job, prices = self.job, self.job.prices
        step(self.spark, "meter the usage")
        self.metered = meter(
            job.usage,
            prices,
            self._keep,
            period=job.period,
            lookback_hours=job.dedup_lookback,
            duplicates=job.duplicates,
            group_by_tags=job.group_by_tags,
            pricing=job.pricing,
        )
        no_output_price = [n for n, price in enumerate(prices.prices) if price.output_price_per_1k is None]
        by = ("hour", "reject", F.col("price_row").isin(no_output_price).alias("free_output"))
        sums = (total(F.col(name)).alias(name) for name in ("requests", *TOKENS))
        by_hour = self.metered.sums.groupBy(*by).agg(*sums).collect()
        self.with_usage = sorted({row["hour"] for row in by_hour if row["hour"] is not None})
        if len(self.with_usage) < len({row["hour"] for row in by_hour}):
            refuse_zoneless_times(job.usage)

        # epoch seconds: the hours from and until which nothing is billed
        self.open_from, self.old_until = 2**62, -(2**62)
        if job.closed_after is not None:
            self.open_from = self.as_of - (job.closed_after + 1) * SECONDS_PER_HOUR + 1
        if job.adjust_within is not None:
            self.old_until = self.as_of - job.adjust_within * _SECONDS_PER_DAY - SECONDS_PER_HOUR
        self.totals = ControlTotals(by_hour, self.open_from, self.old_until)
        # a period run covers all hours of its period; any other the hours that its usage has rows in
        hours: Iterable[int] = self.with_usage
        if job.period is not None:
            hours = range(job.period.start, job.period.end, SECONDS_PER_HOUR)
        self.closed = [hour for hour in hours if hour < self.open_from]
        self.covered = [hour for hour in self.closed if hour >= self.old_until]

    # --- the difference to the ledger --------------------------------------------------------------------------------

    def settle(self, ledger: Ledger, attempt: int) -> Outcome:
        """Write what the run adds to the ledger, and the tables that follow from it, prove them, and say so in the
        record to commit."""
        job, number = self.job, len(ledger.records) + 1
        self.run_id = f"{self.name}-{attempt}"
        staging = Staging(self.spark, self.storage, f"{self.folder}/{attempt}")
        step(self.spark, "read and verify the ledger")
        held = ledger.lines(self.spark, {date_label(hour) for hour in self.closed})
        held_here = None if held is None else held.join(self._hours(self.closed), "period_start", "left_semi")

        start = F.unix_seconds("period_start")
        lines = lines_of_sums(self.metered.sums, job.prices).filter(start < self.open_from)
        conflicts = self._new_conflicts(ledger)
        changes = difference(lines, held_here, conflicts).withColumns(
            {
                "run": F.lit(number).cast("bigint"),
                "run_at": F.timestamp_seconds(F.lit(int(self.started.timestamp()))),
                "run_id": F.lit(self.run_id),
            }
        )
        self.tag_columns = sorted(tag_columns(changes))
        too_old: dict[int, Any] = {}
        if len(self.covered) < len(self.closed):
            too_old = sums_by_hour(changes.filter(start < self.old_until))
            changes = changes.filter(start >= self.old_until)
        step(self.spark, "add the difference to the ledger")
        added = self._add(ledger, changes)
        sums = sums_by_hour(added)
        lowered = self._guard(added, sums, conflicts) if held is not None and sums else []

        owed = added
        if held_here is not None:
            owed = held_here.filter(start >= self.old_until).unionByName(added, allowMissingColumns=True)
        dates = {date_label(hour) for hour in sums}
        step(self.spark, "rebuild the tables of the touched dates")
        tables = {}
        if dates and not job.dry_run:
            of_dates = added
            if held is not None:
                of_dates = held.filter(F.col("billing_date").cast("string").isin(*dates)).unionByName(added, True)
            run = F.lit(number).cast("bigint").alias("run")
            tables["bill_lines"] = staging.table("bill_lines", net_lines(of_dates).select("*", run))
            tables["bills"] = staging.table("bills", hourly_bills(tables["bill_lines"]).select("*", run))
            tables["ledger"] = of_dates
        step(self.spark, "prove the totals from what was written")
        dearest = self._prove(owed, tables)
        step(self.spark, "write the rejected rows and the details")
        if not job.dry_run:
            self._stage_calls(staging, number)
            if not sums:
                clear(self.storage, lines_path(self.run_id))
        record = {
            "run": number,
            "run_id": self.run_id,
            "parent": ledger.last and ledger.last["run_id"],
            **self._what_was_done(ledger),
            "covered": [[hour_label(start), hour_label(end)] for start, end in ranges(self.covered)],
            "conflicts": self._conflicts(),
            "ledger": recorded_sums(sums),
            "not_adjusted": recorded_sums(too_old),
            "staging": self.folder,
            "replace": [],
            "remove": [],
        }
        if not job.dry_run:
            record["replace"] = staging.partitions()
            touched = touched_partitions(self.storage, dates, self.covered, without_time=self._has_rows_without_time())
            record["remove"] = sorted(set(touched) - set(record["replace"]))
            record["staging"] = staging.folder
        return Outcome(record, *dearest, lowered)

    def _hours(self, hours: Iterable[int]) -> DataFrame:
        rows = literal_rows(self.spark, "hour bigint", ({"hour": hour} for hour in hours))
        return F.broadcast(rows.select(F.timestamp_seconds("hour").alias("period_start")))

    def _add(self, ledger: Ledger, changes: DataFrame) -> DataFrame:
        """The changes, computed once: in a folder of this run that does not count before its record exists."""
        if self.job.dry_run:
            return self._keep("added", changes)
        path = lines_path(self.run_id)
        self.uncommitted.append(path)
        Staging(self.spark, self.storage, self.folder).write_lines(changes.drop("run_id"), path)
        return ledger.read_back(self.spark, self.run_id, self.tag_columns)

    def _new_conflicts(self, ledger: Ledger) -> Optional[DataFrame]:
        """The conflicts of copies that have come to light since the last run on their hours."""
        if self.metered.conflicts is None:
            return None
        standing, unknown = ledger.conflicts()
        conflicts, hours = self.metered.conflicts, [F.unix_seconds(name) for name in ("period_start", "billed_at")]
        for start, end in unknown:
            for hour in hours:
                conflicts = conflicts.filter((hour < start) | (hour >= end))
        return new_conflicts(conflicts, standing)

    def _conflicts(self) -> Optional[list[list[Any]]]:
        if self.metered.conflicts is None or not self.covered:
            return []
        return kept_conflicts(self.metered.conflicts, self.covered[0], self.covered[-1] + SECONDS_PER_HOUR)

    def _guard(self, added: DataFrame, sums: Mapping[int, Any], conflicts: Optional[DataFrame]) -> list[Row]:
        """The bills that the added lines lower; `RetractionError` if that takes an explicit leave."""
        excuse, left_out = conflicts, None
        if conflicts is not None and self.covered:
            # a rejected copy is no excuse if the one that it is rejected for is in no bill: the call would be in none
            by = ["workspace_id", "billed_at"]
            nowhere = unbilled(conflicts, self.covered[0], self.covered[-1] + SECONDS_PER_HOUR)
            excuse, left_out = (conflicts.join(nowhere, by, how) for how in ("left_anti", "left_semi"))
        lowered = lowered_bills(added, excuse).withColumn("hour", F.unix_seconds("period_start"))
        worst = lowered.orderBy("by_conflict", "amount", "workspace_id", "hour").limit(_SHOWN).collect()
        if worst and not worst[0]["by_conflict"] and not self.job.allow_retractions and not self.job.dry_run:
            bills = lowered.filter(~F.col("by_conflict")).count()
            refusal = _refusal(bills, worst, recorded_sums(sums)["reasons"], self.job.prices.currency)
            raise RetractionError(refusal + self._copies_left_out(left_out))
        return worst

    def _copies_left_out(self, left_out: Optional[DataFrame]) -> str:
        if left_out is None:
            return ""
        seconds = F.unix_seconds("period_start").between(self.covered[0], self.covered[-1])
        rejected = left_out.filter(F.col("rejected") & seconds).select(F.unix_seconds("billed_at").alias("hour"))
        hours = [hour_label(row["hour"]) for row in rejected.distinct().orderBy("hour").limit(_SHOWN).collect()]
        if not hours:
            return ""
        return (
            f" Other copies of calls that it rejects lie in {', '.join(hours)}, which it does not bill: a run that "
            "covers these hours as well needs no leave for them."
        )

    def _stage_calls(self, staging: Staging, number: int) -> None:
        """The rejected rows, and with `detail` the priced calls; proved by what is read back."""
        job, totals, rejected = self.job, self.totals.by_kind(), self.totals.rejected()
        if not rejected and not job.detail:
            return
        rated = self.metered.rated
        if self.open_from < 2**62 or self.old_until > -(2**62):
            start = hour_of(F.unix_seconds("call_time"))
            rated = rated.filter(start.isNull() | ((start < self.open_from) & (start >= self.old_until)))
        run = F.lit(number).cast("bigint")
        if rejected:
            reason = reason_of(F.col("reject"))
            counted = staging.calls(
                "rejected", rated.filter(F.col("reject").isNotNull()), reject_reason=reason, run=run
            )
            balance("rejected rows", rejected, "those in rejected", staging.rejected_rows())
            balance("rejected calls and tokens", totals["rejected"], "those rejected in writing", counted)
        if job.detail:
            costs = {name: F.col(name) for name in PRICED.fieldNames()}
            priced = with_costs(rated.filter(F.col("reject").isNull()))
            staging.calls("priced_calls", priced, run=run, **costs)
            if totals["billed"]["requests"]:
                written = staging.read("priced_calls").agg(
                    F.count(F.lit(1)).alias("n"), F.sum("cost").cast(AMOUNT).alias("cost")
                )
                row = written.collect()[0]
                balance("billed calls", totals["billed"]["requests"], "those in priced_calls", row["n"])
                balance("amount billed", self.amount, "cost in priced_calls", row["cost"])

    # --- proof -------------------------------------------------------------------------------------------------------

    def _has_rows_without_time(self) -> bool:
        return self.job.period is not None or "missing_call_time" in self.totals.rejected()

    def _prove(self, owed: DataFrame, tables: Mapping[str, DataFrame]) -> tuple[list[Row], list[Row]]:
        """That the ledger, read back, says what the usage says, and the tables what the ledger says; `TotalsError` if
        not. Returns the workspaces and hours that are owed most for."""

        def sums(what: str, rows: DataFrame, *by: str) -> DataFrame:
            name = F.col(by[0]).cast("string") if by else F.lit(None).cast("string")
            return rows.select(F.lit(what).alias("what"), name.alias("name"), *_BILL_SUMS)

        def top(by: str) -> DataFrame:
            lines = owed.withColumn("hour", F.unix_seconds("period_start"))
            return sums(by, bill_sums(lines, by).orderBy(F.col("amount").desc(), by).limit(_SHOWN), by)

        parts = [sums("owed", bill_sums(owed)), top("workspace_id"), top("hour")]
        if tables:
            parts += [sums(name, bill_sums(tables[name])) for name in ("ledger", "bill_lines")]
            of_bills = tables["bills"].agg(
                *(total(F.col(name)).cast("bigint").alias(name) for name in _BILL_SUMS[:3]),
                F.sum("amount").cast(AMOUNT).alias("amount"),
            )
            parts.append(sums("bills", of_bills))
        rows = reduce(DataFrame.unionByName, parts).collect()
        found = {row["what"]: {name: row[name] or 0 for name in _BILL_SUMS} for row in rows}
        charged = self.totals.by_kind()["charged"]
        owed_sums = dict(found["owed"])
        self.amount = Decimal(owed_sums.pop("amount"))
        balance("rows read", self.metered.rows, "rows summed", self.totals.by_kind()["read"]["requests"])
        balance("billed calls and charged tokens", charged, "those in the ledger", owed_sums)
        if tables:
            balance("the ledger of the dates", found["ledger"], "bill_lines", found["bill_lines"])
            balance("bill_lines", found["bill_lines"], "bills", found["bills"])
        workspaces, hours = ([row for row in rows if row["what"] == by] for by in ("workspace_id", "hour"))
        return workspaces, hours

    # --- the record --------------------------------------------------------------------------------------------------

    def _what_was_done(self, ledger: Ledger) -> dict[str, Any]:
        job = self.job
        absent = []
        if job.period is None:
            absent = sorted(set(ledger.hours()) - set(self.with_usage))
        return {
            "started_at": self.started.isoformat(timespec="seconds"),
            "committed_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "as_of": instant_label(self.as_of),
            "spark_version": self.spark.version,
            "source": job.source,
            "arguments": dict(job.arguments),
            "tag_columns": self.tag_columns,
            "price_list": {
                "name": job.prices.name,
                "version": job.prices.version,
                "currency": job.prices.currency,
                "tokens_per_k": job.prices.tokens_per_k,
                "sha256": job.prices.sha256,
            },
            "period": job.period and {"from": hour_label(job.period.start), "to": hour_label(job.period.end)},
            "hours": {
                "with_usage": len(self.with_usage),
                "first": hour_label(self.with_usage[0]) if self.with_usage else None,
                "last": hour_label(self.with_usage[-1]) if self.with_usage else None,
                "billed_before_but_not_in_usage": [hour_label(hour) for hour in absent],
            },
            "totals": {
                **self.totals.recorded(),
                "amount": f"{self.amount:f}",
                "currency": job.prices.currency,
            },
        }


def _refusal(bills: int, worst: Sequence[Row], reasons: Mapping[str, Any], currency: str) -> str:
    """Which bills a run would lower, by what, and why."""
    shown = [
        f"{printable(row['workspace_id'])} in {hour_label(row['hour'])} by {-row['requests']:,} calls, "
        f"{-row['input_tokens']:,} input and {-row['output_tokens']:,} output tokens, "
        f"{money(row['amount'].copy_negate())} {currency}"
        for row in worst
        if not row["by_conflict"]
    ]
    why = ", ".join(f"{reason} {money(Decimal(counts['amount']))} {currency}" for reason, counts in reasons.items())
    return (
        f"this run would lower {bills:,} bills that are in the ledger: {'; '.join(shown)}"
        f"{'; and more' if bills > len(shown) else ''} (a negative number is a rise). All it would add: {why}. Nothing "
        "was written. Is the usage complete, and are the prices right? If so, run it again with --allow-retractions."
    )
