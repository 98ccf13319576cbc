"""What the job costs on a table: a first bill, the same again (which adds nothing), and one with late calls.

In one process, in turn; the job reads, bills, proves and publishes. The record of each run must have all calls, and the
ledger must gain what the run should add.

    uv run --group benchmarks python -m tests.benchmarks.rerun --rows 10000000 --data /tmp/usage
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from spark_billing import PriceList
from spark_billing.core.session import local_session
from spark_billing.ledger.billing import bill_table
from tests.benchmarks.bills import FLOOR, Contest, run
from tests.benchmarks.generate import generated
from tests.benchmarks.one_machine import CORES
from tests.benchmarks.rounds import ratio, report, spread

FIRST, AGAIN, CHANGED = "a first bill", "the same again", "with every price corrected"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000, help="calls in the table (default 10 million)")
    parser.add_argument("--order", choices=("time", "random"), default="random", help="order of the rows (generate.py)")
    parser.add_argument("--data", type=Path, required=True, help="folder of the generated tables")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-dedup", action="store_true", help="do not look for repeats")
    parser.add_argument("--json", type=Path, help="where the figures go as JSON")
    arguments = parser.parse_args()

    spark = local_session("benchmark", {"spark.master": f"local[{CORES}]", "spark.driver.memory": "8g"})
    path = generated(spark, arguments.data, arguments.rows, arguments.order)
    floor = Contest(spark, path, arguments.rows).floor
    lists = {k: PriceList.bundled("emr-serverless-spark", currency="USD", tokens_per_k=k) for k in (1000, 1024)}

    def timed(output: str, tokens_per_k: int) -> tuple[float, dict[str, Any]]:
        options: dict[str, Any] = {"pricing": "native", "group_by_tags": [], "detail": False, "allow_retractions": True}
        start = time.perf_counter()
        given = {"usage": path, "output": output, "duplicates": not arguments.no_dedup, **options}
        outcome = bill_table(spark, lists[tokens_per_k], **given)
        seconds = time.perf_counter() - start
        if outcome.record["totals"]["rows"]["billed"] != arguments.rows:
            raise SystemExit(f"billed {outcome.record['totals']['rows']}")
        return seconds, outcome.record["ledger"]["reasons"]

    seconds: dict[str, list[float]] = {FLOOR: [], FIRST: [], AGAIN: [], CHANGED: []}
    for turn in range(arguments.rounds + 1):  # the first is the warm-up
        with tempfile.TemporaryDirectory() as scratch:
            took = {FLOOR: run(floor)}
            for name, tokens_per_k, reasons in (
                (FIRST, 1000, {"original"}),
                (AGAIN, 1000, set()),
                (CHANGED, 1024, {"price_change"}),
            ):
                took[name], found = timed(f"{scratch}/bills", tokens_per_k)
                if set(found) != reasons:
                    raise SystemExit(f"{name}: the run added {found}")
            shutil.rmtree(f"{scratch}/bills")
        print(", ".join(f"{name} {one:.2f} s" for name, one in took.items()), file=sys.stderr)
        for name, one in took.items() if turn else ():
            seconds[name].append(one)
    rows = [
        {"": name, **spread(times), "to floor": ratio(times, seconds[FLOOR]), "to first": ratio(times, seconds[FIRST])}
        for name, times in seconds.items()
    ]
    measured = {"calls": arguments.rows, "order": arguments.order, "Spark": spark.version, "cores": CORES}
    report(rows, {**measured, "repeats looked for": not arguments.no_dedup}, arguments.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
