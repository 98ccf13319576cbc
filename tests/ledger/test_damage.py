"""An output that was damaged, or restored in part: seen by every job, mended where the ledger can mend it."""

import json
import os
import shutil
from datetime import datetime, timedelta, timezone

import pytest

from spark_billing.commands.bill_history import bill_history
from spark_billing.commands.export_focus import export_focus
from spark_billing.commands.report import report
from spark_billing.commands.statement import statement
from spark_billing.core.errors import BehindError, OutputError, StorageError, UsageError
from spark_billing.core.spark_errors import storage_trouble
from spark_billing.core.storage import Storage
from spark_billing.ledger.damage import require_no_lost_runs
from spark_billing.ledger.folder_kept import FolderKept
from spark_billing.ledger.verifying import verify
from tests.conftest import HOUR, ONE, call, files, record, rows
from tests.ledger.made import age, billed, opened, record_file
from tests.oracle import COMMERCIAL_START

pytestmark = pytest.mark.classic

DAY = 24 * HOUR
FIRST, SECOND = "2026-04-08", "2026-04-09"
CALLS = [call(1), call(2, COMMERCIAL_START + DAY), call(3, model="x")]
ALL_CALLS = [*CALLS, call(4), call(5, COMMERCIAL_START + DAY)]


@pytest.fixture(scope="module")
def made(spark, tmp_path_factory):
    """Two dates, the second run over both; and as it was after the first run."""
    output = tmp_path_factory.mktemp("damage") / "out"
    billed(spark, CALLS, output)
    shutil.copytree(output, output.with_name("older"))
    billed(spark, ALL_CALLS, output)
    return output


@pytest.fixture
def out(made, tmp_path):
    shutil.copytree(made, tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def usage(write):
    return write(ALL_CALLS)


def amounts(spark, out):
    return {str(b["billing_date"]): b["amount"] for b in rows(spark, out, "bills")}


def is_whole(spark, out):
    return not verify(spark, FolderKept(Storage(spark, str(out)))).differences


def files_of_bills(out):
    return {name: content for name, content in files(out).items() if name.startswith("bill")}


# --- what is published


def bills_gone(out, older):
    shutil.rmtree(out / "bills")


def lines_gone(out, older):
    shutil.rmtree(out / "bill_lines")


def one_file_gone(out, older):
    next((out / "bills" / f"billing_date={FIRST}").glob("*.parquet")).unlink()


def an_older_copy(out, older):
    bills_gone(out, older)
    shutil.copytree(older / "bills", out / "bills")


def merged_with_an_older_copy(out, older):
    shutil.copytree(older / "bills", out / "bills", dirs_exist_ok=True)


def a_date_of_no_run(out, older):
    shutil.copytree(out / "bills" / f"billing_date={FIRST}", out / "bills" / "billing_date=2026-05-01")


def moved_into_itself(out, older):
    date = f"billing_date={FIRST}"
    shutil.copytree(older / "bill_lines" / date, out / "bill_lines" / date / date)


DAMAGES = [bills_gone, lines_gone, one_file_gone, an_older_copy, merged_with_an_older_copy, a_date_of_no_run]
DAMAGES += [moved_into_itself]
ESSENTIAL = (merged_with_an_older_copy,)


@pytest.mark.parametrize(
    "damage",
    [pytest.param(d, id=d.__name__, marks=() if d in ESSENTIAL else pytest.mark.campaign) for d in DAMAGES],
)
def test_what_is_published_is_rebuilt_by_a_run_that_adds_nothing(spark, made, out, usage, bill, damage):
    damage(out, made.with_name("older"))
    code, said, _ = bill(usage)
    assert code == 0
    assert "Nothing to add" in said
    dates = record(out, 3)["rebuilt"]
    assert dates
    assert f"Rebuilt, as other files were there than were published: {', '.join(dates)}" in said
    assert amounts(spark, out) == {FIRST: 2 * ONE, SECOND: 2 * ONE}
    assert is_whole(spark, out)
    if damage in ESSENTIAL:
        before = files_of_bills(out)
        assert bill(usage)[0] == 0
        assert "rebuilt" not in record(out, 4)
        assert files_of_bills(out) == before


@pytest.mark.campaign
def test_a_run_that_adds_to_one_date_rebuilds_the_other(spark, out, bill, write):
    bills_gone(out, None)
    code, _, _ = bill(write([*ALL_CALLS, call(6)]), "--from", "2026-04-08T00", "--to", "2026-04-08T01")
    assert code == 0
    assert amounts(spark, out) == {FIRST: 3 * ONE, SECOND: 2 * ONE}
    assert is_whole(spark, out)


@pytest.mark.campaign
def test_what_an_older_version_has_published_is_missed_only_if_it_is_gone(spark, out):
    for number in (1, 2):
        kept = record(out, number)
        assert sorted(kept.pop("published")) == [FIRST, SECOND]
        record_file(out, number).write_text(json.dumps(kept), encoding="utf-8")
    assert not billed(spark, ALL_CALLS, out).rebuilt
    one_file_gone(out, None)
    assert billed(spark, ALL_CALLS, out).rebuilt == [FIRST]
    assert is_whole(spark, out)


# --- records


def other_jobs(out, capsys):
    """The exit codes of the jobs that only read, and what they say."""
    to = out.parent
    for job, arguments in (
        (statement, ["--month", "2026-04"]),
        (report, ["--to-file", f"{to}/r.html"]),
        (export_focus, ["--to", f"{to}/focus", "--billing-account", "a"]),
        (bill_history, ["--workspace", "w-1", "--hour", "2026-04-08T00"]),
    ):
        code = job(["--output", str(out), *arguments])
        yield job.name, code, capsys.readouterr().err


@pytest.mark.parametrize("text", [b"", pytest.param(b'{"run": 2, "ru', marks=pytest.mark.campaign), b"[1]"])
def test_a_broken_record_is_refused_by_all_jobs_alike(out, usage, bill, capsys, text):
    record_file(out, 2).write_bytes(text)
    for name, code, err in [("bill", *bill(usage)[::2]), *other_jobs(out, capsys)]:
        assert (name, code, err.count("\n")) == (name, 2, 1), err
        assert f"{record_file(out, 2)} is not a whole record" in err
        assert "Restore it first" in err
        assert "delete" not in err.lower()


def test_only_a_record_that_nothing_tells_of_may_go(spark, made, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(made, out)
    age(out, 4)
    for number, may_go in ((4, True), (3, False), (1, False)):  # the last one; those in the middle
        kept = record_file(out, number).read_bytes()
        record_file(out, number).write_bytes(kept[: len(kept) // 2])
        with pytest.raises(OutputError) as refused:
            opened(spark, out)
        assert ("delete that file" in str(refused.value), "not a whole record" in str(refused.value)) == (may_go, True)
        record_file(out, number).write_bytes(kept)
    for number in (4, 3):
        record_file(out, number).unlink()
    record_file(out, 2).write_bytes(b"\0" * 4000)  # its lines are there, or its bills
    for gone in ("bills", "bill_lines", "ledger/lines", "rejected"):
        with pytest.raises(OutputError, match="Restore it first"):
            opened(spark, out)
        if gone == "ledger/lines":
            for folder in (out / gone).iterdir():
                if record(out, 1)["run_id"] not in folder.name:
                    shutil.rmtree(folder)
        else:
            shutil.rmtree(out / gone)
    with pytest.raises(OutputError, match="delete that file"):
        opened(spark, out)


def test_records_that_are_gone_are_no_new_ledger(out, usage, bill, capsys):
    before = files(out)
    kept = out.with_name("kept")
    shutil.move(out / "ledger", kept)
    for name, code, err in [("bill", *bill(usage)[::2]), *other_jobs(out, capsys)]:
        assert (name, code, err.count("\n")) == (name, 2, 1), err
        assert "the ledger that they were published from is gone" in err
    shutil.move(kept, out / "ledger")
    record_file(out, 2).unlink()  # the tail
    for name, code, err in [("bill", *bill(usage)[::2]), *other_jobs(out, capsys)]:
        assert (name, code, err.count("\n")) == (name, 2, 1), err
        assert "run 1 is the last of which" in err
        assert "Restore" in err
    shutil.rmtree(out / "ledger" / "lines" / f"run_id={max(p.name for p in (out / 'ledger/lines').iterdir())[7:]}")
    code, _, err = bill(usage)
    assert (code, "has rows of run 2" in err) == (2, True)
    assert files(out) == before


def test_lines_of_a_run_that_was_killed_are_not_those_of_a_lost_one(spark, out):
    later = "99991231T000000Z-0a1b2c3d"
    (first, *_) = (out / "ledger/lines").iterdir()
    shutil.copytree(first, first.with_name(f"run_id={later}-1"))
    (out / "_staging" / later).mkdir(parents=True)
    age(out, 3)
    storage = Storage(spark, str(out))
    require_no_lost_runs(storage, opened(spark, out).runs)
    shutil.rmtree(out / "_staging")
    with pytest.raises(OutputError, match="as if it had been committed"):
        require_no_lost_runs(storage, opened(spark, out).runs)


# --- a storage that does not do what it is asked


def test_what_a_storage_did_not_do_is_an_error(spark, tmp_path, monkeypatch):
    storage = Storage(spark, str(tmp_path))
    for name in ("a", "b"):
        (tmp_path / name / "x").mkdir(parents=True)
    with pytest.raises(StorageError, match="still there"):
        storage.move("a", "b")
    assert not (tmp_path / "b" / "a").exists()
    monkeypatch.setattr(Storage, "local_path", lambda self, relative: None)

    class Silent:
        def __getattr__(self, name):
            return (lambda *_: True) if name in ("delete", "rename", "mkdirs") else getattr(files_of_java, name)

    files_of_java, storage._files = storage._files, Silent()
    with pytest.raises(StorageError, match="is still there"):
        storage.delete("a")
    with pytest.raises(StorageError, match="was not moved"):
        storage.move("a", "c")


def test_files_of_a_storage_in_one_listing(spark, tmp_path, monkeypatch):
    storage = Storage(spark, str(tmp_path))
    for name in ("d=1/a b.parquet", "d=1/.a.crc", "_SUCCESS", "d=1/_temporary/x", "d=2/e=3/c.parquet"):
        (tmp_path / "t" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "t" / name).write_text("four")
    expected = {"d=1/a b.parquet": 4, "d=2/e=3/c.parquet": 4}
    assert storage.files("t") == expected
    assert storage.files("u") == {}
    monkeypatch.setattr(Storage, "local_path", lambda self, relative: None)  # as elsewhere
    assert storage.files("t") == expected


def test_what_this_user_may_not_see_is_not_absent(spark, out, monkeypatch):
    """Java says that it is, and a ledger would be begun anew."""
    lstat = os.lstat

    def denied(path, **options):
        if str(path).startswith(f"{out}/ledger/"):
            raise PermissionError(13, "Permission denied", path)
        return lstat(path, **options)

    kept = out / "ledger"
    shutil.rmtree(kept)
    monkeypatch.setattr(os, "lstat", denied)
    with pytest.raises(OutputError, match=r"permission denied: this user may not look at .*ledger"):
        opened(spark, out)


JAVA = "An error occurred while calling o1.parquet.\n: java.util.concurrent.ExecutionException: Boxed Exception\n"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(28, "No space left on device", "/d/x"), "no space is left (/d/x). Free some"),
        (
            RuntimeError(f"{JAVA}Caused by: java.io.IOException: No space left on device\n\tat java.base/x"),
            "no space is left. Free some",
        ),
        (
            RuntimeError(f"{JAVA}Caused by: java.io.FileNotFoundException: /d/x.crc (Read-only file system)"),
            "the storage is read-only (/d/x.crc). Let",
        ),
        (
            RuntimeError(
                f"{JAVA}Caused by: org.apache.hadoop.security.AccessControlException: Permission denied: user=a, "
                'access=WRITE, inode="/d/x":hdfs:hdfs:drwxr-xr-x'
            ),
            "permission denied (/d/x). Give",
        ),
    ],
)
def test_trouble_of_a_storage_in_a_line(error, told):
    assert storage_trouble(error).startswith(told)
    assert "\n" not in storage_trouble(error)


def test_a_run_whose_bills_cannot_be_put_in_place_says_that_it_is_committed(spark, out, monkeypatch, write, bill):
    """Of a partition that is another user's: the others are put in place, and the next run sees to this one."""
    usage = write([*ALL_CALLS, call(6), call(7, COMMERCIAL_START + DAY)])
    delete = Storage.delete

    def not_ours(self, relative):
        if relative == f"bills/billing_date={FIRST}":
            raise PermissionError(13, "Permission denied", self.path(relative))
        delete(self, relative)

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "delete", not_ours)
        code, _, err = bill(usage)
        assert (code, err.count("\n")) == (1, 1)
        assert f"run 3 is committed, but {out}/bills/billing_date={FIRST} is behind: permission denied" in err
        assert "the next run puts it in place" in err
        assert amounts(spark, out) == {FIRST: 2 * ONE, SECOND: 3 * ONE}
        with pytest.raises(BehindError, match="run 3 is committed"):
            billed(spark, [*ALL_CALLS, call(6), call(7, COMMERCIAL_START + DAY)], out)
    assert bill(usage)[0] == 0
    assert amounts(spark, out) == {FIRST: 3 * ONE, SECOND: 3 * ONE}
    assert not (out / "_staging").exists()
    assert is_whole(spark, out)


def test_files_of_others_in_a_ledger_do_not_matter(spark, out):
    for folder in [out, *(path for path in (out / "ledger").rglob("*") if path.is_dir())]:
        (folder / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
        (folder / "x.json").write_bytes(b'{"a": "\xff"}')
        (folder / "00000000000000000001 (copy).json").write_bytes(b"\xff")
        (folder / "5.json").write_bytes(b"\xff")
    done = billed(spark, ALL_CALLS, out)
    assert (done.run, done.ledger.reasons) == (3, {})
    assert amounts(spark, out) == {FIRST: 2 * ONE, SECOND: 2 * ONE}
    (out / f"ledger/runs/.{record_file(out, 1).name}.crc").write_bytes(b"crc\0\0\0\2\0\0\0\0\0")
    with pytest.raises(OutputError, match="is not what its checksum in"):
        opened(spark, out)


# --- usage that is missing


def test_a_file_of_the_usage_without_a_byte_is_told(bill, write, tmp_path):
    usage = write(CALLS)
    for name in ("z1.parquet", "z2.parquet", "_z3.parquet"):
        (tmp_path / "usage" / name).touch()
    code, said, _ = bill(usage)
    assert code == 0
    assert "ATTENTION: 2 files of the usage without a byte" in said
    assert [name.rpartition("/")[2] for name in record(tmp_path / "out")["empty_files"]] == ["z1.parquet", "z2.parquet"]
    assert record(tmp_path / "out")["empty_files_count"] == 2


# --- time


def test_a_clock_that_is_behind_is_refused(spark, out):
    later = (datetime.now(timezone.utc) + timedelta(days=400)).isoformat(timespec="seconds")
    text = record_file(out, 2).read_text(encoding="utf-8")
    record_file(out, 2).write_text(text.replace(record(out, 2)["started_at"], later), encoding="utf-8")
    for options in ({}, {"last": 2}):
        with pytest.raises(UsageError, match=f"but run 2 began at {later[:10]}.* one of the two is wrong") as refused:
            billed(spark, ALL_CALLS, out, **options)
        assert refused.value.parameter == "as_of"
    assert billed(spark, ALL_CALLS, out, as_of="2026-04-10T00:00+08:00").run == 3
    assert billed(spark, ALL_CALLS, out).run == 4


def test_hours_that_no_run_has_covered_are_told_and_billed(spark, write, bill, tmp_path):
    usage = write([call(n, COMMERCIAL_START + n * HOUR) for n in range(8)])
    assert bill(usage, "--last", "2", "--as-of", "2026-04-08T02:10+08:00")[0] == 0
    code, said, _ = bill(usage, "--last", "2", "--as-of", "2026-04-08T06:10+08:00")
    assert code == 0
    assert (
        "ATTENTION: the hours 2026-04-08T02 to 2026-04-08T04, UTC+8, before this run's, are covered by no run" in said
    )
    assert "--cover-gap" in said
    assert record(tmp_path / "out", 2)["not_covered"] == {"from": "2026-04-08T02", "to": "2026-04-08T04"}
    code, _, err = bill(usage, "--cover-gap")
    assert (code, "give last, too" in err) == (2, True)


@pytest.mark.campaign
def test_a_gap_is_covered(spark, write, bill, tmp_path):
    usage = write([call(n, COMMERCIAL_START + n * HOUR) for n in range(8)])
    assert bill(usage, "--last", "2", "--as-of", "2026-04-08T02:10+08:00", "--cover-gap")[0] == 0
    assert "not_covered" not in record(tmp_path / "out", 1)
    code, said, _ = bill(usage, "--last", "2", "--as-of", "2026-04-08T06:10+08:00", "--cover-gap")
    assert (code, "and are billed with it" in said) == (0, True)
    assert record(tmp_path / "out", 2)["period"] == {"from": "2026-04-08T02", "to": "2026-04-08T06"}
    assert [b["billing_hour"] for b in rows(spark, tmp_path / "out", "bills")] == [0, 1, 2, 3, 4, 5]
