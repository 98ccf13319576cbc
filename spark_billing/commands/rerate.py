"""The job that compares two price lists, or the two readings of K, on one usage table."""

from __future__ import annotations

import argparse

from spark_billing.commands.arguments import (
    add_usage_arguments,
    columns_of,
    mapped_usage,
    period_of,
    price_list_of,
    read_prices,
)
from spark_billing.commands.command import DONE, Command, say
from spark_billing.core.session import job_session
from spark_billing.estimates.printed import printed_rerating
from spark_billing.estimates.rerating import rerate as rerate_usage
from spark_billing.reports.run_summary import printed_absent
from spark_billing.usage.aliases import NAME
from spark_billing.usage.mapping import ROW


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_usage_arguments(parser, required=True)
    other = parser.add_mutually_exclusive_group(required=True)
    other.add_argument("--against", metavar="FILE.csv", help="the other price list")
    other.add_argument(
        "--against-tokens-per-k", type=int, choices=(1000, 1024), help="the same list with another meaning of K"
    )


def _run(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    prices = price_list_of(arguments)
    if arguments.against is None:
        other = price_list_of(arguments, tokens_per_k=arguments.against_tokens_per_k)
    else:
        other = read_prices("--against", arguments.against, arguments.tokens_per_k)
    period = None if period_of(arguments) is None else (getattr(arguments, "from"), arguments.to)
    columns_of(arguments)  # refused before Spark starts
    spark = job_session("spark-billing rerate")
    with mapped_usage(spark, arguments, prices) as mapped:
        changes = rerate_usage(
            mapped.usage.drop(ROW, NAME),
            prices=prices,
            other=other,
            period=period,
            duplicates=not arguments.no_dedup,
            dedup_lookback=arguments.dedup_lookback,
            keep_copy=arguments.keep_copy,
        )
        say("\n".join(printed_rerating(changes, prices, other)))
        for line in printed_absent(mapped.absent)[:1]:
            say(f"\n{line}")
    return DONE


rerate = Command(
    name="rerate",
    job="rerate.py",
    description="Show what the same calls cost under two price lists, per workspace and model. Nothing is written.",
    examples="""
examples:
  # a new price list
  {prog} --usage usage --currency USD --against new-prices.csv

  # what the unclear meaning of K is worth: 128K as 128,000 tokens, and as 131,072
  {prog} --usage usage --currency USD --against-tokens-per-k 1024
""",
    add_arguments=_add_arguments,
    run=_run,
    cannot="the usage cannot be priced twice",
)
