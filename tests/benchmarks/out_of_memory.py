"""Bills with repeats looked for, when the ids do not fit in memory: ours, DuckDB and Polars under the same limit.

Each bill is made in a process of its own, timed from its start to its end, with nothing to warm up on. The processes
may hold --memory GiB together: anonymous memory, looked at ten times a second, so that neither the page cache nor
address space counts. Who holds more is ended, as a container would do it; who takes longer than --limit seconds, too.
Spark's heap is three quarters of it and DuckDB's memory_limit half (with three quarters it went over at 200 million
calls); both may spill to --spill. Polars has no such setting.
All bills that come to an end must be equal.

    uv run --group benchmarks python -m tests.benchmarks.out_of_memory --rows 50000000 200000000 --data /tmp/usage

It needs /proc, so Linux.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from contextlib import suppress
from hashlib import sha256
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from spark_billing import PriceList
from spark_billing.core.session import local_session
from tests.benchmarks.bills import Contest, answer
from tests.benchmarks.fresh import GIB, family, fresh, in_gib, memory
from tests.benchmarks.generate import generated
from tests.benchmarks.one_machine import CORES, duckdb_bills, polars_bills
from tests.benchmarks.rounds import ratio, report, spread

OURS, DUCKDB, POLARS = "our bill, duplicates looked for", "DuckDB, distinct on", "Polars, unique"


def make(data: Path, rows: int) -> str:
    return generated(local_session("generate"), data, rows, "random")


def bill(name: str, path: str, rows: int, share: int, spill: str, answers: Connection) -> None:
    """Send the digest of the bills, or the first line of what went wrong."""
    try:
        if name == OURS:
            config = {"spark.master": f"local[{CORES}]", "spark.driver.memory": f"{share}m", "spark.local.dir": spill}
            result: Any = Contest(local_session("out of memory", config), path, rows).ours_checked()
        elif name == DUCKDB:
            # DuckDB's own advice for what is larger than memory: a folder to spill to, no order to keep
            config = {"memory_limit": f"{share}MiB", "temp_directory": spill, "preserve_insertion_order": "false"}
            result = duckdb_bills(
                path, PriceList.bundled("emr-serverless-spark", currency="USD"), distinct=True, config=config
            )
        else:
            os.environ["POLARS_MAX_THREADS"] = str(CORES)
            result = polars_bills(path, PriceList.bundled("emr-serverless-spark", currency="USD"), distinct=True)
        bills = [(*b[:5], int(b[5].scaleb(12))) for b in answer("bills", result)]
        answers.send((sum(b[2] for b in bills), sha256(repr(bills).encode()).hexdigest()))
    except Exception as error:
        answers.send(f"{type(error).__name__}: {str(error).splitlines()[0][:100]}")


def watched(name: str, path: str, rows: int, most: int, limit: int, spill: Path) -> dict[str, Any]:
    """One bill: its `seconds` and `digest`, or how it `ended`; and the most memory it held."""
    context = get_context("spawn")
    answers, send = context.Pipe(duplex=False)
    peak, ended = 0, ""
    with tempfile.TemporaryDirectory(dir=spill, ignore_cleanup_errors=True) as scratch:
        share = (most // 2 if name == DUCKDB else most * 3 // 4) // (1 << 20)
        process = context.Process(target=bill, args=(name, path, rows, share, scratch, send))
        start = time.perf_counter()
        process.start()
        while process.is_alive():
            everyone = family(process.pid or 0)
            peak = max(peak, sum(memory(pid, "RssAnon") or 0 for pid in everyone))
            if peak > most:
                ended = f"over {in_gib(most)} GiB"
            elif time.perf_counter() - start > limit:
                ended = f"over {limit} s"
            if ended:
                for pid in everyone:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            process.join(0.1)
        seconds = time.perf_counter() - start
    found = answers.recv() if not ended and answers.poll() else None
    if isinstance(found, tuple):
        return {"seconds": seconds, "digest": found, "peak": peak}
    ended = ended or found or f"ended with {process.exitcode}"
    return {"ended": f"{ended} after {seconds:.0f} s", "peak": peak}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[50_000_000], help="calls in the tables")
    parser.add_argument("--data", type=Path, required=True, help="folder of the generated tables")
    parser.add_argument("--memory", type=int, default=4, metavar="GIB", help="of each contestant (default 4)")
    parser.add_argument("--limit", type=int, default=900, metavar="SECONDS", help="for each bill (default 900)")
    parser.add_argument(
        "--spill", type=Path, help="folder on a disk, for what does not fit (default: the temporary one)"
    )
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=(OURS, DUCKDB, POLARS), default=(OURS, DUCKDB, POLARS))
    parser.add_argument("--json", type=Path, help="where the figures go as JSON")
    arguments = parser.parse_args()

    lines = []
    for rows in arguments.rows:
        path = fresh(make, arguments.data, rows)
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in arguments.only}
        for turn in range(arguments.rounds):
            for name, found in runs.items():
                last = watched(name, path, rows, arguments.memory * GIB, arguments.limit, arguments.spill)
                found.append(last)
                said = last.get("ended") or f"{last['seconds']:.2f} s"
                print(f"round {turn + 1}: {rows:,} calls, {name}: {said}, {in_gib(last['peak'])} GiB", file=sys.stderr)
        digests = {run["digest"] for found in runs.values() for run in found if "digest" in run}
        if len(digests) > 1 or any(calls != rows for calls, _ in digests):
            print(f"not the same bills: {digests}", file=sys.stderr)
            return 1
        ours = [run["seconds"] for run in runs.get(OURS, []) if "seconds" in run]
        for name, found in runs.items():
            seconds = [run["seconds"] for run in found if "seconds" in run]
            all_ended_well = len(ours) == len(seconds) == len(found)
            lines.append(
                {
                    "million calls": rows // 1_000_000,
                    "": name,
                    **({"median": None, "min": None, "max": None} if not seconds else spread(seconds)),
                    "to ours": ratio(seconds, ours) if all_ended_well else None,
                    "GiB": in_gib(max(run["peak"] for run in found)),
                    "did not end well": "; ".join(run["ended"] for run in found if "ended" in run) or None,
                }
            )
    report(lines, {"GiB each": arguments.memory, "seconds at most": arguments.limit, "cores": CORES}, arguments.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
