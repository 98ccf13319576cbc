"""What a run did, as a person reads it in a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from spark_billing.core.hours import hour_label
from spark_billing.core.money import money
from spark_billing.core.text import printable, table
from spark_billing.ledger.run import Outcome
from spark_billing.ledger.run_record import LineSums, RunRecord, Totals
from spark_billing.prices.price_list import PriceList

_BECAME = {
    "read": "read",
    "billed": "billed",
    "rejected": "rejected",
    "open": "in hours that are still open",
    "too_old": "in hours too old to adjust",
}

_SHOWN_NAMES = 5
_WHOLE = 1_000  # characters of a path that nobody wants cut


def printed_run(outcome: Outcome, prices: PriceList) -> Iterator[str]:
    """A billing run as a person reads it: what was read, billed, rejected and why, what it costs, what that adds to the
    ledger, and where the files are."""
    record, totals = outcome.record, outcome.record.totals
    dry = bool(record.arguments.get("dry_run"))
    text = [
        f"{'Dry run, nothing was written: the bill' if dry else 'Bill'} for {_when(record)}",
        f"Prices: {prices}",
        *([f"Usage:  {record.usage_version}"] if record.usage_version else []),
        "",
    ]
    text += [*table(list(_calls(totals))), ""]
    currency = totals.currency
    free = totals.output_tokens["billed"] - totals.output_tokens["charged"]
    if free:
        text += [f"Of the billed output tokens the price list does not charge {free:,}.", ""]
    conflicts = totals.rejected.get("conflicting_request", 0)
    if conflicts:
        hours, kept = (record.arguments.get(name) for name in ("dedup_lookback", "keep_copy"))
        text += [
            f"ATTENTION: {conflicts:,} calls have the id of another call, but other content. Of copies within {hours} "
            f"hours\nof one another the {kept} is billed; the others are rejected as conflicting_request.",
            *_most_conflicts(outcome),
            "",
        ]
    ahead = record.hours.not_begun
    if ahead:
        text += [
            f"ATTENTION: {record.hours.calls_not_begun:,} calls are dated in hours that have not begun, the first "
            f"{ahead[0]}, the last\n{ahead[-1]}, by the run's clock ({record.as_of}). They are not billed before that.",
            "",
        ]
    text += printed_aliases(record.model_aliases)
    text += printed_absent(record.absent_fields)
    text += [*_missing(record)]
    text += [f"Total: {money(totals.amount)} {currency}", ""]
    text += [*_added(outcome, dry), ""]
    if record.rebuilt:
        text += [f"Rebuilt, as other files were there than were published: {_some(record.rebuilt)}", ""]
    headings = ("calls", "input tokens", "output tokens", currency)
    for title, dearest in (
        ("Most expensive workspaces", [(printable(row["name"]), row) for row in outcome.dearest_workspaces]),
        ("Most expensive hours (UTC+8)", [(hour_label(int(row["name"])), row) for row in outcome.dearest_hours]),
    ):
        if dearest:
            text += [*table([(title, *headings), *((name, *_bill_cells(row)) for name, row in dearest)]), ""]
    if outcome.places:
        width = max(len(what) for what, _ in outcome.places)
        text += [f"{what.ljust(width)}  {where}" for what, where in outcome.places]
    yield from "\n".join(text).rstrip().splitlines()


def _some(dates: Sequence[str]) -> str:
    shown = ", ".join(dates[:_SHOWN_NAMES])
    return f"{shown}, and {len(dates) - _SHOWN_NAMES:,} more dates" if len(dates) > _SHOWN_NAMES else shown


def printed_aliases(taken: Sequence[Mapping[str, Any]]) -> list[str]:
    """Which names were taken for which model, the most frequent ones."""
    if not taken:
        return []
    told = [
        f"{printable(each['name'])} for {each['model']} ({each['calls']:,} calls)"
        for each in taken[:_SHOWN_NAMES]
        if each["name"] is not None
    ]
    more = sum(each.get("names", 1) for each in taken) - len(told)
    return [f"Taken for a model of the list: {'; '.join(told)}{f'; and {more:,} more names' if more else ''}.", ""]


def printed_absent(fields: Sequence[str]) -> list[str]:
    """The fields of JSON that no row has: it may have been so, or their names are written wrong."""
    if not fields:
        return []
    return [f"ATTENTION: no row has {', '.join(fields)}, which is read as null. Is it written as in the JSON?", ""]


def _missing(record: RunRecord) -> Iterator[str]:
    """Usage and hours that may be missing, though nothing is wrong with what was billed."""
    count, names = record.empty_files_count, [printable(name, _WHOLE) for name in record.empty_files]
    if count:
        more = f"; and {count - len(names):,} more" if count > len(names) else ""
        yield (
            f"ATTENTION: {count:,} {'file' if count == 1 else 'files'} of the usage without a byte, as of a broken "
            f"upload: {'; '.join(names)}{more}. Upload them again, and the next run adds their calls."
        )
        yield ""
    gap = record.not_covered
    if gap is not None:
        billed = record.period is not None and record.period.start <= gap.start
        what = "were covered by no run, and are billed with it" if billed else "are covered by no run: --cover-gap"
        yield f"ATTENTION: the hours {gap}, UTC+8, before this run's, {what}{'' if billed else ' bills them'}."
        yield ""


def _most_conflicts(outcome: Outcome) -> Iterator[str]:
    """Where there are many: an id that one program writes for all of its calls is found so."""
    if outcome.most_conflicts:
        ids = [
            (f"{printable(row['workspace_id'])} {printable(row['request_id'])}", f"{row['copies']:,}")
            for row in outcome.most_conflicts
        ]
        yield from table([("The ids with the most", "rejected"), *ids])


def _when(record: RunRecord) -> str:
    hours, period = record.hours, record.period
    if period:
        return f"{period}, UTC+8"
    if hours.with_usage:
        return f"{hours.with_usage:,} hours with usage, the first {hours.first}, the last {hours.last}, UTC+8"
    return "no hour with usage"


def _calls(totals: Totals) -> Iterator[tuple[str, ...]]:
    yield ("", "calls", "input tokens", "output tokens")
    for kind in totals.rows:
        yield (
            _BECAME[kind],
            *(f"{by_kind[kind]:,}" for by_kind in (totals.rows, totals.input_tokens, totals.output_tokens)),
        )
        if kind == "rejected":
            yield from ((f"  {reason}", f"{count:,}", "", "") for reason, count in totals.rejected.items())


def _added(outcome: Outcome, dry: bool) -> Iterator[str]:
    """What the run adds to the ledger, and what it leaves alone though the usage says otherwise."""
    record, currency = outcome.record, outcome.record.totals.currency
    reasons = record.ledger.reasons
    if not reasons:
        yield "Nothing to add to the ledger: it says this already."
    else:
        yield from table(list(_by_reason(f"{'Would be added' if dry else 'Added'} to the ledger", reasons, currency)))
    if outcome.lowered:
        headings = ("calls", "input tokens", "output tokens", currency)
        rows = [
            (f"{printable(row['workspace_id'])} {hour_label(row['hour'])}", *_bill_cells(row))
            for row in outcome.lowered
        ]
        refused = dry and not record.arguments.get("allow_retractions")
        leave = ", which needs --allow-retractions unless a conflict explains it" if refused else ""
        yield ""
        yield f"Bills that become lower (the first {len(rows)}){leave}:"
        yield from table([("", *headings), *rows])
    if record.not_adjusted.reasons:
        yield ""
        yield from table(list(_by_reason("Too old, so not added", record.not_adjusted.reasons, currency)))
    absent = record.hours.billed_before_but_not_in_usage
    if absent:
        yield ""
        yield (
            f"{len(absent):,} hours that were billed before have no row in this usage, the first {absent[0]}, the last "
            f"{absent[-1]}. They are left as they are; to bill them by this usage, name them with --from and --to."
        )


def _by_reason(title: str, reasons: Mapping[str, LineSums], currency: str) -> Iterator[tuple[str, ...]]:
    yield (title, "lines", currency)
    for reason, sums in reasons.items():
        yield (f"  {reason}", f"{sums.lines:,}", money(sums.amount))


def _bill_cells(row: Any) -> Sequence[str]:
    counts = [f"{row[name] or 0:,}" for name in ("requests", "input_tokens", "output_tokens")]
    return [*counts, money(row["amount"] or Decimal(0))]
