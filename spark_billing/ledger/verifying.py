"""All of a ledger verified: what a run takes on trust because it touches only some dates of it.

Every record is read and must follow on the one before it; every checkpoint must be the sum of the records up to it;
every line and every row of what was left out must be what its run has recorded, to the hour and the reason; and the
tables that were published from the ledger must be what it comes to, row by row. Nothing ends at the first difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Optional, TypeVar

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from spark_billing.bills.lines import hourly_bills
from spark_billing.core.columns import quoted
from spark_billing.core.errors import OutputError
from spark_billing.core.hours import date_label, hour_label
from spark_billing.core.schemas import LINE_MEASURES
from spark_billing.core.session import named_steps, step
from spark_billing.core.spark_errors import spark_reason
from spark_billing.ledger.difference import net_lines
from spark_billing.ledger.earlier_conflicts import MEASURES
from spark_billing.ledger.kept import Kept
from spark_billing.ledger.ledger import Ledger
from spark_billing.ledger.line_sums import sums_by_run_hour_and_reason
from spark_billing.ledger.run_record import AddedLines, LineSums, RunRecord
from spark_billing.ledger.summed_runs import ByDate, SummedRuns

_NONE, _SIGN = "nothing", "__sign"
_Key = tuple[str, str]  # UTC+8 date, run_id
_ByHour = dict[tuple[str, str, int, str], LineSums]  # UTC+8 date, run_id, hour in epoch seconds, reason
_Item = TypeVar("_Item")
_Seen = TypeVar("_Seen")


@dataclass(frozen=True)
class Difference:
    """Something that is not what it has to be."""

    what: str
    where: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.what}, {self.where}: needed is {self.expected}, there is {self.found}"


@dataclass(frozen=True)
class Verified:
    """What was looked at, and what is not as it has to be."""

    records: int
    lines: int
    left_out: int  # rows of what was left out as conflicts
    checkpoints: int
    dates: Mapping[str, int]  # of each published table
    differences: Sequence[Difference]
    untold: Sequence[str]  # what no record speaks of, and nothing reads


def verify(spark: SparkSession, kept: Kept) -> Verified:
    """Verify all of a ledger. What cannot be read is a difference like others."""
    with named_steps(spark, f"verify the ledger in {kept.where}"):
        verified = _Verifying(spark, kept).verified()
        if verified.differences and len(kept.records()) > verified.records:  # a run was committed meanwhile
            verified = _Verifying(spark, kept).verified()
        return verified


class _Verifying:
    def __init__(self, spark: SparkSession, kept: Kept) -> None:
        self.spark, self.kept = spark, kept
        self.differences: list[Difference] = []
        self.records: dict[str, RunRecord] = {}
        self.count = 0  # with those that cannot be read

    def verified(self) -> Verified:
        step(self.spark, "read every record and checkpoint")
        checkpoints = dict(self.kept.checkpoints())
        runs = self._records(checkpoints)
        ledger = self.kept.ledger(runs, self.records.get(runs.last_id or ""))
        step(self.spark, "read every line")
        lines = self._rows(ledger, runs.lines, left_out=False)
        left_out = self._rows(ledger, runs.left_out, left_out=True)
        for run_id in sorted({*self.kept.seen_runs()} - self.records.keys()):
            self._differs("rows", f"run {run_id}", "a record of that run", _NONE)
        step(self.spark, "compare the tables with the ledger")
        dates = self._published(ledger, {date for date, _ in lines.bad})
        untold = self.kept.untold(runs)
        return Verified(self.count, lines.count, left_out.count, len(checkpoints), dates, self.differences, untold)

    def _differs(self, what: str, where: str, expected: object, found: object) -> None:
        self.differences.append(Difference(what, where, str(expected), str(found)))

    # --- records and checkpoints

    def _records(self, checkpoints: Mapping[int, str]) -> SummedRuns:
        """The sum of all records that can be read, each followed on the one before it, and at its checkpoints compared
        with these as long as nothing is missing."""
        runs = SummedRuns()
        new: list[tuple[RunRecord, str]] = []
        number, whole = 0, True
        parent: Optional[str] = None
        for found, where, text in self.kept.records():
            if found > number + 1:
                told = f"run {number + 1}" if found == number + 2 else f"runs {number + 1} to {found - 1}"
                self._differs("records", f"before {where}", told, _NONE)
            self.count += 1
            follows = found == number + 1
            number = found
            try:
                record = RunRecord.from_json(where, text)
            except (OutputError, ValueError, KeyError, TypeError, AttributeError) as error:
                self._differs("record", where, f"the record of run {found}", _reason(error))
                parent, whole = None, False
                continue
            if record.run != found:
                self._differs("record", where, f"the record of run {found}", f"that of run {record.run}")
            if follows and (whole or parent) and record.parent != parent:
                self._differs("record", where, f"a run on top of {parent}", f"one on top of {record.parent}")
            whole &= follows and record.run == found
            parent = record.run_id
            self.records[record.run_id] = record
            new.append((record, text))
            if found in checkpoints:
                runs, new = runs.after(new), []
                self._checkpoint(found, checkpoints[found], runs if whole else None)
        runs = runs.after(new)
        for gone in sorted(each for each in checkpoints if each > number):
            self._differs("records", f"up to {checkpoints[gone]}", f"{gone} runs", f"{number} runs")
        return runs

    def _checkpoint(self, number: int, where: str, runs: Optional[SummedRuns]) -> None:
        kept = self.kept.checkpoint(number)
        if kept is None:
            self._differs("checkpoint", where, f"the sum of runs 1 to {number}", "one that is not whole; delete it")
        elif runs is not None:  # else there is nothing to compare it with
            same = SummedRuns.from_text(runs.to_text())
            for each in fields(SummedRuns):
                expected, found = getattr(same, each.name), getattr(kept, each.name)
                if expected != found:
                    what = f"checkpoint, its {each.name.replace('_', ' ')}"
                    self._differs(what, where, *_first_difference(expected, found))

    # --- lines, and what was left out

    def _rows(self, ledger: Ledger, recorded: ByDate, *, left_out: bool) -> _Rows:
        what = "what was left out" if left_out else "lines"
        keys = [(date, run_id) for date, of in sorted(recorded.items()) for run_id in of]

        def look(keys: Sequence[_Key]) -> tuple[_ByHour, Sequence[str]]:
            of_keys = {(date, run_id): recorded[date][run_id] for date, run_id in keys}
            rows = ledger.unverified(of_keys, left_out=left_out)
            return sums_by_run_hour_and_reason(rows), _twice(rows)

        found: _ByHour = {}
        bad: set[_Key] = set()
        for part, seen, failure in _seen(keys, look):
            if seen is None:
                (key,) = part
                self._differs(what, _of_run(key), recorded[key[0]][key[1]], f"what cannot be read: {failure}")
                bad.add(key)
                continue
            found = {**found, **seen[0]}
            for where in seen[1]:
                self._differs(what, where, "one row for each key", "more")
        there: dict[_Key, LineSums] = {}
        elsewhere: dict[_Key, int] = {}
        for (date, run_id, hour, _), sums in found.items():
            there[date, run_id] = there.get((date, run_id), LineSums()) + sums
            if date_label(hour) != date:
                elsewhere[date, run_id] = hour
        for key, hour in elsewhere.items():
            self._differs(what, _of_run(key), f"rows of {key[0]}", f"some of {hour_label(hour)}")
        for key in sorted({*keys, *there} - bad, key=str):
            needed = recorded.get(key[0], {}).get(key[1])
            if there.get(key) != needed:
                self._differs(what, _of_run(key), needed or _NONE, there.get(key, _NONE))
                bad.add(key)
        if not left_out:
            self._hours_and_reasons(found, {run_id for _, run_id in bad})
        return _Rows(sum(sums.lines for sums in there.values()), bad)

    def _hours_and_reasons(self, found: _ByHour, but: set[str]) -> None:
        """The sums of the lines of each run by hour and by reason, of all runs but some."""
        by_run: dict[str, dict[int, dict[str, LineSums]]] = {}
        for (_, run_id, hour, reason), sums in found.items():
            by_run.setdefault(run_id, {}).setdefault(hour, {})[reason] = sums
        for run_id, record in self.records.items():
            if run_id not in but:
                needed, there = record.ledger, AddedLines.of(by_run.get(run_id, {}))
                if needed.hours != there.hours:
                    self._differs("hours", f"run {run_id}", *_first_difference(needed.hours, there.hours))
                if needed.reasons != there.reasons:
                    self._differs("reasons", f"run {run_id}", *_first_difference(needed.reasons, there.reasons))

    # --- what is published from it

    def _published(self, ledger: Ledger, bad: set[str]) -> Mapping[str, int]:
        """Compare the published tables with what the ledger comes to, on all dates but some."""
        published = self.kept.published()
        tags = sorted({tag for of_date in ledger.runs.tags.values() for tag in of_date})
        for table, there in published.items():
            dates = sorted({*there, *ledger.runs.lines} - bad)

            def look(dates: Sequence[str], table: str = table, there: Sequence[str] = there) -> dict[str, Row]:
                of_dates = [(date, run_id) for date in dates for run_id in ledger.runs.lines.get(date, ())]
                rows = self.kept.of_dates(table, [date for date in dates if date in there], tags).drop("run")
                needed = rows.limit(0)
                if of_dates:
                    expected = {(date, run_id): ledger.runs.lines[date][run_id] for date, run_id in of_dates}
                    lines = net_lines(ledger.unverified(expected, left_out=False))
                    needed = lines if table == "bill_lines" else hourly_bills(lines)
                return _compared(needed, rows)

            for part, seen, failure in _seen(dates, look):
                if seen is None:
                    self._differs(table, part[0], "what the ledger comes to", f"what cannot be read: {failure}")
                for date, row in sorted((seen or {}).items()):
                    told = f"{row['missing']} of these missing and {row['more']} others"
                    self._differs(table, date, "the rows that the ledger comes to", told)
        return {table: len(there) for table, there in published.items()}


@dataclass(frozen=True)
class _Rows:
    count: int
    bad: set[_Key]  # what is not as it is recorded


def _seen(
    items: Sequence[_Item], look: Callable[[Sequence[_Item]], _Seen]
) -> Iterator[tuple[Sequence[_Item], Optional[_Seen], str]]:
    """What is seen of some items: of all at once, or if Spark cannot read them of each half, until those that cannot be
    read stand alone, each with the reason."""
    if not items:
        return
    try:
        yield items, look(items), ""
    except (PySparkException, Py4JJavaError) as error:
        if len(items) == 1:
            yield items, None, " ".join(spark_reason(error).split())
            return
        middle = len(items) // 2
        yield from _seen(items[:middle], look)
        yield from _seen(items[middle:], look)


def _twice(rows: DataFrame) -> list[str]:
    """Where a run has more than one row for a key."""
    measures = {*LINE_MEASURES, *MEASURES, "beaten", "run", "run_at"}
    keys = [quoted(name) for name in rows.columns if name not in measures]
    found = rows.groupBy(*keys).agg(F.count(F.lit(1)).alias("rows")).filter(F.col("rows") > 1)
    dates = found.select("billing_date", "run_id").distinct().collect()
    return sorted(_of_run((str(row["billing_date"]), row["run_id"])) for row in dates)


def _compared(needed: DataFrame, there: DataFrame) -> dict[str, Row]:
    """By UTC+8 date, how many rows are `missing`, and how many are there that are not needed (`more`)."""
    both = needed.withColumn(_SIGN, F.lit(1)).unionByName(there.withColumn(_SIGN, F.lit(-1)), allowMissingColumns=True)
    by = [quoted(name) for name in both.columns if name != _SIGN]
    signs = both.groupBy(*by).agg(F.sum(_SIGN).alias(_SIGN)).filter(F.col(_SIGN) != 0)
    counted = signs.groupBy("billing_date").agg(_total(F.col(_SIGN), "missing"), _total(-F.col(_SIGN), "more"))
    return {str(row["billing_date"]): row for row in counted.collect()}


def _total(signs: Column, name: str) -> Column:
    return F.sum(F.greatest(signs, F.lit(0))).alias(name)


def _of_run(key: _Key) -> str:
    return f"run {key[1]} on {key[0]}"


def _first_difference(expected: object, found: object) -> tuple[str, str]:
    """Two things that differ, as text: of mappings the first key that does."""
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        for key in sorted({*expected, *found}, key=str):
            here, there = expected.get(key), found.get(key)
            if here != there:
                name = hour_label(key) if isinstance(key, int) else key
                below = _first_difference(here, there)
                return f"{name}: {below[0]}", f"{name}: {below[1]}"
    return _NONE if expected is None else str(expected), _NONE if found is None else str(found)


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, OutputError) else "none that can be read"
