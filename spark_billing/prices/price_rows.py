"""Calls -> rated calls, in native columns: a broadcast join to the price row of each single request."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, Optional

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_billing.core.schemas import COST, PRICE, REJECT_REASONS
from spark_billing.prices.price_list import BEGINNING_US, END_US, Price, PriceList, periods

REASON_CODE = {reason: code for code, reason in enumerate(REJECT_REASONS, start=1)}

_CELL = (
    "cell_model string, cell_region string, from_us bigint, to_us bigint, above_tokens bigint, up_to_tokens bigint, "
    "price_row int, price_reject int, input_nano bigint, output_nano bigint, price_id string, tier string"
)
_PRICE_ROW = (
    "price_row int, model string, region string, tier string, price_id string, currency string, "
    f"input_price {PRICE.simpleString()}, output_price {PRICE.simpleString()}, "
    f"input_token_price {COST.simpleString()}, output_token_price {COST.simpleString()}"
)


def find_price(calls: DataFrame, prices: PriceList) -> DataFrame:
    """Adds to each call `price_row` (an index of `prices.prices`), its names and the prices of one token in 10^-12, or
    the code of why it has no price (`price_reject`); all are null where the list has no row for the model and region at
    any time. What a query does not use of this, Spark prunes."""
    cells = F.broadcast(literal_rows(calls.sparkSession, _CELL, _cells(prices)))
    at, tokens = F.unix_micros("call_time"), F.col("input_tokens")
    in_cell = (
        (F.col("model") == F.col("cell_model"))
        & (F.col("region") == F.col("cell_region"))
        & (at >= F.col("from_us"))
        & (at < F.col("to_us"))
        & (tokens > F.col("above_tokens"))
        & (tokens <= F.col("up_to_tokens"))
    )
    found = ("price_row", "price_reject", "input_nano", "output_nano", "price_id", "tier")
    return calls.join(cells, in_cell, "left").select(calls["*"], *found)


def price_rows(spark: SparkSession, prices: PriceList) -> DataFrame:
    """The rows of a price list for the rated sums: `price_row`, its names, and prices of 1,000 tokens and of one."""
    return literal_rows(
        spark,
        _PRICE_ROW,
        (
            {
                "price_row": number,
                "model": p.model,
                "region": p.region,
                "tier": p.tier,
                "price_id": p.price_id,
                "currency": p.currency,
                "input_price": plain_units(p.input_nano, 9),
                "input_token_price": plain_units(
                    p.input_nano, 12
                ),  # a price per 1,000 in 10^-9 is one per token in 10^-12
                "output_price": plain_units(p.output_nano, 9),
                "output_token_price": plain_units(p.output_nano, 12),
            }
            for number, p in enumerate(prices.prices)
        ),
    )


def literal_rows(spark: SparkSession, schema: str, rows: Iterable[dict[str, Any]]) -> DataFrame:
    """A small table that stands in the plan as one literal: no Python rows to ship, no data set to scan."""
    content = F.from_json(F.lit(json.dumps(list(rows))), f"array<struct<{schema}>>")
    return spark.range(0, 1, 1, 1).select(F.inline(content))


def _cells(prices: PriceList) -> Iterator[dict[str, Any]]:
    """For each model and region of the list, cells that cover all of time and all token counts once: the priced tiers,
    and where there is none, why. So one join finds the price or the reason, and never two."""
    by_key: dict[tuple[str, str], list[tuple[int, Price]]] = {}
    for number, price in enumerate(prices.prices):
        by_key.setdefault((price.model, price.region), []).append((number, price))
    for (model, region), rows in by_key.items():
        for start, end in periods(price for _, price in rows):
            in_force = sorted(
                ((n, p) for n, p in rows if p.from_us <= start < p.to_us), key=lambda row: row[1].min_input_tokens
            )
            cell = {"cell_model": model, "cell_region": region, "from_us": start, "to_us": end}
            if not in_force:
                reason = REASON_CODE["no_price_in_force"]
                yield {**cell, "above_tokens": BEGINNING_US, "up_to_tokens": END_US, "price_reject": reason}
                continue
            for number, p in in_force:
                yield {
                    **cell,
                    "above_tokens": p.min_input_tokens,
                    "up_to_tokens": p.max_input_tokens,
                    "price_row": number,
                    "input_nano": p.input_nano,
                    "output_nano": p.output_nano or 0,
                    "price_id": p.price_id,
                    "tier": p.tier,
                }
            reason = REASON_CODE["input_tokens_out_of_range"]
            lowest, highest = in_force[0][1].min_input_tokens, in_force[-1][1].max_input_tokens
            yield {**cell, "above_tokens": BEGINNING_US, "up_to_tokens": lowest, "price_reject": reason}
            yield {**cell, "above_tokens": highest, "up_to_tokens": END_US, "price_reject": reason}


def plain_units(units: Optional[int], scale: int) -> Optional[str]:
    """So many units of 10^-scale as plain text."""
    if units is None:
        return None
    digits = str(units).zfill(scale + 1)
    return f"{digits[:-scale]}.{digits[-scale:]}"


def cost_of(pico: Column) -> Column:
    """Whole 10^-12 of the currency as decimal(18,12), exactly, whatever the session's decimal settings."""
    return (pico.cast("decimal(18,0)") * F.lit("0.000000000001").cast("decimal(12,12)")).cast(COST)
