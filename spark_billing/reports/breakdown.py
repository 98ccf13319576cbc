"""A total and its parts, by workspace, by model and so on: the dearest by name and all others in one row, so that the
parts always add up."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from decimal import Decimal
from functools import reduce
from typing import Optional

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from spark_billing.core.errors import TotalsError
from spark_billing.core.money import add
from spark_billing.core.schemas import AMOUNT, TOTAL_TOKENS
from spark_billing.ledger.difference import ORIGINAL

WHOLE_KINDS = ("entry", "hour", "currency")  # lists of a statement or report that are never cut


@dataclass(frozen=True)
class Sums:
    """What some ledger lines come to. Requests and tokens may be below 0: of lines that take something back."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    original: Decimal = Decimal(0)
    adjustments: Decimal = Decimal(0)

    @property
    def amount(self) -> Decimal:
        return add(self.original, self.adjustments)

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            self.requests + other.requests,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            add(self.original, other.original),
            add(self.adjustments, other.adjustments),
        )


@dataclass(frozen=True)
class Part:
    """One workspace, model or tag, or all that are not shown by name."""

    name: Optional[str]  # null: the lines that have none, such as those without this tag; or the others
    sums: Sums
    others: int = 0  # how many this row stands for; 0: it stands for itself


def breakdown(
    lines: DataFrame, kinds: Mapping[str, Column], *, top: int, whole: Collection[str] = ()
) -> dict[str, list[Part]]:
    """The parts of ledger lines by each kind, the dearest first: `top` and the others, or all of a `whole` kind.

    One pass over the lines, and no more rows collected than are shown.
    """
    each = F.array(
        *(F.struct(F.lit(kind).alias("kind"), name.cast("string").alias("name")) for kind, name in kinds.items())
    )
    parts = lines.select(F.explode(each).alias("part"), *_measures()).select("part.*", *_SUMMED)
    summed = parts.groupBy("kind", "name").agg(*_added_up())
    order = (F.col("amount").desc(), F.col("name").asc_nulls_last())
    ranked = summed.withColumn("rank", F.row_number().over(Window.partitionBy("kind").orderBy(*order)))
    shown = (F.col("rank") <= top) | F.col("kind").isin(*whole)
    rows = (
        ranked.withColumns({name: F.when(shown, F.col(name)) for name in ("rank", "name")})
        .groupBy("kind", "rank", "name")
        .agg(*_added_up(), F.count(F.lit(1)).alias("others"))
        .orderBy("kind", F.col("rank").asc_nulls_last())
        .collect()
    )
    found: dict[str, list[Part]] = {kind: [] for kind in kinds}
    for row in rows:
        requests, input_tokens, output_tokens = (int(row[name]) for name in _NAMES[:3])
        sums = Sums(requests, input_tokens, output_tokens, row["original"], row["adjustments"])
        found[row["kind"]].append(Part(row["name"], sums, 0 if row["rank"] is not None else row["others"]))
    return found


def total_of(parts: Iterable[Part]) -> Sums:
    return reduce(Sums.__add__, (part.sums for part in parts), Sums())


def prove(total: Sums, parts: Mapping[str, Sequence[Part]]) -> None:
    """`TotalsError` if the parts of any kind are not the total."""
    for kind, of_kind in parts.items():
        found = total_of(of_kind)
        if found != total:
            raise TotalsError(
                f"the parts by {kind} come to {found}, and the total is {total}. Nothing was written; this is a "
                "mistake in spark_billing, or the ledger was changed meanwhile."
            )


def sums_by(lines: DataFrame, *by: str) -> DataFrame:
    """What ledger lines come to by some of their columns: the fields of `Sums`, and `amount`."""
    return lines.select(*by, *_measures()).groupBy(*by).agg(*_added_up())


_NAMES = tuple(field.name for field in fields(Sums))
_SUMMED = (*_NAMES, "amount")


def _measures() -> Iterator[Column]:
    """What each line adds to: a request is counted in its input line, which every price row has."""
    zero, nothing = F.lit(0).cast(TOTAL_TOKENS), F.lit(0).cast(AMOUNT)
    of_input, original = F.col("token_type") == "input", F.col("entry") == ORIGINAL
    yield F.when(of_input, F.col("requests").cast(TOTAL_TOKENS)).otherwise(zero).alias("requests")
    yield F.when(of_input, F.col("tokens").cast(TOTAL_TOKENS)).otherwise(zero).alias("input_tokens")
    yield F.when(of_input, zero).otherwise(F.col("tokens").cast(TOTAL_TOKENS)).alias("output_tokens")
    yield F.when(original, F.col("amount")).otherwise(nothing).alias("original")
    yield F.when(original, nothing).otherwise(F.col("amount")).alias("adjustments")
    yield F.col("amount")


def _added_up() -> Iterator[Column]:
    for name in _NAMES[:3]:
        yield F.sum(name).cast(TOTAL_TOKENS).alias(name)
    for name in _SUMMED[3:]:
        yield F.sum(name).cast(AMOUNT).alias(name)
