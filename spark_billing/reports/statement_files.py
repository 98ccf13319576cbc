"""A month's statement as a CSV file with all of it, and as an HTML page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Optional

from spark_billing.core.columns import tag_columns
from spark_billing.core.errors import TotalsError
from spark_billing.core.hours import SECONDS_PER_HOUR, hour_label, instant_label
from spark_billing.core.money import add, money
from spark_billing.core.text import one_line
from spark_billing.reports import html as pages
from spark_billing.reports.breakdown import Sums
from spark_billing.reports.statement import HEADS, Statement, cells_of, title

_BEFORE_TAGS = ("kind", "month", "workspace_id", "model")
_AFTER_TAGS = (
    *("entry", "reason", "state", "period_start", "period_end", "currency"),
    *("requests", "input_tokens", "output_tokens", "amount", "ledger"),
)
_TO_QUOTE = re.compile(r'[",\r\n]|^\s|\s$|^$')


def statement_csv(statement: Statement) -> Iterator[str]:
    """Lines of CSV (RFC 4180, a header first), with all workspaces. The column `kind` says what a row is:

    - `charge`: what a workspace, model and tags come to; these amounts add up to the total (`TotalsError` if not)
    - `hour`: the same money by hour; `no_usage`: a period without calls
    - `total`, exact, and `total_rounded_down`, to the cent; both name the `ledger` that the statement was made from

    No value is changed: a spreadsheet that takes a workspace named `=1+1` for a formula must be told that it is text.
    """
    names = (*_BEFORE_TAGS, *tag_columns(statement.charges), *_AFTER_TAGS)
    yield _csv_row(names)

    def row(kind: str, **values: object) -> str:
        values = {"kind": kind, "month": statement.month, "currency": statement.currency, **values}
        return _csv_row(_plain(values.get(name)) for name in names)

    def hours(start: int, end: int) -> dict[str, str]:
        return {"period_start": hour_label(start), "period_end": hour_label(end)}

    found = Decimal(0)
    for charge in statement.charges.toLocalIterator():
        found = add(found, charge["amount"])
        yield row("charge", **charge.asDict())
    if found != statement.total.amount:
        raise TotalsError(
            f"the charges come to {found:f}, and the total is {statement.total.amount:f}. Was the ledger changed "
            "meanwhile? Run it again."
        )
    for hour, sums in statement.hours.items():
        yield row("hour", **hours(hour, hour + SECONDS_PER_HOUR), state=statement.state(hour), **_count_cells(sums))
    for start, end in statement.without_usage():
        yield row("no_usage", **hours(start, end), state=statement.state(start), requests=0)
    whole = {**hours(statement.period.start, statement.period.end), "ledger": statement.ledger}
    yield row("total", **whole, **_count_cells(statement.total))
    yield row("total_rounded_down", **whole, amount=statement.rounded)


def statement_html(statement: Statement) -> Iterator[str]:
    """Lines of a page that stands alone; its lists show what the text shows."""
    currency = pages.text(statement.currency)
    yield from pages.head(
        f"Statement of {statement.month}, UTC+8",
        pages.Html(f"{pages.amount(statement.rounded)} <small>{currency}</small>"),
        f"{money(statement.total.amount)} {statement.currency} exactly, rounded down to the cent once. As of "
        f"{instant_label(statement.as_of)}; an hour is final {statement.closed_after} hours after its end.",
    )
    for kind, parts in statement.parts.items():
        names = [*(pages.part_name(part) for part in parts), pages.text("Total")]
        sums = [*(part.sums for part in parts), statement.total]
        counts = [cells_of(each)[:3] for each in sums]
        amounts = (pages.amounts(column) for column in zip(*((s.original, s.adjustments, s.amount) for s in sums)))
        rows = [(name, *cells, *row) for name, cells, row in zip(names, counts, zip(*amounts))]
        yield from pages.section(title(kind), pages.table(("", *HEADS, statement.currency), rows, total=True))
    states = pages.table(("", "hours", "calls", statement.currency), list(statement.states()))
    yield from pages.section("Hours, UTC+8", states)
    without = (f"<p>{pages.text(line.strip())}</p>" for line in statement.told_without_usage())
    yield from pages.section("Hours without usage", without)
    made_from = f"From {one_line(statement.ledger)}. " if statement.ledger is not None else ""
    yield from pages.foot(f"{made_from}Every list adds up to the exact total, to the last digit.")


def _count_cells(sums: Sums) -> dict[str, object]:
    names = ("requests", "input_tokens", "output_tokens", "amount")
    return {name: getattr(sums, name) for name in names}


def _plain(value: object) -> Optional[str]:
    if value is None or isinstance(value, str):
        return value
    return f"{value:f}" if isinstance(value, Decimal) else str(value)


def _csv_row(values: Iterable[Optional[str]]) -> str:
    """Null is nothing, empty text is two quotes, and blanks at the ends of a value are the value's."""
    return ",".join("" if value is None else _quoted(value) if _TO_QUOTE.search(value) else value for value in values)


def _quoted(text: str) -> str:
    doubled = text.replace('"', '""')
    return f'"{doubled}"'
