"""Verifying names everything that is not as it has to be, and nothing else."""

import json
import shutil

import pytest

from spark_billing.commands.maintain_ledger import maintain_ledger
from spark_billing.core.storage import Storage
from spark_billing.ledger.compaction import compact
from spark_billing.ledger.folder_kept import FolderKept
from spark_billing.ledger.folder_ledger import FolderStore
from spark_billing.ledger.verifying import verify
from tests.conftest import HOUR, call
from tests.ledger.made import age, billed, record_file
from tests.oracle import COMMERCIAL_START

pytestmark = pytest.mark.classic

HOURS = [COMMERCIAL_START + n * HOUR for n in range(30)]
CALLS = [call(n, HOURS[n % 30], tags={"team": f"t-{n % 2}"}) for n in range(40)]
RIVALS = [{**CALLS[n], "input_tokens": 200, "call_time": HOURS[n - 1]} for n in (1, 29)]
FIRST, SECOND = "2026-04-08", "2026-04-09"
A_YEAR_LATER = 1_900_000_000


@pytest.fixture(scope="module")
def made(spark, tmp_path_factory):
    """Five runs, two of them with a checkpoint, the last two without a change."""
    output = tmp_path_factory.mktemp("verifying") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("spark_billing.ledger.folder_ledger.EVERY", 2)
        billed(spark, CALLS[:30], output)
        billed(spark, CALLS + RIVALS, output, tags=True, group_by_tags=["team"])
        age(output, 3)
        billed(spark, CALLS + RIVALS, output, tags=True, group_by_tags=["team"])
    age(output, 5)
    return output


@pytest.fixture(params=[False, True], ids=["plain", "compacted"])
def output(spark, made, tmp_path, request):
    shutil.copytree(made, tmp_path / "out")
    if request.param:
        store = FolderStore(Storage(spark, str(tmp_path / "out")), 0)
        compact(store, now=A_YEAR_LATER)
        compact(store, now=A_YEAR_LATER, keep_hours=0)
    return tmp_path / "out"


def verified(spark, output):
    return verify(spark, FolderKept(Storage(spark, str(output))))


def named(spark, output):
    return [(each.what, each.where) for each in verified(spark, output).differences]


def parquet(output, where):
    """The files in a folder, with no checksums to be at odds with."""
    for crc in (output / where).rglob(".*.crc"):
        crc.unlink()
    return sorted((output / where).rglob("*.parquet"))


def rows_of(output, kind="lines"):
    return parquet(output, f"ledger/{kind}") + parquet(output, f"ledger/compacted/{kind}")


def test_a_ledger_that_is_whole(spark, output, capsys):
    found = verified(spark, output)
    assert found.differences == []
    assert found.untold == []
    assert (found.records, found.checkpoints, found.dates) == (5, 2, {"bill_lines": 2, "bills": 2})
    assert found.lines > 100
    assert found.left_out == 4
    assert maintain_ledger(["verify", "--output", str(output)]) == 0
    assert capsys.readouterr().out.endswith("\nWhole: nothing differs\n")


def test_lines_that_were_changed_are_named_by_run_and_date(spark, output):
    """Also what cannot be read, and each alone."""
    files = rows_of(output)
    files[0].write_bytes(b"PAR1 what?")
    files[-1].unlink()
    differences = [each for each in verified(spark, output).differences if each.what == "lines"]
    first, second = (record(output, number)["run_id"] for number in (1, 2))
    one_for_both = len(files) == 2  # compacted
    assert [each.where for each in differences] == [
        f"run {run} on {date}"
        for run, date in ([(first, FIRST), (second, FIRST), (first, SECOND), (second, SECOND)] if one_for_both
                          else [(first, FIRST), (second, SECOND)])
    ]  # fmt: skip
    assert {each.found.partition(":")[0] for each in differences if FIRST in each.where} == {"what cannot be read"}


def record(output, number):
    return json.loads(record_file(output, number).read_text(encoding="utf-8"))


def test_what_was_left_out_is_verified_likewise(spark, output):
    first, second = rows_of(output, "conflicts")
    shutil.copy(first, second)
    run_id = record(output, 2)["run_id"]
    of_second = [("what was left out", f"run {run_id} on {SECOND}")]
    assert named(spark, output) == of_second  # its sums are the same, its hours are not
    second.unlink()
    assert named(spark, output) == of_second


def test_a_line_that_is_there_twice(spark, output):
    file = rows_of(output)[0]
    shutil.copy(file, file.with_name("part-copy.parquet"))
    found = named(spark, output)
    run_id = record(output, 1)["run_id"]
    assert found.count(("lines", f"run {run_id} on {FIRST}")) == 2  # the sums, and the key


@pytest.mark.parametrize("of", ["hours", "reasons"])
def test_hours_and_reasons_of_a_record_that_its_lines_do_not_have(spark, made, tmp_path, of):
    """The sums by date stay as they are."""
    output = tmp_path / "out"
    shutil.copytree(made, output)
    shutil.rmtree(output / "ledger/checkpoints")
    found = record(output, 1)
    added = found["ledger"][of]
    keys = sorted(added)[:2] if of == "hours" else [*added, "late_usage"]
    added[keys[0]], added[keys[1]] = added.get(keys[1]) or added[keys[0]], added[keys[0]]
    if of == "hours":
        added[keys[0]] = {**added[keys[0]], "requests": added[keys[0]]["requests"] + 1}
        added[keys[1]] = {**added[keys[1]], "requests": added[keys[1]]["requests"] - 1}
    record_file(output, 1).write_text(json.dumps(found), encoding="utf-8")
    assert named(spark, output) == [(of, f"run {found['run_id']}")]


def test_checkpoints_that_are_not_the_sum_of_the_records(spark, output):
    first, second = sorted((output / "ledger/checkpoints").iterdir())
    first.write_text(first.read_text()[:100])
    found = record(output, 3)
    record_file(output, 3).write_text(json.dumps({**found, "arguments": {"usage": "another"}}), encoding="utf-8")
    assert named(spark, output) == [("checkpoint", str(first)), ("checkpoint, its digest", str(second))]


def test_records_that_are_gone_or_none(spark, output):
    record_file(output, 5).unlink()
    assert named(spark, output) == []  # nothing speaks of it: no checkpoint, no line
    age(output, 5)
    record_file(output, 4).unlink()
    (_, checkpoint) = sorted((output / "ledger/checkpoints").iterdir())
    found = named(spark, output)
    assert found == [("records", f"before {record_file(output, 5)}")]
    record_file(output, 5).unlink()
    assert named(spark, output) == [("records", f"up to {checkpoint}")]
    record_file(output, 3).write_text("", encoding="utf-8")
    assert named(spark, output) == [("record", str(record_file(output, 3))), ("records", f"up to {checkpoint}")]


def test_a_record_on_top_of_another_run(spark, output):
    record_file(output, 5).write_text(json.dumps({**record(output, 5), "parent": "x"}), encoding="utf-8")
    assert named(spark, output) == [("record", str(record_file(output, 5)))]


@pytest.mark.parametrize("table", ["bills", "bill_lines"])
def test_published_tables_that_are_not_what_the_ledger_says(spark, made, tmp_path, table):
    output = tmp_path / "out"
    shutil.copytree(made, output)
    first, second = parquet(output, table)
    kept = first.read_bytes()
    first.unlink()
    (difference,) = verified(spark, output).differences
    assert (difference.what, difference.where) == (table, FIRST)
    assert difference.found.endswith(" of these missing and 0 others")
    first.write_bytes(b"PAR1 what?")
    assert named(spark, output) == [(table, FIRST)]
    first.write_bytes(kept)
    shutil.copy(first, first.with_name("part-copy.parquet"))
    assert named(spark, output) == [(table, FIRST)]
    first.with_name("part-copy.parquet").unlink()
    shutil.rmtree(second.parent)
    assert named(spark, output) == [(table, SECOND)]
    shutil.copytree(first.parent, first.parent.with_name("billing_date=2026-04-20"))
    assert named(spark, output) == [(table, SECOND), (table, "2026-04-20")]
    shutil.rmtree(output / table)
    assert named(spark, output) == [(table, FIRST), (table, SECOND)]


def test_what_no_record_speaks_of_is_told_and_no_difference(spark, output, capsys):
    run_id = "20260401T000000Z-0a1b2c3d-1"
    others = [
        f"ledger/lines/run_id={run_id}/billing_date={FIRST}",
        f"ledger/compacted/lines/attempt={run_id}/billing_date={FIRST}",
        f"_staging/{run_id}/1",
    ]
    for other in others:
        (output / other).mkdir(parents=True)
        shutil.copy(rows_of(output)[0], output / other)
    (output / "ledger/runs/Thumbs.db").write_bytes(b"\x00")
    found = verified(spark, output)
    assert found.differences == []
    assert sorted(found.untold) == sorted(
        [*(str(output / other.rpartition("/")[0]) for other in others), str(output / "ledger/runs/Thumbs.db")]
    )
    assert maintain_ledger(["verify", "--output", str(output)]) == 0
    assert capsys.readouterr().out.count("Not of the ledger, and read by nothing: ") == 4


def test_the_job_names_every_difference_on_a_line(spark, output, capsys):
    for file in rows_of(output):
        file.unlink()
    shutil.rmtree(output / "bills")
    assert maintain_ledger(["verify", "--output", str(output)]) == 3
    looked_at, *lines, last = capsys.readouterr().out.splitlines()
    assert looked_at.startswith("Looked at 5 runs, 2 checkpoints, 0 lines, 4 rows of what is left out, ")
    assert len(lines) == 4
    assert all(line.startswith("lines, run ") and "needed is " in line for line in lines)
    assert last == "Not whole: 4 differences"


def test_the_job_refuses_what_is_no_ledger(spark, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for action in ("verify", "compact"):
        assert maintain_ledger([action, "--output", str(tmp_path / "empty")]) == 2
        assert "nothing was ever billed" in capsys.readouterr().err
    assert maintain_ledger(["compact", "--output-catalog", "ice.billing"]) == 2
    said = capsys.readouterr().err
    assert all(way in said for way in ("rewrite_data_files", "OPTIMIZE", "sys.compact", "(--output-catalog)"))


def test_the_job_compacts(spark, made, tmp_path, capsys):
    output = tmp_path / "out"
    shutil.copytree(made, output)
    there = sorted(output.rglob("*"))
    assert maintain_ledger(["compact", "--output", str(output), "--older-than", "0", "--dry-run"]) == 0
    assert capsys.readouterr().out.startswith(
        "To compact: 2 dates, 2026-04-08 to 2026-04-09 (UTC+8), which are 4 files"
    )
    assert sorted(output.rglob("*")) == there
    assert maintain_ledger(["compact", "--output", str(output), "--older-than", "0"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("Compacted: 2 dates, 2026-04-08 to 2026-04-09 (UTC+8), before 4 files of ")
    assert ", now 2 files of " in said
    assert "Kept for readers until a later compaction: 4 files of " in said
    assert maintain_ledger(["compact", "--output", str(output), "--keep-hours", "0"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("Nothing to compact")
    assert "Removed, replaced earlier: 4 files of " in said
    assert verified(spark, output).differences == []
