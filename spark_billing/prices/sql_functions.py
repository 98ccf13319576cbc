"""The price list as SQL functions: `model_call_cost` and `model_call_tier` written in plain Spark SQL, without Python.

Engines with Spark 4 keep a function whose body is an SQL expression. These have the same names and give the same values
as the vectorized UDFs, to the last digit, but the query stays in the engine's own columns, and a function that is kept
in a catalog serves views, SQL warehouses and BI tools. The body is the price list itself: one WHEN for each tier and
period, with all regions that share it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta, timezone
from typing import Optional

from spark_billing.core.columns import quoted
from spark_billing.core.errors import UsageError
from spark_billing.core.hours import EPOCH, FIRST_INSTANT_US, LAST_INSTANT_US
from spark_billing.core.schemas import COST
from spark_billing.prices.price import MAX_TOKENS, Price
from spark_billing.prices.price_list import PriceList

_FIRST, _LAST = (EPOCH + timedelta(microseconds=us) for us in (FIRST_INSTANT_US, LAST_INSTANT_US))
_PARAMETERS = "model STRING, region STRING, input_tokens BIGINT, output_tokens BIGINT, call_time TIMESTAMP_LTZ"
_COST_TYPE = COST.simpleString().upper()

# What stands for itself between quotes in every dialect of Spark's parser: quotes and backslashes can be read in two
# ways, ${...} is replaced before parsing, and a script is cut at semicolons
_PLAIN = re.compile(r"[A-Za-z0-9 ._:/@()=,+-]*")


def sql_function_ddl(prices: PriceList, *, namespace: Optional[str] = None, prefix: str = "") -> list[str]:
    """Statements that make `model_call_cost` and `model_call_tier` SQL functions of one price list (from Spark 4.0 on).

    Both take `(model STRING, region STRING, input_tokens BIGINT, output_tokens BIGINT, call_time TIMESTAMP)`, tokens of
    the single request, and give the cost as decimal(18,12) in the list's currency, tokens x price per 1,000 tokens /
    1,000, unrounded, and the tier; null exactly where the call cannot be priced (`check_usage` names the reason).
    Without `namespace` they are temporary functions of a session; with one, such as billing or catalog.billing,
    they are kept there. `prefix` goes before both names, so that lists in two currencies can stand side by side.
    Created again, they are replaced. `UsageError` if the namespace is no name.

    Examples
    --------
    >>> prices = PriceList.bundled("emr-serverless-spark", currency="USD")
    >>> for statement in sql_function_ddl(prices):
    ...     _ = spark.sql(statement)
    >>> spark.sql(
    ...     "SELECT sum(model_call_cost(model, region, input_tokens, output_tokens, call_time)) AS cost FROM calls"
    ... ).show()
    +--------------+
    |          cost|
    +--------------+
    |0.000053080000|
    +--------------+
    """
    if namespace is not None and not all(namespace.split(".")):
        raise UsageError(f"the namespace {namespace!r} has an empty part; give one such as billing or catalog.billing")
    pico = _case(prices, _pico)
    # decimal(18,0) x decimal(12,12): exact whatever the session's decimal settings
    cost = f"CAST(CAST({pico} AS DECIMAL(18,0)) * 0.000000000001BD AS {_COST_TYPE})"
    tier = _case(prices, lambda price: _sql_text(price.tier))
    tier = _case(prices, lambda price: _sql_text(price.tier))
    return [
        _create_function(prices, namespace, f"{prefix}model_call_cost", _COST_TYPE, cost),
        _create_function(prices, namespace, f"{prefix}model_call_tier", "STRING", tier),
    ]


def sql_in(name: str, texts: Iterable[str]) -> str:
    """SQL that says whether a column is one of some texts; null for null."""
    listed = _sql_list(texts)
    return f"{name} IN ({listed})" if listed else "false"


def _create_function(prices: PriceList, namespace: Optional[str], name: str, returns: str, body: str) -> str:
    temporary = "TEMPORARY " if namespace is None else ""
    parts = [name] if namespace is None else [*namespace.split("."), name]
    of = "".join(c if _PLAIN.fullmatch(c) else "?" for c in str(prices))
    return (
        f"CREATE OR REPLACE {temporary}FUNCTION {'.'.join(map(quoted, parts))}({_PARAMETERS})\n"
        f"RETURNS {returns}\n"
        f"COMMENT 'price list {of}'\n"
        f"RETURN {body}"
    )


def _case(prices: PriceList, value: Callable[[Price], str]) -> str:
    """The value of the price of a call, null if it has none: comparisons with a null argument are never true."""
    readable = f"call_time BETWEEN {_sql_instant(_FIRST)} AND {_sql_instant(_LAST)}"
    output = f"output_tokens BETWEEN 0 AND {MAX_TOKENS}"
    free = prices.models_without_output_price
    if free:
        output = f"({output} OR output_tokens IS NULL AND {sql_in('model', free)})"
    rows = [
        f"  WHEN model = {_sql_text(model)} AND region IN ({_sql_list(regions)}) THEN CASE\n    "
        + "\n    ".join(tiers)
        + "\n  END"
        for model in prices.models
        for regions, tiers in _schedules((p for p in prices.prices if p.model == model), value)
    ]
    priced = "\n".join(rows)
    return f"CASE WHEN {readable} AND {output} THEN CASE\n{priced}\nEND END"


def _schedules(prices: Iterable[Price], value: Callable[[Price], str]) -> list[tuple[list[str], list[str]]]:
    """The regions of a model that have the same prices at all times, with these as WHEN branches."""
    by_region: dict[str, list[str]] = {}
    for price in sorted(prices, key=lambda p: (p.from_us, p.min_input_tokens)):
        by_region.setdefault(price.region, []).append(f"WHEN {_applies(price)} THEN {value(price)}")
    regions_of: dict[tuple[str, ...], list[str]] = {}
    for region, branches in sorted(by_region.items()):
        regions_of.setdefault(tuple(branches), []).append(region)
    return [(regions, list(branches)) for branches, regions in regions_of.items()]


def _applies(price: Price) -> str:
    """Bounds are open below and closed above, periods the other way round."""
    conditions = [f"input_tokens > {price.min_input_tokens} AND input_tokens <= {price.max_input_tokens}"]
    if price.effective_from is not None:
        conditions.append(f"call_time >= {_sql_instant(price.effective_from)}")
    if price.effective_to is not None:
        conditions.append(f"call_time < {_sql_instant(price.effective_to)}")
    return " AND ".join(conditions)


def _pico(price: Price) -> str:
    """The cost in whole 10^-12 of the currency: below 10^18 for every call that the row prices."""
    cost = f"input_tokens * {price.input_pico_per_token}"
    return cost if price.output_pico_per_token is None else f"{cost} + output_tokens * {price.output_pico_per_token}"


def _sql_instant(at: datetime) -> str:
    return f"TIMESTAMP_LTZ '{at.astimezone(timezone.utc).isoformat()}'"


def _sql_list(names: Iterable[str]) -> str:
    return ", ".join(_sql_text(name) for name in names)


def _sql_text(name: str) -> str:
    """A name from the price list as SQL that is that text under every setting of the parser."""
    return f"'{name}'" if _PLAIN.fullmatch(name) else f"CAST(X'{name.encode('utf-8').hex()}' AS STRING)"
