"""The record of a run: what it was asked, what it read, billed and rejected, and what it added to the ledger.

It is written once, as JSON, and never changed; a run counts from the moment its record exists. No Spark in here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from decimal import Decimal
from typing import Any, Optional

from spark_billing.core.errors import OutputError
from spark_billing.core.hours import Period, hour_label, parse_hour, ranges
from spark_billing.core.money import add
from spark_billing.ledger.max_rejected import rejected_too_many
from spark_billing.usage.used_version import UsedVersion

LINES = "ledger/lines"
CONFLICTS = "ledger/conflicts"
# Few records have these
_SELDOM = (
    "model_aliases",
    "absent_fields",
    "usage_version",
    "rebuilt",
    "not_covered",
    "empty_files",
    "empty_files_count",
)
# Of every record of a ledger; what else a record has came later, or tells a person more
_NEEDED = ("run", "run_id", "parent", "source", "price_list", "tag_columns", "ledger")


@dataclass(frozen=True)
class LineSums:
    """Some ledger lines, counted and added up."""

    lines: int = 0
    requests: int = 0
    tokens: int = 0
    amount: Decimal = Decimal(0)

    def __add__(self, other: LineSums) -> LineSums:
        counts = (self.lines + other.lines, self.requests + other.requests, self.tokens + other.tokens)
        return LineSums(*counts, add(self.amount, other.amount))

    def __str__(self) -> str:
        return ", ".join(f"{Decimal(getattr(self, each.name)):f} {each.name}" for each in fields(self))

    @property
    def is_nothing(self) -> bool:
        """Whether the lines come to nothing, however many there are."""
        return not (self.requests or self.tokens or self.amount)

    def to_json(self) -> dict[str, Any]:
        return {"lines": self.lines, "requests": self.requests, "tokens": self.tokens, "amount": f"{self.amount:f}"}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> LineSums:
        return cls(found["lines"], found["requests"], found["tokens"], Decimal(found["amount"]))


@dataclass(frozen=True)
class AddedLines:
    """Ledger lines that a run has added (or was not allowed to), by why and by hour."""

    reasons: Mapping[str, LineSums] = field(default_factory=dict)  # `original`, or why an adjustment was made
    hours: Mapping[int, LineSums] = field(default_factory=dict)  # epoch seconds

    @classmethod
    def of(cls, sums: Mapping[int, Mapping[str, LineSums]]) -> AddedLines:
        """From the sums of lines by hour, in epoch seconds, and reason."""
        reasons: dict[str, LineSums] = {}
        hours: dict[int, LineSums] = {}
        for hour, by_reason in sums.items():
            for reason, found in by_reason.items():
                reasons[reason] = reasons.get(reason, LineSums()) + found
                hours[hour] = hours.get(hour, LineSums()) + found
        return cls(reasons, hours)

    def to_json(self) -> dict[str, Any]:
        return {
            "reasons": {reason: sums.to_json() for reason, sums in self.reasons.items()},
            "hours": {hour_label(hour): sums.to_json() for hour, sums in self.hours.items()},
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> AddedLines:
        reasons = {reason: LineSums.from_json(sums) for reason, sums in found["reasons"].items()}
        return cls(reasons, {parse_hour(hour): LineSums.from_json(sums) for hour, sums in found["hours"].items()})


@dataclass(frozen=True)
class UsedPrices:
    """The price list of a run: which one it was, to the hash of its rows."""

    name: str
    version: str
    currency: str
    tokens_per_k: int
    sha256: str


@dataclass(frozen=True)
class SeenHours:
    """The UTC+8 hours that the usage of a run has rows in; apart from them those that have not begun by its clock."""

    with_usage: int = 0
    first: Optional[str] = None
    last: Optional[str] = None
    billed_before_but_not_in_usage: Sequence[str] = ()
    not_begun: Sequence[str] = ()  # the first and the last
    calls_not_begun: int = 0


@dataclass(frozen=True)
class Totals:
    """The control totals of a run: rows and tokens by what became of them (`read`, `billed`, `rejected`, ...; of tokens
    also `charged`), rejected rows by reason, and what the covered hours come to."""

    rows: Mapping[str, int] = field(default_factory=dict)
    rejected: Mapping[str, int] = field(default_factory=dict)
    input_tokens: Mapping[str, int] = field(default_factory=dict)
    output_tokens: Mapping[str, int] = field(default_factory=dict)
    amount: Decimal = Decimal(0)
    currency: str = ""

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "amount": f"{self.amount:f}"}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Totals:
        return cls(**{**_known(cls, found), "amount": Decimal(found.get("amount", 0))})


class BrokenRecordError(OutputError):
    """A record that is not whole. Whether its run counts, the record itself cannot say."""

    def __init__(
        self, path: str, more: str = "Restore it first, from a backup: without it its run would be lost."
    ) -> None:
        super().__init__(f"{path} is not a whole record of a run. {more}", parameter="output")


@dataclass(frozen=True)
class RunRecord:
    """What a run did. `str(record.totals.amount)` is what the hours it covers come to, to the last digit."""

    run: int  # the number of the run in its ledger, from 1 on
    run_id: str
    parent: Optional[str]  # the run_id of the run before it
    started_at: str
    committed_at: str
    as_of: str
    spark_version: str
    source: str
    arguments: Mapping[str, Any]  # as given
    tag_columns: Sequence[str]
    price_list: UsedPrices
    period: Optional[Period]
    hours: SeenHours
    totals: Totals
    covered: Sequence[tuple[int, int]]  # the hours that it billed, as periods in epoch seconds
    left_out: Optional[Mapping[str, LineSums]]  # its rows of `schemas.LEFT_OUT`, by date; None: an older version
    ledger: AddedLines
    not_adjusted: AddedLines
    staging: str = ""  # where its partitions were written aside, in a folder
    replace: Sequence[str] = ()  # the partitions that it publishes
    remove: Sequence[str] = ()  # and those that have become empty
    # Of an older version, in place of `left_out`: [workspace, hour, region, model, whether left out, hour of the copy
    # that is billed, requests, input tokens, output tokens, amount]; None: too many to keep, or not told
    conflicts: Optional[Sequence[Sequence[Any]]] = None
    model_aliases: Sequence[Mapping[str, Any]] = ()  # what was taken for what (`aliases.names_taken`)
    absent_fields: Sequence[str] = ()  # that its expressions ask for and no row of its JSON has
    usage_version: Optional[UsedVersion] = None  # of the table of usage that it has read, if its format has any
    # UTC+8 date -> the files of `bill_lines` and `bills` that it publishes, each with its size; an older version: None
    published: Optional[Mapping[str, Mapping[str, int]]] = None
    rebuilt: Sequence[str] = ()  # the UTC+8 dates where others were there than had been published
    not_covered: Optional[Period] = None  # between what was ever covered and a period of the last hours
    empty_files: Sequence[str] = ()  # of the usage, the first few: what was uploaded in part
    empty_files_count: int = 0

    @property
    def rejected_too_many(self) -> Optional[str]:
        """More rows were rejected than `max_rejected` allows (by default all of them): how many and why; else None."""
        totals = self.totals
        return rejected_too_many(self.arguments.get("max_rejected"), totals.rows.get("billed", 0), totals.rejected)

    @property
    def lines_path(self) -> str:
        """Where its ledger lines are, below the output."""
        return lines_path(self.run_id)

    def to_json(self) -> str:
        """As text of the file that is kept."""
        as_json = {
            **{name: value for name, value in vars(self).items() if name != "conflicts"},
            "tag_columns": list(self.tag_columns),
            "price_list": vars(self.price_list),
            "period": self.period and _of_period(self.period),
            "hours": vars(self.hours),
            "totals": self.totals.to_json(),
            "covered": [[hour_label(start), hour_label(end)] for start, end in self.covered],
            "left_out": {date: sums.to_json() for date, sums in (self.left_out or {}).items()},
            "ledger": self.ledger.to_json(),
            "not_adjusted": self.not_adjusted.to_json(),
            "usage_version": self.usage_version and vars(self.usage_version),
        }
        if self.not_covered is not None:
            as_json["not_covered"] = _of_period(self.not_covered)
        for name in _SELDOM:
            if not as_json[name]:
                del as_json[name]
        if self.published is None:
            del as_json["published"]
        return json.dumps(as_json, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, path: str, text: str) -> RunRecord:
        """From the text of the file at `path`, by whichever version it was written; `OutputError` if it is none."""
        try:
            found = json.loads(text)
            if not isinstance(found, dict):
                raise BrokenRecordError(path)
            return cls._from_json(path, found)
        except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
            if isinstance(error, OutputError):
                raise
            raise BrokenRecordError(path) from None

    @classmethod
    def _from_json(cls, path: str, found: Mapping[str, Any]) -> RunRecord:
        missing = [name for name in _NEEDED if name not in found]
        if missing:
            raise OutputError(
                f"{path} has no {', '.join(missing)}: another version of spark_billing wrote it, which kept no ledger. "
                "Give an output of its own and bill the whole usage into it.",
                parameter="output",
            )
        added, left_out = AddedLines.from_json(found["ledger"]), found.get("left_out")
        period = _period(found.get("period"))
        version = found.get("usage_version")
        told = {
            name: found.get(name, "") for name in ("started_at", "committed_at", "as_of", "spark_version", "staging")
        }
        return cls(
            **{name: found[name] for name in ("run", "run_id", "parent", "source", "tag_columns")},
            **told,
            arguments=found.get("arguments", {}),
            price_list=UsedPrices(**{**dict.fromkeys(("name", "version", "sha256"), ""), "tokens_per_k": 1000,
                                     **_known(UsedPrices, found["price_list"])}),
            period=period,
            hours=SeenHours(**_known(SeenHours, found.get("hours", {}))),
            totals=Totals.from_json(found.get("totals", {})),
            covered=_covered(found, period, added),
            left_out=left_out and {date: LineSums.from_json(sums) for date, sums in left_out.items()},
            ledger=added,
            not_adjusted=AddedLines.from_json(found.get("not_adjusted", {"reasons": {}, "hours": {}})),
            replace=found.get("replace", ()),
            remove=found.get("remove", ()),
            conflicts=found.get("conflicts"),
            model_aliases=found.get("model_aliases", ()),
            absent_fields=found.get("absent_fields", ()),
            usage_version=version and UsedVersion(**_known(UsedVersion, version)),
            published=found.get("published"),
            rebuilt=found.get("rebuilt", ()),
            not_covered=_period(found.get("not_covered")),
            empty_files=found.get("empty_files", ()),
            empty_files_count=found.get("empty_files_count", 0),
        )  # fmt: skip


def lines_path(run_id: str) -> str:
    """Where the ledger lines of a run are, below the output."""
    return f"{LINES}/run_id={run_id}"


def conflicts_path(run_id: str) -> str:
    """Where the rows of what it leaves out as conflicts are."""
    return f"{CONFLICTS}/run_id={run_id}"


def _of_period(period: Period) -> dict[str, str]:
    return {"from": hour_label(period.start), "to": hour_label(period.end)}


def _period(found: Optional[Mapping[str, str]]) -> Optional[Period]:
    return Period(parse_hour(found["from"]), parse_hour(found["to"])) if found else None


def _covered(found: Mapping[str, Any], period: Optional[Period], added: AddedLines) -> Sequence[tuple[int, int]]:
    """The first ledgers did not tell: their period then, or the hours that they added to."""
    if "covered" in found:
        return [(parse_hour(start), parse_hour(end)) for start, end in found["covered"]]
    return [(period.start, period.end)] if period else ranges(sorted(added.hours))


def _known(kind: Any, found: Mapping[str, Any]) -> dict[str, Any]:
    names: Iterable[str] = (each.name for each in fields(kind))
    return {name: found[name] for name in names if name in found}
