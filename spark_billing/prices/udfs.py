"""The vectorized UDFs around `price_arrays.PriceTable`, and their registration for SQL.

Importing this module needs pyarrow and numpy (and pandas before Spark 4.1), on the driver and on the executors; it
needs no session. `arrow_udf` is used where the engine has it (Spark 4.1): it hands over instants and 64-bit integers
as they are. Before that a `pandas_udf` turns a token column with nulls into floats and an instant into wall-clock time
of the session's zone; both are turned back exactly, or the call stays unpriced.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql.types import DataType, LongType, StringType, StructField, StructType

from spark_billing.core.hours import BEGINNING_US, text_us
from spark_billing.core.schemas import COST
from spark_billing.prices.price_arrays import UNPRICED, BoolArray, IntArray, PriceTable
from spark_billing.prices.price_list import PriceList

if TYPE_CHECKING:
    from pyspark.sql import Column, SparkSession


try:
    from pyspark.sql.functions import arrow_udf  # type: ignore[attr-defined]
except ImportError:  # before Spark 4.1
    arrow_udf = None

# a UDF as its user sees it: columns (or their names) in, a column out
CallUdf = Callable[..., "Column"]
INVALID = -1  # a token count that is no whole number, or a negative one: it has no price
NO_INSTANT = BEGINNING_US  # before all years that can be billed: it has no price either

REQUEST_COSTS = StructType(
    [StructField(name, LongType()) for name in ("price_row", "input_pico", "output_pico")]  # row of `PriceList.prices`
)

_WHOLE_TEXT = re.compile(r" *([+-]?[0-9]{1,38})(\.0*)? *")


def model_call_cost(prices: PriceList) -> CallUdf:
    """A vectorized UDF: the exact cost of each call, in the price list's currency, as decimal(18,12).

    Its arguments are the columns `(model, region, input_tokens, output_tokens, call_time)`: tokens of the single
    request as whole numbers of any numeric type or as text, `call_time` as a timestamp or as ISO 8601 text with an
    offset. The result is tokens x price per 1,000 tokens / 1,000, unrounded, at the tier of the call's input tokens;
    null exactly where the call cannot be priced (`check_usage` names the reason). It never raises on a row.

    Examples
    --------
    >>> prices = PriceList.bundled("emr-serverless-spark", currency="USD")
    >>> cost = model_call_cost(prices)
    >>> usage.select(cost("model", "region", "input_tokens", "output_tokens", "call_time").alias("cost")).show()
    +--------------+
    |          cost|
    +--------------+
    |0.000053080000|
    |          NULL|
    +--------------+
    """
    table = PriceTable.of(prices)

    def price(*columns: pa.Array) -> pa.Array:
        located = _locate(table, *columns)
        input_pico, output_pico = table.costs_pico(*located)
        return _decimals(input_pico + output_pico, located[0] != UNPRICED)

    return _call_udf("model_call_cost", price, COST)


def model_call_tier(prices: PriceList) -> CallUdf:
    """A vectorized UDF: the tier that each call is charged at, such as `0-128K`; null exactly where the cost is.

    Same arguments as `model_call_cost`.
    """
    table = PriceTable.of(prices)
    tiers = pa.array([p.tier for p in prices.prices] + [None], type=pa.string())  # UNPRICED takes the last

    def tier(*columns: pa.Array) -> pa.Array:
        row, _, _ = _locate(table, *columns)
        return tiers.take(pa.array(np.where(row == UNPRICED, len(prices.prices), row)))

    return _call_udf("model_call_tier", tier, StringType())


def request_costs(prices: PriceList) -> CallUdf:
    """A vectorized UDF: how each call is priced, as `REQUEST_COSTS`, in one go; its fields are null where it has no
    price. The costs are whole 10^-12 of the currency.

    Same arguments as `model_call_cost`.
    """
    table = PriceTable.of(prices)

    def costs(*columns: pa.Array) -> pa.Array:
        located = _locate(table, *columns)
        unpriced = located[0] == UNPRICED
        made = [pa.array(values, mask=unpriced) for values in (located[0], *table.costs_pico(*located))]
        return pa.StructArray.from_arrays(made, names=REQUEST_COSTS.fieldNames())

    return _call_udf("request_costs", costs, REQUEST_COSTS)


def register(spark: SparkSession, prices: PriceList) -> None:
    """Make `model_call_cost` and `model_call_tier` of one price list callable in this session's SQL.

    Registering again, with another list, replaces them.

    Examples
    --------
    >>> register(spark, PriceList.bundled("emr-serverless-spark", currency="USD"))
    >>> spark.sql(
    ...     "SELECT sum(model_call_cost(model, region, input_tokens, output_tokens, call_time)) AS cost FROM calls"
    ... ).show()
    +--------------+
    |          cost|
    +--------------+
    |0.000053080000|
    +--------------+
    """
    zone = spark.conf.get("spark.sql.session.timeZone")
    for name, factory in (("model_call_cost", model_call_cost), ("model_call_tier", model_call_tier)):
        made: Any = factory(prices)
        spark.udf.register(name, made.with_zone(zone) if hasattr(made, "with_zone") else made)


def _locate(
    table: PriceTable,
    model: pa.Array,
    region: pa.Array,
    input_tokens: pa.Array,
    output_tokens: pa.Array,
    call_time: pa.Array,
) -> tuple[IntArray, IntArray, IntArray]:
    """Price row, input tokens and output tokens of each call of a batch."""
    input_counts, output_counts = _whole_numbers(input_tokens), _whole_numbers(output_tokens)
    row = table.locate(
        _numbers_of(model, table.models),
        _numbers_of(region, table.regions),
        input_counts,
        output_counts,
        output_tokens.is_null().to_numpy(zero_copy_only=False),
        _instants_of(call_time),
    )
    return row, input_counts, output_counts


def _numbers_of(names: pa.Array, known: dict[str, int]) -> IntArray:
    """The number of each name, the one after the last if it is not known."""
    if not (pa.types.is_string(names.type) or pa.types.is_large_string(names.type)):
        return np.full(len(names), len(known), dtype=np.int64)
    numbers: IntArray = _filled(pc.index_in(names, pa.array(list(known), type=names.type)), len(known)).astype(np.int64)
    return numbers


def _whole_numbers(values: pa.Array) -> IntArray:
    """Token counts as int64: INVALID for what is no whole number, 0 for null."""
    if pa.types.is_integer(values.type):
        counts: IntArray = _filled(values.cast(pa.int64()), 0)
        return counts
    if pa.types.is_floating(values.type):
        numbers = _filled(values.cast(pa.float64()), 0.0)
        whole = np.isfinite(numbers) & (np.trunc(numbers) == numbers) & (np.abs(numbers) < 2.0**63)
        return np.where(whole, np.where(whole, numbers, 0).astype(np.int64), INVALID)
    read = _whole_decimal if pa.types.is_decimal(values.type) else _whole_text
    return np.array([0 if v is None else read(v) for v in values.to_pylist()], dtype=np.int64)


def _whole_decimal(value: Decimal) -> int:
    return int(value) if value == value.to_integral_value() and abs(value) < 2**63 else INVALID


def _whole_text(value: object) -> int:
    match = _WHOLE_TEXT.fullmatch(value) if isinstance(value, str) else None
    number = int(match[1]) if match else INVALID
    return number if abs(number) < 2**63 else INVALID


def _instants_of(values: pa.Array) -> IntArray:
    """Instants as microseconds since 1970-01-01T00:00Z, NO_INSTANT where there is none."""
    if pa.types.is_timestamp(values.type) and values.type.tz is not None:
        micros: IntArray = _filled(values.cast(pa.timestamp("us", tz=values.type.tz)).cast(pa.int64()), NO_INSTANT)
        return micros
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        read = (None if v is None else text_us(v) for v in values.to_pylist())
        return np.array([NO_INSTANT if v is None else v for v in read], dtype=np.int64)
    # wall-clock time without a zone, or no time at all: never guessed
    return np.full(len(values), NO_INSTANT, dtype=np.int64)


def _filled(values: pa.Array, fill: float) -> Any:
    return (values.fill_null(fill) if values.null_count else values).to_numpy()


def _decimals(pico: IntArray, priced: BoolArray) -> pa.Array:
    """decimal(18,12) from whole 10^-12, straight into Arrow's buffers: Decimal objects take several times as long."""
    words = np.zeros((len(pico), 2), dtype=np.int64)
    words[:, 0] = pico  # the low word; costs are never negative, so the high word is 0
    valid = None if priced.all() else pa.py_buffer(np.packbits(priced, bitorder="little"))
    return pa.Array.from_buffers(pa.decimal128(COST.precision, COST.scale), len(pico), [valid, pa.py_buffer(words)])


def _call_udf(name: str, function: Callable[..., pa.Array], return_type: DataType) -> CallUdf:
    if arrow_udf is None:
        from spark_billing.prices.pandas_udfs import PandasCallUdf

        return PandasCallUdf(name, function, return_type)

    def call(
        model: pa.Array, region: pa.Array, input_tokens: pa.Array, output_tokens: pa.Array, call_time: pa.Array
    ) -> pa.Array:
        return function(model, region, input_tokens, output_tokens, call_time)

    call.__name__ = call.__qualname__ = name  # the column's name in a SELECT
    made: CallUdf = arrow_udf(call, return_type)
    return made
