"""What the jobs say of a ledger: the history of a bill, what was verified, and what was done to keep it in order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Optional

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_billing.core.hours import SECONDS_PER_HOUR, hour_label, instant_label
from spark_billing.core.money import add, money
from spark_billing.core.text import counted, printable, table
from spark_billing.ledger.compaction import Compaction, Size
from spark_billing.ledger.housekeeping import Cleaned, Rebuilt
from spark_billing.ledger.ledger import Ledger, Leftover
from spark_billing.ledger.reversing import Reversal
from spark_billing.ledger.run import Outcome
from spark_billing.ledger.run_record import LineSums
from spark_billing.ledger.summed_runs import SummedRuns
from spark_billing.ledger.verifying import Verified

_WHOLE = 10_000  # characters of a line that nobody wants cut


def printed_history(lines: DataFrame, workspace_id: str, hour: str, ledger: Ledger) -> Iterator[str]:
    """The history as a person reads it: a line a row, the runs apart, the sum at the end, and why a run was made if
    its record says so."""
    rows = lines.withColumn("at", F.unix_seconds("run_at")).collect()
    if not rows:
        yield f"Nothing was ever billed to {printable(workspace_id)} in {hour}."
        return
    currencies = {row["currency"] for row in rows}  # another one is possible after a time when nothing was owed
    currency = rows[-1]["currency"]
    head = currency if len(currencies) == 1 else "amount"
    cells = [("run", "at", "why", "price", "tokens of", "calls", "tokens", "per 1,000", head)]
    last = None
    for row in rows:
        run = (str(row["run"]), instant_label(row["at"])) if row["run"] != last else ("", "")
        last = row["run"]
        counts = (f"{row['requests']:,}", f"{row['tokens']:,}", f"{row['price_per_1k'].normalize():f}")
        why = row["reason"] or row["entry"]
        amount = money(row["amount"]) + (f" {row['currency']}" if len(currencies) > 1 else "")
        cells.append((*run, why, row["price_id"], row["token_type"], *counts, amount))
    total = add(*(row["amount"] for row in rows if row["currency"] == currency))
    yield f"Every line of {printable(workspace_id)} in {hour} (UTC+8)"
    yield ""
    yield from table(cells)
    yield ""
    for number, record in sorted(ledger.records({row["run"] for row in rows}).items()):
        if record.reason:
            yield f"Run {number}: {printable(record.reason, _WHOLE)}"
    yield f"Owed: {money(total)} {currency}"


def printed_verified(verified: Verified) -> Iterator[str]:
    """What was looked at, and every difference on a line of its own."""
    counts = ((verified.runs, "run"), (verified.checkpoints, "checkpoint"), (verified.lines, "line"))
    looked_at = [counted(number, of) for number, of in counts]
    looked_at += [f"{counted(verified.left_out, 'row')} of what is left out"]
    looked_at += [f"{counted(dates, 'date')} of {name}" for name, dates in verified.dates.items()]
    yield f"Looked at {', '.join(looked_at)}"
    for path in verified.untold:
        yield f"Not of the ledger, and read by nothing: {printable(path, _WHOLE)}"
    yield from (printable(str(difference), _WHOLE) for difference in verified.differences)
    differences = counted(len(verified.differences), "difference")
    yield f"Not whole: {differences}" if verified.differences else "Whole: nothing differs"


def printed_compaction(done: Compaction, *, dry_run: bool) -> Iterator[str]:
    """What was rewritten, and what was removed."""
    if not done.dates:
        yield "Nothing to compact: no date that is old enough has more than one file"
    elif dry_run:
        yield f"To compact: {_dates(done.dates)}, which are {_size(done.before)}"
    else:
        yield f"Compacted: {_dates(done.dates)}, before {_size(done.before)}, now {_size(done.after)}"
    if done.removed.files:
        yield f"{'To remove' if dry_run else 'Removed'}, replaced earlier: {_size(done.removed)}"
    if done.kept.files:
        yield f"Kept for readers until a later compaction: {_size(done.kept)}"


def printed_reversal(what: Reversal, outcome: Optional[Outcome], *, dry_run: bool) -> Iterator[str]:
    """What was taken back, and whose bills have become lower."""
    if outcome is None:
        yield f"Nothing to reverse: {what} comes to nothing already"
        return
    record, currency = outcome.record, outcome.record.price_list.currency
    taken = sum(record.ledger.reasons.values(), LineSums())
    done = "Dry run, nothing was written: to reverse is" if dry_run else f"Run {record.run} has reversed"
    yield f"{done} {what}"
    yield f"{'To add' if dry_run else 'Added'}: {counted(taken.lines, 'line')}, {money(taken.amount)} {currency}"
    left_out = sum((record.left_out or {}).values(), LineSums())
    if left_out.lines:
        yield f"Of what was left out as conflicts: {counted(left_out.lines, 'row')} taken back"
    if outcome.lowered:
        yield ""
        heads = ("calls", "input tokens", "output tokens", currency)
        names = ("requests", "input_tokens", "output_tokens")
        rows = [
            (
                f"{printable(row['workspace_id'])} {hour_label(row['hour'])}",
                *(f"{row[name]:,}" for name in names),
                money(row["amount"]),
            )
            for row in outcome.lowered
        ]
        yield from table([(f"Bills that become lower (the first {len(rows)})", *heads), *rows])
    yield from _places(outcome)


def printed_rebuilt(done: Rebuilt, *, dry_run: bool) -> Iterator[str]:
    """What was made anew."""
    says = f"what the ledger says, {money(done.amount)} {done.currency}"
    if dry_run:
        what = _dates(done.dates) if done.outcome else "the views bill_lines and bills"
        yield f"To rebuild: {what or 'nothing'}"
        return
    if done.outcome is None:
        yield f"Rebuilt: {', '.join(done.views) or 'no view, as the catalog has none'}, to {says}"
        return
    yield f"Rebuilt by run {done.outcome.record.run}: {_dates(done.dates) or 'nothing'}, to {says}"
    if done.removed:
        yield f"Removed, as the ledger has nothing of them: {', '.join(map(printable, done.removed))}"
    yield from _places(done.outcome)


def printed_cleaned(done: Cleaned, *, dry_run: bool) -> Iterator[str]:
    """What was removed, and what is too young for that."""
    if not done.removed:
        yield "Nothing to remove: no run that died has left anything that is old enough"
    for each in done.removed:
        yield f"{'To remove' if dry_run else 'Removed'}: {_leftover(each)}"
    for each in done.kept:
        yield f"Not old enough: {_leftover(each)}"


def printed_gaps(runs: SummedRuns) -> Iterator[str]:
    """The hours that no run has covered."""
    gaps = runs.gaps()
    if not runs.covered_by:
        yield "No run has covered any hour"
        return
    first, last = hour_label(min(runs.covered_by)), hour_label(max(runs.covered_by))
    if not gaps:
        yield f"No gap: from {first} to {last} (UTC+8) every hour was covered by a run"
        return
    hours = [(end - start) // SECONDS_PER_HOUR for start, end in gaps]
    yield f"From {first} to {last} (UTC+8) no run has covered {counted(sum(hours), 'hour')}:"
    yield from table(
        [
            (f"--from {hour_label(start)} --to {hour_label(end)}", counted(number, "hour"))
            for (start, end), number in zip(gaps, hours)
        ]
    )


def printed_rename(outcome: Optional[Outcome], to: str, *, dry_run: bool) -> str:
    """What the usage of a ledger is named from now on."""
    name = printable(to, _WHOLE)
    if outcome is None:
        return f"Nothing to do: the source is named {name} already"
    before = printable(str(outcome.record.arguments["from"]), _WHOLE)
    if dry_run:
        return f"Dry run, nothing was written: to rename is {before} to {name}"
    return f"Run {outcome.record.run} has named the source {name}, which was {before}"


def _leftover(each: Leftover) -> str:
    return f"{printable(each.what, _WHOLE)}, of {each.run_id}, last written at {instant_label(each.began)}"


def _places(outcome: Outcome) -> Iterator[str]:
    if outcome.places:
        yield ""
        width = max(len(what) for what, _ in outcome.places)
        yield from (f"{what.ljust(width)}  {where}" for what, where in outcome.places)


def _dates(dates: Sequence[str]) -> str:
    if len(dates) < 2:
        return f"{dates[0]} (UTC+8)" if dates else ""
    return f"{len(dates):,} dates, {dates[0]} to {dates[-1]} (UTC+8)"


def _size(size: Size) -> str:
    return f"{counted(size.files, 'file')} of {size.bytes:,} bytes"
