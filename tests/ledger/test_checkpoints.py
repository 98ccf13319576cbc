"""A ledger is opened from its last checkpoint and the records since, and says what all records together say."""

import json
import shutil
from collections import Counter
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spark_billing.core.errors import OutputError
from spark_billing.core.storage import Storage
from spark_billing.ledger.folder_ledger import FolderLedger
from spark_billing.ledger.run_record import RunRecord
from spark_billing.ledger.summed_runs import EVERY, SummedRuns
from tests.conftest import HOUR, call
from tests.ledger.made import age, billed, opened, record_file
from tests.oracle import COMMERCIAL_START

pytestmark = pytest.mark.classic

HOURS = [COMMERCIAL_START + n * HOUR for n in range(30)]
CALLS = [call(n, HOURS[n % 30], tags={"team": f"t-{n % 2}"}, workspace_id=f"w-{n % 3}") for n in range(60)]
RIVALS = [{**CALLS[0], "input_tokens": 200, "call_time": HOURS[1]}]  # left out for the fuller copy an hour before


@pytest.fixture(scope="module")
def aged(spark, tmp_path_factory):
    """133 runs, those at 65 and 131 with a checkpoint; of the real ones one has tags, one lines to take back, and one
    leaves calls out."""
    output = tmp_path_factory.mktemp("aged") / "out"
    billed(spark, CALLS[:40], output)
    age(output, 64)
    billed(spark, CALLS[:50] + RIVALS, output, tags=True, group_by_tags=["team"])
    age(output, 130)
    billed(spark, CALLS, output)
    billed(spark, CALLS[10:], output, allow_retractions=True)
    age(output, 133)
    return output


@pytest.fixture
def copy(aged, tmp_path):
    shutil.copytree(aged, tmp_path / "out")
    return tmp_path / "out"


def checkpoint(output, number):
    return output / f"ledger/checkpoints/{number:020}.json"


def of_all_records(output):
    """The sum of every record, one by one, without a checkpoint."""
    runs = SummedRuns()
    for number in range(1, len(list((output / "ledger/runs").glob("*.json"))) + 1):
        text = record_file(output, number).read_text(encoding="utf-8")
        runs = runs.after([(RunRecord.from_json(str(number), text), text)])
    return runs


def again(runs):
    """As after it was written and read: sequences are lists."""
    return SummedRuns.from_text(runs.to_text())


@pytest.fixture
def reads(monkeypatch):
    """How often each file is read, by its folder."""
    found = Counter()
    read = Storage.read

    def counting(self, relative):
        found[relative.rpartition("/")[0]] += 1
        return read(self, relative)

    monkeypatch.setattr(Storage, "read", counting)
    return found


def test_opening_reads_the_last_checkpoint_and_the_records_since(spark, aged, reads):
    ledger = opened(spark, aged)
    assert reads == {"ledger/checkpoints": 1, "ledger/runs": 3}  # the record of the checkpoint, and two after it
    assert (ledger.runs.count, ledger.checkpointed, ledger.last.run) == (133, 131, 133)


def test_a_ledger_says_what_all_its_records_say(spark, aged):
    assert sorted(path.name for path in (aged / "ledger/checkpoints").iterdir()) == [f"{n:020}.json" for n in (65, 131)]
    all_of_them = again(of_all_records(aged))
    assert again(opened(spark, aged).runs) == all_of_them
    assert all_of_them.tag_columns == ["tag_team"]
    assert all_of_them.left_out
    assert sum(all_of_them.amounts().values()) == 50 * Decimal("0.00005308")
    assert set(all_of_them.covered_by.values()) == {133}


def test_what_a_ledger_of_any_age_lists(spark, aged, reads):
    """Its lines are verified against what the checkpoint says of them, without another record."""
    ledger = opened(spark, aged)
    lines = ledger.lines(ledger.runs.lines)
    assert lines.count() == sum(sums.lines for of in ledger.runs.lines.values() for sums in of.values())
    assert reads["ledger/runs"] == 3


BROKEN = {
    "emptied": lambda text: "",
    "cut": lambda text: text[: len(text) // 2],
    "cut at its end": lambda text: text.rstrip()[:-3],
    "a figure changed": lambda text: text.replace('"runs":131', '"runs":130', 1),
    "no JSON": lambda text: "\ufeffwhat?",
    "of other records": lambda text: SummedRuns(count=131, last_id="20260101T000000Z-0a1b2c3d-1").to_text(),
    "of another number": lambda text: SummedRuns(count=9, last_id="20260409T000000Z-00000009-1").to_text(),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_checkpoint_that_is_none_is_passed_over(spark, aged, copy, broken):
    text = checkpoint(copy, 131).read_text(encoding="utf-8")
    damaged = BROKEN[broken](text)
    assert damaged != text
    checkpoint(copy, 131).write_text(damaged, encoding="utf-8")
    ledger = opened(spark, copy)
    assert ledger.checkpointed == 65
    assert again(ledger.runs) == again(opened(spark, aged).runs)
    checkpoint(copy, 65).write_text("", encoding="utf-8")
    ledger = opened(spark, copy)
    assert ledger.checkpointed == 0
    assert again(ledger.runs) == again(opened(spark, aged).runs)


def test_a_checkpoint_that_is_gone_is_missed_by_nobody(spark, aged, copy):
    shutil.rmtree(copy / "ledger/checkpoints")
    assert again(opened(spark, copy).runs) == again(opened(spark, aged).runs)


@pytest.mark.parametrize("gone", [[1], [40], [65], [131], [130, 131, 132, 133], [133, 132, 131]])
def test_a_record_that_is_gone_is_missed_though_a_checkpoint_sums_it(spark, copy, gone):
    for number in gone:
        record_file(copy, number).unlink()
    with pytest.raises(OutputError, match=r"is not whole.*Restore the records that are missing"):
        opened(spark, copy)


def test_all_records_gone_is_no_new_ledger(spark, copy):
    shutil.rmtree(copy / "ledger/runs")
    with pytest.raises(OutputError, match="is not whole"):
        billed(spark, CALLS, copy)


def test_a_run_that_cannot_write_its_checkpoint_is_committed_all_the_same(spark, copy, monkeypatch):
    for file in (copy / "ledger/checkpoints").iterdir():
        file.unlink()
    create = Storage.create

    def full(self, relative, text):
        if relative.startswith("ledger/checkpoints"):
            raise OSError("No space left on device")
        return create(self, relative, text)

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "create", full)
        assert billed(spark, CALLS, copy).run == 134
    assert not list((copy / "ledger/checkpoints").iterdir())
    assert billed(spark, CALLS, copy).run == 135
    assert checkpoint(copy, 135).exists()
    ledger = opened(spark, copy)
    assert (ledger.runs.count, ledger.checkpointed) == (135, 135)


def test_a_checkpoint_comes_every_so_many_runs(spark, tmp_path, monkeypatch):
    monkeypatch.setattr("spark_billing.ledger.folder_ledger.EVERY", 2)
    output = tmp_path / "out"
    for n in range(1, 6):
        billed(spark, CALLS[:n], output)
    assert sorted(path.name for path in (output / "ledger/checkpoints").iterdir()) == [f"{n:020}.json" for n in (2, 4)]
    assert again(FolderLedger.open(Storage(spark, str(output))).runs) == again(of_all_records(output))
    assert EVERY == 64


# --- any records, by chance: also those of earlier versions, which told no hours or a list of conflicts

hours = st.sampled_from([f"2026-04-{day:02}T{hour:02}" for day in (7, 8, 9) for hour in (0, 1, 23)])
count = st.integers(-(2**62), 2**62)
amount = st.decimals(-(10**20), 10**20, places=12).map(lambda value: f"{value:f}")
sums = st.fixed_dictionaries({"lines": st.integers(1, 99), "requests": count, "tokens": count, "amount": amount})
name = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
conflict = st.tuples(name, hours, name, name, st.booleans(), st.none() | hours, *[st.integers(0, 9)] * 3, amount)
record = st.fixed_dictionaries(
    {
        "ledger": st.fixed_dictionaries({"reasons": st.just({}), "hours": st.dictionaries(hours, sums, max_size=4)}),
        "tag_columns": st.lists(name.map("tag_{}".format), unique=True, max_size=2),
    },
    optional={
        "left_out": st.none() | st.dictionaries(st.sampled_from(["2026-04-07", "2026-04-08"]), sums, max_size=2),
        "conflicts": st.none() | st.lists(conflict, max_size=3),
        "covered": st.lists(hours.map(lambda hour: [hour, f"{hour[:-2]}24"[:-2] + hour[-2:]]), max_size=1),
    },
)


@given(st.lists(record, min_size=1, max_size=6), st.data())
@settings(max_examples=60)
def test_any_records_are_the_same_after_a_checkpoint(records, data):
    texts, parent = [], None
    for number, found in enumerate(records, start=1):
        run_id = f"run-{number}"
        whole = {"run": number, "run_id": run_id, "parent": parent, "source": "s", "price_list": {"currency": "USD"}}
        texts.append(json.dumps({**whole, **found}, ensure_ascii=False))
        parent = run_id
    read = [(RunRecord.from_json(str(n), text), text) for n, text in enumerate(texts)]
    at = data.draw(st.integers(0, len(read)))
    whole, first = SummedRuns().after(read), SummedRuns().after(read[:at])
    assert SummedRuns.from_text(whole.to_text()).to_text() == whole.to_text()
    assert again(again(first).after(read[at:])) == again(whole)
