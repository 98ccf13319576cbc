"""What a run did, as a person reads it in a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal

from spark_billing.price_list import PriceList
from spark_billing.runs import Outcome, hour_label

_ID_WIDTH = 40


def money(amount: Decimal) -> str:
    """An amount in full, plain and unrounded, without needless zeros but with two decimals at least."""
    whole, _, decimals = f"{amount:f}".partition(".")
    return f"{int(whole):,}.{decimals.rstrip('0').ljust(2, '0')}"


def summary(outcome: Outcome, prices: PriceList, output: str) -> str:
    """The summary of a billing run: what was read, billed, rejected and why, what it costs, and where the files are."""
    record, totals = outcome.record, outcome.record["totals"]
    hours, period = record["hours"], record["period"]
    if period:
        when = f"{period['from']} to {period['to']}, UTC+8"
    elif hours["with_usage"]:
        when = f"{hours['with_usage']:,} hours with usage, the first {hours['first']}, the last {hours['last']}, UTC+8"
    else:
        when = "no hour with usage"
    rows = [
        ("", "calls", "input tokens", "output tokens"),
        *(
            (name, *(f"{totals[kind][name]:,}" for kind in ("rows", "input_tokens", "output_tokens")))
            for name in ("read", "billed", "rejected")
        ),
        *((f"  {reason}", f"{count:,}", "", "") for reason, count in totals["rejected"].items()),
    ]
    currency = totals["currency"]
    text = [f"Bill for {when}", f"Prices: {prices}", "", *table(rows), ""]
    free = totals["output_tokens"]["billed"] - totals["output_tokens"]["charged"]
    if free:
        text += [f"Of the billed output tokens the price list does not charge {free:,}.", ""]
    text += [f"Total: {money(Decimal(totals['amount']))} {currency}", ""]

    headings = ("calls", "input tokens", "output tokens", currency)
    for title, name, dearest in (
        ("Most expensive workspaces", "workspace_id", outcome.dearest_workspaces),
        ("Most expensive hours (UTC+8)", "hour", outcome.dearest_hours),
    ):
        if dearest:
            lines = [
                (
                    printable(row[name]) if name == "workspace_id" else hour_label(row[name]),
                    *(f"{row[c]:,}" for c in ("requests", "input_tokens", "output_tokens")),
                    money(row["amount"]),
                )
                for row in dearest
            ]
            text += [*table([(title, *headings), *lines]), ""]

    folders = [("bill lines", "bill_lines"), ("bills", "bills")]
    folders += [("rejected rows", "rejected")] if totals["rows"]["rejected"] else []
    folders += [("priced calls", "priced_calls")] if record["arguments"].get("detail") else []
    folders += [("run record", f"ledger/runs/{record['run']:020}.json")]
    width = max(len(name) for name, _ in folders)
    text += [f"{name.ljust(width)}  {output.rstrip('/')}/{path}" for name, path in folders]
    return "\n".join(text)


def table(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    """Rows of text as aligned lines: the first column to the left, all others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))]
        yield "   ".join(cells).rstrip()


def printable(name: str) -> str:
    """A name from the data on one line of a terminal, whatever is in it."""
    safe = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in name)
    return safe if len(safe) <= _ID_WIDTH else safe[: _ID_WIDTH - 1] + "…"
