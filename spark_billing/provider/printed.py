"""The comparison of the two bills as a finance person reads it."""

from __future__ import annotations

from collections.abc import Iterator

from spark_billing.core.hours import hour_label
from spark_billing.core.money import money
from spark_billing.core.text import printable, table
from spark_billing.provider.causes import CAUSES
from spark_billing.provider.comparison import Comparison


def printed_comparison(found: Comparison) -> Iterator[str]:
    """The comparison as a finance person reads it."""
    currency, net = found.currency, found.provider - found.discount
    by = ", ".join([found.grain, *(name.replace("_id", "").replace("_", " ") for name in found.dimensions)])
    yield f"Compared by {by}"
    yield ""
    cells = [("at list price", currency), ("our bill", money(found.ours)), ("the provider's", money(found.provider))]
    yield from table([*cells, ("difference (provider - ours)", money(found.difference))])
    yield ""
    if not found.causes:
        yield "No difference."
    else:
        rows = [(cause, f"{count:,}", money(difference)) for cause, count, difference in found.causes]
        count = sum(count for _, count, _ in found.causes)
        yield from table([("cause", "differences", currency), *rows, ("all", f"{count:,}", money(found.difference))])
        yield ""
        for cause, _, _ in found.causes:
            yield f"{cause}: {CAUSES[cause]}"
        yield ""
        yield f"The largest differences ({len(found.largest)} of {count:,})"
        yield from table(list(_largest(found)))
    if found.discount or found.vouchers:
        yield ""
        cells = [("the provider's list price, from above", money(found.provider)), ("discount", money(-found.discount))]
        cells += [("after discount", money(net)), ("vouchers", money(-found.vouchers))]
        yield from table([*cells, ("to pay", money(net - found.vouchers))])


def _largest(found: Comparison) -> Iterator[tuple[str, ...]]:
    yield ("what", "cause", "our tokens", "provider's", "our amount", "provider's", found.currency)
    length = {"hour": 13, "day": 10, "month": 7}[found.grain]
    for row in found.largest:
        names = [printable(row[name]) for name in found.dimensions if row[name] is not None]
        counts = [f"{row[n]:,.0f}" if row[n] is not None else "-" for n in ("our_tokens", "provider_tokens")]
        amounts = [money(row[name]) for name in ("our_amount", "provider_amount", "difference")]
        yield (" ".join([hour_label(row["hour"])[:length], *names]), row["cause"], *counts, *amounts)
