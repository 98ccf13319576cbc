"""Usage -> bill lines -> bills: whole tokens are summed per price row, and each sum is multiplied once.

Within a tier the cost is linear, so this is the sum of the requests' costs to the last digit, at little more than the
price of counting.
"""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_billing.bills.sums import (
    UDF_COSTS,
    Pricing,
    changes_within_hours,
    group_calls,
    merge_sums,
    rate_groups,
    sum_calls,
    udf_cost,
)
from spark_billing.core.columns import billing_date, billing_hour, quoted, sums_of_lines, tag_columns
from spark_billing.core.hours import SECONDS_PER_HOUR
from spark_billing.core.schemas import AMOUNT, BILL_LINES, BILLS, LINE_MEASURES
from spark_billing.core.spark_errors import BROKEN_PROMISE
from spark_billing.prices.price_list import PriceList
from spark_billing.prices.price_rows import price_rows
from spark_billing.usage.calls import usage_field
from spark_billing.usage.copies import CopyRule, KeepCopy
from spark_billing.usage.reasons import reason_of
from spark_billing.usage.repeats import find_suspects, rate_suspects, repeats_of, without_id


def bill_lines(
    usage: DataFrame,
    *,
    prices: PriceList,
    group_by_tags: Sequence[str] = (),
    pricing: Pricing = "native",
    duplicates: bool = True,
    dedup_lookback: int = 24,
    keep_copy: KeepCopy = "fullest",
) -> DataFrame:
    """Usage -> one line per workspace, UTC+8 hour, region, model, token type, tier and price (`BILL_LINES`).

    This is the plan of the job: it checks, rates and sums the calls, and leaves out what `check_usage` gives a reason
    for. `amount` is exactly tokens x price per 1,000 tokens / 1,000. Which copy of a call is billed is decided by
    `dedup_lookback` (hours) and `keep_copy` as in `check_usage`; with `duplicates=False` all are, and `request_id` is
    neither needed nor read. Usage that `check_usage` has checked (it has
    the column `reject_reason`) is taken as checked, with the same price list; the query then fails on a row that is
    neither rejected nor has a price. `group_by_tags` adds a column `tag_KEY` to the key for each KEY of the usage
    column `tags`. `pricing="udf"` prices each request with the vectorized UDF and adds up: the same lines, slower.
    `UsageError` if the columns do not fit.

    The hashes of ids that repeat are sent to every executor: 16 bytes for each. `bill_usage` keeps them in files.

    Examples
    --------
    >>> prices = PriceList.bundled("emr-serverless-spark", currency="USD")
    >>> made = bill_lines(usage, prices=prices)
    >>> made.select("workspace_id", "token_type", "tier", "tokens", "amount").orderBy("token_type").show()
    +------------+----------+------+------+--------------+
    |workspace_id|token_type|  tier|tokens|        amount|
    +------------+----------+------+------+--------------+
    |         w-1|     input|0-128K|   260|0.000035880000|
    |         w-1|    output|0-128K|    50|0.000017200000|
    +------------+----------+------+------+--------------+
    """
    if usage_field(usage, "reject_reason") is not None:
        return lines_of_sums(_sums_of_checked(usage, prices, group_by_tags, pricing), prices)
    moved: list[DataFrame] = []
    rule = CopyRule(dedup_lookback, keep_copy)
    if duplicates:
        checked = rate_suspects(usage, F.broadcast(find_suspects(usage)), prices, rule)
        moved = [without_id(usage, prices), repeats_of(checked)]
    return lines_of_sums(sum_calls(usage, prices, group_by_tags, pricing, moved), prices)


def _sums_of_checked(
    checked: DataFrame, prices: PriceList, group_by_tags: Sequence[str], pricing: Pricing
) -> DataFrame:
    groups = group_calls(checked.filter(F.col("reject_reason").isNull()), prices, group_by_tags, pricing)
    unpriced = F.raise_error(
        F.concat(F.lit(f"{BROKEN_PROMISE}a row is not rejected, but has no price: "), reason_of(F.col("reject")))
    )
    price_row = F.when(F.col("reject").isNull(), F.col("price_row")).otherwise(unpriced.cast("int"))
    rated = rate_groups(groups, prices).withColumns({"price_row": price_row, "reject": F.lit(None).cast("int")})
    return merge_sums(rated)


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
    key = ("workspace_id", "period_start", "period_end", "billing_date", "billing_hour", "currency")
    return bill_sums(lines, *key).select(*BILLS.fieldNames())


def bill_sums(lines: DataFrame, *by: str) -> DataFrame:
    """Sums of bill lines as a bill has them: requests from the input lines, tokens by kind, the amount of all."""
    none = "CAST(0 AS BIGINT)"
    return lines.groupBy(*by).agg(
        F.expr(f"sum(CASE WHEN token_type = 'input' THEN requests ELSE {none} END)").alias("requests"),
        F.expr(f"sum(CASE WHEN token_type = 'input' THEN tokens ELSE {none} END)").alias("input_tokens"),
        F.expr(f"sum(CASE WHEN token_type = 'output' THEN tokens ELSE {none} END)").alias("output_tokens"),
        F.expr(f"CAST(sum(amount) AS {AMOUNT.simpleString()})").alias("amount"),
    )


def lines_of_sums(sums: DataFrame, prices: PriceList) -> DataFrame:
    """The bill lines of the sums of `sum_calls`: an input line each, and an output line where output is billed."""
    native = UDF_COSTS[0] not in sums.columns
    rows = F.broadcast(price_rows(sums.sparkSession, prices))
    priced = sums.filter(F.col("reject").isNull()).join(rows, "price_row")

    def charge(token_type: str) -> str:
        # decimal(19,0) x decimal(18,12) is decimal(38,12): exact under every setting of the session
        amount = f"CAST({token_type}_tokens AS decimal(19,0)) * {token_type}_token_price"
        amount = f"CAST({amount if native else udf_cost(token_type)} AS {AMOUNT.simpleString()})"
        return (
            f"named_struct('token_type', '{token_type}', 'tokens', {token_type}_tokens, "
            f"'price_per_1k', {token_type}_price, 'amount', {amount})"
        )

    # in SQL, as each Column that Python makes is a call to the JVM: they took a tenth of a bill of 10 million calls
    charges = F.expr(f"inline(filter(array({charge('input')}, {charge('output')}), c -> c.price_per_1k IS NOT NULL))")
    of_hour = {
        "period_start": F.timestamp_seconds("hour"),
        "period_end": F.timestamp_seconds(F.col("hour") + F.lit(SECONDS_PER_HOUR)),
        "billing_date": billing_date(F.col("hour")),
        "billing_hour": billing_hour(F.col("hour")),
    }
    lines = (
        priced.select("*", charges)
        .withColumns(of_hour)
        .select(*BILL_LINES.fieldNames(), *(quoted(tag) for tag in tag_columns(sums)))
    )
    return _merge_equal_prices(lines) if changes_within_hours(prices) else lines


def _merge_equal_prices(lines: DataFrame) -> DataFrame:
    """One line again where a list's row ends within an hour and the next one has the same price."""
    keys = [quoted(name) for name in lines.columns if name not in LINE_MEASURES]
    return lines.groupBy(*keys).agg(*sums_of_lines()).select(*(quoted(name) for name in lines.columns))
