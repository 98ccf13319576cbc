"""Whether a call costs the same in a large table as in a small one, and whether memory stays where it is.

Each size is billed by each contestant in a process of its own (driver memory --memory), after a warm-up on the
smallest table. What is timed also counts the calls and adds up the amounts: all calls must be there, and the amounts
of the contestants equal. Sizes and contestants take turns; the ratios are those within a round.

    uv run --group benchmarks python -m tests.benchmarks.scale --rows 10000000 50000000 500000000 --data /tmp/usage

Memory is the most that was resident, of the JVM and of Python; it is blank where there is no /proc (macOS). A table
larger than the page cache is read from disk, a smaller one from memory.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from pyspark.sql import Observation
from pyspark.sql import functions as F

from spark_billing.core.session import local_session
from tests.benchmarks.bills import FLOOR, Contest, run
from tests.benchmarks.fresh import fresh, in_gib, jvm_pid, memory
from tests.benchmarks.generate import generated
from tests.benchmarks.one_machine import CORES
from tests.benchmarks.rounds import ratio, report, spread

NAMES = (FLOOR, "our bill", "our bill, duplicates looked for")
MILLION = 1_000_000


def make(data: Path, rows: int, order: str) -> str:
    return generated(local_session("generate"), data, rows, order)


def measure(name: str, tables: dict[int, str], rows: int, heap: str) -> dict[str, Any]:
    """One contestant on the table of so many rows: its seconds, what it counted, and the memory of its processes."""
    spark = local_session("scale", {"spark.master": f"local[{CORES}]", "spark.driver.memory": heap})
    for calls in (min(tables), rows):  # the first is the warm-up
        kind, contestant = Contest(spark, tables[calls], calls).contestants()[name]
        sums = {"calls": F.sum("calls")} if kind == "calls" else {"calls": F.sum("requests"), "amount": F.sum("amount")}
        totals = Observation()
        observed = [column.alias(total) for total, column in sums.items()]
        seconds = run(lambda: contestant().observe(totals, *observed))  # noqa: B023
    found = {"seconds": seconds, "jvm": memory(jvm_pid(spark), "VmHWM"), "python": memory(os.getpid(), "VmHWM")}
    return {**found, **totals.get}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000_000, 50_000_000], help="calls in the tables")
    parser.add_argument("--order", choices=("time", "random"), default="random", help="order of the rows (generate.py)")
    parser.add_argument("--data", type=Path, required=True, help="folder of the generated tables")
    parser.add_argument("--memory", default="4g", help="of the driver, as Spark takes it (default 4g)")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--json", type=Path, help="where the figures go as JSON")
    arguments = parser.parse_args()

    sizes = sorted(arguments.rows)
    tables = {rows: fresh(make, arguments.data, rows, arguments.order) for rows in sizes}
    runs: dict[tuple[str, int], list[dict[str, Any]]] = {(name, rows): [] for name in arguments.only for rows in sizes}
    amounts: dict[int, Any] = {}
    for turn in range(arguments.rounds):
        for name, rows in runs:
            found = fresh(measure, name, tables, rows, arguments.memory)
            print(f"round {turn + 1}: {found['seconds']:7.2f} s  {rows:,} calls, {name}", file=sys.stderr)
            amount = found.get("amount")
            if found["calls"] != rows or (amount is not None and amounts.setdefault(rows, amount) != amount):
                print(f"{name}: {found['calls']:,} calls for {amount}; the others: {amounts}", file=sys.stderr)
                return 1
            runs[name, rows].append(found)

    def each(name: str, rows: int) -> list[float]:
        return [found["seconds"] / rows * MILLION for found in runs[name, rows]]

    def peak(name: str, rows: int, process: str) -> Any:
        return in_gib(max((found[process] or 0 for found in runs[name, rows]), default=0) or None)

    lines = [
        {
            "": name,
            "million calls": rows // MILLION,
            **{f"s per million, {what}": figure for what, figure in spread(each(name, rows), 3).items()},
            f"to {sizes[0] // MILLION} million": ratio(each(name, rows), each(name, sizes[0])),
            "to floor": ratio(each(name, rows), each(FLOOR, rows)) if FLOOR in arguments.only else None,
            "JVM GiB": peak(name, rows, "jvm"),
            "Python GiB": peak(name, rows, "python"),
        }
        for name, rows in runs
    ]
    report(lines, {"order": arguments.order, "cores": CORES, "driver": arguments.memory}, arguments.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
