"""The same usage under another price list, or under the other reading of K: what would change, without writing."""

from __future__ import annotations

from typing import Optional

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from spark_billing.bills.metering import of_period
from spark_billing.core.errors import PriceListError
from spark_billing.core.hours import Period
from spark_billing.core.schemas import AMOUNT, COST
from spark_billing.ledger.billing import hours_between
from spark_billing.prices.price_list import PriceList
from spark_billing.prices.price_rows import cost_of
from spark_billing.usage.calls import BILLED_BY, typed_calls
from spark_billing.usage.checks import check_usage
from spark_billing.usage.copies import CopyRule, KeepCopy
from spark_billing.usage.rating import pico_cost, rate_calls


def rerate(
    usage: DataFrame,
    *,
    prices: PriceList,
    other: PriceList,
    period: Optional[tuple[str, str]] = None,
    duplicates: bool = True,
    dedup_lookback: int = 24,
    keep_copy: KeepCopy = "fullest",
) -> DataFrame:
    """What the calls cost by `prices` and by `other`, per workspace and model.

    Columns: `workspace_id, model, requests` (billed by either), `amount, other_amount` (of what each can bill),
    `difference` (other - amount), and the calls that the lists treat differently: `moved_requests` are in another
    tier, `moved_difference` is what these add to the difference; `only_here` and `only_there` are billed by one of the
    two alone. Both lists must be of one currency (`PriceListError`). `period` is two UTC+8 hours, half open
    (None: all of the usage). With `duplicates` (then ids are needed), copies are left out as `check_usage` finds them
    under `prices`, those around the period among them.

    Examples
    --------
    >>> prices = PriceList.bundled("emr-serverless-spark", currency="USD")
    >>> other = PriceList.bundled("emr-serverless-spark", currency="USD", tokens_per_k=1024)
    >>> rerate(usage, prices=prices, other=other).select("workspace_id", "requests", "difference").show()
    +------------+--------+--------------+
    |workspace_id|requests|    difference|
    +------------+--------+--------------+
    |         w-1|       1|0.000000000000|
    +------------+--------+--------------+
    """
    if prices.currency != other.currency:
        raise PriceListError(f"the lists are in {prices.currency} and {other.currency}; prices are never converted")
    hours = None if period is None else hours_between(*period)
    if duplicates:
        rule = CopyRule(dedup_lookback, keep_copy)
        if hours is not None:
            usage = of_period(usage, Period(hours.start - rule.seconds, hours.end + rule.seconds))
        repeats = F.col("reject_reason").isin("missing_request_id", "duplicate_request", "conflicting_request")
        checked = check_usage(usage, prices=prices, dedup_lookback=dedup_lookback, keep_copy=keep_copy)
        usage = checked.filter(~F.coalesce(repeats, F.lit(False))).drop("reject_reason")
    if hours is not None:
        usage = of_period(usage, hours)
    calls = typed_calls(usage, BILLED_BY).drop("source")
    found = ("price_row", "no_price", "input_pico_per_token", "output_pico_per_token", "price_id", "tier", "reject")
    first = rate_calls(calls, prices, BILLED_BY)
    first = first.withColumnsRenamed({name: f"first_{name}" for name in found})
    both = rate_calls(first, other, BILLED_BY)

    def cost(prefix: str) -> Column:
        pico = pico_cost("input", prefix) + pico_cost("output", prefix)
        return F.when(F.col(f"{prefix}reject").isNull(), cost_of(pico)).otherwise(F.lit(0).cast(COST))

    here, there = F.col("first_reject").isNull(), F.col("reject").isNull()
    costs = both.filter(here | there).select(
        "workspace_id",
        "model",
        cost("first_").alias("amount"),
        cost("").alias("other_amount"),
        # of each call: after the sums, the difference of two decimal(38,12) would lose its last digit
        (cost("") - cost("first_")).alias("difference"),
        (here & there & (F.col("first_tier") != F.col("tier"))).alias("moved"),
        (here & ~there).alias("only_here"),
        (there & ~here).alias("only_there"),
    )

    def count(kind: str, name: str) -> Column:
        return F.count(F.when(F.col(kind), 1)).alias(name)

    def sum_of(name: str, alias: str, kind: Optional[str] = None) -> Column:
        amount = F.col(name) if kind is None else F.when(F.col(kind), F.col(name)).otherwise(F.lit(0).cast(COST))
        return F.sum(amount).cast(AMOUNT).alias(alias)

    return (
        costs.groupBy("workspace_id", "model")
        .agg(
            F.count(F.lit(1)).alias("requests"),
            sum_of("amount", "amount"),
            sum_of("other_amount", "other_amount"),
            sum_of("difference", "difference"),
            count("moved", "moved_requests"),
            sum_of("difference", "moved_difference", "moved"),
            count("only_here", "only_here"),
            count("only_there", "only_there"),
        )
        .orderBy("workspace_id", "model")
    )
