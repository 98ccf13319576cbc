"""The README is true: its commands are those of CI, its blocks run."""

import re
import shlex
from pathlib import Path

from spark_billing.cli import hourly_bill
from tests.conftest import CALL, usage_frame
from tests.oracle import COMMERCIAL_START

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.M | re.S)


def test_the_two_commands():
    assert blocks("sh")[0].splitlines() == [
        "pip install uv && uv run jobs/hourly_bill.py --demo",
        "pip install uv && uv run pytest",
    ]
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "pip install uv && uv run pytest" in ci.splitlines()


def test_python_blocks_run_in_order(spark, usd, tmp_path, capsys):
    calls = [
        {**CALL, "call_time": COMMERCIAL_START, "request_id": f"r-{i}", "input_tokens": n, "output_tokens": 1000}
        for i, n in enumerate((260, 128_000, 128_001, 0))
    ]
    usage_frame(spark, calls, tags=True).write.parquet(str(tmp_path / "usage"))
    names = {"spark": spark}
    assert len(blocks("python")) >= 3
    for block in blocks("python"):
        exec(compile(block.replace("oss://bucket", str(tmp_path)), "README.md", "exec"), names)
    assert "unknown_model" not in capsys.readouterr().out
    assert names["bills"].count() == 1


def test_sql_blocks_run(spark, usd):
    from spark_billing import register

    register(spark, usd)
    usage_frame(spark, [{**CALL, "call_time": COMMERCIAL_START}]).createOrReplaceTempView("calls")
    assert blocks("sql")
    for block in blocks("sql"):
        assert spark.sql(block).collect()
    spark.catalog.dropTempView("calls")


def test_the_log_with_other_names_bills_as_printed(spark, tmp_path, capsys):
    rows = ["TIMESTAMP,ContextTokens,GeneratedTokens"]
    rows += ["2023-11-16 18:15:46.6805900,374,44", "2023-11-16 18:15:50.9951690,396,109"]
    (tmp_path / "log.csv").write_text("\n".join(rows))
    (command,) = [b for b in blocks("sh") if "ContextTokens" in b]
    words = shlex.split(
        command.replace("\\\n", " ")
        .replace("log.csv", str(tmp_path / "log.csv"))
        .replace("--output bills", f"--output {tmp_path / 'bills'}")
    )
    assert words[0] == "spark-submit"
    arguments = words[words.index("jobs/hourly_bill.py") + 1 :]
    assert hourly_bill(arguments) == 0
    # 770 input and 153 output tokens in Hangzhou: 770 x 0.000138 / 1000 + 153 x 0.000344 / 1000
    assert "Total: 0.000158892 USD" in capsys.readouterr().out


def test_what_the_demo_prints_is_what_the_readme_shows(capsys, tmp_path):
    assert hourly_bill(["--demo", "--output", str(tmp_path / "demo")]) == 0
    printed = capsys.readouterr().out
    (shown,) = blocks("text")
    for line in shown.splitlines():
        if line.strip() and "..." not in line:
            assert line.rstrip() in printed, line
