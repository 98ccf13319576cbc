"""What a small bill costs: from spark-submit to the written bill, against a Spark job that reads and writes the file.

Both are submitted to local[2] in turn, each a process of its own from start to exit; the package is a zip of the
checkout in --py-files. The bill of each round must have all calls, and the same amount.

    uv run --group benchmarks python -m tests.benchmarks.small_job
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from decimal import Decimal
from pathlib import Path

import pyarrow.dataset
import pyspark

import spark_billing
from spark_billing.core.session import ensure_java, local_session
from tests.benchmarks.bills import Contest
from tests.benchmarks.fresh import fresh
from tests.benchmarks.generate import generated
from tests.benchmarks.one_machine import CORES
from tests.benchmarks.rounds import ratio, report, spread

EMPTY, BILL = "read and write the file", "our bill"
EMPTY_JOB = """import sys
from pyspark.sql import SparkSession
SparkSession.builder.getOrCreate().read.parquet(sys.argv[1]).write.parquet(sys.argv[2])
"""
PACKAGE = Path(spark_billing.__file__).parent


def make(data: Path, rows: int) -> tuple[str, Decimal]:
    """The table and what its bills come to."""
    spark = local_session("generate")
    path = generated(spark, data, rows, "random")
    return path, sum(bill["amount"] for bill in Contest(spark, path, rows).ours().collect())


def submit(*arguments: str) -> float:
    """Seconds of a spark-submit until it ended; what it said, if it failed."""
    command = [str(Path(pyspark.__file__).parent / "bin" / "spark-submit"), "--master", f"local[{CORES}]", *arguments]
    environment = {**os.environ, "PYSPARK_PYTHON": sys.executable}
    environment.pop("PYTHONPATH", None)  # the job must find the package in the zip
    start = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000, help="calls in the table (default 10,000)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="where the figures go as JSON")
    arguments = parser.parse_args()

    ensure_java()
    seconds: dict[str, list[float]] = {EMPTY: [], BILL: []}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        usage, amount = fresh(make, folder, arguments.rows)
        (folder / "empty.py").write_text(EMPTY_JOB, encoding="utf-8")
        with zipfile.ZipFile(folder / "spark_billing.zip", "w") as package:
            for file in PACKAGE.rglob("*"):
                package.write(file, file.relative_to(PACKAGE.parent))
        ours = ["--py-files", str(folder / "spark_billing.zip"), str(PACKAGE.parent / "jobs" / "hourly_bill.py")]
        for turn in range(arguments.rounds):
            copy, output = str(folder / f"copy-{turn}"), str(folder / f"bill-{turn}")
            seconds[EMPTY].append(submit(str(folder / "empty.py"), usage, copy))
            seconds[BILL].append(submit(*ours, "--usage", usage, "--output", output, "--currency", "USD"))
            bills = pyarrow.dataset.dataset(f"{output}/bills").to_table(["requests", "amount"]).to_pylist()
            found = tuple(sum(bill[name] for bill in bills) for name in ("requests", "amount"))
            if found != (arguments.rows, amount):
                print(f"billed {found}, not {(arguments.rows, amount)}", file=sys.stderr)
                return 1
            print(", ".join(f"{name} {times[-1]:.2f} s" for name, times in seconds.items()), file=sys.stderr)
    rows = [{"": name, **spread(times), "to first": ratio(times, seconds[EMPTY])} for name, times in seconds.items()]
    report(rows, {"calls": arguments.rows, "Spark": pyspark.__version__, "cores": CORES}, arguments.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
