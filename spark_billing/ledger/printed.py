"""What the jobs say of a ledger: the history of a bill, what was verified, what was compacted."""

from __future__ import annotations

from collections.abc import Iterator

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_billing.core.hours import instant_label
from spark_billing.core.money import add, money
from spark_billing.core.text import printable, table
from spark_billing.ledger.compaction import Compaction, Size
from spark_billing.ledger.verifying import Verified

_WHOLE = 10_000  # characters of a line that nobody wants cut


def printed_history(lines: DataFrame, workspace_id: str, hour: str) -> Iterator[str]:
    """The history as a person reads it: a line a row, the runs apart, the sum at the end."""
    rows = lines.withColumn("at", F.unix_seconds("run_at")).collect()
    if not rows:
        yield f"Nothing was ever billed to {printable(workspace_id)} in {hour}."
        return
    currency = rows[0]["currency"]
    cells = [("run", "at", "why", "price", "tokens of", "calls", "tokens", "per 1,000", currency)]
    last = None
    for row in rows:
        run = (str(row["run"]), instant_label(row["at"])) if row["run"] != last else ("", "")
        last = row["run"]
        counts = (f"{row['requests']:,}", f"{row['tokens']:,}", f"{row['price_per_1k'].normalize():f}")
        why = row["reason"] or row["entry"]
        cells.append((*run, why, row["price_id"], row["token_type"], *counts, money(row["amount"])))
    total = add(*(row["amount"] for row in rows))
    yield f"Every line of {printable(workspace_id)} in {hour} (UTC+8)"
    yield ""
    yield from table(cells)
    yield ""
    yield f"Owed: {money(total)} {currency}"


def printed_verified(verified: Verified) -> Iterator[str]:
    """What was looked at, and every difference on a line of its own."""
    counts = ((verified.records, "run"), (verified.checkpoints, "checkpoint"), (verified.lines, "line"))
    looked_at = [_count(number, of) for number, of in counts]
    looked_at += [f"{_count(verified.left_out, 'row')} of what is left out"]
    looked_at += [f"{_count(dates, 'date')} of {name}" for name, dates in verified.dates.items()]
    yield f"Looked at {', '.join(looked_at)}"
    for path in verified.untold:
        yield f"Not of the ledger, and read by nothing: {printable(path, _WHOLE)}"
    yield from (printable(str(difference), _WHOLE) for difference in verified.differences)
    differences = _count(len(verified.differences), "difference")
    yield f"Not whole: {differences}" if verified.differences else "Whole: nothing differs"


def printed_compaction(done: Compaction, *, dry_run: bool) -> Iterator[str]:
    """What was rewritten, and what was removed."""
    if not done.dates:
        yield "Nothing to compact: no date that is old enough has more than one file"
    elif dry_run:
        yield f"To compact: {_dates(done)}, which are {_size(done.before)}"
    else:
        yield f"Compacted: {_dates(done)}, before {_size(done.before)}, now {_size(done.after)}"
    if done.removed.files:
        yield f"{'To remove' if dry_run else 'Removed'}, replaced earlier: {_size(done.removed)}"
    if done.kept.files:
        yield f"Kept for readers until a later compaction: {_size(done.kept)}"


def _dates(done: Compaction) -> str:
    count = len(done.dates)
    return f"{done.dates[0]} (UTC+8)" if count == 1 else f"{count:,} dates, {done.dates[0]} to {done.dates[-1]} (UTC+8)"


def _size(size: Size) -> str:
    return f"{_count(size.files, 'file')} of {size.bytes:,} bytes"


def _count(number: int, of: str) -> str:
    return f"{number:,} {of}" if number == 1 else f"{number:,} {of}s"
