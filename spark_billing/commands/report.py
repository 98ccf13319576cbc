"""The job that writes a report to look at."""

from __future__ import annotations

import argparse
from typing import Optional

from spark_billing.commands.arguments import add_ledger_arguments, ledger_of, month_of, period_of, whole_number
from spark_billing.commands.command import DONE, Command, say
from spark_billing.commands.files import place_of, read_text, write_lines
from spark_billing.core.errors import UsageError
from spark_billing.core.hours import Period
from spark_billing.core.money import money
from spark_billing.core.session import SESSION_SETTINGS, job_session, settings
from spark_billing.estimates.expected import Expected
from spark_billing.provider.comparison import Reconciliation
from spark_billing.reports.charts import require_matplotlib
from spark_billing.reports.report import read_report
from spark_billing.reports.report_page import report_html

_EXAMPLES = """
examples:
  # all that was billed
  {prog} --output bills --to-file report.html

  # May, beside what was expected and what the provider's bill says
  {prog} --output bills --to-file 2026-05.html --month 2026-05 \\
      --estimate estimate.json --reconciliation reconciliation.json

exit codes:
  0 written
  2 arguments, ledger or files refused, or matplotlib is missing (nothing was written)
  1 anything else
"""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_ledger_arguments(parser)
    add = parser.add_argument
    add("--to-file", metavar="FILE.html", required=True, help="where it is written, in place of what is there")
    add("--month", help="the UTC+8 month, such as 2026-04 (default: all that was billed)")
    add("--from", metavar="HOUR", help="or the first UTC+8 hour, such as 2026-04-08T00")
    add("--to", metavar="HOUR", help="and the UTC+8 hour after the last one")
    add("--estimate", metavar="FILE.json", help="what it was expected to cost")
    add("--reconciliation", metavar="FILE.json", help="what the provider's bill says, and why it differs")
    add("--top", metavar="N", type=whole_number(1, 4), default=10, help="rows by name in each list (default 10)")


def _run(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    require_matplotlib()
    period = _period_of_report(arguments)
    spark = job_session("spark-billing report")
    with settings(spark, SESSION_SETTINGS):
        place_of(spark, "--to-file", arguments.to_file)  # before the work
        estimate = reconciliation = None
        if arguments.estimate is not None:
            estimate = Expected.parse(read_text(spark, "--estimate", arguments.estimate))
        if arguments.reconciliation is not None:
            reconciliation = Reconciliation.parse(read_text(spark, "--reconciliation", arguments.reconciliation))
        ledger = ledger_of(spark, arguments)
        made = read_report(ledger, period, top=arguments.top, estimate=estimate, reconciliation=reconciliation)
        write_lines(spark, "--to-file", arguments.to_file, report_html(made))
    say(f"{made.period} (UTC+8): {money(made.total.amount)} {made.currency}, {arguments.to_file}")
    return DONE


def _period_of_report(arguments: argparse.Namespace) -> Optional[Period]:
    period = period_of(arguments)
    if arguments.month is None:
        return period
    if period is not None:
        raise UsageError("--month takes the place of --from and --to: give either")
    return month_of(arguments.month)


report = Command(
    name="report",
    job="report.py",
    description="Write what was billed as one HTML file to look at: the total, the trend by day and hour, the most "
    "expensive workspaces, regions, models, tiers and tags, adjustments and rejected rows. The file stands alone: no "
    "script, nothing loaded from anywhere.",
    examples=_EXAMPLES,
    add_arguments=_add_arguments,
    run=_run,
    cannot="the report cannot be made",
)
