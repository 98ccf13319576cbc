"""Makes a usage table to measure on: one day of calls in Parquet, the same rows for the same --rows.

Token counts are log-normal, so that most calls are small and every tier has some; workspaces are skewed, the largest
has a third of all calls; request ids are 32 hexadecimal characters. Every row can be billed and no request is there
twice. `--order time` has the rows in the order of their calls, as a log that is appended to; `--order random` has them
anyhow, which makes every grouping by hour work harder.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_billing.core.session import local_session

WORKSPACES = 1_000
DAY = 1_775_606_400  # 2026-04-08T08:00+08:00 in epoch seconds: commercial billing has started
REGIONS = ("cn-beijing", "cn-shanghai", "cn-hangzhou", "cn-shenzhen", "ap-southeast-1", "us-east-1")
ROWS_PER_FILE = 5_000_000


def usage(spark: SparkSession, rows: int, order: str) -> DataFrame:
    """`rows` calls in the columns of `schemas.USAGE`."""

    def uniform(salt: int) -> Column:  # in (0, 1), from the row number alone
        return (F.pmod(F.xxhash64("id", F.lit(salt)), F.lit(1 << 30)) + 0.5) / float(1 << 30)

    def normal(salt: int) -> Column:  # Box-Muller
        return F.sqrt(-2 * F.log(uniform(salt))) * F.cos(uniform(salt + 1) * 6.283185307179586)

    workspace = F.floor(WORKSPACES * F.pow(uniform(1), 6)).cast("int")
    region = F.element_at(F.array(*(F.lit(r) for r in REGIONS)), F.pmod(workspace, F.lit(len(REGIONS))) + 1)
    embedding = (uniform(2) < 0.2) & (region == "cn-beijing")
    tokens = F.exp(F.lit(7.5) + normal(3) * 1.6).cast("bigint")
    through_day = F.col("id") / rows if order == "time" else uniform(7)
    return spark.range(0, rows, 1, max(1, -(-rows // ROWS_PER_FILE))).select(
        F.md5(F.col("id").cast("string")).alias("request_id"),
        F.format_string("ws-%05d", workspace).alias("workspace_id"),
        region.alias("region"),
        F.when(embedding, "text-embedding-v4").otherwise("qwen-plus").alias("model"),
        F.timestamp_micros((F.lit(DAY * 1_000_000) + through_day * 86_400_000_000).cast("bigint")).alias("call_time"),
        F.greatest(F.lit(1), F.least(tokens, F.lit(1_000_000))).cast("bigint").alias("input_tokens"),
        F.when(~embedding, F.exp(F.lit(5.0) + normal(5)).cast("bigint")).alias("output_tokens"),
    )


def generated(spark: SparkSession, folder: Path, rows: int, order: str) -> str:
    """The path of the table with so many rows, made if it is not there yet."""
    path = folder / f"usage-{order}-{rows}"
    if not (path / "_SUCCESS").exists():
        print(f"generating {rows:,} calls in {path}", file=sys.stderr)
        usage(spark, rows, order).write.mode("overwrite").parquet(str(path))
    return str(path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--order", choices=("time", "random"), default="time")
    parser.add_argument("--data", type=Path, required=True, help="folder of the generated tables")
    arguments = parser.parse_args()
    print(generated(local_session("generate"), arguments.data, arguments.rows, arguments.order))
