"""The README is true: its commands are those of CI, its blocks run."""

import pytest

from tests.conftest import CALL, usage_frame
from tests.docs.blocks import claim, text_of
from tests.docs.commands import run_job
from tests.oracle import COMMERCIAL_START

COMMANDS, OTHER_NAMES = claim("README.md", "sh")
PYTHON = claim("README.md", "python")
SQL = claim("README.md", "sql")


def test_the_two_commands():
    assert COMMANDS.text.splitlines() == [
        "pip install uv && uv run jobs/hourly_bill.py --demo",
        "pip install uv && uv run pytest",
    ]
    assert COMMANDS.text.splitlines()[1] in text_of(".ci/run").splitlines()


@pytest.mark.classic
def test_python_blocks_run_in_order(spark, usd, tmp_path, capsys):
    calls = [
        {**CALL, "call_time": COMMERCIAL_START, "request_id": f"r-{i}", "input_tokens": n, "output_tokens": 1000}
        for i, n in enumerate((260, 128_000, 128_001, 0))
    ]
    usage_frame(spark, calls, tags=True).write.parquet(str(tmp_path / "usage"))
    names = {"spark": spark}
    for block in PYTHON:
        exec(compile(block.text.replace("oss://bucket", str(tmp_path)), "README.md", "exec"), names)
    assert "unknown_model" not in capsys.readouterr().out
    (bill,) = names["bills"].collect()
    assert bill["requests"] == 3  # no tier holds 0 input tokens
    assert (names["done"].run, names["done"].totals.amount) == (1, bill["amount"])


def test_sql_blocks_run(spark, usd):
    from spark_billing import register

    register(spark, usd)
    usage_frame(spark, [{**CALL, "call_time": COMMERCIAL_START}]).createOrReplaceTempView("calls")
    for block in SQL:
        assert spark.sql(block.text).collect()
    spark.catalog.dropTempView("calls")
    for name in ("model_call_cost", "model_call_tier"):  # a SQL function of that name cannot take the place of a UDF
        spark.sql(f"DROP TEMPORARY FUNCTION {name}")


@pytest.mark.classic
def test_the_log_with_other_names_bills_as_printed(spark, tmp_path, capsys):
    rows = ["TIMESTAMP,ContextTokens,GeneratedTokens"]
    rows += ["2023-11-16 18:15:46.6805900,374,44", "2023-11-16 18:15:50.9951690,396,109"]
    (tmp_path / "log.csv").write_text("\n".join(rows))
    assert run_job(OTHER_NAMES, **{"log.csv": f"{tmp_path}/log.csv", "bills": f"{tmp_path}/bills"}) == 0
    # 770 input and 153 output tokens in Hangzhou: 770 x 0.000138 / 1000 + 153 x 0.000344 / 1000
    assert "Total: 0.000158892 USD" in capsys.readouterr().out
