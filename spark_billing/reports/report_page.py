"""The report as HTML: the total first, then when, who and what it was for, what was not billed, and comparisons."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Optional

from spark_billing.core.hours import SECONDS_PER_HOUR, hour_label
from spark_billing.core.money import add, money
from spark_billing.core.text import one_line, printable
from spark_billing.estimates.expected import Expected
from spark_billing.provider.comparison import Reconciliation
from spark_billing.reports import charts
from spark_billing.reports import html as pages
from spark_billing.reports.breakdown import Part, Sums, total_of
from spark_billing.reports.report import Report

_HOURS = 31 * 24  # in the chart by hour: more would be thinner than a line
_HOURS_BY_NAME = 3 * 24
_DEAREST_HOURS = 5
_REASON = 200  # characters of why a run was made
_LIST_TITLES = {
    "workspace": "The most expensive workspaces",
    "model": "Models",
    "region": "Regions",
    "tier": "Tiers, by input tokens of a request",
}


def report_html(report: Report) -> Iterator[str]:
    """Lines of a page that stands alone. `UsageError` if matplotlib, which draws its charts, is missing."""
    charts.require_matplotlib()
    currency, total = report.currency, report.total
    yield from pages.head(
        f"Model calls, {report.period} (UTC+8)",
        pages.Html(f"{pages.amount(total.amount)} <small>{pages.text(currency)}</small>"),
        f"for {total.requests:,} calls with {total.input_tokens:,} input and {total.output_tokens:,} output tokens "
        "that have a price.",
    )
    yield from pages.figures(_figures(report))
    yield from pages.section("By day", _by_day(report))
    yield from pages.section("By hour", _by_hour(report))
    for kind, parts in report.parts.items():
        if kind != "entry":
            title = _LIST_TITLES.get(kind) or f"Tag {printable(kind.partition(' ')[2])}"
            yield from pages.section(title, _by_kind(report, kind, parts))
    yield from pages.section("Adjustments", _adjustments(report))
    yield from pages.section("Rejected rows", _rejected(report))
    if report.estimate is not None:
        yield from pages.section("Estimate and actual", _estimate(report, report.estimate))
    if report.reconciliation is not None:
        yield from pages.section("Beside the provider's bill", _reconciliation(report.reconciliation))
    yield from pages.foot(
        f"From {one_line(report.ledger)}, committed at {report.run_at}. Amounts are exact; every list with a total "
        "adds up to it, to the last digit."
    )


def _figures(report: Report) -> Iterator[tuple[str, str]]:
    hours = (report.period.end - report.period.start) // SECONDS_PER_HOUR
    used = sum(sums.requests != 0 for sums in report.hours.values())
    yield "workspaces", f"{sum(part.others or 1 for part in report.parts['workspace']):,}"
    yield "hours with usage", f"{used:,} of {hours:,}"
    yield f"original, {report.currency}", pages.amount(report.total.original)
    yield f"adjustments, {report.currency}", pages.amount(report.total.adjustments)
    yield "rejected rows", f"{sum(report.rejected.values()) + sum(report.rejected_without_time.values()):,}"


def _by_day(report: Report) -> Iterator[str]:
    days, currency = report.days(), report.currency
    told = [f"{day}: {money(sums.amount)} {currency}, {sums.requests:,} calls" for day, sums in days.items()]
    amounts = [sums.amount for sums in days.values()]
    yield from charts.columns(f"{currency} by day", amounts, [day[5:] for day in days], told)
    yield f"<p class=quiet>{pages.text(currency)} by UTC+8 day</p>"
    yield "<details><summary>The days as a table</summary>"
    yield from _sums_table(currency, [(pages.text(day), sums) for day, sums in days.items()], report.total)
    yield "</details>"


def _by_hour(report: Report) -> Iterator[str]:
    end, currency = report.period.end, report.currency
    start = max(report.period.start, end - _HOURS * SECONDS_PER_HOUR)
    hours = range(start, end, SECONDS_PER_HOUR)
    amounts = [report.hours.get(hour, Sums()).amount for hour in hours]
    labels = [hour_label(hour)[5:].replace("T", " ") + "h" for hour in hours]
    if len(hours) > _HOURS_BY_NAME:
        labels = [label[:5] if label.endswith(" 00h") else "" for label in labels]  # the days, at midnight
    yield from charts.steps(f"{currency} by hour", amounts, labels)
    cut = f", the last {len(hours):,} hours" if start > report.period.start else ""
    yield f"<p class=quiet>{pages.text(currency)} by UTC+8 hour{cut}</p>"
    dearest = sorted(report.hours.items(), key=lambda hour: (-hour[1].amount, hour[0]))[:_DEAREST_HOURS]
    yield "<details><summary>The most expensive hours</summary>"
    yield from _sums_table(currency, [(pages.text(hour_label(hour)), sums) for hour, sums in dearest])
    yield "</details>"


def _by_kind(report: Report, kind: str, parts: Sequence[Part]) -> Iterator[str]:
    total = report.total
    if kind == "workspace":
        named = [part for part in parts if not part.others]
        names = ["(none)" if part.name is None else part.name for part in named]
        amounts = [part.sums.amount for part in named]
        told = [f"{money(amount)} {report.currency}" for amount in amounts]
        yield from charts.bars(f"{report.currency} by workspace", names, amounts, told)
    rows = []
    for part in parts:
        bar = pages.Html("") if kind == "workspace" else pages.share(part.sums.amount, total.amount)
        rows.append((pages.Html(f"{pages.part_name(part)}{bar}"), part.sums))
    yield from _sums_table(report.currency, rows, total)


def _adjustments(report: Report) -> Iterator[str]:
    if not report.adjustments:
        yield "<p class=quiet>None: no line was added to an hour that had been billed before.</p>"
        return
    rows = [(pages.part_name(part), part.sums) for part in report.adjustments]
    yield from _sums_table(report.currency, rows, total_of(report.adjustments))
    if report.reasons:
        yield "<p class=quiet>Runs that were made for a reason, with the adjustments of each:</p>"
        told = [
            (pages.text(f"Run {number}: {printable(reason, _REASON)}"), sums) for number, reason, sums in report.reasons
        ]
        yield from _sums_table(report.currency, told)


def _rejected(report: Report) -> Iterator[str]:
    if not report.rejected and not report.rejected_without_time:
        yield "<p class=quiet>None in these hours.</p>"
        return
    reasons = dict.fromkeys((*report.rejected, *report.rejected_without_time))
    rows = [
        (reason, f"{report.rejected.get(reason, 0):,}", f"{report.rejected_without_time.get(reason, 0):,}")
        for reason in reasons
    ]
    sums = (f"{sum(counts.values()):,}" for counts in (report.rejected, report.rejected_without_time))
    yield from pages.table(("", "rows in these hours", "rows without a time"), [*rows, ("Total", *sums)], total=True)


def _estimate(report: Report, estimate: Expected) -> Iterator[str]:
    actual, currency = report.total.amount, report.currency
    place = "within the estimate"
    if not estimate.low <= actual <= estimate.high:
        place = "below the lowest estimate" if actual < estimate.low else "above the highest estimate"
    yield f"<p>The actual amount is {place}.</p>"
    yield from charts.span(f"{currency} expected and found", estimate.low, estimate.middle, estimate.high, actual)
    yield "<p class=quiet>The band is from low to high, its mark the middle, the strong mark the actual amount.</p>"
    expected = [estimate.low, estimate.middle, estimate.high]
    differences = [*pages.amounts([add(actual, -each) for each in expected]), ""]
    rows = list(zip(("Low", "Middle", "High", "Actual"), pages.amounts([*expected, actual]), differences))
    yield from pages.table(("", currency, "actual less this"), rows, total=True)
    yield f"<p>Calls: {estimate.calls:,} expected, {report.total.requests:,} billed.</p>"


def _reconciliation(found: Reconciliation) -> Iterator[str]:
    heads = ("", found.currency)
    amounts = pages.amounts([found.ours, found.provider, found.difference])
    yield from pages.table(heads, list(zip(("Ours", "The provider's", "Difference"), amounts)), total=True)
    causes = [(pages.name(cause.cause), f"{cause.rows:,}", cause.difference) for cause in found.causes]
    causes += [(pages.text("Without a cause"), "", found.unexplained), (pages.text("Difference"), "", found.difference)]
    amounts = pages.amounts([difference for _, _, difference in causes])
    rows = [(name, rows, amount) for (name, rows, _), amount in zip(causes, amounts)]
    yield from pages.table(("cause", "rows", found.currency), rows, total=True)


def _sums_table(currency: str, rows: Iterable[tuple[str, Sums]], total: Optional[Sums] = None) -> Iterator[str]:
    named = [*rows, *([] if total is None else [("Total", total)])]
    amounts = pages.amounts([sums.amount for _, sums in named])
    cells = [(name, *_counts(sums), amount) for (name, sums), amount in zip(named, amounts)]
    yield from pages.table(("", "calls", "input tokens", "output tokens", currency), cells, total=total is not None)


def _counts(sums: Sums) -> Iterator[str]:
    yield from (f"{count:,}" for count in (sums.requests, sums.input_tokens, sums.output_tokens))
