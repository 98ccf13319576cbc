"""Rated calls -> bill lines -> bills: whole tokens are summed per price row, and each sum is multiplied once.

Within a tier the cost is linear, so this is the sum of the requests' costs to the last digit, at little more than the
price of counting.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from spark_billing.core.errors import UsageError
from spark_billing.core.schemas import (
    AMOUNT,
    BILL_LINES,
    BILLS,
    SECONDS_PER_HOUR,
    TAGS,
)
from spark_billing.prices.price_list import PriceList, periods
from spark_billing.prices.price_rows import price_rows
from spark_billing.usage.calls import BILLED_BY, billing_date, billing_hour, quoted, typed_calls, usage_field
from spark_billing.usage.checks import countable, is_count, rate_calls, reason_of

Pricing = Literal["native", "udf"]

_PICO_IN_MILLI = 10**9
_UDF_COSTS = ("udf_input_milli", "udf_input_pico", "udf_output_milli", "udf_output_pico")
_MEASURES = ("requests", "total_input", "total_output", *_UDF_COSTS)


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
    groups = sum_calls(checked.filter(F.col("reject_reason").isNull()), prices, group_by_tags, pricing)
    unpriced = F.raise_error(
        F.concat(F.lit("bill_lines: a row is not rejected, but has no price: "), reason_of(F.col("reject")))
    )
    rated = rate_groups(groups, prices)
    rated = rated.withColumn(
        "price_row", F.when(F.col("reject").isNull(), F.col("price_row")).otherwise(unpriced.cast("int"))
    ).withColumn("reject", F.lit(None).cast("int"))
    return lines_of_sums(merge_sums(rated), prices)


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
    of_input, of_output, zero = F.col("token_type") == "input", F.col("token_type") == "output", F.lit(0).cast("bigint")
    return lines.groupBy(*by).agg(
        F.sum(F.when(of_input, F.col("requests")).otherwise(zero)).alias("requests"),
        F.sum(F.when(of_input, F.col("tokens")).otherwise(zero)).alias("input_tokens"),
        F.sum(F.when(of_output, F.col("tokens")).otherwise(zero)).alias("output_tokens"),
        F.sum("amount").cast(AMOUNT).alias("amount"),
    )


def sum_calls(
    usage: DataFrame, prices: PriceList, group_by_tags: Sequence[str] = (), pricing: Pricing = "native"
) -> DataFrame:
    """Usage -> whole sums of groups of calls that share workspace, hour, price and tags: the one pass over the calls.

    Each group is named by a call that stands for all of its calls: same workspace, region, model and tags, its time
    and input tokens rounded to where the hour or a row of the price list begins or ends, its output 0 if it can be
    billed. So no call needs a price of its own: `rate_groups` rates the groups as if they were calls.
    """
    calls = typed_calls(usage, BILLED_BY)
    stand_in = {
        "call_time": _start_of_price_and_hour(F.col("call_time"), prices),
        "input_tokens": _end_of_tier(F.col("input_tokens"), prices),
        "output_tokens": F.when(is_count(F.col("output_tokens")), F.lit(0)).when(~F.col("output_missing"), F.lit(-1)),
    }
    measured = with_measures(calls, prices, group_by_tags, pricing).withColumns(stand_in)
    keys = ["workspace_id", "region", "model", *stand_in, "output_missing"]
    keys += [name for name in measured.columns if name.startswith(tag_column("")) or name == "udf_row"]
    return measured.groupBy(*(quoted(name) for name in keys)).agg(*_summed(measured))


def with_measures(
    calls: DataFrame, prices: PriceList, group_by_tags: Sequence[str] = (), pricing: Pricing = "native"
) -> DataFrame:
    """Adds to typed calls the tags to group by and what is summed: `requests`, `total_input`, `total_output`; with
    the UDF also its price row and costs."""
    if pricing == "udf":
        from spark_billing.prices.udfs import request_costs  # only here is Arrow needed

        call = [F.col(name) for name in ("model", "region", "input_tokens", "output_tokens", "call_time")]
        calls = calls.withColumn("udf", request_costs(prices)(*call))
        calls = calls.withColumn("udf_row", F.col("udf.price_row").cast("int"))
        # summed as integers, whole thousandths of the currency and the rest in 10^-12 apart: neither sum can overflow
        # before that of the tokens does
        for token_type in ("input", "output"):
            pico = F.col(f"udf.{token_type}_pico")
            rest = pico % F.lit(_PICO_IN_MILLI)
            milli = F.expr(f"udf.{token_type}_pico div {_PICO_IN_MILLI}")
            calls = calls.withColumns({f"udf_{token_type}_milli": milli, f"udf_{token_type}_pico": rest})
    return calls.withColumns(
        {
            "requests": F.lit(1).cast("bigint"),
            "total_input": countable(F.col("input_tokens")),
            "total_output": countable(F.col("output_tokens")),
            **{tag_column(key): tag for key, tag in _tags(calls, group_by_tags)},
        }
    )


def rate_groups(groups: DataFrame, prices: PriceList) -> DataFrame:
    """The groups of `sum_calls` with the `price_row` of their calls, or why these are not billed in `reject`."""
    rated = rate_calls(groups, prices, BILLED_BY)
    if "udf_row" not in groups.columns:
        return rated
    unpriced = F.raise_error(F.lit("the UDF has no price for a call that is not rejected"))
    price_row = F.when(F.col("reject").isNull(), F.coalesce(F.col("udf_row"), unpriced.cast("int")))
    return rated.withColumn("price_row", price_row)


def merge_sums(rated: DataFrame) -> DataFrame:
    """Rated calls or groups with their measures -> one row per workspace, hour, price row and tags, and one per hour
    and reason for the rejected (`reject` not null). `hour` is in epoch seconds, null for calls without a time."""
    fine, seconds = F.col("reject").isNull(), F.unix_seconds("call_time")
    tags = [name for name in rated.columns if name.startswith(tag_column(""))]
    merged = rated.groupBy(
        F.when(fine, F.col("workspace_id")).alias("workspace_id"),
        (seconds - F.pmod(seconds, F.lit(SECONDS_PER_HOUR))).alias("hour"),
        F.when(fine, F.col("price_row")).alias("price_row"),
        F.col("reject"),
        *(F.when(fine, F.col(quoted(name))).alias(name) for name in tags),
    )
    names = {f"total_{token_type}": f"{token_type}_tokens" for token_type in ("input", "output")}
    return merged.agg(*_summed(rated)).withColumnsRenamed(names)


def lines_of_sums(sums: DataFrame, prices: PriceList) -> DataFrame:
    """The bill lines of the sums of `merge_sums`: an input line each, and an output line where output is billed."""
    tags = [name for name in sums.columns if name.startswith(tag_column(""))]
    native = _UDF_COSTS[0] not in sums.columns
    rows = F.broadcast(price_rows(sums.sparkSession, prices))
    priced = sums.filter(F.col("reject").isNull()).join(rows, "price_row")

    def charge(token_type: str) -> Column:
        tokens, token_price = F.col(f"{token_type}_tokens"), F.col(f"{token_type}_token_price")
        # decimal(19,0) x decimal(18,12) is decimal(38,12): exact under every setting of the session
        amount = tokens.cast("decimal(19,0)") * token_price if native else _udf_cost(token_type)
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
    return _merge_equal_prices(lines) if _changes_within_hours(prices) else lines


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


def move_calls(rated: DataFrame, moved: DataFrame) -> DataFrame:
    """Rated groups in which the `moved` calls, counted under the reason (or none) in `before`, are under `reject`."""
    sums = [f.name for f in rated.schema.fields if f.name in _MEASURES]
    columns = ["workspace_id", "call_time", "price_row", "reject", *sums]
    columns += [name for name in rated.columns if name.startswith(tag_column(""))]
    taken = moved.withColumn("reject", F.col("before"))
    taken = taken.withColumns({name: (-F.col(name)).cast(rated.schema[name].dataType) for name in sums})
    names = [quoted(name) for name in columns]
    return rated.select(*names).unionByName(taken.select(*names)).unionByName(moved.select(*names))


def _summed(measured: DataFrame) -> list[Column]:
    return [F.sum(name).alias(name) for name in _MEASURES if name in measured.columns]


def _udf_cost(token_type: str) -> Column:
    """The sum of the costs that the UDF gave, from its two parts: decimal(23,3) + decimal(32,12), so exact."""
    milli, pico = (F.col(f"udf_{token_type}_{unit}").cast("decimal(19,0)") for unit in ("milli", "pico"))
    return milli * F.lit("0.001").cast("decimal(3,3)") + pico * F.lit("0.000000000001").cast("decimal(12,12)")


def _start_of_price_and_hour(call_time: Column, prices: PriceList) -> Column:
    """The latest start of an hour, or of a row of the list within one, that is not after the call."""
    seconds = F.unix_seconds(call_time)
    hour = F.timestamp_seconds(seconds - F.pmod(seconds, F.lit(SECONDS_PER_HOUR)))
    latest = hour
    for start in _changes_within_hours(prices):
        change = F.timestamp_micros(F.lit(start))
        latest = F.when(call_time >= change, F.greatest(latest, change)).otherwise(latest)
    return latest


def _changes_within_hours(prices: PriceList) -> list[int]:
    """The instants, in microseconds, at which a row of the list starts or ends other than on the hour."""
    starts = [start for start, _ in periods(prices.prices)][1:]  # the first is the beginning of time
    return [start for start in starts if start % (SECONDS_PER_HOUR * 1_000_000)]


def _end_of_tier(tokens: Column, prices: PriceList) -> Column:
    """The lowest tier bound of the list, of whatever model, that the tokens are not above; negative and missing counts
    stay, and what is above every bound becomes the largest count there is."""
    bounds = sorted({bound for p in prices.prices for bound in (p.min_input_tokens, p.max_input_tokens)})
    end = F.lit(2**63 - 1)
    for bound in reversed(bounds):
        end = F.when(tokens <= bound, F.lit(bound).cast("bigint")).otherwise(end)
    return F.when(tokens < 0, F.lit(-1).cast("bigint")).when(tokens.isNotNull(), end)


def _merge_equal_prices(lines: DataFrame) -> DataFrame:
    """One line again where a list's row ends within an hour and the next one has the same price."""
    sums = {name: F.sum(name).cast(BILL_LINES[name].dataType).alias(name) for name in ("requests", "tokens", "amount")}
    keys = [quoted(name) for name in lines.columns if name not in sums]
    return lines.groupBy(*keys).agg(*sums.values()).select(*(quoted(name) for name in lines.columns))
