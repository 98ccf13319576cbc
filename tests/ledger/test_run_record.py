"""The record of a run, to and from JSON, by every version that has kept a ledger."""

import json
from decimal import Decimal

import pytest

from spark_billing.core.errors import OutputError
from spark_billing.core.hours import Period
from spark_billing.ledger.run_record import AddedLines, LineSums, RunRecord
from spark_billing.usage.used_version import UsedVersion

START = 1775577600  # 2026-04-08T00 in UTC+8
SUMS = {"lines": 2, "requests": 2, "tokens": 310, "amount": "0.000053080000"}
# As the versions since the first with control totals in tokens have written it
RECORD = {
    "run": 2,
    "run_id": "20260408T010203Z-0a1b2c3d-1",
    "parent": "20260408T000000Z-00000000-1",
    "started_at": "2026-04-08T01:02:03+00:00",
    "committed_at": "2026-04-08T01:02:09+00:00",
    "as_of": "2026-04-08T09:02:03+08:00",
    "spark_version": "4.1.1",
    "source": "the log, ü",
    "arguments": {"usage": "u", "columns": {}, "as_of": None},
    "tag_columns": ["tag_team"],
    "price_list": {"name": "l", "version": "v", "currency": "USD", "tokens_per_k": 1000, "sha256": "abc"},
    "period": {"from": "2026-04-08T00", "to": "2026-04-08T02"},
    "hours": {
        "with_usage": 1,
        "first": "2026-04-08T00",
        "last": "2026-04-08T00",
        "billed_before_but_not_in_usage": [],
        "not_begun": ["2030-01-01T00", "2030-01-01T00"],
        "calls_not_begun": 1,
    },
    "totals": {
        "rows": {"read": 3, "billed": 2, "rejected": 1},
        "rejected": {"unknown_model": 1},
        "input_tokens": {"read": 780, "billed": 520, "rejected": 260, "charged": 520},
        "output_tokens": {"read": 150, "billed": 100, "rejected": 50, "charged": 100},
        "amount": "0.000106160000",
        "currency": "USD",
    },
    "covered": [["2026-04-08T00", "2026-04-08T02"]],
    "left_out": {"2026-04-08": {"lines": 2, "requests": 1, "tokens": 310, "amount": "0.000053080000"}},
    "ledger": {"reasons": {"late_usage": SUMS}, "hours": {"2026-04-08T00": SUMS}},
    "not_adjusted": {"reasons": {}, "hours": {}},
    "staging": "_staging/20260408T010203Z-0a1b2c3d/1",
    "replace": ["bills/billing_date=2026-04-08"],
    "remove": [],
}


def as_file(record):
    return json.dumps(record, indent=2, ensure_ascii=False) + "\n"


def test_what_is_read_is_written_to_the_byte():
    text = as_file(RECORD)
    assert RunRecord.from_json("r.json", text).to_json() == text


def test_its_values_have_types():
    record = RunRecord.from_json("r.json", as_file(RECORD))
    assert record.period == Period(START, START + 7200)
    assert record.covered == [(START, START + 7200)]
    assert record.left_out == {"2026-04-08": LineSums(2, 1, 310, Decimal("0.00005308"))}
    assert record.totals.amount == Decimal("0.00010616")
    assert record.ledger.hours == {START: LineSums(2, 2, 310, Decimal("0.00005308"))}
    assert record.price_list.tokens_per_k == 1000
    assert record.lines_path == "ledger/lines/run_id=20260408T010203Z-0a1b2c3d-1"


def test_a_first_run_without_period():
    first = {**RECORD, "run": 1, "parent": None, "period": None, "left_out": {}}
    record = RunRecord.from_json("r.json", as_file(first))
    assert (record.parent, record.period, record.left_out) == (None, None, {})
    assert record.to_json() == as_file(first)


@pytest.mark.parametrize("period", [RECORD["period"], None])
def test_the_first_ledgers_told_neither_what_they_covered_nor_conflicts_nor_tokens(period):
    old = {name: value for name, value in RECORD.items() if name not in ("covered", "left_out")}
    old = {
        **old,
        "period": period,
        "totals": {k: RECORD["totals"][k] for k in ("rows", "rejected", "amount", "currency")},
    }
    record = RunRecord.from_json("r.json", as_file(old))
    # without a period it covered at least the hours that it added to
    assert record.covered == ([(START, START + 7200)] if period else [(START, START + 3600)])
    assert (record.left_out, record.conflicts) == (None, None)  # unknown, which excuses nothing
    assert record.totals.amount == Decimal("0.00010616")
    assert record.totals.input_tokens == {}


@pytest.mark.parametrize("name", ["run", "run_id", "parent", "source", "price_list", "tag_columns", "ledger"])
def test_what_kept_no_ledger_is_refused(name):
    with pytest.raises(OutputError, match=f"r.json has no {name}: another version of spark_billing wrote it"):
        RunRecord.from_json("r.json", as_file({k: v for k, v in RECORD.items() if k != name}))


def test_half_a_record_is_refused():
    with pytest.raises(OutputError, match="is not a whole record"):
        RunRecord.from_json("r.json", as_file(RECORD)[:200])


def test_sums_by_reason_and_by_hour_add_up():
    a, b, c = (LineSums(n, n, n * 10, Decimal(n)) for n in (1, 2, 4))
    added = AddedLines.of({START: {"late_usage": a, "conflict": b}, START + 3600: {"late_usage": c}})
    assert added.reasons == {"late_usage": LineSums(5, 5, 50, Decimal(5)), "conflict": b}
    assert added.hours == {START: LineSums(3, 3, 30, Decimal(3)), START + 3600: c}
    assert LineSums(2, 0, 0, Decimal(0)).is_nothing
    assert not LineSums(2, 0, 0, Decimal("-0.000000000001")).is_nothing


def test_the_version_of_its_usage_is_kept_if_there_is_one():
    assert RunRecord.from_json("r.json", as_file(RECORD)).usage_version is None
    text = as_file({**RECORD, "usage_version": {"format": "delta", "version": "7"}})
    record = RunRecord.from_json("r.json", text)
    assert record.usage_version == UsedVersion("delta", "7")
    assert record.to_json() == text
