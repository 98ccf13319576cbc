"""Why a usage row is not billed: every reason with its place in the order, what it means, and when it applies.

A call gets the first reason that applies. Whether a call has a price is decided in other forms as well, which must
agree with the conditions here: `prices.price_arrays` (the UDFs), `prices.sql_functions` (SQL) and `estimates.estimate`
(groups of prompts). The table tests/cases/reject_reasons.csv runs through all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Optional

from pyspark.sql import Column
from pyspark.sql import functions as F

from spark_billing.prices.price_list import PriceList
from spark_billing.prices.price_rows import NOT_IN_FORCE, OUT_OF_RANGE
from spark_billing.usage.calls import is_count


@dataclass(frozen=True)
class Reason:
    """A reason: its name in `reject_reason`, what it means, and its condition on a typed call with its found price."""

    name: str
    text: str
    applies: Optional[Callable[[PriceList], Column]]  # None: it takes other rows to tell (`usage.copies`)
    column: Optional[str] = None  # it is about, and not asked of calls that were taken without it


def _missing(column: str, of_what: str) -> Reason:
    def applies(prices: PriceList) -> Column:
        return F.col(column).isNull() | (F.col(column) == "")

    return Reason(f"missing_{column}", f"no {column}, or empty text: {of_what}", applies, column)


def _invalid_output(prices: PriceList) -> Column:
    count, free = F.col("output_tokens"), F.col("model").isin(*prices.models_without_output_price)
    return (count.isNull() & ~(F.col("output_missing") & free)) | ~is_count(count)


REASONS = (  # in this order
    _missing("request_id", "a repeat could not be told"),
    _missing("workspace_id", "nobody to bill"),
    _missing("region", "it chooses the price"),
    _missing("model", "it chooses the price"),
    Reason("missing_call_time", "no call_time, or none that can be read", lambda prices: F.col("call_time").isNull()),
    Reason(
        "invalid_input_tokens",
        "not a whole number from 0 on",
        lambda prices: F.col("input_tokens").isNull() | (F.col("input_tokens") < 0),
    ),
    Reason(
        "invalid_output_tokens",
        "not a whole number from 0 to 2^31-1; null is one only where the list bills no output of the model",
        _invalid_output,
    ),
    Reason("unknown_model", "the price list has no such model", lambda prices: ~F.col("model").isin(*prices.models)),
    Reason(
        "unknown_region",
        "the price list has the model, but never in this region",
        lambda prices: F.col("price_row").isNull() & F.col("no_price").isNull(),
    ),
    Reason(
        "no_price_in_force",
        "the price list has none for the time of the call",
        lambda prices: F.col("no_price") == NOT_IN_FORCE,
    ),
    Reason(
        "input_tokens_out_of_range",
        "no tier of the model holds so many input tokens; 0 are in none",
        lambda prices: F.col("no_price") == OUT_OF_RANGE,
    ),
    Reason("duplicate_request", "an identical copy of a billed call", None),
    Reason("conflicting_request", "other content under the ids of a billed call", None),
)
REJECT_REASONS = tuple(reason.name for reason in REASONS)
REASON_CODE = {name: code for code, name in enumerate(REJECT_REASONS, start=1)}


def reject_code(columns: Collection[str], prices: PriceList) -> Column:
    """The code of the first reason that applies to a typed call of these `columns` with its found price, or null."""
    code = F.lit(None).cast("int")
    for reason in reversed(REASONS):
        if reason.applies is not None and (reason.column is None or reason.column in columns):
            code = F.when(reason.applies(prices), F.lit(REASON_CODE[reason.name])).otherwise(code)
    return code


def reason_of(reject: Column) -> Column:
    """The name of a reason from its code; null for null."""
    name = F.element_at(F.array(*(F.lit(reason) for reason in REJECT_REASONS)), reject)
    return F.when(reject.isNotNull(), name)  # under ANSI, Spark 4.1 takes the last element for a null index
