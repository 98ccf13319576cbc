"""The command that prints the price list as SQL functions. It needs no Spark: whoever has a warehouse runs the text."""

from __future__ import annotations

import argparse

from spark_billing.commands.arguments import add_price_arguments, price_list_of
from spark_billing.commands.command import DONE, Command, say
from spark_billing.prices.sql_functions import sql_function_ddl


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_price_arguments(parser, required=True)
    parser.add_argument(
        "--namespace", metavar="NAME", help="keep the functions there, such as billing (default: temporary functions)"
    )
    parser.add_argument("--prefix", metavar="TEXT", default="", help="before both names, such as cny_")


def _run(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    prices = price_list_of(arguments)
    statements = sql_function_ddl(prices, namespace=arguments.namespace, prefix=arguments.prefix)
    say("\n\n".join(f"{statement};" for statement in statements))
    return DONE


sql = Command(
    name="sql",
    job=None,
    description="Print the price list as SQL functions. Run the statements on Spark 4.0 or later: model_call_cost and "
    "model_call_tier then price calls in plain SQL, without Python.",
    examples="""
examples:
  # functions that are kept in a schema, for every session and every view
  {prog} --currency USD --namespace billing > prices.sql
  spark-sql -f prices.sql

  # your own prices, beside others
  {prog} --currency CNY --price-list prices.csv --namespace billing --prefix cny_
""",
    add_arguments=_add_arguments,
    run=_run,
    cannot="the functions cannot be written",
)
