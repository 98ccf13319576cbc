"""Names and tables as a person reads them in a terminal. No Spark in here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

_ID_WIDTH = 40


def table(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    """Rows of text as aligned lines: the first column to the left, all others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))]
        yield "   ".join(cells).rstrip()


def counted(number: int, of: str) -> str:
    """A number of things, such as 1 call or 2,000 calls."""
    return f"{number:,} {of}" if number == 1 else f"{number:,} {of}s"


def listed(words: Sequence[str]) -> str:
    """Words as a sentence lists them."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def printable(name: str, width: int = _ID_WIDTH) -> str:
    """A name from the data on one line of a terminal, whatever is in it."""
    safe = one_line(name)
    return safe if len(safe) <= width else safe[: width - 1] + "…"


def one_line(text: str) -> str:
    """Text with what is no letter, sign or blank written out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
