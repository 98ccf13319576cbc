"""The job that writes the statement of a month."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from spark_billing.commands.arguments import add_ledger_arguments, ledger_of, month_of, whole_number
from spark_billing.commands.command import DONE, Command, say
from spark_billing.commands.files import place_of, say_lines, write_lines
from spark_billing.core.money import money
from spark_billing.core.published import SETTLED_AFTER_HOURS
from spark_billing.core.session import SESSION_SETTINGS, job_session, settings
from spark_billing.ledger.reading import lines_in_currency
from spark_billing.reports.statement import Statement, monthly_statement
from spark_billing.reports.statement_files import statement_csv, statement_html

_FORMATS = ("text", "csv", "html")

_EXAMPLES = """
examples:
  # April as it stands now; the provider's lines are settled 48 hours after an hour's end
  {prog} --output bills --month 2026-04

  # all of it, with every workspace, as CSV
  {prog} --output bills --month 2026-04 --as-of 2026-05-03T12:00+08:00 \\
      --format csv --to 2026-04.csv

exit codes:
  0 written
  2 arguments or ledger refused, or no line in the month (nothing was written)
  1 anything else
"""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_ledger_arguments(parser)
    add, count = parser.add_argument, whole_number(0, 6)
    add("--month", required=True, help="the UTC+8 month, such as 2026-04")
    add(
        "--closed-after",
        metavar="HOURS",
        type=count,
        default=SETTLED_AFTER_HOURS,
        help="the provider's settling: an hour is final so long after its end, and open until then (default 48)",
    )
    add("--as-of", metavar="INSTANT", help="when that is looked at (default: now), such as 2026-05-03T12:00+08:00")
    add("--format", choices=_FORMATS, default="text", help="csv has all workspaces, the others the dearest")
    add("--to", "--to-file", dest="to", metavar="FILE", help="where it is written (default: it is printed)")
    add(
        "--top",
        metavar="N",
        type=count,
        default=20,
        help="rows by name in each list of text and html (default 20)",
    )


def _run(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    month = month_of(arguments.month)
    spark = job_session("spark-billing statement")
    with settings(spark, SESSION_SETTINGS):
        if arguments.to is not None:
            place_of(spark, "--to", arguments.to)  # before the work
        ledger = ledger_of(spark, arguments)
        found = monthly_statement(
            lines_in_currency(ledger, month.start, month.end),
            arguments.month,
            as_of=arguments.as_of,
            closed_after=arguments.closed_after,
            top=arguments.top,
            ledger=ledger.version,
        )
        lines = _lines_of_format(found, arguments.format)
        if arguments.to is None:
            say_lines(lines)
        else:
            write_lines(spark, "--to", arguments.to, lines)
            say(f"{found.month}: {money(found.total.amount)} {found.currency} exactly, {arguments.to}")
    return DONE


def _lines_of_format(found: Statement, file_format: str) -> Iterable[str]:
    if file_format == "csv":
        return statement_csv(found)
    return statement_html(found) if file_format == "html" else found.text()


statement = Command(
    name="statement",
    job="statement.py",
    description="The statement of a month, to tie to the invoice: by workspace, model and tag, adjustments apart from "
    "originals, hours final or open, hours without usage, and the total rounded down to the cent once.",
    examples=_EXAMPLES,
    add_arguments=_add_arguments,
    run=_run,
    cannot="the statement cannot be made",
)
