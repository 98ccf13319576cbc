"""The committed runs of an output: numbered records, each created once, that say which ledger lines count.

A run writes its lines into a folder of its own. They count once its record exists, and a record is the exclusive
creation of the next number, on top of the run its difference was computed from: of two runs at once, one gets it. The
record holds the count and the sums of the run's lines, which whoever reads them verifies.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Optional

from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StringType, StructField, StructType

from spark_billing.core.errors import OutputError
from spark_billing.core.hours import hour_label, parse_hour
from spark_billing.core.money import add
from spark_billing.core.schemas import AMOUNT, LEDGER_LINES, TOTAL_TOKENS
from spark_billing.core.storage import Folder, Storage, path_is_absent

RUNS = "ledger/runs"
LINES = "ledger/lines"
_PUBLISHING_SECONDS = 10  # without progress, after which a run that was publishing counts as dead

Record = Mapping[str, Any]
_RECORD = ("run", "run_id", "parent", "source", "price_list", "tag_columns", "covered", "conflicts", "ledger")


@dataclass(frozen=True)
class Ledger:
    """The committed runs of an output, in the order of their numbers."""

    storage: Folder
    records: Sequence[Record]

    @classmethod
    def open(cls, storage: Folder) -> Ledger:
        """Reads every record; `OutputError` if one is missing, incomplete or not on top of the one before it."""
        texts = storage.texts(RUNS)
        names = sorted(name for name in texts if name.endswith(".json") and name[:-5].isdigit())
        records = [_parse(storage.path(f"{RUNS}/{name}"), texts[name]) for name in names]
        parent = None
        for number, (name, record) in enumerate(zip(names, records), start=1):
            if (int(name[:-5]), record["run"], record["parent"]) != (number, number, parent):
                raise OutputError(
                    f"{storage.path(RUNS)} is not whole: {name} does not follow on the run before it (number {number} "
                    f"on {parent} was needed). Restore the records that are missing."
                )
            parent = record["run_id"]
        return cls(storage, records)

    @property
    def last(self) -> Optional[Record]:
        return self.records[-1] if self.records else None

    def require(self, source: str, currency: str, tags: Iterable[str]) -> None:
        """`OutputError` if the ledger was begun for another usage table or in another currency, or has a tag column
        that differs from one of these by case alone: Spark could not read the two together."""
        if self.last is None:
            return
        if self.last["price_list"]["currency"] != currency:
            raise OutputError(
                f"{self.storage.root} holds bills in {self.last['price_list']['currency']}, and this run bills in "
                f"{currency}; give each currency an --output of its own"
            )
        if self.last["source"] != source:
            raise OutputError(
                f"{self.storage.root} holds the bills of the usage {self.last['source']!r}, and this run reads "
                f"{source!r}. If that is the same log at another place, say so with --source {self.last['source']!r}; "
                "if not, give it an --output of its own, or it would take back what the other is billed."
            )
        known = {tag.lower(): tag for record in self.records for tag in record["tag_columns"]}
        for tag in tags:
            if known.get(tag.lower(), tag) != tag:
                raise OutputError(
                    f"{self.storage.root} holds bills by {known[tag.lower()]}, and this run bills by {tag}: Spark does "
                    "not tell these apart. Spell the key of --group-by-tag as before, or give another --output."
                )

    def hours(self) -> dict[int, Decimal]:
        """The hours, in epoch seconds, that hold lines whose sum is not nothing, each with its amount."""
        lines: dict[int, list[Any]] = {}
        for record in self.records:
            for hour, count in record["ledger"]["hours"].items():
                held = lines.setdefault(parse_hour(hour), [0, 0, Decimal(0)])
                sums = (held[0] + count["requests"], held[1] + count["tokens"], add(held[2], Decimal(count["amount"])))
                lines[parse_hour(hour)] = list(sums)
        return {hour: sums[2] for hour, sums in sorted(lines.items()) if any(sums)}

    def conflicts(self) -> tuple[list[list[Any]], list[tuple[int, int]]]:
        """The conflicts of copies that stand, as the last run on each hour has kept them (`conflicts.kept_conflicts`);
        and the periods, in epoch seconds, whose last run had too many to keep."""
        standing: list[list[Any]] = []
        unknown: list[tuple[int, int]] = []
        for record in self.records:
            covered = [(parse_hour(start), parse_hour(end)) for start, end in record["covered"]]
            standing = [row for row in standing if not _inside(parse_hour(row[1]), covered)]
            unknown = [(start, end) for start, end in unknown if not _inside(start, covered)]
            if record["conflicts"] is None:
                unknown += covered
            else:
                standing += record["conflicts"]
        return standing, unknown

    def lines(self, spark: SparkSession, dates: Iterable[str]) -> Optional[DataFrame]:
        """The committed lines of some UTC+8 dates (`LEDGER_LINES` and tags), verified; None if there are none.

        `OutputError` if they are not, in number and sums, what their runs have recorded.
        """
        wanted = set(dates)
        expected: dict[tuple[str, str], dict[str, Any]] = {}
        tags: set[str] = set()
        for record in self.records:
            for hour, count in record["ledger"]["hours"].items():
                if hour[:10] in wanted:
                    sums = expected.setdefault((record["run_id"], hour[:10]), dict.fromkeys(_COUNTED, Decimal(0)))
                    for name in _COUNTED:
                        sums[name] = add(sums[name], Decimal(count[name]))
                    tags.update(record["tag_columns"])
        if not expected:
            return None
        paths = [f"{lines_path(run_id)}/billing_date={date}" for run_id, date in sorted(expected)]
        try:
            lines = _read_lines(spark, self.storage, paths, tags)
            rows = lines.groupBy("run_id", "billing_date").agg(*_counted()).collect()
        except PySparkException as error:
            if not path_is_absent(error):
                raise
            reason = str(error).splitlines()[0]
            raise OutputError(f"lines that a committed run wrote are gone ({reason}). Restore them.") from None
        found = {
            (row["run_id"], str(row["billing_date"])): {name: Decimal(row[name]) for name in _COUNTED} for row in rows
        }
        for (run_id, date), sums in expected.items():
            if found.get((run_id, date)) != sums:
                said, is_there = (_in_words(each) for each in (sums, found.get((run_id, date))))
                raise OutputError(
                    f"{self.storage.path(lines_path(run_id))}/billing_date={date} is not what its run wrote: recorded "
                    f"are {said}, there are {is_there}. Restore the folder."
                )
        return lines

    def read_back(self, spark: SparkSession, run_id: str, tag_columns: Iterable[str]) -> DataFrame:
        """The lines in the folder of a run that has not committed yet."""
        return _read_lines(spark, self.storage, [lines_path(run_id)], set(tag_columns))

    def commit(self, storage: Storage, record: Record) -> bool:
        """Create the record of the next run; False if another run has got that number."""
        path = record_path(record["run"])
        if not storage.create(path, json.dumps(record, indent=2, ensure_ascii=False) + "\n"):
            return False
        # where the storage has no exclusive creation, another run may have written over it
        return bool(_parse(path, storage.read(path))["run_id"] == record["run_id"])


_COUNTED = ("lines", "requests", "tokens", "amount")


def _inside(hour: int, periods: Iterable[tuple[int, int]]) -> bool:
    return any(start <= hour < end for start, end in periods)


def sums_by_hour(lines: DataFrame) -> dict[int, dict[str, dict[str, Any]]]:
    """The count and sums of ledger lines by hour, in epoch seconds, and by reason (`original` has none)."""
    hour, reason = F.unix_seconds("period_start").alias("hour"), F.coalesce("reason", "entry").alias("reason")
    sums: dict[int, dict[str, dict[str, Any]]] = {}
    for row in lines.groupBy(hour, reason).agg(*_counted()).orderBy("hour", "reason").collect():
        counts = {**{name: int(row[name]) for name in _COUNTED[:3]}, "amount": Decimal(row["amount"])}
        sums.setdefault(row["hour"], {})[row["reason"]] = counts
    return sums


def recorded_sums(sums: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """The sums of lines as a record has them: in all, by reason, and by hour."""
    reasons: dict[str, dict[str, Any]] = {}
    hours = {}
    for hour, by_reason in sums.items():
        for reason, counts in by_reason.items():
            into = reasons.setdefault(reason, {"lines": 0, "requests": 0, "tokens": 0, "amount": Decimal(0)})
            for name in _COUNTED[:3]:
                into[name] += counts[name]
            into["amount"] = add(into["amount"], counts["amount"])
        hours[hour_label(hour)] = {
            **{name: sum(counts[name] for counts in by_reason.values()) for name in _COUNTED[:3]},
            "amount": add(*(counts["amount"] for counts in by_reason.values())),
        }
    for counts in (*reasons.values(), *hours.values()):
        counts["amount"] = f"{counts['amount']:f}"
    return {"reasons": reasons, "hours": hours}


def record_path(number: int) -> str:
    return f"{RUNS}/{number:020}.json"


def lines_path(run_id: str) -> str:
    return f"{LINES}/run_id={run_id}"


def finish_publishing(storage: Storage, record: Optional[Record]) -> None:
    """See that the last run's tables are in place: wait while it gets on with that itself, else do it."""
    if record is None:
        return
    left = None
    while _unpublished(storage, record) not in ([], left):
        left = _unpublished(storage, record)
        time.sleep(_PUBLISHING_SECONDS)
    publish(storage, record)


def publish(storage: Storage, record: Record) -> None:
    """Move a committed run's partitions into place. Done again from the start after a kill, it ends the same."""
    of_run = record["staging"].rpartition("/")[0]
    if not storage.exists(of_run):
        return
    for part in _unpublished(storage, record):
        if storage.exists(f"{record['staging']}/{part}"):  # else another process has just moved it
            storage.delete(part)
            storage.move(f"{record['staging']}/{part}", part)
    for part in record["remove"]:
        if not storage.exists(of_run):  # another process has finished this, and later runs may have written since
            return
        storage.delete(part)
        for folder in (part.rpartition("/")[0], part.split("/")[0]):
            storage.delete_if_empty(folder)
    clear(storage, of_run)  # with what the run has kept of its usage


def clear(storage: Storage, folder: str) -> None:
    """Delete a folder, and the one above it if nothing else is in it."""
    storage.delete(folder)
    storage.delete_if_empty(folder.rpartition("/")[0])


def _unpublished(storage: Storage, record: Record) -> list[str]:
    return [part for part in record["replace"] if storage.exists(f"{record['staging']}/{part}")]


def _parse(path: str, text: str) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(text)
    except ValueError:
        raise OutputError(
            f"{path} is no complete record: its run died while it wrote it and has published nothing. "
            "Delete that file and run again."
        ) from None
    missing = [name for name in _RECORD if name not in record]
    if missing:
        raise OutputError(
            f"{path} has no {', '.join(missing)}: another version of spark_billing wrote it, "
            "which kept no ledger. Give an --output of its own and bill the whole usage into it."
        )
    return record


def _read_lines(spark: SparkSession, storage: Folder, paths: Sequence[str], tags: set[str]) -> DataFrame:
    schema = StructType([*LEDGER_LINES.fields, *(StructField(tag, StringType()) for tag in sorted(tags))])
    read = spark.read.schema(schema).option("basePath", storage.path(LINES))
    return read.parquet(*(storage.path(path) for path in paths))


def _counted() -> list[Any]:
    sums = [F.sum(F.col(name).cast(TOTAL_TOKENS)).cast(TOTAL_TOKENS).alias(name) for name in ("requests", "tokens")]
    return [F.count(F.lit(1)).alias("lines"), *sums, F.sum("amount").cast(AMOUNT).alias("amount")]


def _in_words(sums: Optional[Mapping[str, Any]]) -> str:
    return "none" if sums is None else ", ".join(f"{sums[name]:f} {name}" for name in _COUNTED)
