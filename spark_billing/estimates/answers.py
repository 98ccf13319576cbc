"""How long answers were: output tokens per input token of the calls that a workspace has made to a model."""

from __future__ import annotations

from dataclasses import dataclass

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from spark_billing.core.errors import UsageError
from spark_billing.core.text import printable
from spark_billing.usage.calls import is_count, typed_calls

MILLION = 1_000_000
_RANK_ACCURACY = 10_000  # a quantile's rank is off by at most one in so many calls


@dataclass(frozen=True)
class OutputPerInput:
    """Output tokens per 1,000,000 input tokens, as whole numbers: of the call with the shortest answer for its input
    among nine in ten (`low`), of the middle call, and of the longest among nine in ten (`high`)."""

    low: int
    middle: int
    high: int
    all_calls: int  # their output together by their input together
    calls: int  # that these rest on
    workspace_id: str
    model: str

    def __str__(self) -> str:
        shown = [f"{ratio // MILLION}.{ratio % MILLION:06}" for ratio in (self.low, self.middle, self.high)]
        together = f"{self.all_calls // MILLION}.{self.all_calls % MILLION:06}"
        return (
            f"{shown[0]}, {shown[1]} and {shown[2]} tokens per input token, the 10, 50 and 90 % quantiles of "
            f"{self.calls:,} calls of {printable(self.workspace_id)} to {printable(self.model)} ({together} over all)"
        )


def learn_output(usage: DataFrame, *, workspace_id: str, model: str) -> OutputPerInput:
    """The output tokens per input token of one workspace and model in a usage table, for `estimate_calls`.

    Read are `workspace_id, model, input_tokens, output_tokens`; calls without input or with unreadable counts are left
    out, repeats are not looked for. `UsageError` if a column does not fit or no call is left.

    Examples
    --------
    >>> learn_output(usage, workspace_id="w-1", model="qwen-plus").middle  # 50 output tokens to 260 input tokens
    192307
    """
    columns = ("workspace_id", "model", "input_tokens", "output_tokens")
    calls = typed_calls(usage, columns).filter((F.col("workspace_id") == workspace_id) & (F.col("model") == model))
    given, answered = F.col("input_tokens"), F.col("output_tokens")
    readable = calls.filter((given > 0) & is_count(given) & is_count(answered))
    scaled = answered * F.lit(MILLION)  # below 2^51, so the division below is exact
    per_million = ((scaled - F.pmod(scaled, given)) / given).cast("bigint")
    found = readable.agg(
        F.percentile_approx(per_million, [0.1, 0.5, 0.9], _RANK_ACCURACY).alias("quantiles"),
        F.sum("input_tokens").alias("input"),
        F.sum("output_tokens").alias("output"),
        F.count(F.lit(1)).alias("calls"),
    ).collect()[0]
    if not found["calls"]:
        raise UsageError(
            f"the usage has no call of the workspace {workspace_id!r} to {model!r} with readable token counts, so no "
            "output length can be learnt from it; give another table or workspace, or a number of output tokens"
        )
    low, middle, high = found["quantiles"]
    together = found["output"] * MILLION // found["input"]
    return OutputPerInput(low, middle, high, together, found["calls"], workspace_id, model)


def answer_tokens(input_tokens: Column, per_million: int) -> Column:
    """The output tokens of a call by such a ratio, rounded up to a whole one."""
    millionths = input_tokens.cast("decimal(10,0)") * F.lit(per_million).cast("decimal(16,0)")
    return F.ceil(millionths * F.lit("0.000001").cast("decimal(7,6)")).cast("bigint")
