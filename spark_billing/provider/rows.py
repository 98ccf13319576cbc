"""A provider's bill of any shape -> rows that can be compared with ours, by the mapping of its words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Optional

from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import (
    DataType,
    DateType,
    DecimalType,
    DoubleType,
    FloatType,
    IntegralType,
    StringType,
    TimestampType,
)

from spark_billing.core.columns import midnight, period_end, period_start
from spark_billing.core.errors import ProviderBillError
from spark_billing.core.hours import INSTANT_TEXT
from spark_billing.core.schemas import AMOUNT, PRICE
from spark_billing.core.text import printable
from spark_billing.provider.mapping import ITEM, LAYOUTS, BillMapping
from spark_billing.provider.schemas import PROVIDER_BILL

_OPTIONAL = ("price", "discount", "vouchers", "quantity", "unit")  # of a layout: left out if the bill lacks them

_PLAIN_NUMBER = r"\A-?[0-9]{1,20}(\.[0-9]{1,18})?\z"

_LOCAL_PERIOD = r"\A[0-9]{4}-[0-9]{2}(-[0-9]{2}(T[0-9]{2})?)?\z"

_WIDE = DecimalType(38, 18)


def provider_bill(bill: DataFrame, mapping: BillMapping) -> DataFrame:
    """A provider's bill -> its rows as `schemas.PROVIDER_BILL`, without the columns that the bill does not tell.

    Quantities become whole tokens, prices those of 1,000 tokens, periods UTC+8 hours, days or months as instants.
    Amounts stay exact. The bill is read once to check it: `ProviderBillError` counts the rows that do not fit and shows
    one of each kind.

    Examples
    --------
    >>> mapping = BillMapping.of({
    ...     "grain": "day", "layout": "describe-instance-bill", "units": {"1K tokens": 1000},
    ...     "items": {"qwen_in_128k": {"model": "qwen-plus", "token_type": "input", "tier": "0-128K"}},
    ... })
    >>> bill = spark.createDataFrame(
    ...     [("2026-04-08", "w-1", "cn-hangzhou", "qwen_in_128k", "0.26", "1K tokens", "0.00003588", "USD")],
    ...     "BillingDate string, InstanceID string, Region string, BillingItemCode string, Usage string, "
    ...     "UsageUnit string, PretaxGrossAmount string, Currency string",
    ... )
    >>> provider_bill(bill, mapping).select("workspace_id", "model", "tier", "tokens", "amount").show()
    +------------+---------+------+------+--------------+
    |workspace_id|    model|  tier|tokens|        amount|
    +------------+---------+------+------+--------------+
    |         w-1|qwen-plus|0-128K|   260|0.000035880000|
    +------------+---------+------+------+--------------+
    """
    raw, types = _raw(bill, mapping)
    seconds = _period_seconds(F.col("period"), types["period"], mapping.grain)
    start = F.timestamp_seconds(period_start(seconds, mapping.grain))
    end = F.timestamp_seconds(period_end(seconds, mapping.grain))
    numbers = {n: _number(n, types[n]) for n in ("quantity", "price", "amount", "discount", "vouchers") if n in types}
    unit = _translated(F.col("unit").cast("string"), {n: str(t) for n, t in mapping.units.items()}, None).cast("bigint")
    item = (F.col("item") if "item" in types else F.lit(None)).cast("string")
    columns: dict[str, Column] = {"period_start": start, "period_end": end}
    for name in mapping.dimensions:
        if name in ITEM and mapping.items:
            of_code = {code: each[name] for code, each in mapping.items.items()}
            columns[name] = _translated(item, of_code, None)
        else:
            known = {"workspace_id": mapping.workspaces, "region": mapping.regions}.get(name, {})
            text = F.col(name).cast("string")
            columns[name] = _translated(text, known, text)
    if "quantity" in types:
        columns["tokens"] = numbers["quantity"].cast("decimal(27,9)") * unit.cast("decimal(10,0)")
    if "price" in numbers:
        columns["price_per_1k"] = _per_1k(numbers["price"], mapping.price_per)
    columns["amount"] = numbers["amount"]
    for name in ("discount", "vouchers"):
        columns[name] = F.coalesce(numbers[name], F.lit(0).cast(_WIDE)) if name in types else F.lit(0).cast(_WIDE)
    columns["currency"] = F.col("currency").cast("string")

    kept = raw
    if mapping.ignore_items:
        kept = raw.filter(~F.coalesce(item.isin(list(mapping.ignore_items)), F.lit(False)))
    problem = _problem(mapping, columns, numbers, item, unit)
    _refuse(kept.select(problem.alias("problem"), "shown"))
    fields = [field for field in PROVIDER_BILL.fields if field.name in columns]
    return kept.select(*(columns[f.name].cast(f.dataType).alias(f.name) for f in fields))


def _raw(bill: DataFrame, mapping: BillMapping) -> tuple[DataFrame, dict[str, DataType]]:
    """The columns of the mapping, by its names, and their types. Those of a published layout may be absent."""
    there = {name.lower() for name in bill.columns}
    selected = []
    for name, expression in mapping.columns.items():
        from_layout = LAYOUTS[mapping.layout].get(name) == expression
        if from_layout and name in _OPTIONAL and expression.lower() not in there:
            continue
        try:
            _ = bill.where(F.expr(expression).isNull()).schema
        except PySparkException:
            raise ProviderBillError(
                f"the provider's bill has no {expression!r}, which the mapping takes for {name}; it has: "
                f"{', '.join(bill.columns)}. Give columns.{name}, a Spark SQL expression over these."
            ) from None
        selected.append(F.expr(expression).alias(name))
    raw = bill.select(*selected, F.to_json(F.struct("*")).alias("shown"))
    types = {field.name: field.dataType for field in raw.schema.fields}
    if "quantity" in types and "unit" not in types:
        raw, types["unit"] = raw.withColumn("unit", F.lit("tokens")), StringType()
    if "unit" not in types:
        raw = raw.withColumn("unit", F.lit(None).cast("string"))
    for name in ("quantity", "price", "amount", "discount", "vouchers"):
        if isinstance(types.get(name), (DoubleType, FloatType)):
            raise ProviderBillError(
                f"{name} ({mapping.columns[name]}) is {types[name].simpleString()} in the provider's bill, which holds "
                f"no exact decimals; give columns.{name} as cast(... as decimal(28,10)) if it was written with as many"
            )
    return raw, types


def _number(name: str, dtype: DataType) -> Column:
    """As decimal(38,18), null where it is no plain number, or one that no bill of this world has."""
    column = F.col(name)
    if not isinstance(dtype, (DecimalType, IntegralType)):
        text = column.cast("string")
        column = F.when(text.rlike(_PLAIN_NUMBER), text)
    number = column.cast(_WIDE)
    limit = F.lit(Decimal(10 ** (6 if name == "price" else 15)))
    return F.when((number > -limit) & (number < limit), number)


def _per_1k(price: Column, per: int) -> Column:
    """The price of 1,000 tokens from that of `per`, which is a power of ten."""
    zeros = len(str(per)) - 4
    if zeros <= 0:
        return price.cast("decimal(24,15)") * F.lit(10**-zeros).cast("decimal(5,0)")
    return price.cast("decimal(24,15)") * F.lit(f"0.{'0' * (zeros - 1)}1").cast(f"decimal({zeros},{zeros})")


def _translated(text: Column, known: Mapping[str, str], otherwise: Optional[Column]) -> Column:
    """What a mapping says for a text; an expression of one look-up, however long the mapping."""
    if not known:
        return F.lit(None).cast("string") if otherwise is None else otherwise
    pairs = F.from_json(F.lit(json.dumps(dict(known))), "map<string,string>")
    found = pairs[text]
    return found if otherwise is None else F.coalesce(found, otherwise)


def _period_seconds(column: Column, dtype: DataType, grain: str) -> Column:
    """Epoch seconds of the start of a period as the bill writes it; null if it is none, or coarser than the grain."""
    if isinstance(dtype, TimestampType):
        return F.unix_seconds(column)
    if isinstance(dtype, DateType):
        return F.lit(None).cast("bigint") if grain == "hour" else midnight(column)
    text = column.cast("string")
    local = (
        F.when(F.length(text) == 7, F.concat(text, F.lit("-01T00:00:00+08:00")))
        .when(F.length(text) == 10, F.concat(text, F.lit("T00:00:00+08:00")))
        .otherwise(F.concat(text, F.lit(":00:00+08:00")))
    )
    fine = F.length(text) >= {"hour": 13, "day": 10, "month": 7}[grain]
    instant = F.when(text.rlike(_LOCAL_PERIOD) & fine, local).when(text.rlike(INSTANT_TEXT), text)
    return F.unix_seconds(F.try_to_timestamp(instant))


def _problem(
    mapping: BillMapping,
    columns: Mapping[str, Column],
    numbers: Mapping[str, Column],
    item: Column,
    unit: Column,
) -> Column:
    """Why a row does not fit; null if it does."""
    found = F.lit(None).cast("string")

    def otherwise(wrong: Column, text: Column) -> None:
        nonlocal found
        found = F.coalesce(found, F.when(F.coalesce(wrong, F.lit(True)), text))

    period = F.coalesce(F.col("period").cast("string"), F.lit("nothing"))
    otherwise(columns["period_start"].isNull(),
              F.concat(F.lit("the period is "), period, F.lit(f", not a UTC+8 {mapping.grain}")))  # fmt: skip
    if mapping.items:
        code = F.coalesce(item, F.lit("nothing"))
        told = F.concat(F.lit("the item code "), code, F.lit(" is neither in items nor in ignore_items"))
        otherwise(~item.isin(list(mapping.items)), told)
    for name in mapping.dimensions:
        if name not in ITEM or not mapping.items:
            hint = f'it has no {name}; leave it out of the comparison with without = ["{name}"]'
            otherwise((columns[name] == "") | columns[name].isNull(), F.lit(hint))
    if "workspace_id" in columns:
        its_id = F.col("workspace_id").cast("string")
        told = F.concat(
            F.lit("the workspace "),
            its_id,
            F.lit(
                " is a region, which is no workspace, and the mapping of workspaces does not know it; give it there, "
                'or compare all workspaces together with without = ["workspace_id"]'
            ),
        )
        otherwise(_is_a_region(mapping, its_id), told)
    if "token_type" in columns and not mapping.items:
        otherwise(~columns["token_type"].isin("input", "output"), F.lit("the token_type is neither input nor output"))
    for name in numbers:
        needed = name == "amount"
        there = F.col(name).cast("string").isNotNull() & (F.col(name).cast("string") != "")
        bad = numbers[name].isNull() if needed else there & numbers[name].isNull()
        value = F.coalesce(F.col(name).cast("string"), F.lit("nothing"))
        otherwise(bad, F.concat(F.lit(f"the {name} is "), value, F.lit(", not a plain number")))
    exact = {**numbers, **{name: columns[name] for name in ("price_per_1k",) if name in columns}}
    for name, scale in (("amount", AMOUNT.scale), ("quantity", 9), ("price_per_1k", PRICE.scale)):
        if name in exact:
            rest = exact[name] != exact[name].cast(DecimalType(18 + scale, scale))
            otherwise(F.coalesce(rest, F.lit(False)), F.lit(f"the {name} has more than {scale} decimals"))
    if "tokens" in columns:
        counted = F.col("quantity").isNotNull() & (F.col("quantity").cast("string") != "")
        its_unit = F.coalesce(F.col("unit").cast("string"), F.lit("nothing"))
        otherwise(counted & unit.isNull(), F.concat(F.lit("the unit "), its_unit, F.lit(" is not in units")))
        whole = columns["tokens"] == columns["tokens"].cast("decimal(29,0)")
        whole &= F.abs(columns["tokens"]) < F.lit(Decimal(10**18))
        many = F.concat(F.col("quantity").cast("string"), F.lit(" "), its_unit)
        otherwise(counted & ~whole, F.concat(many, F.lit(" are no whole number of tokens; is units right?")))
    currency = columns["currency"]
    otherwise(currency.isNull() | ~currency.rlike(r"\A[A-Z]{3}\z"), F.lit("it has no currency such as USD"))
    return found


def _is_a_region(mapping: BillMapping, workspace: Column) -> Column:
    """Whether what stands for the workspace is the region of the row, or another region that is known, and not mapped:
    taken for a workspace it would be one that has no usage."""
    known = {*mapping.regions, *mapping.regions.values()}
    a_region = workspace.isin(sorted(known))
    if "region" in mapping.columns:
        a_region |= F.coalesce(workspace == F.col("region").cast("string"), F.lit(False))
    return a_region & ~workspace.isin(sorted(mapping.workspaces))


def _refuse(rows: DataFrame) -> None:
    bad = rows.filter(F.col("problem").isNotNull()).groupBy("problem")
    found = bad.agg(F.count(F.lit(1)).alias("rows"), F.min("shown").alias("shown")).orderBy(F.desc("rows"), "problem")
    kinds = found.limit(4).collect()
    if not kinds:
        return
    told = "; ".join(f"{row['rows']:,} rows: {printable(row['problem'], 200)}" for row in kinds[:3])
    more = "; and more" if len(kinds) > 3 else ""
    first = printable(kinds[0]["shown"], 300)
    raise ProviderBillError(f"the provider's bill does not fit its mapping: {told}{more}. The first such row: {first}")
