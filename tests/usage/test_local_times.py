"""Local times where a zone's clock is changed, worked out from the rules of the zones by hand."""

import pytest
from pyspark.sql import functions as F

from spark_billing import check_usage
from spark_billing.usage.local_times import is_ambiguous
from spark_billing.usage.mapping import map_columns, usage_session
from tests.conftest import CALL, setting

pytestmark = pytest.mark.classic

# of each local time the instant, or None: two or none
TIMES = {
    "America/New_York": {
        "2026-11-01 00:59:59.999999": "2026-11-01T04:59:59.999999Z",
        "2026-11-01 01:00:00": None,  # the clock goes back from 02:00 to 01:00
        "2026-11-01 01:59:59.999999": None,
        "2026-11-01 02:00:00": "2026-11-01T07:00:00Z",
        "2026-03-08 01:59:59.999999": "2026-03-08T06:59:59.999999Z",
        "2026-03-08 02:00:00": None,  # and on from 02:00 to 03:00
        "2026-03-08 02:59:59.999999": None,
        "2026-03-08 03:00:00": "2026-03-08T07:00:00Z",
        "2026-07-01 01:30:00": "2026-07-01T05:30:00Z",
        "0001-01-02 12:00:00": "0001-01-02T16:56:02Z",  # local mean time
    },
    "Australia/Lord_Howe": {  # by half an hour, at 02:00
        "2026-04-05 01:29:59": "2026-04-04T14:29:59Z",
        "2026-04-05 01:30:00": None,
        "2026-04-05 02:00:00": "2026-04-04T15:30:00Z",
        "2026-10-04 02:15:00": None,
        "2026-10-04 02:30:00": "2026-10-03T15:30:00Z",
    },
    "Pacific/Apia": {  # left out the 30th of December 2011
        "2011-12-29 23:59:59": "2011-12-30T09:59:59Z",
        "2011-12-30 12:00:00": None,
        "2011-12-31 00:00:00": "2011-12-30T10:00:00Z",
    },
    "Asia/Shanghai": {  # has had no summer time since 1991
        "1991-09-15 01:30:00": None,
        "1991-09-15 02:00:00": "1991-09-14T18:00:00Z",
        "2026-11-01 01:59:59": "2026-10-31T17:59:59Z",
    },
    "+08:00": {"2026-11-01 01:59:59": "2026-10-31T17:59:59Z"},
}


@pytest.mark.parametrize(
    "zone",
    ["America/New_York", *(pytest.param(z, marks=pytest.mark.campaign) for z in TIMES if z != "America/New_York")],
)
def test_two_instants_or_none(spark, zone):
    times = [*TIMES[zone], None]
    with setting(spark, "spark.sql.session.timeZone", zone):
        local = spark.createDataFrame([(time,) for time in times], "at string").withColumn(
            "local", F.expr("cast(at AS timestamp_ntz)")
        )
        instant = F.col("local").cast("timestamp")
        ambiguous = is_ambiguous(spark, F.col("local"), instant, zone)
        rows = local.select("at", ambiguous.alias("ambiguous"), F.unix_micros(instant).alias("us")).collect()
        expected = spark.createDataFrame([(text,) for text in TIMES[zone].values()], "at string").select(
            F.unix_micros(F.to_timestamp("at"))
        )
        instants = [row[0] for row in expected.collect()]
    assert [row["ambiguous"] for row in rows] == [us is None for us in instants] + [False]
    assert [None if row["ambiguous"] else row["us"] for row in rows] == [*instants, None]


@pytest.mark.parametrize("dtype", ["string", pytest.param("timestamp_ntz", marks=pytest.mark.campaign)])
def test_a_row_at_a_clock_change_is_rejected(spark, usd, dtype):
    times = {"2026-11-01 01:59:59": "ambiguous_call_time", "2026-03-08 02:30:00": "ambiguous_call_time"}
    times |= {"2026-11-01 03:00:05": None, "2026-02-30 12:00:00": "missing_call_time"}
    if dtype == "string":
        times |= {"2026-11-01T01:59:59-04:00": None, "2026-11-01 01:30": "ambiguous_call_time"}
    rest = {name: value for name, value in CALL.items() if name not in ("call_time", "request_id")}
    source = spark.createDataFrame([(at,) for at in times], "request_id string").withColumns(
        {
            **{name: F.lit(value) for name, value in rest.items()},
            "call_time": F.expr(f"try_cast(request_id AS {dtype})"),
        }
    )
    with usage_session(spark, "America/New_York"):
        usage = map_columns(source, {}, call_time_zone="America/New_York")
        rows = check_usage(usage, prices=usd).select("request_id", "reject_reason").collect()
    assert dict(map(tuple, rows)) == times
