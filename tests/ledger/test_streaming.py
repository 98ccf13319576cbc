"""Bills that keep up with a stream end where one batch run over the whole usage ends."""

import inspect
from decimal import Decimal

import pytest
from pyspark.sql import functions as F

from spark_billing import UsageError, bill_touched_hours, bill_usage
from spark_billing.ledger.streaming import _around
from tests.conftest import HOUR, ONE, call, record, rows, setting, usage_frame
from tests.docs.blocks import claim
from tests.oracle import COMMERCIAL_START

pytestmark = pytest.mark.classic

(BLOCK,) = claim("jobs/README.md", "python", "streaming")

FIVE = COMMERCIAL_START + 5 * HOUR

# what arrives, and the UTC+8 hours of 2026-04-08 (24 and more: of the next day) that are billed then, run by run
MICRO_BATCHES = [
    ([call(1), call(2), call(3, FIVE)], [(0, 1), (5, 6)]),
    # a late call, a repeat, and a new hour beside the first
    ([call(4), call(2), call(5, COMMERCIAL_START + HOUR)], [(0, 2)]),
    # a fuller copy of a call of hour 5: the bill of that call moves, so hour 5 is touched as well
    ([call(3, COMMERCIAL_START + HOUR, input_tokens=270)], [(1, 2), (5, 6)]),
    # a call without a time names no hour, one without an id no other copy; and one far away
    ([call("x", None), call(None, FIVE, request_id=None), call(6, COMMERCIAL_START + 30 * HOUR)], [(5, 6), (30, 31)]),
    # fuller and later: hour 0 is billed first, and its call is left out for one that the same micro-batch bills
    ([call(1, COMMERCIAL_START + 3 * HOUR, input_tokens=270)], [(0, 1), (3, 4)]),
    # less full than the one that is billed: nothing changes but what is rejected
    ([call(2, COMMERCIAL_START + 3 * HOUR, input_tokens=250)], [(0, 1), (3, 4)]),
]


def of_table(spark, path, table):
    return sorted(spark.read.parquet(str(path / table)).drop("run").collect(), key=str)


def label(hour):
    return f"{COMMERCIAL_START + hour * HOUR:%Y-%m-%dT%H}"


@pytest.mark.campaign
def test_a_stream_with_late_calls_and_repeats(spark, usd, tmp_path, bill):
    usage = str(tmp_path / "usage")
    names = {"spark": spark, "prices": usd, "usage": usage_frame(spark, [])}
    covered = []
    for calls, hours in MICRO_BATCHES:
        usage_frame(spark, calls).coalesce(1).write.mode("append").parquet(usage)
        exec(compile(BLOCK.text.replace("oss://bucket", str(tmp_path)), BLOCK.file, "exec"), names)
        covered += [[[label(start), label(end)]] for start, end in hours]
    path = tmp_path / "bills"
    runs = range(1, len(list((path / "ledger" / "runs").glob("*.json"))) + 1)
    assert [record(path, number)["covered"] for number in runs] == covered
    assert list(record(path, 5)["ledger"]["reasons"]) == ["conflict"]  # of hour 5: no leave was needed

    assert bill(usage, output="once")[0] == 0
    once = tmp_path / "once"
    for table in ("bill_lines", "bills"):
        assert of_table(spark, path, table) == of_table(spark, once, table)
    owed = {b["billing_hour"] + 24 * (b["billing_date"].day - 8): b["amount"] for b in rows(spark, path, "bills")}
    ten = Decimal("0.00000138")  # 10 tokens more x 0.000138 / 1000
    assert owed == {0: 2 * ONE, 1: 2 * ONE + ten, 3: ONE + ten, 30: ONE}
    reasons = [*["conflicting_request"] * 3, "duplicate_request", "missing_call_time", "missing_request_id"]
    for output in (path, once):
        assert sorted(r["reject_reason"] for r in rows(spark, output, "rejected", "request_id")) == reasons

    # a micro-batch that is delivered twice
    again = bill_touched_hours(usd, usage=usage, output=str(path))
    again(usage_frame(spark, MICRO_BATCHES[1][0]), 1)
    assert record(path, len(runs) + 1)["covered"] == [[label(0), label(2)]]
    assert record(path, len(runs) + 1)["ledger"] == {"reasons": {}, "hours": {}}
    assert record(path, len(runs) + 1)["left_out"] == {}


def test_columns_of_another_log(spark, usd, tmp_path):
    log = usage_frame(spark, [call(1), call(1, FIVE)]).withColumn(
        "at", F.date_format("call_time", "yyyy-MM-dd HH:mm:ss")
    )
    log = log.drop("call_time", "request_id")
    log.write.parquet(str(tmp_path / "log"))
    options = {"usage": str(tmp_path / "log"), "output": str(tmp_path / "bills"), "duplicates": False}
    each = bill_touched_hours(usd, **options, columns={"call_time": "at"}, call_time_zone="UTC")
    with setting(spark, "spark.sql.session.timeZone", "America/New_York"):
        each(log.filter("at > '2026-04-07 20'"), 0)
        assert spark.conf.get("spark.sql.session.timeZone") == "America/New_York"
    (only,) = rows(spark, tmp_path / "bills", "bills")
    assert (only["billing_hour"], only["requests"], only["amount"]) == (5, 1, ONE)
    assert not list((tmp_path / "bills" / "ledger" / "runs").glob("*2.json"))

    each = bill_touched_hours(usd, **options, columns={"call_time": "at"})
    with pytest.raises(UsageError, match="without an offset"):
        each(log, 1)


def test_a_micro_batch_without_an_hour_bills_nothing(spark, usd, write, tmp_path):
    each = bill_touched_hours(usd, usage=write([call(1, None)]), output=str(tmp_path / "bills"))
    each(usage_frame(spark, []), 0)
    each(usage_frame(spark, [call(1, None)]), 1)
    assert not (tmp_path / "bills").exists()


def test_open_hours_cannot_be_left_to_nobody(usd):
    with pytest.raises(UsageError, match="no later micro-batch"):
        bill_touched_hours(usd, usage="u", output="o", closed_after=1)


def test_the_options_are_those_of_the_job():
    """What is written wrong is told when the function is made, not by the first micro-batch."""
    options = set(inspect.signature(bill_touched_hours).parameters)
    not_of_streams = {"period", "last", "dry_run", "publishing_patience"}
    assert set(inspect.signature(bill_usage).parameters) - not_of_streams <= options


def test_copies_are_looked_for_around_every_hour(spark, usd, write, tmp_path):
    """Also at the edges of the lookback, and not beyond."""
    at = {"one": -3, "two": -2, "edge": 2, "over": 3, "far": 100, "gap": 50}
    table = usage_frame(spark, [call(name, COMMERCIAL_START + n * HOUR, request_id=name) for name, n in at.items()])
    start = int(COMMERCIAL_START.timestamp())
    near = _around({start, start + 100 * 3600}, table, 2 * 3600)
    assert {row["request_id"] for row in near.collect()} == {"two", "edge", "far"}
