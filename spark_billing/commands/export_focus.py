"""The job that exports the ledger as FOCUS rows."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Optional
from uuid import uuid4

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_billing.commands.arguments import add_ledger_arguments, ledger_of, month_of, read_prices
from spark_billing.commands.command import DONE, Command, say
from spark_billing.core.errors import OutputError, TotalsError, UsageError
from spark_billing.core.hours import parse_month
from spark_billing.core.money import add, money
from spark_billing.core.published import PROVIDER
from spark_billing.core.schemas import AMOUNT, TOTAL_TOKENS
from spark_billing.core.session import SESSION_SETTINGS, job_session, settings
from spark_billing.core.storage import Storage
from spark_billing.core.text import one_line, printable, table
from spark_billing.focus.files import FORMATS, read_focus, write_focus
from spark_billing.focus.rows import VERSIONS, billing_month, to_focus
from spark_billing.focus.rules import examine
from spark_billing.ledger.ledger import Ledger
from spark_billing.ledger.reading import lines_between

_EXAMPLES = """
examples:
  # everything that was ever billed, FOCUS 1.2, Parquet
  {prog} --output bills --to focus --billing-account 1234567890123456

  # the invoice of May as CSV: what May's hours cost, and what was corrected in April after its invoice
  {prog} --output bills --to focus-2026-05 --format csv --billing-account 1234567890123456 --month 2026-05 \\
      --closed-month 2026-04=2026-05-03T12:00+08:00 --invoice-id 2026-05=INV-0005

exit codes:
  0 exported
  2 arguments or ledger refused (nothing was written)
  1 anything else, such as rows that break a rule (nothing was exported)
"""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_ledger_arguments(parser)
    add = parser.add_argument
    add("--to", metavar="DIR", required=True, help="where the export is written: a folder that is new or empty")
    add("--format", choices=FORMATS, default="parquet", help="of the files (default parquet)")
    add("--focus-version", choices=VERSIONS, default="1.2", help="of the specification (default 1.2)")
    add(
        "--month",
        action="append",
        default=[],
        help="a billing month in UTC+8, such as 2026-04; may be given again (default: all)",
    )
    add("--billing-account", metavar="ID", required=True, help="the account that gets the invoice")
    add("--billing-account-name", metavar="NAME", help="its display name (default: none)")
    add("--invoice-issuer", metavar="NAME", default=PROVIDER, help=f"who sends the invoice (default {PROVIDER})")
    add(
        "--closed-month",
        metavar="MONTH[=INSTANT]",
        action="append",
        default=[],
        help="a month whose invoice is issued, and when: what was added to it from then on is a Correction in the "
        "billing month of its run. Without the instant: the adjustments made after the month's end",
    )
    add("--invoice-id", metavar="MONTH=ID", action="append", default=[], help="the invoice of a billing month")
    add(
        "--invoice-detail-id",
        metavar="MONTH=ID",
        action="append",
        default=[],
        help="and the item on it, which FOCUS 1.4 asks for",
    )
    add(
        "--tag",
        metavar="KEY=NAME",
        action="append",
        default=[],
        help="call a tag that the bill is grouped by NAME in Tags (default: by its key)",
    )
    add("--price-list", metavar="FILE.csv", help="your own prices, whose region names are used")


def _run(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    months = [_month(text) for text in dict.fromkeys(arguments.month)]
    closed = _closed_months(arguments.closed_month)
    options: dict[str, Any] = {
        "billing_account_id": arguments.billing_account,
        "billing_account_name": arguments.billing_account_name,
        "invoice_issuer": arguments.invoice_issuer,
        "version": arguments.focus_version,
        "closed_months": closed,
        "invoice_ids": _named_values("--invoice-id", arguments.invoice_id),
        "invoice_detail_ids": _named_values("--invoice-detail-id", arguments.invoice_detail_id),
        "tags": _named_values("--tag", arguments.tag),
    }
    if arguments.price_list:
        options["region_names"] = read_prices("--price-list", arguments.price_list).region_names
    spark = job_session("spark-billing focus")
    with settings(spark, SESSION_SETTINGS):
        ledger = ledger_of(spark, arguments)
        lines = _of_months(ledger, months, closed)
        by_month = _totals_by_month(lines, closed)
        if not by_month:
            raise UsageError(
                f"the ledger in {ledger.where} has no line of {', '.join(months) or 'any month'} to export"
            )
        _export(lines, by_month, arguments.to, ledger.where, arguments.format, {**options, "ledger": ledger.version})
    say("\n".join(_printed(by_month, ledger, arguments)))
    return DONE


def _of_months(ledger: Ledger, months: Sequence[str], closed: Mapping[str, Optional[str]]) -> DataFrame:
    """The ledger lines of some billing months, or of all: of their own hours, and what corrects closed months."""
    if not months:
        return lines_between(ledger, None, None)
    periods = [parse_month(month) for month in (*months, *closed)]
    start, end = min(start for start, _ in periods), max(end for _, end in periods)
    lines = lines_between(ledger, start, end)
    return lines.filter(billing_month(closed).cast("string").isin([f"{month}-01" for month in months]))


def _totals_by_month(lines: DataFrame, closed: Mapping[str, Optional[str]]) -> list[Any]:
    """What the ledger's lines come to, by billing month."""
    corrected = billing_month(closed) != billing_month()
    return (
        lines.groupBy(F.substring(billing_month(closed).cast("string"), 1, 7).alias("month"), "currency")
        .agg(
            F.count(F.lit(1)).alias("rows"),
            F.count(F.when(corrected, 1)).alias("corrections"),
            F.sum(F.col("tokens").cast(TOTAL_TOKENS)).cast(TOTAL_TOKENS).alias("tokens"),
            F.sum("amount").cast(AMOUNT).alias("cost"),
        )
        .orderBy("month")
        .collect()
    )


def _export(
    lines: DataFrame, by_month: Sequence[Any], to: str, output: str, file_format: str, options: Mapping[str, Any]
) -> None:
    """Write the rows beside their place, read them back, and put them there if they are right."""
    spark = lines.sparkSession
    rows = to_focus(lines, **options)
    storage, name = _place(spark, to, output)
    draft = f"{name}.writing-{uuid4().hex}"
    try:
        write_focus(rows, storage.path(draft), file_format)
        _prove(read_focus(spark, storage.path(draft), file_format), by_month, options["version"])
        _require_empty(storage, name)
        storage.delete_if_empty(name)  # a rename onto a folder would end in it
        storage.move(draft, name)
    finally:
        storage.delete(draft)


def _prove(written: DataFrame, by_month: Sequence[Any], version: str) -> None:
    """`TotalsError` if what was written breaks a rule, or is not what the ledger's lines come to."""
    found = examine(written, version)
    if found.broken:
        first = found.broken[0]
        raise TotalsError(
            f"the rows break {len(found.broken)} rules of FOCUS {version}, the first: {first.rule} ({first.count:,} "
            f"do not, such as {printable(first.example)}). Nothing was exported; this is a mistake in spark_billing."
        )
    ledger = (
        sum(row["rows"] for row in by_month),
        sum(int(row["tokens"]) for row in by_month),
        add(*(row["cost"] for row in by_month)),
    )
    export = (found.rows, found.tokens, found.cost)
    if ledger != export:
        said, is_there = (
            f"{rows:,} lines, {tokens:,} tokens, {money(cost)}" for rows, tokens, cost in (ledger, export)
        )
        raise TotalsError(f"the ledger has {said}; what was written has {is_there}. Nothing was exported.")


def _place(spark: SparkSession, to: str, output: str) -> tuple[Storage, str]:
    """The folder above the export, and the export's name in it; `OutputError` if something is there."""
    here, there = (f"{path.rstrip('/')}/" for path in (to, output))
    if here.startswith(there) or there.startswith(here):
        raise OutputError(f"--to {to} and the ledger in {output} lie in one another; give a folder elsewhere")
    Storage(spark, to)  # which refuses patterns and files
    above, slash, name = to.rstrip("/").rpartition("/")
    storage = Storage(spark, above or ("/" if slash else "."))
    _require_empty(storage, name)
    return storage, name


def _require_empty(storage: Storage, name: str) -> None:
    if storage.names(name):
        raise OutputError(f"--to {storage.path(name)} is not empty; give a new folder, or empty that one")


def _printed(by_month: Sequence[Any], ledger: Ledger, arguments: argparse.Namespace) -> Iterator[str]:
    rows = sum(row["rows"] for row in by_month)
    yield f"FOCUS {arguments.focus_version}: {rows:,} rows in {arguments.to.rstrip('/')}, one for each ledger line"
    yield f"From {one_line(ledger.version)}"
    yield ""
    cells = [("billing month (UTC+8)", "rows", "corrections", "tokens", by_month[0]["currency"])]
    for row in by_month:
        counts = (f"{row[name]:,}" for name in ("rows", "corrections", "tokens"))
        cells.append((row["month"], *counts, money(row["cost"])))
    yield from table(cells)
    yield ""
    total = add(*(row["cost"] for row in by_month))
    yield f"Total: {money(total)} {by_month[0]['currency']}"
    yield "Read back and checked: it keeps the rules of FOCUS, and rows, tokens and cost are those of the ledger."


def _closed_months(texts: Sequence[str]) -> dict[str, Optional[str]]:
    """From MONTH or MONTH=INSTANT."""
    closed: dict[str, Optional[str]] = {}
    for text in texts:
        month, equals, instant = text.partition("=")
        if month in closed:
            raise UsageError(f"--closed-month {month} is given twice")
        closed[_month(month)] = instant if equals else None
    return closed


def _month(text: str) -> str:
    month_of(text)
    return text


def _named_values(argument: str, texts: Sequence[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"{argument} {text!r} is not of the form NAME=VALUE")
        if name in pairs:
            raise UsageError(f"{argument} is given twice for {name}")
        pairs[name] = value
    return pairs


export_focus = Command(
    name="focus",
    job="export_focus.py",
    description="Export what was billed as FOCUS rows, the open format of cost data. One row for each ledger line: the "
    "job proves that the costs add up, and checks the rules of the specification on what it has written.",
    examples=_EXAMPLES,
    add_arguments=_add_arguments,
    run=_run,
    cannot="the ledger cannot be exported",
)
