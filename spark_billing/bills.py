"""Rated calls -> bill lines -> bills: whole tokens are summed per price row, and each sum is multiplied once.

Within a tier the cost is linear, so this is the sum of the requests' costs to the last digit, at little more than the
price of counting.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from spark_billing.calls import billing_date, billing_hour, quoted, usage_field
from spark_billing.errors import UsageError
from spark_billing.price_list import PriceList
from spark_billing.rating import price_rows
from spark_billing.schemas import (
    AMOUNT,
    BILL_LINES,
    BILLS,
    COST,
    SECONDS_PER_HOUR,
    TAGS,
)
from spark_billing.usage import countable, rate_usage, reason_of

Pricing = Literal["native", "udf"]


def bill_lines(
    checked: DataFrame, *, prices: PriceList, group_by_tags: Sequence[str] = (), pricing: Pricing = "native"
) -> DataFrame:
    """Checked calls -> one line per workspace, UTC+8 hour, region, model, token type, tier and price (`BILL_LINES`).

    `checked` is what `check_usage` returns for the same price list; rejected rows are left out. `amount` is exactly
    tokens x price per 1,000 tokens / 1,000. `group_by_tags` adds a column `tag_KEY` to the key for each KEY of the
    usage column `tags`. `pricing="udf"` prices each request with the vectorized UDF and adds up: the same lines, at a
    higher price. The query fails on a row that is neither rejected nor has exactly one price. `UsageError` if the
    columns do not fit.

    Examples
    --------
    >>> prices = PriceList.bundled("emr-serverless-spark", currency="USD")
    >>> made = bill_lines(check_usage(usage, prices=prices), prices=prices)
    >>> made.select("workspace_id", "token_type", "tier", "tokens", "amount").orderBy("token_type").show()
    +------------+----------+------+------+--------------+
    |workspace_id|token_type|  tier|tokens|        amount|
    +------------+----------+------+------+--------------+
    |         w-1|     input|0-128K|   260|0.000035880000|
    |         w-1|    output|0-128K|    50|0.000017200000|
    +------------+----------+------+------+--------------+
    """
    if usage_field(checked, "reject_reason") is None:
        raise UsageError("the calls have no column reject_reason; pass them through check_usage first")
    kept = checked.filter(F.col("reject_reason").isNull())
    rated = rate_usage(kept, prices, duplicates=False)
    unpriced = F.raise_error(
        F.concat(F.lit("bill_lines: a row is not rejected, but has no price: "), reason_of(F.col("reject")))
    )
    rated = rated.withColumn(
        "price_row", F.when(F.col("reject").isNull(), F.col("price_row")).otherwise(unpriced.cast("int"))
    ).withColumn("reject", F.lit(None).cast("int"))
    return lines_of_sums(sum_calls(rated, prices, group_by_tags, pricing), prices)


def hourly_bills(lines: DataFrame) -> DataFrame:
    """Bill lines -> one bill per workspace, UTC+8 hour and currency (`BILLS`): the sum of its lines, never rounded.

    Examples
    --------
    >>> hourly_bills(lines).select("workspace_id", "billing_date", "billing_hour", "requests", "amount").show()
    +------------+------------+------------+--------+--------------+
    |workspace_id|billing_date|billing_hour|requests|        amount|
    +------------+------------+------------+--------+--------------+
    |         w-1|  2026-04-08|           0|       1|0.000053080000|
    +------------+------------+------------+--------+--------------+
    """
    of_input, of_output = F.col("token_type") == "input", F.col("token_type") == "output"
    zero = F.lit(0).cast("bigint")
    return (
        lines.groupBy("workspace_id", "period_start", "period_end", "billing_date", "billing_hour", "currency")
        .agg(
            F.sum(F.when(of_input, F.col("requests")).otherwise(zero)).alias("requests"),
            F.sum(F.when(of_input, F.col("tokens")).otherwise(zero)).alias("input_tokens"),
            F.sum(F.when(of_output, F.col("tokens")).otherwise(zero)).alias("output_tokens"),
            F.sum("amount").cast(AMOUNT).alias("amount"),
        )
        .select(*BILLS.fieldNames())
    )


def sum_calls(
    rated: DataFrame, prices: PriceList, group_by_tags: Sequence[str] = (), pricing: Pricing = "native"
) -> DataFrame:
    """Rated calls -> whole sums: the one pass over the calls, for the bill and for the control totals alike.

    One row per workspace, hour, price row and tags, and one per hour and reason for the rejected (`reject` not null).
    `hour` is in epoch seconds, null for calls without a time. With `pricing="udf"` amounts are summed as well.
    """
    fine = F.col("reject").isNull()
    measures = [
        F.count(F.lit(1)).alias("requests"),
        F.sum(countable(F.col("input_tokens"))).alias("input_tokens"),
        F.sum(countable(F.col("output_tokens"))).alias("output_tokens"),
    ]
    price_row = F.when(fine, F.col("price_row"))
    if pricing == "udf":
        from spark_billing.udfs import model_call_cost, price_row_number  # only here is Arrow needed

        cost, call = model_call_cost(prices), [F.col(name) for name in ("model", "region", "input_tokens")]
        rated = rated.withColumns(
            {
                "udf_row": price_row_number(prices)(*call, "output_tokens", "call_time"),
                "udf_input_cost": cost(*call, F.lit(0).cast("bigint"), "call_time"),
                "udf_cost": cost(*call, "output_tokens", "call_time"),
            }
        )
        # request by request: after the sum, the difference of two decimal(38,12) would lose its last digit
        rated = rated.withColumn("udf_output_cost", (F.col("udf_cost") - F.col("udf_input_cost")).cast(COST))
        unpriced = F.raise_error(F.lit("the UDF has no price for a call that is not rejected"))
        price_row = F.when(fine, F.coalesce(F.col("udf_row").cast("int"), unpriced.cast("int")))
        measures += [
            F.sum(F.when(fine, F.col(name))).cast(AMOUNT).alias(name) for name in ("udf_input_cost", "udf_output_cost")
        ]
    seconds = F.unix_seconds("call_time")
    return rated.groupBy(
        F.when(fine, F.col("workspace_id")).alias("workspace_id"),
        (seconds - F.pmod(seconds, F.lit(SECONDS_PER_HOUR))).alias("hour"),
        price_row.alias("price_row"),
        F.col("reject"),
        *(F.when(fine, tag).alias(tag_column(key)) for key, tag in _tags(rated, group_by_tags)),
    ).agg(*measures)


def lines_of_sums(sums: DataFrame, prices: PriceList) -> DataFrame:
    """The bill lines of the sums of `sum_calls`: an input line each, and an output line where output is billed."""
    tags = [name for name in sums.columns if name.startswith(tag_column(""))]
    native = "udf_input_cost" not in sums.columns
    rows = F.broadcast(price_rows(sums.sparkSession, prices))
    priced = sums.filter(F.col("reject").isNull()).join(rows, "price_row")

    def charge(token_type: str) -> Column:
        tokens, token_price = F.col(f"{token_type}_tokens"), F.col(f"{token_type}_token_price")
        # decimal(19,0) x decimal(18,12) is decimal(38,12): exact under every setting of the session
        amount = tokens.cast("decimal(19,0)") * token_price if native else F.col(f"udf_{token_type}_cost")
        return F.struct(
            F.lit(token_type).alias("token_type"),
            tokens.alias("tokens"),
            F.col(f"{token_type}_price").alias("price_per_1k"),
            amount.cast(AMOUNT).alias("amount"),
        )

    charges = F.array(charge("input"), charge("output"))
    lines = (
        priced.withColumn("charge", F.explode(charges))
        .filter(F.col("charge.price_per_1k").isNotNull())
        .withColumns(
            {
                "period_start": F.timestamp_seconds("hour"),
                "period_end": F.timestamp_seconds(F.col("hour") + F.lit(SECONDS_PER_HOUR)),
                "billing_date": billing_date(F.col("hour")),
                "billing_hour": billing_hour(F.col("hour")),
            }
        )
        .select("*", "charge.*")
        .select(*BILL_LINES.fieldNames(), *(quoted(tag) for tag in tags))
    )
    return lines if _changes_on_the_hour(prices) else _merge_equal_prices(lines)


def tag_column(key: str) -> str:
    """The bill line column of a tag."""
    return f"tag_{key}"


def _tags(rated: DataFrame, keys: Sequence[str]) -> list[tuple[str, Column]]:
    folded = [key.lower() for key in keys]
    twice = sorted({key for key in keys if folded.count(key.lower()) > 1})
    if twice:
        raise UsageError(
            f"the bill cannot be grouped by the tags {', '.join(twice)} at once: their columns would clash"
        )
    if keys and "tags" not in rated.columns:
        raise UsageError(
            f"the usage table has no column tags of type {TAGS.simpleString()}, which grouping by a tag needs "
            "(job: --column \"tags=from_json(to_json(tags), 'map<string,string>')\" turns a struct into one)"
        )
    return [(key, F.col("tags")[F.lit(key)]) for key in keys]


def _changes_on_the_hour(prices: PriceList) -> bool:
    hour = SECONDS_PER_HOUR * 1_000_000
    return all(
        (price.effective_from is None or price.from_us % hour == 0)
        and (price.effective_to is None or price.to_us % hour == 0)
        for price in prices.prices
    )


def _merge_equal_prices(lines: DataFrame) -> DataFrame:
    """One line again where a list's row ends within an hour and the next one has the same price."""
    sums = {name: F.sum(name).cast(BILL_LINES[name].dataType).alias(name) for name in ("requests", "tokens", "amount")}
    keys = [quoted(name) for name in lines.columns if name not in sums]
    return lines.groupBy(*keys).agg(*sums.values()).select(*(quoted(name) for name in lines.columns))
