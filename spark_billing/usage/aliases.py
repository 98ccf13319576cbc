"""Names in a log that mean a model of the price list (`qwen-plus-latest` is qwen-plus): said, never guessed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Union

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import StringType

from spark_billing.core.errors import UsageError
from spark_billing.prices.price_list import PriceList
from spark_billing.usage.calls import usage_field

Aliases = Sequence[tuple[str, str]]  # (pattern, model), the first that fits wins
GivenAliases = Union[Mapping[str, str], Sequence[Union[str, tuple[str, str]]]]
NAME = "model_as_it_came"  # the mapped table's column with the name before it was taken for a model
_KEPT_NAMES = 1000  # in the record of a run; what is beyond is counted together


def aliases_of(given: GivenAliases, prices: PriceList) -> Aliases:
    """The aliases in order; `UsageError` if one is empty, there twice, or leads to no model of the price list."""
    aliases = pairs_of(given)
    seen: set[str] = set()
    for pattern, model in aliases:
        if not pattern or not model:
            raise _refusal(pattern, model, "both sides are needed, such as qwen-plus-*=qwen-plus")
        if pattern in seen:
            raise _refusal(pattern, model, "this pattern is given twice, and the first one wins; leave one out")
        seen.add(pattern)
        if model not in prices.models:
            close = get_close_matches(model, prices.models, n=3)
            meant = f"did you mean {' or '.join(close)}?" if close else f"it has {', '.join(sorted(prices.models))}"
            raise _refusal(pattern, model, f"the price list has no model {model!r}; {meant}")
    return aliases


def pairs_of(given: GivenAliases) -> Aliases:
    """The aliases as pairs, however they are given: as a mapping, as pairs, or as the jobs take them,
    `PATTERN=MODEL`; `UsageError` if they are neither."""
    if isinstance(given, str):
        given = [given]
    aliases: list[tuple[str, str]] = []
    for each in given.items() if isinstance(given, Mapping) else given:
        pair = each.rpartition("=")[::2] if isinstance(each, str) else each
        if not isinstance(pair, Sequence) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
            raise UsageError(
                f"model_alias has {each!r}; needed is PATTERN=MODEL, or such a pair", parameter="model_alias"
            )
        aliases.append((pair[0], pair[1]))
    return aliases


def _refusal(pattern: str, model: str, why: str) -> UsageError:
    return UsageError(f"model_alias {pattern}={model}: {why}", parameter="model_alias")


def take_models(usage: DataFrame, aliases: Aliases, prices: PriceList) -> DataFrame:
    """The usage with the models that its names stand for, and the names as they came in `model_as_it_came`.

    In a pattern `*` is any text, and all else is literal. A name that is itself a model of the list has a price of its
    own: it is taken for another only by a pattern that is this name in full.
    """
    field = usage_field(usage, "model")
    if not aliases or field is None or not isinstance(field.dataType, StringType):  # the type is refused later on
        return usage
    name = F.col(field.name).cast(StringType())
    own = name.isin(*prices.models)
    model = name
    for pattern, meant in reversed(aliases):
        fits = ~own & name.rlike(_regex(pattern)) if "*" in pattern else name == F.lit(pattern)
        model = F.when(fits, F.lit(meant)).otherwise(model)
    return usage.withColumns({NAME: name, field.name: model})


def _regex(pattern: str) -> str:
    """Of Java: the pattern over the whole text, line breaks and all."""
    parts = (re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", part) for part in pattern.split("*"))
    return f"(?s)\\A{'.*'.join(parts)}\\z"


def names_taken(usage: DataFrame) -> list[dict[str, Any]]:
    """What was taken for what, for the record: `name`, `model` and its `calls`, the most frequent first.

    Beyond a thousand names the others are one entry for each model, without a name, in `names` how many they are.
    """
    if NAME not in usage.columns:
        return []
    taken = usage.filter(F.col(NAME) != F.col("model")).groupBy(F.col(NAME).alias("name"), "model")
    counted = taken.agg(F.count(F.lit(1)).alias("calls"))
    found = counted.orderBy(F.col("calls").desc(), "name").limit(_KEPT_NAMES + 1).collect()
    told = [row.asDict() for row in found[:_KEPT_NAMES]]
    if len(found) > _KEPT_NAMES:
        rest = counted.filter(~F.col("name").isin(*(row["name"] for row in told))).groupBy("model")
        others = rest.agg(F.sum("calls").alias("calls"), F.count(F.lit(1)).alias("names")).orderBy("model")
        told += [{"name": None, **row.asDict()} for row in others.collect()]
    return told
