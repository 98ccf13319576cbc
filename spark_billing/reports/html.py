"""Pages that stand alone: one file, no script, nothing loaded from anywhere, light or dark, on a phone or on paper."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal

from spark_billing.core.money import money
from spark_billing.core.text import printable
from spark_billing.reports.breakdown import Part

_NAME_WIDTH = 80

_STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1a1d21; --muted: #59626d; --line: #dde1e6;
  --accent: #0b5cad; --band: #e3edf7 }
@media (prefers-color-scheme: dark) { :root { --paper: #14171b; --ink: #e9ebee; --muted: #a0a9b4; --line: #2e343b;
  --accent: #71b4f5; --band: #1e3247 } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 3rem 1.25rem 4rem; max-width: 62rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
  font-variant-numeric: tabular-nums; overflow-wrap: anywhere }
header { margin-bottom: 3rem }
h1 { margin: .25rem 0 .5rem; font-size: clamp(2.4rem, 9vw, 4.5rem); font-weight: 650; line-height: 1.1;
  letter-spacing: -.02em }
h1 small { font-size: .4em; font-weight: 500; letter-spacing: 0; color: var(--muted) }
h2 { margin: 0 0 1rem; font-size: 1.15rem; font-weight: 650 }
p { margin: .25rem 0; max-width: 46rem }
.quiet, .eyebrow, footer, figcaption { color: var(--muted) }
.digits { color: var(--muted); font-weight: 400 }
h1 .digits { font-size: .5em; letter-spacing: 0 }
section { margin: 3.25rem 0 0 }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(10rem, 1fr)); gap: 1.5rem 2rem; margin: 2rem 0 0 }
dt { color: var(--muted); font-size: .875rem }
dd { margin: 0; font-size: 1.25rem; font-weight: 600 }
dd .digits { font-size: .8em }
table { width: 100%; border-collapse: collapse; font-size: .9375rem }
table + table { margin-top: 2rem }
th, td { padding: .5rem 0 .5rem 1.25rem; text-align: right; vertical-align: top; border-bottom: 1px solid var(--line);
  font-weight: 400 }
thead th { color: var(--muted); font-size: .8125rem; vertical-align: bottom }
th:first-child, td:first-child { padding-left: 0; text-align: left; min-width: 11rem }
td { white-space: nowrap }
tbody th { font-weight: 500 }
tr.total > * { font-weight: 650; border-bottom: 0 }
.share { display: block; height: 4px; margin-top: .3rem; border-radius: 2px; background: var(--accent);
  print-color-adjust: exact; -webkit-print-color-adjust: exact }
figure { margin: 0 }
figcaption { margin-top: .5rem; font-size: .875rem }
svg { display: block; width: 100%; height: auto; overflow: visible; font-family: inherit }
svg * { stroke-linejoin: round; print-color-adjust: exact; -webkit-print-color-adjust: exact }
.narrow { display: none }
details { margin-top: 1rem }
summary { cursor: pointer; color: var(--accent) }
footer { margin-top: 4rem; padding-top: 1rem; border-top: 1px solid var(--line); font-size: .875rem }
@media (max-width: 44rem) {
  body { padding-top: 2rem }
  .wide { display: none } .narrow { display: block }
  dl { grid-template-columns: 1fr 1fr; gap: 1.25rem }
  dd { font-size: 1.1rem }
  table, tbody { display: block }
  thead { display: none }
  tr { display: grid; grid-template-columns: 1fr 1fr; gap: .3rem 1rem; padding: .8rem 0;
    border-bottom: 1px solid var(--line) }
  tr > * { padding: 0 !important; border: 0 }
  tr > :first-child { grid-column: 1 / -1 }
  td { text-align: left; white-space: normal }
  td:empty { display: none }
  td::before { content: attr(data-of); display: block; color: var(--muted); font-size: .8125rem }
}
@media print {
  :root { color-scheme: light; --paper: #ffffff; --ink: #000000; --muted: #4a4f55; --line: #c8ccd1; --accent: #0b5cad;
    --band: #e3edf7 }
  @page { margin: 16mm }
  body { max-width: none; padding: 0; font-size: 10pt }
  h1 { font-size: 32pt }
  section { margin-top: 2rem }
  h2 { break-after: avoid }
  tr, figure, dl > div { break-inside: avoid }
  tr.total { break-before: avoid }
  details { display: none }
}
"""


class Html(str):
    """Text that is HTML already; all other text is escaped where it comes into a page."""

    __slots__ = ()


def text(value: str) -> Html:
    return value if isinstance(value, Html) else Html(html.escape(value))


def name(value: str) -> Html:
    """A name from the data, on its own: it changes neither the page nor the direction of what is beside it."""
    return Html(f"<bdi>{html.escape(printable(value, _NAME_WIDTH))}</bdi>")


def part_name(part: Part) -> Html:
    if part.others:
        return Html(f"<span class=quiet>{part.others:,} others</span>")
    return Html("<span class=quiet>(none)</span>") if part.name is None else name(part.name)


def amount(value: Decimal, decimals: int = 2) -> Html:
    """An amount in full, with so many decimals at least; what comes after the cents is less loud."""
    whole, point, digits = money(value).partition(".")
    digits = digits.ljust(decimals, "0")
    rest = f"<span class=digits>{digits[2:]}</span>" if digits[2:] else ""
    return Html(f"{whole}{point}{digits[:2]}{rest}")


def amounts(values: Sequence[Decimal]) -> list[Html]:
    """The amounts of a column, with as many decimals as the longest needs, so that their points are in line."""
    longest = max((len(money(value).partition(".")[2]) for value in values), default=2)
    return [amount(value, longest) for value in values]


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, total: bool = False) -> Iterator[str]:
    """Rows with their names first; with `total`, the last one is the sum of those above."""
    rows = list(rows)
    yield "<table><thead><tr>"
    yield "".join(f"<th scope=col>{text(head)}</th>" for head in heads)
    yield "</tr></thead><tbody>"
    for n, (first, *cells) in enumerate(rows):
        tds = (f'<td data-of="{html.escape(head)}">{text(cell)}</td>' for head, cell in zip(heads[1:], cells))
        of_total = " class=total" if total and n == len(rows) - 1 else ""
        yield f"<tr{of_total}><th scope=row>{text(first)}</th>{''.join(tds)}</tr>"
    yield "</tbody></table>"


def section(title: str, content: Iterable[str]) -> Iterator[str]:
    yield f"<section><h2>{text(title)}</h2>"
    yield from content
    yield "</section>"


def figures(pairs: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Single figures side by side, each with what it is."""
    yield "<dl>"
    yield from (f"<div><dt>{text(what)}</dt><dd>{text(figure)}</dd></div>" for what, figure in pairs)
    yield "</dl>"


def share(of: Decimal, total: Decimal) -> Html:
    """A bar as long as the part is of the total; nothing for what is below nothing."""
    if total <= 0 or of <= 0:
        return Html("")
    return Html(f'<span class=share style="width:{min(float(of / total), 1):.2%}"></span>')


def head(eyebrow: str, title: Html, below: str) -> Iterator[str]:
    """A page until its first section: what it is about, the largest figure on it, and a sentence."""
    yield "<!doctype html>"
    yield '<html lang=en><head><meta charset=utf-8><meta name=viewport content="width=device-width, initial-scale=1">'
    # nothing can be loaded or run, whatever a name from the data should bring into the page
    policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    yield f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    yield f"<title>{text(eyebrow)}</title><style>{_STYLE}</style></head><body>"
    yield f"<header><p class=eyebrow>{text(eyebrow)}</p><h1>{title}</h1><p>{text(below)}</p></header><main>"


def foot(sentence: str) -> Iterator[str]:
    yield f"</main><footer>{text(sentence)}</footer></body></html>"
