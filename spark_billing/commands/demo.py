"""The demo: a usage table as real logs look, billed, and the bill proved by the per-request UDF."""

from __future__ import annotations

import json
import sys
from datetime import datetime, timezone
from decimal import Decimal

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_billing.bills.lines import bill_lines
from spark_billing.commands.command import DONE, FAILED
from spark_billing.commands.demo_provider import demo_provider_bill, provider_mapping
from spark_billing.commands.files import write_lines
from spark_billing.core.errors import OutputError, UsageError
from spark_billing.core.hours import hour_label, instant_label
from spark_billing.core.money import money
from spark_billing.core.schemas import USAGE
from spark_billing.core.session import SESSION_SETTINGS, settings
from spark_billing.core.storage import Storage
from spark_billing.core.text import table
from spark_billing.estimates.estimate import estimate_calls
from spark_billing.estimates.printed import printed_figures
from spark_billing.ledger.billing import bill_table
from spark_billing.ledger.reading import ledger_lines
from spark_billing.ledger.stores import open_ledger
from spark_billing.prices.price_list import PriceList
from spark_billing.provider.causes import reconcile
from spark_billing.provider.comparison import Reconciliation, summarize
from spark_billing.provider.files import read_bill
from spark_billing.provider.mapping import BillMapping
from spark_billing.provider.printed import printed_comparison
from spark_billing.provider.rows import provider_bill
from spark_billing.reports.report import read_report
from spark_billing.reports.report_page import report_html
from spark_billing.reports.run_summary import printed_run
from spark_billing.reports.statement import monthly_statement

# The provider's own example: ai_query() called 10,000 times in Hangzhou, 260 input and 50 output tokens each
# (0.00096 x 260 x 10000 / 1000 + 0.0024 x 50 x 10000 / 1000 = 3.696 CNY), in a workspace and an hour of its own
EXAMPLE_WORKSPACE = "w-0000000000example"
EXAMPLE_HOUR = 1775613600  # 2026-04-08T10 in UTC+8
EXAMPLE_COST = {"USD": Decimal("0.5308"), "CNY": Decimal("3.696")}
COMMERCIAL_START = 1775577600  # 2026-04-08T00:00+08:00
_CALLS = 20_000
_REGIONS = (
    *("cn-beijing", "cn-shanghai", "cn-hangzhou", "cn-shenzhen", "cn-hongkong", "ap-southeast-1"),
    *("eu-central-1", "us-east-1", "us-west-1", "ap-northeast-1", "ap-southeast-5", "na-south-1"),
)
_WORKSPACES = ("w-5f1c9a7e22b04d18", "w-83d0be6614c94f57", "w-c2a76f90d15e4b3a", "w-07be4412aa9e4c6d")
_TEAMS = ("search", "support", "growth")


def run_demo(spark: SparkSession, prices: PriceList, output: str) -> int:
    """Make usage under `output`, bill it, show the table before, the call and the bill after; the exit code."""
    usage_path, bills_path = f"{output.rstrip('/')}/usage", f"{output.rstrip('/')}/bills"
    if Storage(spark, output).exists("usage"):
        raise OutputError(f"{usage_path} is there already and is left alone; give the demo another --output")
    demo_usage(spark).write.parquet(usage_path)
    usage = spark.read.parquet(usage_path)
    print(f"The usage table, {usage_path}\n")
    print("\n".join(_sample(usage)))
    print(f"\nThe call\n\n  hourly_bill.py --usage {usage_path} --output {bills_path} --currency {prices.currency}\n")

    outcome = bill_table(
        spark, prices, usage=usage_path, output=bills_path, pricing="native", group_by_tags=[], detail=False
    )
    print("\n".join(["The bill", "", *printed_run(outcome, prices), ""]))

    total = outcome.record.totals.amount
    try:
        by_request = bill_lines(usage, prices=prices, pricing="udf").agg(F.sum("amount")).collect()[0][0]
    except ImportError:
        print("Priced again request by request: left out, as the vectorized UDF needs pyarrow and numpy")
        by_request = total
    else:
        print(f"Priced again request by request with the vectorized UDF: {money(by_request)} {prices.currency}")
    bills = spark.read.parquet(f"{bills_path}/bills")
    example = bills.filter(F.col("workspace_id") == EXAMPLE_WORKSPACE).collect()[0]
    print(
        f"The provider's own example, {example['requests']:,} calls in Hangzhou in the hour "
        f"{hour_label(EXAMPLE_HOUR)}: {money(example['amount'])} {prices.currency}"
    )
    if by_request != total or example["amount"] != EXAMPLE_COST.get(prices.currency, example["amount"]):
        print("These must be the same as in the bill, and are not: please report it.", file=sys.stderr)
        return FAILED
    with settings(spark, SESSION_SETTINGS):
        _estimate_a_run(spark, prices)
        _compare_with_the_provider(spark, prices, output.rstrip("/"), bills_path)
        _tell_of_the_month(spark, output.rstrip("/"), bills_path)
    return DONE


def _estimate_a_run(spark: SparkSession, prices: PriceList) -> None:
    """What a question about each of 1,000 hotel reviews would cost."""
    reviews = spark.range(1_000).selectExpr(
        "if(id % 2 = 0, repeat('房间很干净，早餐也不错。', int(1 + id % 7)), "
        "repeat('The room was clean and breakfast was fine. ', int(1 + id % 5))) AS review"
    )
    found = estimate_calls(
        reviews,
        text="concat('Good or bad? ', review)",
        model="qwen-plus",
        region="cn-hangzhou",
        output_tokens=50,
        prices=prices,
        at=datetime.fromtimestamp(COMMERCIAL_START, timezone.utc),
    )
    print("\nBefore a run: a question about each of 1,000 reviews, Chinese and English, answers of 50 tokens\n")
    print("\n".join(printed_figures(found)))
    print(f"Input is {found.tokens_rest_on}")


def _compare_with_the_provider(spark: SparkSession, prices: PriceList, output: str, bills_path: str) -> None:
    """A provider's bill of the same calls, with a mistake of each kind, and what the comparison says of it."""
    lines, mapping, storage = ledger_lines(spark, bills_path), provider_mapping(prices), Storage(spark, output)
    storage.create("mapping.json", json.dumps(mapping, indent=2) + "\n")
    storage.create("provider-bill.json", demo_provider_bill(lines, prices))
    provider = provider_bill(read_bill(spark, f"{output}/provider-bill.json"), BillMapping.of(mapping))
    differences = reconcile(lines, provider, prices=prices, grain=mapping["grain"])
    print("\nThe provider's bill of the same calls, with made-up mistakes, compared\n")
    print(
        f"  reconcile_bill.py --output {bills_path} --month 2026-04 --provider {output}/provider-bill.json "
        f"--mapping {output}/mapping.json\n"
    )
    found = summarize(lines, provider, differences, mapping["grain"])
    storage.create("reconciliation.json", json.dumps(found.as_json(), indent=2) + "\n")
    print("\n".join(printed_comparison(found)))


def _tell_of_the_month(spark: SparkSession, output: str, bills_path: str) -> None:
    """The month as finance wants it, and everything as a page to look at."""
    lines = ledger_lines(spark, bills_path)
    statement = monthly_statement(lines, "2026-04", as_of="2026-04-10T12:00+08:00", closed_after=48, top=3)
    text = list(statement.text())
    totals = next(number for number, line in enumerate(text) if line.startswith("Total, exact"))
    print("\nThe month\n")
    print(f"  statement.py --output {bills_path} --month 2026-04 --closed-after 48 --as-of 2026-04-10T12:00+08:00\n")
    print("\n".join([*text[3:8], *text[totals : totals + 7]]))
    page = f"{output}/report.html"
    against = Reconciliation.parse(Storage(spark, output).read("reconciliation.json"))
    try:
        write_lines(
            spark, "--to-file", page, report_html(read_report(open_ledger(spark, bills_path), reconciliation=against))
        )
    except UsageError as error:  # matplotlib is missing
        print(f"\nA report to look at: left out, as {error}")
    else:
        print(f"\nA report to look at: {page}")


def demo_usage(spark: SparkSession) -> DataFrame:
    """About 30,000 calls of 36 hours in the columns of `schemas.USAGE` and tags: all regions, both models, all tiers,
    free and commercial hours, the provider's example, bad rows and repeats. The same rows every time."""

    def pick(salt: int, n: int) -> Column:
        return F.pmod(F.xxhash64("id", F.lit(salt)), F.lit(n))

    def one_of(texts: tuple[str, ...], salt: int) -> Column:
        return F.element_at(F.array(*(F.lit(text) for text in texts)), (pick(salt, len(texts)) + 1).cast("int"))

    size = pick(3, 100)
    calls = spark.range(_CALLS).select(
        "id",
        F.md5(F.col("id").cast("string")).alias("request_id"),
        one_of(_WORKSPACES, 1).alias("workspace_id"),
        one_of(_REGIONS, 2).alias("region"),
        F.when(pick(4, 5) == 0, "text-embedding-v4").otherwise("qwen-plus").alias("model"),
        # from four hours before commercial billing starts
        F.timestamp_seconds(F.lit(COMMERCIAL_START - 4 * 3600) + pick(5, 36 * 3600)).alias("call_time"),
        F.when(size < 90, 1 + pick(6, 8_000))
        .when(size < 94, 100_000 + pick(6, 56_001))
        .when(size < 98, 200_000 + pick(6, 112_001))
        .when(size < 99, 1_000_000 - pick(6, 300_000))
        .otherwise(F.element_at(F.array(*(F.lit(n) for n in _BOUNDS)), (pick(6, len(_BOUNDS)) + 1).cast("int")))
        .cast("bigint")
        .alias("input_tokens"),
        (1 + pick(7, 600)).alias("output_tokens"),
        F.create_map(F.lit("team"), one_of(_TEAMS, 8)).alias("tags"),
    )
    no_output = F.when(F.col("model") != "text-embedding-v4", F.col("output_tokens"))
    calls = calls.withColumn("output_tokens", no_output)

    example = spark.range(10_000).select(
        "id",
        F.concat(F.lit("example-"), F.col("id").cast("string")).alias("request_id"),
        F.lit(EXAMPLE_WORKSPACE).alias("workspace_id"),
        F.lit("cn-hangzhou").alias("region"),
        F.lit("qwen-plus").alias("model"),
        F.timestamp_seconds(F.lit(EXAMPLE_HOUR) + F.pmod("id", F.lit(3600))).alias("call_time"),
        F.lit(260).cast("bigint").alias("input_tokens"),
        F.lit(50).cast("bigint").alias("output_tokens"),
        F.create_map(F.lit("team"), F.lit("docs")).alias("tags"),
    )

    def some(start: int, count: int) -> DataFrame:
        """So many of the calls, as calls of their own."""
        chosen = calls.filter((F.col("id") >= start) & (F.col("id") < start + count))
        return chosen.withColumn("request_id", F.concat(F.lit("x"), F.col("request_id")))

    bad = [
        calls.filter(F.col("id") < 137),  # logged twice
        calls.filter(F.col("id") < 9).withColumn("input_tokens", F.col("input_tokens") + 7),  # and not the same
        some(200, 21).withColumn("request_id", F.lit(None).cast("string")),
        some(300, 17).withColumn("model", F.lit("qwen-max")),  # not in the list
        some(400, 12).withColumn("region", F.lit("cn-chengdu")),  # no price is published there
        some(500, 8).withColumn("input_tokens", F.lit(0).cast("bigint")),
        some(600, 6).withColumn("input_tokens", F.lit(1_000_001).cast("bigint")),
        some(700, 5).withColumn("input_tokens", F.lit(-1).cast("bigint")),
        some(800, 3).withColumn("call_time", F.lit(None).cast("timestamp")),
    ]
    for rows in (example, *bad):
        calls = calls.unionByName(rows)
    return calls.select(*USAGE.fieldNames(), "tags")


_BOUNDS = (1, 127_999, 128_000, 128_001, 255_999, 256_000, 256_001, 999_999, 1_000_000)


def _sample(usage: DataFrame) -> list[str]:
    columns = [name for name in USAGE.fieldNames() if name != "request_id"]
    shown = usage.withColumn("call_time", F.unix_seconds("call_time"))
    rows = shown.filter(F.col("request_id").isNotNull()).orderBy("request_id").select(*columns).limit(5).collect()

    def text(name: str, value: object) -> str:
        return f"{instant_label(value)}" if name == "call_time" and isinstance(value, int) else str(value)

    lines = list(table([columns, *([text(name, row[name]) for name in columns] for row in rows)]))
    return [*lines, f"... {usage.count():,} rows"]
