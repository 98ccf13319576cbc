"""The rules of FOCUS that rows of model calls must keep, checked exactly: costs in decimals, not in floats.

The official validator compares costs as floats within a tolerance and cannot see a correction in the wrong month. This
one asserts for rows of this package what the specification says of each column, and what follows from having neither
discounts nor commitments: every cost is the same amount.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql.types import DataType, DecimalType, StringType, StructField, TimestampType

from spark_billing.core.columns import billing_date, midnight, quoted
from spark_billing.core.errors import UsageError
from spark_billing.core.hours import SECONDS_PER_HOUR
from spark_billing.core.schemas import AMOUNT, TOTAL_TOKENS
from spark_billing.focus.columns import FOCUS
from spark_billing.focus.rows import utc_text

# Every row is the usage of a model at its list price; these are the specification's words for it
_VALUES = {
    "ChargeCategory": "Usage",
    "ChargeFrequency": "Usage-Based",
    "ConsumedUnit": "Tokens",
    "PricingCategory": "Standard",
    "PricingUnit": "1000 Tokens",
    "ServiceCategory": "AI and Machine Learning",
    "ServiceSubcategory": "Generative AI",
}
_NULLABLE = (
    *("BillingAccountName", "ChargeClass", "CommitmentDiscountStatus", "InvoiceDetailId", "InvoiceId"),
    *("RegionId", "RegionName", "ResourceId", "ResourceName", "ResourceType", "SkuMeter", "SkuPriceDetails"),
    *("SubAccountId", "SubAccountName", "Tags"),
)
_NULL_TOGETHER = (
    ("RegionName", "RegionId"),
    ("SubAccountName", "SubAccountId"),
    ("ResourceType", "ResourceId"),
    ("SkuMeter", "SkuId"),
    ("InvoiceDetailId", "InvoiceId"),
)
_NULL_WITH = (("ResourceName", "ResourceId"), ("SkuPriceDetails", "SkuPriceId"))
# Each value on the left has one on the right
_ONE_FOR_EACH = (
    ("SkuPriceId", "SkuId"),
    ("SkuPriceId", "SkuPriceDetails"),
    ("SkuId", "SkuMeter"),
    ("InvoiceId", "BillingPeriodStart"),
)
_HOUR_US = SECONDS_PER_HOUR * 1_000_000
_OBJECT = "map<string,string>"


@dataclass(frozen=True)
class BrokenRule:
    """A rule that some rows break: what it asks, how many rows (of a rule on columns: columns), and one of them."""

    rule: str
    count: int
    example: str


@dataclass(frozen=True)
class Examined:
    """What one pass over FOCUS rows found."""

    rows: int
    tokens: int
    cost: Decimal
    broken: Sequence[BrokenRule]


class Rule(NamedTuple):
    """What is asked of each row, and which rows break it."""

    name: str
    breaks: Column  # null: not broken by this row


def check_focus(frame: DataFrame, version: str = "1.2") -> list[BrokenRule]:
    """The rules of FOCUS that rows of model calls break; none, if the rows are as `to_focus` makes them.

    `frame` has typed columns (`columns.FOCUS`), as read from Parquet, or text as read from CSV. One pass over the rows,
    and one more for the examples if a rule is broken. If columns are missing or of another type, only that is said.
    `UsageError` if there are no rules for the version. Source: the specification's requirements of each column.

    Examples
    --------
    >>> rows = to_focus(ledger_lines(spark, output), billing_account_id="1234567890123456")
    >>> check_focus(rows)
    []
    >>> [(broken.rule, broken.example) for broken in check_focus(rows.drop("Tags"))]
    [('FOCUS 1.2 has these columns', 'Tags')]
    """
    return list(examine(frame, version).broken)


def examine(frame: DataFrame, version: str) -> Examined:
    """`check_focus`, with the sums of the same pass."""
    if version not in FOCUS:
        raise UsageError(f"FOCUS {version!r} cannot be checked; there are rules for {' and '.join(FOCUS)}")
    broken = list(_broken_columns(frame, version))
    if broken:
        return Examined(0, 0, Decimal(0), broken)
    there = [field for field in FOCUS[version].fields if field.name in frame.columns]  # without our own, perhaps
    texts = [field for field in there if _is_text(frame, field)]
    rows = frame
    if texts:
        rows = rows.withColumns({_text_of(f.name): F.col(f.name) for f in texts})
        rows = rows.withColumns({f.name: _value(f) for f in texts})
    rules = [*_text_rules(texts), *row_rules(version)]
    # side by side, not one within the other: a hundred nested ones are more than Spark Connect reads
    any_broken = F.coalesce(*(F.when(rule.breaks, True) for rule in rules), F.lit(False))
    # SKUs and invoices are few: what is to be said of them is said of groups of rows
    names = sorted({"SkuPriceDetails", *(name for pair in _ONE_FOR_EACH for name in pair)})
    keys = {name: utc_text(F.col(name)) if name.endswith("Start") else F.col(name) for name in names}
    groups = rows.groupBy(*(key.alias(name) for name, key in keys.items())).agg(
        F.count(F.lit(1)).alias("rows"),
        F.count(F.when(any_broken, 1)).alias("broken"),
        F.sum(F.col("ConsumedQuantity").cast(TOTAL_TOKENS)).cast(TOTAL_TOKENS).alias("tokens"),
        F.sum("BilledCost").cast(AMOUNT).alias("cost"),
    )
    of_groups = list(_group_rules())
    flags = {f"breaks_{i}": rule.breaks for i, (rule, _) in enumerate(of_groups)}
    found = groups.select("*", *(breaks.alias(flag) for flag, breaks in flags.items())).agg(
        *(F.sum(name).alias(name) for name in ("rows", "broken", "tokens", "cost")),
        *(F.sum(F.when(F.col(flag), F.col("rows"))).alias(flag) for flag in flags),
        *(F.min(F.when(F.col(flag), F.col(of))).alias(f"such_{flag}") for flag, (_, of) in zip(flags, of_groups)),
    )
    row = found.collect()[0]
    broken = _broken_rows(rows, rules) if row["broken"] else []
    for flag, (rule, _) in zip(flags, of_groups):
        if row[flag]:
            broken.append(BrokenRule(rule.name, row[flag], row[f"such_{flag}"]))
    return Examined(row["rows"] or 0, int(row["tokens"] or 0), row["cost"] or Decimal(0), broken)


def _broken_rows(rows: DataFrame, rules: Sequence[Rule]) -> list[BrokenRule]:
    """The rules that rows break, in their order, each with one of the rows."""
    such = F.concat_ws(" ", "SubAccountId", utc_text(F.col("ChargePeriodStart")), "SkuPriceId")
    numbers = F.array_compact(F.array(*(F.when(rule.breaks, F.lit(i)) for i, rule in enumerate(rules))))
    each = rows.select(F.explode(numbers).alias("rule"), such.alias("such")).groupBy("rule")
    found = each.agg(F.count(F.lit(1)).alias("rows"), F.min("such").alias("such")).orderBy("rule").collect()
    return [BrokenRule(rules[row["rule"]].name, row["rows"], row["such"]) for row in found]


def _broken_columns(frame: DataFrame, version: str) -> Iterator[BrokenRule]:
    """Rules on the columns themselves, each counted in columns."""
    expected = [name for name in FOCUS[version].fieldNames() if not name.startswith("x_")]
    missing = [name for name in expected if name not in frame.columns]
    if missing:
        yield BrokenRule(f"FOCUS {version} has these columns", len(missing), ", ".join(missing))
    twice = sorted({name for name in frame.columns if frame.columns.count(name) > 1})
    if twice:
        yield BrokenRule("no column is there twice", len(twice), ", ".join(twice))
    foreign = [name for name in frame.columns if name not in expected and not name.startswith("x_")]
    if foreign:
        yield BrokenRule(f"columns that FOCUS {version} does not have begin with x_", len(foreign), ", ".join(foreign))
    own = [name for name in frame.columns if name.startswith("x_")]
    if own and frame.columns[-len(own) :] != own:
        yield BrokenRule("the columns that begin with x_ are the last", len(own), ", ".join(own))
    if twice:
        return
    for field in FOCUS[version].fields:
        if field.name in frame.columns and not _is_text(frame, field):
            dtype = frame.schema[field.name].dataType
            if dtype != field.dataType:
                wanted = f"{field.name} is {field.dataType.simpleString()}"
                yield BrokenRule(wanted, 1, f"it is {dtype.simpleString()}")


# --- values that came as text, from CSV


def _is_text(frame: DataFrame, field: StructField) -> bool:
    """Whether a column is text that stands for another type."""
    is_text = isinstance(frame.schema[field.name].dataType, StringType)
    return is_text and not isinstance(field.dataType, StringType)


def _text_of(name: str) -> str:
    return f"text of {name}"


def _pattern(dtype: DataType) -> str:
    """The plain text of a type: no exponent, no sign but a minus, no more digits than it has."""
    if isinstance(dtype, TimestampType):
        return r"\A[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z\z"
    if isinstance(dtype, DecimalType):
        decimals = rf"(\.[0-9]{{1,{dtype.scale}}})?" if dtype.scale else ""
        return rf"\A-?[0-9]{{1,{dtype.precision - dtype.scale}}}{decimals}\z"
    return r"\A-?[0-9]{1,18}\z"


def _value(field: StructField) -> Column:
    text = F.col(field.name)
    value = F.try_to_timestamp(text) if isinstance(field.dataType, TimestampType) else text.cast(field.dataType)
    return F.when(text.rlike(_pattern(field.dataType)), value)


def _text_rules(fields: Sequence[StructField]) -> Iterator[Rule]:
    for field in fields:
        text = F.col(quoted(_text_of(field.name)))
        kind = "a UTC instant with Z" if isinstance(field.dataType, TimestampType) else "a plain number"
        unreadable = text.isNotNull() & (~text.rlike(_pattern(field.dataType)) | F.col(field.name).isNull())
        yield Rule(f"the text of {field.name} is {kind}", unreadable)


# --- rules on one row


def row_rules(version: str) -> list[Rule]:
    """The rules of a version of FOCUS on single rows, in the order in which they are told."""
    return [*_value_rules(version), *_time_rules()]


def _value_rules(version: str) -> Iterator[Rule]:
    fields = [field for field in FOCUS[version].fields if not field.name.startswith("x_")]
    names = [field.name for field in fields]
    for name in names:
        if name not in _NULLABLE:
            yield Rule(f"{name} is not null", F.col(name).isNull())
    for name, value in _VALUES.items():
        yield Rule(f"{name} is {value!r}", F.col(name) != value)
    yield Rule("ChargeClass is null or 'Correction'", F.col("ChargeClass") != "Correction")
    yield Rule("CommitmentDiscountStatus is null", F.col("CommitmentDiscountStatus").isNotNull())
    for name, other in _NULL_TOGETHER:
        if name in names:
            yield Rule(f"{name} is null where {other} is", F.col(name).isNull() != F.col(other).isNull())
    for name, other in _NULL_WITH:
        yield Rule(f"{name} is null where {other} is", F.col(name).isNotNull() & F.col(other).isNull())
    empty = F.lit(False)
    for field in fields:
        if isinstance(field.dataType, StringType):
            empty |= F.coalesce(F.col(field.name) == "", F.lit(False))
    yield Rule("no column of FOCUS holds empty text", empty)

    for name in ("BillingCurrency", "PricingCurrency"):
        yield Rule(f"{name} is a code of three letters", ~F.col(name).rlike(r"\A[A-Z]{3}\z"))
    yield Rule("PricingCurrency is BillingCurrency", F.col("PricingCurrency") != F.col("BillingCurrency"))
    # the product of THOUSANDS and PRICE has AMOUNT's digits, so Spark rounds nothing
    for kind in ("List", "Contracted"):
        product = F.col(f"{kind}UnitPrice") * F.col("PricingQuantity")
        yield Rule(f"{kind}UnitPrice x PricingQuantity is {kind}Cost", product != F.col(f"{kind}Cost"))
        yield Rule(f"{kind}UnitPrice is not negative", F.col(f"{kind}UnitPrice") < 0)
    for name in ("ListCost", "EffectiveCost", "BilledCost"):
        yield Rule(f"{name} is ContractedCost", F.col(name) != F.col("ContractedCost"))
    for name in ("ContractedUnitPrice", "EffectiveCost", "ListUnitPrice"):
        yield Rule(f"PricingCurrency{name} is {name}", F.col(f"PricingCurrency{name}") != F.col(name))
    thousandth = F.lit("0.001").cast("decimal(3,3)")
    consumed = F.col("ConsumedQuantity") * thousandth
    yield Rule("ConsumedQuantity is 1000 x PricingQuantity", consumed != F.col("PricingQuantity"))
    yield Rule("Tags is a JSON object of text, each key once", ~_is_object(F.col("Tags")))


def _is_object(text: Column) -> Column:
    """Whether text is JSON as Spark writes a map of text; null if there is no text."""
    parsed = F.from_json(text, _OBJECT)
    keys = F.map_keys(parsed)
    same = (F.to_json(parsed) == text) & (F.size(keys) == F.size(F.array_distinct(keys)))
    return F.when(text.isNotNull(), F.coalesce(same, F.lit(False)))


def _time_rules() -> Iterator[Rule]:
    start, end, charged_from, charged_to = (
        F.unix_micros(name)
        for name in ("BillingPeriodStart", "BillingPeriodEnd", "ChargePeriodStart", "ChargePeriodEnd")
    )
    day = billing_date(F.unix_seconds("BillingPeriodStart"))
    first, after = (midnight(date) * F.lit(1_000_000) for date in (F.trunc(day, "month"), F.add_months(day, 1)))
    yield Rule("BillingPeriodStart is the start of a month in UTC+8", start != first)
    yield Rule("BillingPeriodEnd is the start of the month after", end != after)
    yield Rule("ChargePeriodStart is the start of an hour", charged_from % F.lit(_HOUR_US) != 0)
    yield Rule("ChargePeriodEnd is an hour later", charged_to - charged_from != F.lit(_HOUR_US))
    correction = F.col("ChargeClass").isNotNull()
    outside = (charged_from < start) | (charged_to > end)
    yield Rule("a charge that is no Correction lies in its billing period", ~correction & outside)
    yield Rule("a Correction is of a month before its billing period", correction & (charged_to > start))


def _group_rules() -> Iterator[tuple[Rule, str]]:
    """Rules on rows that share these columns, each with the column that names such rows."""
    for one, other in _ONE_FOR_EACH:
        value, of_one = F.coalesce(F.col(other), F.lit("")), Window.partitionBy(one)
        differ = F.min(value).over(of_one) != F.max(value).over(of_one)
        yield Rule(f"each {one} has one {other}", F.col(one).isNotNull() & differ), one
    details = F.col("SkuPriceDetails")
    yield Rule("SkuPriceDetails is a JSON object of text, each key once", ~_is_object(details)), "SkuPriceId"
    own_keys = F.forall(F.map_keys(F.from_json(details, _OBJECT)), lambda key: key.startswith("x_"))
    yield Rule("the keys of SkuPriceDetails begin with x_", ~own_keys), "SkuPriceId"
