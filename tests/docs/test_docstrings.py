"""Every example in a public docstring runs and says what it says."""

import doctest
import importlib
from datetime import datetime

import pytest

import spark_billing
from spark_billing import bill_lines, bill_usage
from tests.conftest import CALL, CONNECT, usage_frame
from tests.oracle import COMMERCIAL_START

READ_A_LEDGER = ("ledger.reading", "focus.rows", "focus.rules", "reports.statement")


MODULES = (
    *("prices.price_list", "prices.udfs", "usage.checks", "bills.lines"),
    *("estimates.rerating", "estimates.estimate", "estimates.answers", "provider.rows", "provider.causes"),
    *READ_A_LEDGER,
    pytest.param("prices.sql_functions", marks=pytest.mark.spark4),
    pytest.param("ledger.billing", marks=pytest.mark.classic),
    pytest.param("ledger.streaming", marks=pytest.mark.classic),
)


@pytest.fixture(scope="module")
def ledger(spark, usd, tmp_path_factory):
    """One ledger, billed once, for all examples that read one."""
    output = str(tmp_path_factory.mktemp("ledger") / "out")
    if not CONNECT:
        bill_usage(
            usage_frame(spark, [{**CALL, "call_time": COMMERCIAL_START}]), prices=usd, output=output, source="the log"
        )
    return output


@pytest.mark.parametrize("module", MODULES)
def test_examples(spark, usd, write, bill, ledger, tmp_path, module):
    call = {**CALL, "call_time": COMMERCIAL_START}
    calls = [call, {**call, "request_id": "r-2", "model": "qwen-max"}]
    usage = usage_frame(spark, calls)
    usage.createOrReplaceTempView("calls")
    if CONNECT and module in READ_A_LEDGER:  # the job has a session of its own there
        assert bill(write([call]))[0] == 0
        ledger = str(tmp_path / "out")
    names = {
        "spark": spark,
        "output": ledger if module in READ_A_LEDGER else str(tmp_path / "out"),
        "new_output": str(tmp_path / "new"),
        "usage_path": write([call]) if module == "ledger.streaming" else None,
        "usage": usage,
        "lines": bill_lines(usage, prices=usd),
        "prices": usd,
    }
    found = importlib.import_module(f"spark_billing.{module}")
    names.update({name: getattr(spark_billing, name) for name in spark_billing.__all__}, datetime=datetime)
    result = doctest.testmod(found, extraglobs=names, optionflags=doctest.NORMALIZE_WHITESPACE)
    spark.catalog.dropTempView("calls")
    for name in ("model_call_cost", "model_call_tier"):
        spark.sql(f"DROP TEMPORARY FUNCTION IF EXISTS {name}")
    assert result.attempted > 0
    assert result.failed == 0
