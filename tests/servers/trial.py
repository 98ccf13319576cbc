"""Tries catalogs in one session: a namespace, a table, two appends, a look at what was before, a view.

Run as a script on some engine: it reads the settings and what to try from standard input, and says in JSON what it saw.
"""

import json
import sys

from pyspark.errors import AnalysisException, UnsupportedOperationException
from pyspark.sql import SparkSession

from spark_billing.core.session import local_session

VERSIONS = {
    "iceberg": "SELECT snapshot_id FROM {table}.snapshots ORDER BY committed_at",
    "delta": "DESCRIBE HISTORY {table} LIMIT 2",  # the newest first, and the oldest is CREATE TABLE
    "paimon": "SELECT snapshot_id FROM {namespace}.`t$snapshots` ORDER BY snapshot_id",
}


def attempt(spark: SparkSession, table_format: str, catalog: str) -> dict[str, object]:
    namespace = f"{catalog}.billing_{catalog}"  # two catalogs may share a metastore
    table = f"{namespace}.t"
    spark.sql(f"CREATE NAMESPACE {namespace}")
    spark.sql(f"CREATE TABLE {table} (run BIGINT, amount DECIMAL(38, 12)) USING {table_format}")
    for run in (1, 2):
        spark.sql(f"INSERT INTO {table} VALUES ({run}, 0.1)")
    found = spark.sql(VERSIONS[table_format].format(namespace=namespace, table=table)).collect()
    versions = sorted(row[0] for row in found) if table_format == "delta" else [row[0] for row in found]
    before = spark.sql(f"SELECT * FROM {table} VERSION AS OF {versions[0]}")
    seen = {
        "versions": len(versions),
        "now": sorted(row.run for row in spark.table(table).collect()),
        "before": sorted(row.run for row in before.collect()),
    }
    try:
        spark.sql(f"CREATE VIEW {namespace}.v AS SELECT sum(amount) AS amount FROM {table}")
        (row,) = spark.sql(f"SELECT * FROM {namespace}.v").collect()
        seen["view"] = str(row.amount)
    except (AnalysisException, UnsupportedOperationException):  # no views in this catalog
        seen["view"] = None
    return seen


if __name__ == "__main__":
    given = json.load(sys.stdin)
    spark = local_session("catalogs", {"spark.master": "local[2]", **given["settings"]})
    seen = {name: attempt(spark, table_format, name) for name, table_format in given["catalogs"].items()}
    print("\n" + json.dumps({"spark": spark.version, "seen": seen}))
    spark.stop()
