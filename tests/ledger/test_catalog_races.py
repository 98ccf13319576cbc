"""Two processes on one ledger, in every kind of catalog that a ledger may be in and in a folder: what a format promises
of its commits is raced for, never taken from its manual.

Each of two processes bills a usage of its own that grows, 4 rounds by default and 50 with SPARK_BILLING_FULL=1. A
process is killed around its commit once in each kind of catalog, and 20 times with SPARK_BILLING_FULL=1, which also
takes in Iceberg's Hadoop catalog and Paimon's JDBC catalog.
"""

import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from contextlib import ExitStack, suppress
from decimal import Decimal

import pytest

from tests.ledger.racer import MARK
from tests.matrix import ROOT
from tests.servers.catalogs import configuration, together
from tests.servers.engines import python
from tests.servers.processes import hdfs, hive_metastore, postgresql, sqlite

pytestmark = [pytest.mark.campaign, pytest.mark.own_spark, pytest.mark.default_engine]

FULL = os.environ.get("SPARK_BILLING_FULL") == "1"
ROUNDS, KILLS = (50, 20) if FULL else (4, 1)

CATALOGS = {  # the kinds of catalogs, each with the name that it has in the session, by engine
    "4.1.1": {"iceberg-jdbc-postgresql": "ice", "delta": "spark_catalog"},
    "3.5.2": {"paimon-hdfs": "pai"},
}
if FULL:
    CATALOGS["3.5.2"]["paimon-jdbc"] = "paj"
    CATALOGS["4.1.1"]["iceberg-hadoop"] = "hdp"
FOLDER = "folder"
TABLES = [(engine, kind) for engine, kinds in CATALOGS.items() for kind in kinds]
KINDS = [*TABLES, ("4.1.1", FOLDER)]  # pytest groups the tests by a kind's place in either
WITH_VIEWS = ("iceberg-jdbc-postgresql", "delta")

ONE = Decimal("0.00005308")  # a call's price
SETTINGS = {
    "spark.master": "local[2]",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.sql.shuffle.partitions": "1",
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    "spark.sql.session.timeZone": "UTC",
    "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=240m",
    "spark.databricks.delta.snapshotPartitions": "2",
    # else the lock of a killed process holds up the next for 8 minutes
    "spark.sql.catalog.paj.lock-acquire-timeout": "20 s",
    "spark.sql.catalog.paj.lock-check-max-sleep": "1 s",
}


class Process:
    """A process that runs tests/ledger/racer.py."""

    def __init__(self, engine, settings, log):
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("SPARK_", "PYSPARK_"))}
        self.log, self.busy, self.is_held = log, False, False
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [*python(engine), "-m", "tests.ledger.racer"],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
                start_new_session=True,  # to kill it is to kill its JVM, too
            )
        self._say(settings)

    def _say(self, what):
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()

    def start(self, order, **given):
        self._say({"do": order, **given})
        self.busy = True
        return self

    def go_on(self):
        self._say("on")
        self.is_held = False
        return self

    def hear(self):
        for line in self.process.stdout:
            if line.startswith(MARK):
                heard = json.loads(line[len(MARK) :])
                self.is_held = "at" in heard
                self.busy = self.busy and self.is_held
                return heard
        raise AssertionError(f"the process is gone; it said:\n{self.log.read_text(errors='replace')[-8000:]}")

    def done(self):
        heard = self.hear()
        assert "done" in heard, heard
        return heard["done"]

    def stopped(self, point):
        assert self.hear() == {"at": point}

    def do(self, order, **given):
        return self.start(order, **given).done()

    def rest(self):
        """Let it end what it is at, after a test that failed in the middle of it."""
        while self.busy:
            if self.is_held:
                self.go_on()
            self.hear()

    def kill(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        with suppress(OSError):  # what it was never told goes nowhere
            self.process.stdin.close()
        self._wait()

    def end(self):
        self.process.stdin.close()
        self._wait(60)

    def _wait(self, patience=20):
        try:
            self.process.wait(patience)
        except subprocess.TimeoutExpired:
            self.kill()
        self.process.stdout.close()


class Engine:
    """Two processes of an engine with all of its catalogs."""

    def __init__(self, engine, distributed, folder):
        self.engine, self.distributed, self.folder = engine, distributed, folder
        self.stack = ExitStack()
        self.number = 0
        kinds = CATALOGS[engine]
        uris = {}
        if "delta" in kinds:
            uris["delta"] = self.stack.enter_context(hive_metastore())
        if "iceberg-jdbc-postgresql" in kinds:
            uris["iceberg-jdbc-postgresql"] = self.stack.enter_context(postgresql())
        if "paimon-jdbc" in kinds:
            uris["paimon-jdbc"] = sqlite(folder)
        on_disk = ("iceberg-jdbc-postgresql", "paimon-jdbc")  # where it is the database that excludes
        self.settings = together(
            SETTINGS,
            *(
                configuration(
                    kind,
                    name,
                    warehouse=f"{folder if kind in on_disk else distributed}/{kind}",
                    uri=uris.get(kind),
                    spark=engine,
                )
                for kind, name in kinds.items()
            ),
        )
        self.both = [self.process() for _ in range(2)]
        for each in self.both:
            assert each.hear() == {"is_up": engine}
            self.stack.callback(each.end)

    def process(self):
        self.number += 1
        return Process(self.engine, self.settings, self.folder / f"racer-{self.number}.log")


class Place:
    """Ledgers of one kind, and the two processes that bill into them."""

    def __init__(self, engine, kind):
        self.engine, self.kind = engine, kind
        self.one, self.other = engine.both
        self._common = None

    def fresh(self, name):
        """A place for a ledger where nothing was ever billed."""
        if self.kind == FOLDER:
            return {"output": f"{self.engine.distributed}/folders/{name}"}
        namespace = f"{CATALOGS[self.engine.engine][self.kind]}.{name}"
        self.one.do("create", namespace=namespace)
        return {"catalog": namespace}

    @property
    def common(self):
        """A ledger that has a run already."""
        if self._common is None:
            ledger = self.fresh("common")
            assert self.one.do("bill", ledger=ledger, who="a", calls=2, rejected=1)["run"] == 1
            self._common = ledger
        return self._common

    def hold(self, stop="hold", **given):
        """One bills into the common ledger, and waits when it is about to commit."""
        self.one.start("bill", ledger=self.common, stops={"before commit": stop}, **given).stopped("before commit")

    def abreast(self, ledger, points, **given):
        """Both bill, and wait for each other at these points; one commits first, and the other settles again."""
        both = {"a": self.one, "b": self.other}
        for who, process in both.items():
            process.start("bill", ledger=ledger, who=who, stops=dict.fromkeys(points, "hold"), **given)
        for point in points:
            for process in both.values():
                process.stopped(point)
            for process in both.values():
                process.go_on()
        runs = [process.done() for process in both.values()]
        assert sorted(run["lost"] for run in runs) == [0, 1]
        return runs

    def look(self, ledger):
        """What the ledger says, which must agree with itself: what is owed after each run, by workspace, the last."""
        seen = self.other.do("look", ledger=ledger)
        assert [run for run, _, _ in seen["records"]] == list(range(1, seen["count"] + 1))
        parents = [None, *(run_id for _, run_id, _ in seen["records"])]
        assert [parent for _, _, parent in seen["records"]] == parents[:-1]
        owed, after = Counter(), []
        for run in range(1, seen["count"] + 1):
            for of_run, workspace, amount in seen["lines"]:
                if of_run == run:
                    owed[workspace] += Decimal(amount)
            after.append({workspace: amount for workspace, amount in owed.items() if amount})
        assert {run for run, _, _ in seen["lines"]} <= set(range(1, seen["count"] + 1))
        if self.kind in WITH_VIEWS:
            assert seen["views"] == ["bill_lines", "bills"]
        if "bills" in seen:
            assert {workspace: Decimal(amount) for workspace, amount in seen["bills"]} == after[-1]
        else:
            assert self.kind not in WITH_VIEWS
        seen["after"] = after
        return seen

    def require(self, ledger, *runs, rejected=None):
        """The ledger's last runs are these, as the processes have told of them, and each bill is that of its run."""
        seen = self.look(ledger)
        said = sorted(runs, key=lambda run: run["run"])
        first = seen["count"] - len(said) + 1
        assert [run["run"] for run in said] == list(range(first, seen["count"] + 1))
        assert [run["run_id"] for run in said] == [run_id for _, run_id, _ in seen["records"][first - 1 :]]
        assert seen["after"][first - 1 :] == [owed(run) for run in said]
        if rejected is not None:
            assert seen["rejected"] == rejected
        return seen


def owed(run):
    """What is owed after a run, by hand: its usage has the calls of one workspace, and no other's."""
    return {f"w-{run['who']}": run["calls"] * ONE}


@pytest.fixture(scope="module")
def distributed():
    with hdfs() as uri:
        yield uri


@pytest.fixture(scope="module")
def engines(distributed, tmp_path_factory):
    """The processes of one engine at a time: two of both would not fit into a small machine."""
    found = {}

    def engine(name):
        if name not in found:
            for other in list(found.values()):
                other.stack.close()
            found.clear()
            found[name] = Engine(name, distributed, tmp_path_factory.mktemp("races"))
        return found[name]

    yield engine
    for each in found.values():
        each.stack.close()


@pytest.fixture(scope="module", params=KINDS, ids=[kind for _, kind in KINDS])
def place(engines, request):
    engine, kind = request.param
    return Place(engines(engine), kind)


@pytest.fixture(autouse=True)
def at_rest(place):
    yield
    for process in (place.one, place.other):
        process.rest()


of_tables = pytest.mark.parametrize("place", TABLES, ids=[kind for _, kind in TABLES], indirect=True)
BUT_PAIMON = [(engine, kind) for engine, kind in TABLES if "paimon" not in kind]
of_others = pytest.mark.parametrize("place", BUT_PAIMON, ids=[kind for _, kind in BUT_PAIMON], indirect=True)


def test_the_first_run_of_all_by_two_at_once(place):
    """Both make the table, then both have their first run to commit."""
    ledger = place.fresh("first")
    points = ["before commit"] if place.kind == FOLDER else ["before table", "before commit"]
    runs = place.abreast(ledger, points, calls=3, rejected=1)
    place.require(ledger, *runs, rejected=1)


def test_two_race(place, record_property):
    ledger = place.fresh("race")
    begun = time.monotonic()
    for who, process in (("a", place.one), ("b", place.other)):
        process.start("race", ledger=ledger, who=who, rounds=ROUNDS)
    runs = [run for process in (place.one, place.other) for run in process.done()]
    took, lost = time.monotonic() - begun, sum(run["lost"] for run in runs)
    said = f"{place.kind}: {len(runs)} commits, {lost} lost races, {took:.0f} s"
    record_property("race", said)
    print(said)
    assert len(runs) == 2 * ROUNDS
    assert lost, "nothing was raced for"
    place.require(ledger, *runs)


def test_a_loser_that_begins_its_commit_after_the_winners(place):
    """It must notice, though nothing happens during its commit, and settle again."""
    place.hold(who="a", calls=4, rejected=2)
    first = place.other.do("bill", ledger=place.common, who="b", calls=5, rejected=3)
    second = place.one.go_on().done()
    assert (first["lost"], second["lost"]) == (0, 1)
    place.require(place.common, first, second, rejected=2)


def test_each_sees_what_the_other_has_just_committed(place):
    """Catalogs remember a table for a while; the second to bill in turn must not lose its first attempt by that, nor
    miss a column that the other has added."""
    runs = []
    for n, (process, who, team) in enumerate(
        (
            (place.one, "a", False),
            (place.other, "b", False),
            (place.one, "a", True),
            (place.other, "b", False),
        )
    ):
        runs.append(process.do("bill", ledger=place.common, who=who, calls=2 + n, team=team))
        assert place.one.do("count", ledger=place.common) == runs[-1]["run"]
    assert not any(run["lost"] for run in runs)
    place.require(place.common, *runs, rejected=0)


@of_tables
def test_both_add_the_same_column(place):
    """A tag that no run has had before, in two runs at once."""
    ledger = place.fresh("column")
    place.one.do("bill", ledger=ledger, who="b", calls=3, rejected=1)
    runs = place.abreast(ledger, ["before columns", "before commit"], calls=4, rejected=2, team=True)
    place.require(ledger, *runs, rejected=2)


@of_tables
def test_a_compaction_between_opening_and_commit(place):
    """The ledger is where it was, in other files: the run is committed all the same, and once."""
    place.one.do("bill", ledger=place.common, who="b", calls=3)  # two runs at least, to be made one file
    place.hold(who="a", calls=4)
    before, after = place.other.do("compact", ledger=place.common)
    assert before != after
    run = place.one.go_on().done()
    assert run["lost"] == 0
    again = place.other.do("bill", ledger=place.common, who="b", calls=5)
    assert again["lost"] == 0
    place.require(place.common, run, again)


@of_tables
def test_died_after_a_commit(place):
    """A run that dies before it has made the views, in the first run of all or with a new tag: the next makes them."""
    ledger = place.fresh("died")
    for number, team in ((1, False), (3, True)):
        given = {"ledger": ledger, "who": "a", "calls": 2 + number, "team": team}
        heard = place.one.start("bill", **given, stops={"after commit": "die"}).hear()
        assert heard == {"error": "KeyboardInterrupt: after commit"}
        run = place.other.do("bill", ledger=ledger, who="b", calls=2, rejected=1)
        assert run["run"] == number + 1
        seen = place.require(ledger, run, rejected=1)
        assert ("tag_team" in seen.get("columns", [])) == (team and place.kind in WITH_VIEWS)


@of_tables
def test_an_error_after_the_commit_is_no_failure(place):
    run = place.one.do("bill", ledger=place.common, who="a", calls=6, rejected=1, stops={"after commit": "fail"})
    place.require(place.common, run, rejected=1)


@of_tables
def test_an_error_before_the_commit_is_one(place):
    """Nothing is committed, and its rejected rows do not count; the next run ends as if it had not been."""
    before = place.look(place.common)
    given = {"ledger": place.common, "who": "b", "calls": 7}
    heard = place.one.start("bill", **given, rejected=5, stops={"before commit": "fail"}).hear()
    assert "failed before commit" in heard.get("error", ""), heard
    assert place.look(place.common) == before
    run = place.one.do("bill", **given, rejected=4)
    assert run["run"] == before["count"] + 1
    place.require(place.common, run, rejected=4)


@of_others
def test_an_error_before_the_commit_and_a_compaction(place):
    """The table has another version than the run began on, and no run of its number: it tries again. In Paimon a
    compaction makes the commit fail by itself."""
    place.one.do("bill", ledger=place.common, who="b", calls=3)
    place.hold("hold, then fail", who="a", calls=8)
    place.other.do("compact", ledger=place.common)
    run = place.one.go_on().done()
    assert run["lost"] == 0
    place.require(place.common, run)


def test_killed_around_the_commit(place):
    """Before it, at any moment of it or after it: the next run ends as if nothing had happened."""
    rng = random.Random(place.kind)
    points = rng.sample(["before", "during", "after", "during"], 4) * KILLS
    victim = place.engine.process()
    for n, point in enumerate(points[:KILLS], start=1):
        before = place.look(place.common)["count"]
        given = {"ledger": place.common, "who": "c", "calls": 8 + n, "rejected": 1 + n % 3}
        assert "is_up" in victim.hear()
        victim.start("bill", **given, stops={f"{point} commit": "hold"}).stopped(f"{point} commit")
        if point == "during":
            time.sleep(rng.uniform(0, 2))
        victim.kill()
        if n < KILLS:
            victim = place.engine.process()  # it starts meanwhile
        run = place.one.do("bill", **given)
        committed = {"before": [0], "during": [0, 1], "after": [1]}[point]
        assert run["run"] - 1 - before in committed
        assert run["lost"] == 0
        place.require(place.common, run, rejected=given["rejected"])
