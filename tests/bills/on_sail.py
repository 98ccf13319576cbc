"""Bills a Parquet file of calls on Sail, a Spark Connect server without Java, and writes what it found as JSON.

`python -m tests.bills.on_sail CALLS.parquet FOUND.json`; it needs `pysail` and the Connect client of PySpark.
"""

import json
import sys
from pathlib import Path

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from spark_billing import (
    PriceList,
    bill_lines,
    check_usage,
    hourly_bills,
    model_call_cost,
    model_call_tier,
    price_calls,
)

CALL = ("model", "region", "input_tokens", "output_tokens", "call_time")
PRICED = ("price_id", "tier", "input_cost", "output_cost", "cost")


def as_text(frame):
    """The rows as text, in order: every engine writes these types alike."""
    columns = (F.col(f"`{name}`").cast("string").alias(name) for name in frame.columns)
    rows = (tuple(row) for row in frame.select(*columns).collect())
    return sorted(rows, key=lambda row: [(value is None, value or "") for value in row])


def answers(spark, path):
    """What the public functions say of the calls, by name."""
    prices, usage = PriceList.bundled("emr-serverless-spark", currency="USD"), spark.read.parquet(path)
    lines = bill_lines(usage, prices=prices)
    udfs = (udf(prices)(*CALL).alias(name) for name, udf in (("cost", model_call_cost), ("tier", model_call_tier)))
    found = {
        "bills": hourly_bills(lines),
        "bills without a search": hourly_bills(bill_lines(usage, prices=prices, duplicates=False)),
        "bills by the UDF": hourly_bills(bill_lines(usage, prices=prices, pricing="udf")),
        "lines": lines,
        "reasons": check_usage(usage, prices=prices).groupBy("reject_reason").count(),
        "prices": price_calls(usage, prices=prices).select("request_id", *PRICED),
        "udfs": usage.select("request_id", *udfs),
    }
    return {name: as_text(frame) for name, frame in found.items()}


if __name__ == "__main__":
    from pysail.spark import SparkConnectServer  # what Spark is compared with needs none

    server = SparkConnectServer()
    server.start()
    _, port = server.listening_address
    session = SparkSession.builder.remote(f"sc://localhost:{port}").getOrCreate()
    session.conf.set("spark.sql.session.timeZone", "UTC")
    Path(sys.argv[2]).write_text(json.dumps(answers(session, sys.argv[1])), encoding="utf-8")
