"""Why a usage row is not billed: every reason with its place in the order, what it means, and when it applies.

A call gets the first reason that applies. Whether a call has a price is decided in other forms as well, which must
agree with the conditions here: `prices.price_arrays` (the UDFs), `prices.sql_functions` (SQL) and `estimates.estimate`
(groups of prompts). The table tests/cases/reject_reasons.csv runs through all of them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Optional

from pyspark.sql import Column
from pyspark.sql import functions as F

from spark_billing.prices.price import MAX_TOKENS
from spark_billing.prices.price_list import PriceList
from spark_billing.prices.price_rows import NOT_IN_FORCE, OUT_OF_RANGE
from spark_billing.prices.sql_functions import sql_in


@dataclass(frozen=True)
class Reason:
    """A reason: its name in `reject_reason`, what it means, and its condition on a typed call with its found price."""

    name: str
    text: str
    applies: Optional[str]  # Spark SQL; None: it takes other rows to tell (`usage.copies`)
    column: Optional[str] = None  # it is about, and not asked of calls that were taken without it


def _missing(column: str, of_what: str, no_text: str = "or empty text") -> Reason:
    text = f"no {column}, {no_text}: {of_what}"
    return Reason(f"missing_{column}", text, f"{column} IS NULL OR {column} = ''", column)


_NO_ID = "or empty text, None, null or nan"  # typed calls have null for these (`calls.no_id`)


REASONS = (  # in this order
    _missing("request_id", "a repeat could not be told", _NO_ID),
    _missing("workspace_id", "nobody to bill", _NO_ID),
    _missing("region", "it chooses the price"),
    _missing("model", "it chooses the price"),
    Reason("missing_call_time", "no call_time, or none that can be read", "call_time IS NULL AND NOT time_ambiguous"),
    Reason(
        "ambiguous_call_time",
        "a local time that exists twice, or not at all, where the clock of its zone is changed",
        "time_ambiguous",
    ),
    Reason(
        "invalid_input_tokens",
        "not a whole number from 0 on",
        "input_tokens IS NULL OR input_tokens < 0",
    ),
    Reason(
        "invalid_output_tokens",
        "not a whole number from 0 to 2^31-1; null is one only where the list bills no output of the model",
        "(output_tokens IS NULL AND NOT (output_missing AND {bills_no_output}))"
        f" OR output_tokens NOT BETWEEN 0 AND {MAX_TOKENS}",
    ),
    Reason("unknown_model", "the price list has no such model", "NOT {is_known}"),
    Reason(
        "unknown_region",
        "the price list has the model, but never in this region",
        "price_row IS NULL AND no_price IS NULL",
    ),
    Reason("no_price_in_force", "the price list has none for the time of the call", f"no_price = {NOT_IN_FORCE}"),
    Reason(
        "input_tokens_out_of_range",
        "no tier of the model holds so many input tokens; 0 are in none",
        f"no_price = {OUT_OF_RANGE}",
    ),
    Reason("duplicate_request", "an identical copy of a billed call", None),
    Reason("conflicting_request", "other content under the ids of a billed call", None),
)
REJECT_REASONS = tuple(reason.name for reason in REASONS)
REASON_CODE = {name: code for code, name in enumerate(REJECT_REASONS, start=1)}


def reject_code(columns: Collection[str], prices: PriceList) -> Column:
    """The code of the first reason that applies to a typed call of these `columns` with its found price, or null."""
    of_list = {
        "bills_no_output": sql_in("model", prices.models_without_output_price),
        "is_known": sql_in("model", prices.models),
    }
    asked = (reason for reason in REASONS if reason.column is None or reason.column in columns)
    whens = [f"WHEN {r.applies.format(**of_list)} THEN {REASON_CODE[r.name]}" for r in asked if r.applies is not None]
    return F.expr(f"CASE {' '.join(whens)} END")


def reason_of(reject: Column) -> Column:
    """The name of a reason from its code; null for null."""
    name = F.element_at(F.array(*(F.lit(reason) for reason in REJECT_REASONS)), reject)
    return F.when(reject.isNotNull(), name)  # under ANSI, Spark 4.1 takes the last element for a null index


def name_of(code: int) -> str:
    """The name of a reason from its code, in plain Python."""
    return REJECT_REASONS[code - 1]
