"""A provider's bill of any shape as rows that can be compared with ours, by a small mapping of its words to ours.

What the provider calls a model's tokens is not published, nor whether an instance id is a workspace, so the mapping is
the user's. A row that it does not cover is refused with the whole bill: left out, it would look like a saving.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Optional

from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
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

from spark_billing.core.columns import GRAINS, period_end, period_start
from spark_billing.core.errors import ProviderBillError
from spark_billing.core.hours import INSTANT_TEXT, SECONDS_PER_HOUR, UTC8_SECONDS
from spark_billing.core.schemas import AMOUNT, PRICE
from spark_billing.core.text import printable
from spark_billing.prices.price_list import published_region_names
from spark_billing.provider.schemas import PROVIDER_BILL

DIMENSIONS = ("workspace_id", "region", "model", "token_type", "tier")
_ITEM = ("model", "token_type", "tier")

_COLUMNS = (
    *("period", "workspace_id", "region", "item", *_ITEM),
    *("quantity", "unit", "price", "amount", "discount", "vouchers", "currency"),
)

# The columns of the bills whose names are published; [columns] of the mapping overrides each
LAYOUTS: dict[str, dict[str, str]] = {
    "describe-instance-bill": {
        "period": "BillingDate",
        "workspace_id": "InstanceID",
        "region": "Region",
        "item": "BillingItemCode",
        "quantity": "Usage",
        "unit": "UsageUnit",
        "price": "ListPrice",
        "amount": "PretaxGrossAmount",
        "discount": "InvoiceDiscount",
        "vouchers": "DeductedByCoupons",
        "currency": "Currency",
    },
    "focus": {
        "period": "ChargePeriodStart",
        "workspace_id": "SubAccountId",
        "region": "RegionId",
        "item": "SkuPriceId",
        "quantity": "ConsumedQuantity",
        "unit": "ConsumedUnit",
        "price": "ListUnitPrice",
        "amount": "ListCost",
        "currency": "BillingCurrency",
    },
    "table": {},
}

_OPTIONAL = ("price", "discount", "vouchers", "quantity", "unit")  # of a layout: left out if the bill lacks them
_PLAIN_NUMBER = r"\A-?[0-9]{1,20}(\.[0-9]{1,18})?\z"
_LOCAL_PERIOD = r"\A[0-9]{4}-[0-9]{2}(-[0-9]{2}(T[0-9]{2})?)?\z"
_WIDE = DecimalType(38, 18)


@dataclass(frozen=True)
class BillMapping:
    """How a provider's bill is read: its grain, its columns, and what its item codes, units and ids stand for."""

    grain: str
    layout: str
    columns: Mapping[str, str]  # of _COLUMNS: Spark SQL expressions over the bill
    items: Mapping[str, Mapping[str, str]]  # item code -> model, token_type, tier
    ignore_items: Sequence[str]
    units: Mapping[str, int]  # name of a unit -> tokens
    price_per: int  # tokens that the price is for
    workspaces: Mapping[str, str]
    regions: Mapping[str, str]

    @classmethod
    def from_file(cls, path: object) -> BillMapping:
        """From a TOML or JSON file on the driver's disk; `ProviderBillError` says what in it does not fit.

        Keys: `grain` (hour, day or month in UTC+8)`, layout` (describe-instance-bill, focus or table)`, price_per`
        (tokens, default 1000)`, ignore_items` (codes of other products)`, without` (columns not to compare by)`, and
        the tables `columns, items, units, workspaces, regions`.
        """
        try:
            return cls.parse(str(path), Path(str(path)).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise ProviderBillError(f"cannot read the mapping {path}: {error}. Give a TOML or JSON file.") from None

    @classmethod
    def parse(cls, name: str, text: str) -> BillMapping:
        """From the text of such a file: JSON if its name ends so, else TOML."""
        text = text.lstrip("\ufeff")
        try:
            return cls.of(json.loads(text) if name.endswith(".json") else _toml(text))
        except ValueError as error:
            raise ProviderBillError(f"the mapping {name}: {error}") from None

    @classmethod
    def of(cls, given: Any) -> BillMapping:
        """From the content of such a file."""
        tables = ("columns", "items", "units", "workspaces", "regions")
        known = ("grain", "layout", "price_per", "ignore_items", "without", *tables)
        _require(isinstance(given, Mapping), "needed is a table of keys and values")
        _require_known("key", given, known)
        for name in tables:
            _require(isinstance(given.get(name, {}), Mapping), f"{name} is no table")
        grain, layout = given.get("grain"), given.get("layout", "table")
        _require(grain in GRAINS, f"grain is {grain!r}; it must say what period a row is of: {', '.join(GRAINS)}")
        _require(isinstance(layout, str) and layout in LAYOUTS, f"layout is {layout!r}; known are {', '.join(LAYOUTS)}")
        _require_known("column", given.get("columns", {}), _COLUMNS)
        items = _items(given.get("items", {}))
        monthly = {"period": "BillingCycle"} if layout == "describe-instance-bill" and grain == "month" else {}
        columns = {**LAYOUTS[layout], **monthly, **given.get("columns", {})}
        for name, expression in columns.items():
            _require(isinstance(expression, str) and expression.strip() != "", f"columns: {name} is no text")
        ignored = given.get("ignore_items", [])
        _require(_texts(ignored), "ignore_items is no list of item codes")
        if any(name in columns for name in _ITEM):
            _require(not items, "the columns give model, token_type or tier, and so do items; leave one of them out")
            if not ignored:
                columns.pop("item", None)
        else:
            _require(
                bool(items) or "item" not in columns,
                "items is missing: it says what each item code of the bill stands for",
            )
            _require(
                "item" in columns or not items,
                "columns: item is missing: the column with the codes that items explains",
            )
        _require(
            "item" in columns or not ignored, "columns: item is missing: the column with the codes of ignore_items"
        )
        without = given.get("without", [])
        _require(_texts(without) and set(without) <= set(DIMENSIONS), f"without may name {', '.join(DIMENSIONS)}")
        for name in without:
            columns.pop(name, None)
            items = {code: {k: v for k, v in item.items() if k != name} for code, item in items.items()}
        missing = [name for name in ("period", "amount", "currency") if name not in columns]
        _require(not missing, f"columns: {', '.join(missing)} is missing")
        units, price_per = given.get("units", {}), given.get("price_per", 1000)
        for name, tokens in {**units, "price_per": price_per}.items():
            whole = isinstance(tokens, int) and not isinstance(tokens, bool)
            _require(whole and 1 <= tokens <= 10**9 and str(tokens).strip("0") == "1",
                     f"{name} is {tokens!r} tokens; needed is 1, 10, 100, ...")  # fmt: skip
        for name in ("workspaces", "regions"):
            _require(_texts(given.get(name, {}).values()), f"{name} must give a text for each id")
        regions = {name: region for region, name in published_region_names().items()}
        return cls(grain, layout, columns, items, ignored, units, price_per, given.get("workspaces", {}),
                   {**regions, **given.get("regions", {})})  # fmt: skip

    @property
    def dimensions(self) -> tuple[str, ...]:
        """What a row of the bill tells beside its period."""
        of_items: set[str] = set().union(*self.items.values()) if self.items else set()
        return tuple(name for name in DIMENSIONS if name in self.columns or name in of_items)


def read_bill(spark: SparkSession, path: str, file_format: Optional[str] = None) -> DataFrame:
    """A provider's bill as it is: CSV with a header, JSON (rows, or responses of DescribeInstanceBill), Parquet or a
    catalog table (`table`); by default what the name ends with. Text stays text, so that no amount becomes a float.

    JSON is read by the driver: pages of a bill, not of a usage table. `ProviderBillError` if it cannot be read.
    """
    kind = file_format or ("json" if re.search(r"\.(json|jsonl|ndjson)/?\Z", path.lower()) else None)
    kind = kind or ("csv" if path.lower().rstrip("/").endswith(".csv") else "parquet")
    try:
        if kind == "json":
            files = spark.read.text(path, wholetext=True).select(F.input_file_name(), "value").collect()
            return _rows_of_json(spark, path, [(str(name), str(text)) for name, text in files])
        if kind == "csv":
            reader = spark.read.options(header=True, escape='"', multiLine=True, mode="FAILFAST")
            # files whose headers differ are not read by position
            frame = reader.csv(path, enforceSchema=False)
        else:
            frame = spark.table(path) if kind == "table" else spark.read.parquet(path)
        _ = frame.schema  # Spark Connect looks no earlier
    except PySparkException as error:
        reason = str(error).splitlines()[0]
        raise ProviderBillError(f"cannot read the provider's bill {path!r} as {kind}: {reason}") from None
    return frame


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
    seconds = _period(F.col("period"), types["period"], mapping.grain)
    start = F.timestamp_seconds(period_start(seconds, mapping.grain))
    end = F.timestamp_seconds(period_end(seconds, mapping.grain))
    numbers = {n: _number(n, types[n]) for n in ("quantity", "price", "amount", "discount", "vouchers") if n in types}
    unit = _translated(F.col("unit").cast("string"), {n: str(t) for n, t in mapping.units.items()}, None).cast("bigint")
    item = (F.col("item") if "item" in types else F.lit(None)).cast("string")
    columns: dict[str, Column] = {"period_start": start, "period_end": end}
    for name in mapping.dimensions:
        if name in _ITEM and mapping.items:
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


def _toml(text: str) -> Any:
    try:
        tomllib = importlib.import_module("tomllib")
    except ModuleNotFoundError:
        raise ValueError("TOML needs Python 3.11 or later; write the same as a .json file") from None
    return tomllib.loads(text)


def _items(given: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for code, item in given.items():
        _require(isinstance(item, Mapping) and _texts(item.values()), f"items: {code!r} is no table of texts")
        _require_known(f"key of the item {code!r}", item, _ITEM)
        kind = item.get("token_type", "input")
        _require(kind in ("input", "output"), f"items: the token_type of {code!r} is {kind!r}, not input or output")
        found[code] = dict(item)
    keys = {tuple(sorted(item)) for item in found.values()}
    _require(len(keys) <= 1, "items: each must tell the same of model, token_type and tier, as all are compared by it")
    return found


def _texts(values: Any) -> bool:
    several = isinstance(values, Iterable) and not isinstance(values, (str, Mapping))
    return several and all(isinstance(value, str) and value for value in values)


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ProviderBillError(otherwise)


def _require_known(what: str, given: Mapping[str, Any], known: Sequence[str]) -> None:
    for name in given:
        _require(name in known, f"unknown {what} {name!r}; known are {', '.join(known)}")


def _rows_of_json(spark: SparkSession, path: str, files: Sequence[tuple[str, str]]) -> DataFrame:
    """Rows as text: one after the other, in a list, or in the pages that DescribeInstanceBill gives."""
    rows: list[Any] = []
    pages: list[_Page] = []
    for name, text in files:
        for at, document in enumerate(_documents(path, text), start=1):
            found = _items_of(document)
            rows += found
            data = _page_data(document)
            if data is not None:
                pages.append(_Page(name if at == 1 else f"{name} (its document {at})", data, found))
    for row in rows:
        if not isinstance(row, dict):
            raise ProviderBillError(f"the provider's bill {path!r} has {row!r} where a row was needed")
    names = list(dict.fromkeys(name for row in rows for name in row))
    if not names:
        raise ProviderBillError(f"the provider's bill {path!r} has no row")
    _require_each_page_once(path, pages)
    schema = ", ".join("`" + name.replace("`", "``") + "` string" for name in names)
    return spark.createDataFrame([tuple(_text(row.get(name)) for name in names) for row in rows], schema)


def _documents(path: str, text: str) -> Iterator[Any]:
    decoder = json.JSONDecoder(parse_float=Decimal)
    at, end = 0, len(text)
    while True:
        while at < end and text[at] in " \t\r\n\ufeff":
            at += 1
        if at == end:
            return
        try:
            document, at = decoder.raw_decode(text, at)
        except ValueError as error:
            raise ProviderBillError(f"the provider's bill {path!r} is not JSON: {error}") from None
        yield document


def _items_of(document: Any) -> list[Any]:
    if isinstance(document, list):
        return document
    data = _page_data(document)
    if data is None:
        return [document]
    items = data["Items"]
    items = items.get("Item") if isinstance(items, dict) else items
    items = [] if items is None else items if isinstance(items, list) else [items]
    # a monthly bill says its month once, above its rows
    return [{"BillingCycle": data.get("BillingCycle"), **item} if isinstance(item, dict) else item for item in items]


def _page_data(document: Any) -> Optional[dict[str, Any]]:
    """What a page of DescribeInstanceBill has around its rows; None if it is no such page."""
    data = document.get("Data") if isinstance(document, dict) else None
    return data if isinstance(data, dict) and "Items" in data else None


@dataclass(frozen=True)
class _Page:
    name: str
    data: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]

    @property
    def total(self) -> Optional[int]:
        """How many rows all pages of its query have; None if it does not say."""
        text = str(self.data.get("TotalCount"))
        return int(text) if re.fullmatch("[0-9]{1,18}", text) else None


def _require_each_page_once(path: str, pages: Sequence[_Page]) -> None:
    """A page that is missing would look like a saving, one that is there twice like a loss."""
    seen: dict[str, str] = {}
    for page in pages:
        if page.rows:
            first = seen.setdefault(json.dumps(page.rows, sort_keys=True, default=str), page.name)
            if first != page.name:
                raise ProviderBillError(
                    f"the provider's bill {path!r} has the same page twice: {first} and {page.name}; leave one out"
                )
    cycles: dict[tuple[str, str], list[_Page]] = {}
    for page in pages:
        of_whom = (str(page.data.get("BillingCycle")), str(page.data.get("AccountID")))
        cycles.setdefault(of_whom, []).append(page)
    for (cycle, _), of_cycle in cycles.items():
        whole = _counted(of_cycle)
        if whole is not None and whole[0] == whole[1]:
            continue
        for query in _queries(of_cycle):
            counted = _counted(query)
            if counted is not None and counted[0] != counted[1]:
                day = query[0].rows[0].get("BillingDate") if query[0].rows else None
                of = printable(str(day or cycle))
                raise ProviderBillError(
                    f"the provider's bill {path!r} has {counted[1]:,} rows of {of}, but TotalCount in its "
                    f"pages is {counted[0]:,}; give every page once, down to the last, which has no NextToken"
                )


def _queries(pages: Sequence[_Page]) -> list[list[_Page]]:
    """The pages of a month by the query that gave them: a daily bill can be asked for day by day, each day with a
    TotalCount of its own."""
    days: dict[str, list[_Page]] = {}
    for page in pages:
        of_page = {str(row.get("BillingDate")) for row in page.rows}
        if len(of_page) > 1:
            return [list(pages)]
        for day in of_page:
            days.setdefault(day, []).append(page)
    return list(days.values()) or [list(pages)]


def _counted(pages: Sequence[_Page]) -> Optional[tuple[int, int]]:
    """How many rows pages say that there are, and how many they have; None if they do not all say the same."""
    totals = {page.total for page in pages}
    total = totals.pop()
    return None if totals or total is None else (total, sum(len(page.rows) for page in pages))


def _text(value: Any) -> Optional[str]:
    if value is None or isinstance(value, str):
        return value
    return f"{value:f}" if isinstance(value, Decimal) else json.dumps(value, default=str)


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


def _period(column: Column, dtype: DataType, grain: str) -> Column:
    """Epoch seconds of the start of a period as the bill writes it; null if it is none, or coarser than the grain."""
    if isinstance(dtype, TimestampType):
        return F.unix_seconds(column)
    if isinstance(dtype, DateType):
        day = F.unix_date(column).cast("bigint") * F.lit(24 * SECONDS_PER_HOUR) - F.lit(UTC8_SECONDS)
        return F.lit(None).cast("bigint") if grain == "hour" else day
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
        if name not in _ITEM or not mapping.items:
            hint = f'it has no {name}; leave it out of the comparison with without = ["{name}"]'
            otherwise((columns[name] == "") | columns[name].isNull(), F.lit(hint))
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
