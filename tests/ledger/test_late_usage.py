"""A bill over time: late usage, corrected prices, withdrawn calls, hours that are open or too old, rival copies."""

import json
import os
import shutil
from datetime import timedelta
from decimal import Decimal, localcontext

import pytest

from spark_billing.commands.hourly_bill import hourly_bill
from spark_billing.core.errors import OutputError
from spark_billing.core.storage import Folder
from spark_billing.ledger.folder_ledger import FolderLedger
from tests.conftest import HOUR, ONE, call, files, record, rows, usage_frame
from tests.oracle import COMMERCIAL_START, EPOCH

pytestmark = pytest.mark.classic

TEN_TOKENS = Decimal("0.00000138")  # of input
HEAD = "model,region,min_input_tokens,max_input_tokens,input_price_per_1k,output_price_per_1k,currency"
RETRACTION = 4


def price_list(tmp_path, input_price, name="prices.csv"):
    (tmp_path / name).write_text(f"{HEAD}\nqwen-plus,cn-hangzhou,0,1M,{input_price},0.000344,USD\n")
    return ("--price-list", str(tmp_path / name))


def added(path, number):
    """What a run added: reason -> (lines, amount)."""
    reasons = record(path, number)["ledger"]["reasons"]
    return {reason: (counts["lines"], Decimal(counts["amount"])) for reason, counts in reasons.items()}


def ledger_files(path):
    return {str(f): f.read_bytes() for f in (path / "ledger").rglob("*") if f.is_file()}


def test_a_bill_over_time(spark, write, bill, tmp_path):
    path = tmp_path / "out"
    prices = price_list(tmp_path, "0.000138")
    first = [call(1), call(2)]
    assert bill(write(first), *prices)[0] == 0
    assert added(path, 1) == {"original": (2, 2 * ONE)}
    tables, ledger = files(path), ledger_files(path)

    # the same again adds nothing and touches nothing but the ledger's runs
    code, out, _ = bill(write(first), *prices)
    assert code == 0
    assert "Nothing to add" in out
    assert "Total: 0.00010616 USD" in out
    assert (added(path, 2), files(path)) == ({}, tables)
    assert os.listdir(path / "ledger" / "lines") == [f"run_id={record(path)['run_id']}"]

    # a late call adds its own cost; a workspace that had nothing in this hour is billed for the first time
    late = [*first, call(3), call(4, workspace_id="w-2")]
    assert bill(write(late), *prices)[0] == 0
    assert added(path, 3) == {"late_usage": (2, ONE), "original": (2, ONE)}
    assert {b["workspace_id"]: (b["amount"], b["run"]) for b in rows(spark, path, "bills")} == {
        "w-1": (3 * ONE, 3),
        "w-2": (ONE, 3),
    }

    # a corrected price reverses the old input lines and adds new ones: 260 tokens at 0.000138, then at 0.000150
    assert bill(write(late), *price_list(tmp_path, "0.00015", "corrected.csv"))[0] == 0
    assert added(path, 4) == {"price_change": (4, 4 * (Decimal("0.000039") - Decimal("0.00003588")))}
    dear = Decimal("0.0000562")  # 0.000039 + 50 x 0.000344 / 1000
    assert sum(b["amount"] for b in rows(spark, path, "bills")) == 4 * dear

    # nothing that was written is ever changed
    for number in range(1, 5):
        assert record(path, number)["run"] == number
    assert ledger.items() <= ledger_files(path).items()


def test_taking_money_back_needs_leave(spark, write, bill, tmp_path):
    path = tmp_path / "out"
    assert bill(write([call(1), call(2), call(3, model="x")]))[0] == 0
    before = (files(path), ledger_files(path))
    hour = ("--from", "2026-04-08T00", "--to", "2026-04-08T01")
    for usage, arguments in (
        (write([call(1)], "less"), ()),
        (write([], "empty"), hour),
        (write([call(1), call(2, output_tokens=49)], "shorter"), ()),
        (write([call(1), call(2)], "cheaper"), price_list(tmp_path, "0.000137")),
    ):
        code, out, err = bill(usage, *arguments)
        assert (code, out) == (RETRACTION, "")
        assert "would lower 1 bill of the ledger: w-1 in 2026-04-08T00 by " in err
        assert "w-1 in 2026-04-08T00" in err
        assert "--allow-retractions" in err
        assert err.count("\n") == 1
        assert (files(path), ledger_files(path)) == before
        assert not (path / "_staging").exists()
    assert "w-1 in 2026-04-08T00 by 0.00000052 USD. All it would add" in err  # 2 x 260 x 0.000001 / 1000

    code, out, _ = bill(write([call(1)], "less"), "--allow-retractions")
    assert code == 0
    assert added(path, 2) == {"withdrawn_usage": (2, -ONE)}
    assert "Bills that become lower" in out
    # a workspace that is gone altogether has no bill of 0
    assert bill(write([call(5, workspace_id="w-2")], "other"), "--allow-retractions")[0] == 0
    assert [(b["workspace_id"], b["amount"]) for b in rows(spark, path, "bills")] == [("w-2", ONE)]
    # and if it comes back, that is an adjustment
    assert bill(write([call(1), call(5, workspace_id="w-2")], "both"))[0] == 0
    assert added(path, 4) == {"late_usage": (2, ONE)}


@pytest.mark.campaign
def test_a_usage_table_without_the_hours_billed_before(write, bill, tmp_path):
    assert bill(write([call(1), call(2, COMMERCIAL_START + HOUR)]))[0] == 0
    code, out, _ = bill(write([call(3, COMMERCIAL_START + 2 * HOUR)], "next"))
    assert code == 0
    assert "2 hours that were billed before have no row in this usage, the first 2026-04-08T00" in out
    hours = record(tmp_path / "out", 2)["hours"]
    assert hours["billed_before_but_not_in_usage"] == ["2026-04-08T00", "2026-04-08T01"]


def test_a_ledger_is_of_one_usage(write, tmp_path, capsys):
    one, other = write([call(1)], "one"), write([call(2)], "other")

    def run(usage, *arguments):
        code = hourly_bill(["--usage", usage, "--output", str(tmp_path / "o"), "--currency", "USD", *arguments])
        return code, capsys.readouterr().err

    assert run(one)[0] == 0
    code, err = run(other)
    assert code == 2
    assert "--source" in err
    assert "take back what the other is billed" in err
    assert run(other, "--source", one, "--allow-retractions")[0] == 0


def test_open_and_old_hours(spark, write, bill, tmp_path):
    path = tmp_path / "out"
    calls = [call(n, COMMERCIAL_START + n * HOUR) for n in range(6)]
    calls += [call(9, COMMERCIAL_START + 5 * HOUR, model="x"), call("none", None)]
    # as of 06:00 the hour 5 ended just now, and hour 4 an hour ago
    code, out, _ = bill(write(calls), "--closed-after", "1", "--as-of", "2026-04-08T06:00+08:00", "--detail")
    assert code == 0
    assert [b["billing_hour"] for b in rows(spark, path, "bills")] == [0, 1, 2, 3, 4]
    assert record(path)["totals"]["rows"] == {"read": 8, "billed": 5, "rejected": 1, "open": 2}
    assert [r["reject_reason"] for r in rows(spark, path, "rejected", "request_id")] == ["missing_call_time"]
    assert len(rows(spark, path, "priced_calls", "request_id")) == 5
    assert "in hours that are still open" in out
    # a day later and a bit, with a late call in hour 0 and one in hour 5: hour 0 ended over a day ago
    calls += [call("a"), call("b", COMMERCIAL_START + 5 * HOUR)]
    arguments = ("--closed-after", "1", "--adjust-within", "1", "--as-of", "2026-04-09T01:00:01+08:00")
    code, out, _ = bill(write(calls), *arguments)
    assert code == 0
    assert added(path, 2) == {"original": (2, 2 * ONE)}
    assert record(path, 2)["not_adjusted"]["reasons"] == {
        "late_usage": {"lines": 2, "requests": 2, "tokens": 310, "amount": "0.000053080000"}
    }
    totals = record(path, 2)["totals"]
    assert totals["rows"] == {"read": 10, "billed": 6, "rejected": 2, "too_old": 2}
    assert totals["input_tokens"] == {"read": 2600, "billed": 1560, "rejected": 520, "too_old": 520, "charged": 1560}
    assert "Too old, so not added" in out
    assert [b["requests"] for b in rows(spark, path, "bills")] == [1, 1, 1, 1, 1, 2]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--as-of", "2026-04-09", "--closed-after", "1"], "not an instant"),
        (["--closed-after", "24", "--adjust-within", "1"], "no hour would ever be billed"),
    ],
)
def test_arguments_about_time(write, bill, arguments, words):
    code, _, err = bill(write([call(1)]), *arguments)
    assert code == 2
    assert words in err


def test_a_dry_run_writes_nothing(spark, write, bill, tmp_path):
    usage = write([call(1), call(1), call(2, model="x")])
    code, out, _ = bill(usage, "--dry-run")
    assert code == 0
    assert not (tmp_path / "out").exists()
    assert "Would be added to the ledger" in out
    assert "Total: 0.00005308 USD" in out
    assert bill(usage)[0] == 0
    before = (files(tmp_path / "out"), ledger_files(tmp_path / "out"))
    fewer = write([call(1, output_tokens=0)], "fewer")
    code, out, _ = bill(fewer, "--dry-run")
    assert code == 0
    assert "needs --allow-retractions" in out
    assert "w-1 2026-04-08T00" in out
    assert (files(tmp_path / "out"), ledger_files(tmp_path / "out")) == before
    assert not (tmp_path / "out" / "_staging").exists()


def test_a_fuller_copy_moves_the_bill_of_a_call(spark, write, bill, tmp_path):
    path = tmp_path / "out"
    five, two = COMMERCIAL_START + 5 * HOUR, COMMERCIAL_START + 2 * HOUR
    assert bill(write([call(1, five), call(2, five)]))[0] == 0
    fuller = call(1, two, input_tokens=270)
    code, out, _ = bill(write([call(1, five), call(2, five), fuller, call(3, two)]))
    assert code == 0  # no leave needed: nothing is lost but by the conflict
    assert "ATTENTION: 1 calls have the id of another call" in out
    assert "Of copies within 24 hours\nof one another the fullest is billed" in out
    assert added(path, 2) == {"conflict": (2, -ONE), "original": (2, 2 * ONE + TEN_TOKENS)}
    assert [(b["billing_hour"], b["requests"], b["input_tokens"]) for b in rows(spark, path, "bills")] == [
        (2, 2, 530),
        (5, 1, 260),
    ]
    assert [r["reject_reason"] for r in rows(spark, path, "rejected", "request_id")] == ["conflicting_request"]
    # beside the lines what is left out for what, which comes to what is rejected
    of_run = {"lines": 2, "requests": 1, "tokens": 310, "amount": "0.000053080000"}
    assert (record(path, 1)["left_out"], record(path, 2)["left_out"]) == ({}, {"2026-04-08": of_run})
    kept = rows(spark, path, "ledger/conflicts")
    assert [(r["requests"], r["input_tokens"], r["beaten"], r["run"]) for r in kept] == [(0, 0, 1, 2), (1, 260, 0, 2)]
    # they are verified as lines are
    ledger = FolderLedger.open(Folder(spark, str(path)))
    assert ledger.left_out(["2026-04-09"]) is None
    assert ledger.left_out(["2026-04-08", "2026-04-09"]).count() == 2
    next((path / "ledger" / "conflicts").rglob("*.parquet")).unlink()
    with pytest.raises(OutputError, match="is not what its run wrote: recorded are 2 lines, 1 requests"):
        ledger.left_out(["2026-04-08"])


@pytest.mark.campaign
def test_a_conflict_that_stood_before_excuses_nothing(spark, write, bill, tmp_path):
    """Only what is left out since the last run explains why a bill becomes lower, behind however many that stand."""
    path = tmp_path / "out"
    rivals = [call(f"rival-{n}", input_tokens=t) for n in range(1_500) for t in (260, 270)]
    assert bill(write([*rivals, call(2), call(3)]))[0] == 0
    assert record(path)["left_out"]["2026-04-08"]["requests"] == 1_500
    code, _, err = bill(write([*rivals, call(2)]))  # call 3 is lost
    assert code == RETRACTION
    assert "withdrawn_usage" in err
    assert not (path / "_staging").exists()
    assert len(os.listdir(path / "ledger" / "conflicts")) == 1
    # so it is when calls of another hour are left out for new copies in this one
    before = [call(n, COMMERCIAL_START + HOUR) for n in (7, 8, 9)]
    fuller = [call(n, input_tokens=259 + n) for n in (7, 8)]
    assert bill(write([*rivals, call(2), call(3), *before], "later"))[0] == 0
    code, _, err = bill(write([*rivals, *before, *(c for c in fuller if c["request_id"] == "r-7")], "moved"))
    assert (code, "w-1 in 2026-04-08T00 by 1 call" in err, "T01" in err) == (RETRACTION, True, False)
    # a late call beside the rivals is just late
    assert bill(write([*rivals, call(2), call(3), call(5), *before], "late"))[0] == 0
    assert added(path, 3) == {"late_usage": (2, ONE)}
    # so nothing more is left out, and there is no folder for it
    assert (record(path, 3)["left_out"], len(os.listdir(path / "ledger" / "conflicts"))) == ({}, 1)
    # and a conflict that is new excuses just the copy it takes away
    assert bill(write([*rivals, call(2), call(3), call(5), *before[:2], *fuller], "less"))[0] == RETRACTION
    assert bill(write([*rivals, call(2), call(3), call(5), *before, *fuller], "fuller"))[0] == 0
    amounts = {reason: amount for reason, (_, amount) in added(path, 4).items()}
    assert amounts == {"conflict": (6 + 7) * TEN_TOKENS / 10}
    # nor does it excuse other prices
    cheaper = price_list(tmp_path, "0.000137")
    assert bill(write([*rivals, call(2), call(3), call(5), *before, *fuller], "fuller"), *cheaper)[0] == RETRACTION


@pytest.mark.campaign
def test_a_copy_in_an_hour_that_is_not_billed_takes_no_bill_away(spark, write, bill, tmp_path):
    """Else the call would be in no bill: rejected here, and not billed there."""
    five, two = COMMERCIAL_START + 5 * HOUR, COMMERCIAL_START + 2 * HOUR
    assert bill(write([call(1, five), call(2, five)]))[0] == 0
    usage = write([call(1, five), call(2, five), call(1, two, input_tokens=270)])
    code, _, err = bill(usage, "--from", "2026-04-08T05", "--to", "2026-04-08T06")
    assert code == RETRACTION
    assert "lie in 2026-04-08T02, which it does not bill" in err
    code, _, err = bill(usage, "--adjust-within", "1", "--as-of", "2026-04-09T05:00+08:00")  # hour 2 is too old
    assert (code, "lie in 2026-04-08T02" in err) == (RETRACTION, True)
    # both in one run, or the hour with the fuller copy first
    assert bill(usage, "--from", "2026-04-08T02", "--to", "2026-04-08T06")[0] == 0
    assert added(tmp_path / "out", 2) == {"conflict": (2, -ONE), "original": (2, ONE + TEN_TOKENS)}

    later = {"output": "later"}
    assert bill(write([call(1, five), call(2, five)], "first"), **later)[0] == 0
    assert bill(usage, "--from", "2026-04-08T02", "--to", "2026-04-08T03", **later)[0] == 0
    assert bill(usage, "--from", "2026-04-08T05", "--to", "2026-04-08T06", **later)[0] == 0
    assert added(tmp_path / "later", 3) == {"conflict": (2, -ONE)}
    for output in ("out", "later"):
        owed = [(b["billing_hour"], b["requests"], b["input_tokens"]) for b in rows(spark, tmp_path / output, "bills")]
        assert owed == [(2, 1, 270), (5, 1, 260)]


@pytest.mark.campaign
@pytest.mark.parametrize("order", [(2, 5), (5, 2)])
def test_which_copy_is_billed_does_not_depend_on_the_period(spark, write, bill, tmp_path, order):
    five, two = COMMERCIAL_START + 5 * HOUR, COMMERCIAL_START + 2 * HOUR + timedelta(minutes=59)
    usage = write([call(1, five), call(1, two, input_tokens=270), call(2, five), call(3, two)])
    for hour in order:
        assert bill(usage, "--from", f"2026-04-08T0{hour}", "--to", f"2026-04-08T0{hour + 1}")[0] == 0
    path = tmp_path / "out"
    assert [(b["billing_hour"], b["requests"], b["input_tokens"]) for b in rows(spark, path, "bills")] == [
        (2, 2, 530),
        (5, 1, 260),
    ]
    assert [(r["billing_hour"], r["reject_reason"]) for r in rows(spark, path, "rejected", "request_id")] == [
        (5, "conflicting_request")
    ]
    for number in (1, 2):
        totals = record(path, number)["totals"]["rows"]
        assert totals["read"] == 2
    arguments = record(path)["arguments"]
    assert (arguments["dedup_lookback"], arguments["keep_copy"]) == (24, "fullest")
    # beyond the lookback they are two calls, with a period and without
    for period in (("--from", "2026-04-08T05", "--to", "2026-04-08T06"), ()):
        assert bill(usage, *period, "--dedup-lookback", "2", output=f"near{len(period)}")[0] == 0
        assert rows(spark, tmp_path / f"near{len(period)}", "bills")[-1]["requests"] == 2
    # and the earliest is another one
    assert bill(usage, "--keep-copy", "latest", output="latest")[0] == 0
    assert [b["requests"] for b in rows(spark, tmp_path / "latest", "bills")] == [1, 2]


def as_an_earlier_version(path, conflicts):
    """Makes of a ledger of one run, billed by the earliest copy, what the versions before kept of it."""
    file = path / "ledger" / "runs" / f"{1:020}.json"
    kept = json.loads(file.read_text(encoding="utf-8"))
    del kept["left_out"], kept["arguments"]["keep_copy"]
    file.write_text(json.dumps({**kept, "conflicts": conflicts}), encoding="utf-8")
    shutil.rmtree(path / "ledger" / "conflicts")


@pytest.mark.campaign
def test_a_ledger_of_an_earlier_rule_and_form_is_adjusted(spark, write, bill, tmp_path):
    """The earliest copy was billed, and the record told what was left out for it."""
    one, two = COMMERCIAL_START + HOUR, COMMERCIAL_START + 2 * HOUR
    calls = [call(1, one), call(1, two, input_tokens=270), call(2, one), call(2, one, input_tokens=250), call(3, two)]
    for output in ("told", "untold"):
        assert bill(write(calls), "--keep-copy", "earliest", output=output)[0] == 0
    rivals = [
        ["w-1", "2026-04-08T01", "cn-hangzhou", "qwen-plus", False, "2026-04-08T01", 2, 520, 100, "0.000106160000"],
        ["w-1", "2026-04-08T01", "cn-hangzhou", "qwen-plus", True, "2026-04-08T01", 1, 250, 50, "0.000051700000"],
        ["w-1", "2026-04-08T02", "cn-hangzhou", "qwen-plus", True, "2026-04-08T01", 1, 270, 50, "0.000054460000"],
    ]
    as_an_earlier_version(tmp_path / "told", rivals)
    as_an_earlier_version(tmp_path / "untold", None)
    # where it told nothing, nothing explains why the bill of hour 1 falls
    code, _, err = bill(write(calls), output="untold")
    assert (code, "Of 2 hours an earlier version of this job has kept no conflicts" in err) == (RETRACTION, True)
    assert bill(write(calls), "--allow-retractions", output="untold")[0] == 0
    assert bill(write(calls), output="told")[0] == 0
    for output in ("told", "untold"):
        bills = [(b["billing_hour"], b["requests"], b["input_tokens"]) for b in rows(spark, tmp_path / output, "bills")]
        assert bills == [(1, 1, 260), (2, 2, 530)]
        # what is left out is known from now on, whoever told it
        assert record(tmp_path / output, 2)["left_out"]["2026-04-08"]["requests"] == 2
        assert bill(write(calls[1:], "lost"), output=output)[0] == 0  # a copy that was left out
        assert bill(write([*calls[:3], calls[4]], "lost"), output=output)[0] == 0
        assert bill(write(calls[:4], "lost"), output=output)[0] == RETRACTION  # a call
        assert bill(write([*calls, call(3, one, input_tokens=280)], "fuller"), output=output)[0] == 0
    assert set(added(tmp_path / "told", 2)) == {"conflict"}


@pytest.mark.campaign
def test_tags_that_come_later(spark, write, bill, tmp_path):
    tagged = [call(1, tags={"team": "a"}), call(2, tags={"team": "b"}), call(3)]
    usage = write(tagged, tags=True)
    assert bill(usage)[0] == 0
    assert bill(usage, "--group-by-tag", "team")[0] == 0
    assert added(tmp_path / "out", 2) == {"regrouped": (8 - 2, Decimal(0))}  # the call without a tag stays as it was
    lines = rows(spark, tmp_path / "out", "bill_lines", ["token_type", "tag_team"])
    assert [(r["tag_team"], r["requests"]) for r in lines] == [(None, 1), ("a", 1), ("b", 1)] * 2
    assert bill(usage)[0] == 0
    assert [b["requests"] for b in rows(spark, tmp_path / "out", "bills")] == [3]


@pytest.mark.campaign
def test_a_tag_that_differs_by_case_alone(write, bill, tmp_path):
    """Spark could not read a ledger with both."""
    usage = write([call(1, tags={"team": "a"})], tags=True)
    assert bill(usage, "--group-by-tag", "Team")[0] == 0
    code, _, err = bill(usage, "--group-by-tag", "team")
    assert (code, "bills by tag_Team, and this run bills by tag_team" in err) == (2, True)
    assert bill(usage, "--group-by-tag", "Team")[0] == 0


@pytest.mark.campaign
def test_the_decimal_precision_of_a_notebook_changes_no_sum(write, bill, tmp_path):
    """Of hours of 0.01 and 0.00005308, in a process whose decimals have three digits."""
    usage = write([call(1), call(2, COMMERCIAL_START + HOUR, input_tokens=72_464, output_tokens=0)])
    with localcontext() as context:
        context.prec = 3
        assert bill(usage)[0] == 0
        assert bill(usage)[0] == 0
        amounts = [Decimal(hour["amount"]) for hour in record(tmp_path / "out")["ledger"]["hours"].values()]
        assert list(map(str, amounts)) == ["0.000053080000", "0.010000032000"]


def damage_lines(path):
    next((path / "ledger" / "lines").rglob("*.parquet")).unlink()


def damage_folder(path):
    shutil.rmtree(next((path / "ledger" / "lines").glob("*/billing_date=*")))


def damage_first_record(path):
    (path / "ledger" / "runs" / f"{1:020}.json").unlink()


def double_lines(path):
    part = next((path / "ledger" / "lines").rglob("*.parquet"))
    shutil.copy(part, part.with_name("part-copy.snappy.parquet"))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (damage_lines, "is not what its run wrote"),
        pytest.param(double_lines, "is not what its run wrote", marks=pytest.mark.campaign),
        pytest.param(damage_folder, "are gone", marks=pytest.mark.campaign),
        pytest.param(damage_first_record, "is not whole", marks=pytest.mark.campaign),
    ],
)
def test_a_damaged_ledger_is_found_out(write, bill, tmp_path, damage, words):
    path = tmp_path / "out"
    assert bill(write([call(1)]))[0] == 0
    assert bill(write([call(1), call(2)]))[0] == 0
    damage(path)
    before = files(path)
    code, _, err = bill(write([call(1), call(2)]))
    assert code == 2
    assert words in err
    assert files(path) == before


@pytest.mark.campaign
def test_lines_of_a_run_that_died_do_not_count(spark, write, bill, tmp_path):
    path = tmp_path / "out"
    assert bill(write([call(1)]))[0] == 0
    lines = path / "ledger" / "lines"
    shutil.copytree(next(lines.iterdir()), lines / "run_id=20260408T000000Z-00000000-1")
    (path / "_staging" / "20260408T000000Z-00000000" / "usage").mkdir(parents=True)
    assert bill(write([call(1), call(2)]))[0] == 0
    assert [b["requests"] for b in rows(spark, path, "bills")] == [2]
    assert added(path, 2) == {"late_usage": (2, ONE)}


@pytest.mark.campaign
def test_names_from_the_data_stay_data(spark, bill, tmp_path):
    hostile = "w/../../x\n\x1b[31m; DROP TABLE ' ${x} %2F{}"
    calls = [call(1, workspace_id=hostile), call(2, workspace_id=hostile)]
    usage_frame(spark, calls).write.parquet(str(tmp_path / "u"))
    assert bill(str(tmp_path / "u"))[0] == 0
    usage_frame(spark, calls[:1]).write.parquet(str(tmp_path / "v"))
    code, _, err = bill(str(tmp_path / "v"))
    assert code == RETRACTION
    assert "\x1b" not in err
    assert err.count("\n") == 1
    assert rows(spark, tmp_path / "out", "bills")[0]["workspace_id"] == hostile


def test_the_last_hours(write, bill, tmp_path):
    """Of hours 0, 1 and 2 the two that are over at 02:30 are billed, and recorded; a late call is added by the next."""
    calls = [call(n, COMMERCIAL_START + n * HOUR) for n in range(3)]
    given = ("--last", "2", "--as-of", "2026-04-08T02:30+08:00")
    assert bill(write(calls[:2]), *given)[0] == 0
    assert record(tmp_path / "out")["period"] == {"from": "2026-04-08T00", "to": "2026-04-08T02"}
    assert bill(write([*calls, call(9)]), *given)[0] == 0
    assert added(tmp_path / "out", 2) == {"late_usage": (2, ONE)}
    for wrong in (("--last", "0"), ("--last", "2", "--from", "2026-04-08T00", "--to", "2026-04-08T02")):
        code, _, err = bill(write(calls), *wrong)
        assert (code, "last takes the place of a period" in err, "--last" in err) == (2, True, True)


def test_a_time_before_all_calls_is_rejected_in_every_period(spark, write, bill, tmp_path):
    """A clock that was never set, or seconds for milliseconds: no period has these hours, and they are not lost."""
    calls = [call(1, COMMERCIAL_START), call(2, EPOCH), call(3, EPOCH + 24 * HOUR)]
    given = ("--last", "2", "--as-of", "2026-04-08T02:30+08:00", "--source", "log")
    for number, usage in enumerate((calls, calls[:2]), start=1):
        code, out, _ = bill(write(usage, f"u{number}"), *given)
        assert code == 0
        assert "no_price_in_force" in out
        totals = record(tmp_path / "out", number)["totals"]
        assert totals["rows"] == {"read": len(usage), "billed": 1, "rejected": len(usage) - 1}
        assert totals["rejected"] == {"no_price_in_force": len(usage) - 1}
        rejected = rows(spark, tmp_path / "out", "rejected", "request_id")
        assert [str(row["billing_date"]) for row in rejected] == ["1970-01-01", "1970-01-02"][: len(usage) - 1]
    own = (*price_list(tmp_path, "0.000138"), "--source", "log")  # always in force: these calls have a price
    assert bill(write(calls, "all"), *own, *given[:4], output="own")[0] == 0
    assert record(tmp_path / "own")["totals"]["rows"] == {"read": 1, "billed": 1, "rejected": 0}


@pytest.mark.campaign
def test_many_conflicts_are_told_by_their_ids(write, bill):
    """An id that a program writes for all of its calls; the ids are columns of other names."""
    calls = [call(1, input_tokens=n, request_id="same", workspace_id="w-1") for n in range(1, 9)]
    calls += [call(1, input_tokens=n, request_id="two", workspace_id="w-2") for n in range(1, 5)]
    usage = write(calls)
    assert "ids with the most" not in bill(write(calls[-4:], "few"), output="few")[1]
    named = ("--column", "request_id=concat('id ', request_id)", "--column", "workspace_id=upper(workspace_id)")
    code, out, _ = bill(usage, *named)
    assert code == 0
    assert [line.split() for line in out.splitlines() if " id " in line and "W-" in line] == [
        ["W-1", "id", "same", "7"],
        ["W-2", "id", "two", "3"],
    ]
