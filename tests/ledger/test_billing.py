"""Usage billed into a ledger from a DataFrame: what the job does, by the same names."""

import inspect
from datetime import timedelta
from decimal import Decimal

import pytest

from spark_billing import RunRecord, UsageError, bill_lines, bill_usage, hourly_bills, ledger_lines
from spark_billing.commands.hourly_bill import hourly_bill
from spark_billing.core.errors import OutputError, RetractionError
from spark_billing.ledger.run import Job
from tests.conftest import HOUR, ONE, call, record, rows, usage_frame
from tests.oracle import COMMERCIAL_START

pytestmark = pytest.mark.classic

CALLS = [
    call(1),
    call(1),  # logged twice
    call(2, COMMERCIAL_START + HOUR, workspace_id="w-2"),
    call(3, model="qwen-max"),
    call(None, request_id=None),
    call(4, COMMERCIAL_START + 2 * HOUR),
    call(4, COMMERCIAL_START + 2 * HOUR, output_tokens=60),  # and not the same: the dearer one is billed
]
# 260 x 0.000138 / 1000 + 60 x 0.000344 / 1000
DEARER = Decimal("0.00005652")


@pytest.fixture
def usage(spark):
    return usage_frame(spark, CALLS)


def test_it_is_what_the_job_does(spark, usd, usage, write, bill, tmp_path):
    done = bill_usage(usage, prices=usd, output=str(tmp_path / "own"), source="the log")
    assert bill(write(CALLS))[0] == 0
    job = RunRecord.from_json("record", (tmp_path / f"out/ledger/runs/{1:020}.json").read_text(encoding="utf-8"))
    assert isinstance(done, RunRecord)
    assert (done.totals, done.ledger, done.covered, done.hours) == (job.totals, job.ledger, job.covered, job.hours)
    assert (done.run, done.totals.rows) == (1, {"read": 7, "billed": 3, "rejected": 4})
    assert done.totals.amount == 2 * ONE + DEARER
    assert record(tmp_path / "own")["totals"]["amount"] == str(done.totals.amount)
    for table, order in (("bills", "period_start"), ("bill_lines", ("period_start", "token_type"))):
        frames = (spark.read.parquet(str(tmp_path / name / table)) for name in ("own", "out"))
        ours, theirs = (frame.orderBy(*([order] if isinstance(order, str) else order)).collect() for frame in frames)
        assert ours == theirs
    assert len(rows(spark, tmp_path / "own", "rejected", "reject_reason")) == 4


@pytest.mark.campaign
def test_the_lines_in_memory_are_those_of_the_ledger(spark, usd, usage, tmp_path):
    bill_usage(usage, prices=usd, output=str(tmp_path), source="the log")
    lines = bill_lines(usage, prices=usd)
    billed = ledger_lines(spark, str(tmp_path)).select(*lines.columns)
    assert sorted(map(str, lines.collect())) == sorted(map(str, billed.collect()))
    assert sum(row["amount"] for row in hourly_bills(lines).collect()) == 2 * ONE + DEARER


def test_again_adds_nothing_and_a_late_call_the_difference(spark, usd, usage, tmp_path):
    given = {"prices": usd, "output": str(tmp_path), "source": "the log"}
    bill_usage(usage, **given)
    again = bill_usage(usage, **given)
    assert (again.run, again.ledger.reasons) == (2, {})
    late = bill_usage(usage_frame(spark, [*CALLS, call("late")]), **given)
    assert {reason: sums.amount for reason, sums in late.ledger.reasons.items()} == {"late_usage": ONE}
    with pytest.raises(RetractionError, match="would lower 1 bill of") as refused:
        bill_usage(usage, **given)
    assert refused.value.parameter == "allow_retractions"
    assert bill_usage(usage, **given, allow_retractions=True).totals.amount == 2 * ONE + DEARER


@pytest.mark.campaign
def test_the_options_of_the_job_by_the_same_names(spark, usd, tmp_path):
    log = usage_frame(spark, CALLS).selectExpr(
        "request_id AS id", "workspace_id", "region", "model", "input_tokens AS tokens", "output_tokens",
        "date_format(call_time, 'yyyy-MM-dd HH:mm:ss') AS wall_clock",
    )  # fmt: skip
    before = spark.conf.get("spark.sql.session.timeZone")
    done = bill_usage(
        log,
        prices=usd,
        output=str(tmp_path),
        source="a gateway",
        columns={"request_id": "id", "input_tokens": "tokens", "call_time": "to_timestamp(wall_clock)"},
        call_time_zone="UTC",
        period=("2026-04-08T01", "2026-04-08T03"),
        detail=True,
    )
    assert done.totals.rows["billed"] == 2
    assert done.period is not None
    assert done.arguments["call_time_zone"] == "UTC"
    assert (tmp_path / "priced_calls").exists()
    assert spark.conf.get("spark.sql.session.timeZone") == before
    kept = bill_usage(
        usage_frame(spark, CALLS), prices=usd, output=str(tmp_path / "last"), source="a gateway", last=1,
        as_of=(COMMERCIAL_START + 2 * HOUR + timedelta(minutes=5)).isoformat(timespec="minutes"), dry_run=True,
    )  # fmt: skip
    assert (kept.totals.rows["billed"], kept.covered) == (1, [(1775581200, 1775584800)])
    assert not (tmp_path / "last").exists()


AHEAD = [
    call(1),
    call(2, COMMERCIAL_START + HOUR),
    call(3, COMMERCIAL_START + 40 * HOUR),
    *[call(4, COMMERCIAL_START + 50 * HOUR)] * 2,  # one a copy, whose time will come
]


def test_an_hour_that_has_not_begun_is_open_and_told_by_a_run_of_any_period(spark, usd, tmp_path):
    done = bill_usage(
        usage_frame(spark, AHEAD), prices=usd, output=str(tmp_path), source="the log", last=2,
        as_of="2026-04-08T02:00+08:00", dry_run=True,
    )  # fmt: skip
    assert done.totals.rows == {"read": 5, "billed": 2, "rejected": 0, "open": 3}
    assert (done.totals.amount, done.covered) == (2 * ONE, [(1775577600, 1775584800)])
    assert (done.hours.with_usage, done.hours.last) == (2, "2026-04-08T01")
    assert (done.hours.not_begun, done.hours.calls_not_begun) == (["2026-04-09T16", "2026-04-10T02"], 3)


@pytest.mark.campaign
def test_an_hour_is_billed_once_it_has_begun(bill, write, tmp_path):
    usage = write(AHEAD)
    assert "3 calls are dated in hours that have not begun" in bill(usage, "--as-of", "2026-04-08T02:00+08:00")[1]
    nothing_yet = ("--from", "2026-04-10T00", "--to", "2026-04-10T08", "--as-of", "2026-04-09T16:00+08:00")
    assert bill(usage, *nothing_yet)[0] == 0
    assert record(tmp_path / "out", 2)["totals"]["rows"] == {"read": 2, "billed": 0, "rejected": 0, "open": 2}
    assert bill(usage, "--as-of", "2026-04-09T16:00+08:00")[0] == 0
    then = record(tmp_path / "out", 3)
    assert then["totals"]["rows"] == {"read": 5, "billed": 3, "rejected": 0, "open": 2}
    assert {reason: sums["amount"] for reason, sums in then["ledger"]["reasons"].items()} == {
        "original": "0.000053080000"
    }


def test_every_option_of_a_run_can_be_given():
    parameters = set(inspect.signature(bill_usage).parameters)
    found = {"arguments", "absent_fields", "usage_version", "billed_with", "store"}
    assert set(Job.__dataclass_fields__) - found <= parameters


@pytest.mark.parametrize(
    ("given", "words", "parameter"),
    [
        ({"period": ("2026-04-08T03", "2026-04-08T01")}, "is empty", "period"),
        ({"last": 0}, "a number of hours, 1 or more", "last"),
        ({"last": 3, "period": ("2026-04-08T01", "2026-04-08T03")}, "takes the place of a period", "last"),
        ({"as_of": "2026-04-08T01:00"}, "not an instant", "as_of"),
        ({"as_of": "today", "last": 1}, "not an instant", "as_of"),
        ({"pricing": "UDF"}, "it is native, or udf", "pricing"),
        ({"dedup_lookback": -24}, "a whole number of hours", "dedup_lookback"),
        ({"adjust_within": 1.5}, "a whole number of days", "adjust_within"),
        ({"adjust_within": 1, "closed_after": 48}, "no hour would ever", "adjust_within"),
        ({"call_time_zone": "CST"}, "short names mean several zones", "call_time_zone"),
        ({"columns": {"call_time": "to_timestamp('2026')"}}, "depends on a time zone", "call_time_zone"),
        ({"columns": {"input_token": "1"}}, "no such usage column", "columns"),
    ],
)
def test_what_does_not_fit_is_refused_in_the_words_of_the_library(usd, usage, tmp_path, given, words, parameter):
    with pytest.raises(UsageError, match=words) as refused:
        bill_usage(usage, prices=usd, output=str(tmp_path / "new"), source="the log", **given)
    assert refused.value.parameter == parameter
    assert "--" not in str(refused.value)
    assert not (tmp_path / "new").exists()


@pytest.mark.campaign
def test_the_job_adds_the_option(spark, usd, usage, write, tmp_path, capsys):
    bill_usage(usage, prices=usd, output=str(tmp_path / "out"), source="the log")
    with pytest.raises(OutputError, match="holds the bills of the usage 'the log'") as refused:
        bill_usage(usage, prices=usd, output=str(tmp_path / "out"), source="another")
    assert "--source" not in str(refused.value)
    given = ["--usage", write(CALLS), "--output", str(tmp_path / "out"), "--currency", "USD", "--source", "another"]
    assert hourly_bill(given) == 2
    assert capsys.readouterr().err.rstrip().endswith("(--source)")
