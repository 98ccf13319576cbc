"""The CSV of a price list, refused whole, with the line and the reason, if anything in it is not exact.

No Spark in here.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from typing import Optional

from spark_billing.core.errors import PriceListError
from spark_billing.core.hours import iso_instant
from spark_billing.prices.price import COST_LIMIT, MAX_TOKENS, PRICE_DECIMALS, Price, periods

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


def read_prices(file_name: str, text: str, tokens_per_k: int) -> Iterator[Price]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, None)
        if header is None:
            raise PriceListError(
                f"{file_name}: the file is empty; needed are the columns {', '.join(REQUIRED_COLUMNS)}"
            )
        _check_header(file_name, header)
        rows = 0
        for values in reader:
            if not any(values):
                continue
            rows += 1
            line = reader.line_num
            if len(values) != len(header):
                raise PriceListError(f"{file_name}, line {line}: {len(values)} values for {len(header)} columns")
            try:
                yield _price(dict(zip(header, values)), tokens_per_k, line)
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
    starts = _effective("effective_from", row.get("effective_from", ""))
    ends = _effective("effective_to", row.get("effective_to", ""))
    if starts is not None and ends is not None and ends <= starts:
        raise ValueError(
            f"reversed period: effective_to {row['effective_to']} is not after effective_from {row['effective_from']}"
        )
    price = Price(
        model=row["model"],
        region=row["region"],
        min_input_tokens=low,
        max_input_tokens=high,
        input_price_per_1k=_price_amount("input_price_per_1k", row["input_price_per_1k"]),
        output_price_per_1k=(
            _price_amount("output_price_per_1k", row["output_price_per_1k"]) if row["output_price_per_1k"] else None
        ),
        currency=row["currency"],
        effective_from=starts,
        effective_to=ends,
        region_name=row.get("region_name", ""),
        source=row.get("source", ""),
        tier=f"{_label(low, tokens_per_k)}-{_label(high, tokens_per_k)}",
        line=line,
    )
    dearest = high * price.input_pico_per_token + MAX_TOKENS * (price.output_pico_per_token or 0)
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


def _price_amount(column: str, text: str) -> Decimal:
    if text.startswith("-") and _PRICE.fullmatch(text[1:]):
        raise ValueError(f"{column} is {text}; a price is never negative")
    if not _PRICE.fullmatch(text):
        raise ValueError(f"{column} is {text!r}; needed is a plain number such as 0.000138")
    whole, _, decimals = text.partition(".")
    decimals = decimals.rstrip("0")
    if len(decimals) > PRICE_DECIMALS:
        raise ValueError(f"{column} is {text}: more than {PRICE_DECIMALS} decimals per 1,000 tokens")
    return Decimal(f"{int(whole)}.{decimals}" if decimals else str(int(whole)))


def _effective(column: str, text: str) -> Optional[datetime]:
    if not text:
        return None
    try:
        found = iso_instant(text)
    except ValueError:
        raise ValueError(f"{column} is {text!r}, which is no date and time of the calendar") from None
    if found is None:
        raise ValueError(f"{column} is {text!r}; needed is ISO 8601 with an offset such as 2026-04-08T00:00+08:00")
    return found


def check_currency(file_name: str, prices: tuple[Price, ...]) -> None:
    for price in prices:
        if price.currency != prices[0].currency:
            raise PriceListError(
                f"{file_name}, line {price.line}: currency {price.currency}, but line {prices[0].line} has "
                f"{prices[0].currency}; make one list per currency"
            )


def check_tiers(file_name: str, prices: tuple[Price, ...]) -> None:
    """At every instant the tiers of a model and region must follow each other without overlap or gap."""
    by_key: dict[tuple[str, str], list[Price]] = {}
    for price in prices:
        by_key.setdefault((price.model, price.region), []).append(price)
    for rows in by_key.values():
        for start, _ in periods(rows):
            tiers = sorted((p for p in rows if p.is_in_force(start)), key=lambda p: (p.min_input_tokens, p.line))
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
