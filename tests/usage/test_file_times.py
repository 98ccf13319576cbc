"""What the files under a usage table hold as times, whatever the table calls them."""

from contextlib import contextmanager
from datetime import datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import functions as F

from spark_billing import UsageError
from spark_billing.usage import file_times
from spark_billing.usage.file_times import Footer, Time
from spark_billing.usage.files import read_usage
from spark_billing.usage.mapping import map_columns, usage_session
from spark_billing.usage.reading import Reading
from tests.conftest import CALL

pytestmark = pytest.mark.classic

AT = datetime(2026, 5, 1)
INSTANT, ZONELESS = (pa.timestamp("us", "UTC"), pa.timestamp("us"))
NANOS, ZONELESS_NANOS = (pa.timestamp("ns", "UTC"), pa.timestamp("ns"))
REST = {name: value for name, value in CALL.items() if name != "call_time"}


def file(path, dtype, at=AT, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    row = {name: pa.array([value]) for name, value in REST.items()}
    pq.write_table(pa.table({**row, "call_time": pa.array([at], dtype), **more}), path, version="2.6")


def instants(spark, location, zone=None, columns=None, file_format="parquet", where="true"):
    """The instants of the calls, in microseconds, as a run reads them."""
    with usage_session(spark, zone):
        source = read_usage(spark, str(location), file_format).rows.where(where)
        usage = map_columns(source, columns or {}, call_time_zone=zone)
        return sorted(row[0] for row in usage.select(F.unix_micros("call_time")).collect())


def us(at, hours=0):
    return int((at - timedelta(hours=hours) - datetime(1970, 1, 1)) / timedelta(microseconds=1))


def refused(spark, *words, **given):
    with pytest.raises(UsageError) as refusal:
        instants(spark, **given)
    for word in words:
        assert word in str(refusal.value)
    return refusal.value


@contextmanager
def table(spark, path, columns="", name="calls", using="parquet"):
    ddl = columns or ", ".join(
        [*(f"{n} {'bigint' if 'tokens' in n else 'string'}" for n in REST), "call_time timestamp"]
    )
    spark.sql(f"CREATE TABLE {name} ({ddl}) USING {using} LOCATION '{path}'")
    try:
        yield
    finally:
        spark.sql(f"DROP TABLE {name}")


ZONES = [None, pytest.param("Asia/Shanghai", marks=pytest.mark.campaign)]


@pytest.mark.parametrize("first", [pytest.param("instant", marks=pytest.mark.campaign), "wall-clock"])
@pytest.mark.parametrize("zone", ZONES)
def test_a_folder_of_both_kinds(spark, tmp_path, first, zone):
    kinds = {"instant": INSTANT, "wall-clock": ZONELESS}
    for name, (kind, dtype) in zip("ab", sorted(kinds.items(), key=lambda item: item[0] != first)):
        file(tmp_path / "usage" / f"{name} {kind}.parquet", dtype)
    words = ("instant.parquet", "wall-clock.parquet", "no zone can")
    refused(spark, *words, location=tmp_path / "usage", zone=zone)


@pytest.mark.parametrize("zone", ZONES)
def test_a_table_that_calls_times_without_a_zone_instants(spark, tmp_path, zone):
    file(tmp_path / "usage" / "a.parquet", ZONELESS)
    with table(spark, tmp_path / "usage"):
        error = refused(
            spark, "a.parquet", "the table calls it an instant", location="calls", file_format="table", zone=zone
        )
        assert error.parameter == "call_time_zone"
        spark.sql("CREATE OR REPLACE TEMPORARY VIEW some_calls AS SELECT * FROM calls")
        refused(spark, "a.parquet", location="some_calls", file_format="table", zone=zone)
    assert instants(spark, tmp_path / "usage", "Asia/Shanghai") == [us(AT, 8)]  # the way out


def test_a_later_partition_counts_if_it_is_read(spark, tmp_path):
    file(tmp_path / "usage" / "day=1" / "a.parquet", INSTANT)
    file(tmp_path / "usage" / "day=2" / "b.parquet", ZONELESS)
    refused(spark, "day=1/a.parquet", "day=2/b.parquet", location=tmp_path / "usage")
    assert instants(spark, tmp_path / "usage", where="day = 1") == [us(AT)]


def test_what_a_condition_leaves_out_is_not_looked_at(spark, usd, tmp_path):
    """Though its type may become another one by what the footers say."""
    file(tmp_path / "u" / "day=1" / "a.parquet", NANOS)
    file(tmp_path / "u" / "day=2" / "b.parquet", ZONELESS_NANOS)
    (tmp_path / "u" / "day=2" / "c.parquet").write_text("not Parquet, but long enough")
    for where in ("day = 1", "day < 2 AND call_time > timestamp'2026-01-01 00:00:00Z'"):
        with usage_session(spark, None):
            usage = Reading(where=where).read(spark, str(tmp_path / "u"), usd).usage
            assert [row[0] for row in usage.select(F.unix_micros("call_time")).collect()] == [us(AT)]


@pytest.mark.campaign
def test_a_column_that_the_time_does_not_come_from_does_not_count(spark, tmp_path):
    for name, dtype in (("a", INSTANT), ("b", ZONELESS)):
        file(tmp_path / "usage" / f"{name}.parquet", INSTANT, seen=pa.array([AT], dtype))
    assert instants(spark, tmp_path / "usage") == [us(AT)] * 2
    refused(spark, "a.parquet", "b.parquet", location=tmp_path / "usage", columns={"call_time": "seen"})


def test_a_nested_field(spark, tmp_path):
    for name, dtype in (("a", INSTANT), ("b", ZONELESS)):
        nested = pa.array([{"Times": {"done": AT}}], pa.struct([("Times", pa.struct([("done", dtype)]))]))
        file(tmp_path / "usage" / f"{name}.parquet", INSTANT, span=nested)
    assert instants(spark, tmp_path / "usage") == [us(AT)] * 2
    columns = {"call_time": "span.times.done"}
    refused(spark, "span.Times.done", "a.parquet", "b.parquet", location=tmp_path / "usage", columns=columns)
    columns = {"call_time": "greatest(call_time, span.times.done)"}
    refused(spark, "span.Times.done", location=tmp_path / "usage", columns=columns, zone="UTC")


@pytest.mark.campaign
def test_a_view_that_makes_instants(spark, tmp_path):
    file(tmp_path / "one" / "a.parquet", INSTANT)
    file(tmp_path / "other" / "b.parquet", ZONELESS)
    spark.read.parquet(str(tmp_path / "one")).createOrReplaceTempView("one")
    spark.read.parquet(str(tmp_path / "other")).createOrReplaceTempView("other")
    spark.sql("CREATE OR REPLACE TEMPORARY VIEW both AS SELECT * FROM one UNION ALL SELECT * FROM other")
    for zone in (None, "Asia/Shanghai"):  # which the union does not ask for
        refused(spark, "b.parquet", "by a view or by a union", location="both", file_format="table", zone=zone)


def test_a_timestamp_over_text(spark, tmp_path):
    (tmp_path / "usage").mkdir()
    (tmp_path / "usage" / "a.json").write_text('{"call_time": "2026-05-01 00:00:00"}\n')
    names = ", ".join(f"{n} string" for n in REST)
    with table(spark, tmp_path / "usage", f"{names}, call_time timestamp", using="json"):
        refused(spark, "a.json", "Declare it as string", location="calls", file_format="table")
        assert instants(spark, "calls", "Asia/Shanghai", file_format="table") == [us(AT, 8)]


@pytest.mark.parametrize(
    ("dtype", "zone", "hours"),
    [
        pytest.param(NANOS, None, 0, marks=pytest.mark.campaign),
        pytest.param(NANOS, "Asia/Shanghai", 0, marks=pytest.mark.campaign),
        (ZONELESS_NANOS, "Asia/Shanghai", 8),
    ],
)
def test_nanoseconds_are_read(spark, tmp_path, dtype, zone, hours):
    """Also beside microseconds, before 1970, in a struct, and with the partitions of the folder."""
    plain = INSTANT if dtype is NANOS else ZONELESS
    file(tmp_path / "u" / "day=1" / "a.parquet", plain)
    file(tmp_path / "u" / "day=2" / "b.parquet", dtype, pa.array([-1], pa.int64()).cast(dtype)[0].as_py())
    nested = pa.array([{"at": AT}], pa.struct([("at", dtype)]))
    file(tmp_path / "u" / "day=2" / "c.parquet", dtype, AT + timedelta(microseconds=1), span=nested)
    found = instants(spark, tmp_path / "u", zone)
    assert found == sorted([us(AT, hours), us(AT, hours) + 1, -1 - hours * 3_600_000_000])
    columns = {"call_time": "span.at", "workspace_id": "day"}
    with usage_session(spark, zone):
        usage = map_columns(read_usage(spark, str(tmp_path / "u"), None).rows, columns, call_time_zone=zone)
        rows = usage.filter("call_time IS NOT NULL").select("workspace_id", F.unix_micros("call_time")).collect()
    assert [tuple(row) for row in rows] == [("2", us(AT, hours))]


@pytest.mark.campaign
def test_nanoseconds_without_a_zone_need_one(spark, tmp_path):
    file(tmp_path / "u" / "a.parquet", ZONELESS_NANOS)
    refused(spark, "without a zone", location=tmp_path / "u")
    file(tmp_path / "u" / "b.parquet", INSTANT)
    refused(spark, "a.parquet", "b.parquet", location=tmp_path / "u", zone="UTC")
    with table(spark, tmp_path / "u"):
        refused(spark, "a.parquet", location="calls", file_format="table", zone="UTC")


@pytest.mark.campaign
def test_a_table_over_nanoseconds(spark, tmp_path):
    file(tmp_path / "u" / "a.parquet", NANOS)
    with table(spark, tmp_path / "u"):
        refused(spark, "a.parquet", "by their path", location="calls", file_format="table")


@pytest.mark.campaign
def test_files_that_say_nothing(spark, tmp_path):
    file(tmp_path / "u" / "a.parquet", INSTANT)
    (tmp_path / "u" / "b.parquet").touch()
    file(tmp_path / "u" / "c.parquet", INSTANT)
    assert instants(spark, tmp_path / "u") == [us(AT)] * 2
    (tmp_path / "u" / "d.parquet").write_text("not Parquet, but long enough")
    error = refused(spark, "d.parquet", location=tmp_path / "u")
    assert "\n" not in str(error)


def test_many_files_are_looked_at_once_and_by_the_executors(spark, tmp_path, monkeypatch):
    for n in range(40):
        file(tmp_path / "u" / f"{n}.parquet", INSTANT)
    asked, footers = [], file_times.footers
    monkeypatch.setattr(file_times, "footers", lambda *given: asked.append(given) or footers(*given))
    tracker = spark.sparkContext.statusTracker()
    spark.sparkContext.setJobGroup("look", "look")
    try:
        assert len(instants(spark, tmp_path / "u")) == 40
        tasks = [
            tracker.getStageInfo(stage).numTasks
            for job in tracker.getJobIdsForGroup("look")
            for stage in tracker.getJobInfo(job).stageIds
        ]
    finally:
        for name in ("spark.jobGroup.id", "spark.job.description"):
            spark.sparkContext.setLocalProperty(name, None)
    assert len(asked) == 1
    assert 3 in tasks  # of 16 files each


@pytest.mark.parametrize(
    ("schema", "times"),
    [
        ("optional int64 t (TIMESTAMP(MICROS,true));", {("t",): Time(False, False)}),
        ("required int64 t (TIMESTAMP(NANOS,false)) = 7;", {("t",): Time(True, True)}),
        ("optional int96 t;", {("t",): Time(False, False)}),
        ("optional int64 a (b); c (TIMESTAMP(MILLIS,false));", {("a (b); c",): Time(True, False)}),
        (
            "optional int64 t;\n  optional binary s (STRING);\n  optional fixed_len_byte_array(16) d (DECIMAL(38,0));",
            {},
        ),
        (
            "optional group a {\n    optional group b {\n      optional int96 t;\n    }\n    optional int96 u;\n  }\n"
            "  optional int64 t (TIMESTAMP(NANOS,true));",
            {("a", "b", "t"): Time(False, False), ("a", "u"): Time(False, False), ("t",): Time(False, True)},
        ),
    ],
)
def test_the_times_in_a_parquet_schema(schema, times):
    assert Footer(f"message spark_schema {{\n  {schema}\n}}\n", ["f"]).times == times
