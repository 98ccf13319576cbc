"""The job that shows every ledger line of one workspace and hour."""

from __future__ import annotations

import argparse

from spark_billing.commands.arguments import add_ledger_arguments, ledger_of
from spark_billing.commands.command import DONE, Command, say
from spark_billing.core.session import SESSION_SETTINGS, job_session, settings
from spark_billing.ledger import reading
from spark_billing.ledger.printed import printed_history


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_ledger_arguments(parser)
    parser.add_argument("--workspace", metavar="ID", required=True, help="the workspace_id, exactly")
    parser.add_argument("--hour", metavar="HOUR", required=True, help="the UTC+8 hour, such as 2026-04-08T10")


def _run(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    spark = job_session("spark-billing history")
    with settings(spark, SESSION_SETTINGS):
        where = {"output": arguments.output, "catalog": arguments.output_catalog}
        lines = reading.bill_history(spark, **where, workspace_id=arguments.workspace, hour=arguments.hour)
        say("\n".join(printed_history(lines, arguments.workspace, arguments.hour, ledger_of(spark, arguments))))
    return DONE


bill_history = Command(
    name="history",
    job="bill_history.py",
    description="Show every line that was ever added to the bill of one workspace and hour: when, by which run, and "
    "why.",
    examples="""
example:
  {prog} --output bills --workspace w-1234567890abcdef --hour 2026-04-08T10
""",
    add_arguments=_add_arguments,
    run=_run,
    cannot="the history cannot be read",
)
