"""What the words of a provider's bill mean: its layout, its grain, its item codes, units and ids.

What the provider calls a model's tokens is not published, nor whether an instance id is a workspace, so the mapping is
the user's. A row that it does not cover is refused with the whole bill: left out, it would look like a saving.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spark_billing.core.columns import GRAINS
from spark_billing.core.errors import ProviderBillError
from spark_billing.prices.price_list import published_region_names

DIMENSIONS = ("workspace_id", "region", "model", "token_type", "tier")

ITEM = ("model", "token_type", "tier")

_COLUMNS = (
    *("period", "workspace_id", "region", "item", *ITEM),
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
        require(isinstance(given, Mapping), "needed is a table of keys and values")
        _require_known("key", given, known)
        for name in tables:
            require(isinstance(given.get(name, {}), Mapping), f"{name} is no table")
        grain, layout = given.get("grain"), given.get("layout", "table")
        require(grain in GRAINS, f"grain is {grain!r}; it must say what period a row is of: {', '.join(GRAINS)}")
        require(isinstance(layout, str) and layout in LAYOUTS, f"layout is {layout!r}; known are {', '.join(LAYOUTS)}")
        _require_known("column", given.get("columns", {}), _COLUMNS)
        items = _items(given.get("items", {}))
        monthly = {"period": "BillingCycle"} if layout == "describe-instance-bill" and grain == "month" else {}
        columns = {**LAYOUTS[layout], **monthly, **given.get("columns", {})}
        for name, expression in columns.items():
            require(isinstance(expression, str) and expression.strip() != "", f"columns: {name} is no text")
        ignored = given.get("ignore_items", [])
        require(_are_texts(ignored), "ignore_items is no list of item codes")
        if any(name in columns for name in ITEM):
            require(not items, "the columns give model, token_type or tier, and so do items; leave one of them out")
            if not ignored:
                columns.pop("item", None)
        else:
            require(
                bool(items) or "item" not in columns,
                "items is missing: it says what each item code of the bill stands for",
            )
            require(
                "item" in columns or not items,
                "columns: item is missing: the column with the codes that items explains",
            )
        require("item" in columns or not ignored, "columns: item is missing: the column with the codes of ignore_items")
        without = given.get("without", [])
        require(_are_texts(without) and set(without) <= set(DIMENSIONS), f"without may name {', '.join(DIMENSIONS)}")
        for name in without:
            columns.pop(name, None)
            items = {code: {k: v for k, v in item.items() if k != name} for code, item in items.items()}
        missing = [name for name in ("period", "amount", "currency") if name not in columns]
        require(not missing, f"columns: {', '.join(missing)} is missing")
        units, price_per = given.get("units", {}), given.get("price_per", 1000)
        for name, tokens in {**units, "price_per": price_per}.items():
            whole = isinstance(tokens, int) and not isinstance(tokens, bool)
            require(whole and 1 <= tokens <= 10**9 and str(tokens).strip("0") == "1",
                     f"{name} is {tokens!r} tokens; needed is 1, 10, 100, ...")  # fmt: skip
        for name in ("workspaces", "regions"):
            require(_are_texts(given.get(name, {}).values()), f"{name} must give a text for each id")
        regions = {name: region for region, name in published_region_names().items()}
        return cls(grain, layout, columns, items, ignored, units, price_per, given.get("workspaces", {}),
                   {**regions, **given.get("regions", {})})  # fmt: skip

    @property
    def dimensions(self) -> tuple[str, ...]:
        """What a row of the bill tells beside its period."""
        of_items: set[str] = set().union(*self.items.values()) if self.items else set()
        return tuple(name for name in DIMENSIONS if name in self.columns or name in of_items)


def _toml(text: str) -> Any:
    try:
        tomllib = importlib.import_module("tomllib")
    except ModuleNotFoundError:
        raise ValueError("TOML needs Python 3.11 or later; write the same as a .json file") from None
    return tomllib.loads(text)


def _items(given: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for code, item in given.items():
        require(isinstance(item, Mapping) and _are_texts(item.values()), f"items: {code!r} is no table of texts")
        _require_known(f"key of the item {code!r}", item, ITEM)
        kind = item.get("token_type", "input")
        require(kind in ("input", "output"), f"items: the token_type of {code!r} is {kind!r}, not input or output")
        found[code] = dict(item)
    keys = {tuple(sorted(item)) for item in found.values()}
    require(len(keys) <= 1, "items: each must tell the same of model, token_type and tier, as all are compared by it")
    return found


def _are_texts(values: Any) -> bool:
    several = isinstance(values, Iterable) and not isinstance(values, (str, Mapping))
    return several and all(isinstance(value, str) and value for value in values)


def require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ProviderBillError(otherwise)


def _require_known(what: str, given: Mapping[str, Any], known: Sequence[str]) -> None:
    for name in given:
        require(name in known, f"unknown {what} {name!r}; known are {', '.join(known)}")
