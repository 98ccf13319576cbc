"""The control totals of a run: what becomes of its usage, in calls and tokens, and the proof that nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Optional

from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from spark_billing.core.columns import total
from spark_billing.core.errors import TotalsError
from spark_billing.prices.price_list import PriceList
from spark_billing.usage.reasons import REJECT_REASONS, name_of

TOKEN_COLUMNS = ("input_tokens", "output_tokens")
KINDS = ("read", "billed", "rejected", "open", "too_old", "charged")  # what becomes of calls; of tokens also charged
_ALWAYS = ("read", "billed", "rejected")


def sums_by_fate(sums: DataFrame, prices: PriceList) -> list[Row]:
    """The rows of `sums.sum_calls` added up by hour, reject code and whether the list bills their output."""
    no_output_price = [n for n, price in enumerate(prices.prices) if price.output_price_per_1k is None]
    by = ("hour", "reject", F.col("price_row").isin(no_output_price).alias("free_output"))
    return sums.groupBy(*by).agg(*(total(F.col(name)).alias(name) for name in ("requests", *TOKEN_COLUMNS))).collect()


@dataclass(frozen=True)
class ControlTotals:
    """The usage of a run, summed (`sums_by_fate`), with the hours, in epoch seconds, that are not billed."""

    sums: Sequence[Row]
    open_from: Optional[int]  # hours from here on are still open; None: none is
    old_until: Optional[int]  # hours before this are too old; None: none is

    def by_kind(self) -> dict[str, dict[str, int]]:
        """Requests and tokens by what becomes of them; `charged` are billed tokens that the list has a price for."""
        sums = {kind: dict.fromkeys(("requests", *TOKEN_COLUMNS), 0) for kind in KINDS}
        for row, kind in self._with_kinds():
            for name in ("requests", *TOKEN_COLUMNS):
                sums["read"][name] += int(row[name])
                sums[kind][name] += int(row[name])
                if kind == "billed":
                    sums["charged"][name] += 0 if row["free_output"] and name == "output_tokens" else int(row[name])
        return sums

    def rejected(self) -> dict[str, int]:
        """The rejected rows of the covered hours by reason, in the order of the reasons."""
        rows: dict[str, int] = {}
        for row, kind in self._with_kinds():
            if kind == "rejected":
                reason = name_of(row["reject"])
                rows[reason] = rows.get(reason, 0) + int(row["requests"])
        return {reason: rows[reason] for reason in REJECT_REASONS if reason in rows}

    def calls_from(self, hour: int) -> int:
        """The calls dated in this hour, in epoch seconds, or later."""
        return sum(int(row["requests"]) for row in self.sums if row["hour"] is not None and row["hour"] >= hour)

    def kinds(self) -> list[str]:
        """The kinds of rows that there are, and those that are always told."""
        sums = self.by_kind()
        return [kind for kind in KINDS[:-1] if kind in _ALWAYS or sums[kind]["requests"]]

    def _with_kinds(self) -> Iterator[tuple[Row, str]]:
        for row in self.sums:
            kind, hour = "billed" if row["reject"] is None else "rejected", row["hour"]
            if hour is not None and self.open_from is not None and hour >= self.open_from:
                kind = "open"
            elif hour is not None and self.old_until is not None and hour < self.old_until:
                kind = "too_old"
            yield row, kind


def balance(what: str, expected: object, where: str, found: object) -> None:
    """`TotalsError` if what was found is not what was expected."""
    if expected != found:
        raise TotalsError(
            f"the totals do not balance: {what} {expected}, {where} {found}. Nothing was published. "
            "If the usage table was written to during the run, run it again."
        )
