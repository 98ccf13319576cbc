"""The price list: make it from CSV, look up one call. No Spark in here.

A price list has one row per model, region, tier and period, shaped like the provider's published table.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from pathlib import Path, PurePath
from typing import Optional

from spark_billing.core.errors import PriceListError
from spark_billing.core.hours import epoch_us
from spark_billing.core.published import PRICE_LIST
from spark_billing.prices.price import Price
from spark_billing.prices.price_file import check_currency, check_tiers, read_prices

_FILE_VERSION = re.compile(r"(?P<name>.+)[._-](?P<version>[0-9]{4}-[0-9]{2}-[0-9]{2})")


@dataclass(frozen=True)
class PriceList:
    """Prices per 1,000 tokens in one currency, checked: at any instant and token count a call has one price or none.

    Make one with `PriceList.bundled` or `PriceList.from_csv`. `version` is the date of the published page; `sha256` is
    of the rows and of `tokens_per_k`, whatever the file's line ends or row order.

    Examples
    --------
    >>> prices = PriceList.bundled("emr-serverless-spark", currency="USD")
    >>> price = prices.find("qwen-plus", "cn-hangzhou", 128_000, datetime.fromisoformat("2026-04-08T00:00+08:00"))
    >>> price.tier, price.input_price_per_1k, price.output_price_per_1k
    ('0-128K', Decimal('0.000138'), Decimal('0.000344'))
    """

    name: str
    version: str
    currency: str
    tokens_per_k: int  # what K stands for in a bound: 1000 or 1024; M is always 1,000,000
    prices: tuple[Price, ...]
    sha256: str

    @classmethod
    def bundled(cls, name: str, *, currency: str, tokens_per_k: int = 1000, version: Optional[str] = None) -> PriceList:
        """A price list shipped with this package, by default its newest version.

        `PriceListError` if there is none of that name, currency (ISO 4217, such as USD) and version.
        """
        folder = resources.files("spark_billing.prices").joinpath("lists")
        shipped = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".csv"))
        wanted = [f for f in shipped if f.startswith(f"{name}.{currency}.") and version in (None, _version(f)[1])]
        if not wanted:
            raise PriceListError(
                f"no bundled price list {name!r} in {currency!r}{f' of {version}' if version else ''}; "
                f"this package has {', '.join(f[: -len('.csv')] for f in shipped)}. "
                "Pass one of these, or your own file with PriceList.from_csv.",
                parameter="price_list",
            )
        return cls._load(wanted[-1], folder.joinpath(wanted[-1]).read_bytes(), tokens_per_k, None)

    @classmethod
    def from_csv(cls, path: object, *, tokens_per_k: int = 1000, version: Optional[str] = None) -> PriceList:
        """A price list from the user's own CSV file on the driver's disk.

        Columns: `model, region, min_input_tokens` (exclusive)`, max_input_tokens` (inclusive)`, input_price_per_1k,
        output_price_per_1k` (blank: not billed)`, currency`, and if wanted `effective_from` (inclusive)`, effective_to`
        (exclusive; both ISO 8601 with an offset)`, region_name, source`. Bounds may be written `128K` or `1M`.
        The version is by default the date at the end of the file's name, else the start of the content's hash.
        `PriceListError` names the line and the reason if anything in it is not exact.
        """
        file = Path(str(path))
        try:
            content = file.read_bytes()
        except OSError as error:
            raise PriceListError(
                f"cannot read the price list {path}: {error.strerror}. Give the path of a CSV file."
            ) from None
        return cls._load(file.name, content, tokens_per_k, version)

    @classmethod
    def _load(cls, file_name: str, content: bytes, tokens_per_k: int, version: Optional[str]) -> PriceList:
        if tokens_per_k not in (1000, 1024):
            raise PriceListError(f"tokens_per_k is {tokens_per_k!r}; K can stand for 1000 or 1024 tokens")
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise PriceListError(
                f"{file_name}: not UTF-8 text (byte {error.start}); save the file as CSV in UTF-8"
            ) from None
        prices = tuple(read_prices(file_name, text, tokens_per_k))
        check_currency(file_name, prices)
        check_tiers(file_name, prices)
        sha256 = _sha256(prices, tokens_per_k)
        name, dated = _version(file_name)
        return cls(name, version or dated or f"sha256-{sha256[:12]}", prices[0].currency, tokens_per_k, prices, sha256)

    @property
    def models(self) -> tuple[str, ...]:
        """The models this list knows, in any region and at any time."""
        return tuple(sorted({price.model for price in self.prices}))

    @property
    def models_without_output_price(self) -> tuple[str, ...]:
        """The models whose output no row of this list bills, such as embeddings: their output count may be null."""
        return tuple(sorted(set(self.models) - {p.model for p in self.prices if p.output_price_per_1k is not None}))

    @property
    def tier_bounds(self) -> tuple[int, ...]:
        """The input tokens at which any tier of any row begins or ends, in order."""
        return tuple(sorted({bound for p in self.prices for bound in (p.min_input_tokens, p.max_input_tokens)}))

    @property
    def region_names(self) -> dict[str, str]:
        """The region ids and what the published page calls them, where the list says so."""
        return {price.region: price.region_name for price in self.prices if price.region_name}

    def find(self, model: str, region: str, input_tokens: int, call_time: datetime) -> Optional[Price]:
        """The price of one call of `input_tokens` tokens at the aware instant `call_time`, or None if it has none."""
        if call_time.tzinfo is None:
            raise ValueError(f"call_time {call_time} has no zone; pass an aware datetime")
        at = epoch_us(call_time)
        for price in self.prices:
            if (price.model, price.region) == (model, region) and price.holds(input_tokens) and price.is_in_force(at):
                return price
        return None

    def __str__(self) -> str:
        return f"{self.name} {self.version} ({self.currency}, K = {self.tokens_per_k}, sha256 {self.sha256[:12]})"


def published_region_names() -> dict[str, str]:
    """The region ids of the bundled list and what the provider's page calls them."""
    return PriceList.bundled(PRICE_LIST, currency="USD").region_names


def _version(file_name: str) -> tuple[str, Optional[str]]:
    stem = PurePath(file_name).stem
    dated = _FILE_VERSION.fullmatch(stem)
    return (dated["name"], dated["version"]) if dated else (stem, None)


def _sha256(prices: Iterable[Price], tokens_per_k: int) -> str:
    rows = sorted(
        [
            p.model,
            p.region,
            f"{p.min_input_tokens:010}",
            f"{p.max_input_tokens:010}",
            "" if p.effective_from is None else p.effective_from.isoformat(),
            "" if p.effective_to is None else p.effective_to.isoformat(),
            f"{p.input_price_per_1k:f}",
            "" if p.output_price_per_1k is None else f"{p.output_price_per_1k:f}",
            p.currency,
            p.region_name,
            p.source,
        ]
        for p in prices
    )
    content = json.dumps({"tokens_per_k": tokens_per_k, "rows": rows}, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(content.encode("ascii")).hexdigest()
