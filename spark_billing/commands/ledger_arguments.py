"""The arguments of every job that reads what was billed: where the ledger is."""

from __future__ import annotations

import argparse

from pyspark.sql import SparkSession

from spark_billing.ledger.catalog import CatalogTables


def add_ledger_arguments(parser: argparse.ArgumentParser) -> None:
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--output", metavar="DIR", help="the folder that hourly_bill.py bills into")
    where.add_argument("--output-catalog", metavar="CATALOG.NAMESPACE", help="or the namespace")


def ledger_of(spark: SparkSession, arguments: argparse.Namespace) -> str:
    """The folder of the ledger."""
    if arguments.output is not None:
        return str(arguments.output)
    return CatalogTables(spark, arguments.output_catalog).output
