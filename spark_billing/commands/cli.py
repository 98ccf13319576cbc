"""The console command `spark-billing`: every job as a subcommand. The same commands are what jobs/ runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Optional

from spark_billing.commands.bill_history import bill_history
from spark_billing.commands.command import REFUSED, add_version
from spark_billing.commands.estimate_cost import estimate_cost
from spark_billing.commands.export_focus import export_focus
from spark_billing.commands.hourly_bill import hourly_bill
from spark_billing.commands.maintain_ledger import maintain_ledger
from spark_billing.commands.reconcile_bill import reconcile_bill
from spark_billing.commands.report import report
from spark_billing.commands.rerate import rerate
from spark_billing.commands.sql import sql
from spark_billing.commands.statement import statement

_DEMO = "spark-billing bill --demo"
COMMANDS = (
    *(hourly_bill, bill_history, rerate, estimate_cost, reconcile_bill),
    *(statement, report, export_focus, maintain_ledger, sql),
)


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run a subcommand; returns its exit code."""
    width = max(len(command.name) for command in COMMANDS)
    listed = "\n".join(f"  {command.name.ljust(width)}  {_first_sentence(command.description)}" for command in COMMANDS)
    parser = argparse.ArgumentParser(
        prog="spark-billing",
        description="Exact bills for model calls on Spark.",
        epilog=f"commands:\n{listed}\n\nspark-billing COMMAND --help tells more. See it work: {_DEMO}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="spark-billing [--version] COMMAND ...",
    )
    add_version(parser)
    given = list(sys.argv[1:] if argv is None else argv)
    by_name = {command.name: command for command in COMMANDS}
    if given and given[0] in by_name:
        return by_name[given[0]](given[1:], prog=f"spark-billing {given[0]}")
    if not given:
        parser.print_help()
        return REFUSED
    parser.parse_known_args(given)  # --help and --version end here
    print(f"spark-billing: {given[0]!r} is no command; they are {', '.join(by_name)} (see --help)", file=sys.stderr)
    return REFUSED


def _first_sentence(text: str) -> str:
    return text.partition(". ")[0].partition(": ")[0].rstrip(".")
