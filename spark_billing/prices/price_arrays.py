"""Exact pricing of arrays of calls in 64-bit integers (numpy). No Spark in here.

A price per 1,000 tokens has at most 9 decimals, so tokens x price is a whole number of 10^-12 of the currency ("pico"):
`tokens * pico_per_token`. A price list is refused if one request could cost 1,000,000 or more, so no product or sum
of two comes near 2^63.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spark_billing.core.hours import FIRST_INSTANT_US, LAST_INSTANT_US
from spark_billing.prices.price import MAX_TOKENS, periods
from spark_billing.prices.price_list import PriceList

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
UNPRICED = -1  # a row number meaning: no price


@dataclass(frozen=True)
class PriceTable:
    """A price list as arrays: which row prices a call, and what a token costs in it.

    `row[model, region, period, band]` is the number of the price in `PriceList.prices`, or UNPRICED; the last model and
    the last region stand for all that the list does not know. `period_starts` and `band_tops` cut time and input
    tokens wherever any row of the list starts or ends, so a call is located by two binary searches.
    """

    models: dict[str, int]
    regions: dict[str, int]
    row: IntArray
    period_starts: IntArray  # microseconds, inclusive
    band_tops: IntArray  # input tokens, inclusive
    bills_output: BoolArray  # by model: whether any of its rows has an output price
    input_pico_per_token: IntArray  # by row; 0 in the last, which UNPRICED takes
    output_pico_per_token: IntArray  # the same; 0 also where output is not billed

    @classmethod
    def of(cls, prices: PriceList) -> PriceTable:
        """The arrays of a price list."""
        models = {model: number for number, model in enumerate(prices.models)}
        regions = {region: number for number, region in enumerate(sorted({p.region for p in prices.prices}))}
        starts = [start for start, _ in periods(prices.prices)]
        tops = prices.tier_bounds
        row = np.full((len(models) + 1, len(regions) + 1, len(starts), len(tops) + 1), UNPRICED, dtype=np.int64)
        for number, price in enumerate(prices.prices):
            in_force = [i for i, start in enumerate(starts) if price.is_in_force(start)]
            bands = [i for i, top in enumerate(tops) if price.holds(top)]
            row[
                models[price.model],
                regions[price.region],
                in_force[0] : in_force[-1] + 1,
                bands[0] : bands[-1] + 1,
            ] = number
        free_output = prices.models_without_output_price
        return cls(
            models=models,
            regions=regions,
            row=row,
            period_starts=np.array(starts, dtype=np.int64),
            band_tops=np.array(tops, dtype=np.int64),
            bills_output=np.array([model not in free_output for model in models] + [True]),
            input_pico_per_token=np.array([p.input_pico_per_token for p in prices.prices] + [0], dtype=np.int64),
            output_pico_per_token=np.array([p.output_pico_per_token or 0 for p in prices.prices] + [0], dtype=np.int64),
        )

    def locate(
        self,
        model: IntArray,
        region: IntArray,
        input_tokens: IntArray,
        output_tokens: IntArray,
        output_missing: BoolArray,
        call_time_us: IntArray,
    ) -> IntArray:
        """The number of the price row of each call, UNPRICED where the call cannot be priced.

        `model` and `region` are numbers of `models` and `regions` (any other: the number after the last), tokens are of
        the single request, `call_time_us` is in microseconds since 1970-01-01T00:00Z. A missing output count, to be
        given as 0, is fine only for a model whose output is never billed.
        """
        _, regions, starts, bands = self.row.shape
        # flat, as four index arrays take numpy several times as long
        place = ((model * regions + region) * starts + self._period(call_time_us)) * bands
        place += np.searchsorted(self.band_tops, input_tokens, side="left")  # open below, closed above
        row: IntArray = self.row.ravel()[place]
        fine = _between(output_tokens, 0, MAX_TOKENS) & _between(call_time_us, FIRST_INSTANT_US, LAST_INSTANT_US)
        if output_missing.any():
            fine &= ~(output_missing & self.bills_output[model])
        row[~fine] = UNPRICED
        return row

    def costs_pico(self, row: IntArray, input_tokens: IntArray, output_tokens: IntArray) -> tuple[IntArray, IntArray]:
        """The input and output cost of each located call in 10^-12 of the currency; 0 where `row` is UNPRICED."""
        # tokens of a call that has no price may be anything, but times 0 they cannot overflow
        return input_tokens * self.input_pico_per_token[row], output_tokens * self.output_pico_per_token[row]

    def _period(self, call_time_us: IntArray) -> IntArray:
        """The number of the period of each call, or a single one if all are in the same, as in nearly every batch."""
        if len(call_time_us):
            ends = np.searchsorted(self.period_starts, [call_time_us.min(), call_time_us.max()], side="right") - 1
            if ends[0] == ends[1]:
                return ends[:1]
        found: IntArray = np.searchsorted(self.period_starts, call_time_us, side="right") - 1
        return found


def _between(values: IntArray, lowest: int, highest: int) -> BoolArray:
    inside: BoolArray = (values >= lowest) & (values <= highest)
    return inside
