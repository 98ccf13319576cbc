"""What a comparison of the two bills came to: totals and causes, kept as JSON, and printed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_billing.core.errors import TotalsError, UsageError
from spark_billing.core.json_fields import amount_of, json_object, text_of, whole_of
from spark_billing.core.money import add, money, subtract
from spark_billing.provider.causes import CAUSES
from spark_billing.provider.groups import sums_of
from spark_billing.provider.mapping import DIMENSIONS
from spark_billing.provider.schemas import ADDEND


@dataclass(frozen=True)
class Cause:
    """Why some rows of two bills differ, and by how much in all."""

    cause: str
    rows: int
    difference: Decimal


@dataclass(frozen=True)
class Reconciliation:
    """Our bill beside the provider's. The difference is theirs less ours, or ours less theirs: as its maker has it."""

    currency: str
    ours: Decimal
    provider: Decimal
    difference: Decimal
    causes: Sequence[Cause]

    @property
    def unexplained(self) -> Decimal:
        """What the causes leave of the difference."""
        return add(self.difference, *(-cause.difference for cause in self.causes))

    @classmethod
    def parse(cls, text: str) -> Reconciliation:
        """From JSON; `UsageError` says what is wrong."""
        what = "reconciliation"
        found = json_object(what, text)
        ours, provider, difference = (amount_of(what, found, name) for name in ("ours", "provider", "difference"))
        if difference not in (add(provider, -ours), add(ours, -provider)):
            raise UsageError(f"the {what} does not add up: {ours:f} and {provider:f} do not differ by {difference:f}")
        listed = found.get("causes")
        if not isinstance(listed, list) or not all(isinstance(cause, dict) for cause in listed):
            raise UsageError(f"the {what} has no list of objects causes")
        causes = [
            Cause(text_of(what, cause, "cause"), whole_of(what, cause, "rows"), amount_of(what, cause, "difference"))
            for cause in listed
        ]
        return cls(text_of(what, found, "currency"), ours, provider, difference, causes)


_SHOWN_DIFFERENCES = 10  # differences in the printed summary

_DIFFERENCE_ORDER = ("period_start", *DIMENSIONS, "cause")


@dataclass(frozen=True)
class Comparison:
    """What a comparison came to: both totals, and the differences by cause, all by the list price."""

    currency: str
    ours: Decimal
    provider: Decimal
    discount: Decimal
    vouchers: Decimal
    causes: Sequence[tuple[str, int, Decimal]]  # cause, rows, difference
    largest: Sequence[Any]
    dimensions: Sequence[str]
    grain: str

    @property
    def difference(self) -> Decimal:
        return subtract(self.provider, self.ours)

    @property
    def explained(self) -> bool:
        return all(cause != "unexplained" for cause, _, _ in self.causes)

    def as_json(self) -> dict[str, Any]:
        """What `Reconciliation.parse` reads: amounts as plain text."""
        return {
            "currency": self.currency,
            "ours": f"{self.ours:f}",
            "provider": f"{self.provider:f}",
            "difference": f"{self.difference:f}",
            "causes": [
                {"cause": cause, "rows": rows, "difference": f"{difference:f}"}
                for cause, rows, difference in self.causes
            ],
        }


def summarize(lines: DataFrame, provider: DataFrame, differences: DataFrame, grain: str) -> Comparison:
    """Totals of both sides and the differences by cause; `TotalsError` if these do not add up to the whole."""
    ours, theirs = (sums_of(frame, *names) for frame, names in ((lines, ()), (provider, ("discount", "vouchers"))))
    by_cause = (
        differences.groupBy("cause")
        .agg(F.count(F.lit(1)).alias("rows"), F.sum(F.col("difference").cast(ADDEND)).alias("difference"))
        .collect()
    )
    found = {row["cause"]: (row["rows"], row["difference"]) for row in by_cause}
    causes = [(cause, *found[cause]) for cause in CAUSES if cause in found]
    explained = add(*(difference for _, _, difference in causes))
    total = subtract(theirs["amount"], ours["amount"])
    if explained != total:
        raise TotalsError(
            f"the differences add up to {money(explained)}, but the totals differ by {money(total)}; "
            "this is a mistake in spark_billing"
        )
    largest = differences.orderBy(F.abs("difference").desc(), *_DIFFERENCE_ORDER).limit(_SHOWN_DIFFERENCES)
    shown = largest.withColumn("hour", F.unix_seconds("period_start")).collect()
    dimensions = [name for name in DIMENSIONS if name in provider.columns]
    amounts = (ours["amount"], theirs["amount"], theirs["discount"], theirs["vouchers"])
    return Comparison((ours["currencies"] or theirs["currencies"])[0], *amounts, causes, shown, dimensions, grain)
