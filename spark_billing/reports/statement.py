"""The month as finance ties it to the invoice: every part of it, adjustments apart, and rounded once, at the end."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal
from typing import Optional

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_billing.core.columns import quoted, tag_column, tag_columns, tag_keys
from spark_billing.core.errors import UsageError
from spark_billing.core.hours import (
    SECONDS_PER_HOUR,
    Period,
    instant_label,
    parse_instant,
    parse_month,
    ranges,
    start_of_hour,
)
from spark_billing.core.money import EXACT, money
from spark_billing.core.published import CENT, SETTLED_AFTER_HOURS
from spark_billing.core.schemas import LEDGER_LINES
from spark_billing.core.text import one_line, printable, table
from spark_billing.reports.breakdown import WHOLE_KINDS, Part, Sums, breakdown, prove, sums_by, total_of

FINAL, OPEN = "final", "open"
HEADS = ("calls", "input tokens", "output tokens", "original", "adjustments")
_SHOWN_RANGES = 20  # of hours without usage, in text and HTML
_TITLES = {"workspace": "By workspace", "model": "By model", "entry": "By why it was added"}


@dataclass(frozen=True)
class Statement:
    """A month's statement; printed, it is text. Amounts are exact decimals, hours are epoch seconds."""

    month: str
    period: Period
    as_of: int  # epoch seconds
    closed_after: int  # hours after its end until an hour is final
    currency: str
    total: Sums
    parts: Mapping[str, Sequence[Part]]  # by workspace, model, `tag KEY` and entry
    hours: Mapping[int, Sums]  # of each hour that has lines
    charges: DataFrame  # all workspaces, models and tags: the rows of the CSV
    ledger: Optional[str] = None  # what it was made from, such as `run 12 of bills`

    @property
    def rounded(self) -> Decimal:
        """The total rounded down to the cent: the one place where anything is rounded."""
        return self.total.amount.quantize(CENT, ROUND_FLOOR, EXACT)

    @property
    def final_until(self) -> int:
        """The hours before this are final, those from it on are open."""
        return _final_until(self.period, self.as_of, self.closed_after)

    @property
    def over_until(self) -> int:
        """The hours from this on are not over yet."""
        return _hour_within(self.period, self.as_of)

    def state(self, hour: int) -> str:
        return FINAL if hour < self.final_until else OPEN

    def without_usage(self) -> list[tuple[int, int]]:
        """The hours that are over and have no call that is billed, as half-open periods, final and open ones apart."""
        nothing = Sums()
        found = []
        for start, end in ((self.period.start, self.final_until), (self.final_until, self.over_until)):
            hours = range(start, end, SECONDS_PER_HOUR)
            found += ranges(hour for hour in hours if not self.hours.get(hour, nothing).requests)
        return found

    def __str__(self) -> str:
        return "\n".join(self.text())

    def text(self) -> Iterator[str]:
        """Lines for a terminal."""
        yield f"Statement of {self.month} (UTC+8) as of {instant_label(self.as_of)}"
        if self.ledger is not None:
            yield f"From {one_line(self.ledger)}"
        yield f"An hour is final {self.closed_after} hours after its end; until then it is open."
        yield ""
        heads = (*HEADS, self.currency)
        cells: list[tuple[str, ...]] = []
        for kind, parts in self.parts.items():
            cells.append((title(kind), *(heads if not cells else ("",) * len(heads))))
            cells += [(f"  {name_of(part)}", *cells_of(part.sums)) for part in parts]
            cells.append(("",) * (1 + len(heads)))
        cells.append(("Total, exact", *cells_of(self.total)))
        cells.append(("Total, rounded down to the cent", *("",) * (len(heads) - 1), money(self.rounded)))
        yield from table(cells)
        yield "Every list above adds up to the exact total, to the last digit."
        yield ""
        yield from table([("Hours (UTC+8)", "hours", "calls", self.currency), *self.states()])
        yield ""
        yield from self.told_without_usage()

    def states(self) -> Iterator[tuple[str, ...]]:
        """The final and the open hours as periods, and what they come to."""
        for state, start, end in (
            (FINAL, self.period.start, self.final_until),
            (OPEN, self.final_until, self.period.end),
        ):
            here = total_of(Part(None, sums) for hour, sums in self.hours.items() if start <= hour < end)
            name = f"{state}, {Period(start, end)}" if start < end else state
            yield name, f"{(end - start) // SECONDS_PER_HOUR:,}", f"{here.requests:,}", money(here.amount)

    def told_without_usage(self) -> Iterator[str]:
        found = self.without_usage()
        if found:
            yield f"Hours without any usage: {_hours_of(found):,} (a lost log looks just like a saving)"
            for start, end in found[:_SHOWN_RANGES]:
                yield f"  {Period(start, end)}, {_hours_of([(start, end)]):,}, {self.state(start)}"
            left = found[_SHOWN_RANGES:]
            if left:
                yield f"  and {len(left):,} more periods of {_hours_of(left):,} hours, which are in the CSV"
        else:
            yield "Every hour that is over has usage."
        if self.over_until < self.period.end:
            yield f"Not over yet: {Period(self.over_until, self.period.end)}"


def _final_until(period: Period, as_of: int, closed_after: int) -> int:
    """The first hour of a period that is still open as of an instant, or its end."""
    return _hour_within(period, as_of - closed_after * SECONDS_PER_HOUR)


def _hour_within(period: Period, seconds: int) -> int:
    """The start of the hour that an instant lies in, or the edge of the period that is nearer."""
    return min(max(start_of_hour(seconds), period.start), period.end)


def monthly_statement(
    lines: DataFrame,
    month: str,
    *,
    as_of: Optional[str] = None,
    closed_after: int = SETTLED_AFTER_HOURS,
    top: int = 20,
    ledger: Optional[str] = None,
) -> Statement:
    """The statement of a UTC+8 month such as 2026-04: per workspace, model and tag, originals apart from adjustments.

    `lines` are those of `ledger_lines`. An hour is final if it ended at least `closed_after` hours before the instant
    `as_of`, such as 2026-05-03T12:00+08:00 (default: now), else open. Printed, it shows the `top` dearest of each list
    and the others as one row; `charges` and the CSV have all. `ledger` says what the lines were read from, and so does
    the statement then. Amounts are exact; only the total is also given rounded, down to the cent. All lists are proved
    to add up to the total (`TotalsError`). `UsageError` if the month, the instant or the lines do not fit.

    Examples
    --------
    >>> lines = ledger_lines(spark, output)
    >>> print(monthly_statement(lines, "2026-04", as_of="2026-05-03T12:00+08:00", closed_after=48))
    Statement of 2026-04 (UTC+8) as of 2026-05-03T12:00:00+08:00
    An hour is final 48 hours after its end; until then it is open.
    <BLANKLINE>
    By workspace                      calls   input tokens   output tokens     original   adjustments          USD
      w-1                                 1            260              50   0.00005308          0.00   0.00005308
    <BLANKLINE>
    By model
      qwen-plus                           1            260              50   0.00005308          0.00   0.00005308
    <BLANKLINE>
    By why it was added
      original                            1            260              50   0.00005308          0.00   0.00005308
    <BLANKLINE>
    Total, exact                          1            260              50   0.00005308          0.00   0.00005308
    Total, rounded down to the cent                                                                           0.00
    Every list above adds up to the exact total, to the last digit.
    <BLANKLINE>
    Hours (UTC+8)                                hours   calls          USD
    final, 2026-04-01T00 to 2026-05-01T00          720       1   0.00005308
    open                                             0       0         0.00
    <BLANKLINE>
    Hours without any usage: 719 (a lost log looks just like a saving)
      2026-04-01T00 to 2026-04-08T00, 168, final
      2026-04-08T01 to 2026-05-01T00, 551, final
    """
    try:
        period = Period(*parse_month(month))
        at = int(time.time()) if as_of is None else parse_instant(as_of)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if closed_after < 0 or top < 1:
        raise UsageError(f"closed_after is {closed_after} and top is {top}; give hours from 0 on, and 1 or more")
    lines = require_ledger_lines(lines)
    hour = F.unix_seconds("period_start")
    lines = lines.filter((hour >= period.start) & (hour < period.end))
    tags = {f"tag {key}": F.col(quoted(tag_column(key))) for key in tag_keys(lines)}
    kinds = {"workspace": F.col("workspace_id"), "model": F.col("model"), **tags}
    kinds["entry"] = F.coalesce("reason", "entry")
    parts = breakdown(lines, {**kinds, "hour": hour, "currency": F.col("currency")}, top=top, whole=WHOLE_KINDS)
    currency = one_currency(parts.pop("currency"), f"the ledger has no line of {month} (UTC+8); there is no statement")
    hours = {int(part.name or 0): part.sums for part in parts.pop("hour")}
    total = total_of(parts["entry"])
    prove(total, {**parts, "hour": [Part(None, sums) for sums in hours.values()]})
    charges = _charges(lines, _final_until(period, at, closed_after))
    hours = dict(sorted(hours.items()))
    return Statement(month, period, at, closed_after, currency, total, parts, hours, charges, ledger)


def require_ledger_lines(lines: DataFrame) -> DataFrame:
    """The lines; `UsageError` if they are not those of a ledger."""
    lacking = [name for name in LEDGER_LINES.fieldNames() if name not in lines.columns]
    if lacking:
        raise UsageError(f"the lines have no column {', '.join(lacking)}; pass what ledger_lines returns")
    return lines


def one_currency(parts: Sequence[Part], if_none: str) -> str:
    names = [str(part.name) for part in parts]
    if not names:
        raise UsageError(if_none)
    if len(names) > 1:
        raise UsageError(f"the lines are in {' and '.join(sorted(names))}, which are never added; give one ledger's")
    return names[0]


def _charges(lines: DataFrame, final_until: int) -> DataFrame:
    """What each workspace, model and tags come to, by why it was added and whether its hours are final."""
    state = F.when(F.unix_seconds("period_start") < final_until, FINAL).otherwise(OPEN)
    by = ["workspace_id", "model", *(quoted(tag) for tag in tag_columns(lines)), "entry", "reason", "state"]
    return sums_by(lines.withColumn("state", state), *by).drop("original", "adjustments").orderBy(*by)


def _hours_of(periods: Iterable[tuple[int, int]]) -> int:
    return sum(end - start for start, end in periods) // SECONDS_PER_HOUR


def title(kind: str) -> str:
    return _TITLES.get(kind) or f"By {printable(kind)}"


def name_of(part: Part) -> str:
    if part.others:
        return f"{part.others:,} others"
    return "(none)" if part.name is None else printable(part.name)


def cells_of(sums: Sums) -> tuple[str, ...]:
    counts = (f"{count:,}" for count in (sums.requests, sums.input_tokens, sums.output_tokens))
    return (*counts, money(sums.original), money(sums.adjustments), money(sums.amount))
