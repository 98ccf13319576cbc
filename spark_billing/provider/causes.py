"""Our bill lines against the provider's bill: each difference has one cause, and they add up to the whole.

Both sides are added up by what both tell (the provider's periods, and those of workspace, region, model, token type and
tier that its bill has). Where they differ, the first cause in the order of `CAUSES` that the figures prove is named.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any, Optional

from pyspark.sql import Column, DataFrame, Window, WindowSpec
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from spark_billing.core.columns import GRAINS, billing_date, literal_rows
from spark_billing.core.errors import ProviderBillError
from spark_billing.core.hours import SECONDS_PER_DAY, SECONDS_PER_HOUR
from spark_billing.core.published import AMOUNT_DECIMALS, CENT
from spark_billing.core.schemas import AMOUNT, COST, TOKENS
from spark_billing.prices.price_list import PriceList
from spark_billing.provider.groups import MONEY, require_comparable, side_by_side
from spark_billing.provider.mapping import DIMENSIONS
from spark_billing.provider.schemas import RECONCILIATION

CAUSES = {
    "rounding": "within the decimals that the provider publishes, or a month's total cut to the cent",
    "tier_differs": "the same tokens, charged at another tier, or by the other reading of K",
    "timing": "tokens that the provider bills in the neighbouring period",
    "missing_at_provider": "billed by us alone",
    "missing_in_usage": "billed by the provider alone",
    "quantity_differs": "another number of tokens, at our price",
    "price_differs": "the same tokens, at a price that is in no tier of our list",
    "unexplained": "none of these",
}

_TIERS_TYPE = f"array<struct<tier: string, from_us: bigint, to_us: bigint, price: {COST.simpleString()}>>"
_TIERS = f"list_model string, list_region string, list_token_type string, tiers {_TIERS_TYPE}"


def reconcile(
    lines: DataFrame,
    provider: DataFrame,
    *,
    prices: PriceList,
    grain: str,
    other_lines: Optional[DataFrame] = None,
    decimals: int = AMOUNT_DECIMALS,
    tokens_tolerance: int = 0,
) -> DataFrame:
    """Every difference between our bill lines and the provider's bill, with its cause (`schemas.RECONCILIATION`).

    `lines` are those of `ledger_lines` or `bill_lines`, `provider` those of `provider_bill`, both of the same period;
    `grain` (hour, day or month) is that of the provider's rows. `difference` is provider - ours, by the list price, in
    the currency of both. `other_lines` are our lines under the other reading of K. An amount is within the provider's
    rounding if it is less than 10^-`decimals` per row of its bill off, or, of a whole month, less than a cent below;
    a quantity, if it is within `tokens_tolerance` tokens. `ProviderBillError` if the two cannot be compared.

    Where the provider's quantity and its price both differ, there are two rows, one for each.

    Examples
    --------
    >>> at_provider = provider_bill(
    ...     spark.createDataFrame(
    ...         [("2026-04-08", "w-1", "qwen-plus", "input", 260, "0.00003900", "USD"),
    ...          ("2026-04-08", "w-1", "qwen-plus", "output", 50, "0.0000172", "USD")],
    ...         "day string, workspace string, model string, kind string, tokens long, amount string, currency string",
    ...     ),
    ...     BillMapping.of({"grain": "day", "columns": {
    ...         "period": "day", "workspace_id": "workspace", "model": "model", "token_type": "kind",
    ...         "quantity": "tokens", "amount": "amount", "currency": "currency"}, "units": {"tokens": 1}}),
    ... )
    >>> found = reconcile(lines, at_provider, prices=prices, grain="day")
    >>> found.select("token_type", "cause", "our_amount", "provider_amount", "difference").show()
    +----------+-------------+--------------+---------------+--------------+
    |token_type|        cause|    our_amount|provider_amount|    difference|
    +----------+-------------+--------------+---------------+--------------+
    |     input|price_differs|0.000035880000| 0.000039000000|0.000003120000|
    +----------+-------------+--------------+---------------+--------------+
    """
    if grain not in GRAINS:
        raise ProviderBillError(f"grain is {grain!r}; it is one of {', '.join(GRAINS)}")
    require_comparable(lines, provider, other_lines)
    dimensions = [name for name in DIMENSIONS if name in provider.columns]
    groups = side_by_side(lines, provider, other_lines, dimensions, grain)
    groups = _with_tiers(groups, prices, dimensions)
    groups = _compared(groups, grain, decimals, tokens_tolerance)
    groups = _moved_between_tiers(groups.filter("differs"), dimensions)
    groups = _moved_in_time(groups, dimensions, grain, "tokens" in provider.columns)
    return _with_causes(groups, dimensions)


def _with_tiers(groups: DataFrame, prices: PriceList, dimensions: Sequence[str]) -> DataFrame:
    """The prices of one token in the tiers that were in force in a group, and the list's price where we have none."""
    if not {"model", "region", "token_type"} <= set(dimensions):
        return groups.withColumn("tiers", F.lit(None).cast(_TIERS_TYPE))
    found = F.broadcast(literal_rows(groups.sparkSession, _TIERS, _tiers(prices)))
    matched = (
        (F.col("model") == F.col("list_model"))
        & (F.col("region") == F.col("list_region"))
        & (F.col("token_type") == F.col("list_token_type"))
    )
    joined = groups.join(found, matched, "left").drop("list_model", "list_region", "list_token_type")
    start, end = (F.col(name) * F.lit(1_000_000) for name in ("start", "end"))
    joined = joined.withColumn(
        "tiers", F.filter("tiers", lambda tier: (tier["from_us"] < end) & (tier["to_us"] > start) & (tier["price"] > 0))
    )
    if "tier" not in dimensions:
        return joined
    of_tier = F.filter("tiers", lambda tier: tier["tier"] == F.col("tier"))
    only = F.when(F.size(of_tier) == 1, of_tier[0]["price"])
    return joined.withColumns({name: F.coalesce(name, only) for name in ("lowest", "highest")})


def _compared(groups: DataFrame, grain: str, decimals: int, tokens_tolerance: int) -> DataFrame:
    """Whether a group differs, by how much, and how far its amounts may be off by rounding alone."""
    ours, theirs = F.col("our_amount"), F.col("provider_amount")
    unit = F.lit(Decimal(1).scaleb(-decimals)).cast("decimal(13,12)")
    tolerance = (F.col("provider_rows").cast("decimal(18,0)") * unit).cast("decimal(30,12)")
    groups = groups.withColumns(
        {
            "tolerance": tolerance,
            "difference": (theirs - ours).cast(MONEY),
            "more_tokens": F.col("provider_tokens") - F.col("our_tokens"),
        }
    )
    difference = F.col("difference")
    as_many = F.coalesce(F.abs("more_tokens") <= F.lit(tokens_tolerance), F.lit(True))
    both = F.col("has_ours") & F.col("has_theirs")
    nothing_due = (difference == 0) & ~both & (F.col("has_ours") | as_many)  # what is free may be on no bill
    low, high = ((F.col("more_tokens").cast(TOKENS) * F.col(name)).cast(MONEY) for name in ("lowest", "highest"))
    of_tokens = (F.col("more_tokens") != 0) & _nearly_between(difference, low, high)  # of the few that are tolerated
    within = (F.abs(difference) < F.col("tolerance")) | (difference == 0) | F.coalesce(of_tokens, F.lit(False))
    if grain == "month":
        within |= (difference <= 0) & (difference > F.lit(-CENT))
    low, high = (F.col("provider_tokens").cast(TOKENS) * F.col(name) for name in ("lowest", "highest"))
    at_our_prices = _nearly_between(theirs, low.cast(MONEY), high.cast(MONEY))
    return groups.withColumns(
        {
            "as_many": as_many,
            "differs": ~(((difference == 0) & as_many & both) | nothing_due),
            "rounded": both & as_many & within & (difference != 0),
            "at_our_prices": F.coalesce(at_our_prices, F.lit(True)),
            "price_known": at_our_prices.isNotNull(),
        }
    )


def _moved_between_tiers(groups: DataFrame, dimensions: Sequence[str]) -> DataFrame:
    """Whether a group is billed just as the other reading of K would, and whether its tokens are the provider's in
    other tiers of the same period."""
    in_other = _near(F.col("provider_amount"), F.col("other_amount"))
    in_other &= F.coalesce(F.col("provider_tokens") == F.col("other_tokens"), F.lit(True))
    groups = groups.withColumn("by_other_k", F.coalesce(in_other & ~F.col("rounded"), F.lit(False)))
    if "tier" not in dimensions:
        return groups.withColumn("tier_moved", F.lit(False))
    candidate = ~F.col("rounded") & ~F.col("by_other_k") & (F.col("more_tokens") != 0)
    groups = groups.withColumn("candidate", F.coalesce(candidate, F.lit(False)))
    others = Window.partitionBy("candidate", "start", *(name for name in dimensions if name != "tier"))
    moved = _come_to_nothing("more_tokens", others) & F.min("at_our_prices").over(others)
    return groups.withColumn("tier_moved", F.col("candidate") & F.coalesce(moved, F.lit(False)))


def _moved_in_time(groups: DataFrame, dimensions: Sequence[str], grain: str, has_tokens: bool) -> DataFrame:
    """Whether what a group has more or less is missing or left over in the periods next to it.

    In a run of periods without a gap the differences must come to nothing; such a run may begin or end in a longer one.
    """
    moved_by = F.col("more_tokens") if has_tokens else F.col("difference")
    candidate = ~F.col("rounded") & ~F.col("by_other_k") & ~F.col("tier_moved") & F.col("at_our_prices")
    candidate = F.coalesce(candidate & (moved_by != 0), F.lit(False))
    groups = groups.withColumns({"candidate": candidate, "moved_by": moved_by})
    day = billing_date(F.col("start"))
    number = F.year(day) * 12 + F.month(day) if grain == "month" else F.col("start")
    step = {"hour": SECONDS_PER_HOUR, "day": SECONDS_PER_DAY, "month": 1}[grain]
    series = Window.partitionBy("candidate", *dimensions).orderBy("start")
    groups = groups.withColumn("island", number - F.row_number().over(series) * step)
    whole = Window.partitionBy("candidate", *dimensions, "island")
    orders = {name: whole.orderBy(order) for name, order in (("on", F.col("start")), ("back", F.col("start").desc()))}
    # both ways in one step: each step more is one that Spark Connect must resolve, and it stops at a hundred
    so_far = {name: order.rowsBetween(Window.unboundedPreceding, Window.currentRow) for name, order in orders.items()}
    groups = groups.withColumns({f"{name}_sum": F.sum("moved_by").over(rows) for name, rows in so_far.items()})
    runs = {}
    for name, order in orders.items():
        settled = F.when(F.col(f"{name}_sum") == 0, 1).otherwise(0)
        before = F.sum(settled).over(order.rowsBetween(Window.unboundedPreceding, -1))
        runs[f"{name}_run"] = F.coalesce(before, F.lit(0))
    groups = groups.withColumns(runs)
    moved = F.lit(False)
    for name in runs:
        run = Window.partitionBy("candidate", *dimensions, "island", name)
        moved |= _come_to_nothing("moved_by", run)
    return groups.withColumn("in_time", F.col("candidate") & F.coalesce(moved, F.lit(False)))


def _come_to_nothing(moved_by: str, rows: WindowSpec) -> Column:
    """Whether what some groups have more is what the others have less.

    Where a price is unknown, equal tokens may have any amount: there the money must come to nothing too.
    """
    money = F.sum("difference").over(rows)
    paid = (money == 0) | (F.abs(money) < F.sum("tolerance").over(rows))
    moved = (F.count(F.lit(1)).over(rows) > 1) & (F.sum(moved_by).over(rows) == 0)
    return moved & (F.min("price_known").over(rows) | paid)


def _with_causes(groups: DataFrame, dimensions: Sequence[str]) -> DataFrame:
    tokens = F.col("provider_tokens").cast(TOKENS)
    theirs, difference = F.col("provider_amount"), F.col("difference")
    more = F.col("more_tokens").cast(TOKENS)
    # without quantities: the amount that all our tokens would have in another tier
    counted = F.coalesce(tokens, F.col("our_tokens").cast(TOKENS))
    another_tier = F.exists("tiers", lambda tier: _near(theirs, (counted * tier["price"]).cast(MONEY)))
    another_tier = F.coalesce(another_tier, F.lit(False))
    by_its_prices = F.coalesce(_near(theirs, F.col("by_its_prices")), F.lit(False))
    a_price = by_its_prices | (F.col("by_its_prices").isNull() & _has_a_price(theirs, tokens))
    new_price = F.when(another_tier, "tier_differs").otherwise("price_differs")
    quantity_only = _nearly_between(
        difference, (more * F.col("lowest")).cast(MONEY), (more * F.col("highest")).cast(MONEY)
    )
    of_quantity = (more * F.col("lowest")).cast(MONEY)
    both_differ = (F.col("lowest") == F.col("highest")) & by_its_prices
    same_tokens = F.when(another_tier, "tier_differs").when(a_price, "price_differs").otherwise("unexplained")

    def one(cause: Column) -> Column:
        return F.array(F.struct(cause.alias("cause"), difference.cast(AMOUNT).alias("of_cause")))

    two = F.array(
        F.struct(F.lit("quantity_differs").alias("cause"), of_quantity.cast(AMOUNT).alias("of_cause")),
        F.struct(new_price.alias("cause"), (difference - of_quantity).cast(AMOUNT).alias("of_cause")),
    )
    causes = (
        F.when(F.col("rounded"), one(F.lit("rounding")))
        .when(F.col("by_other_k") | F.col("tier_moved"), one(F.lit("tier_differs")))
        .when(F.col("in_time"), one(F.lit("timing")))
        .when(~F.col("has_theirs"), one(F.lit("missing_at_provider")))
        .when(~F.col("has_ours"), one(F.lit("missing_in_usage")))
        .when(tokens.isNull(), one(F.when(another_tier, "tier_differs").otherwise("unexplained")))
        .when(F.col("as_many"), one(same_tokens))
        .when(quantity_only, one(F.lit("quantity_differs")))
        .when(both_differ, two)
        .otherwise(one(F.lit("unexplained")))
    )
    rows = groups.withColumn("found", F.explode(causes))
    only = F.when(F.col("lowest") == F.col("highest"), F.col("lowest").cast("decimal(14,12)"))
    columns = {
        "period_start": F.timestamp_seconds("start"),
        "period_end": F.timestamp_seconds("end"),
        "cause": F.col("found.cause"),
        "our_price_per_1k": F.when(F.col("has_ours"), only * F.lit(1000).cast("decimal(4,0)")),
        "difference": F.col("found.of_cause"),
        **{name: F.lit(None) for name in DIMENSIONS if name not in dimensions},
    }
    fields: StructType = RECONCILIATION
    return rows.select(*(columns.get(f.name, F.col(f.name)).cast(f.dataType).alias(f.name) for f in fields.fields))


def _near(amount: Column, other: Column) -> Column:
    """Whether the provider's amount is another one within its rounding."""
    return (amount == other) | (F.abs(amount - other) < F.col("tolerance"))


def _nearly_between(amount: Column, one: Column, other: Column) -> Column:
    """Whether an amount lies between two, within the provider's rounding."""
    low, high = F.least(one, other), F.greatest(one, other)
    near = (F.abs(amount - low) < F.col("tolerance")) | (F.abs(amount - high) < F.col("tolerance"))
    return amount.between(low, high) | near


def _has_a_price(amount: Column, tokens: Column) -> Column:
    """Whether some price of at most 9 decimals per 1,000 tokens, so 12 per token, gives the amount of these tokens."""
    small = F.when(F.abs(amount) < F.lit(Decimal(10**11)), amount)
    pico = (small.cast("decimal(24,12)") * F.lit(10**12).cast("decimal(13,0)")).cast("decimal(37,0)")
    count = F.when(tokens > 0, tokens)
    rest = F.pmod(pico, count)
    allowed = (F.col("tolerance").cast("decimal(24,12)") * F.lit(10**12).cast("decimal(13,0)")).cast("decimal(37,0)")
    return F.coalesce((rest == 0) | (rest < allowed) | (count - rest < allowed), F.lit(False))


def _tiers(prices: PriceList) -> Iterator[dict[str, Any]]:
    by_key: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for price in prices.prices:
        for kind, of_token in (("input", price.input_token_price), ("output", price.output_token_price)):
            if of_token is not None:
                tier = {"tier": price.tier, "from_us": price.from_us, "to_us": price.to_us, "price": of_token}
                by_key.setdefault((price.model, price.region, kind), []).append(tier)
    for (model, region, kind), tiers in by_key.items():
        yield {"list_model": model, "list_region": region, "list_token_type": kind, "tiers": tiers}
