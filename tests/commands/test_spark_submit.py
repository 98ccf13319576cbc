"""The job as a cluster runs it: spark-submit to a standalone master and worker, the package only in the zip."""

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path

import pyspark
import pytest

from spark_billing.core.session import ensure_java
from tests.conftest import site_without

pytestmark = [pytest.mark.classic, pytest.mark.own_spark, pytest.mark.campaign]

ROOT = Path(__file__).resolve().parent.parent.parent
SPARK = Path(pyspark.__file__).parent
EXECUTOR_KILLS = 5 if os.environ.get("SPARK_BILLING_FULL") == "1" else 1  # see test_crashes.py
SUBMIT = SPARK / "bin" / "spark-submit"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(port, process, seconds=60):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert process.poll() is None, "the process has ended"
        with socket.socket() as s:
            s.settimeout(1)
            if s.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise AssertionError(f"nothing listens on port {port}")


@pytest.fixture(scope="module")
def package_zip(tmp_path_factory):
    """The zip of the manual: a wheel, renamed."""
    out = tmp_path_factory.mktemp("dist")
    shutil.copytree(ROOT / "spark_billing", out / "src" / "spark_billing", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, out / "src")
    build = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    built = subprocess.run(
        [sys.executable, "-c", build, str(out)], cwd=out / "src", capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    return (out / built.stdout.split()[-1]).rename(out / "spark_billing.zip")


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    ensure_java()
    home = tmp_path_factory.mktemp("cluster")
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PYSPARK", "SPARK"))}
    return {
        **env,
        "SPARK_HOME": str(SPARK),
        "SPARK_LOG_DIR": str(home),
        "SPARK_WORKER_DIR": str(home),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "PYSPARK_PYTHON": str(without_package(home)),
    }


def without_package(home):
    """A Python with all that is installed here but this project."""
    site = site_without(home / "site", "spark_billing", "_editable_impl_spark_billing")
    python = home / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="$PYTHONPATH:{site}" exec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    return python


@pytest.fixture(scope="module")
def master(environment):
    port, worker_port = free_port(), free_port()
    start = [str(SPARK / "bin" / "spark-class")]
    processes = []

    def run(*arguments, listens):
        process = subprocess.Popen(
            [*start, *arguments],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        processes.append(process)
        wait_for(listens, process)

    address = f"spark://127.0.0.1:{port}"
    try:
        run(
            "org.apache.spark.deploy.master.Master",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--webui-port",
            "0",
            listens=port,
        )
        run(
            *(
                "org.apache.spark.deploy.worker.Worker",
                "--host",
                "127.0.0.1",
                "--port",
                str(worker_port),
                "--webui-port",
                "0",
            ),
            *("--cores", "2", "--memory", "2g", address),
            listens=worker_port,
        )
        yield address
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(30)


def command(master, package_zip, tmp_path, *arguments):
    entry = shutil.copy(ROOT / "jobs" / "hourly_bill.py", tmp_path)  # alone, as it is fetched on a cluster
    return [
        *(str(SUBMIT), "--master", master, "--py-files", str(package_zip), "--conf", "spark.ui.enabled=false"),
        *("--conf", "spark.driver.host=127.0.0.1", "--executor-memory", "1g", str(entry), *arguments),
    ]


def submit(environment, master, package_zip, tmp_path, *arguments):
    return subprocess.run(
        command(master, package_zip, tmp_path, *arguments),
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_the_python_of_the_cluster_lacks_the_package(environment):
    result = subprocess.run(
        [environment["PYSPARK_PYTHON"], "-c", "import pyspark, pyarrow; import spark_billing"],
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert "No module named 'spark_billing'" in result.stderr


@pytest.mark.parametrize("pricing", ["native", "udf"])
def test_a_cluster_bills(spark, environment, master, package_zip, tmp_path, pricing):
    from spark_billing.commands.demo import EXAMPLE_WORKSPACE, demo_usage

    demo_usage(spark).write.parquet(str(tmp_path / "usage"))
    result = submit(
        *(environment, master, package_zip, tmp_path, "--usage", str(tmp_path / "usage")),
        *("--output", str(tmp_path / "out"), "--currency", "USD", "--pricing", pricing),
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert "duplicate_request" in result.stdout
    bills = (
        spark.read.parquet(str(tmp_path / "out" / "bills")).filter(f"workspace_id = '{EXAMPLE_WORKSPACE}'").collect()
    )
    assert [b["amount"] for b in bills] == [Decimal("0.5308")]


def test_a_mistake_is_an_exit_code_on_a_cluster(environment, master, package_zip, tmp_path):
    absent = str(tmp_path / "absent")
    result = submit(
        environment,
        master,
        package_zip,
        tmp_path,
        "--usage",
        absent,
        "--output",
        str(tmp_path / "o"),
        "--currency",
        "USD",
    )
    assert result.returncode == 2
    assert "Traceback" not in result.stdout + result.stderr
    assert "cannot read the usage" in result.stdout  # where Spark's launcher sends what Python says to stderr


def executors():
    """The executor processes on this machine (Linux)."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if b"CoarseGrainedExecutorBackend" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


def test_an_executor_that_is_killed_changes_no_bill(spark, environment, master, package_zip, tmp_path):
    """Killed at random moments of a run; Spark repeats its tasks, or the run fails and the next one bills."""
    from spark_billing.commands.demo import demo_usage

    demo_usage(spark).write.parquet(str(tmp_path / "usage"))
    given = ("--usage", str(tmp_path / "usage"), "--currency", "USD", "--output")
    assert submit(environment, master, package_zip, tmp_path, *given, str(tmp_path / "whole")).returncode == 0
    expected = rows_of(spark, tmp_path / "whole")
    rng = random.Random(7)
    for kill in range(EXECUTOR_KILLS):
        output = str(tmp_path / f"killed-{kill}")
        started = subprocess.Popen(
            command(master, package_zip, tmp_path, *given, output),
            env=environment,
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while started.poll() is None and not executors():
            time.sleep(0.2)
        time.sleep(rng.uniform(0, 15))
        hit = executors()
        for process in hit:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        code = started.wait(300)
        assert hit or code == 0
        if code != 0:
            assert submit(environment, master, package_zip, tmp_path, *given, output).returncode == 0
        assert rows_of(spark, output) == expected


def rows_of(spark, output):
    """Every row of the tables that a first bill writes, but for the run that wrote it."""
    tables = [spark.read.parquet(f"{output}/{name}") for name in ("bill_lines", "bills", "rejected")]
    return [sorted(str(row) for row in table.collect()) for table in tables]
