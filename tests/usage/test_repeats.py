"""Repeats are looked for by hash and decided on full content; and what the plans of a billing run are made of."""

import json
import re

import pytest
from pyspark.sql import functions as F

from spark_billing import check_usage
from spark_billing.bills import metering
from spark_billing.bills.sums import group_calls
from spark_billing.commands.hourly_bill import hourly_bill
from spark_billing.core.session import settings
from spark_billing.usage.calls import as_id
from spark_billing.usage.repeats import buckets_of, find_settings, find_suspects
from tests.conftest import CALL, usage_frame
from tests.oracle import COMMERCIAL_START


def calls(count, **changes):
    return [{**CALL, "call_time": COMMERCIAL_START, "request_id": f"r-{n}", **changes} for n in range(count)]


REPEATED = [
    *calls(300),
    *calls(7),  # as they are
    *calls(4, input_tokens=261),  # with other content
    *calls(3, workspace_id="w-2"),  # the ids of other requests, in another workspace
    *calls(2, request_id=None),
    *calls(2, request_id=""),
    *calls(2, request_id="None"),  # no id
    *calls(1, request_id=None, model="qwen-max"),
    *calls(2, workspace_id=None),
    *calls(2, request_id="r-8", input_tokens=0),  # not billable: no rival of the call that is
]


@pytest.fixture
def repeated(spark, tmp_path):
    usage_frame(spark, REPEATED).repartition(5).write.parquet(str(tmp_path / "usage"))
    return str(tmp_path / "usage")


def suspects(spark, usage, count):
    with settings(spark, find_settings(count)):
        return sorted(row[0] is None or row[0] for row in find_suspects(usage, buckets_of(count)).collect())


@pytest.mark.parametrize("believed", [1, 320, 10_000_000])  # however many rows the table is taken to have
def test_every_repeated_hash_is_found_and_no_other(spark, repeated, ansi, believed):
    ids = [("w-1", f"r-{n}") for n in range(9) if n < 7 or n == 8]
    names = ["workspace_id", "request_id"]
    hashes = spark.createDataFrame(ids, names).select(F.xxhash64(*names)).collect()
    expected = sorted([True, *(row[0] for row in hashes)])
    assert suspects(spark, spark.read.parquet(repeated), believed) == expected


def test_a_clean_table_has_no_suspects(spark):
    assert suspects(spark, usage_frame(spark, [*calls(500), *calls(500, workspace_id="w-2")]), 1000) == []


def rejected_by(spark, usage, output, *arguments):
    assert hourly_bill(["--usage", usage, "--output", str(output), "--currency", "USD", *arguments]) == 0
    record = json.loads((output / "ledger/runs/00000000000000000001.json").read_text())
    rows = spark.read.parquet(str(output / "rejected"))
    names = ["request_id", "workspace_id", "input_tokens", "model", "reject_reason"]
    return record["totals"], sorted(str(tuple(row)) for row in rows.select(*names).collect())


@pytest.mark.classic
@pytest.mark.parametrize("pricing", ["native", pytest.param("udf", marks=pytest.mark.campaign)])
def test_a_run_rejects_what_check_usage_rejects(spark, usd, repeated, tmp_path, capsys, pricing):
    totals, rejected = rejected_by(spark, repeated, tmp_path / "out", "--pricing", pricing, "--detail")
    checked = check_usage(spark.read.parquet(repeated), prices=usd).filter("reject_reason IS NOT NULL")
    names = ["request_id", "workspace_id", "input_tokens", "model", "reject_reason"]
    assert rejected == sorted(str(tuple(row)) for row in checked.select(*names).collect())
    assert totals["rejected"] == {
        "missing_request_id": 7,
        "missing_workspace_id": 2,
        "input_tokens_out_of_range": 2,
        "duplicate_request": 3,
        "conflicting_request": 8,  # r-0 to r-3 are there twice at 260 tokens, and billed in their fuller copy of 261
    }
    # 303 calls at 260 and 50 tokens in Hangzhou, four of them at 261
    assert totals["input_tokens"]["billed"] == 303 * 260 + 4
    assert totals["amount"] == "0.016083792000"  # 303 x 0.00005308 + 4 x 0.000000138


@pytest.mark.campaign
@pytest.mark.classic
def test_hashes_that_collide_lose_no_call(spark, repeated, tmp_path, capsys, monkeypatch):
    honest = rejected_by(spark, repeated, tmp_path / "honest")

    def everything_is_suspect(usage, buckets):
        ids = [as_id(F.col(name)) for name in ("workspace_id", "request_id")]
        has_ids = ids[0].isNotNull() & ids[1].isNotNull()
        return usage.select(F.when(has_ids, F.xxhash64(*ids)).alias("suspect_hash")).distinct()

    monkeypatch.setattr(metering, "find_suspects", everything_is_suspect)
    assert rejected_by(spark, repeated, tmp_path / "colliding") == honest


@pytest.mark.classic
def test_a_clean_table_is_never_checked_by_content(spark, tmp_path, capsys, monkeypatch):
    usage_frame(spark, calls(50)).write.parquet(str(tmp_path / "usage"))
    for name in ("rate_suspects", "rate_others", "without_id"):
        monkeypatch.delattr(metering, name)
    assert hourly_bill(["--usage", str(tmp_path / "usage"), "--output", str(tmp_path / "o"), "--currency", "USD"]) == 0


def parts(frame):
    """How often a plan reads the table, shuffles and leaves the JVM; and the columns that it reads."""
    plan = frame._jdf.queryExecution().executedPlan().toString()
    assert "Python" not in plan
    assert "Arrow" not in plan
    assert "Join" not in plan
    (columns,) = re.findall(r"FileScan parquet \[(.*?)\]", plan)
    return plan.count("FileScan"), plan.count("Exchange "), sorted(c.partition("#")[0] for c in columns.split(","))


@pytest.mark.classic
def test_the_plan_of_a_bill_is_one_scan_and_one_shuffle_and_of_the_search_for_repeats_another(spark, usd, tmp_path):
    usage_frame(spark, calls(50)).write.parquet(str(tmp_path / "usage"))
    usage = spark.read.parquet(str(tmp_path / "usage"))
    priced_by = ["call_time", "input_tokens", "model", "output_tokens", "region", "workspace_id"]
    assert parts(group_calls(usage, usd)) == (1, 1, priced_by)
    assert parts(find_suspects(usage)) == (1, 1, ["request_id", "workspace_id"])
