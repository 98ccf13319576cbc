"""The audit trail of an hour, and the comparison of price lists: functions and jobs."""

import re
from decimal import Decimal

import pytest

from spark_billing import PriceList, UsageError, bill_history, rerate
from spark_billing.commands.bill_history import bill_history as history_job
from spark_billing.commands.rerate import rerate as rerate_job
from tests import oracle
from tests.bills.test_differential import hostile_calls
from tests.conftest import HOUR, ONE, call, usage_frame
from tests.oracle import COMMERCIAL_START

HEAD = "model,region,min_input_tokens,max_input_tokens,input_price_per_1k,output_price_per_1k,currency"


def test_every_line_of_an_hour(spark, write, bill, tmp_path, capsys):
    out = str(tmp_path / "out")
    other = [call(9, workspace_id="w-2"), call(8, COMMERCIAL_START + HOUR)]
    assert bill(write([call(1), *other]))[0] == 0
    assert bill(write([call(1), call(2), *other]))[0] == 0
    assert bill(write([call(2), *other]), "--allow-retractions")[0] == 0
    lines = bill_history(spark, out, workspace_id="w-1", hour="2026-04-08T00").collect()
    assert [(r["run"], r["token_type"], r["requests"], r["entry"], r["reason"]) for r in lines] == [
        (1, "input", 1, "original", None),
        (1, "output", 1, "original", None),
        (2, "input", 1, "adjustment", "late_usage"),
        (2, "output", 1, "adjustment", "late_usage"),
        (3, "input", -1, "adjustment", "withdrawn_usage"),
        (3, "output", -1, "adjustment", "withdrawn_usage"),
    ]
    assert sum(r["amount"] for r in lines) == ONE
    assert history_job(["--output", out, "--workspace", "w-1", "--hour", "2026-04-08T00"]) == 0
    said = capsys.readouterr().out
    assert "Owed: 0.00005308 USD" in said
    assert said.count("late_usage") == 2
    assert "-260" in said
    assert "-0.00003588" in said
    assert history_job(["--output", out, "--workspace", "w-7", "--hour", "2026-04-08T00"]) == 0
    assert "Nothing was ever billed to w-7" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("hour", "words"), [("2026-04-08", "is not a UTC.8 hour"), ("2026-05-01T00", "nothing was ever billed")]
)
def test_an_hour_without_a_history(spark, write, bill, tmp_path, capsys, hour, words):
    assert bill(write([call(1)]))[0] == 0
    with pytest.raises(UsageError, match=words):
        bill_history(spark, str(tmp_path / "out"), workspace_id="w-1", hour=hour)
    assert history_job(["--output", str(tmp_path / "out"), "--workspace", "w-1", "--hour", hour]) == 2
    assert re.search(words, capsys.readouterr().err)


def costs(calls, k):
    """(workspace, model) -> calls, cost, by the oracle."""
    found = {}
    for c in calls:
        if c["workspace_id"] and oracle.reason(c, "USD", k) is None:
            entry = found.setdefault((c["workspace_id"], c["model"]), [0, Decimal(0)])
            entry[0] += 1
            entry[1] += oracle.cost(c, "USD", k)
    return found


def test_what_the_reading_of_k_is_worth(spark, usd, ansi):
    """128,001 to 131,072 and 256,001 to 262,144 input tokens are in another tier; no call is billed by one alone."""
    calls = list(hostile_calls(1500, seed=9))
    counts = (128_000, 128_001, 131_072, 131_073, 256_000, 256_001, 262_144, 262_145)
    calls += [call(f"k-{n}", workspace_id="w-k", input_tokens=n) for n in counts]
    other = PriceList.bundled("emr-serverless-spark", currency="USD", tokens_per_k=1024)
    rows = {
        (r["workspace_id"], r["model"]): r for r in rerate(usage_frame(spark, calls), prices=usd, other=other).collect()
    }
    now, then = costs(calls, 1000), costs(calls, 1024)
    assert now.keys() == then.keys() == rows.keys()
    for key, row in rows.items():
        assert (row["requests"], row["amount"]) == tuple(now[key])
        assert (row["requests"], row["other_amount"]) == tuple(then[key])
        assert row["difference"] == row["moved_difference"] == then[key][1] - now[key][1]
        assert (row["only_here"], row["only_there"]) == (0, 0)
    assert rows["w-k", "qwen-plus"]["moved_requests"] == 4
    # 259,073 tokens fall from 0.000414 to 0.000138, 518,145 from 0.000827 to 0.000414; 2 x 50 of output from 0.003442
    # to 0.000344 and 2 x 50 from 0.008257 to 0.003442
    by_hand = -(259_073 * 276 + 518_145 * 413 + 100 * 3_098 + 100 * 4_815)
    assert rows["w-k", "qwen-plus"]["difference"] == Decimal(by_hand) / 10**9


@pytest.mark.campaign
def test_another_price_list(spark, usd, write, tmp_path, capsys):
    (tmp_path / "new.csv").write_text(
        f"{HEAD}\nqwen-plus,cn-hangzhou,0,200,0.2,0.2,USD\nnew,cn-hangzhou,0,1M,0.000001,,USD\n"
    )
    calls = [call(1), call(1), call(2, input_tokens=200), call(3, model="new"), call(4, region="na-south-1")]
    usage = write(calls)
    arguments = ["--usage", usage, "--currency", "USD"]
    assert rerate_job([*arguments, "--against", str(tmp_path / "new.csv")]) == 0
    said = capsys.readouterr().out
    assert "1 calls are in another tier" in said
    assert "2 calls are billed only now, 1 only then" in said  # 260 tokens and Mexico now, the new model then
    found = rerate(usage_frame(spark, calls), prices=usd, other=PriceList.from_csv(tmp_path / "new.csv"))
    (row,) = found.filter("model = 'qwen-plus'").collect()
    assert (row["requests"], row["only_here"], row["moved_requests"]) == (3, 2, 1)
    assert row["other_amount"] == Decimal("0.05")  # 200 x 0.2 / 1000 + 50 x 0.2 / 1000
    period = ["--from", "2026-04-08T05", "--to", "2026-04-08T06"]
    assert rerate_job([*arguments, *period, "--against-tokens-per-k", "1024"]) == 0
    assert "No call can be billed" in capsys.readouterr().out
    assert not [p for p in tmp_path.iterdir() if p.name not in ("usage", "new.csv")]


def test_lists_that_cannot_be_compared(write, tmp_path, capsys):
    (tmp_path / "eur.csv").write_text(f"{HEAD}\nqwen-plus,cn-hangzhou,0,1M,0.1,0.1,EUR\n")
    arguments = ["--usage", write([call(1)]), "--currency", "USD"]
    assert rerate_job([*arguments, "--against", str(tmp_path / "eur.csv")]) == 2
    assert "never converted" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        rerate_job(arguments)
    assert "--against" in capsys.readouterr().err
