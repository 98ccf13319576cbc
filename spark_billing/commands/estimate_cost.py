"""The job that says what a table of prompts would cost, before `ai_query` is run over it."""

from __future__ import annotations

import argparse
import re
from datetime import datetime, timezone
from decimal import Decimal, InvalidOperation
from typing import Optional

from pyspark.sql import SparkSession

from spark_billing.commands.arguments import add_price_arguments, add_reading_arguments, price_list_of
from spark_billing.commands.command import DONE, Command, say
from spark_billing.commands.files import write_lines
from spark_billing.core.errors import UsageError
from spark_billing.core.hours import parse_instant
from spark_billing.core.session import SESSION_SETTINGS, job_session, settings
from spark_billing.estimates.answers import learn_output
from spark_billing.estimates.estimate import OutputTokens, estimate_calls
from spark_billing.estimates.expected import Expected
from spark_billing.estimates.printed import printed_estimate
from spark_billing.estimates.token_ratios import BY_LENGTH
from spark_billing.prices.price_list import PriceList
from spark_billing.usage.aliases import aliases_of, take_models
from spark_billing.usage.files import FORMATS, read_usage
from spark_billing.usage.reading import Reading


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--prompts", metavar="PATH", required=True, help="a path, or a catalog table with --prompts-format table")
    add("--prompts-format", choices=FORMATS, help="what it is (default: by the name's ending, else parquet)")
    add("--text", metavar="EXPRESSION", required=True, help="the prompt: a column, or any SQL expression of one row")
    add("--model", metavar="ID", required=True, help="such as qwen-plus")
    add("--region", metavar="ID", required=True, help="such as cn-hangzhou")
    add(
        "--at",
        metavar="INSTANT",
        help="whose prices are taken (default: now), such as 2026-05-01T00:00+08:00",
    )
    add_price_arguments(parser, required=True)
    output = parser.add_mutually_exclusive_group(required=True)
    output.add_argument(
        "--output-tokens", metavar="EXPRESSION", help="the assumed output of each call: a number, a column, or SQL"
    )
    output.add_argument("--learn-from", metavar="PATH", help="past usage that shows how long answers are")
    add("--usage-format", choices=FORMATS, help="what --learn-from is (default: as for --prompts-format)")
    add_reading_arguments(parser)
    add("--workspace", metavar="ID", help="whose calls to --model are learnt from")
    add(
        "--tokens",
        choices=(*BY_LENGTH, "tokenizer"),
        default="ratio",
        help="estimate from the length, as measured (default) or by the more cautious ratios of the provider's billing "
        "page, or count with the package dashscope, which the executors need too",
    )
    add("--summary", metavar="FILE.json", help="write the costs there, for the report")
    add("--sample", metavar="FRACTION", default="1", help="count this part of the rows, 1 over a whole number: 0.01")


def _run(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    prices, at, one_in = price_list_of(arguments), _at(arguments.at), _one_in(arguments.sample)
    if (arguments.workspace is None) != (arguments.learn_from is None):
        raise UsageError("--learn-from and --workspace belong together: the usage table, and whose calls in it count")
    if arguments.usage_format and not arguments.learn_from:
        raise UsageError("--usage-format says what --learn-from is; for the prompts give --prompts-format")
    for name in ("usage_schema", "where", "model_alias"):
        if getattr(arguments, name) and not arguments.learn_from:
            raise UsageError(f"--{name.replace('_', '-')} is about the usage of --learn-from; leave it out")
    spark = job_session("spark-billing estimate")
    with settings(spark, {**SESSION_SETTINGS, "spark.sql.session.timeZone": "UTC"}):
        prompts = read_usage(spark, arguments.prompts, arguments.prompts_format, what="prompts").rows
        output_tokens = _output_tokens(spark, arguments, prices)
        found = estimate_calls(
            prompts,
            text=arguments.text,
            model=arguments.model,
            region=arguments.region,
            output_tokens=output_tokens,
            prices=prices,
            at=at,
            tokens=arguments.tokens,
            one_in=one_in,
        )
        if arguments.summary:
            write_lines(spark, "--summary", arguments.summary, [Expected.of(found).to_json()])
        say("\n".join(printed_estimate(found)))
    return DONE


def _output_tokens(spark: SparkSession, arguments: argparse.Namespace, prices: PriceList) -> OutputTokens:
    if arguments.learn_from is None:
        text: str = arguments.output_tokens
        return int(text) if re.fullmatch("-?[0-9]+", text) else text
    of_usage = {name: getattr(arguments, name) for name in ("where", "usage_format", "usage_schema")}
    usage = Reading(**of_usage).source(spark, arguments.learn_from).rows
    usage = take_models(usage, aliases_of(arguments.model_alias, prices), prices)
    return learn_output(usage, workspace_id=arguments.workspace, model=arguments.model)


def _at(text: Optional[str]) -> Optional[datetime]:
    if text is None:
        return None
    try:
        return datetime.fromtimestamp(parse_instant(text), timezone.utc)
    except (ValueError, OverflowError) as error:
        raise UsageError(f"--at: {error}") from None


def _one_in(text: str) -> int:
    """How many rows stand behind one that is counted."""
    try:
        fraction = Decimal(text)
        one_in = int(1 / fraction) if 0 < fraction <= 1 else 0
    except (InvalidOperation, ArithmeticError):
        one_in = 0
    if not one_in or fraction * one_in != 1:
        raise UsageError(f"--sample {text}: needed is 1 over a whole number, such as 0.1, 0.05 or 0.001")
    return one_in


estimate_cost = Command(
    name="estimate",
    job="estimate_cost.py",
    description="Say what ai_query over a table of prompts would cost, before it is run: low, middle and high, and "
    "what that rests on.",
    examples="""
examples:
  # a template around a column, and a guess of 50 tokens for an answer
  {prog} --prompts reviews --text "concat('Good or bad? ', review)" --model qwen-plus --region cn-hangzhou \\
    --output-tokens 50 --currency USD --at 2026-05-01T00:00+08:00

  # answers as long as they were so far, one row in a thousand, tokens counted
  {prog} --prompts reviews --text review --model qwen-plus --region cn-hangzhou \\
    --learn-from usage --workspace w-1234567890abcdef --sample 0.001 --tokens tokenizer --currency USD \\
    --at 2026-05-01T00:00+08:00
""",
    add_arguments=_add_arguments,
    run=_run,
    cannot="the prompts cannot be read or mapped",
)
