"""What a run adds to the ledger: differences, their reasons, and the bills that they lower; by hand, line by line."""

from datetime import datetime, timezone
from decimal import Decimal

from spark_billing.core.hours import UTC8_SECONDS
from spark_billing.core.schemas import BILL_LINES
from spark_billing.ledger.difference import difference, lowered_bills, net_lines

START = datetime(2026, 4, 7, 16, tzinfo=timezone.utc)  # 2026-04-08T00 in UTC+8


def lines(spark, *rows, tag=False):
    """Bill lines from (workspace, token type, tier, price, requests, tokens[, team]), in hour 0 of 2026-04-08."""
    schema = BILL_LINES if not tag else BILL_LINES.fromJson(BILL_LINES.jsonValue()).add("tag_team", "string")
    made = []
    for workspace, token_type, tier, price, requests, tokens, *team in rows:
        end = datetime.fromtimestamp(START.timestamp() + 3600, timezone.utc)
        day = datetime.fromtimestamp(START.timestamp() + UTC8_SECONDS, timezone.utc).date()
        key = (workspace, "cn-hangzhou", "qwen-plus", START, end, day, 0, token_type, tier, f"qwen-plus/{tier}", "USD")
        made.append((*key, requests, tokens, Decimal(price), tokens * Decimal(price) / 1000, *team))
    return spark.createDataFrame(made, schema)


LOW, HIGH, DEARER = "0.000138", "0.000414", "0.000150"
T1, T2 = "0-128K", "128K-256K"

HELD = [
    ("same", "input", T1, LOW, 2, 520),
    ("same", "output", T1, "0.000344", 2, 100),
    ("late", "input", T1, LOW, 2, 520),
    ("late", "output", T1, "0.000344", 2, 100),
    ("late in another tier", "input", T1, LOW, 2, 520),
    ("withdrawn", "input", T1, LOW, 3, 780),
    ("all withdrawn", "input", T1, LOW, 1, 260),
    ("dearer", "input", T1, LOW, 2, 520),
    ("dearer and late", "input", T1, LOW, 2, 520),
    ("another K", "input", T1, LOW, 5, 700_000),
    ("another K", "input", T2, HIGH, 1, 130_000),
    ("no output counted", "output", T1, "0.000344", 1, 0),
]
NOW = [
    ("new", "input", T1, LOW, 1, 260),
    ("same", "input", T1, LOW, 2, 520),
    ("same", "output", T1, "0.000344", 2, 100),
    ("late", "input", T1, LOW, 3, 780),
    ("late", "output", T1, "0.000344", 3, 100),  # the late call had no output
    ("late in another tier", "input", T1, LOW, 2, 520),
    ("late in another tier", "input", T2, HIGH, 1, 200_000),
    ("withdrawn", "input", T1, LOW, 2, 520),
    ("dearer", "input", T1, DEARER, 2, 520),
    ("dearer and late", "input", T1, DEARER, 3, 780),
    ("another K", "input", T1, LOW, 6, 830_000),
    ("no output counted", "output", T1, "0.000344", 1, 0),
]
ADDED = [  # workspace, token type, tier, requests, tokens, amount, entry, reason
    ("all withdrawn", "input", T1, -1, -260, "-0.00003588", "adjustment", "withdrawn_usage"),
    ("another K", "input", T1, 1, 130_000, "0.01794", "adjustment", "price_change"),
    ("another K", "input", T2, -1, -130_000, "-0.05382", "adjustment", "price_change"),
    ("dearer", "input", T1, -2, -520, "-0.00007176", "adjustment", "price_change"),
    ("dearer", "input", T1, 2, 520, "0.000078", "adjustment", "price_change"),
    ("dearer and late", "input", T1, -2, -520, "-0.00007176", "adjustment", "price_change"),
    ("dearer and late", "input", T1, 3, 780, "0.000117", "adjustment", "price_change"),
    ("late", "input", T1, 1, 260, "0.00003588", "adjustment", "late_usage"),
    ("late", "output", T1, 1, 0, "0", "adjustment", "late_usage"),
    ("late in another tier", "input", T2, 1, 200_000, "0.0828", "adjustment", "late_usage"),
    ("new", "input", T1, 1, 260, "0.00003588", "original", None),
    ("withdrawn", "input", T1, -1, -260, "-0.00003588", "adjustment", "withdrawn_usage"),
]


def told(added):
    names = ("workspace_id", "token_type", "tier", "requests", "tokens", "amount", "entry", "reason")
    return sorted((tuple(row) for row in added.select(*names).collect()), key=lambda row: row[:4])


def test_every_kind_of_difference(spark, ansi):
    expected = [(*row[:5], Decimal(row[5]), *row[6:]) for row in ADDED]
    assert told(difference(lines(spark, *NOW), lines(spark, *HELD))) == expected


def test_the_ledger_and_the_difference_are_the_bill(spark):
    held, now = lines(spark, *HELD), lines(spark, *NOW)
    after = net_lines(held.unionByName(difference(held=held, lines=now).select(*held.columns)))
    assert sorted(map(str, after.collect())) == sorted(map(str, now.collect()))


def test_never_billed_is_original(spark):
    added = difference(lines(spark, *NOW), None)
    assert {(row["entry"], row["reason"]) for row in added.collect()} == {("original", None)}
    assert added.count() == len(NOW)


def test_other_tags_are_no_other_usage(spark):
    held = lines(spark, ("w", "input", T1, LOW, 3, 780))
    now = lines(spark, ("w", "input", T1, LOW, 1, 260, "a"), ("w", "input", T1, LOW, 2, 520, "b"), tag=True)
    added = difference(now, held)
    assert [(row[3], row[7]) for row in told(added)] == [(-3, "regrouped"), (1, "regrouped"), (2, "regrouped")]
    assert {row["tag_team"] for row in added.collect()} == {None, "a", "b"}
    assert lowered_bills(added).count() == 0


def new_copies(spark, **copies):
    names = "workspace_id string, period_start timestamp, region string, model string, copies bigint"
    made = [(workspace, START, "cn-hangzhou", "qwen-plus", n) for workspace, n in copies.items()]
    return spark.createDataFrame(made, names)


def explained(spark, *rows):
    """By how much bills may fall, from (workspace, requests, input tokens, output tokens, amount)."""
    names = "workspace_id string, period_start timestamp, "
    names += "requests bigint, input_tokens bigint, output_tokens bigint, amount decimal(38,12)"
    made = [(workspace, START, n, i, o, Decimal(amount)) for workspace, n, i, o, amount in rows]
    return spark.createDataFrame(made, names)


def test_a_conflict_of_copies_is_a_reason_of_its_own(spark):
    held = lines(spark, ("loses", "input", T1, LOW, 2, 520), ("swaps", "input", T1, LOW, 1, 260))
    now = lines(
        spark,
        ("loses", "input", T1, LOW, 1, 260),
        ("swaps", "input", T1, LOW, 1, 250),
        ("gains", "input", T1, LOW, 1, 260),
    )
    added = difference(now, held, new_copies(spark, loses=1, swaps=2, gains=1))
    assert [(row[0], row[3], row[4], row[7]) for row in told(added)] == [
        ("gains", 1, 260, None),  # its hour was never billed before
        ("loses", -1, -260, "conflict"),
        ("swaps", 0, -10, "conflict"),
    ]
    all_of_it = explained(spark, *((name, 1, 260, 0, "0.00003588") for name in ("loses", "swaps")))
    assert {(row["workspace_id"], row["by_conflict"]) for row in lowered_bills(added, all_of_it).collect()} == {
        ("loses", True),
        ("swaps", True),
    }
    all_but_a_token = explained(spark, ("loses", 1, 259, 0, "0.00003588"))
    assert {(row["workspace_id"], row["by_conflict"]) for row in lowered_bills(added, all_but_a_token).collect()} == {
        ("loses", False),
        ("swaps", False),
    }


def test_lowered_bills(spark):
    found = {
        row["workspace_id"]: (row["requests"], row["input_tokens"], row["output_tokens"], row["amount"])
        for row in lowered_bills(difference(lines(spark, *NOW), lines(spark, *HELD))).collect()
    }
    assert found == {
        "all withdrawn": (-1, -260, 0, Decimal("-0.00003588")),
        "another K": (0, 0, 0, Decimal("-0.03588")),
        "withdrawn": (-1, -260, 0, Decimal("-0.00003588")),
    }
