"""The price list as a table to join, in native columns: the price row of each single request, or why it has none."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any, Optional

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_billing.core.columns import literal_rows
from spark_billing.core.schemas import COST, PRICE
from spark_billing.prices.price import Price, periods
from spark_billing.prices.price_list import PriceList

NOT_IN_FORCE, OUT_OF_RANGE = 1, 2  # why a model and region of the list have no price for a call: at its time, its size

_BOX = (
    "box_model string, box_region string, from_us bigint, to_us bigint, above_tokens bigint, up_to_tokens bigint, "
    "price_row int, no_price int, input_pico_per_token bigint, output_pico_per_token bigint, price_id string, "
    "tier string"
)

_BOUNDS = ("box_model", "box_region", "from_us", "to_us", "above_tokens", "up_to_tokens")  # what calls are in a box
_NO_LOWER_BOUND, _NO_UPPER_BOUND = -(2**63), 2**63 - 1  # of tokens: an open end of a box

_PRICE_ROW = (
    "price_row int, model string, region string, tier string, price_id string, currency string, "
    f"input_price {PRICE.simpleString()}, output_price {PRICE.simpleString()}, "
    f"input_token_price {COST.simpleString()}, output_token_price {COST.simpleString()}"
)


def find_price(calls: DataFrame, prices: PriceList) -> DataFrame:
    """Adds to each call `price_row` (an index of `PriceList.prices`), its names and the prices of one token in 10^-12,
    or why it has none in `no_price`; all are null where the list has no row for the model and region at any time. What
    a query does not use of this, Spark prunes."""
    boxes = F.broadcast(literal_rows(calls.sparkSession, _BOX, _boxes(prices)))
    at, tokens = F.unix_micros("call_time"), F.col("input_tokens")
    in_box = (
        (F.col("model") == F.col("box_model"))
        & (F.col("region") == F.col("box_region"))
        & (at >= F.col("from_us"))
        & (at < F.col("to_us"))
        & (tokens > F.col("above_tokens"))
        & (tokens <= F.col("up_to_tokens"))
    )
    return calls.join(boxes, in_box, "left").drop(*_BOUNDS)


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
                "input_price": _plain(p.input_price_per_1k),
                "input_token_price": p.input_token_price,
                "output_price": _plain(p.output_price_per_1k),
                "output_token_price": p.output_token_price,
            }
            for number, p in enumerate(prices.prices)
        ),
    )


def _plain(price: Optional[Decimal]) -> Optional[str]:
    return None if price is None else f"{price:f}"


def _boxes(prices: PriceList) -> Iterator[dict[str, Any]]:
    """For each model and region of the list, boxes that cover all of time and all token counts once: the priced tiers,
    and where there is none, why. So one join finds the price or the reason, and never two."""
    by_key: dict[tuple[str, str], list[tuple[int, Price]]] = {}
    for number, price in enumerate(prices.prices):
        by_key.setdefault((price.model, price.region), []).append((number, price))
    for (model, region), rows in by_key.items():
        for start, end in periods(price for _, price in rows):
            in_force = sorted(
                ((n, p) for n, p in rows if p.is_in_force(start)), key=lambda row: row[1].min_input_tokens
            )
            box = {"box_model": model, "box_region": region, "from_us": start, "to_us": end}
            below_all, above_all = {"above_tokens": _NO_LOWER_BOUND}, {"up_to_tokens": _NO_UPPER_BOUND}
            if not in_force:
                yield {**box, **below_all, **above_all, "no_price": NOT_IN_FORCE}
                continue
            for number, p in in_force:
                yield {
                    **box,
                    "above_tokens": p.min_input_tokens,
                    "up_to_tokens": p.max_input_tokens,
                    "price_row": number,
                    "input_pico_per_token": p.input_pico_per_token,
                    "output_pico_per_token": p.output_pico_per_token or 0,
                    "price_id": p.price_id,
                    "tier": p.tier,
                }
            lowest, highest = in_force[0][1].min_input_tokens, in_force[-1][1].max_input_tokens
            yield {**box, **below_all, "up_to_tokens": lowest, "no_price": OUT_OF_RANGE}
            yield {**box, "above_tokens": highest, **above_all, "no_price": OUT_OF_RANGE}


def cost_of(pico: Column) -> Column:
    """Whole 10^-12 of the currency as decimal(18,12), exactly, whatever the session's decimal settings."""
    return (pico.cast("decimal(18,0)") * F.lit("0.000000000001").cast("decimal(12,12)")).cast(COST)
