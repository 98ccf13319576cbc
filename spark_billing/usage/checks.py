"""A usage table checked and priced, row by row."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_billing.core.errors import UsageError
from spark_billing.prices.price_list import PriceList
from spark_billing.usage.calls import PRICED_BY, typed_calls, usage_field
from spark_billing.usage.copies import CopyRule, KeepCopy, rate_usage
from spark_billing.usage.rating import rate_calls, with_costs
from spark_billing.usage.reasons import reason_of


def check_usage(
    usage: DataFrame,
    *,
    prices: PriceList,
    duplicates: bool = True,
    dedup_lookback: int = 24,
    keep_copy: KeepCopy = "fullest",
) -> DataFrame:
    """Adds `reject_reason` to each usage row: null if the call is to be billed, else why not.

    The reasons are `reasons.REJECT_REASONS`; the first that applies is given. Tokens are counts of the single request,
    `call_time` is an instant (a timestamp, or ISO 8601 text with an offset). A copy of a call is rejected if a better
    one lies within `dedup_lookback` hours of it: one with more input tokens, then more output tokens, then earlier;
    `keep_copy` may also be `earliest` or `latest`. With `duplicates=False` repeats are left alone and
    `request_id` is neither needed nor read. `UsageError` if a column is missing or of a type that cannot hold its
    meaning.

    Examples
    --------
    >>> prices = PriceList.bundled("emr-serverless-spark", currency="USD")
    >>> check_usage(usage, prices=prices).select("request_id", "model", "reject_reason").orderBy("request_id").show()
    +----------+---------+-------------+
    |request_id|    model|reject_reason|
    +----------+---------+-------------+
    |       r-1|qwen-plus|         NULL|
    |       r-2| qwen-max|unknown_model|
    +----------+---------+-------------+
    """
    refuse_columns(usage, ("reject_reason",))
    rated = rate_usage(usage, prices, CopyRule(dedup_lookback, keep_copy) if duplicates else None)
    return rated.select("source.*", reason_of(F.col("reject")).alias("reject_reason"))


def price_calls(usage: DataFrame, *, prices: PriceList) -> DataFrame:
    """Adds to each usage row its price, request by request: `price_id, tier, input_cost, output_cost, cost`.

    Costs are decimal(18,12) in the price list's currency, tokens x price per 1,000 tokens / 1,000, unrounded;
    `input_cost + output_cost = cost` on every row (output that the list does not bill costs 0). All five are null
    exactly where `check_usage` gives a reason other than missing ids and repeats. Needs neither ids nor Arrow.

    Examples
    --------
    >>> prices = PriceList.bundled("emr-serverless-spark", currency="USD")
    >>> price_calls(usage, prices=prices).select("request_id", "tier", "cost").orderBy("request_id").show()
    +----------+------+--------------+
    |request_id|  tier|          cost|
    +----------+------+--------------+
    |       r-1|0-128K|0.000053080000|
    |       r-2|  NULL|          NULL|
    +----------+------+--------------+
    """
    added = ("price_id", "tier", "input_cost", "output_cost", "cost")
    refuse_columns(usage, added)
    return with_costs(rate_calls(typed_calls(usage, PRICED_BY), prices, PRICED_BY)).select("source.*", *added)


def refuse_columns(usage: DataFrame, added: tuple[str, ...]) -> None:
    """`UsageError` if the usage already has a column that is about to be added."""
    taken = [name for name in added if usage_field(usage, name) is not None]
    if taken:
        raise UsageError(
            f"the usage table already has the column {', '.join(taken)}, which is added here; drop it first"
        )
