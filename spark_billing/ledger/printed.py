"""The history of a bill as a person reads it."""

from __future__ import annotations

from collections.abc import Iterator

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_billing.core.hours import instant_label
from spark_billing.core.money import add, money
from spark_billing.core.text import printable, table


def printed_history(lines: DataFrame, workspace_id: str, hour: str) -> Iterator[str]:
    """The history as a person reads it: a line a row, the runs apart, the sum at the end."""
    rows = lines.withColumn("at", F.unix_seconds("run_at")).collect()
    if not rows:
        yield f"Nothing was ever billed to {printable(workspace_id)} in {hour}."
        return
    currency = rows[0]["currency"]
    cells = [("run", "at", "why", "price", "tokens of", "calls", "tokens", "per 1,000", currency)]
    last = None
    for row in rows:
        run = (str(row["run"]), instant_label(row["at"])) if row["run"] != last else ("", "")
        last = row["run"]
        counts = (f"{row['requests']:,}", f"{row['tokens']:,}", f"{row['price_per_1k'].normalize():f}")
        why = row["reason"] or row["entry"]
        cells.append((*run, why, row["price_id"], row["token_type"], *counts, money(row["amount"])))
    total = add(*(row["amount"] for row in rows))
    yield f"Every line of {printable(workspace_id)} in {hour} (UTC+8)"
    yield ""
    yield from table(cells)
    yield ""
    yield f"Owed: {money(total)} {currency}"
