"""What a run says in the end, as JSON."""

import json
from decimal import Decimal

import pytest

from spark_billing.core.version import __version__
from tests.conftest import ONE, call

pytestmark = pytest.mark.classic


def test_the_summary_is_what_was_printed(write, bill, tmp_path):
    file = tmp_path / "told/summary.json"
    first = [call(1), call(2), call(2, input_tokens=250), call(3, model="x")]
    code, out, _ = bill(write(first), "--summary", str(file), "--reason", "the first", "--dry-run")
    dry = json.loads(file.read_text())
    assert (code, dry["dry_run"], dry["run"], dry["places"]) == (0, True, 1, {})
    assert not (tmp_path / "out").exists()
    code, out, _ = bill(write(first), "--summary", str(file), "--reason", "the first")
    told = json.loads(file.read_text())
    assert (code, told["dry_run"], told["run"], told["version"]) == (0, False, 1, __version__)
    assert "Reason: the first\n" in out
    assert told["totals"] == dry["totals"]
    assert told["totals"]["rows"] == {"read": 4, "billed": 2, "rejected": 2}
    assert told["totals"]["amount"] == "0.000106160000"
    assert told["added"] == {"original": {"lines": 2, "requests": 4, "tokens": 620, "amount": "0.000106160000"}}
    assert told["dearest_workspaces"] == [
        {"workspace_id": "w-1", "requests": 2, "input_tokens": 520, "output_tokens": 100, "amount": "0.000106160000"}
    ]
    assert [hour["hour"] for hour in told["dearest_hours"]] == ["2026-04-08T00"]
    assert told["reason"] == "the first"
    assert told["places"]["bills"] == str(tmp_path / "out/bills")
    (warning,) = told["warnings"]
    assert warning.startswith(
        "1 calls have the id of another call, but other content. Of copies within 24 hours of one"
    )
    # a bill that falls by leave; and one that may not, which leaves the summary of the last run as it is
    lost = write([call(1), call(3, model="x")], "lost")
    before = file.read_bytes()
    assert bill(lost, "--summary", str(file))[0] == 4
    assert file.read_bytes() == before
    assert bill(lost, "--summary", str(file), "--allow-retractions", "--max-rejected", "0")[0] == 6
    told = json.loads(file.read_text())
    assert [(row["workspace_id"], row["hour"], Decimal(row["amount"])) for row in told["lowered"]] == [
        ("w-1", "2026-04-08T00", -ONE)
    ]
    assert any("rejected" in warning for warning in told["warnings"])


@pytest.mark.campaign
def test_a_summary_that_cannot_be_written(write, bill, tmp_path):
    (tmp_path / "file").write_text("")
    usage = write([call(1)])
    assert bill(usage, "--summary", str(tmp_path))[0] == 2
    assert not (tmp_path / "out").exists()
    code, _, err = bill(usage, "--summary", str(tmp_path / "file/summary.json"))
    assert (code, err.count("\n")) == (2, 1)
    assert bill(usage, "--reason", "  ")[0] == 2
