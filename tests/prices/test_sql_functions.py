"""Cost and tier in SQL: the registered UDFs, and the same as functions written in SQL, wherever one can stand."""

import re
from datetime import timedelta
from decimal import Decimal

import pytest
from chispa import assert_df_equality

from spark_billing import PriceList, UsageError, register, sql_function_ddl
from spark_billing.commands.cli import main
from spark_billing.core.schemas import USAGE
from spark_billing.prices.price import MAX_TOKENS
from tests import oracle
from tests.bills.test_differential import hostile_calls
from tests.conftest import HOUR, ONE, call, setting, usage_frame
from tests.oracle import COMMERCIAL_START

pytestmark = pytest.mark.spark4

ARGUMENTS = "model, region, input_tokens, output_tokens, call_time"
NAMES = ("model_call_cost", "model_call_tier")


@pytest.fixture
def install(spark):
    """Makes the two functions callable, in one way or the other; afterwards they are gone."""
    installed = []

    def install(way, prices, prefix=""):
        installed.append(prefix)
        if way == "udf":
            register(spark, prices)
        else:
            for statement in sql_function_ddl(prices, prefix=prefix):
                spark.sql(statement)

    yield install
    for prefix in installed:
        for name in NAMES:
            spark.sql(f"DROP TEMPORARY FUNCTION IF EXISTS {prefix}{name}")
    spark.catalog.dropTempView("calls")


def at_every_bound(k):
    counts = {None, 0, 1, -1, MAX_TOKENS, 2**63 - 1, -(2**63)}
    counts |= {oracle.tokens(bound, k) + step for bound in ("128K", "256K", "1M") for step in (-1, 0, 1)}
    around = (COMMERCIAL_START - timedelta(microseconds=1), COMMERCIAL_START, None)
    some = [
        (model, region, n, out, at)
        for model in ("qwen-plus", "text-embedding-v4", "qwen-max", "Qwen-Plus", "", None)
        for region in ("cn-hangzhou", "us-east-1", "cn-chengdu", None)
        for n in counts
        for out in (None, -1, 0, 1, MAX_TOKENS, MAX_TOKENS + 1)
        for at in around
    ]
    for model, region, n, out, at in some:
        yield {"model": model, "region": region, "input_tokens": n, "output_tokens": out, "call_time": at}


@pytest.mark.parametrize(("currency", "k"), [("USD", 1000), ("CNY", 1024)])
def test_the_sql_functions_are_the_udfs_to_the_last_digit(spark, install, ansi, currency, k):
    prices = PriceList.bundled("emr-serverless-spark", currency=currency, tokens_per_k=k)
    calls = [*at_every_bound(k), *hostile_calls(2000, seed=k + 5)]
    calls = [{**c, "request_id": str(i)} for i, c in enumerate(calls)]
    usage_frame(spark, calls).repartition(2).createOrReplaceTempView("calls")
    install("udf", prices)
    install("sql", prices, prefix="sql_")
    with setting(spark, "spark.sql.session.timeZone", "America/New_York"):
        found = spark.sql(
            "SELECT request_id, "
            + ", ".join(f"{prefix}{name}({ARGUMENTS}) AS {prefix}{name}" for prefix in ("", "sql_") for name in NAMES)
            + " FROM calls"
        )
        assert dict(found.dtypes)["sql_model_call_cost"] == "decimal(18,12)"
        rows = {row["request_id"]: row for row in found.collect()}
    assert len(rows) == len(calls)
    priced = 0
    for c in calls:
        row, expected = rows[c["request_id"]], oracle.cost(c, currency, k)
        tier = None if expected is None else oracle.price(c, currency, k)[0]
        assert (row["sql_model_call_cost"], row["sql_model_call_tier"]) == (expected, tier), c
        assert (row["model_call_cost"], row["model_call_tier"]) == (expected, tier), c
        priced += expected is not None
    assert priced > 500


def test_instants_that_cannot_be_billed(spark, install, tmp_path):
    """Before the year 1 of the calendar and after 9999, as the UDF: no tool could print the hour."""
    days = (-62135596800, -62135510401, -62135510400, 253402214399, 253402214400)  # 0001-01-01, 01-02, 9999-12-31
    always = "model,region,min_input_tokens,max_input_tokens,input_price_per_1k,output_price_per_1k,currency"
    (tmp_path / "prices.csv").write_text(f"{always}\nqwen-plus,cn-hangzhou,0,128K,0.1,0.1,USD\n")
    install("sql", PriceList.from_csv(tmp_path / "prices.csv"))
    query = "SELECT model_call_tier('qwen-plus', 'cn-hangzhou', 1, 1, timestamp_seconds({})) AS tier"
    found = [spark.sql(query.format(day)).collect()[0]["tier"] for day in days]
    assert found == [None, None, "0-128K", "0-128K", None]


def planned(spark, query):
    return spark.sql(query)._jdf.queryExecution().executedPlan().toString()


@pytest.mark.classic
def test_the_sql_functions_stay_in_the_engine(spark, install, usd):
    usage_frame(spark, [call(1)]).createOrReplaceTempView("calls")
    query = f"SELECT model_call_tier({ARGUMENTS}) AS tier, sum(model_call_cost({ARGUMENTS})) FROM calls GROUP BY 1"
    install("sql", usd)
    assert "Python" not in planned(spark, query)
    install("udf", usd)  # takes their place
    assert "Python" in planned(spark, query)


# 128,001 tokens are in the second tier: 128,001 x 0.000414 / 1000 + 1,000 x 0.003442 / 1000; an embedding has no output
LONG, EMBEDDING = Decimal("0.056434414"), Decimal("0.000086")
CALLS = [
    call(1),
    call(2, COMMERCIAL_START + HOUR),
    call(3, input_tokens=128_001, output_tokens=1000),
    call(4, workspace_id="w-2", model="text-embedding-v4", input_tokens=1000, output_tokens=None),
    call(5, workspace_id="w-2", model="qwen-max"),
]
BILL = f"""
    SELECT workspace_id, count(*) AS calls, sum(model_call_cost({ARGUMENTS})) AS cost
    FROM {{}} WHERE model_call_tier({ARGUMENTS}) IS NOT NULL GROUP BY workspace_id
"""
BILLED = {"w-1": (3, 2 * ONE + LONG), "w-2": (1, EMBEDDING)}


def billed(rows):
    return {row["workspace_id"]: (row["calls"], row["cost"]) for row in rows}


@pytest.mark.parametrize("way", ["udf", "sql"])
def test_in_views_and_groups(spark, install, usd, way):
    install(way, usd)
    usage_frame(spark, CALLS).createOrReplaceTempView("calls")
    assert billed(spark.sql(BILL.format("calls")).collect()) == BILLED
    spark.sql(
        f"CREATE OR REPLACE TEMPORARY VIEW priced AS SELECT *, model_call_cost({ARGUMENTS}) AS cost, "
        f"model_call_tier({ARGUMENTS}) AS tier FROM calls"
    )
    found = spark.sql("SELECT tier, sum(cost) AS cost FROM priced GROUP BY tier ORDER BY tier").collect()
    spark.catalog.dropTempView("priced")
    assert [tuple(row) for row in found] == [
        (None, None),
        ("0-128K", 2 * ONE),
        ("0-1M", EMBEDDING),
        ("128K-256K", LONG),
    ]


@pytest.mark.parametrize("way", ["udf", "sql"])
def test_in_a_stream(spark, install, usd, write, way):
    install(way, usd)
    spark.readStream.schema(USAGE).parquet(write(CALLS)).createOrReplaceTempView("calls")
    bill = spark.sql(BILL.format("calls"))
    query = bill.writeStream.format("memory").queryName("bill_of_a_stream").outputMode("complete")
    query = query.trigger(availableNow=True).start()
    try:
        assert query.awaitTermination(120)
        assert billed(spark.table("bill_of_a_stream").collect()) == BILLED
    finally:
        query.stop()
        spark.catalog.dropTempView("bill_of_a_stream")


@pytest.mark.classic  # whose session can make another
def test_kept_in_a_schema(spark, usd, cny, tmp_path):
    """Every session has them, views that are kept can use them, and another list takes their place."""
    usage_frame(spark, CALLS).write.saveAsTable("calls_of_a_test")
    spark.sql("CREATE SCHEMA prices_of_a_test")
    try:
        for statement in sql_function_ddl(usd, namespace="prices_of_a_test"):
            spark.sql(statement)
        for statement in sql_function_ddl(cny, namespace="spark_catalog.prices_of_a_test", prefix="cny_"):
            spark.sql(statement)
        bill = BILL.replace("model_call", "prices_of_a_test.model_call").format("calls_of_a_test")
        spark.sql(f"CREATE VIEW prices_of_a_test.bill AS {bill}")
        other = spark.newSession()
        assert billed(other.table("prices_of_a_test.bill").collect()) == BILLED
        # 260 x 0.00096 / 1000 + 50 x 0.0024 / 1000
        example = "SELECT prices_of_a_test.cny_model_call_cost('qwen-plus', 'cn-hangzhou', 260, 50, call_time) AS cost"
        assert other.sql(f"{example} FROM calls_of_a_test LIMIT 1").collect()[0]["cost"] == Decimal("0.0003696")
        (described,) = (
            other.sql("DESCRIBE FUNCTION EXTENDED prices_of_a_test.model_call_tier")
            .filter("function_desc LIKE '%price list%'")
            .collect()
        )
        assert usd.version in described[0]

        (tmp_path / "p.csv").write_text(f"{HEAD}\nqwen-plus,cn-hangzhou,0,1M,0.1,0.1,USD\n")
        for statement in sql_function_ddl(PriceList.from_csv(tmp_path / "p.csv"), namespace="prices_of_a_test"):
            spark.sql(statement)
        # (2 x (260 + 50) + 128,001 + 1000) x 0.1 / 1000
        # a session that has called the function before keeps the one it has
        again = spark.newSession().table("prices_of_a_test.bill")
        assert billed(again.collect()) == {"w-1": (3, Decimal("12.9621"))}
    finally:
        spark.sql("DROP SCHEMA prices_of_a_test CASCADE")
        spark.sql("DROP TABLE calls_of_a_test")


HEAD = "model,region,min_input_tokens,max_input_tokens,input_price_per_1k,output_price_per_1k,currency"
HOSTILE = (
    "o'brien",
    "back\\slash\\'",
    '"; DROP TABLE x; --',
    "${spark.app.name}",
    "通义 千问",
    "new\nline",
    "/*",
)


@pytest.mark.filterwarnings("ignore:The SQL config 'spark.sql.parser.escapedStringLiterals':UserWarning")
@pytest.mark.parametrize("escaped", ["true", "false"])
def test_names_from_the_price_list_stay_names(spark, install, tmp_path, escaped):
    quoted = [name.replace('"', '""') for name in HOSTILE]
    rows = [f'"{name}",r{i},0,1M,{i + 1},,USD' for i, name in enumerate(quoted)]
    (tmp_path / "it's; ${a} list.csv").write_text("\n".join([HEAD, *rows]), encoding="utf-8")
    prices = PriceList.from_csv(tmp_path / "it's; ${a} list.csv")
    with setting(spark, "spark.sql.parser.escapedStringLiterals", escaped):
        install("sql", prices)
        calls = [call(i, model=name, region=f"r{i}", input_tokens=1000) for i, name in enumerate(HOSTILE)]
        usage_frame(spark, calls).createOrReplaceTempView("calls")
        found = spark.sql(f"SELECT model, model_call_cost({ARGUMENTS}) AS cost FROM calls").collect()
    assert {row["model"]: row["cost"] for row in found} == {name: i + 1 for i, name in enumerate(HOSTILE)}


def test_prices_that_change_and_prices_that_are_huge(spark, install, tmp_path):
    head = f"{HEAD},effective_from,effective_to"
    (tmp_path / "p.csv").write_text(
        f"{head}\nm,r,5,{MAX_TOKENS},0.232830643,0.232830643,USD,,2026-04-08T00:00:00.000001+08:00\n"
        f"m,r,5,{MAX_TOKENS},0.232830642,0.232830643,USD,2026-04-08T00:00:00.000002+08:00,\n"
    )
    install("sql", PriceList.from_csv(tmp_path / "p.csv"))
    calls = [
        call(us, COMMERCIAL_START + timedelta(microseconds=us), model="m", region="r", input_tokens=MAX_TOKENS,
             output_tokens=MAX_TOKENS) for us in range(3)
    ]  # fmt: skip
    calls.append({**calls[0], "request_id": "r-5", "input_tokens": 5})
    usage = usage_frame(spark, calls)
    usage.createOrReplaceTempView("calls")
    found = spark.sql(f"SELECT request_id, model_call_cost({ARGUMENTS}) AS cost FROM calls")
    expected = spark.createDataFrame(
        [
            ("r-0", 2 * MAX_TOKENS * Decimal("0.232830643") / 1000),
            ("r-1", None),
            ("r-2", MAX_TOKENS * (Decimal("0.232830642") + Decimal("0.232830643")) / 1000),
            ("r-5", None),
        ],
        "request_id string, cost decimal(18,12)",
    )
    assert_df_equality(found, expected, ignore_row_order=True)


def test_the_command_prints_what_a_warehouse_runs(spark, install, usd, capsys):
    assert main(["sql", "--currency", "USD", "--prefix", "printed_"]) == 0
    printed = capsys.readouterr().out
    assert [f"{part.strip()}" for part in printed.split(";\n")][:2] == sql_function_ddl(usd, prefix="printed_")
    assert main(["sql", "--currency", "USD", "--namespace", "lake.billing"]) == 0
    assert re.findall("FUNCTION .*?[(]", capsys.readouterr().out) == [
        f"FUNCTION `lake`.`billing`.`{name}`(" for name in NAMES
    ]
    assert main(["sql", "--currency", "EUR"]) == 2
    assert "no bundled price list" in capsys.readouterr().err
    assert main(["sql", "--currency", "USD", "--namespace", "billing."]) == 2
    assert "empty part" in capsys.readouterr().err
    with pytest.raises(UsageError, match="empty part"):
        sql_function_ddl(usd, namespace="")
    with pytest.raises(SystemExit):
        main(["sql"])
    assert "--currency" in capsys.readouterr().err
