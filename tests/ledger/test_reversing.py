"""A way back from a wrong run: the opposite lines, nothing owed, and then the right bill."""

from decimal import Decimal

import pytest

from spark_billing import ledger_bills
from spark_billing.commands.bill_history import bill_history
from spark_billing.commands.maintain_ledger import maintain_ledger
from tests.conftest import HOUR, ONE, call, record, rows
from tests.ledger.made import opened
from tests.oracle import COMMERCIAL_START

pytestmark = pytest.mark.classic

FIRST, NEXT = COMMERCIAL_START, COMMERCIAL_START + HOUR
TEN_TOKENS = Decimal("0.00000138")  # of input
ONE_CNY = Decimal("0.0003696")  # CALL in Hangzhou: 260 x 0.00096 / 1000 + 50 x 0.0024 / 1000
WHY = ("--reason", "the log was of another region")


def added(path, number):
    """What a run added: reason -> (lines, amount)."""
    reasons = record(path, number)["ledger"]["reasons"]
    return {reason: (counts["lines"], Decimal(counts["amount"])) for reason, counts in reasons.items()}


def owed(spark, path):
    """(workspace, UTC+8 hour) -> (calls, amount), of the table and of the ledger alike."""
    bills = [
        {(b["workspace_id"], b["billing_hour"]): (b["requests"], b["amount"]) for b in found}
        for found in (published(spark, path), ledger_bills(spark, str(path)).collect())
    ]
    assert bills[0] == bills[1]
    return bills[0]


def published(spark, path):
    return rows(spark, path, "bills") if (path / "bills").is_dir() and any((path / "bills").iterdir()) else []


@pytest.fixture
def maintain(tmp_path, capsys):
    def maintain(action, *arguments, output="out"):
        capsys.readouterr()
        code = maintain_ledger([action, "--output", str(tmp_path / output), *arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return maintain


def test_a_wrong_first_run_in_another_currency_is_undone(spark, write, bill, maintain, tmp_path, capsys):
    path = tmp_path / "out"
    calls = write([call(1), call(2), call(3, NEXT, workspace_id="w-2")])
    assert bill(calls)[0] == 0
    assert bill(calls, currency="CNY")[0] == 2
    there = sorted(path.rglob("*"))
    code, out, _ = maintain("reverse", "--all", *WHY, "--dry-run")
    assert (code, sorted(path.rglob("*"))) == (0, there)
    assert "to reverse is all that is owed\nTo add: 4 lines, -0.00015924 USD" in out
    code, out, _ = maintain("reverse", "--all", *WHY)
    assert code == 0
    assert "Run 2 has reversed all that is owed\nAdded: 4 lines, -0.00015924 USD" in out
    assert "w-1 2026-04-08T00" in out
    assert added(path, 2) == {"reversed": (4, -3 * ONE)}
    assert (record(path, 2)["reason"], record(path, 2)["covered"]) == (WHY[1], [])
    assert owed(spark, path) == {}
    assert not list(path.glob("bills/billing_date=*"))
    code, out, _ = maintain("reverse", "--all", *WHY)
    assert (code, out) == (0, "Nothing to reverse: all that is owed comes to nothing already\n")
    # the currency is free now, and the same usage is billed anew
    assert bill(calls, currency="CNY")[0] == 0
    assert owed(spark, path) == {("w-1", 0): (2, 2 * ONE_CNY), ("w-2", 1): (1, ONE_CNY)}
    assert maintain("verify")[0] == 0
    assert bill_history(["--output", str(path), "--workspace", "w-2", "--hour", "2026-04-08T01"]) == 0
    said = capsys.readouterr().out
    assert "reversed" in said
    assert f"Run 2: {WHY[1]}\n" in said
    assert said.endswith("Owed: 0.0003696 CNY\n")
    assert bill(calls)[0] == 2


def test_what_a_run_added_is_taken_back_alone(spark, write, bill, maintain, tmp_path):
    """A late call and a fuller copy of another: both were a mistake, and both are billed again by the same usage."""
    path = tmp_path / "out"
    two = COMMERCIAL_START + 2 * HOUR
    first = [call(1, two), call(2, two)]
    second = [*first, call(1, FIRST, input_tokens=270), call(3, two)]
    assert bill(write(first))[0] == 0
    assert bill(write(second, "second"), "--reason", "a second\n log")[0] == 0
    assert record(path, 2)["reason"] == "a second log"
    assert owed(spark, path) == {("w-1", 0): (1, ONE + TEN_TOKENS), ("w-1", 2): (2, 2 * ONE)}
    code, out, _ = maintain("reverse", "--run", "2", *WHY)
    assert code == 0
    assert "Run 3 has reversed what run 2 has added" in out
    assert "Of what was left out as conflicts: 2 rows taken back" in out
    assert owed(spark, path) == {("w-1", 2): (2, 2 * ONE)}
    left_out = opened(spark, path).left_out(["2026-04-08"])
    assert left_out.agg({"requests": "sum", "beaten": "sum"}).first() == (0, 0)
    # the same usage: what is left out explains once more why call 1 leaves its hour
    assert bill(write(second, "second"))[0] == 0
    assert owed(spark, path) == {("w-1", 0): (1, ONE + TEN_TOKENS), ("w-1", 2): (2, 2 * ONE)}
    assert maintain("verify")[0] == 0
    # run 1 was changed by the others: alone it cannot go
    files = sorted(path.rglob("*"))
    assert bill(write([call(3, two)], "third"), "--allow-retractions")[0] == 0
    files = sorted(path.rglob("*"))
    code, out, err = maintain("reverse", "--run", "1", *WHY)
    assert (code, out) == (2, "")
    assert "w-1 would owe less than nothing in 2026-04-08T02 (UTC+8)" in err
    assert "(--run)" in err
    assert sorted(path.rglob("*")) == files


@pytest.mark.campaign
def test_a_workspace_or_a_period_is_taken_back(spark, write, bill, maintain, tmp_path):
    path = tmp_path / "out"
    calls = [call(1), call(2, NEXT), call(3, workspace_id="w-2"), call(4, NEXT, workspace_id="w-2")]
    calls += [call(2, NEXT, input_tokens=250)]  # left out for the fuller one
    assert bill(write(calls))[0] == 0
    hour = ("--from", "2026-04-08T01", "--to", "2026-04-08T02")
    assert maintain("reverse", *hour, "--workspace", "w-1", *WHY)[0] == 0
    assert owed(spark, path) == {("w-1", 0): (1, ONE), ("w-2", 0): (1, ONE), ("w-2", 1): (1, ONE)}
    assert maintain("reverse", "--workspace", "w-2", *WHY)[0] == 0
    assert owed(spark, path) == {("w-1", 0): (1, ONE)}
    assert bill(write(calls))[0] == 0
    # in w-1's hour with the two copies the call comes back as the fuller of them
    assert added(path, 4) == {"conflict": (2, ONE), "late_usage": (4, 2 * ONE)}
    assert owed(spark, path) == {(w, hour): (1, ONE) for w in ("w-1", "w-2") for hour in (0, 1)}
    # the copy stands as left out again: it excuses nothing that comes later
    assert bill(write([*calls[:1], *calls[2:4]], "less"))[0] == 4
    # a reversal is itself reversed like any run
    assert maintain("reverse", *hour, *WHY)[0] == 0
    assert maintain("reverse", "--run", "5", *WHY)[0] == 0
    assert len(owed(spark, path)) == 4
    assert maintain("verify")[0] == 0


@pytest.mark.campaign
def test_the_guard_does_not_trust_bills_that_were_taken_back(spark, write, bill, maintain, tmp_path):
    """The fuller copy of call 1 lies in hour 0, whose bill is reversed: a run over hour 2 alone must not drop the call,
    which would be in no bill."""
    two = COMMERCIAL_START + 2 * HOUR
    first, second = [call(1, two), call(2, two)], [call(1, two), call(2, two), call(1, input_tokens=270)]
    alone = [("--from", f"2026-04-08T0{hour}", "--to", f"2026-04-08T0{hour + 1}") for hour in (0, 2)]
    for output, reverse, code in (("kept", False, 0), ("taken", True, 4)):
        assert bill(write(first, "first"), output=output)[0] == 0
        assert bill(write(second, "second"), *alone[0], output=output)[0] == 0
        if reverse:
            assert maintain("reverse", *alone[0], *WHY, output=output)[0] == 0
        assert bill(write(second, "second"), *alone[1], output=output)[0] == code


def test_what_cannot_be_reversed(write, bill, maintain, tmp_path):
    assert maintain("reverse", "--all", *WHY)[0] == 2
    assert not (tmp_path / "out").exists()
    assert bill(write([call(1)]))[0] == 0
    files = sorted((tmp_path / "out").rglob("*"))
    day = ("--from", "2026-04-09T00", "--to", "2026-04-10T00")
    for arguments, words in (
        ((), "give what is to be reversed"),
        (("--all", "--run", "1"), "give what is to be reversed"),
        (("--run", "1", "--workspace", "w-1"), "a run is reversed whole"),
        (("--run", "2"), "has the runs 1 to 1, and no run 2"),
        (("--workspace", "W-1"), "nothing was ever billed to 'W-1'"),
        (day, "nothing was ever billed for 2026-04-09T00 to 2026-04-10T00"),
        (("--all", "--reason", " "), "say in your words why"),
    ):
        code, out, err = maintain("reverse", *(() if "--reason" in arguments else WHY), *arguments)
        assert (code, out) == (2, "")
        assert words in err
        assert err.count("\n") == 1
    assert sorted((tmp_path / "out").rglob("*")) == files


def test_another_mapping_is_a_reason_of_its_own(spark, write, bill, tmp_path):
    """The columns were swapped; then a call is late, by the same mapping."""
    path = tmp_path / "out"
    swapped = ("--column", "input_tokens=output_tokens", "--column", "output_tokens=input_tokens")
    assert bill(write([call(1)]), *swapped)[0] == 0
    code, _, err = bill(write([call(1)]))
    assert code == 4  # 260 x 0.000344 and 50 x 0.000138 become 260 x 0.000138 and 50 x 0.000344, for 1,000 tokens each
    assert (
        "w-1 in 2026-04-08T00 by 210 output tokens and 0.00004326 USD, though it would rise by 210 input tokens." in err
    )
    assert "All it would add: remapped_usage -0.00004326 USD" in err
    assert "The calls are the same" in err
    assert bill(write([call(1)]), "--allow-retractions")[0] == 0
    assert added(path, 2) == {"remapped_usage": (2, Decimal("-0.00004326"))}
    assert bill(write([call(1), call(2)], "late"))[0] == 0
    assert added(path, 3) == {"late_usage": (2, ONE)}
    # of the hours that the other mapping has billed, and of no others
    assert bill(write([call(3, NEXT)], "next"), "--no-dedup")[0] == 0
    assert bill(write([call(1), call(3, NEXT), call(4, NEXT), call(5)], "more"), "--allow-retractions")[0] == 0
    assert added(path, 5) == {"remapped_usage": (2, ONE)}
    assert [(b["billing_hour"], b["requests"]) for b in rows(spark, path, "bills")] == [(0, 2), (1, 2)]
