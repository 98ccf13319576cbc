"""Usage -> checked calls: each row is fine or has the one reason why it is not billed; repeats are found."""

from __future__ import annotations

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from spark_billing.core.errors import UsageError
from spark_billing.core.schemas import COST, REJECT_REASONS
from spark_billing.prices.price_list import MAX_TOKENS, PriceList
from spark_billing.prices.price_rows import REASON_CODE, cost_of, find_price
from spark_billing.usage.calls import BILLED_BY, PRICED_BY, typed_calls, usage_field


def check_usage(usage: DataFrame, *, prices: PriceList, duplicates: bool = True) -> DataFrame:
    """Adds `reject_reason` to each usage row: null if the call is to be billed, else why not.

    The reasons are `schemas.REJECT_REASONS`; the first that applies is given. Tokens are counts of the single request,
    `call_time` is an instant (a timestamp, or ISO 8601 text with an offset). With `duplicates=False` repeats are left
    alone and `request_id` is neither needed nor read. `UsageError` if a column is missing or of a type that cannot hold
    its meaning.

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
    rated = rate_usage(usage, prices, duplicates=duplicates)
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


def with_costs(rated: DataFrame) -> DataFrame:
    """Adds `price_id, tier, input_cost, output_cost, cost` to rated calls, null for the rejected ones."""
    input_pico = countable(F.col("input_tokens")) * F.col("input_nano")
    output_pico = countable(F.col("output_tokens")) * F.col("output_nano")
    fine = F.col("reject").isNull()
    return rated.withColumns(
        {
            "price_id": F.when(fine, F.col("price_id")),
            "tier": F.when(fine, F.col("tier")),
            "input_cost": F.when(fine, cost_of(input_pico)).cast(COST),
            "output_cost": F.when(fine, cost_of(output_pico)).cast(COST),
            "cost": F.when(fine, cost_of(input_pico + output_pico)).cast(COST),
        }
    )


def rate_usage(usage: DataFrame, prices: PriceList, *, duplicates: bool) -> DataFrame:
    """Typed calls beside their `source` row, each with its `price_row`, or with the code of its reason in `reject`."""
    columns = ("request_id",) * duplicates + BILLED_BY
    rated = rate_calls(typed_calls(usage, columns), prices, columns)
    return _mark_repeats(rated) if duplicates else rated


def rate_calls(calls: DataFrame, prices: PriceList, columns: tuple[str, ...]) -> DataFrame:
    """Adds the price of each typed call (`rating.find_price`), and in `reject` the code of why it is not billed."""
    return find_price(calls, prices).withColumn("reject", _reject_code(columns, prices))


def reason_of(reject: Column) -> Column:
    """The name of a reason from its code; null for null."""
    name = F.element_at(F.array(*(F.lit(reason) for reason in REJECT_REASONS)), reject)
    return F.when(reject.isNotNull(), name)  # under ANSI, Spark 4.1 takes the last element for a null index


def countable(tokens: Column) -> Column:
    """A count that control totals add up: 0 for what cannot be the tokens of one request, so no sum can overflow."""
    return F.when(is_count(tokens), tokens).otherwise(F.lit(0).cast("bigint"))


def is_count(tokens: Column) -> Column:
    """Whether a number can be the tokens of one request; null for null."""
    return tokens.between(0, MAX_TOKENS)


def refuse_columns(usage: DataFrame, added: tuple[str, ...]) -> None:
    """`UsageError` if the usage already has a column that is about to be added."""
    taken = [name for name in added if usage_field(usage, name) is not None]
    if taken:
        raise UsageError(
            f"the usage table already has the column {', '.join(taken)}, which is added here; drop it first"
        )


def _reject_code(columns: tuple[str, ...], prices: PriceList) -> Column:
    """The code of the first reason that applies to a call with a found price, or null. Order: `REJECT_REASONS`."""
    model, input_tokens, output_tokens = F.col("model"), F.col("input_tokens"), F.col("output_tokens")
    output_free = F.col("output_missing") & model.isin(*prices.models_without_output_price)
    applies = {
        **{f"missing_{name}": F.col(name).isNull() | (F.col(name) == "") for name in columns if name not in _UNTEXTED},
        "missing_call_time": F.col("call_time").isNull(),
        "invalid_input_tokens": input_tokens.isNull() | (input_tokens < 0),
        "invalid_output_tokens": (output_tokens.isNull() & ~output_free)
        | (output_tokens < 0)
        | (output_tokens > MAX_TOKENS),
        "unknown_model": ~model.isin(*prices.models),
        "unknown_region": F.col("price_row").isNull() & F.col("price_reject").isNull(),
    }
    code = F.col("price_reject")  # no_price_in_force or input_tokens_out_of_range, or null
    for reason in reversed([reason for reason in REJECT_REASONS if reason in applies]):
        code = F.when(applies[reason], F.lit(REASON_CODE[reason])).otherwise(code)
    return code


_UNTEXTED = ("call_time", "input_tokens", "output_tokens")


def _mark_repeats(rated: DataFrame) -> DataFrame:
    """Of the billable copies of a (workspace_id, request_id) leaves one and rejects the others.

    Billed is the earliest, then the dearest, then the first by the remaining columns: the same one whatever the
    partitioning. A copy with the same content is a duplicate, any other a conflict.
    """
    fine = F.col("reject").isNull()
    cost = countable(F.col("input_tokens")) * F.col("input_nano") + (
        countable(F.col("output_tokens")) * F.col("output_nano")
    )
    content = [F.col(name) for name in PRICED_BY if name != "call_time"]
    if "tags" in rated.columns:
        content.append(F.array_sort(F.map_entries("tags")))  # a map has no order of its own
    # rejected rows only pass through: the hash spreads them, as many may share a null id
    spread = F.when(~fine, F.xxhash64("request_id", "call_time", "input_tokens", "output_tokens"))
    copies = Window.partitionBy("workspace_id", "request_id", fine, spread).orderBy(
        F.col("call_time"), F.when(fine, cost).desc(), *content
    )
    this = F.struct(F.col("call_time"), *content)
    repeat = F.when(this.eqNullSafe(F.first(this).over(copies)), F.lit(REASON_CODE["duplicate_request"])).otherwise(
        F.lit(REASON_CODE["conflicting_request"])
    )
    marked = F.when(fine & (F.row_number().over(copies) > 1), repeat).otherwise(F.col("reject"))
    return rated.withColumn("reject", marked)
