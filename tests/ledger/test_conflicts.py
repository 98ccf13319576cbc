"""What explains that a bill falls: what is left out for other copies since the last run, and nothing else. By hand."""

import json
from decimal import Decimal

import pytest
from pyspark.sql import functions as F

from spark_billing.ledger.conflicts import settle_conflicts
from spark_billing.ledger.earlier_conflicts import EarlierConflicts
from spark_billing.ledger.ledger import InMemory
from spark_billing.ledger.run_record import RunRecord
from spark_billing.ledger.summed_runs import SummedRuns
from tests.conftest import HOUR
from tests.ledger.test_run_record import RECORD, START
from tests.oracle import COMMERCIAL_START

NOW = (
    "workspace_id string, period_start timestamp, region string, model string, rival_at timestamp, requests bigint, "
    "input_tokens bigint, output_tokens bigint, amount decimal(38,12), beaten bigint"
)
COVERED = [START + n * 3600 for n in range(2, 6)]  # the hours 2 to 5 of 2026-04-08


class Known:
    """A ledger that has left out these rows."""

    def __init__(self, rows, records=()):
        self.rows, self.runs = rows, SummedRuns(earlier=EarlierConflicts().after(records))

    def left_out(self, dates):
        assert "2026-04-08" in dates
        return self.rows


def left_out(spark, *rows):
    """From (workspace, hour, rival hour, model, requests, amount, beaten), each of 260 input and 50 output tokens."""
    made = []
    for workspace, hour, rival, model, n, amount, beaten in rows:
        here, there = (COMMERCIAL_START + hours * HOUR for hours in (hour, rival))
        made.append((workspace, here, "r", model, there, n, n * 260, n * 50, Decimal(amount), beaten))
    return spark.createDataFrame(made, NOW)


def settled(spark, now, ledger, **given):
    at = {"closed": COVERED, "covered": COVERED, "lookback": 86_400, "number": 2, "run_id": "r-2", **given}
    return settle_conflicts(spark, ledger, now, InMemory(), **at)


def told(frame):
    return {row["workspace_id"]: tuple(row)[2:] for row in frame.collect()}


def test_what_is_left_out_since_the_last_run_explains_a_fall_and_nothing_else(spark):
    now = left_out(
        spark,
        ("new", 3, 4, "m", 2, "0.4", 0),
        ("standing", 3, 4, "m", 1000, "200", 0),
        ("one more", 3, 4, "m", 1001, "200.2", 0),
        ("fewer", 3, 4, "m", 1, "0.2", 0),
        ("dearer", 3, 4, "m", 5, "2", 0),
        ("two models", 3, 4, "m", 3, "0.6", 0),
        ("two models", 3, 4, "n", 1, "0.5", 0),
        ("points here", 4, 3, "m", 7, "1.4", 0),  # these are left out in hour 4, for copies in hour 3
        ("points here", 3, 4, "m", 0, "0", 7),
        ("outside", 9, 4, "m", 1, "0.2", 0),  # an hour around the period: its fate is not known here
    )
    before = left_out(
        spark,
        ("standing", 3, 4, "m", 600, "120", 0),  # of two runs
        ("standing", 3, 4, "m", 400, "80", 0),
        ("one more", 3, 4, "m", 1000, "200", 0),
        ("fewer", 3, 4, "m", 3, "0.6", 0),
        ("dearer", 3, 4, "m", 5, "1", 0),  # the same calls at half the price
        ("two models", 3, 4, "n", 2, "1", 0),
        ("gone", 5, 4, "m", 9, "1.8", 0),  # the usage has no row of hour 5, whose bill is left alone
    )
    hours = [START + hour * 3600 for hour in (2, 3, 4, 6)]
    found = settled(spark, now, Known(before), closed=hours, covered=hours)
    hours = found.explained.withColumn("hour", (F.unix_seconds("period_start") - START) / 3600).collect()
    explained = {row["workspace_id"]: tuple(row)[2:6] for row in hours if row["hour"] == 3}
    assert {tuple(row)[2:6] for row in hours if row["hour"] == 4} == {(7, 1820, 350, Decimal("1.4"))}
    none = (0, 0, 0, Decimal(0))
    assert explained == {
        "new": (2, 520, 100, Decimal("0.4")),
        "standing": none,
        "one more": (1, 260, 50, Decimal("0.2")),
        "fewer": none,
        "dearer": none,
        "two models": (2, 520, 100, Decimal("0.1")),  # 3 more of one, one less of the other
        "points here": none,
    }
    copies = {}
    for row in found.new_copies.collect():
        copies[row["workspace_id"]] = copies.get(row["workspace_id"], 0) + row["copies"]
    assert copies == {"new": 2, "one more": 1, "two models": 3, "points here": 14}
    # what is written is the difference, whatever the sums say
    assert {date: (sums.lines, sums.requests) for date, sums in found.added.items()} == {"2026-04-08": (8, 10)}


def test_a_copy_that_nobody_bills_takes_no_bill_away(spark):
    """The better copies lie in hours that this run does not bill: do the bills of these hours know them?"""
    now = left_out(
        spark,
        ("unknown", 3, 0, "m", 1, "0.2", 0),
        ("known", 3, 0, "m", 1, "0.2", 0),
        ("one is not", 3, 0, "m", 1001, "200.2", 0),
        ("with it", 3, 9, "m", 1, "0.2", 0),
        ("fewer", 3, 1, "m", 1, "0.2", 0),
        ("fewer", 3, 4, "m", 2, "0.4", 0),
    )
    before = left_out(
        spark,
        ("known", 0, 3, "m", 0, "0", 1),  # the run on hour 0 knew that a call of hour 3 is left out for one of it
        ("unknown", 0, 4, "m", 0, "0", 1),  # and here one of hour 4
        ("one is not", 0, 3, "m", 0, "0", 1000),
        ("one is not", 3, 0, "m", 1000, "200", 0),
        ("fewer", 3, 1, "m", 2, "0.4", 0),
    )
    found = settled(spark, now, Known(before), billed_with=[(START + 9 * 3600, START + 10 * 3600)])
    assert {name: row[0] for name, row in told(found.explained).items()} == {
        "unknown": 0,
        "known": 1,
        "one is not": 0,
        "with it": 1,
        "fewer": 1,  # two more for copies in hour 4, and one less for those in hour 1
    }
    assert [row["hour"] for row in found.unbilled.collect()] == [START]


def earlier_record(**changes):
    """Of a version that told its conflicts in the record: hours 0 to 5."""
    kept = {name: value for name, value in RECORD.items() if name != "left_out"}
    hours = [["2026-04-08T00", "2026-04-08T06"]]
    return RunRecord.from_json("r.json", json.dumps({**kept, "covered": hours, "conflicts": [], **changes}))


def test_what_earlier_versions_told_counts_until_a_run_covers_the_hour():
    row = ["w", "2026-04-08T03", "r", "m", True, "2026-04-08T04", 2, 520, 100, "0.4"]
    winner = ["w", "2026-04-08T04", "r", "m", False, "2026-04-08T04", 1, 270, 50, "0.3"]
    told_it, told_nothing = earlier_record(conflicts=[row, winner]), earlier_record(conflicts=None)
    assert [r["requests"] for r in EarlierConflicts().after([told_it]).rows] == [2, 0]
    assert EarlierConflicts().after([told_it, earlier_record()]).rows == []
    assert EarlierConflicts().after([told_nothing]).unknown == {START + n * 3600 for n in range(6)}
    # a later run knows some of these hours, hour by hour
    newer = RunRecord.from_json("r.json", json.dumps({**RECORD, "covered": [["2026-04-08T01", "2026-04-08T04"]]}))
    assert EarlierConflicts().after([told_nothing, newer]).unknown == {START, START + 4 * 3600, START + 5 * 3600}
    assert EarlierConflicts().after([newer]) == EarlierConflicts()


@pytest.mark.campaign
def test_what_earlier_versions_told_is_what_was_left_out_before(spark):
    row = ["w", "2026-04-08T03", "r", "m", True, "2026-04-08T04", 2, 520, 100, "0.4"]
    told_it, told_nothing = earlier_record(conflicts=[row]), earlier_record(conflicts=None)
    now = left_out(spark, ("w", 3, 4, "m", 3, "0.6", 0), ("w", 4, 3, "m", 0, "0", 3))
    of_list = settled(spark, now, Known(None, [told_it]))
    assert told(of_list.explained.filter("requests > 0")) == {"w": (1, 260, 50, Decimal("0.2"))}
    of_nothing = settled(spark, now, Known(None, [told_nothing]))
    assert of_nothing.explained.count() == 0
    # either way all of it is known from now on
    assert of_list.added == of_nothing.added
    assert of_list.added["2026-04-08"].requests == 3


@pytest.mark.campaign
def test_without_copies_there_is_nothing_to_settle(spark):
    assert settled(spark, None, Known(None)) is None
    assert settled(spark, left_out(spark, ("w", 3, 4, "m", 1, "1", 0)), Known(None), closed=[], covered=[]) is None
    # nothing is left out any more, as in a run that bills every copy
    before = left_out(spark, ("w", 3, 4, "m", 1, "1", 0))
    assert settled(spark, None, Known(before)).added["2026-04-08"].requests == -1
    # an hour that is too old to adjust stays as it was
    assert settled(spark, None, Known(before), covered=COVERED[2:]).added == {}
