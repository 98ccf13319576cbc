"""What `ai_query` over a table of prompts would cost, before it is run: calls counted in one pass, priced by group.

Within a tier the cost is linear, so the tokens of all calls between the same tier bounds are summed and priced at once,
which is the sum of their costs exactly. Few groups are left, and these are priced here, in whole numbers.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from decimal import Decimal
from typing import Optional, Union

from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, Row
from pyspark.sql import functions as F
from pyspark.sql.types import StringType

from spark_billing.core.errors import UsageError
from spark_billing.core.hours import epoch_us
from spark_billing.core.spark_errors import spark_reason
from spark_billing.estimates.answers import OutputPerInput, answer_tokens
from spark_billing.estimates.token_ratios import BY_LENGTH, LEVELS
from spark_billing.prices.price import MAX_TOKENS, Price
from spark_billing.prices.price_list import PriceList
from spark_billing.usage.calls import countable, is_count, typed_calls

StrOrColumn = Union[str, Column]
OutputTokens = Union[int, str, Column, OutputPerInput]
_SEED = 1  # of the sample: the same rows every time, as long as the table is read in the same partitions
_FEWEST = 10**9  # rows of which a sample has one
_ANSWERED, _NO_COUNT, _BAD_COUNT = 0, 1, 2  # what the assumption says of a call's output


@dataclass(frozen=True)
class Figures:
    """What the calls come to under one assumption: whole counts, and `cost` in the price list's currency, unrounded.

    `output_tokens` are the billed ones. Of a sample all are scaled up; each `..._error` is then half the width of the
    95 % interval, an error bar and not an amount, and else 0.
    """

    calls: int
    input_tokens: int
    output_tokens: int
    cost: Decimal
    calls_by_price: Mapping[str, int]  # by price_id: model, region and tier
    refused: Mapping[str, int]  # calls that would be refused, by reason
    calls_error: int
    input_tokens_error: int
    cost_error: Decimal


@dataclass(frozen=True)
class Estimate:
    """What running a table of prompts would cost: a low, a middle and a high figure, and what they rest on."""

    low: Figures
    middle: Figures
    high: Figures
    elsewhere: Mapping[tuple[str, str], Figures]  # middle figures of all calls with one model in one region
    prices: PriceList
    at: datetime  # when these prices are in force
    tokens_rest_on: str
    output_rests_on: str
    rows: int  # that were counted
    one_in: int  # so many rows of the table stand behind each


def estimate_calls(
    df: DataFrame,
    *,
    text: StrOrColumn,
    model: StrOrColumn,
    region: StrOrColumn,
    output_tokens: OutputTokens,
    prices: PriceList,
    at: Optional[datetime] = None,
    tokens: str = "ratio",
    one_in: int = 1,
) -> Estimate:
    """What one model call for each row of `df` would cost at the prices in force at the aware instant `at`, else now.

    `text` is the whole prompt, a column or a SQL expression over the columns, such as `concat('Translate: ', review)`.
    `model` and `region` are ids, or Columns. `output_tokens` is the assumed output of each call: a number, a SQL
    expression or Column, or what `learn_output` has learnt. `tokens="ratio"` estimates input tokens from the text's
    length as measured, `"provider"` as the provider's billing page does (`token_ratios`); `"tokenizer"` counts them and
    needs `spark_billing[tokenizer]`. With `one_in` above 1 a sample of one in so many rows is counted and scaled up.
    Null and empty texts would be refused (`missing_text`), the other reasons are those of `check_usage`. `UsageError`
    if an argument does not fit.

    Examples
    --------
    >>> prices = PriceList.bundled("emr-serverless-spark", currency="USD")
    >>> prompts = spark.sql("SELECT 'How is the weather in Hangzhou?' AS question UNION ALL SELECT ''")
    >>> estimate = estimate_calls(
    ...     prompts,
    ...     text="question",
    ...     model="qwen-plus",
    ...     region="cn-hangzhou",
    ...     output_tokens=50,
    ...     prices=prices,
    ...     at=datetime.fromisoformat("2026-05-01T00:00+08:00"),
    ... )
    >>> [(f.calls, f.input_tokens, f.cost) for f in (estimate.low, estimate.middle)]
    [(1, 8, Decimal('0.000018304000')), (1, 10, Decimal('0.000018580000'))]
    >>> dict(estimate.middle.refused)
    {'missing_text': 1}
    """
    at = datetime.now(timezone.utc) if at is None else at
    if at.tzinfo is None:
        raise UsageError(f"at is {at}, which has no zone; pass an aware datetime")
    if not isinstance(one_in, int) or one_in < 1:
        raise UsageError(f"one_in is {one_in!r}; needed is a whole number from 1 up: one in so many rows is counted")
    if one_in > _FEWEST:  # not shown: Python refuses to write a number of some thousand digits
        raise UsageError(f"the sample is less than one in {_FEWEST:,} rows; take a larger one, or the whole table")
    for name, value, known in (("model", model, prices.models), ("region", region, _regions(prices, model))):
        if isinstance(value, str) and value not in known:
            raise UsageError(f"the price list has no {name} {value!r}; it has {', '.join(known)}")
    if one_in > 1:
        df = df.sample(fraction=1 / one_in, seed=_SEED)
    asked = _asked(df, text, model, region, output_tokens)
    learnt = output_tokens if isinstance(output_tokens, OutputPerInput) else None
    rest_on, calls = _with_tokens(asked, tokens, learnt)
    groups = _grouped(calls, prices).collect()
    rows = sum(group["calls"] for group in groups)
    if one_in > 1 and not rows:
        raise UsageError(f"a sample of one in {one_in:,} rows has no row; take a larger one, or the whole table")

    def figures(level: str, pair: Optional[tuple[str, str]] = None) -> Figures:
        return _priced(groups, level, prices, at, one_in, pair)

    low, middle, high = (figures(level) for level in LEVELS)
    return Estimate(
        low=low,
        middle=middle,
        high=high,
        elsewhere={pair: figures("middle", pair) for pair in _models_and_regions(prices)},
        prices=prices,
        at=at,
        tokens_rest_on=rest_on,
        output_rests_on=_output_rests_on(output_tokens),
        rows=rows,
        one_in=one_in,
    )


def _regions(prices: PriceList, model: StrOrColumn) -> list[str]:
    return sorted({p.region for p in prices.prices if not isinstance(model, str) or p.model == model})


def _models_and_regions(prices: PriceList) -> list[tuple[str, str]]:
    return sorted({(p.model, p.region) for p in prices.prices})


# --- the pass over the table ---------------------------------------------------------------------------------------


def _asked(
    df: DataFrame,
    text: StrOrColumn,
    model: StrOrColumn,
    region: StrOrColumn,
    output_tokens: OutputTokens,
) -> DataFrame:
    """The calls that would be made: `text, model, region`, and `output_tokens` unless that is learnt."""
    columns = {
        "text": _one_value(df, "text", text),
        "model": F.lit(model) if isinstance(model, str) else _one_value(df, "model", model),
        "region": F.lit(region) if isinstance(region, str) else _one_value(df, "region", region),
    }
    if isinstance(output_tokens, (str, Column)):
        columns["output_tokens"] = _one_value(df, "output_tokens", output_tokens)
    elif not isinstance(output_tokens, OutputPerInput):
        if isinstance(output_tokens, bool) or not isinstance(output_tokens, int):
            raise UsageError(f"output_tokens is {output_tokens!r}; needed is a whole number, or a column or expression")
        if not 0 <= output_tokens <= MAX_TOKENS:
            raise UsageError(f"output_tokens is {output_tokens:,}; one call has 0 to {MAX_TOKENS:,}")
        columns["output_tokens"] = F.lit(output_tokens).cast("bigint")
    asked = df.select(*(column.alias(name) for name, column in columns.items()))
    dtype = asked.schema["text"].dataType
    if not isinstance(dtype, StringType):
        raise UsageError(f"text is {dtype.simpleString()}, but a prompt is text; cast it, as in cast(... as string)")
    return asked


def _one_value(df: DataFrame, name: str, value: StrOrColumn) -> Column:
    """A column or expression, if it gives one value for each row: no explode, which would make calls, no aggregate."""
    try:
        column = F.expr(value) if isinstance(value, str) else value
        _ = df.where(column.isNull()).schema
    except PySparkException as error:
        raise UsageError(f"{name} {str(value)!r}: {spark_reason(error)}") from None
    return column


def _with_tokens(asked: DataFrame, tokens: str, learnt: Optional[OutputPerInput]) -> tuple[str, DataFrame]:
    """What the counts rest on, and the calls with `input_LEVEL` and `output_LEVEL` for each level."""
    text = F.coalesce(F.col("source.text"), F.lit(""))
    if tokens in BY_LENGTH:
        rest_on, of_text = BY_LENGTH[tokens]
        input_tokens = of_text(text)
    elif tokens == "tokenizer":
        try:
            from spark_billing.estimates.tokenizer import COUNTED, load_tokenizer, tokenizer_udf

            load_tokenizer()  # here first, so that a missing package is one line and not a failed task
        except ImportError as error:
            raise UsageError(
                f"tokens='tokenizer' needs a package that is missing here ({error}); "
                "pip install 'spark_billing[tokenizer]', on the executors too, or use the ratios"
            ) from None
        rest_on, input_tokens = COUNTED, dict.fromkeys(LEVELS, tokenizer_udf()(text))
    else:
        raise UsageError(f"tokens is {tokens!r}; it is {', '.join(BY_LENGTH)} or tokenizer")

    columns = ["model", "region"]
    if learnt is None:
        columns.append("output_tokens")
    typed = typed_calls(asked, columns)
    calls = typed.withColumns({f"input_{level}": input_tokens[level] for level in LEVELS})
    calls = calls.withColumn("has_text", text != "")
    if learnt is None:
        answers = dict.fromkeys(LEVELS, F.col("output_tokens"))
    else:
        answers = {level: answer_tokens(F.col(f"input_{level}"), getattr(learnt, level)) for level in LEVELS}
        calls = calls.withColumn("output_missing", F.lit(False))
    return rest_on, calls.withColumns({f"output_{level}": answers[level] for level in LEVELS})


def _grouped(calls: DataFrame, prices: PriceList) -> DataFrame:
    """The calls counted and their tokens summed, by model, region, and at each level by the tier bounds around the
    input tokens. The sums of products are those that the variance of the costs is made of."""
    model, region = F.col("model"), F.col("region")
    missing_model, missing_region = (F.coalesce(name == "", F.lit(True)) for name in (model, region))
    in_list = F.lit(False)
    for known in prices.models:
        in_list = in_list | ((model == known) & region.isin(*_regions(prices, known)))
    reason = (
        F.when(missing_region, "missing_region")
        .when(missing_model, "missing_model")
        .when(~model.isin(*prices.models), "unknown_model")
        .when(~in_list, "unknown_region")
    )
    keys, sums = [], [F.count(F.lit(1)).alias("calls")]
    for level in LEVELS:
        given, answer = F.col(f"input_{level}"), F.col(f"output_{level}")
        place = F.lit(0)
        for bound in prices.tier_bounds:
            place = place + (given > bound).cast("int")
        no_count = F.when(F.col("output_missing"), _NO_COUNT).otherwise(_BAD_COUNT)
        state = F.when(F.coalesce(is_count(answer), F.lit(False)), _ANSWERED).otherwise(no_count)
        keys += [place.alias(f"place_{level}"), state.alias(f"state_{level}")]
        counts = {"i": countable(given), "o": countable(answer)}
        sums += [F.sum(count).alias(f"{kind}_{level}") for kind, count in counts.items()]
        for pair in ("ii", "io", "oo"):
            product = counts[pair[0]] * counts[pair[1]]  # below 2^62
            sums.append(F.sum(product.cast("decimal(28,0)")).alias(f"{pair}_{level}"))
    named = (F.when(reason.isNull(), name) for name in (model, region))  # unknown names are one group
    return calls.groupBy(
        next(named).alias("model"), next(named).alias("region"), reason.alias("reason"), "has_text", *keys
    ).agg(*sums)


# --- the groups, priced --------------------------------------------------------------------------------------------


def _priced(
    groups: Sequence[Row],
    level: str,
    prices: PriceList,
    at: datetime,
    one_in: int,
    pair: Optional[tuple[str, str]],
) -> Figures:
    """The figures of one level: as asked, or of all calls with the model and in the region of `pair`."""
    calls = input_tokens = output_tokens = pico = input_squares = pico_squares = 0
    by_price: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    in_force = list(_in_force(prices, at))
    for group in groups:
        model, region = pair or (group["model"], group["region"])
        price, reason = _find(group, level, prices, in_force, model, region, group["reason"] if pair is None else None)
        if price is None:
            refused[reason] += group["calls"] * one_in
            continue
        per_input, per_output = price.input_pico_per_token, price.output_pico_per_token or 0  # of one token, in 10^-12
        i, o, ii, io, oo = (int(group[f"{kind}_{level}"]) for kind in ("i", "o", "ii", "io", "oo"))
        calls += group["calls"]
        by_price[price.price_id] += group["calls"] * one_in
        input_tokens += i
        output_tokens += 0 if price.output_pico_per_token is None else o
        pico += i * per_input + o * per_output
        input_squares += ii
        pico_squares += ii * per_input**2 + 2 * io * per_input * per_output + oo * per_output**2
    return Figures(
        calls=calls * one_in,
        input_tokens=input_tokens * one_in,
        output_tokens=output_tokens * one_in,
        cost=_amount_of_pico(pico * one_in),
        calls_by_price=dict(sorted(by_price.items())),
        refused=dict(sorted(refused.items())),
        calls_error=_half_width(calls, one_in),
        input_tokens_error=_half_width(input_squares, one_in),
        cost_error=_amount_of_pico(_half_width(pico_squares, one_in)),
    )


def _find(
    group: Row,
    level: str,
    prices: PriceList,
    in_force: Sequence[Price],
    model: str,
    region: str,
    reason: Optional[str],
) -> tuple[Optional[Price], str]:
    """The price of the calls of a group, or None and why they would be refused; the first reason that applies."""
    if reason in ("missing_region", "missing_model"):
        return None, reason
    if not group["has_text"]:
        return None, "missing_text"
    state = group[f"state_{level}"]
    if state == _BAD_COUNT or (state == _NO_COUNT and model not in prices.models_without_output_price):
        return None, "invalid_output_tokens"
    if reason is not None:
        return None, reason
    bounds, place = prices.tier_bounds, group[f"place_{level}"]
    tiers = [p for p in in_force if (p.model, p.region) == (model, region)]
    for price in tiers:  # the calls lie between two bounds that follow each other, so a tier has all of them or none
        if 0 < place < len(bounds) and price.holds(bounds[place]):
            return price, ""
    return None, "input_tokens_out_of_range" if tiers else "no_price_in_force"


def _in_force(prices: PriceList, at: datetime) -> Iterator[Price]:
    return (p for p in prices.prices if p.is_in_force(epoch_us(at)))


def _amount_of_pico(pico: int) -> Decimal:
    """Whole 10^-12 as a decimal; arithmetic would round it to the precision that the process has set."""
    return Decimal(f"{pico}E-12")


def _half_width(squares: int, one_in: int) -> int:
    """1.96 standard errors of a total of which one in so many parts was drawn, each by itself, from the parts' sum of
    squares; rounded down to a whole unit."""
    return math.isqrt(one_in * (one_in - 1) * squares * 196**2) // 100


def _output_rests_on(output_tokens: OutputTokens) -> str:
    if isinstance(output_tokens, OutputPerInput):
        return str(output_tokens)
    if isinstance(output_tokens, int):
        return f"{output_tokens:,} tokens for each call, as given"
    return f"{output_tokens} tokens, as given" if isinstance(output_tokens, str) else "a column, as given"
