"""What copies cost: the guard where many calls have rivals, and one id with very many copies.

The guard: a table of calls is billed, and some of them come again. With more tokens the bills of their hours fall,
which what is left out since must explain: it is compared, kept, and read by the next run. The guard is what such a run
takes longer than one that keeps nothing and lowers bills by leave; and what a run over standing rivals takes longer
than one over identical copies. Then one id has all the calls of a table, near each other or spread over many lookbacks:
twice as many must take twice as long.

    uv run --group benchmarks python -m tests.benchmarks.copies --rows 5000000 --rivals 100000 --data /tmp/usage
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_billing import PriceList, check_usage
from spark_billing.core.session import local_session
from spark_billing.ledger import settling
from spark_billing.ledger.billing import bill_table
from spark_billing.ledger.run_record import RunRecord
from tests.benchmarks.generate import generated
from tests.benchmarks.one_machine import CORES
from tests.benchmarks.rounds import ratio, report, spread

IDENTICAL, AGAIN = "identical copies, nothing changes", "standing rivals, nothing changes"
UNGUARDED, RIVALS = "rivals come, no guard", "rivals come"
COPIES = (250_000, 500_000, 1_000_000)
SPREADS = {"near each other": 1, "over 1,000 lookbacks": 1_000}


def with_copies(spark: SparkSession, path: str, copies: int, more: int) -> DataFrame:
    """A generated table, and some of its calls again, a minute later if they have more tokens."""
    calls = spark.read.parquet(path)
    some = F.pmod(F.xxhash64("request_id", F.lit(11)), F.lit(calls.count())) < copies
    again = calls.filter(some & (F.col("input_tokens") + more <= 1_000_000))
    minute = F.expr("INTERVAL 1 MINUTE")
    fuller = {"input_tokens": F.col("input_tokens") + more, "call_time": F.col("call_time") + minute}
    return calls.unionByName(again.withColumns(fuller) if more else again)


def guard(spark: SparkSession, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Seconds of a run over a ledger of the table without copies, once they have come."""
    first = generated(spark, arguments.data, arguments.rows, "random")
    usages = {more: f"{first}-{arguments.rivals}-{'fuller' if more else 'identical'}" for more in (0, 1)}
    for more, path in usages.items():
        if not (Path(path) / "_SUCCESS").exists():
            with_copies(spark, first, arguments.rivals, more).write.mode("overwrite").parquet(path)
    prices = PriceList.bundled("emr-serverless-spark", currency="USD")

    def run(usage: str, output: str, **options: Any) -> tuple[float, RunRecord]:
        start = time.perf_counter()
        record = bill_table(spark, prices, usage=usage, output=output, source="calls", **options).record
        return time.perf_counter() - start, record

    def turn(ledger: str, scratch: str) -> dict[str, float]:
        took = {}
        for name, more in ((IDENTICAL, 0), (UNGUARDED, 1), (RIVALS, 1)):
            output = f"{scratch}/{more}-{name == RIVALS}"
            shutil.copytree(ledger, output)
            if name == UNGUARDED:  # what explains a fall is neither kept nor looked for, and the bills fall by leave
                with mock.patch.object(settling, "settle_conflicts", return_value=None):
                    took[name], record = run(usages[more], output, allow_retractions=True)
            else:
                took[name], record = run(usages[more], output)
            rejected, left_out = record.totals.rejected, sum(sums.requests for sums in (record.left_out or {}).values())
            if record.totals.rows["billed"] != arguments.rows or len(rejected) != 1:
                raise SystemExit(f"{name}: billed {record.totals.rows}, rejected {rejected}")
            if left_out != (rejected["conflicting_request"] if name == RIVALS else 0):
                raise SystemExit(f"{name}: {left_out} are kept as left out, of {rejected}")
        took[AGAIN], record = run(usages[1], output)
        if record.ledger.hours or record.left_out:
            raise SystemExit(f"the same again added {record.ledger}")
        return took

    seconds: dict[str, list[float]] = {name: [] for name in (IDENTICAL, AGAIN, UNGUARDED, RIVALS)}
    with tempfile.TemporaryDirectory() as ledger:
        run(first, f"{ledger}/bills")
        for round_ in range(arguments.rounds + 1):  # the first is the warm-up
            with tempfile.TemporaryDirectory() as scratch:
                took = turn(f"{ledger}/bills", scratch)
            print(", ".join(f"{name} {one:.2f} s" for name, one in took.items()), file=sys.stderr)
            for name, one in took.items() if round_ else ():
                seconds[name].append(one)
    if not arguments.rounds:
        return []
    base = {AGAIN: IDENTICAL, RIVALS: UNGUARDED}
    return [
        {"": name, **spread(times), "to the line above": ratio(times, seconds[base[name]]) if name in base else None}
        for name, times in seconds.items()
    ]


def one_id(spark: SparkSession, rounds: int) -> list[dict[str, Any]]:
    """Seconds to tell the copies of one call apart, by how many there are."""
    prices, rows = PriceList.bundled("emr-serverless-spark", currency="USD"), []
    for name, lookbacks in SPREADS.items():
        seconds: dict[int, list[float]] = {copies: [] for copies in COPIES}
        for turn in range(rounds + 1):
            for copies in COPIES:
                at = F.lit(1_775_606_400) + (F.col("id") * (lookbacks * 86_400) / copies).cast("bigint")
                calls = spark.range(0, copies, 1, CORES).select(
                    F.lit("r-1").alias("request_id"),
                    F.lit("w-1").alias("workspace_id"),
                    F.lit("cn-hangzhou").alias("region"),
                    F.lit("qwen-plus").alias("model"),
                    F.timestamp_seconds(at).alias("call_time"),
                    (F.pmod(F.xxhash64("id"), F.lit(100_000)) + 1).alias("input_tokens"),
                    F.lit(50).cast("bigint").alias("output_tokens"),
                )
                start = time.perf_counter()
                checked = check_usage(calls, prices=prices).groupBy("reject_reason").count().collect()
                took = time.perf_counter() - start
                found = {row["reject_reason"]: row["count"] for row in checked}
                if sum(found.values()) != copies or not 1 <= found[None] <= lookbacks + 1:
                    raise SystemExit(f"{copies} copies {name}: {found}")
                print(f"{copies:,} copies {name}: {took:.2f} s, {found}", file=sys.stderr)
                if turn:
                    seconds[copies].append(took)
        rows += [
            {"one id": f"{copies:,} copies {name}", **spread(times), "to the fewest": ratio(times, seconds[COPIES[0]])}
            for copies, times in seconds.items()
        ]
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5_000_000, help="calls in the table (default 5 million)")
    parser.add_argument("--rivals", type=int, default=100_000, help="of which so many come again (default 100,000)")
    parser.add_argument("--data", type=Path, required=True, help="folder of the generated tables")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--part", choices=("guard", "one-id"), help="only this (default: both)")
    parser.add_argument("--json", type=Path, help="where the figures go as JSON")
    arguments = parser.parse_args()
    spark = local_session("benchmark", {"spark.master": f"local[{CORES}]", "spark.driver.memory": "8g"})
    on = {"Spark": spark.version, "cores": CORES}
    if arguments.part != "one-id":
        measured = {"calls": arguments.rows, "rivals": arguments.rivals, **on}
        figures = guard(spark, arguments)
        if figures:
            report(figures, measured, arguments.json)
    if arguments.part != "guard":
        report(one_id(spark, arguments.rounds), on, None)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
