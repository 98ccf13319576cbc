"""The price list: load it from CSV, refuse what is not exact, look up one call. No Spark in here.

A price list has one row per model, region, tier and period, shaped like the provider's published table. The tier of a
call is chosen by the input tokens of that single request, and all its tokens are charged at that tier (source: EMR
Serverless Spark, "Model calls (pay-as-you-go)"). Bounds are open below and closed above: 128,000 input tokens are
still in `0-128K`, 128,001 are in `128K-256K`.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from importlib import resources
from pathlib import Path, PurePath
from typing import Optional

from spark_billing.core.errors import PriceListError

MAX_TOKENS = 2**31 - 1  # of one request, either kind; keeps every product and every sum of a table inside 64 bits
PRICE_DECIMALS = 9  # of a price per 1,000 tokens, so that tokens x price has at most 12 decimals
COST_LIMIT = 1_000_000  # one request must stay below it: its cost is decimal(18,12)

REQUIRED_COLUMNS = (
    "model",
    "region",
    "min_input_tokens",
    "max_input_tokens",
    "input_price_per_1k",
    "output_price_per_1k",
    "currency",
)
OPTIONAL_COLUMNS = ("effective_from", "effective_to", "region_name", "source")

_BOUND = re.compile(r"([0-9]+)([KM]?)")
_PRICE = re.compile(r"[0-9]+(\.[0-9]+)?")
_INSTANT = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?(Z|[+-][0-9]{2}:[0-9]{2})"
)
_FILE_VERSION = re.compile(r"(?P<name>.+)[._-](?P<version>[0-9]{4}-[0-9]{2}-[0-9]{2})")

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
BEGINNING_US, END_US = -(2**63), 2**63 - 1  # of time, in microseconds: an open end of a period


def epoch_us(instant: datetime) -> int:
    """Microseconds from 1970-01-01T00:00Z to an aware `instant`, exactly."""
    return (instant - _EPOCH) // timedelta(microseconds=1)


# A call time beyond the calendar's four-digit years is unreadable: no tool could print the hour it is billed in. A day
# is kept free at both ends, so that the hour has such a year in UTC+8 as well.
FIRST_INSTANT_US = epoch_us(datetime(1, 1, 2, tzinfo=timezone.utc))
LAST_INSTANT_US = epoch_us(datetime(9999, 12, 31, tzinfo=timezone.utc)) - 1


@dataclass(frozen=True)
class Price:
    """One row of a price list: the prices per 1,000 tokens of one model, region, tier and period."""

    model: str
    region: str
    min_input_tokens: int  # exclusive
    max_input_tokens: int  # inclusive
    input_price_per_1k: Decimal
    output_price_per_1k: Optional[Decimal]  # None: output is not billed
    currency: str
    effective_from: Optional[datetime]  # inclusive, UTC; None: always was
    effective_to: Optional[datetime]  # exclusive, UTC; None: still is
    region_name: str
    source: str
    tier: str  # such as 0-128K
    line: int = field(compare=False)  # of the CSV file, for messages

    @property
    def price_id(self) -> str:
        """Names this price over time: model, region and tier, not the amount or the date."""
        return f"{self.model}/{self.region}/{self.tier}"

    @property
    def from_us(self) -> int:
        return BEGINNING_US if self.effective_from is None else epoch_us(self.effective_from)

    @property
    def to_us(self) -> int:
        return END_US if self.effective_to is None else epoch_us(self.effective_to)

    @property
    def input_nano(self) -> int:
        """Input price per 1,000 tokens in 10^-9 of the currency, which is the price of one token in 10^-12."""
        return _nano(self.input_price_per_1k)

    @property
    def output_nano(self) -> Optional[int]:
        return None if self.output_price_per_1k is None else _nano(self.output_price_per_1k)


def _nano(price: Decimal) -> int:
    _, digits, exponent = price.as_tuple()  # arithmetic would round to the precision that the process has set
    units: int = int("".join(map(str, digits))) * 10 ** (PRICE_DECIMALS + int(exponent))
    return units


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
                "Pass one of these, or your own file with PriceList.from_csv (job: --price-list)."
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
        prices = tuple(_read_prices(file_name, text, tokens_per_k))
        _check_currency(file_name, prices)
        _check_tiers(file_name, prices)
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
    def region_names(self) -> dict[str, str]:
        """The region ids and what the published page calls them, where the list says so."""
        return {price.region: price.region_name for price in self.prices if price.region_name}

    def find(self, model: str, region: str, input_tokens: int, call_time: datetime) -> Optional[Price]:
        """The price of one call of `input_tokens` tokens at the aware instant `call_time`, or None if it has none."""
        if call_time.tzinfo is None:
            raise ValueError(f"call_time {call_time} has no zone; pass an aware datetime")
        at = epoch_us(call_time)
        for price in self.prices:
            if (
                (price.model, price.region) == (model, region)
                and price.min_input_tokens < input_tokens <= price.max_input_tokens
                and price.from_us <= at < price.to_us
            ):
                return price
        return None

    def __str__(self) -> str:
        return f"{self.name} {self.version} ({self.currency}, K = {self.tokens_per_k}, sha256 {self.sha256[:12]})"


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


# --- reading -------------------------------------------------------------------------------------------------------


def _read_prices(file_name: str, text: str, tokens_per_k: int) -> Iterator[Price]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, None)
        if header is None:
            raise PriceListError(
                f"{file_name}: the file is empty; needed are the columns {', '.join(REQUIRED_COLUMNS)}"
            )
        _check_header(file_name, header)
        rows = 0
        for cells in reader:
            if not any(cells):
                continue
            rows += 1
            line = reader.line_num
            if len(cells) != len(header):
                raise PriceListError(f"{file_name}, line {line}: {len(cells)} values for {len(header)} columns")
            try:
                yield _price(dict(zip(header, cells)), tokens_per_k, line)
            except ValueError as error:
                raise PriceListError(f"{file_name}, line {line}: {error}") from None
    except csv.Error as error:
        raise PriceListError(f"{file_name}, line {reader.line_num}: not CSV: {error}") from None
    if rows == 0:
        raise PriceListError(f"{file_name}: no price in it, only the header; a price list needs at least one row")


def _check_header(file_name: str, header: list[str]) -> None:
    known = REQUIRED_COLUMNS + OPTIONAL_COLUMNS
    for name in header:
        if name not in known:
            raise PriceListError(f"{file_name}, line 1: unknown column {name!r}; known are {', '.join(known)}")
        if header.count(name) > 1:
            raise PriceListError(f"{file_name}, line 1: the column {name!r} stands there twice")
    missing = [name for name in REQUIRED_COLUMNS if name not in header]
    if missing:
        raise PriceListError(f"{file_name}, line 1: the column {', '.join(missing)} is missing")


def _price(row: dict[str, str], tokens_per_k: int, line: int) -> Price:
    for name in ("model", "region"):
        if not row[name] or row[name] != row[name].strip():
            raise ValueError(f"{name} is {row[name]!r}; needed is an id without blanks around it")
    if "/" in row["region"]:
        raise ValueError(f"region is {row['region']!r}; a slash would make the price_id ambiguous")
    if not re.fullmatch("[A-Z]{3}", row["currency"]):
        raise ValueError(f"currency is {row['currency']!r}; needed is an ISO 4217 code such as USD")
    low = _bound("min_input_tokens", row["min_input_tokens"], tokens_per_k)
    high = _bound("max_input_tokens", row["max_input_tokens"], tokens_per_k)
    if high <= low:
        raise ValueError(
            f"reversed bound: max_input_tokens {row['max_input_tokens']} is not above "
            f"min_input_tokens {row['min_input_tokens']} (exclusive below, inclusive above)"
        )
    if high > MAX_TOKENS:
        raise ValueError(f"max_input_tokens is {high:,}; one request has at most {MAX_TOKENS:,}")
    starts = _instant("effective_from", row.get("effective_from", ""))
    ends = _instant("effective_to", row.get("effective_to", ""))
    if starts is not None and ends is not None and ends <= starts:
        raise ValueError(
            f"reversed period: effective_to {row['effective_to']} is not after effective_from {row['effective_from']}"
        )
    price = Price(
        model=row["model"],
        region=row["region"],
        min_input_tokens=low,
        max_input_tokens=high,
        input_price_per_1k=_amount("input_price_per_1k", row["input_price_per_1k"]),
        output_price_per_1k=(
            _amount("output_price_per_1k", row["output_price_per_1k"]) if row["output_price_per_1k"] else None
        ),
        currency=row["currency"],
        effective_from=starts,
        effective_to=ends,
        region_name=row.get("region_name", ""),
        source=row.get("source", ""),
        tier=f"{_label(low, tokens_per_k)}-{_label(high, tokens_per_k)}",
        line=line,
    )
    dearest = high * price.input_nano + MAX_TOKENS * (price.output_nano or 0)
    if dearest >= COST_LIMIT * 10**12:
        raise ValueError(
            f"the dearest possible request would cost {dearest // 10**12:,} {price.currency}; it must stay below "
            f"{COST_LIMIT:,}. Prices are per 1,000 tokens: was a price per million meant?"
        )
    return price


def _bound(column: str, text: str, tokens_per_k: int) -> int:
    match = _BOUND.fullmatch(text)
    if match is None:
        raise ValueError(f"{column} is {text!r}; needed is a whole number of tokens such as 128000, 128K or 1M")
    return int(match[1]) * {"": 1, "K": tokens_per_k, "M": 1_000_000}[match[2]]


def _label(tokens: int, tokens_per_k: int) -> str:
    for unit, letter in ((1_000_000, "M"), (tokens_per_k, "K")):
        if tokens and tokens % unit == 0:
            return f"{tokens // unit}{letter}"
    return str(tokens)


def _amount(column: str, text: str) -> Decimal:
    if text.startswith("-") and _PRICE.fullmatch(text[1:]):
        raise ValueError(f"{column} is {text}; a price is never negative")
    if not _PRICE.fullmatch(text):
        raise ValueError(f"{column} is {text!r}; needed is a plain number such as 0.000138")
    whole, _, decimals = text.partition(".")
    decimals = decimals.rstrip("0")
    if len(decimals) > PRICE_DECIMALS:
        raise ValueError(f"{column} is {text}: more than {PRICE_DECIMALS} decimals per 1,000 tokens")
    return Decimal(f"{int(whole)}.{decimals}" if decimals else str(int(whole)))


def _instant(column: str, text: str) -> Optional[datetime]:
    if not text:
        return None
    if not _INSTANT.fullmatch(text):
        raise ValueError(f"{column} is {text!r}; needed is ISO 8601 with an offset such as 2026-04-08T00:00+08:00")
    try:
        # Python 3.9 reads neither a Z nor a fraction of one digit
        moment, offset = (text[:-1], "+00:00") if text.endswith("Z") else (text[:-6], text[-6:])
        whole, dot, fraction = moment.partition(".")
        return datetime.fromisoformat(f"{whole}{dot}{fraction.ljust(6, '0') if dot else ''}{offset}").astimezone(
            timezone.utc
        )
    except (ValueError, OverflowError):
        raise ValueError(f"{column} is {text!r}, which is no date and time of the calendar") from None


# --- checking the list as a whole ----------------------------------------------------------------------------------


def _check_currency(file_name: str, prices: tuple[Price, ...]) -> None:
    for price in prices:
        if price.currency != prices[0].currency:
            raise PriceListError(
                f"{file_name}, line {price.line}: currency {price.currency}, but line {prices[0].line} has "
                f"{prices[0].currency}; make one list per currency"
            )


def _check_tiers(file_name: str, prices: tuple[Price, ...]) -> None:
    """At every instant the tiers of a model and region must follow each other without overlap or gap."""
    by_key: dict[tuple[str, str], list[Price]] = {}
    for price in prices:
        by_key.setdefault((price.model, price.region), []).append(price)
    for rows in by_key.values():
        for start, _ in periods(rows):
            tiers = sorted(
                (p for p in rows if p.from_us <= start < p.to_us), key=lambda p: (p.min_input_tokens, p.line)
            )
            for below, above in zip(tiers, tiers[1:]):
                if above.min_input_tokens < below.max_input_tokens:
                    raise PriceListError(
                        f"{file_name}, line {max(below.line, above.line)}: overlap with line "
                        f"{min(below.line, above.line)}: a call of {above.min_input_tokens + 1:,} input tokens to "
                        f"{above.model} in {above.region} would have two prices"
                    )
                if above.min_input_tokens > below.max_input_tokens:
                    raise PriceListError(
                        f"{file_name}, line {above.line}: gap between tiers: {above.model} in {above.region} has no "
                        f"price for {below.max_input_tokens + 1:,} to {above.min_input_tokens:,} input tokens "
                        f"(line {below.line} ends there)"
                    )


def periods(prices: Iterable[Price]) -> Iterator[tuple[int, int]]:
    """The stretches of time, half open in microseconds, within which none of these prices starts or ends."""
    edges = {BEGINNING_US, END_US}
    for price in prices:
        edges.update((price.from_us, price.to_us))
    ordered = sorted(edges)
    return zip(ordered, ordered[1:])
