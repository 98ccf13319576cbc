"""Calls -> whole sums of calls that share workspace, hour, price and tags: the one pass over the usage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from spark_billing.core.columns import hour_of, quoted, tag_column, tag_columns
from spark_billing.core.errors import UsageError
from spark_billing.core.hours import SECONDS_PER_HOUR
from spark_billing.core.schemas import TAGS
from spark_billing.core.spark_errors import BROKEN_PROMISE
from spark_billing.prices.price import periods
from spark_billing.prices.price_list import PriceList
from spark_billing.usage.calls import BILLED_BY, countable, is_count, typed_calls
from spark_billing.usage.rating import rate_calls

Pricing = Literal["native", "udf"]
_PICO_IN_MILLI = 10**9
UDF_COSTS = ("udf_input_milli", "udf_input_pico", "udf_output_milli", "udf_output_pico")
_CALL_MEASURES = ("requests", "total_input", "total_output", *UDF_COSTS)


def require_pricing(pricing: str) -> None:
    """`UsageError` if it is no way to price."""
    if pricing not in get_args(Pricing):
        raise UsageError(f"pricing is {pricing!r}; it is native, or udf (the same bill, slower)", parameter="pricing")


def sum_calls(
    usage: DataFrame,
    prices: PriceList,
    group_by_tags: Sequence[str] = (),
    pricing: Pricing = "native",
    moved: Sequence[DataFrame] = (),
) -> DataFrame:
    """Usage -> one row per workspace, hour, price row and tags, and one per hour and reason for the rejected (`reject`
    not null): `requests, input_tokens, output_tokens`. `hour` is in epoch seconds, null for calls without a time.

    `moved` are rated calls of the usage that other rows keep out of the bill (`repeats.without_id`, `repeats_of`):
    they are counted under their `reject`, and taken from where they would be without it (`before`).
    """
    groups = rate_groups(group_calls(usage, prices, group_by_tags, pricing), prices)
    for calls in moved:
        groups = _moved(groups, with_measures(calls, prices, group_by_tags, pricing))
    return merge_sums(groups).filter(F.col("requests") != 0)


def group_calls(
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
        "input_tokens": _end_of_tier("input_tokens", prices),
        "output_tokens": F.when(is_count(F.col("output_tokens")), F.lit(0)).when(~F.col("output_missing"), F.lit(-1)),
    }
    measured = with_measures(calls, prices, group_by_tags, pricing).withColumns(stand_in)
    keys = ["workspace_id", "region", "model", *stand_in, "output_missing", "time_ambiguous"]
    keys += [*tag_columns(measured), *(name for name in measured.columns if name == "udf_row")]
    return measured.groupBy(*(quoted(name) for name in keys)).agg(*_summed(measured))


def with_measures(
    calls: DataFrame, prices: PriceList, group_by_tags: Sequence[str] = (), pricing: Pricing = "native"
) -> DataFrame:
    """Adds to typed calls the tags to group by and what is summed: `requests`, `total_input`, `total_output`; with
    the UDF also its price row and costs."""
    require_pricing(pricing)
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
            **{tag_column(key): tag for key, tag in _tags_to_group_by(calls, group_by_tags)},
        }
    )


def rate_groups(groups: DataFrame, prices: PriceList) -> DataFrame:
    """The groups of `group_calls` with the `price_row` of their calls, or why these are not billed in `reject`."""
    rated = rate_calls(groups, prices, BILLED_BY)
    if "udf_row" not in groups.columns:
        return rated
    unpriced = F.raise_error(F.lit(f"{BROKEN_PROMISE}the UDF has no price for a call that is not rejected"))
    price_row = F.when(F.col("reject").isNull(), F.coalesce(F.col("udf_row"), unpriced.cast("int")))
    return rated.withColumn("price_row", price_row)


def merge_sums(rated: DataFrame) -> DataFrame:
    """Rated calls or groups with their measures -> one row per workspace, hour, price row and tags, and one per hour
    and reason for the rejected (`reject` not null). `hour` is in epoch seconds, null for calls without a time."""
    fine = F.col("reject").isNull()
    merged = rated.groupBy(
        F.when(fine, F.col("workspace_id")).alias("workspace_id"),
        hour_of(F.unix_seconds("call_time")).alias("hour"),
        F.when(fine, F.col("price_row")).alias("price_row"),
        F.col("reject"),
        *(F.when(fine, F.col(quoted(name))).alias(name) for name in tag_columns(rated)),
    )
    names = {f"total_{token_type}": f"{token_type}_tokens" for token_type in ("input", "output")}
    return merged.agg(*_summed(rated)).withColumnsRenamed(names)


def _moved(rated: DataFrame, moved: DataFrame) -> DataFrame:
    """Rated groups in which the `moved` calls, counted under the reason (or none) in `before`, are under `reject`."""
    sums = [f.name for f in rated.schema.fields if f.name in _CALL_MEASURES]
    columns = ["workspace_id", "call_time", "price_row", "reject", *sums]
    columns += tag_columns(rated)
    taken = moved.withColumn("reject", F.col("before"))
    taken = taken.withColumns({name: (-F.col(name)).cast(rated.schema[name].dataType) for name in sums})
    names = [quoted(name) for name in columns]
    return rated.select(*names).unionByName(taken.select(*names)).unionByName(moved.select(*names))


def _tags_to_group_by(rated: DataFrame, keys: Sequence[str]) -> list[tuple[str, Column]]:
    folded = [key.lower() for key in keys]
    twice = sorted({key for key in keys if folded.count(key.lower()) > 1})
    if twice:
        raise UsageError(
            f"the bill cannot be grouped by the tags {', '.join(twice)} at once: their columns would clash"
        )
    if keys and "tags" not in rated.columns:
        raise UsageError(
            f"the usage table has no column tags of type {TAGS.simpleString()}, which grouping by a tag needs "
            "(\"tags=from_json(to_json(tags), 'map<string,string>')\" turns a struct into one)",
            parameter="columns",
        )
    return [(key, F.col("tags")[F.lit(key)]) for key in keys]


def _summed(measured: DataFrame) -> list[Column]:
    return [F.sum(name).alias(name) for name in _CALL_MEASURES if name in measured.columns]


def udf_cost(token_type: str) -> str:
    """The sum of the costs that the UDF gave, in SQL, from its two parts: decimal(23,3) + decimal(32,12), so exact."""
    milli, pico = (f"CAST(udf_{token_type}_{unit} AS decimal(19,0))" for unit in ("milli", "pico"))
    return f"({milli} * CAST('0.001' AS decimal(3,3)) + {pico} * CAST('0.000000000001' AS decimal(12,12)))"


def _start_of_price_and_hour(call_time: Column, prices: PriceList) -> Column:
    """The latest start of an hour, or of a row of the list within one, that is not after the call."""
    latest = F.timestamp_seconds(hour_of(F.unix_seconds(call_time)))
    for start in changes_within_hours(prices):
        change = F.timestamp_micros(F.lit(start))
        latest = F.when(call_time >= change, F.greatest(latest, change)).otherwise(latest)
    return latest


def changes_within_hours(prices: PriceList) -> list[int]:
    """The instants, in microseconds, at which a row of the list starts or ends other than on the hour."""
    starts = [start for start, _ in periods(prices.prices)][1:]  # the first is the beginning of time
    return [start for start in starts if start % (SECONDS_PER_HOUR * 1_000_000)]


def _end_of_tier(tokens: str, prices: PriceList) -> Column:
    """The lowest tier bound of the list, of whatever model, that the tokens are not above; negative and missing counts
    stay, and what is above every bound becomes the largest count there is."""
    bounds = " ".join(f"WHEN {tokens} <= {bound} THEN {bound}L" for bound in prices.tier_bounds)
    return F.expr(f"CASE WHEN {tokens} < 0 THEN -1L {bounds} WHEN {tokens} IS NOT NULL THEN {2**63 - 1}L END")
