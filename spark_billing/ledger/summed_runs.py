"""What the committed runs of a ledger come to, so that opening it need not read the record of each again.

A checkpoint is this sum as a text that is written once, with the hash of its own content. What it sums stays where it
is: a run takes its figures from it and verifies the lines that it touches against them, and `maintain_ledger.py verify`
computes it again from the records. No Spark in here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Optional

from spark_billing.core.errors import OutputError
from spark_billing.core.hours import SECONDS_PER_HOUR, date_label
from spark_billing.ledger.earlier_conflicts import EarlierConflicts
from spark_billing.ledger.numbered import hash_of, sealed, unsealed
from spark_billing.ledger.published_files import digest_of
from spark_billing.ledger.run_record import LineSums, RunRecord

EVERY = 64  # runs between two checkpoints: so many records are read at most

ByDate = Mapping[str, Mapping[str, LineSums]]  # UTC+8 date -> run_id -> the sums of its rows


@dataclass(frozen=True)
class SummedRuns:
    """The runs 1 to `count`, summed."""

    count: int = 0
    last_id: Optional[str] = None  # the run_id of the last one
    digest: str = ""  # of all records: the hash of the digest before and the text of the last one
    hours: Mapping[int, LineSums] = field(default_factory=dict)  # epoch seconds -> the sums of all lines
    lines: ByDate = field(default_factory=dict)
    left_out: ByDate = field(default_factory=dict)  # rows of `schemas.LEFT_OUT`
    tags: Mapping[str, Sequence[str]] = field(default_factory=dict)  # UTC+8 date -> the tag columns of its lines
    tag_columns: Sequence[str] = ()  # that any run has grouped its lines by
    covered_by: Mapping[int, int] = field(default_factory=dict)  # epoch seconds -> the last run that billed the hour
    earlier: EarlierConflicts = field(default_factory=EarlierConflicts)
    # UTC+8 date -> what names the files published last (`published_files.digest_of`); none of those of older versions
    published: Mapping[str, str] = field(default_factory=dict)

    def after(self, records: Sequence[tuple[RunRecord, str]]) -> SummedRuns:
        """These runs and some more, each with the text of its record."""
        if not records:
            return self
        digest, hours, covered_by = self.digest, dict(self.hours), dict(self.covered_by)
        lines, left_out = ({date: dict(of) for date, of in sums.items()} for sums in (self.lines, self.left_out))
        tags = {date: set(names) for date, names in self.tags.items()}
        tag_columns, published = set(self.tag_columns), dict(self.published)
        for record, text in records:
            digest = hash_of(digest + text)
            tag_columns.update(record.tag_columns)
            for hour, sums in record.ledger.hours.items():
                date = date_label(hour)
                hours[hour] = hours.get(hour, LineSums()) + sums
                of_date = lines.setdefault(date, {})
                of_date[record.run_id] = of_date.get(record.run_id, LineSums()) + sums
                tags.setdefault(date, set()).update(record.tag_columns)
                if record.published is None:
                    published.pop(date, None)
            published.update({date: digest_of(files) for date, files in (record.published or {}).items()})
            for date, sums in (record.left_out or {}).items():
                left_out.setdefault(date, {})[record.run_id] = sums
            for start, end in record.covered:
                covered_by.update(dict.fromkeys(range(start, end, SECONDS_PER_HOUR), record.run))
        last = records[-1][0]
        return SummedRuns(
            count=last.run,
            last_id=last.run_id,
            digest=digest,
            hours=hours,
            lines=lines,
            left_out=left_out,
            tags={date: sorted(names) for date, names in tags.items() if names},
            tag_columns=sorted(tag_columns),
            covered_by=covered_by,
            earlier=self.earlier.after([record for record, _ in records]),
            published=published,
        )

    def amounts(self) -> dict[int, Decimal]:
        """The hours, in epoch seconds, that hold lines whose sum is not nothing, each with its amount."""
        return {hour: sums.amount for hour, sums in sorted(self.hours.items()) if not sums.is_nothing}

    def to_text(self) -> str:
        """As a checkpoint, sealed."""
        content = {
            "runs": self.count,
            "last": self.last_id,
            "digest": self.digest,
            "hours": [[hour, *_cells(sums)] for hour, sums in sorted(self.hours.items())],
            "lines": _by_date(self.lines),
            "left_out": _by_date(self.left_out),
            "tags": {date: list(names) for date, names in self.tags.items()},
            "tag_columns": list(self.tag_columns),
            "covered_by": _stretches(self.covered_by),
            "earlier": self.earlier.to_json(),
            "published": dict(self.published),
        }
        return sealed(content)

    @classmethod
    def from_text(cls, text: str) -> Optional[SummedRuns]:
        """From a checkpoint; None if it is not whole: then the records are read."""
        found = unsealed(text)
        if found is None:
            return None
        return cls(
            count=found["runs"],
            last_id=found["last"],
            digest=found["digest"],
            hours={hour: _sums(cells) for hour, *cells in found["hours"]},
            lines=_of_dates(found["lines"]),
            left_out=_of_dates(found["left_out"]),
            tags=found["tags"],
            tag_columns=found["tag_columns"],
            covered_by={
                hour: run for start, end, run in found["covered_by"] for hour in range(start, end, SECONDS_PER_HOUR)
            },
            earlier=EarlierConflicts.from_json(found["earlier"]),
            published=found.get("published", {}),  # an earlier version did not tell
        )


def require_follows(where: str, number: int, parent: Optional[str], record: RunRecord, name: str) -> None:
    """`OutputError` unless a record is the one of the run `number`, on top of the run_id `parent`."""
    if (record.run, record.parent) != (number, parent):
        raise OutputError(
            f"{where} is not whole: {name} does not follow on the run before it (number {number} on {parent} was "
            "needed). Restore the records that are missing."
        )


def _stretches(covered_by: Mapping[int, int]) -> list[list[int]]:
    """[start, end, run] of hours in a row that the same run has billed last."""
    found: list[list[int]] = []
    for hour, run in sorted(covered_by.items()):
        if found and found[-1][1:] == [hour, run]:
            found[-1][1] = hour + SECONDS_PER_HOUR
        else:
            found.append([hour, hour + SECONDS_PER_HOUR, run])
    return found


def _cells(sums: LineSums) -> list[Any]:
    return [sums.lines, sums.requests, sums.tokens, f"{sums.amount:f}"]


def _sums(cells: Sequence[Any]) -> LineSums:
    lines, requests, tokens, amount = cells
    return LineSums(lines, requests, tokens, Decimal(amount))


def _by_date(sums: ByDate) -> dict[str, Any]:
    return {date: {run_id: _cells(each) for run_id, each in of.items()} for date, of in sums.items()}


def _of_dates(found: Mapping[str, Any]) -> ByDate:
    return {date: {run_id: _sums(cells) for run_id, cells in of.items()} for date, of in found.items()}
