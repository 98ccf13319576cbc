"""Kills, races and chance: whatever happens to a run, the ledger says in the end what an undisturbed one says.

Few rounds by default; SPARK_BILLING_FULL=1 runs the full counts (20 kills of the job, 5 of an executor, 10 races, 50
ways to split the input, 40 histories).
"""

import contextlib
import io
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings, stateful
from hypothesis import strategies as st
from pyspark.sql import functions as F

from spark_billing import PriceList, bill_lines, check_usage, hourly_bills
from spark_billing.core.errors import RetractionError
from spark_billing.core.hours import Period, date_label
from spark_billing.core.storage import Storage
from spark_billing.ledger import folder_ledger
from spark_billing.ledger.billing import bill_table
from spark_billing.ledger.difference import net_lines
from spark_billing.ledger.files import Staging
from spark_billing.ledger.folder_ledger import FolderLedger, RunFolder
from tests.bills.test_differential import hostile_calls
from tests.conftest import HOUR, call, usage_frame
from tests.oracle import COMMERCIAL_START

pytestmark = [pytest.mark.classic, pytest.mark.campaign]

ROOT = Path(__file__).resolve().parent.parent.parent
FULL = os.environ.get("SPARK_BILLING_FULL") == "1"
KILLS, RACES, SPLITS, HISTORIES = (20, 10, 50, 40) if FULL else (2, 3, 6, 3)

HOURS = [COMMERCIAL_START + n * HOUR for n in range(3)]
BEFORE = [call(n, HOURS[n % 3], workspace_id=f"w-{n % 7}") for n in range(200)]
AFTER = [*BEFORE, *(call(f"late-{n}", HOURS[n % 3] + timedelta(hours=n % 2)) for n in range(50)), call("x", model="x")]


def owed(spark, output):
    """What the ledger says is owed, and what the tables say, which must be the same; with the rejected rows."""
    storage = Storage(spark, str(output))
    ledger = FolderLedger.open(storage)
    lines = net_lines(ledger.lines({date_label(hour) for hour in ledger.runs.hours}))
    names = [f"`{name}`" for name in lines.columns]
    said = sorted(map(str, lines.collect()))
    assert said == sorted(map(str, spark.read.parquet(f"{output}/bill_lines").select(*names).collect()))
    bills = hourly_bills(lines)
    names = bills.columns
    assert sorted(map(str, bills.collect())) == sorted(
        map(str, spark.read.parquet(f"{output}/bills").select(*names).collect())
    )
    rejected = []
    if (Path(output) / "rejected").exists():
        rejected = sorted(row["request_id"] for row in spark.read.parquet(f"{output}/rejected").collect())
    return said, rejected


@pytest.fixture
def usages(spark, tmp_path):
    for name, calls in (("before", BEFORE), ("after", AFTER)):
        usage_frame(spark, calls).repartition(3).write.parquet(str(tmp_path / name))
    return str(tmp_path / "before"), str(tmp_path / "after")


def quiet_bill(spark, usage, output, **options):
    prices = PriceList.bundled("emr-serverless-spark", currency="USD")
    given = {"pricing": "native", "group_by_tags": [], "detail": False, "source": "the log", **options}
    return bill_table(spark, prices, usage=usage, output=str(output), publishing_patience=0.2, **given)


@pytest.mark.own_spark
def test_killed_at_any_moment(spark, usages, tmp_path):
    """The job is killed while it adds late calls to a bill; the next run must end as if it had not been."""
    before, after = usages
    for output in ("whole", "killed"):
        quiet_bill(spark, before, tmp_path / output)
    quiet_bill(spark, after, tmp_path / "whole")
    expected = owed(spark, tmp_path / "whole")
    arguments = ["--usage", after, "--currency", "USD", "--source", "the log"]

    def start(output):
        command = [sys.executable, str(ROOT / "jobs" / "hourly_bill.py"), *arguments, "--output", str(output)]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)

    begun = time.monotonic()
    process = start(tmp_path / "timed")
    assert process.wait(600) == 0
    takes = time.monotonic() - begun
    rng = random.Random(20260408)
    for _ in range(KILLS):
        process = start(tmp_path / "killed")
        time.sleep(takes * rng.uniform(0.35, 1))  # before that only the JVM starts
        with contextlib.suppress(ProcessLookupError):  # it was faster this time
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        quiet_bill(spark, after, tmp_path / "killed")
        assert owed(spark, tmp_path / "killed") == expected


STEPS = [  # what a run does to its files, in that order; it dies before or after any of them
    (Staging, "write_lines"),
    (Staging, "table"),
    (Staging, "calls"),
    (folder_ledger, "create_record"),
    (Storage, "move"),
    (folder_ledger, "publish"),
]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("owner", "name"), STEPS, ids=[name for _, name in STEPS])
def test_died_at_each_step(spark, usages, tmp_path, monkeypatch, owner, name, when):
    """As a kill is: nothing is tidied up."""
    before, after = usages
    quiet_bill(spark, before, tmp_path / "out")
    step = getattr(owner, name)

    def dies(*arguments, **options):
        if when == "after":
            step(*arguments, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, dies)
        patch.setattr(RunFolder, "clear", lambda self: None)
        with pytest.raises(KeyboardInterrupt):
            quiet_bill(spark, after, tmp_path / "out")
    outcome = quiet_bill(spark, after, tmp_path / "out")
    assert outcome.record.totals.amount == 250 * Decimal("0.00005308")
    said, rejected = owed(spark, tmp_path / "out")
    assert rejected == ["r-x"]
    committed = (name, when) in {("create_record", "after"), ("move", "before"), ("move", "after")} or name == "publish"
    assert outcome.record.run == (3 if committed else 2)
    assert bool(outcome.record.ledger.reasons) == (not committed)
    assert said


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("owner", "name"), [(Staging, "write_conflicts"), (folder_ledger, "create_record")])
def test_what_a_run_that_died_left_out_does_not_count(spark, tmp_path, monkeypatch, owner, name, when):
    """Two calls are left out for fuller copies an hour later, which explains that the bill of the first hour falls."""
    first = [call(n, HOURS[0]) for n in range(5)]
    fuller = [call(n, HOURS[1], input_tokens=270) for n in range(2)]
    for usage, calls in (("first", first), ("fuller", first + fuller), ("lost", first[:4] + fuller)):
        usage_frame(spark, calls).coalesce(1).write.parquet(str(tmp_path / usage))
    quiet_bill(spark, str(tmp_path / "first"), tmp_path / "out")
    step = getattr(owner, name)

    def dies(*arguments):
        if when == "after":
            step(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, dies)
        patch.setattr(RunFolder, "clear", lambda self: None)
        with pytest.raises(KeyboardInterrupt):
            quiet_bill(spark, str(tmp_path / "fuller"), tmp_path / "out")
    for _ in range(2):
        quiet_bill(spark, str(tmp_path / "fuller"), tmp_path / "out")
        ledger = FolderLedger.open(Storage(spark, str(tmp_path / "out")))
        left_out = ledger.left_out(["2026-04-08"])
        sums = left_out.groupBy("workspace_id").agg(F.sum("requests"), F.sum("input_tokens"), F.sum("beaten"))
        assert [tuple(row) for row in sums.collect()] == [("w-1", 2, 520, 2)]
    with pytest.raises(RetractionError):
        quiet_bill(spark, str(tmp_path / "lost"), tmp_path / "out")


def test_two_runs_at_once(spark, usages, tmp_path):
    before, after = usages
    for round_ in range(RACES):
        output, ends = tmp_path / f"race-{round_}", []

        def race(usage, output=output, ends=ends):
            try:
                quiet_bill(spark.newSession(), usage, output, allow_retractions=True)
                ends.append(0)
            except Exception as error:  # whatever it is, it is looked at below
                ends.append(error)

        threads = [threading.Thread(target=race, args=(usage,)) for usage in (after, before)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert ends == [0, 0]
        committed = FolderLedger.open(Storage(spark, str(output)))
        assert committed.runs.count == 2
        said, _ = owed(spark, output)
        amounts = {"before": 200 * Decimal("0.00005308"), "after": 250 * Decimal("0.00005308")}
        assert sum(committed.runs.amounts().values()) == (amounts[Path(committed.last.arguments["usage"]).name])
        assert said


def test_however_the_input_is_split(spark, usd):
    """The same calls in any order, in 1 to 64 partitions: the same bill and the same rejected rows."""
    calls = list(hostile_calls(600, seed=3))
    calls += [dict(c) for c in calls[:60]]
    calls += [{**c, "output_tokens": 7} for c in calls[20:40]] + [{**c, "call_time": HOURS[0]} for c in calls[30:50]]
    whole = usage_frame(spark, calls).cache()
    expected = None
    for seed in range(SPLITS):
        rng = random.Random(seed)
        shuffled = whole.repartition(rng.choice((1, 2, 3, 7, 16, 64)), F.rand(seed)).sortWithinPartitions(F.rand(seed))
        checked = check_usage(shuffled, prices=usd)
        lines = sorted(map(str, bill_lines(checked, prices=usd).collect()))
        reasons = Counter(str(tuple(row)) for row in checked.collect())
        expected = expected or (lines, reasons)
        assert (lines, reasons) == expected
    whole.unpersist()
    assert expected[0]


# --- histories by chance ---------------------------------------------------------------------------------------------


class History(stateful.RuleBasedStateMachine):
    """Late and withdrawn calls, corrected prices, re-runs and deaths in any order, against a model in plain Python."""

    spark = folder = None  # set by the test
    number = 0

    def __init__(self):
        super().__init__()
        History.number += 1
        self.output = self.folder / f"history-{History.number}"
        self.calls, self.next_id, self.price, self.lines = {}, 0, 138, {}
        self.usage_number = 0

    def run(self, dies_in=None):
        """Bill the model's calls by its price; or die in the middle of that."""
        self.usage_number += 1
        usage = str(self.output) + f"-usage-{self.usage_number}"
        usage_frame(self.spark, list(self.calls.values())).coalesce(1).write.parquet(usage)
        list_file = Path(str(self.output) + f"-{self.price}.csv")
        list_file.write_text(
            "model,region,min_input_tokens,max_input_tokens,input_price_per_1k,output_price_per_1k,currency\n"
            + "".join(f"qwen-plus,cn-hangzhou,{t},0.000{self.price},0.000344,USD\n" for t in ("0,1000", "1000,1M"))
        )
        prices = PriceList.from_csv(list_file)
        period = Period(int(HOURS[0].timestamp()), int(HOURS[-1].timestamp()) + 3600)
        options = {"source": "the log", "pricing": "native", "group_by_tags": [], "detail": False, "period": period}
        given = {"usage": usage, "output": str(self.output), "allow_retractions": True, **options}
        if dies_in is None:
            bill_table(self.spark, prices, publishing_patience=0, **given)
            self.check()
            return
        patch = pytest.MonkeyPatch()
        owner, name = STEPS[dies_in]
        patch.setattr(owner, name, lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt()))
        patch.setattr(RunFolder, "clear", lambda self: None)
        try:
            bill_table(self.spark, prices, publishing_patience=0, **given)
        except KeyboardInterrupt:
            pass
        finally:
            patch.undo()

    def check(self):
        """The ledger's sum is the model's bill, the tables say the same, and no line was ever changed."""
        expected = Counter()
        for c in self.calls.values():
            amount = c["input_tokens"] * Decimal(self.price) / 10**9 + c["output_tokens"] * Decimal(344) / 10**9
            expected[c["workspace_id"], c["call_time"].timestamp()] += amount
        bills = {}
        if (self.output / "bills").exists():
            frame = self.spark.read.parquet(str(self.output / "bills"))
            bills = {(b["workspace_id"], b["s"]): b["amount"] for b in frame.withColumn(
                "s", F.unix_seconds("period_start").cast("double")).collect()}  # fmt: skip
        assert bills == dict(expected)
        ledger = FolderLedger.open(Storage(self.spark, str(self.output)))
        lines = ledger.lines({"2026-04-08"})
        held = [] if lines is None else lines.collect()
        assert sum((row["amount"] for row in held), Decimal(0)) == sum(expected.values())
        now = Counter(map(str, held))
        assert not Counter(self.lines) - now
        self.lines = now

    @stateful.rule(
        workspace=st.sampled_from(("w-1", "w-2")),
        hour=st.sampled_from(HOURS),
        tokens=st.sampled_from((1, 999, 1000, 1001, 300_000)),
        count=st.integers(1, 3),
    )
    def calls_come(self, workspace, hour, tokens, count):
        for _ in range(count):
            self.next_id += 1
            new = call(self.next_id, hour, workspace_id=workspace, input_tokens=tokens)
            self.calls[self.next_id] = new

    @stateful.rule(data=st.data())
    def a_call_is_withdrawn(self, data):
        if self.calls:
            del self.calls[data.draw(st.sampled_from(sorted(self.calls)))]

    @stateful.rule(price=st.sampled_from((138, 150, 120)))
    def prices_are_corrected(self, price):
        self.price = price

    @stateful.rule()
    def it_runs(self):
        self.run()

    @stateful.rule(step=st.integers(0, len(STEPS) - 1))
    def it_dies_and_runs_again(self, step):
        self.run(dies_in=step)
        self.run()


def test_histories_by_chance(spark, tmp_path):
    History.spark, History.folder = spark, tmp_path
    with contextlib.redirect_stdout(io.StringIO()):
        stateful.run_state_machine_as_test(
            History,
            settings=settings(
                max_examples=HISTORIES,
                stateful_step_count=12,
                deadline=None,
                database=None,
                derandomize=not FULL,
                print_blob=False,
                suppress_health_check=list(HealthCheck),
            ),
        )
