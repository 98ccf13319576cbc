"""Typed calls -> rated calls: each with its price, or with the code of the reason why it is not billed."""

from __future__ import annotations

from collections.abc import Collection

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from spark_billing.core.schemas import COST
from spark_billing.prices.price_list import PriceList
from spark_billing.prices.price_rows import cost_of, find_price
from spark_billing.usage.calls import countable
from spark_billing.usage.reasons import reject_code


def rate_calls(calls: DataFrame, prices: PriceList, columns: Collection[str]) -> DataFrame:
    """Adds the price of each typed call (`price_rows.find_price`), and in `reject` the code of why it is not billed."""
    return find_price(calls, prices).withColumn("reject", reject_code(columns, prices))


def pico_cost(token_type: str, prefix: str = "") -> Column:
    """The input or output cost of a rated call in whole 10^-12 of the currency."""
    return countable(F.col(f"{token_type}_tokens")) * F.col(f"{prefix}{token_type}_pico_per_token")


def with_costs(rated: DataFrame) -> DataFrame:
    """Adds `price_id, tier, input_cost, output_cost, cost` to rated calls, null for the rejected ones."""
    of_input, of_output = pico_cost("input"), pico_cost("output")
    fine = F.col("reject").isNull()
    return rated.withColumns(
        {
            "price_id": F.when(fine, F.col("price_id")),
            "tier": F.when(fine, F.col("tier")),
            "input_cost": F.when(fine, cost_of(of_input)).cast(COST),
            "output_cost": F.when(fine, cost_of(of_output)).cast(COST),
            "cost": F.when(fine, cost_of(of_input + of_output)).cast(COST),
        }
    )
