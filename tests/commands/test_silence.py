"""What a refused job prints: its line and nothing else, though the tasks of Spark have failed."""

import json
import os
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spark_billing.core import session
from spark_billing.core.session import job_session, tell_of_tasks
from tests.conftest import ROOT, call

pytestmark = pytest.mark.classic

CALL = {**call(1), "call_time": "2026-05-01T00:00:00+08:00"}
# What Java itself says at its start
OF_JAVA = "WARNING: "


def test_spark_is_silent_of_failed_tasks_while_a_job_runs(spark):
    log4j = spark._jvm.org.apache.logging.log4j

    def level(name):
        return str(log4j.LogManager.getLogger(f"org.apache.spark.{name}").getLevel())

    before = {name: level(name) for name in session._TELL_OF_TASKS}
    assert "OFF" not in before.values()
    assert job_session("spark-billing tests") is spark
    job_session("spark-billing tests")  # a job that calls another
    assert {level(name) for name in session._TELL_OF_TASKS} == {"OFF"}
    tell_of_tasks()
    assert {name: level(name) for name in session._TELL_OF_TASKS} == before
    tell_of_tasks()


@pytest.mark.campaign
@pytest.mark.own_spark
@pytest.mark.spark4
def test_one_line_for_each_refusal_and_no_other(tmp_path):
    attributes = {**CALL, "attrs": [{"key": "model", "value": "qwen-plus"}] * 2, "x": "boom"}
    (tmp_path / "log.jsonl").write_text(json.dumps(attributes) + "\n")
    (tmp_path / "u").mkdir()
    for name, calls in (("a", [call(1)]), ("b", [call(n) for n in range(9000)])):
        pq.write_table(pa.Table.from_pylist(calls), tmp_path / "u" / f"{name}.parquet", use_dictionary=False)
    content = (tmp_path / "u" / "b.parquet").read_bytes()
    (tmp_path / "u" / "b.parquet").write_bytes(content[:4] + bytes(2000) + content[2004:])
    given = ["--output", "o", "--currency", "USD"]
    jobs = [
        (2, "DUPLICATED_MAP_KEY", "log.jsonl", "--column", "model=map_from_entries(attrs)['model']"),
        (2, "no such thing", "log.jsonl", "--column", "model=if(x='boom', raise_error('no such thing'), model)"),
        (2, "CAST_INVALID_INPUT", "log.jsonl", "--column", "input_tokens=cast(x as int)"),
        (2, "b.parquet", "u"),
        (6, "unknown_model", "log.jsonl", "--column", "model='x'"),
    ]
    pq.write_table(pa.Table.from_pylist([call(1), call(2)]), tmp_path / "both.parquet")
    pq.write_table(pa.Table.from_pylist([call(1)]), tmp_path / "one.parquet")
    billed = ["--output", "b", "--currency", "USD", "--source", "log"]
    calls = [["--usage", *arguments, *given] for _, _, *arguments in jobs]
    calls += [["--usage", f"{name}.parquet", *billed] for name in ("both", "one")]
    jobs += [(0, ""), (4, "would lower 1 bill of")]
    script = f"""
import contextlib, io
from spark_billing.commands.hourly_bill import hourly_bill
codes = []
for arguments in {calls!r}:
    with contextlib.redirect_stdout(io.StringIO()):
        codes.append(hourly_bill(arguments))
print(codes)
"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("SPARK_", "PYSPARK_"))}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines()[-1] == str([code for code, *_ in jobs]), done.stderr
    said = [line for line in done.stderr.splitlines() if not line.startswith(OF_JAVA)]
    refused = [words for code, words, *_ in jobs if code]
    assert len(said) == len(refused), done.stderr
    for line, words in zip(said, refused):
        assert line.startswith("hourly_bill.py: ")
        assert words in line


@pytest.mark.campaign
def test_what_is_nobodys_mistake_is_told_at_length(spark, write, bill, monkeypatch):
    """Whoever has to find out why has nothing but what the job prints."""
    from pyspark.errors import PySparkException

    from spark_billing.ledger import run

    def fails(*_):
        raise PySparkException("[INTERNAL_ERROR] The first line. SQLSTATE: XX000\n\tat a.stack.Trace(B.scala:1)")

    monkeypatch.setattr(run, "sums_by_fate", fails)
    code, _, err = bill(write([call(1)]))
    assert code == 1
    assert err.splitlines()[0].startswith("hourly_bill.py: Spark failed: [INTERNAL_ERROR] The first line.")
    assert "at a.stack.Trace" in err
