"""Our bill lines and the provider's rows, added up by what both tell: one group for each, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Optional

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from spark_billing.core.columns import period_end, period_start
from spark_billing.core.errors import ProviderBillError
from spark_billing.core.schemas import COST, PRICE, TOKENS
from spark_billing.provider.schemas import ADDEND

# so that the difference of two still has 12 decimals
MONEY = "decimal(36,12)"

COUNT = "decimal(20,0)"


def require_comparable(lines: DataFrame, provider: DataFrame, other_lines: Optional[DataFrame]) -> None:
    ours, theirs = sums_of(lines)["currencies"], sums_of(provider)["currencies"]
    if not ours and not theirs:
        raise ProviderBillError("neither we nor the provider billed anything in the period; nothing to compare")
    if len({*ours, *theirs}) > 1:
        raise ProviderBillError(
            f"our lines are in {', '.join(ours) or 'no currency'}, the provider's bill is in {', '.join(theirs)}; "
            "amounts are compared in one currency, never converted"
        )
    if other_lines is not None:
        counts = [frame.agg(F.sum(F.col("tokens").cast(COUNT))).collect()[0][0] for frame in (lines, other_lines)]
        if counts[0] != counts[1]:
            raise ProviderBillError(
                f"the lines under the other reading of K have {counts[1] or 0:,} tokens, ours {counts[0] or 0:,}; bill "
                "the same usage for both"
            )


def side_by_side(
    lines: DataFrame, provider: DataFrame, other_lines: Optional[DataFrame], dimensions: Sequence[str], grain: str
) -> DataFrame:
    keys = ["start", *dimensions]

    def at_grain(frame: DataFrame) -> DataFrame:
        return frame.withColumn("start", period_start(F.unix_seconds("period_start"), grain))

    def total(name: str, dtype: str) -> Column:
        return F.sum(F.col(name).cast(ADDEND if dtype == MONEY else COUNT)).cast(dtype)

    # what was billed and taken back again leaves no price
    by_price = at_grain(lines).groupBy(*keys, "currency", "price_per_1k")
    net = by_price.agg(total("tokens", COUNT).alias("tokens"), total("amount", MONEY).alias("amount"))
    price = F.when(F.col("tokens") != 0, token_price("price_per_1k"))
    ours = net.groupBy(*keys).agg(
        F.max("currency").alias("our_currency"),
        total("tokens", COUNT).alias("our_tokens"),
        total("amount", MONEY).alias("our_amount"),
        F.min(price).alias("lowest"),
        F.max(price).alias("highest"),
    )
    has_tokens, has_price = "tokens" in provider.columns, "price_per_1k" in provider.columns
    rows = at_grain(provider)
    rows = rows if has_tokens else rows.withColumn("tokens", F.lit(None).cast("bigint"))
    rows = rows if has_price else rows.withColumn("price_per_1k", F.lit(None).cast(PRICE))
    by_its_prices = F.col("tokens").cast(TOKENS) * token_price("price_per_1k")

    def of_all(value: Column, dtype: str) -> Column:
        """The sum if every row has a value: of some, it would be taken for the whole."""
        whole = F.count(value) == F.count(F.lit(1))
        return F.when(whole, F.sum(value).cast(dtype))

    theirs = rows.groupBy(*keys).agg(
        F.max("currency").alias("provider_currency"),
        F.count(F.lit(1)).alias("provider_rows"),
        of_all(F.col("tokens").cast(TOKENS), COUNT).alias("provider_tokens"),
        total("amount", MONEY).alias("provider_amount"),
        of_all(by_its_prices.cast(ADDEND), MONEY).alias("by_its_prices"),
        F.when(F.min("price_per_1k") == F.max("price_per_1k"), F.max("price_per_1k")).alias("provider_price_per_1k"),
    )
    groups = ours.join(theirs, keys, "full")
    if other_lines is not None:
        other = at_grain(other_lines).groupBy(*keys)
        sums = (total("tokens", COUNT).alias("other_tokens"), total("amount", MONEY).alias("other_amount"))
        groups = groups.join(other.agg(*sums, F.lit(True).alias("has_other")), keys, "full")
    else:
        groups = groups.withColumns({"other_tokens": F.lit(None).cast(COUNT), "other_amount": F.lit(None).cast(MONEY)})
    has_ours, has_theirs = F.col("our_tokens").isNotNull(), F.col("provider_rows").isNotNull()
    zero, nothing = F.lit(0).cast(COUNT), F.lit(0).cast(MONEY)
    there = groups.filter(has_ours | has_theirs).withColumns({"has_ours": has_ours, "has_theirs": has_theirs})
    return there.withColumns(
        {
            "our_tokens": F.coalesce("our_tokens", zero),
            "our_amount": F.coalesce("our_amount", nothing),
            # unknown where its rows do not tell, none where it has no row
            "provider_tokens": F.when(has_theirs, F.col("provider_tokens")).otherwise(zero),
            "provider_amount": F.coalesce("provider_amount", nothing),
            "provider_rows": F.coalesce("provider_rows", F.lit(0)),
            "other_tokens": F.coalesce("other_tokens", zero) if other_lines is not None else F.lit(None).cast(COUNT),
            "other_amount": F.coalesce("other_amount", nothing) if other_lines is not None else F.col("other_amount"),
            "end": period_end(F.col("start"), grain),
            "currency": F.coalesce("our_currency", "provider_currency"),
        }
    )


def sums_of(frame: DataFrame, *names: str) -> dict[str, Any]:
    sums = (F.sum(F.col(name).cast(ADDEND)).alias(name) for name in ("amount", *names))
    row = frame.agg(*sums, F.collect_set("currency").alias("currencies")).collect()[0]
    return {name: Decimal(0) if value is None else value for name, value in row.asDict().items()}


def token_price(name: str) -> Column:
    """The price of one token from that of 1,000."""
    return (F.col(name).cast("decimal(15,9)") * F.lit("0.001").cast("decimal(3,3)")).cast(COST)
