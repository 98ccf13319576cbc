"""Bills tables of Iceberg, Delta or Paimon that get rows between the passes of a run: a script in a Spark of its own.

Run by `test_table_versions.py`. On standard input: the session's settings, a table of each format, other names of the
same tables by which another writer reaches them, and a folder. It prints what came of it, as JSON.
"""

import contextlib
import io
import json
import sys
from pathlib import Path

from pyspark.sql import SparkSession

from spark_billing import PriceList, bill_touched_hours
from spark_billing.commands.hourly_bill import hourly_bill
from spark_billing.core.errors import SparkBillingError
from spark_billing.core.session import ensure_java
from spark_billing.ledger import run
from spark_billing.ledger.billing import bill_table
from spark_billing.usage import files
from spark_billing.usage.mapping import usage_session
from spark_billing.usage.reading import Reading

PRICES = PriceList.bundled("emr-serverless-spark", currency="USD")
COLUMNS = (
    "request_id string, workspace_id string, region string, model string, call_time timestamp, input_tokens bigint, "
    "output_tokens bigint"
)


class Log:
    """A table of usage to which each call adds a row that is billed and one that is rejected."""

    def __init__(self, spark, table_format, names):
        self.spark, self.names, self.rows = spark, names, 0
        using = "" if table_format == "paimon" else f" USING {table_format}"  # a catalog of Paimon's has no other
        spark.sql(f"CREATE TABLE {names[0]} ({COLUMNS}){using}")

    def add(self, hour=0):
        self.rows += 1
        name = self.names[self.rows % len(self.names)]
        rows = ", ".join(
            f"('{model}-{self.rows}', 'w-1', 'cn-hangzhou', '{model}', timestamp'2026-05-01 {hour:02}:00:00Z', 260, 50)"
            for model in ("qwen-plus", "no-such-model")
        )
        self.spark.sql(f"INSERT INTO {name} VALUES {rows}")


@contextlib.contextmanager
def rows_at_each_step(log):
    real = run.step

    def step(spark, what):
        log.add()
        real(spark, what)

    run.step = step
    try:
        yield
    finally:
        run.step = real


@contextlib.contextmanager
def unpinned():
    real = files.pinned
    files.pinned = lambda spark, name: (spark.table(name), None)
    try:
        yield
    finally:
        files.pinned = real


def billed(spark, table, output):
    """What a run says that it has read, and what it has written."""
    given = {"pricing": "native", "group_by_tags": [], "detail": True, "source": "the log"}
    try:
        record = bill_table(spark, PRICES, usage=table, usage_format="table", output=output, **given).record
    except SparkBillingError as error:
        return {"error": type(error).__name__}
    requests = spark.read.parquet(f"{output}/bills").agg({"requests": "sum"}).first()[0]
    details, rejected = (spark.read.parquet(f"{output}/{name}").count() for name in ("priced_calls", "rejected"))
    written = {"billed": requests, "details": details, "rejected": rejected}
    version = json.loads(record.to_json()).get("usage_version")
    return {"version": version, "rows": record.totals.rows, "written": written}


def try_one(spark, table_format, names, output):
    table, log = names[0], Log(spark, table_format, names)
    with rows_at_each_step(log):
        empty = bill_table(spark, PRICES, usage=table, usage_format="table", output=f"{output}/empty").record
    with rows_at_each_step(log):
        pinned = billed(spark, table, f"{output}/pinned")
    at_version = spark.sql(f"SELECT * FROM {table} VERSION AS OF {pinned['version']['version']}").count()
    with rows_at_each_step(log), unpinned():
        as_it_was = billed(spark, table, f"{output}/unpinned")

    said = io.StringIO()
    arguments = ["--usage", table, "--usage-format", "table", "--output", f"{output}/dry", "--currency", "USD"]
    with contextlib.redirect_stdout(said):
        hourly_bill([*arguments, "--dry-run"])
    with usage_session(spark, None):
        usage = Reading(usage_format="table", where="workspace_id = 'w-2'").read(spark, table, PRICES).usage
        plan = usage._jdf.queryExecution().executedPlan().toString()

    log.add(hour=5)
    batch, ledger = spark.table(table).localCheckpoint(), Path(output, "stream", "ledger", "runs")
    each = bill_touched_hours(PRICES, usage=table, usage_format="table", output=f"{output}/stream", duplicates=False)
    with rows_at_each_step(log):
        each(batch, 0)
    records = [json.loads(path.read_text()) for path in sorted(ledger.iterdir())]
    return {
        "empty": [json.loads(empty.to_json()).get("usage_version"), empty.totals.rows["read"]],
        "pinned": pinned,
        "at_version": at_version,
        "now": spark.table(table).count(),
        "unpinned": as_it_was,
        "said": [line for line in said.getvalue().splitlines() if line.startswith("Usage:")],
        "scan": [line for line in plan.splitlines() if "Scan" in line],
        "stream": [record["usage_version"] for record in records],
        "selected": selected(spark, table) if table_format == "iceberg" else None,
        "refused": renamed(spark, table) if table_format != "delta" else None,
    }


def renamed(spark, table):
    spark.sql(f"ALTER TABLE {table} ADD COLUMN note string")
    told = [str(files.pinned(spark, table)[1])]
    spark.sql(f"ALTER TABLE {table} RENAME COLUMN output_tokens TO tokens_out")
    try:
        files.pinned(spark, table)
    except SparkBillingError as error:
        told.append(str(error))
    return told


def selected(spark, table):
    """What can be named within a table, and whether it is pinned; and tables that are only named like that."""
    other = f"{table.rpartition('.')[0]}.tag_usage"
    for text in (
        f"ALTER TABLE {table} CREATE BRANCH b",
        f"ALTER TABLE {table} CREATE TAG t",
        f"DELETE FROM {table}",
        f"CREATE TABLE {other} (a int) USING iceberg",
        f"INSERT INTO {other} VALUES (1)",
    ):
        spark.sql(text)
    found = {}
    for name in (table, f"{table}.branch_b", f"{table}.tag_t", f"{table}.snapshots", other):
        rows, version = files.pinned(spark, name)
        found[name.removeprefix(f"{table.rpartition('.')[0]}.")] = [rows.count() > 0, version is not None]
    return found


def main(given):
    ensure_java()
    builder = SparkSession.builder.master("local[2]")
    for name, value in given["settings"].items():
        builder = builder.config(name, value)
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("OFF")
    found = {
        table_format: try_one(spark, table_format, names, f"{given['output']}/{table_format}")
        for table_format, names in given["tables"].items()
    }
    print("\n" + json.dumps(found))


if __name__ == "__main__":
    main(json.load(sys.stdin))
