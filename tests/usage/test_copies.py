"""Which copy of a call is billed: by chance and by hand against the rule in plain Python, in one table and in every
way to cut it in periods."""

import random
from datetime import datetime, timedelta, timezone

import pytest
from pyspark.sql import functions as F

from spark_billing import UsageError, bill_lines, check_usage, rerate
from spark_billing.core.schemas import TAGS
from spark_billing.usage.copies import KEEP_COPY, RIVAL, CopyRule, mark_copies
from spark_billing.usage.reasons import REASON_CODE
from tests.conftest import HOUR, call, setting, usage_frame
from tests.oracle import COMMERCIAL_START

HOUR_US = 3_600_000_000
START = 1_775_577_600 * 1_000_000  # 2026-04-08T00 in UTC+8
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
MARKS = {None: "billed", **{REASON_CODE[f"{name}_request"]: name for name in ("duplicate", "conflicting")}}
RATED = "workspace_id string, request_id string, region string, model string, call_time timestamp, " + (
    f"input_tokens bigint, output_tokens bigint, tags {TAGS.simpleString()}, reject int"
)


def content(copy):
    tags = copy["tags"]
    told = (copy["region"], copy["model"], tags is not None, sorted((tags or {}).items()))
    return (copy["at"], copy["input"], -1 if copy["output"] is None else copy["output"], *told)


def place(copy, keep):
    """The better copy is the smaller."""
    at, input_tokens, output_tokens, *rest = content(copy)
    fuller = (-input_tokens, -output_tokens)
    first = {"fullest": (*fuller, at), "earliest": (at, *fuller), "latest": (-at, *fuller)}
    return (*first[keep], *rest)


def fates(copies, reach, keep):
    """What becomes of the copies of one call, two by two; of identical ones how many are billed."""
    found = []
    for copy in copies:
        near = [other for other in copies if abs(other["at"] - copy["at"]) <= reach]
        if any(place(other, keep) < place(copy, keep) for other in near):
            found.append((content(copy), "conflicting"))
        else:
            is_second = (content(copy), "billed") in found
            found.append((content(copy), "duplicate" if is_second else "billed"))
    return sorted(found)


def made_up(rng, reach):
    """Some copies of a call, with times at and around the lookback and the bounds that it is searched by."""
    width = max(reach, 1)
    bound = START - START % width
    copies = []
    for _ in range(rng.randint(1, 8)):
        near_bound = bound + rng.randint(-1, 3) * width + rng.randint(-1, 1)
        of_other = rng.choice(copies)["at"] + rng.choice((-1, 1)) * (reach + rng.randint(-1, 1)) if copies else START
        copies.append(
            {
                "at": rng.choice((near_bound, of_other, START + rng.randint(0, 3 * width))),
                "input": rng.randint(1, 3),
                "output": rng.choice((None, 0, 1)),
                "region": rng.choice("aab"),
                "model": rng.choice("mmn"),
                "tags": rng.choice((None, {}, {"team": "x"}, {"user": None, "team": "x"})),
            }
        )
        if rng.random() < 0.3:
            copies.append(dict(rng.choice(copies)))
    return copies


def marked(spark, calls, rule):
    """The fates of named groups of copies, from one table."""
    rows = []
    for name, copies in calls:
        for c in copies:
            at = EPOCH + timedelta(microseconds=c["at"])
            rows.append(("w", name, c["region"], c["model"], at, c["input"], c["output"], c["tags"], None))
    found = {name: [] for name, _ in calls}
    checked = mark_copies(spark.createDataFrame(rows, RATED), rule)
    for row in checked.withColumn("at", F.unix_micros("call_time")).collect():
        copy = {"at": row["at"], "input": row["input_tokens"], "output": row["output_tokens"]}
        copy.update({name: row[name] for name in ("region", "model", "tags")})
        found[row["request_id"]].append((content(copy), MARKS[row["reject"]]))
        assert (row[RIVAL] is not None) == (MARKS[row["reject"]] == "conflicting")
    return {name: sorted(copies) for name, copies in found.items()}


ROUNDS = [pytest.param(seed, marks=[pytest.mark.campaign] * (seed > 0)) for seed in range(6)]
CUTS = (1, 2, 5, 7)  # hours of a period


@pytest.mark.parametrize("seed", ROUNDS)
@pytest.mark.parametrize("keep", KEEP_COPY)
def test_whatever_copies_there_are_and_however_the_time_is_cut(spark, seed, keep):
    rng, hours = random.Random(seed), (2, 0, 1, 3, 24, 2)[seed]
    rule, reach = CopyRule(hours, keep), hours * HOUR_US
    whole = [(f"call {n}", made_up(rng, reach)) for n in range(60)]
    # what a run over each period sees: the period, and the lookback before and after it
    views, periods = [], {}
    for name, copies in whole:
        for cut in CUTS:
            for n in sorted({c["at"] // (cut * HOUR_US) for c in copies}):
                start, end = n * cut * HOUR_US, (n + 1) * cut * HOUR_US
                seen = [c for c in copies if start - reach <= c["at"] < end + reach]
                if any(start <= c["at"] < end for c in seen):
                    view = f"{name}, {cut} hours from {start}"
                    views.append((view, seen))
                    periods.setdefault((name, cut), []).append((view, start, end))
    found = marked(spark, whole + views, rule)
    assert {name: found[name] for name, _ in whole} == {name: fates(copies, reach, keep) for name, copies in whole}
    for (name, _), of_cut in periods.items():
        inside = [told for view, start, end in of_cut for told in found[view] if start <= told[0][0] < end]
        assert sorted(inside) == found[name]


DAY, TICK = timedelta(hours=24), timedelta(microseconds=1)
AROUND_A_DAY = [
    # left out for a better one that is itself left out
    *(call("chain", COMMERCIAL_START + n * DAY, input_tokens=n + 1) for n in range(3)),
    call("near", COMMERCIAL_START, input_tokens=2),
    call("near", COMMERCIAL_START + DAY),
    call("far", COMMERCIAL_START),
    call("far", COMMERCIAL_START + DAY + TICK, input_tokens=261),
    # running totals: the last state is the bill
    *(call("totals", COMMERCIAL_START + n * TICK, output_tokens=o) for n, o in enumerate((1, 400, 800))),
]
FULLEST = [("chain", 3, 50), ("far", 260, 50), ("far", 261, 50), ("near", 260, 50), ("totals", 260, 800)]


def billed(checked):
    rows = checked.filter("reject_reason IS NULL").collect()
    return sorted((row["request_id"][2:], row["input_tokens"], row["output_tokens"]) for row in rows)


def test_the_lookback_is_exact(spark, usd):
    assert billed(check_usage(usage_frame(spark, AROUND_A_DAY), prices=usd)) == FULLEST


@pytest.mark.campaign
def test_the_rule_is_the_same_everywhere(spark, usd):
    usage = usage_frame(spark, AROUND_A_DAY)
    every = sorted((c["request_id"][2:], c["input_tokens"], c["output_tokens"]) for c in AROUND_A_DAY)
    earliest = [("chain", 1, 50), ("far", 260, 50), ("far", 261, 50), ("near", 2, 50), ("totals", 260, 1)]
    assert billed(check_usage(usage, prices=usd, keep_copy="earliest")) == earliest
    latest = [("chain", 3, 50), ("far", 260, 50), ("far", 261, 50), ("near", 260, 50), ("totals", 260, 800)]
    assert billed(check_usage(usage, prices=usd, keep_copy="latest")) == latest
    less = billed(check_usage(usage, prices=usd, dedup_lookback=23))
    assert less == [row for row in every if row[0] != "totals" or row[2] == 800]
    assert billed(check_usage(usage, prices=usd, duplicates=False)) == every
    for given, expected in (({}, FULLEST), ({"keep_copy": "earliest"}, earliest), ({"dedup_lookback": 23}, less)):
        lines = bill_lines(usage, prices=usd, **given).filter("token_type = 'input'")
        assert lines.agg({"tokens": "sum"}).collect()[0][0] == sum(tokens for _, tokens, _ in expected)
    # of a period, the copies around it have their say
    given = {"prices": usd, "other": usd, "period": ("2026-04-08T00", "2026-04-08T01")}
    (row,) = rerate(usage, **given).collect()
    assert row["requests"] == 2  # far and totals; the other two have fuller copies a day later
    (row,) = rerate(usage, **given, duplicates=False).collect()
    assert row["requests"] == 6


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"keep_copy": "newest"}, "fullest, earliest, latest"),
        ({"dedup_lookback": -1}, "from 0 to 999,999"),
        ({"dedup_lookback": 1.5}, "from 0 to 999,999"),
        ({"dedup_lookback": True}, "from 0 to 999,999"),
    ],
)
def test_a_rule_that_is_none(given, words):
    (parameter,) = given
    with pytest.raises(UsageError, match=words) as refused:
        CopyRule(**{{"keep_copy": "keep", "dedup_lookback": "lookback"}[parameter]: given[parameter]})
    assert refused.value.parameter == parameter


@pytest.mark.campaign
@pytest.mark.parametrize("ansi_setting", ["true", "false"])
def test_counts_that_no_call_has_overflow_nothing(spark, usd, ansi_setting):
    with setting(spark, "spark.sql.ansi.enabled", ansi_setting):
        counts = (-(2**63), 2**63 - 1, 260)
        calls = [call("o", COMMERCIAL_START + n * HOUR, input_tokens=tokens) for n, tokens in enumerate(counts)]
        checked = check_usage(usage_frame(spark, calls), prices=usd).collect()
        assert sorted(row["reject_reason"] or "" for row in checked) == [
            "",
            "input_tokens_out_of_range",
            "invalid_input_tokens",
        ]
