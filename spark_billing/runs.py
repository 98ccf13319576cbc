"""One billing run: the usage summed in one pass, bills and rejected rows staged, proved, committed and published.

Nothing under the output changes before the run's record is committed, and the record is created only if the control
totals of what was written balance. Publishing moves whole partitions; if a run is killed in the middle of that, the
next run finishes it from the record before doing anything else.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, Optional
from uuid import uuid4

from pyspark.sql import Column, DataFrame, Observation, Row, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from spark_billing.bills import (
    Pricing,
    hourly_bills,
    lines_of_sums,
    merge_sums,
    move_calls,
    rate_groups,
    sum_calls,
    tag_column,
    with_measures,
)
from spark_billing.calls import billing_date, billing_hour, in_period, quoted
from spark_billing.errors import LostRaceError, OutputError, TotalsError, UsageError
from spark_billing.price_list import PriceList
from spark_billing.rating import REASON_CODE
from spark_billing.repeats import SUSPECT, find_settings, find_suspects, rate_others, rate_suspects, rate_without_id
from spark_billing.schemas import (
    AMOUNT,
    PRICED,
    REJECT_REASONS,
    SECONDS_PER_HOUR,
    TOTAL_TOKENS,
    UTC8_SECONDS,
)
from spark_billing.session import settings
from spark_billing.sources import ROW, as_it_came, zoneless_time
from spark_billing.storage import Storage
from spark_billing.usage import countable, rate_usage, reason_of, with_costs

RUNS = "ledger/runs"
UTC8 = timezone(timedelta(hours=8))

# What a run needs of its session, whatever the cluster's defaults are
SESSION_SETTINGS = {
    "spark.sql.timestampType": "TIMESTAMP_LTZ",
    "spark.sql.parquet.inferTimestampNTZ.enabled": "true",  # else a time without a zone passes for an instant
    "spark.sql.files.ignoreCorruptFiles": "false",  # a file that cannot be read is not a file without calls
    "spark.sql.files.ignoreMissingFiles": "false",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",  # instants that every reader knows
    "spark.sql.sources.partitionColumnTypeInference.enabled": "false",  # a workspace 007 is not 7
    "spark.sql.csv.parser.columnPruning.enabled": "false",  # else a CSV row with too many values goes unnoticed
}


@dataclass(frozen=True)
class Period:
    """Whole UTC+8 hours, half open, as epoch seconds."""

    start: int
    end: int

    @classmethod
    def parse(cls, start: str, end: str) -> Period:
        """From UTC+8 hours such as 2026-04-08T00; `ValueError` says what is wrong."""
        edges = []
        for text in (start, end):
            try:
                hour = datetime.strptime(text, "%Y-%m-%dT%H").replace(tzinfo=UTC8)
            except ValueError:
                raise ValueError(f"{text!r} is not a UTC+8 hour such as 2026-04-08T00") from None
            edges.append(int(hour.timestamp()))
        if edges[1] <= edges[0]:
            raise ValueError(
                f"the period from {start} to {end} is empty; it is half open, so give the hour after the last"
            )
        return cls(*edges)

    def __str__(self) -> str:
        return f"{hour_label(self.start)} to {hour_label(self.end)}"


@dataclass(frozen=True)
class Job:
    """What a run is asked to do. `usage` is mapped (`sources.map_columns`)."""

    usage: DataFrame
    prices: PriceList
    output: str
    arguments: Mapping[str, Any]  # as given, for the record
    period: Optional[Period] = None
    pricing: Pricing = "native"
    duplicates: bool = True
    group_by_tags: Sequence[str] = ()
    detail: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a run did: its committed record, and what a person asks first."""

    record: Mapping[str, Any]
    dearest_workspaces: Sequence[Row]
    dearest_hours: Sequence[Row]


# The tables under the output and how each is partitioned: what a run replaces is whole partitions
_PARTITIONED_BY = {
    "bill_lines": ("billing_date",),
    "bills": ("billing_date",),
    "rejected": ("billing_date", "billing_hour"),
    "priced_calls": ("billing_date", "billing_hour"),
}
_NO_TIME = "__HIVE_DEFAULT_PARTITION__"  # the partition of rows without a readable call_time
_PUBLISHING_SECONDS = 10  # without progress, after which a run that was publishing counts as dead


def hour_label(seconds: int) -> str:
    """An hour as the provider's bill names it, in UTC+8, such as 2026-04-08T00."""
    return instant_label(seconds)[:13]


def instant_label(seconds: int) -> str:
    """An instant given in epoch seconds, with its offset, such as 2026-04-08T00:00:00+08:00."""
    return (datetime(1970, 1, 1) + timedelta(seconds=seconds + UTC8_SECONDS)).isoformat() + "+08:00"


def bill_hours(spark: SparkSession, job: Job) -> Outcome:
    """Bill the usage of a job into its output folder and return what was done.

    `UsageError` or `OutputError` before anything is written; `TotalsError` if what was written does not prove itself;
    `LostRaceError` if another run committed meanwhile. In each case the bills are as before.
    """
    storage = Storage(spark, job.output)
    number = _last_run(storage, job.prices.currency) + 1
    run = _Run(spark, job, storage)
    try:
        record = run.stage(number)
        outcome = Outcome(record, *run.dearest())
    except BaseException:
        _clear(storage, run.staging)
        raise
    # From here on the staged files may be committed, even if an error says otherwise: only a lost race removes them
    if not storage.create(_record_path(number), json.dumps(record, indent=2, ensure_ascii=False) + "\n"):
        _clear(storage, run.staging)
        raise LostRaceError(
            f"another run committed to {job.output} while this one was computing; nothing of this run was "
            "published. Run it again."
        )
    _publish(storage, record)
    return outcome


class _Run:
    """The staging of one run, in a folder of its own that no reader of the tables looks into."""

    def __init__(self, spark: SparkSession, job: Job, storage: Storage) -> None:
        self.spark, self.job, self.storage = spark, job, storage
        self.started = datetime.now(timezone.utc)
        self.run_id = f"{self.started:%Y%m%dT%H%M%SZ}-{uuid4().hex[:8]}"
        self.staging = f"_staging/{self.run_id}"
        self.usage = job.usage
        if job.period is not None:
            dtype = job.usage.schema["call_time"].dataType
            start_us, end_us = job.period.start * 1_000_000, job.period.end * 1_000_000
            self.usage = job.usage.filter(in_period(F.col("call_time"), dtype, start_us, end_us))

    def stage(self, number: int) -> dict[str, Any]:
        """Write everything the run bills and rejects, prove it, and return the record to commit."""
        job = self.job
        self._sum()
        self.rejected_rows = self._rejected_rows()
        if "missing_call_time" in self.rejected_rows:
            self._refuse_zoneless_times()

        hours = sorted(row["hour"] for row in self.sums.select("hour").distinct().collect() if row["hour"] is not None)
        # a period run replaces all hours of its period; any other the hours that its usage has rows in
        covered = hours if job.period is None else list(range(job.period.start, job.period.end, SECONDS_PER_HOUR))
        self.covered = self.sums.select("hour").distinct().filter(F.col("hour").isNotNull())
        if job.period is not None:
            self.covered = self.spark.range(job.period.start, job.period.end, SECONDS_PER_HOUR).toDF("hour")
        self._stage_bills({_date_of(hour) for hour in covered})
        as_written = Observation("rejected")
        if self.rejected_rows:
            rejected = self.rated.filter(F.col("reject").isNotNull()).observe(as_written, *_rejected_totals())
            self._stage_rows("rejected", rejected, reject_reason=reason_of(F.col("reject")))
        if job.detail:
            priced = with_costs(self.rated.filter(F.col("reject").isNull()))
            self._stage_rows("priced_calls", priced, **{name: F.col(name) for name in PRICED.fieldNames()})
        totals = self._prove(as_written.get if self.rejected_rows else {})

        replace = [part for table in _PARTITIONED_BY for part in _partitions(self.storage, f"{self.staging}/", table)]
        period = job.period and {"from": hour_label(job.period.start), "to": hour_label(job.period.end)}
        return {
            "run": number,
            "run_id": self.run_id,
            "started_at": self.started.isoformat(timespec="seconds"),
            "committed_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "spark_version": self.spark.version,
            "arguments": dict(job.arguments),
            "price_list": {
                "name": job.prices.name,
                "version": job.prices.version,
                "currency": job.prices.currency,
                "tokens_per_k": job.prices.tokens_per_k,
                "sha256": job.prices.sha256,
            },
            "period": period,
            "hours": {
                "with_usage": len(hours),
                "first": hour_label(hours[0]) if hours else None,
                "last": hour_label(hours[-1]) if hours else None,
            },
            "totals": totals,
            "staging": self.staging,
            "replace": replace,
            "remove": sorted(set(self._touched(covered)) - set(replace)),
        }

    def _sum(self) -> None:
        """The sums of the calls (`merge_sums`), and the rated calls themselves for whoever needs these once more."""
        job = self.job
        sums = sum_calls(self.usage, job.prices, job.group_by_tags, job.pricing)
        sums.write.parquet(self._at("groups"))  # the one pass over the calls
        groups = rate_groups(self.spark.read.schema(sums.schema).parquet(self._at("groups")), job.prices)
        self.rated = rate_usage(self.usage, job.prices, duplicates=False)
        if job.duplicates:
            groups = self._without_repeats(groups)
        sums = merge_sums(groups).filter(F.col("requests") != 0)
        sums.write.parquet(self._at("sums"))
        self.sums = self.spark.read.schema(sums.schema).parquet(self._at("sums"))

    def _without_repeats(self, groups: DataFrame) -> DataFrame:
        """The groups less the calls that are rejected for their request id: looked for by hash, decided exactly."""
        job, prices = self.job, self.job.prices
        calls = _sums(groups, requests=F.col("requests"))["requests"]
        with settings(self.spark, find_settings(calls)):
            suspects = find_suspects(self.usage, calls)
            suspects.write.parquet(self._at("suspects"))
        suspects = self.spark.read.schema(suspects.schema).parquet(self._at("suspects"))
        found = suspects.agg(F.count(F.lit(1)).alias("rows"), F.count(SUSPECT).alias("hashes")).collect()[0]
        if found["rows"] == 0:
            return groups
        self.rated = rate_others(self.usage, suspects, prices)
        without_id = rate_without_id(self.usage, prices)
        moved = [
            without_id.withColumn("before", F.col("reject")).withColumn(
                "reject", F.lit(REASON_CODE["missing_request_id"])
            )
        ]
        if found["hashes"]:
            checked = rate_suspects(self.usage, suspects, prices)
            self.rated = self.rated.unionByName(checked)
            repeats = F.col("reject").isin(REASON_CODE["duplicate_request"], REASON_CODE["conflicting_request"])
            moved.append(checked.filter(repeats).withColumn("before", F.lit(None).cast("int")))
        for calls_moved in moved:
            measured = with_measures(calls_moved, prices, job.group_by_tags, job.pricing)
            groups = move_calls(groups, measured)
        return groups

    def dearest(self) -> tuple[list[Row], list[Row]]:
        """The five workspaces and the five hours of this run that cost most."""
        bills = self._new(self._staged("bills", self.bills_schema))

        def top(name: str) -> list[Row]:
            sums = (F.sum(c).alias(c) for c in ("requests", "input_tokens", "output_tokens", "amount"))
            return bills.groupBy(name).agg(*sums).orderBy(F.col("amount").desc(), name).limit(5).collect()

        return top("workspace_id"), top("hour")

    def _at(self, name: str) -> str:
        return self.storage.path(f"{self.staging}/{name}")

    def _staged(self, table: str, schema: StructType) -> DataFrame:
        return self.spark.read.schema(schema).parquet(self._at(table))

    def _new(self, rows: DataFrame) -> DataFrame:
        """The rows of lines or bills in the hours that this run covers, with their `hour` in epoch seconds."""
        return rows.withColumn("hour", F.unix_seconds("period_start")).join(self.covered, "hour", "left_semi")

    def _rejected_rows(self) -> dict[str, int]:
        rows = self.sums.groupBy("reject").agg(F.sum("requests").alias("n")).orderBy("reject").collect()
        return {REJECT_REASONS[row["reject"] - 1]: row["n"] for row in rows if row["reject"] is not None}

    def _refuse_zoneless_times(self) -> None:
        text = zoneless_time(self.usage)
        if text is not None:
            raise UsageError(
                f"call_time has text without an offset, such as {text!r}, and a zone is never guessed; "
                "add --call-time-zone ZONE, the zone of the log's times (such as Asia/Shanghai or UTC)"
            )

    def _stage_bills(self, dates: set[str]) -> None:
        """Bill lines and bills of the touched dates: the covered hours anew, their other hours as they are."""
        lines = lines_of_sums(self.sums, self.job.prices)
        present = [p for p in _partitions(self.storage, "", "bill_lines") if p.rpartition("=")[2] in dates]
        if present:
            existing = self.spark.read.option("basePath", self.storage.path("bill_lines"))
            kept = existing.option("mergeSchema", True).parquet(*(self.storage.path(part) for part in present))
            kept = kept.withColumn("billing_date", F.col("billing_date").cast("date"))
            kept = kept.withColumn("hour", F.unix_seconds("period_start")).join(self.covered, "hour", "left_anti")
            lines = lines.unionByName(kept.drop("hour"), allowMissingColumns=True)
        self.lines_schema = lines.schema
        in_order = ["billing_date", "period_start", "workspace_id", "region", "model", "tier", "token_type"]
        in_order += [c for c in lines.columns if c.startswith(tag_column("")) or c == "price_per_1k"]
        self._write("bill_lines", lines, in_order)
        bills = hourly_bills(self._staged("bill_lines", lines.schema))
        self.bills_schema = bills.schema
        self._write("bills", bills, ["billing_date", "period_start", "workspace_id"])

    def _stage_rows(self, table: str, rated: DataFrame, **added: Column) -> None:
        """Calls as they came, with some columns added, by their UTC+8 hour."""
        seconds = F.unix_seconds("call_time")
        added = {**added, "billing_date": billing_date(seconds), "billing_hour": billing_hour(seconds)}
        source = rated.schema["source"].dataType[ROW].dataType  # type: ignore[index]
        row = F.col("source").getField(ROW)
        rows = rated.select(
            *as_it_came(row, tuple(added), source), *(column.alias(name) for name, column in added.items())
        )
        self._write(table, rows, list(_PARTITIONED_BY[table]))

    def _write(self, table: str, rows: DataFrame, in_order: list[str]) -> None:
        partitions = _PARTITIONED_BY[table]
        ordered = rows.repartition(*partitions).sortWithinPartitions(*(quoted(name) for name in in_order))
        ordered.write.partitionBy(*partitions).parquet(self._at(table))

    # --- proof -------------------------------------------------------------------------------------------------------

    def _prove(self, rejected_as_written: Mapping[str, Any]) -> dict[str, Any]:
        """The control totals of the run; `TotalsError` if what stands in the staged files is not what was read."""
        fine, requests = F.col("reject").isNull(), F.col("requests")
        tokens = {name: F.col(name) for name in ("input_tokens", "output_tokens")}
        read = _sums(self.sums, requests=requests, **tokens)
        billed = _sums(self.sums.filter(fine), requests=requests, **tokens)
        rejected = _sums(self.sums.filter(~fine), requests=requests, **tokens)
        no_output_price = [n for n, price in enumerate(self.job.prices.prices) if price.output_price_per_1k is None]
        free = _sums(self.sums.filter(fine & F.col("price_row").isin(no_output_price)), **tokens)["output_tokens"]

        written_lines = self._new(self._staged("bill_lines", self.lines_schema))
        of_input, of_output = F.col("token_type") == "input", F.col("token_type") == "output"
        lines = _sums(
            written_lines,
            requests=F.when(of_input, requests),
            input_tokens=F.when(of_input, F.col("tokens")),
            output_tokens=F.when(of_output, F.col("tokens")),
        )
        amount = _sum_amounts(written_lines, "amount")
        written_bills = self._new(self._staged("bills", self.bills_schema))
        bills = _sums(written_bills, requests=requests, **tokens)
        charged = {**billed, "output_tokens": billed["output_tokens"] - free}
        proofs = [
            ("rows read", self.usage.count(), "rows summed", read["requests"]),
            ("billed calls and charged tokens", charged, "those in bill_lines", lines),
            ("calls and tokens in bill_lines", lines, "those in bills", bills),
            ("amount in bill_lines", amount, "amount in bills", _sum_amounts(written_bills, "amount")),
        ]
        if self.rejected_rows:
            proofs.append(("rejected rows", self.rejected_rows, "those in rejected", self._written_rejected_rows()))
            proofs.append(
                ("rejected calls and tokens", rejected, "those rejected in writing", dict(rejected_as_written))
            )
        if self.job.detail:
            detail = self.spark.read.parquet(self._at("priced_calls")) if billed["requests"] else None
            proofs.append(
                ("billed calls", billed["requests"], "those in priced_calls", detail.count() if detail else 0)
            )
            cost = _sum_amounts(detail, "cost") if detail else Decimal(0)
            proofs.append(("amount in bill_lines", amount, "cost in priced_calls", cost))
        for what, expected, where, found in proofs:
            if expected != found:
                raise TotalsError(
                    f"the totals do not balance: {what} {expected}, {where} {found}. Nothing was published. "
                    "If the usage table was written to during the run, run it again."
                )
        return {
            "rows": {"read": read["requests"], "billed": billed["requests"], "rejected": rejected["requests"]},
            "rejected": self.rejected_rows,
            **{
                name: {"read": read[name], "billed": billed[name], "rejected": rejected[name], "charged": charged[name]}
                for name in tokens
            },
            "amount": f"{amount:f}",
            "currency": self.job.prices.currency,
        }

    def _written_rejected_rows(self) -> dict[str, int]:
        written = self.spark.read.parquet(self._at("rejected")).groupBy("reject_reason").count().collect()
        rows = {row["reject_reason"]: row["count"] for row in written}
        return {reason: rows[reason] for reason in REJECT_REASONS if reason in rows}

    # --- what is replaced --------------------------------------------------------------------------------------------

    def _touched(self, covered: Sequence[int]) -> list[str]:
        """The partitions under the output that this run replaces or removes."""
        dates = {_date_of(hour) for hour in covered}
        hours = {(_date_of(hour), str((hour + UTC8_SECONDS) // SECONDS_PER_HOUR % 24)) for hour in covered}
        if self.job.period is not None or "missing_call_time" in self.rejected_rows:
            hours.add((_NO_TIME, _NO_TIME))  # these rows belong to every period
        touched = []
        for table, partitioned_by in _PARTITIONED_BY.items():
            for part in _partitions(self.storage, "", table):
                values = tuple(folder.partition("=")[2] for folder in part.split("/")[1:])
                if values in hours if len(partitioned_by) == 2 else values[0] in dates:
                    touched.append(part)
        return touched


def _date_of(hour: int) -> str:
    return hour_label(hour)[:10]


def _rejected_totals() -> list[Column]:
    counts = {name: countable(F.col(name)) for name in ("input_tokens", "output_tokens")}
    return [F.count(F.lit(1)).alias("requests"), *(_total(c).alias(name) for name, c in counts.items())]


def _total(count: Column) -> Column:
    return F.coalesce(F.sum(count.cast(TOTAL_TOKENS)), F.lit(0).cast(TOTAL_TOKENS)).cast(TOTAL_TOKENS)


def _sums(rows: DataFrame, **counts: Column) -> dict[str, int]:
    """Sums of whole numbers over a small table."""
    row = rows.agg(*(_total(count).alias(name) for name, count in counts.items())).collect()[0]
    return {name: int(row[name]) for name in counts}


def _sum_amounts(rows: DataFrame, name: str) -> Decimal:
    total = rows.agg(F.sum(F.col(name).cast(AMOUNT)).cast(AMOUNT).alias("total")).collect()[0]["total"]
    return Decimal(0) if total is None else Decimal(total)


def _partitions(storage: Storage, under: str, table: str) -> list[str]:
    """The partitions of a table below a folder of the output, as paths such as bills/billing_date=2026-04-08."""
    found = [table]
    for column in _PARTITIONED_BY[table]:
        found = [
            f"{part}/{name}" for part in found for name in storage.names(under + part) if name.startswith(f"{column}=")
        ]
    return found


# --- committed runs --------------------------------------------------------------------------------------------------


def _record_path(number: int) -> str:
    return f"{RUNS}/{number:020}.json"


def _last_run(storage: Storage, currency: str) -> int:
    """The number of the last committed run, its publishing finished; `OutputError` if it billed in another currency."""
    numbers = [int(name[:-5]) for name in storage.names(RUNS) if name.endswith(".json") and name[:-5].isdigit()]
    if not numbers:
        return 0
    path = _record_path(max(numbers))
    try:
        record = json.loads(storage.read(path))
    except ValueError:
        raise OutputError(
            f"{storage.path(path)} is no complete record: its run died while it wrote it and has published nothing. "
            "Delete that file and run again."
        ) from None
    if record["price_list"]["currency"] != currency:
        raise OutputError(
            f"{storage.root} holds bills in {record['price_list']['currency']}, and this run bills in {currency}; "
            "give each currency an --output of its own"
        )
    left = None
    while _unpublished(storage, record) not in ([], left):  # its run may still be at work: wait while it gets on
        left = _unpublished(storage, record)
        time.sleep(_PUBLISHING_SECONDS)
    _publish(storage, record)
    return max(numbers)


def _unpublished(storage: Storage, record: Mapping[str, Any]) -> list[str]:
    return [part for part in record["replace"] if storage.exists(f"{record['staging']}/{part}")]


def _publish(storage: Storage, record: Mapping[str, Any]) -> None:
    """Move a committed run's partitions into place. Done again from the start after a kill, it ends the same."""
    if not storage.exists(record["staging"]):
        return
    for part in _unpublished(storage, record):
        storage.delete(part)
        storage.move(f"{record['staging']}/{part}", part)
    for part in record["remove"]:
        storage.delete(part)
        for folder in (part.rpartition("/")[0], part.split("/")[0]):
            storage.delete_if_empty(folder)
    _clear(storage, record["staging"])


def _clear(storage: Storage, staging: str) -> None:
    storage.delete(staging)
    storage.delete_if_empty(staging.rpartition("/")[0])
