"""One price: a row of a price list, and the rule by which it is the price of a call. No Spark in here.

The tier of a call is chosen by the input tokens of that single request, and all its tokens are charged at that tier
(source: EMR Serverless Spark, "Model calls (pay-as-you-go)"). Bounds are open below and closed above: 128,000 input
tokens are still in `0-128K`, 128,001 are in `128K-256K`. A period is closed at its start and open at its end.

The rule stands in `Price.holds` and `Price.is_in_force`. It must exist in other forms as well: as columns in
`price_rows.find_price`, as arrays in `price_arrays.PriceTable`, as SQL in `sql_functions`, and for groups of calls in
`bills.sums`, `estimates.estimate` and `provider.causes`. The table tests/cases/tiers.csv runs through all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Optional

from spark_billing.core.hours import BEGINNING_US, END_US, epoch_us
from spark_billing.core.money import plain_units

MAX_TOKENS = 2**31 - 1  # of one request, either kind; keeps every product and every sum of a table inside 64 bits
PRICE_DECIMALS = 9  # of a price per 1,000 tokens, so that tokens x price has at most 12 decimals
TOKEN_PRICE_DECIMALS = PRICE_DECIMALS + 3  # of the price of one token: whole 10^-12 of the currency
COST_LIMIT = 1_000_000  # one request must stay below it: its cost is decimal(18,12)


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

    def holds(self, input_tokens: int) -> bool:
        """Whether a request of so many input tokens is in this tier."""
        return self.min_input_tokens < input_tokens <= self.max_input_tokens

    def is_in_force(self, at_us: int) -> bool:
        """Whether it is the price at an instant in microseconds since 1970-01-01T00:00Z."""
        return self.from_us <= at_us < self.to_us

    @property
    def from_us(self) -> int:
        return BEGINNING_US if self.effective_from is None else epoch_us(self.effective_from)

    @property
    def to_us(self) -> int:
        return END_US if self.effective_to is None else epoch_us(self.effective_to)

    @property
    def input_pico_per_token(self) -> int:
        """The input price of one token in 10^-12 of the currency: a price per 1,000 tokens has at most 9 decimals."""
        return _pico_per_token(self.input_price_per_1k)

    @property
    def output_pico_per_token(self) -> Optional[int]:
        """The output price of one token in 10^-12 of the currency; None: output is not billed."""
        return None if self.output_price_per_1k is None else _pico_per_token(self.output_price_per_1k)

    @property
    def input_token_price(self) -> Optional[str]:
        """The input price of one token as plain text, such as 0.000000138000."""
        return plain_units(self.input_pico_per_token, TOKEN_PRICE_DECIMALS)

    @property
    def output_token_price(self) -> Optional[str]:
        """The output price of one token as plain text; None: output is not billed."""
        return plain_units(self.output_pico_per_token, TOKEN_PRICE_DECIMALS)


def _pico_per_token(price: Decimal) -> int:
    _, digits, exponent = price.as_tuple()  # arithmetic would round to the precision that the process has set
    units: int = int("".join(map(str, digits))) * 10 ** (PRICE_DECIMALS + int(exponent))
    return units


def periods(prices: Iterable[Price]) -> Iterator[tuple[int, int]]:
    """The stretches of time, half open in microseconds, within which none of these prices starts or ends."""
    edges = {BEGINNING_US, END_US}
    for price in prices:
        edges.update((price.from_us, price.to_us))
    ordered = sorted(edges)
    return zip(ordered, ordered[1:])
