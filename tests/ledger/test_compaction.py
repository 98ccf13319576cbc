"""Compacting changes where the rows of a ledger are, and nothing of what it says; whenever it dies."""

import shutil
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from pyspark.sql import functions as F

from spark_billing import bill_history
from spark_billing.core.errors import LostRaceError, OutputError, RetractionError, TotalsError
from spark_billing.core.storage import Storage
from spark_billing.ledger import compaction
from spark_billing.ledger.compaction import compact
from spark_billing.ledger.files import Staging
from spark_billing.ledger.folder_ledger import FolderStore
from spark_billing.ledger.places import MANIFESTS, Place, Places
from tests.conftest import HOUR, call
from tests.ledger.made import billed, opened
from tests.oracle import COMMERCIAL_START

pytestmark = pytest.mark.classic

HOURS = [COMMERCIAL_START + n * HOUR for n in range(30)]  # of two dates
FIRST = [call(n, HOURS[n % 30], tags={"team": f"t-{n % 2}"}) for n in range(40)]
RIVALS = [{**FIRST[n], "input_tokens": 200 + n, "call_time": HOURS[n - 1]} for n in (1, 29)]  # left out
LATER = [{**FIRST[n], "input_tokens": 100 + n, "call_time": HOURS[n - 1]} for n in (4, 27)]
SECOND = FIRST + RIVALS + [call(100 + n, HOURS[n], tags={"team": "t-1"}) for n in range(3)]
THIRD = SECOND + LATER + [call(200, HOURS[29]), call(201, HOURS[4])]
DATES = ["2026-04-08", "2026-04-09"]
DAY = 86400
A_MONTH_LATER = int(time.time()) + 30 * DAY
KINDS = ("lines", "conflicts")


@pytest.fixture(scope="module")
def made(spark, tmp_path_factory):
    """Three runs on two dates, with a tag from the second on, and calls left out by the second and the third."""
    output = tmp_path_factory.mktemp("compaction") / "out"
    billed(spark, FIRST, output)
    billed(spark, SECOND, output, tags=True, group_by_tags=["team"])
    billed(spark, THIRD, output, tags=True, group_by_tags=["team"])
    return output


@pytest.fixture
def output(made, tmp_path):
    shutil.copytree(made, tmp_path / "out")
    return tmp_path / "out"


def store(spark, output):
    return FolderStore(Storage(spark, str(output)), 0)


def compacted(spark, output, at=A_MONTH_LATER, **options):
    return compact(store(spark, output), now=at, **options)


def said(spark, output):
    """Every row of the ledger, as it is read."""
    ledger = opened(spark, output)
    return [
        Counter(str(sorted(row.asDict().items(), key=str)) for row in rows.collect())
        for rows in (ledger.lines(DATES), ledger.left_out(DATES))
    ]


def parts(output):
    """The files of the rows of a ledger, by folder."""
    found = {}
    for where in ("ledger", "ledger/compacted"):
        for kind in KINDS:
            found[f"{where}/{kind}"] = sorted((output / where / kind).rglob("*.parquet"))
    return found


def counts(output):
    return tuple(len(files) for files in parts(output).values())


def manifests(output):
    return sorted((output / MANIFESTS).glob("*.json"))


def test_the_rows_are_the_same_in_fewer_files(spark, made, output):
    before = said(spark, made)
    assert all(before)
    assert counts(output) == (6, 4, 0, 0)
    sizes = compacted(spark, output)
    assert counts(output) == (6, 4, 2, 2)
    assert (sizes.dates, sizes.before.files, sizes.after.files, sizes.removed.files) == (DATES, 10, 4, 0)
    assert sizes.kept == sizes.before
    assert said(spark, output) == before
    shutil.rmtree(output / "ledger/lines")  # nothing of it is read
    shutil.rmtree(output / "ledger/conflicts")
    assert said(spark, output) == before
    assert [f.name for f in opened(spark, output).lines(DATES).schema] == [
        f.name for f in opened(spark, made).lines(DATES).schema
    ]


def test_what_was_replaced_is_removed_a_day_later_by_the_next(spark, made, output):
    before = said(spark, made)
    compacted(spark, output)
    again = compacted(spark, output, A_MONTH_LATER + DAY - 1)
    assert (again.dates, again.removed.files, counts(output)) == ([], 0, (6, 4, 2, 2))
    assert len(manifests(output)) == 1
    last = compacted(spark, output, A_MONTH_LATER + DAY)
    assert (last.dates, last.removed.files, last.kept.files, counts(output)) == ([], 10, 0, (0, 0, 2, 2))
    assert not list((output / "ledger/lines").iterdir())
    assert said(spark, output) == before
    assert compacted(spark, output, A_MONTH_LATER + 9 * DAY).removed.files == 0
    assert len(manifests(output)) == 2


def test_a_dry_run_tells_and_changes_nothing(spark, output):
    there = sorted(output.rglob("*"))
    sizes = compacted(spark, output, dry_run=True)
    assert (sizes.dates, sizes.before.files, sizes.after.files) == (DATES, 10, 0)
    assert sizes.before.bytes == sum(f.stat().st_size for files in parts(output).values() for f in files)
    assert sorted(output.rglob("*")) == there


def test_young_dates_and_single_files_are_left_alone(spark, output, tmp_path):
    assert compacted(spark, output, int(time.time())).dates == []
    assert compacted(spark, output, int(time.time()) + 8 * DAY, older_than=9).dates == []
    billed(spark, FIRST, tmp_path / "one")
    assert compacted(spark, tmp_path / "one").dates == []
    assert not manifests(output)


def test_a_date_that_gets_more_is_compacted_again(spark, output):
    compacted(spark, output)
    with_more = [*THIRD, call(300, HOURS[5])]
    billed(spark, with_more, output, tags=True, group_by_tags=["team"])
    before = said(spark, output)
    sizes = compacted(spark, output, keep_hours=48)
    assert (sizes.dates, sizes.before.files, sizes.after.files) == ([DATES[0]], 2, 1)
    assert said(spark, output) == before
    sizes = compacted(spark, output, keep_hours=0)
    assert (sizes.removed.files, counts(output)) == (12, (0, 0, 2, 2))
    assert said(spark, output) == before


def test_a_reader_that_was_there_before_reads_on(spark, output):
    """One that has opened the ledger, and one that holds its rows unread; and one of before a run that is compacted."""
    before = said(spark, output)
    ledger = opened(spark, output)
    held = ledger.lines(DATES)
    billed(spark, [*THIRD, call(300, HOURS[5])], output, tags=True, group_by_tags=["team"])
    compacted(spark, output)
    assert Counter(str(sorted(row.asDict().items(), key=str)) for row in held.collect()) == before[0]
    assert ledger.lines(DATES).count() == sum(before[0].values())
    compacted(spark, output, keep_hours=0)
    assert ledger.lines(DATES).count() == sum(before[0].values())
    assert ledger.left_out(DATES).count() == sum(before[1].values())


def test_bills_go_on_as_if_nothing_was_compacted(spark, made, output, tmp_path):
    shutil.copytree(made, tmp_path / "plain")
    compacted(spark, output)
    compacted(spark, output, keep_hours=0)
    late = [*THIRD, call(400, HOURS[2], tags={"team": "t-9"})]
    lost = late[1:]
    options = {"tags": True, "group_by_tags": ["team"]}
    ended = []
    for folder in (output, tmp_path / "plain"):
        same, more = billed(spark, THIRD, folder, **options), billed(spark, late, folder, **options)
        with pytest.raises(RetractionError):
            billed(spark, lost, folder, **options)
        less = billed(spark, lost, folder, allow_retractions=True, **options)
        history = bill_history(spark, str(folder), workspace_id="w-1", hour="2026-04-08T02")
        tables = [spark.read.parquet(str(folder / table)).collect() for table in ("bills", "bill_lines")]
        ended.append(
            (
                [record.ledger for record in (same, more, less)],
                [record.left_out for record in (same, more, less)],
                [[str(value) for name, value in row.asDict().items() if name not in ("run_at", "run_id")]
                 for row in history.collect()],
                [sorted(map(str, rows)) for rows in tables],
            )
        )  # fmt: skip
    assert ended[0] == ended[1]
    assert ended[0][2]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["gone", "emptied", "of another date", "twice", "of another run"])
def test_a_compacted_file_that_is_damaged_is_refused(spark, output, kind, how):
    compacted(spark, output)
    compacted(spark, output, keep_hours=0)
    first, second = parts(output)[f"ledger/compacted/{kind}"]
    (first.parent / f".{first.name}.crc").unlink()
    if how == "gone":
        shutil.rmtree(first.parent)
    elif how == "emptied":
        first.unlink()
        read = spark.read.parquet(str(second))
        read.limit(0).coalesce(1).write.mode("append").parquet(str(first.parent))
    elif how == "of another date":
        shutil.copy(second, first)
    elif how == "twice":
        shutil.copy(first, first.with_name("part-copy.parquet"))
    else:
        foreign = spark.read.parquet(str(first)).limit(1).withColumn("run_id", F.lit("20260101T000000Z-0a1b2c3d-1"))
        foreign.coalesce(1).write.mode("append").parquet(str(first.parent))
    ledger = opened(spark, output)
    read = ledger.lines if kind == "lines" else ledger.left_out
    with pytest.raises(OutputError, match=r"[Rr]estore"):
        read(DATES)
    with pytest.raises(OutputError, match=r"[Rr]estore"):  # nor is anything made of it
        billed(spark, THIRD, output, tags=True, group_by_tags=["team"])


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_removed_that_is_not_found_elsewhere(spark, made, output, kind):
    before = said(spark, made)
    compacted(spark, output)
    for file in parts(output)[f"ledger/compacted/{kind}"]:
        file.unlink()
    with pytest.raises(OutputError, match=r"[Rr]estore"):
        compacted(spark, output, keep_hours=0)
    assert counts(output)[:2] == (6, 4)
    shutil.rmtree(output / MANIFESTS)  # which is the way back as long as they are there
    assert said(spark, output) == before


def test_what_was_written_wrong_does_not_count(spark, made, output, monkeypatch):
    """A row of the same sums in another hour or workspace: the sums by run and date would not tell."""
    write = Staging.write

    def wrong(self, rows, path, by, in_order):
        write(self, rows.withColumn("workspace_id", rows["region"]), path, by, in_order)

    with monkeypatch.context() as patch:
        patch.setattr(Staging, "write", wrong)
        with pytest.raises(TotalsError, match="row by row"):
            compacted(spark, output)
    assert (counts(output), manifests(output)) == ((6, 4, 0, 0), [])
    assert said(spark, output) == said(spark, made)


def test_a_manifest_that_is_broken_is_passed_over(spark, made, output):
    before = said(spark, made)
    compacted(spark, output)
    compacted(spark, output, A_MONTH_LATER + DAY)
    older, newer = manifests(output)
    newer.write_text(newer.read_text()[:-20])
    assert said(spark, output) == before
    kept = parts(output)
    older.write_text("")
    with pytest.raises(OutputError, match="gone"):
        said(spark, output)
    with pytest.raises(OutputError, match="gone"):  # it does not take them for what a dead one has left
        compacted(spark, output, A_MONTH_LATER + 2 * DAY, keep_hours=0)
    assert parts(output) == kept


def test_a_manifest_says_all_that_is_needed():
    place = Place("attempt=20260408T000000Z-0a1b2c3d", 1, frozenset({"a", "b"}), ("run_id=a", "run_id=b"))
    places = Places(3).with_places(4, {"ledger/lines": {"2026-04-08": place}})
    assert Places.from_text(places.to_text()) == places
    assert Places.from_text(places.to_text().replace("run_id=b", "run_id=c")) is None
    assert Places.from_text("") is None
    wanted = [("2026-04-08", "a"), ("2026-04-08", "c"), ("2026-04-09", "a")]
    found = places.found("ledger/lines", wanted)
    assert found.apart == [f"ledger/lines/run_id={run}/billing_date={d}" for d, run in wanted[1:]]
    assert found.together == ["ledger/compacted/lines/attempt=20260408T000000Z-0a1b2c3d/billing_date=2026-04-08"]
    assert found.others == {"2026-04-08": ["b"]}


def test_a_compaction_that_another_overtakes_leaves_nothing(spark, made, output, monkeypatch):
    before = said(spark, made)
    commit = compaction._Compacting._commit

    def overtaken(self, new):
        with monkeypatch.context() as patch:
            patch.setattr(compaction._Compacting, "_commit", commit)
            compacted(spark, output, A_MONTH_LATER + 1)
        commit(self, new)

    monkeypatch.setattr(compaction._Compacting, "_commit", overtaken)
    with pytest.raises(LostRaceError, match="another compaction"):
        compacted(spark, output)
    assert (counts(output), len(manifests(output))) == ((6, 4, 2, 2), 1)
    assert said(spark, output) == before


STEPS = [  # what a compaction does to the files, in that order; it dies before or after any of them
    (Staging, "write"),
    (compaction, "read_compacted"),
    (Storage, "create"),
    (Storage, "delete"),
    (compaction._Compacting, "_delete_if_done"),
]


@pytest.mark.campaign
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("nth", [1, 2])
@pytest.mark.parametrize(("owner", "name"), STEPS, ids=[name for _, name in STEPS])
def test_died_at_each_step(spark, made, output, monkeypatch, owner, name, nth, when):
    """As a kill is: nothing is tidied up. One dies while it compacts, or the one a day later that removes."""
    before, step, calls = said(spark, made), getattr(owner, name), []

    def dies(*arguments, **options):
        calls.append(1)
        done = step(*arguments, **options) if len(calls) < nth or when == "after" else None
        if len(calls) >= nth:
            raise KeyboardInterrupt
        return done

    monkeypatch.setattr(compaction, "_AT_ONCE", 1)  # so that one manifest is there when it dies at the second
    died = []
    for day in (0, 1):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, dies)
            try:
                compacted(spark, output, A_MONTH_LATER + day * DAY)
            except KeyboardInterrupt:
                died.append(day)
                assert said(spark, output) == before
    assert died
    for day in (2, 3, 4):
        compacted(spark, output, A_MONTH_LATER + day * DAY)
    assert counts(output) == (0, 0, 2, 2)
    assert said(spark, output) == before


@pytest.mark.campaign
def test_two_at_once(spark, made, output):
    before, ends = said(spark, made), []

    def race(at):
        try:
            ends.append(compacted(spark.newSession(), output, at))
        except LostRaceError as error:
            ends.append(error)

    threads = [threading.Thread(target=race, args=(A_MONTH_LATER + n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ends) == 2
    assert sum(isinstance(end, LostRaceError) for end in ends) <= 1
    assert len(manifests(output)) == 1
    assert counts(output) == (6, 4, 2, 2)
    assert said(spark, output) == before


@pytest.mark.campaign
def test_runs_and_compactions_in_turn(spark, output):
    """Each compacts what the ones before have left, and the bill is that of a ledger that was never compacted."""
    plain = Path(f"{output}-plain")
    shutil.copytree(output, plain)
    calls, options = list(THIRD), {"tags": True, "group_by_tags": ["team"]}
    for n in range(4):
        calls.append(call(500 + n, HOURS[n * 7], tags={"team": f"t-{n}"}))
        compacted(spark, output, keep_hours=0)
        records = [billed(spark, calls, folder, **options) for folder in (output, plain)]
        assert records[0].ledger == records[1].ledger
        found = [spark.read.parquet(str(folder / "bill_lines")).collect() for folder in (output, plain)]
        assert sorted(map(str, found[0])) == sorted(map(str, found[1]))
