"""What keeps a ledger in order: tables made anew, leftovers removed, runs and gaps listed, a source renamed."""

import json
import os
import shutil
import time

import pytest

from spark_billing.commands.maintain_ledger import maintain_ledger
from spark_billing.core.storage import Storage
from spark_billing.core.version import __version__
from spark_billing.ledger.folder_ledger import FolderStore
from spark_billing.ledger.housekeeping import clean
from tests.conftest import HOUR, ONE, call, record, rows
from tests.oracle import COMMERCIAL_START

pytestmark = pytest.mark.classic

NEXT_DAY = COMMERCIAL_START + 24 * HOUR
DEAD = "20260401T000000Z-0a1b2c3d"
TWO_DAYS = 2 * 86_400


@pytest.fixture
def maintain(tmp_path, capsys):
    def maintain(action, *arguments, output="out"):
        capsys.readouterr()
        code = maintain_ledger([action, "--output", str(tmp_path / output), *arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return maintain


def all_files(path):
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}


def test_what_is_derived_is_made_anew(spark, write, bill, maintain, tmp_path):
    path = tmp_path / "out"
    assert bill(write([call(1), call(2, NEXT_DAY)]))[0] == 0
    shutil.rmtree(path / "bills")
    shutil.copytree(path / "bill_lines/billing_date=2026-04-08", path / "bill_lines/billing_date=2026-03-01")
    assert maintain("verify")[0] == 3
    there = all_files(path)
    code, out, _ = maintain("rebuild", "--dry-run")
    assert (code, out) == (0, "To rebuild: 3 dates, 2026-03-01 to 2026-04-09 (UTC+8)\n")
    assert all_files(path) == there
    code, out, _ = maintain("rebuild", "--from", "2026-04-09T00", "--to", "2026-04-10T00")
    assert code == 0
    assert "Rebuilt by run 2: 2026-04-09 (UTC+8), to what the ledger says, 0.00005308 USD" in out
    assert [b["amount"] for b in rows(spark, path, "bills")] == [ONE]
    code, out, _ = maintain("rebuild")
    assert code == 0
    assert "Rebuilt by run 3: 3 dates, 2026-03-01 to 2026-04-09 (UTC+8), to what the ledger says, 0.00010616 USD" in out
    assert "Removed, as the ledger has nothing of them: 2026-03-01" in out
    assert [(b["amount"], b["run"]) for b in rows(spark, path, "bills")] == [(ONE, 3)] * 2
    assert record(path, 3)["ledger"] == {"reasons": {}, "hours": {}}
    assert maintain("verify")[0] == 0


def left_by_a_dead_run(path, at):
    """Its staging folder and lines, last written at a time."""
    found = [path / f"_staging/{DEAD}/1", path / f"ledger/lines/run_id={DEAD}-1/billing_date=2026-04-08"]
    for folder in found:
        folder.mkdir(parents=True)
        (folder / "part.parquet").write_bytes(b"")
        for each in (folder, folder.parent):
            os.utime(each, (at, at))
    return [folder.parent for folder in found]


def test_what_dead_runs_have_left_is_removed_once_it_is_old(spark, write, bill, maintain, tmp_path):
    path = tmp_path / "out"
    assert bill(write([call(1)]))[0] == 0
    (path / "_staging").mkdir(exist_ok=True)
    (path / "_staging/notes.txt").write_text("mine")
    before = all_files(path)
    code, out, _ = maintain("clean")
    assert (code, out) == (0, "Nothing to remove: no run that died has left anything that is old enough\n")
    left = left_by_a_dead_run(path, time.time())
    code, out, _ = maintain("clean")
    assert (code, out.count("Not old enough: ")) == (0, 2)
    for folder in left:
        for each in (folder, *folder.iterdir()):
            os.utime(each, (time.time() - TWO_DAYS,) * 2)
    code, out, _ = maintain("clean", "--dry-run")
    assert (code, out.count("To remove: "), f"_staging/{DEAD}" in out, left[0].is_dir()) == (0, 2, True, True)
    code, out, _ = maintain("clean")
    assert (code, out.count("Removed: ")) == (0, 2)
    assert all_files(path) == before


def test_lines_whose_record_is_lost_are_no_leftovers(spark, write, bill, maintain, tmp_path):
    path = tmp_path / "out"
    for n in (1, 2):
        assert bill(write([call(k) for k in range(n)], f"u{n}"))[0] == 0
    (path / f"ledger/runs/{2:020}.json").unlink()
    before = all_files(path)
    assert maintain("clean", "--older-than", "0")[0] == 2
    later = int(time.time()) + TWO_DAYS
    with pytest.raises(Exception, match=r"bills of run 2, and records of 1 run|not whole"):
        clean(FolderStore(Storage(spark, str(path)), 0), now=later)
    assert all_files(path) == before


def test_the_runs_and_their_arguments(write, bill, maintain, tmp_path):
    usage = write([call(1)])
    assert bill(usage)[0] == 0
    more = write([call(1), call(2)], "more")
    given = ("--no-dedup", "--column", "model=lower(model)", "--from", "2026-04-08T00", "--to", "2026-04-08T01")
    assert bill(more, *given, "--reason", "the second log")[0] == 0
    assert maintain("rename-source", "--to", "the other log")[0] == 0
    code, out, _ = maintain("runs")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split() == ["run", "at", "version", "lines", "USD", "added"]
    first, second, third = (n for n, line in enumerate(lines) if line.split()[0] in ("1", "2", "3"))
    assert lines[first].split()[2:] == [__version__, "2", "0.00005308", "original", "0.00005308"]
    assert lines[first + 1 : second] == ["     source: the log", f"     --usage {usage}"]
    assert lines[second].split()[2:] == [__version__, "2", "0.00005308", "remapped_usage", "0.00005308"]
    assert lines[second + 1 : third] == [
        f"     --usage {more} --column 'model=lower(model)' --no-dedup --from 2026-04-08T00 --to 2026-04-08T01",
        "     reason: the second log",
    ]
    assert lines[third].split()[2:] == [__version__, "0", "0.00", "nothing"]
    assert lines[third + 1 :] == [
        "     source: the other log",
        "     rename-source --from 'the log' --to 'the other log'",
    ]
    code, out, _ = maintain("runs", "--json")
    runs = json.loads(out)
    assert (code, [run["run"] for run in runs]) == (0, [1, 2, 3])
    assert runs[1]["arguments"] == {"usage": more, "columns": {"model": "lower(model)"}, "duplicates": False}
    assert runs[1]["added"]["remapped_usage"]["amount"] == "0.000053080000"
    assert (runs[1]["amount"], runs[1]["reason"], runs[0]["reason"]) == ("0.000053080000", "the second log", None)
    assert (runs[2]["action"], runs[2]["source"]) == ("rename-source", "the other log")


def test_a_source_gets_another_name(write, bill, maintain, tmp_path):
    path = tmp_path / "out"
    usage = write([call(1)])
    assert bill(usage)[0] == 0
    assert bill(usage, "--source", "log 2")[0] == 2
    before = all_files(path)
    code, out, _ = maintain("rename-source", "--to", "log 2", "--dry-run")
    assert (code, out) == (0, "Dry run, nothing was written: to rename is the log to log 2\n")
    assert all_files(path) == before
    code, out, _ = maintain("rename-source", "--to", "log 2")
    assert (code, out) == (0, "Run 2 has named the source log 2, which was the log\n")
    assert maintain("rename-source", "--to", "log 2")[1] == "Nothing to do: the source is named log 2 already\n"
    assert bill(usage)[0] == 2
    assert bill(usage, "--source", "log 2")[0] == 0
    assert maintain("rename-source", "--to", " ")[0] == 2
    assert maintain("verify")[0] == 0


def test_hours_that_no_run_has_covered(write, bill, maintain):
    usage = write([call(1), call(2, NEXT_DAY)])
    hours = [("--from", f"2026-04-08T{a:02}", "--to", f"2026-04-08T{b:02}") for a, b in ((0, 2), (5, 6), (6, 8))]
    assert bill(usage, *hours[0])[0] == 0
    assert (
        maintain("gaps")[1] == "No gap: from 2026-04-08T00 to 2026-04-08T01 (UTC+8) every hour was covered by a run\n"
    )
    for hour in hours[1:]:
        assert bill(usage, *hour)[0] == 0
    assert bill(usage, "--from", "2026-04-08T09", "--to", "2026-04-08T10")[0] == 0
    code, out, _ = maintain("gaps")
    assert code == 0
    assert out.splitlines() == [
        "From 2026-04-08T00 to 2026-04-08T09 (UTC+8) no run has covered 4 hours:",
        "--from 2026-04-08T02 --to 2026-04-08T05   3 hours",
        "--from 2026-04-08T08 --to 2026-04-08T09    1 hour",
    ]
