"""An estimate and the comparison of two price lists as a person reads them."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from decimal import ROUND_HALF_UP, Decimal

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_billing.core.hours import epoch_us, instant_label
from spark_billing.core.money import money
from spark_billing.core.text import printable, table
from spark_billing.estimates.estimate import Estimate
from spark_billing.prices.price_list import PriceList

_REGIONS_WIDTH = 60
_SHOWN_CHANGES = 10  # workspaces and models in the printed comparison


def printed_estimate(estimate: Estimate) -> Iterator[str]:
    """What the calls would cost, what that rests on, and what they would cost elsewhere."""
    yield f"Prices  {estimate.prices}, at {instant_label(epoch_us(estimate.at) // 1_000_000)}"
    yield f"Input   {estimate.tokens_rest_on}"
    yield f"Output  {estimate.output_rests_on}"
    if estimate.one_in > 1:
        yield f"Sample  {estimate.rows:,} rows, one in {estimate.one_in:,}, scaled up; ± is the 95 % interval of that"
    yield ""
    yield from printed_figures(estimate)
    yield ""
    yield from printed_elsewhere(estimate)


def printed_figures(estimate: Estimate) -> Iterator[str]:
    """The low, middle and high figures."""
    levels = (estimate.low, estimate.middle, estimate.high)
    rows = [("", "low", "middle", "high"), ("calls", *(f"{f.calls:,}" for f in levels))]

    def sampling(*shares: str) -> None:
        if estimate.one_in > 1:
            rows.append(("  sampling", *shares))

    sampling(*(_share(Decimal(f.calls_error), Decimal(f.calls)) for f in levels))
    for price in sorted({price for f in levels for price in f.calls_by_price}):
        rows.append((f"  {price}", *(f"{f.calls_by_price.get(price, 0):,}" for f in levels)))
    for reason in sorted({reason for f in levels for reason in f.refused}):
        rows.append((f"refused, {reason}", *(f"{f.refused.get(reason, 0):,}" for f in levels)))
    rows.append(("input tokens", *(f"{f.input_tokens:,}" for f in levels)))
    sampling(*(_share(Decimal(f.input_tokens_error), Decimal(f.input_tokens)) for f in levels))
    rows.append(("output tokens", *(f"{f.output_tokens:,}" for f in levels)))
    rows.append((estimate.prices.currency, *(money(f.cost) for f in levels)))
    sampling(*(_share(f.cost_error, f.cost) for f in levels))
    yield from table(rows)


def printed_elsewhere(estimate: Estimate) -> Iterator[str]:
    """The middle figure of the same calls with each model and in each region of the list; regions that are alike are
    named together."""
    alike: dict[tuple[str, Decimal, int], list[str]] = {}
    for (model, region), figures in estimate.elsewhere.items():
        alike.setdefault((model, figures.cost, sum(figures.refused.values())), []).append(region)
    rows, beside = [("The same elsewhere", f"{estimate.prices.currency}, middle", "refused")], ["regions"]
    for (model, cost, refused), regions in sorted(alike.items()):
        lines = textwrap.wrap(", ".join(regions), _REGIONS_WIDTH, break_on_hyphens=False)
        rows += [(model, money(cost), f"{refused:,}"), *[("", "", "")] * (len(lines) - 1)]
        beside += lines
    width = max(len(line) for line in table(rows))
    return (f"{line.ljust(width)}   {regions}" for line, regions in zip(table(rows), beside))


def printed_rerating(changes: DataFrame, prices: PriceList, other: PriceList) -> Iterator[str]:
    """The comparison as a person reads it: the workspaces that it changes most, and the sum of all."""
    sums = ("requests", "moved_requests", "only_here", "only_there", "amount", "other_amount", "difference")
    row = changes.agg(*(F.sum(name).alias(name) for name in (*sums, "moved_difference"))).collect()[0]
    if not row["requests"]:
        yield "No call can be billed by either list."
        return
    currency = prices.currency
    yield f"Prices now: {prices}"
    yield f"The others: {other}"
    yield ""
    most = changes.orderBy(F.abs("difference").desc(), "workspace_id", "model").limit(_SHOWN_CHANGES).collect()
    cells: list[tuple[str, ...]] = [
        ("workspace and model", "calls", "in another tier", f"{currency} now", f"{currency} then", "difference")
    ]
    for name, of in [*((f"{printable(r['workspace_id'])} {printable(r['model'])}", r) for r in most), ("all", row)]:
        counts = (f"{of['requests']:,}", f"{of['moved_requests']:,}")
        cells.append((name, *counts, *(money(of[n]) for n in ("amount", "other_amount", "difference"))))
    yield from table(cells)
    yield ""
    yield (
        f"{row['moved_requests']:,} calls are in another tier, which makes {money(row['moved_difference'])} {currency} "
        f"of the difference; {row['only_here']:,} calls are billed only now, {row['only_there']:,} only then."
    )


def _share(error: Decimal, of: Decimal) -> str:
    """An error bar as a percentage, rounded to a tenth."""
    if not of:
        return "± 0 %"
    share = (Decimal(100) * error / of).quantize(Decimal("0.1"), ROUND_HALF_UP)
    return f"± {share} %"
