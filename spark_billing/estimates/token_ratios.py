"""How many tokens a text has, as near as its length tells: native columns only. There are two ways to say it.

As measured with the public Qwen vocabulary, by `estimated_tokens`: the low figure takes a word of two Chinese
characters and 4 letters for a token, the high one a character and 3 letters; the middle one lies halfway. A digit is
always one token: the vocabulary has no number of two digits.

As the provider's billing page says it, by `provider_tokens`: a Chinese character is about 1.5 to 2 tokens, an English
letter about 0.25, an English word about 1.3. The last two say the same of words of 5.2 characters, with the blank, so
every character that is not Chinese is taken for a letter. Of digits the page says nothing: they are as measured. That
is the cautious way, as the vocabulary needs fewer tokens for Chinese.
"""

from __future__ import annotations

from pyspark.sql import Column
from pyspark.sql import functions as F

LEVELS = ("low", "middle", "high")
RATIOS = "estimated from the length: a token is 2 to 1 Chinese characters or 4 to 3 letters, or a digit"
PROVIDER_RATIOS = (
    "estimated as the provider's billing page does: a Chinese character is 1.5 to 2 tokens, a letter 0.25; a digit is 1"
)
_DIGITS = "0123456789"


def estimated_tokens(text: Column) -> dict[str, Column]:
    """The low, middle and high number of tokens of a text by the measured ratios, as bigint, each rounded up to a whole
    one; 0 for none.

    In UTF-8 a letter is one byte and a Chinese character three. So with b bytes and c characters (b - c) / 2 are
    Chinese and (3c - b) / 2 letters, which makes (b + c) / 8 tokens by the low ratios and b / 3 by the high ones, and
    (11b + 3c) / 48 halfway.
    """
    digits, characters, size = _measured(text)
    tokens = {
        "low": _divided(size + characters, 8),
        "middle": _divided(size * F.lit(11) + characters * F.lit(3), 48),
        "high": _divided(size, 3),
    }
    return {level: digits + count for level, count in tokens.items()}


def provider_tokens(text: Column) -> dict[str, Column]:
    """The same by the provider's ratios.

    With 1.5, 1.75 and 2 tokens for a Chinese character and 0.25 for a letter it is (5b - 3c) / 8, (3b - 2c) / 4 and
    (7b - 5c) / 8 tokens.
    """
    digits, characters, size = _measured(text)
    tokens = {
        "low": _divided(size * F.lit(5) - characters * F.lit(3), 8),
        "middle": _divided(size * F.lit(3) - characters * F.lit(2), 4),
        "high": _divided(size * F.lit(7) - characters * F.lit(5), 8),
    }
    return {level: digits + count for level, count in tokens.items()}


BY_LENGTH = {"ratio": (RATIOS, estimated_tokens), "provider": (PROVIDER_RATIOS, provider_tokens)}  # --tokens


def _measured(text: Column) -> tuple[Column, Column, Column]:
    """The digits of a text, its other characters, and their bytes."""
    others = F.translate(text, _DIGITS, "")
    characters, size = F.length(others).cast("bigint"), F.octet_length(others).cast("bigint")
    return F.length(text).cast("bigint") - characters, characters, size


def _divided(number: Column, by: int) -> Column:
    """A whole number divided and rounded up, without a fraction on the way."""
    return ((number + F.pmod(-number, F.lit(by))) / F.lit(by)).cast("bigint")
