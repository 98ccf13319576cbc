"""How many tokens a text has, as near as its length tells: native columns only.

The provider says no more than that a token is about one Chinese character or word, or 3 to 4 English letters. The low
figure takes a word of two characters and 4 letters for a token, the high one a character and 3 letters; the middle one
lies halfway. A digit is always one token: the public Qwen vocabulary has no number of two digits.
"""

from __future__ import annotations

from pyspark.sql import Column
from pyspark.sql import functions as F

LEVELS = ("low", "middle", "high")
RATIOS = "estimated from the length: a token is 2 to 1 Chinese characters or 4 to 3 letters, or a digit"
_DIGITS = "0123456789"


def estimated_tokens(text: Column) -> dict[str, Column]:
    """The low, middle and high number of tokens of a text, as bigint, each rounded up to a whole one; 0 for none.

    In UTF-8 a letter is one byte and a Chinese character three. So with b bytes and c characters (b - c) / 2 are
    Chinese and (3c - b) / 2 letters, which makes (b + c) / 8 tokens by the low ratios and b / 3 by the high ones, and
    (11b + 3c) / 48 halfway.
    """
    others = F.translate(text, _DIGITS, "")
    characters, size = F.length(others).cast("bigint"), F.octet_length(others).cast("bigint")
    digits = F.length(text).cast("bigint") - characters
    tokens = {
        "low": _divided(size + characters, 8),
        "middle": _divided(size * F.lit(11) + characters * F.lit(3), 48),
        "high": _divided(size, 3),
    }
    return {level: digits + count for level, count in tokens.items()}


def _divided(number: Column, by: int) -> Column:
    """A whole number divided and rounded up, without a fraction on the way."""
    return ((number + F.pmod(-number, F.lit(by))) / F.lit(by)).cast("bigint")
