"""Tokens counted with the Qwen vocabulary that the PyPI package dashscope carries, in a vectorized UDF.

Importing this module needs pandas and pyarrow; counting needs dashscope, on the driver and on the executors
(`pip install 'spark_billing[tokenizer]'`). It works offline.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, Callable

import pandas as pd
from pyspark.sql import Column
from pyspark.sql.functions import pandas_udf  # type: ignore[attr-defined]
from pyspark.sql.types import LongType

VOCABULARY = "qwen-plus"  # the package knows no other that the price lists have
COUNTED = f"counted with the {VOCABULARY} vocabulary, without what the service adds around a prompt"


@cache  # it takes seconds: once for each Python worker, however many batches and tasks it gets
def load_tokenizer() -> Any:
    """The tokenizer; `ImportError` if the package or its extra is not installed."""
    from dashscope import get_tokenizer

    return get_tokenizer(VOCABULARY)


def tokenizer_udf() -> Callable[[Column], Column]:
    """A vectorized UDF: the tokens of each text, as bigint, 0 for null."""

    def count_tokens(batches: Iterator[pd.Series]) -> Iterator[pd.Series]:
        tokenizer = load_tokenizer()
        for texts in batches:
            yield pd.Series([len(tokenizer.encode(text)) if text else 0 for text in texts], dtype="int64")

    made: Callable[[Column], Column] = pandas_udf(count_tokens, LongType())
    return made
