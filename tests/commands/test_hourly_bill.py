"""The job from its arguments to its files: formats, mapping, time zones, periods, re-runs, exit codes."""

import os
from datetime import date, datetime, timedelta
from decimal import Decimal

import pytest
from pyspark.sql import functions as F

from spark_billing import PriceList, bill_usage
from spark_billing.commands.hourly_bill import hourly_bill
from spark_billing.core.schemas import BILL_LINES, BILLS
from spark_billing.core.storage import Storage
from spark_billing.ledger import run
from spark_billing.ledger.files import Staging
from tests.conftest import HOUR, ONE, call, files, record, rows, setting, usage_frame
from tests.oracle import COMMERCIAL_START

pytestmark = pytest.mark.classic


@pytest.mark.parametrize(
    ("file_format", "named"),
    [
        ("json", False),
        ("csv", True),
        ("orc", False),
        *(
            pytest.param(*other, marks=pytest.mark.campaign)
            for other in (("parquet", True), ("parquet", False), ("json", True), ("csv", False), ("orc", True))
        ),
    ],
)
def test_every_format(spark, write, bill, tmp_path, file_format, named):
    calls = [call(1), call(2, input_tokens=0), call(3, workspace_id="w 'ü\\\"/,")]
    usage = write(calls, f"usage.{file_format}" if named else "usage", file_format)
    code, _, err = bill(usage, *(() if named else ("--usage-format", file_format)))
    assert (code, err) == (0, "")
    bills = rows(spark, tmp_path / "out", "bills", "workspace_id")
    assert [(b["workspace_id"], b["amount"]) for b in bills] == [("w 'ü\\\"/,", ONE), ("w-1", ONE)]
    assert [r["reject_reason"] for r in rows(spark, tmp_path / "out", "rejected", "request_id")] == [
        "input_tokens_out_of_range"
    ]


def test_a_catalog_table(spark, bill, tmp_path):
    usage_frame(spark, [call(1)]).write.mode("overwrite").saveAsTable("usage_of_a_test")
    try:
        assert bill("default.usage_of_a_test", "--usage-format", "table")[0] == 0
    finally:
        spark.sql("DROP TABLE usage_of_a_test")
    assert rows(spark, tmp_path / "out", "bills")[0]["amount"] == ONE


def test_what_is_written(spark, write, bill, tmp_path):
    calls = [call(1), call(2, COMMERCIAL_START - HOUR), call(3, region="cn-chengdu"), call(4, None), call(1)]
    code, out, _ = bill(write(calls))
    assert code == 0
    path = tmp_path / "out"
    assert sorted(os.listdir(path)) == ["bill_lines", "bills", "ledger", "rejected"]
    for table, schema in (("bill_lines", BILL_LINES), ("bills", BILLS)):
        frame = spark.read.parquet(str(path / table))
        assert dict(frame.dtypes) == {**{f.name: f.dataType.simpleString() for f in schema.fields}, "run": "bigint"}
        assert [row["run"] for row in frame.select("run").distinct().collect()] == [1]
        assert [p.name for p in sorted((path / table).iterdir()) if p.is_dir()] == [
            "billing_date=2026-04-07",
            "billing_date=2026-04-08",
        ]
        import pyarrow.parquet as pq

        inside = pq.ParquetFile(next((path / table / "billing_date=2026-04-08").glob("*.parquet"))).schema_arrow
        assert "billing_date" not in inside.names
        assert str(inside.field("period_start").type) == "timestamp[us, tz=UTC]"
    rejected = {r["request_id"]: r for r in rows(spark, path, "rejected", "request_id")}
    assert {k: (r["reject_reason"], r["billing_date"], r["billing_hour"]) for k, r in rejected.items()} == {
        "r-1": ("duplicate_request", date(2026, 4, 8), 0),
        "r-3": ("unknown_region", date(2026, 4, 8), 0),
        "r-4": ("missing_call_time", None, None),
    }
    assert record(path)["totals"] == {
        "rows": {"read": 5, "billed": 2, "rejected": 3},
        "rejected": {"missing_call_time": 1, "unknown_region": 1, "duplicate_request": 1},
        "input_tokens": {"read": 1300, "billed": 520, "rejected": 780, "charged": 520},
        "output_tokens": {"read": 250, "billed": 100, "rejected": 150, "charged": 100},
        "amount": "0.000053080000",
        "currency": "USD",
    }
    assert "Total: 0.00005308 USD" in out
    for words in ("duplicate_request", "w-1", "2026-04-08T00", str(path / "rejected")):
        assert words in out


def test_totals_with_tokens_that_are_not_charged_or_not_countable(write, bill, tmp_path):
    embedding = {"model": "text-embedding-v4", "output_tokens": 9}
    calls = [call(1, **embedding), call(2, input_tokens=2**63 - 1), call(3, input_tokens=-5)]
    assert bill(write(calls))[0] == 0
    totals = record(tmp_path / "out")["totals"]
    assert totals["input_tokens"] == {"read": 260, "billed": 260, "rejected": 0, "charged": 260}
    assert totals["output_tokens"] == {"read": 109, "billed": 9, "rejected": 100, "charged": 0}


@pytest.mark.campaign
def test_nothing_is_rejected_and_nothing_is_there(write, bill, tmp_path):
    assert bill(write([call(1)]))[0] == 0
    assert not (tmp_path / "out" / "rejected").exists()
    code, out, _ = bill(write([], "empty"), output="none")
    assert code == 0
    assert "Total: 0.00 USD" in out
    assert sorted(os.listdir(tmp_path / "none")) == ["ledger"]


def test_mapping_another_log(spark, bill, tmp_path):
    (tmp_path / "log.json").write_text(
        '{"id": 7, "log": {"at": "2026-04-08T00:30:00Z", "in": 260}, "usage": {"out": "50"}, "model": "gpt", '
        '"tags": {"team": "a"}}\n'
        '{"id": 8, "log": {"at": "2026-04-08T00:30:00Z", "in": 2.5}, "usage": {"out": "50"}, "model": "gpt"}\n'
        "not json\n"
    )
    code, _, err = bill(
        *(str(tmp_path / "log.json"), "--group-by-tag", "team", "--column", "call_time=log.at"),
        *("--column", "input_tokens=log.in", "--column", "output_tokens=usage.out", "--column", "model='qwen-plus'"),
        *("--column", "region='cn-hangzhou'", "--column", "workspace_id=concat('w-', 1)"),
        *(
            "--column",
            "request_id=cast(id as string)",
            "--column",
            "tags=from_json(to_json(tags), 'map<string,string>')",
        ),
    )
    assert (code, err) == (0, "")
    line = rows(spark, tmp_path / "out", "bill_lines", "token_type")[0]
    assert (line["workspace_id"], line["billing_hour"], line["tokens"], line["tag_team"]) == ("w-1", 8, 260, "a")
    rejected = rows(spark, tmp_path / "out", "rejected", "id")
    assert [(r["id"], r["model"], r["reject_reason"]) for r in rejected] == [
        (None, None, "missing_request_id"),
        (8, "gpt", "invalid_input_tokens"),
    ]


def test_a_csv_row_of_another_width_is_rejected(spark, bill, tmp_path):
    head = "request_id,workspace_id,region,model,call_time,output_tokens,input_tokens"
    good = "w,cn-hangzhou,qwen-plus,2026-04-08T00:00:00+08:00,50"
    (tmp_path / "u.csv").write_text(
        "\n".join([head, f"r1,{good},260", f"r2,{good},1,000", "r3,w", f'"r4",{good},"260"', ""])
    )
    assert bill(str(tmp_path / "u.csv"))[0] == 0
    (only,) = rows(spark, tmp_path / "out", "bills")
    assert (only["requests"], only["input_tokens"]) == (2, 520)
    rejected = rows(spark, tmp_path / "out", "rejected", "_corrupt_record")
    assert [(r["_corrupt_record"], r["reject_reason"]) for r in rejected] == [
        (f"r2,{good},1,000", "missing_request_id"),
        ("r3,w", "missing_request_id"),
    ]


def test_rejected_rows_as_they_came_even_with_our_names(spark, usd, write, bill, tmp_path):
    usage = usage_frame(spark, [call(1, input_tokens=None)]).withColumns(
        {"billing_date": F.lit("mine"), "Reject_Reason": F.lit("x"), "nothing": F.lit(None)}
    )
    usage.drop("nothing").write.parquet(str(tmp_path / "u"))
    assert bill(str(tmp_path / "u"))[0] == 6
    row = rows(spark, tmp_path / "out", "rejected", "request_id")[0].asDict()
    assert (row["source_billing_date"], row["source_Reject_Reason"]) == ("mine", "x")
    assert (str(row["billing_date"]), row["reject_reason"]) == ("2026-04-08", "invalid_input_tokens")


def test_partition_folders_are_text(spark, write, bill, tmp_path):
    usage_frame(spark, [call(1, workspace_id="007")]).write.partitionBy("workspace_id").parquet(str(tmp_path / "u"))
    assert bill(str(tmp_path / "u"))[0] == 0
    assert rows(spark, tmp_path / "out", "bills")[0]["workspace_id"] == "007"


# --- time zones ------------------------------------------------------------------------------------------------------


def times_csv(tmp_path, *times):
    path = tmp_path / "log.csv"
    head = "request_id,workspace_id,region,model,call_time,input_tokens,output_tokens"
    path.write_text("\n".join([head, *(f"r{i},w,cn-hangzhou,qwen-plus,{t},260,50" for i, t in enumerate(times))]))
    return str(path)


def test_text_with_an_offset_is_an_instant(spark, bill, tmp_path, session_zone):
    usage = times_csv(tmp_path, "2026-04-08T00:10:00+08:00", "2026-04-07T16:10:00Z", "2026-04-07 12:10:00.1234567-0400")
    assert bill(usage)[0] == 0
    (only,) = rows(spark, tmp_path / "out", "bills")
    assert (only["requests"], only["billing_date"], only["billing_hour"]) == (3, date(2026, 4, 8), 0)


def test_text_without_an_offset_is_refused(bill, tmp_path):
    code, out, err = bill(times_csv(tmp_path, "2026-04-08T00:10:00+08:00", "2026-04-08 00:10:00"))
    assert (code, out) == (2, "")
    assert "'2026-04-08 00:10:00'" in err
    assert "--call-time-zone" in err
    assert not (tmp_path / "out" / "bills").exists()


@pytest.mark.parametrize(
    ("zone", "hour"),
    [
        ("Asia/Shanghai", 1),
        pytest.param("UTC", 9, marks=pytest.mark.campaign),
        pytest.param("+09:00", 0, marks=pytest.mark.campaign),
        ("America/New_York", 13),
    ],
)
def test_text_without_an_offset_in_a_named_zone(spark, bill, tmp_path, session_zone, zone, hour):
    usage = times_csv(tmp_path, "2026-06-08 01:10:00", "2026-06-08T01:10:00.1234567", "2026-06-08 01:10")
    assert bill(usage, "--call-time-zone", zone)[0] == 0
    (only,) = rows(spark, tmp_path / "out", "bills")
    assert (only["requests"], only["billing_date"], only["billing_hour"]) == (3, date(2026, 6, 8), hour)
    assert spark.conf.get("spark.sql.session.timeZone") == session_zone  # as it was


@pytest.mark.parametrize(
    ("mapping", "needs_zone"),
    [
        ("call_time=`call_time`", False),
        ("call_time=to_timestamp(substr(call_time, 1, 19))", True),
        pytest.param("call_time=call_time", False, marks=pytest.mark.campaign),
        pytest.param("call_time=timestamp_millis(1775577600000)", True, marks=pytest.mark.campaign),
        pytest.param("call_time=current_timestamp", True, marks=pytest.mark.campaign),
        pytest.param("call_time=timestamp'2026-04-08 00:00:00'", True, marks=pytest.mark.campaign),
    ],
)
def test_an_expression_for_the_time_needs_a_zone(bill, tmp_path, mapping, needs_zone):
    usage = times_csv(tmp_path, "2026-04-08T00:10:00+08:00")
    code, _, err = bill(usage, "--column", mapping)
    assert code == (2 if needs_zone else 0)
    assert ("--call-time-zone" in err) == needs_zone
    assert bill(usage, "--column", mapping, "--call-time-zone", "UTC", output="zoned")[0] == 0


def test_timestamp_ntz_needs_a_zone(spark, bill, tmp_path):
    usage = usage_frame(spark, [call(1)]).withColumn("call_time", F.to_timestamp_ntz(F.lit("2026-04-08 00:10:00")))
    usage.write.parquet(str(tmp_path / "u"))
    code, _, err = bill(str(tmp_path / "u"))
    assert code == 2
    assert "timestamp_ntz" in err
    assert bill(str(tmp_path / "u"), "--call-time-zone", "Asia/Shanghai")[0] == 0
    assert rows(spark, tmp_path / "out", "bills")[0]["billing_hour"] == 0


def test_orc_of_another_zone_is_refused(spark, write, bill):
    """ORC keeps wall-clock time: written in a JVM of one zone it is read as other instants in a JVM of another."""
    usage = write([call(1)], "usage.orc", "orc")
    zones = spark._jvm.java.util.TimeZone
    here = zones.getDefault()
    zones.setDefault(zones.getTimeZone("America/New_York"))
    try:
        code, _, err = bill(usage)
    finally:
        zones.setDefault(here)
    assert code == 2
    assert "this Spark runs in America/New_York" in err
    assert bill(usage)[0] == 0


# --- periods and re-runs ---------------------------------------------------------------------------------------------


def day(hours, **changes):
    return [
        call(f"{h}-{n}", COMMERCIAL_START + h * HOUR + timedelta(minutes=n), **changes) for h in hours for n in (0, 59)
    ]


def test_a_period_is_half_open_and_reaches_the_scan(spark, usd, write, bill, tmp_path):
    calls = [
        call(i, COMMERCIAL_START + s)
        for i, s in enumerate((-timedelta(microseconds=1), 0 * HOUR, 2 * HOUR - timedelta(microseconds=1), 2 * HOUR))
    ]
    usage = write([*calls, call("x", None)])
    assert bill(usage, "--from", "2026-04-08T00", "--to", "2026-04-08T02")[0] == 0
    assert [b["billing_hour"] for b in rows(spark, tmp_path / "out", "bills")] == [0, 1]
    assert record(tmp_path / "out")["totals"]["rows"] == {"read": 3, "billed": 2, "rejected": 1}
    assert record(tmp_path / "out")["period"] == {"from": "2026-04-08T00", "to": "2026-04-08T02"}

    from spark_billing.usage.calls import in_period

    frame = spark.read.parquet(usage)
    start = int(COMMERCIAL_START.timestamp()) * 10**6
    filtered = frame.filter(in_period(F.col("call_time"), frame.schema["call_time"].dataType, start, start + 1))
    plan = filtered._jdf.queryExecution().executedPlan().toString()
    pushed = plan[plan.index("PushedFilters: ") :].splitlines()[0]
    assert "GreaterThanOrEqual(call_time" in pushed
    assert "LessThan(call_time" in pushed


@pytest.mark.campaign
def test_hours_one_after_the_other_make_the_same_day(spark, write, bill, tmp_path):
    usage = write([*day(range(3)), call("bad", COMMERCIAL_START + HOUR, model="x"), call("none", None)])
    for hour in range(3):
        assert bill(usage, "--from", f"2026-04-08T0{hour}", "--to", f"2026-04-08T0{hour + 1}", output="by hour")[0] == 0
    assert bill(usage, output="at once")[0] == 0
    for table in ("bill_lines", "bills", "rejected"):
        by_hour, at_once = (spark.read.parquet(str(tmp_path / o / table)) for o in ("by hour", "at once"))
        names = [name for name in by_hour.columns if name != "run"]
        assert sorted(map(str, by_hour.select(*names).collect())) == sorted(map(str, at_once.select(*names).collect()))


def test_a_rerun_replaces_its_hours_and_nothing_else(spark, write, bill, tmp_path):
    path = tmp_path / "out"
    usage = write(
        [*day((0, 1, 24)), call("bad", COMMERCIAL_START, model="x"), call("bad2", COMMERCIAL_START + HOUR, model="x")]
    )
    assert bill(usage)[0] == 0
    before = files(path)
    # hour 0 is billed again: one call was withdrawn, another is new, and nothing is rejected any more
    assert (
        bill(
            write([call("0-0"), call("late"), *day((1,))], "usage2"), "--from", "2026-04-08T00", "--to", "2026-04-08T01"
        )[0]
        == 0
    )
    bills = rows(spark, path, "bills")
    assert [(str(b["billing_date"]), b["billing_hour"], b["requests"]) for b in bills] == [
        ("2026-04-08", 0, 2),
        ("2026-04-08", 1, 2),
        ("2026-04-09", 0, 2),
    ]
    assert [r["request_id"] for r in rows(spark, path, "rejected", "request_id")] == ["r-bad2"]
    after = files(path)
    untouched = {f: content for f, content in before.items() if "2026-04-09" in f}
    assert untouched
    assert untouched.items() <= after.items()
    # and a period that has become empty is gone
    gone = (write([], "empty"), "--from", "2026-04-08T00", "--to", "2026-04-09T00", "--allow-retractions")
    assert bill(*gone)[0] == 0
    assert {f for f in files(path) if "2026-04-08" in f} == set()
    assert not (path / "rejected" / "billing_date=2026-04-08").exists()
    assert untouched.items() <= files(path).items()


@pytest.mark.campaign
def test_the_same_run_gives_the_same_rows(spark, write, bill, tmp_path):
    usage = write(day(range(5)))
    for pricing in ("native", "udf", "native"):
        assert bill(usage, "--pricing", pricing, output=pricing)[0] == 0
    native, udf = (sorted(map(str, rows(spark, tmp_path / p, "bill_lines"))) for p in ("native", "udf"))
    assert native == udf
    assert len(native) == 10
    assert sorted(os.listdir(tmp_path / "native" / "ledger" / "runs"))[-1].startswith(f"{2:020}")


def test_detail(spark, write, bill, tmp_path):
    calls = [*day((0, 1)), call("bad", model="x")]
    assert bill(write(calls), "--detail")[0] == 0
    priced = rows(spark, tmp_path / "out", "priced_calls", "request_id")
    assert [(r["request_id"], r["cost"], r["billing_hour"]) for r in priced] == [
        ("r-0-0", ONE, 0), ("r-0-59", ONE, 0), ("r-1-0", ONE, 1), ("r-1-59", ONE, 1),
    ]  # fmt: skip
    # the details of an hour do not outlive its bill
    assert bill(write(calls), "--from", "2026-04-08T00", "--to", "2026-04-08T01")[0] == 0
    assert {r["billing_hour"] for r in rows(spark, tmp_path / "out", "priced_calls", "request_id")} == {1}


def test_no_dedup_neither_needs_nor_reads_ids(spark, tmp_path, bill):
    usage_frame(spark, [call(1), call(1)]).drop("request_id").write.parquet(str(tmp_path / "u"))
    assert bill(str(tmp_path / "u"), "--no-dedup")[0] == 0
    assert rows(spark, tmp_path / "out", "bills")[0]["requests"] == 2
    code, _, err = bill(str(tmp_path / "u"))
    assert code == 2
    assert "no column request_id" in err


def test_an_own_price_list(spark, write, bill, tmp_path):
    head = "model,region,min_input_tokens,max_input_tokens,input_price_per_1k,output_price_per_1k,currency"
    (tmp_path / "p.csv").write_text(f"{head}\nqwen-plus,cn-hangzhou,0,1K,0.000001001,0.2,EUR\n")
    usage = write([call(1, input_tokens=1_001), call(2, input_tokens=1_024)])
    assert bill(usage, "--price-list", str(tmp_path / "p.csv"), "--tokens-per-k", "1024", currency="EUR")[0] == 0
    (only,) = rows(spark, tmp_path / "out", "bills")
    assert only["amount"] == Decimal("2025") * Decimal("0.000001001") / 1000 + Decimal("0.02")
    assert bill(usage, "--price-list", str(tmp_path / "p.csv"))[0] == 2


def test_a_price_list_by_uri(spark, write, bill, tmp_path):
    """As of an object store: read through Spark, and refused for the same reasons as a local file."""
    names = "model,region,min_input_tokens,max_input_tokens,input_price_per_1k,output_price_per_1k,currency\n"
    (tmp_path / "p.2026-04-08.csv").write_text(f"{names}qwen-plus,cn-hangzhou,0,1M,0.5,0.2,EUR\n", encoding="utf-8")
    usage, folder = write([call(1)]), tmp_path.as_uri()
    assert bill(usage, "--price-list", f"{folder}/p.2026-04-08.csv", currency="EUR")[0] == 0
    (owed,) = rows(spark, tmp_path / "out", "bills")
    assert owed["amount"] == Decimal("0.14")  # 260 x 0.5 / 1000 + 50 x 0.2 / 1000
    prices = record(tmp_path / "out")["price_list"]
    assert (prices["name"], prices["version"]) == ("p", "2026-04-08")

    (tmp_path / "latin.csv").write_bytes(f"{names}qwen-plüs,cn-hangzhou,0,1M,0.5,0.2,EUR\n".encode("latin-1"))
    for name, found in (("none.csv", "there is no such file"), ("latin.csv", "is not UTF-8")):
        code, _, err = bill(usage, "--price-list", f"{folder}/{name}", currency="EUR")
        assert (code, found in err, len(err.splitlines())) == (2, True, 1)


# --- refusals and failures -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--from", "2026-04-08T00"], "belong together"),
        (["--from", "2026-04-08T00:30", "--to", "2026-04-09T00"], "not a UTC+8 hour"),
        (["--from", "2026-04-09T00", "--to", "2026-04-09T00"], "is empty"),
        (["--column", "region=cn-hangzhou"], "quote it"),
        (["--column", "cost=1"], "no such usage column"),
        (["--column", "input_tokens=explode(array(1,2))"], "UNSUPPORTED_GENERATOR"),
        (["--column", "input_tokens=sum(input_tokens)"], "input_tokens=sum"),
        (["--column", "input_tokens=(("], "PARSE_SYNTAX_ERROR"),
        (["--column", "region='a'", "--column", "region='b'"], "given twice"),
        (["--column", "input_tokens=cast('many' as int)"], "CAST_INVALID_INPUT"),
        (["--call-time-zone", "Mars/Olympus"], "no zone that Spark knows"),
        (["--call-time-zone", "CST"], "short names mean several zones"),
        (["--column", "workspace_id=input_tokens"], "workspace_id is bigint, but text is needed"),
        (["--column", "input_tokens=input_tokens % 0"], "_BY_ZERO"),
        (["--price-list", "/nowhere.csv"], "cannot read the price list"),
        (["--group-by-tag", "team"], "no column tags"),
        (["--usage-format", "orc"], "cannot read the usage"),
        (["--usage-format", "table"], "cannot read the usage"),
    ],
)
def test_a_users_mistake_is_one_line_and_writes_nothing(spark, write, bill, tmp_path, arguments, words):
    with setting(spark, "spark.sql.ansi.enabled", "true"):
        code, out, err = bill(write([call(1)]), *arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert not (tmp_path / "out" / "ledger").exists()
    assert not (tmp_path / "out" / "bills").exists()


@pytest.mark.parametrize("expression", ["cast('many' as int)", "input_tokens % 0"])
def test_without_ansi_what_cannot_be_computed_is_rejected(spark, write, bill, tmp_path, expression):
    with setting(spark, "spark.sql.ansi.enabled", "false"):
        assert bill(write([call(1)]), "--column", f"input_tokens={expression}")[0] == 6
    assert [r["reject_reason"] for r in rows(spark, tmp_path / "out", "rejected", "request_id")] == [
        "invalid_input_tokens"
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--usage", "u"],
        ["--usage", "u", "--output", "o"],
        ["--demo", "--usage", "u"],
        ["--demo", "--one-writer"],
        ["--usage", "u", "--output", "o", "--output-catalog", "ice.billing", "--currency", "USD"],
        ["--usage", "u", "--output", "o", "--one-writer", "--currency", "USD"],
        ["--colour"],
        ["--column", "x"],
    ],
)
def test_arguments_that_argparse_refuses(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        hourly_bill(arguments)
    assert stop.value.code == 2
    assert "see --help" in capsys.readouterr().err


def test_usage_that_is_not_there(bill, tmp_path):
    code, _, err = bill(str(tmp_path / "absent"))
    assert code == 2
    assert "PATH_NOT_FOUND" in err
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.parquet").write_bytes(b"this is not parquet")
    assert bill(str(tmp_path / "bad"))[0] == 2
    (tmp_path / "csv").mkdir()
    (tmp_path / "csv" / "a.csv").write_text("a,b\n1,2\n")
    (tmp_path / "csv" / "b.csv").write_text("b,a\n1,2\n")
    names = ("request_id", "workspace_id", "region", "model", "input_tokens", "output_tokens")
    mapped = [x for n in names for x in ("--column", f"{n}=a")]
    code, _, err = bill(str(tmp_path / "csv"), "--usage-format", "csv", "--column", "call_time=b", *mapped)
    assert (code, "FAILED_READ_FILE" in err) == (2, True)  # columns in another order would be billed as each other


def test_an_unknown_column_in_an_expression_is_not_taken_for_text(write, bill):
    """The hint to quote would bill a workspace of the name `cast(w as string)`."""
    code, _, err = bill(write([call(1)]), "--column", "workspace_id=cast(w as string)")
    assert code == 2
    assert "quote it" not in err


@pytest.mark.parametrize("header", ["call_time,a,A", ",call_time,a"])
def test_a_csv_header_without_names_of_their_own(bill, tmp_path, header):
    (tmp_path / "u.csv").write_text(f"{header}\n1,2,3\n")
    code, _, err = bill(str(tmp_path / "u.csv"))
    assert code == 2
    assert "a name of its own" in err


def test_outputs_that_cannot_be(spark, write, bill, tmp_path):
    usage = write([call(1)])
    (tmp_path / "file").write_text("mine")
    for output, words in (("file", "is a file"), ("o[1]", "pattern"), ("usage/bills", "lies in the usage")):
        code, _, err = bill(usage, output=output)
        assert code == 2
        assert words in err
    assert (tmp_path / "file").read_text() == "mine"
    # rejected rows billed into their own output would replace the bills of their hours
    assert bill(write([call(1), call(2, model="x")]))[0] == 0
    code, _, err = bill(str(tmp_path / "out" / "rejected"))
    assert code == 2
    assert "lies in the output" in err
    assert [b["amount"] for b in rows(spark, tmp_path / "out", "bills")] == [ONE]


def test_the_demo_leaves_others_files_alone(tmp_path, capsys):
    (tmp_path / "usage").mkdir()
    (tmp_path / "usage" / "precious.txt").write_text("mine")
    assert hourly_bill(["--demo", "--output", str(tmp_path)]) == 2
    assert (tmp_path / "usage" / "precious.txt").read_text() == "mine"
    assert "is there already" in capsys.readouterr().err


@pytest.mark.campaign
def test_cluster_defaults_that_would_change_the_bill(spark, bill, tmp_path):
    """Times without a zone read as instants, and files that cannot be read left out."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    naive = {**call(1), "call_time": datetime(2026, 4, 8, 9)}
    path = tmp_path / "u"
    path.mkdir()
    pq.write_table(pa.Table.from_pylist([naive]), path / "a.parquet")
    with setting(spark, "spark.sql.parquet.inferTimestampNTZ.enabled", "false"):
        code, _, err = bill(str(path))
        assert (code, "timestamp_ntz" in err) == (2, True)
        assert bill(str(path), "--call-time-zone", "Asia/Shanghai")[0] == 0
    assert rows(spark, tmp_path / "out", "bills")[0]["billing_hour"] == 9
    (path / "b.parquet").write_bytes(b"not parquet")
    with setting(spark, "spark.sql.files.ignoreCorruptFiles", "true"):
        code, _, err = bill(str(path), "--call-time-zone", "Asia/Shanghai")
        assert (code, "b.parquet" in err) == (2, True), err
    with setting(spark, "spark.sql.timestampType", "TIMESTAMP_NTZ"):
        assert bill(times_csv(tmp_path, "2026-04-08T01:00:00+08:00"), output="ntz")[0] == 0
    assert rows(spark, tmp_path / "ntz", "bills")[0]["billing_hour"] == 1


@pytest.mark.campaign
def test_rejected_rows_without_a_time_outlive_runs_on_other_days(spark, write, bill, tmp_path):
    assert bill(write([call(1), call("none", None)]))[0] == 0
    assert bill(write([call(2, COMMERCIAL_START + 24 * HOUR)], "next"))[0] == 0
    assert [r["request_id"] for r in rows(spark, tmp_path / "out", "rejected", "request_id")] == ["r-none"]


@pytest.mark.campaign
def test_billing_rejected_rows_again_and_again(spark, write, bill, tmp_path):
    usage = write([call(1, model="x")])
    for n in range(3):
        assert bill(usage, output=f"o{n}")[0] == 6
        usage = str(tmp_path / f"o{n}" / "rejected")
    names = spark.read.parquet(usage).columns
    assert {"reject_reason", "source_reject_reason", "source_source_reject_reason"} <= set(names)


def impatient_bill(spark, usage, output):
    """As the next run does it, but without the wait for the one before, which is dead."""
    prices = PriceList.bundled("emr-serverless-spark", currency="USD")
    given = {"prices": prices, "output": str(output), "source": "the log", "publishing_patience": 0}
    return bill_usage(spark.read.parquet(usage), **given)


def test_an_interrupt_after_the_commit_keeps_the_run(spark, write, bill, tmp_path, monkeypatch):
    usage = write([call(1)])

    def interrupted(self, relative, text, create=Storage.create):
        assert create(self, relative, text)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "create", interrupted)
        with pytest.raises(KeyboardInterrupt):
            bill(usage)
    impatient_bill(spark, write([call(2, COMMERCIAL_START + 24 * HOUR)], "next"), tmp_path / "out")
    assert [b["requests"] for b in rows(spark, tmp_path / "out", "bills")] == [1, 1]


def test_half_a_record_is_an_error_with_a_way_out(write, bill, tmp_path):
    record = tmp_path / "out" / "ledger" / "runs" / f"{1:020}.json"
    record.parent.mkdir(parents=True)
    record.write_text("")
    code, _, err = bill(write([call(1)]))
    assert code == 2
    assert "delete that file" in err
    record.write_text('{"run": 1}')
    code, _, err = bill(write([call(1)]))
    assert code == 2
    assert "another version of spark_billing" in err


def test_one_output_one_currency(write, bill):
    usage = write([call(1)])
    assert bill(usage)[0] == 0
    code, _, err = bill(usage, currency="CNY")
    assert code == 2
    assert "holds bills in USD" in err


@pytest.mark.campaign
@pytest.mark.parametrize("lost", ["bills", "ledger/lines", "bill_lines", "rejected"])
def test_totals_that_do_not_balance_publish_nothing(spark, write, bill, tmp_path, monkeypatch, lost):
    usage = write([call(1), call(2, model="x")])
    assert bill(usage)[0] == 0
    before = files(tmp_path / "out")

    def lossy(self, rows, path, *how, write=Staging.write):
        write(self, rows.limit(1) if lost in path else rows, path, *how)

    monkeypatch.setattr(Staging, "write", lossy)
    other = call(3, workspace_id="w-2")
    code, _, err = bill(write([call(1), other, call(4, model="x"), call(5, model="y")]))
    assert code == 1
    assert "totals do not balance" in err
    assert files(tmp_path / "out") == before
    assert os.listdir(tmp_path / "out" / "ledger" / "runs") == [f"{1:020}.json"]
    assert len(os.listdir(tmp_path / "out" / "ledger" / "lines")) == 1
    assert not (tmp_path / "out" / "_staging").exists()


@pytest.mark.campaign
@pytest.mark.parametrize(("times", "code"), [(1, 0), (3, 5)])
def test_of_two_runs_at_once_the_second_starts_over_or_gives_up(spark, write, bill, tmp_path, monkeypatch, times, code):
    usage = write([call(1), call(2, model="x")])
    settle, beaten_by = run.settle, []

    def beaten(*arguments):
        settled = settle(*arguments)
        if len(beaten_by) < times:
            with monkeypatch.context() as patch:
                patch.setattr(run, "settle", settle)
                beaten_by.append(bill(usage)[0])
        return settled

    monkeypatch.setattr(run, "settle", beaten)
    found, _, err = bill(usage)
    assert (found, beaten_by) == (code, [0] * times)
    assert ("other runs committed" in err) == (code == 5)
    assert [b["amount"] for b in rows(spark, tmp_path / "out", "bills")] == [ONE]
    assert [r["request_id"] for r in rows(spark, tmp_path / "out", "rejected", "request_id")] == ["r-2"]
    assert len(os.listdir(tmp_path / "out" / "ledger" / "runs")) == times + (code == 0)
    assert len(os.listdir(tmp_path / "out" / "ledger" / "lines")) == 1  # only the first run had anything to add
    assert not (tmp_path / "out" / "_staging").exists()


@pytest.mark.campaign
@pytest.mark.parametrize("moves", range(4))
def test_a_kill_while_publishing_is_finished_by_the_next_run(spark, write, bill, tmp_path, monkeypatch, moves):
    assert bill(write([call(1), call("bad", model="x")]))[0] == 0
    done = []

    def killed(self, source, target, move=Storage.move):
        if len(done) == moves:
            raise KeyboardInterrupt
        done.append(target)
        move(self, source, target)

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "move", killed)
        usage = write([call(1), call(2), call("bad", COMMERCIAL_START + 24 * HOUR, model="y")], "usage2")
        if moves < 3:
            with pytest.raises(KeyboardInterrupt):
                bill(usage)
    # the next run bills another day, and first finishes the one that was killed
    impatient_bill(spark, write([call(3, COMMERCIAL_START + 48 * HOUR)], "usage3"), tmp_path / "out")
    bills = rows(spark, tmp_path / "out", "bills")
    assert [(str(b["billing_date"]), b["requests"]) for b in bills] == [
        ("2026-04-08", 2 if moves < 3 else 1),
        ("2026-04-10", 1),
    ]
    assert not (tmp_path / "out" / "_staging").exists()


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as stop:
        hourly_bill(["--help"])
    out = capsys.readouterr().out
    assert stop.value.code == 0
    for words in ("examples:", "exit codes:", "--call-time-zone", "--demo"):
        assert words in out


def test_version(capsys):
    with pytest.raises(SystemExit):
        hourly_bill(["--version"])
    assert capsys.readouterr().out.startswith("spark-billing 0.")


@pytest.mark.parametrize(
    ("currency", "example"), [("USD", "0.5308"), pytest.param("CNY", "3.696", marks=pytest.mark.campaign)]
)
def test_the_demo(capsys, tmp_path, currency, example):
    assert hourly_bill(["--demo", "--currency", currency, "--output", str(tmp_path / "demo")]) == 0
    out = capsys.readouterr().out
    assert f"10,000 calls in Hangzhou in the hour 2026-04-08T10: {example} {currency}" in out
    total = next(line for line in out.splitlines() if line.startswith("Total: ")).removeprefix("Total: ")
    assert f"request by request with the vectorized UDF: {total}" in out
    assert any(line.startswith("w-0000000000example") and line.endswith(example) for line in out.splitlines())


@pytest.mark.campaign
def test_the_steps_of_a_run_have_names(spark, write, bill, tmp_path):
    """What an operator sees in Spark's UI, event log and history server; nothing of it stays behind."""
    usage = write([call(1), call(1), call(2, workspace_id=None)])
    context = spark.sparkContext
    before = {name: context.getLocalProperty(name) for name in ("spark.jobGroup.id", "spark.job.description")}
    assert bill(usage)[0] == 0
    group = f"bill the log into {tmp_path / 'out'}"
    jobs = context.statusTracker().getJobIdsForGroup(group)
    assert len(jobs) > 5
    assert {name: context.getLocalProperty(name) for name in before} == before
    store = context._jsc.sc().statusStore()
    steps = {store.job(number).description().get() for number in jobs}
    assert steps == {
        "count the calls and look for repeats by hash",
        "compare the calls that share a hash",
        "compare the conflicts with those of the ledger",
        "sum the calls by price",
        "add the difference to the ledger",
        "rebuild the tables of the touched dates",
        "prove the totals from what was written",
        "write the rejected rows and the details",
    }
