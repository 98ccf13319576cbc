"""The READMEs that lie beside what they describe: price lists, tests, benchmarks."""

import importlib.util
import re

import pytest

from spark_billing import PriceList, check_usage, price_calls
from spark_billing.commands.sql import sql
from tests.conftest import CALL, usage_frame
from tests.docs.blocks import ROOT, claim
from tests.docs.commands import parser_of
from tests.oracle import COMMERCIAL_START

LISTS = "spark_billing/prices/lists/README.md"
(OWN_LIST,) = claim(LISTS, "csv")
(KEPT_FUNCTIONS,) = claim(LISTS, "sh")
(FUNCTIONS,) = claim(LISTS, "python")
OF_TESTS = claim("tests/README.md", "sh")
OF_BENCHMARKS = claim("tests/benchmarks/README.md", "sh")


def test_a_list_of_your_own(tmp_path):
    (tmp_path / "prices.csv").write_text(OWN_LIST.text)
    prices = PriceList.from_csv(tmp_path / "prices.csv")
    assert prices.models_without_output_price == ("my-embedding",)
    assert len(prices.prices) == 4


def test_functions_that_are_kept():
    make, load = KEPT_FUNCTIONS.commands
    assert make[:2] == ["spark-billing", sql.name]
    assert load == ["spark-sql", "-f", make[-1]]
    assert parser_of(sql).parse_args(make[2 : make.index(">")]).namespace == "billing"


@pytest.mark.spark4
def test_functions_of_a_session(spark, usd):
    names = {"spark": spark, "prices": usd}
    exec(compile(FUNCTIONS.text, LISTS, "exec"), names)
    usage_frame(spark, [{**CALL, "call_time": COMMERCIAL_START}]).createOrReplaceTempView("calls")
    (found,) = spark.sql(
        "SELECT model_call_cost(model, region, input_tokens, output_tokens, call_time) AS cost FROM calls"
    ).collect()
    assert found["cost"] == price_calls(spark.table("calls"), prices=usd).collect()[0]["cost"]
    assert check_usage(spark.table("calls"), prices=usd).collect()[0]["reject_reason"] is None
    spark.catalog.dropTempView("calls")
    for name in ("model_call_cost", "model_call_tier"):
        spark.sql(f"DROP TEMPORARY FUNCTION {name}")


def test_commands_of_the_tests():
    from tests.matrix import cells

    for block in OF_TESTS:
        for words in block.commands:
            own = [word for word in words if word != "SPARK_BILLING_FULL=1"]
            assert own[:2] == ["uv", "run"]
            if own[2] == "pytest":
                assert own[3:] in ([], ["-m", "campaign"])
            else:
                assert own[2:5] == ["python", "-m", "tests.matrix"]
                assert set(own[5:]) <= set(cells())


def test_commands_of_the_benchmarks():
    """What they take is what they are given here; they run too long to be run."""
    for block in OF_BENCHMARKS:
        for words in block.commands:
            assert words[:6] == ["uv", "run", "--group", "benchmarks", "python", "-m"]
            module = importlib.util.find_spec(words[6])
            assert module is not None
            taken = re.findall(r'add_argument\(\s*"(--[a-z-]+)"', (ROOT / module.origin).read_text(encoding="utf-8"))
            assert {word for word in words[7:] if word.startswith("--")} <= set(taken)
