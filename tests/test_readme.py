"""The README is true: its commands are those of CI, its blocks run."""

import argparse
import json
import re
import shlex
import textwrap
from decimal import Decimal
from pathlib import Path

import pytest

from spark_billing.commands.hourly_bill import hourly_bill
from spark_billing.commands.statement import statement_of_month
from tests.conftest import CALL, call, record, rows, usage_frame
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
    for name in ("model_call_cost", "model_call_tier"):  # a SQL function of that name cannot take the place of a UDF
        spark.sql(f"DROP TEMPORARY FUNCTION {name}")


@pytest.mark.classic
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


def test_the_request_that_starts_a_job():
    """Its arguments are those of the job, and it names files that the section has just uploaded."""
    (request,) = (json.loads(textwrap.dedent(block)) for block in re.findall(r"```json\n(.*?)```", README, flags=re.S))
    submit = request["jobDriver"]["sparkSubmit"]
    parser = argparse.ArgumentParser(exit_on_error=False)
    hourly_bill.add_arguments(parser)
    given = parser.parse_args(submit["entryPointArguments"])
    assert (given.usage_format, given.last, given.currency) == ("table", 48, "USD")
    for uploaded in (submit["entryPoint"], submit["sparkSubmitParameters"].removeprefix("--py-files ")):
        assert f" {uploaded}" in README


@pytest.mark.classic
def test_what_the_demo_prints_is_what_the_readme_shows(capsys, tmp_path):
    assert hourly_bill(["--demo", "--output", str(tmp_path / "demo")]) == 0
    printed = capsys.readouterr().out
    month = ["--output", str(tmp_path / "demo" / "bills"), "--month", "2026-04", "--closed-after", "48"]
    assert statement_of_month([*month, "--as-of", "2026-04-10T12:00+08:00"]) == 0
    printed += capsys.readouterr().out
    mine = [block for block in blocks("text") if not block.startswith("Prices ")]  # that one is in test_estimate
    assert len(mine) == 3
    for shown in mine:
        for line in shown.splitlines():
            if line.strip() and "..." not in line:
                assert line.rstrip() in printed, line


@pytest.mark.classic
def test_the_table_of_late_usage(spark, write, bill, tmp_path):
    """Each row of the README's table, played: what the run adds, why, and what is owed then."""
    (table,) = re.findall(r"^\| run \| what happened .*?\n\n", README, flags=re.M | re.S)
    told = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().splitlines()[2:]]
    head = "model,region,min_input_tokens,max_input_tokens,input_price_per_1k,output_price_per_1k,currency"
    for name, price in (("old", "0.000138"), ("new", "0.000150")):
        (tmp_path / f"{name}.csv").write_text(f"{head}\nqwen-plus,cn-hangzhou,0,1M,{price},0.000344,USD\n")
    steps = [(2, "old"), (2, "old"), (3, "old"), (3, "new"), (2, "new"), (2, "new", "--allow-retractions")]
    assert len(told) == len(steps)
    number = 0
    for (run, _, adds, why, usd, owed), (calls, prices, *arguments) in zip(told, steps):
        usage = write([call(n) for n in range(calls)], f"usage-{run}")
        code, _, _ = bill(usage, "--price-list", str(tmp_path / f"{prices}.csv"), *arguments)
        assert code == (4 if "exit code 4" in adds else 0)
        number += code == 0
        reasons = record(tmp_path / "out", number)["ledger"]["reasons"] if code == 0 else {}
        found = {f"`{reason}`" if reason == "original" else f"`adjustment`, `{reason}`" for reason in reasons}
        assert found == ({why} if why else set())
        assert sum(Decimal(counts["amount"]) for counts in reasons.values()) == Decimal(usd or 0)
        assert sum(b["amount"] for b in rows(spark, tmp_path / "out", "bills")) == Decimal(owed)
