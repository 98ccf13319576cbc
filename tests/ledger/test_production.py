"""A made-up production billed run by run: after each every bill, every line, what is rejected and the exit code are
those of a plain oracle, however the runs cut the time."""

import os
from datetime import timezone
from decimal import Decimal
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spark_billing import PriceList, bill_touched_hours
from spark_billing.commands.hourly_bill import hourly_bill
from tests.conftest import record
from tests.production import COLUMNS, HOUR, START, UTC8, Billed, Oracle, Production

pytestmark = pytest.mark.classic

BILLED, RETRACTION = 0, 4
DAY = 24
SEEDS = range(3, 8) if os.environ.get("SPARK_BILLING_FULL") == "1" else (3,)
TYPES = {name: pa.string() for name in COLUMNS[:4]}
TYPES |= {"call_time": pa.timestamp("us", "UTC"), "input_tokens": pa.int64(), "output_tokens": pa.int64()}


@pytest.fixture
def plant(tmp_path, capsys):
    """Runs a production: its folder of usage, the jobs over it, and the check of what they leave behind."""

    def plant(production):
        oracle, lost = Oracle(production.changes_at), set()
        usage = tmp_path / "usage"
        usage.mkdir()
        (tmp_path / "prices.csv").write_text(production.price_list())

        def file_of(hour):
            return usage / f"arrived-{hour:04}.parquet"

        def arrive(hour):
            rows = production.files.get(hour)
            if rows:
                columns = {name: [row[name] for row in rows] for name in COLUMNS}
                pq.write_table(pa.table(columns, pa.schema(list(TYPES.items()))), file_of(hour))

        def lose(hour):
            lost.add(hour)
            file_of(hour).rename(tmp_path / file_of(hour).name)

        def find(hour):
            lost.discard(hour)
            (tmp_path / file_of(hour).name).rename(file_of(hour))

        def state(hour):
            return oracle.state(production.until(hour, lost))

        def run(ledger, hour, last, *arguments, code=BILLED):
            """The job as it is scheduled, five minutes after an hour; last=None: over all that there is."""
            now = START + (hour + 1) * HOUR
            start, end = (now - last * HOUR, now) if last else (START - DAY * HOUR, now)
            when = ("--last", str(last), "--as-of", f"{now:%Y-%m-%dT%H}:05+08:00") if last else ()
            given = ["--usage", str(usage), "--output", str(tmp_path / ledger.output), "--currency", "USD"]
            given += ["--price-list", str(tmp_path / "prices.csv"), "--source", "the log", *when, *arguments]
            found = hourly_bill(given)
            said = capsys.readouterr()
            assert found == code, said.err or said.out
            if code == BILLED:
                ledger.runs += 1
                now_there = state(hour)
                ledger.billed.commit(now_there, start, end)
                check(ledger, now_there, start, end)
            check_tables(ledger)
            return said

        def check(ledger, now_there, start, end):
            done = record(tmp_path / ledger.output, ledger.runs)["totals"]
            read, rejected = now_there.totals(start, end)
            assert done["rejected"] == dict(rejected)
            assert done["rows"] == {
                "read": read,
                "billed": read - sum(rejected.values()),
                "rejected": sum(rejected.values()),
            }
            of_hours = sum((b[3] for (_, at), b in now_there.bills.items() if start <= at < end), Decimal(0))
            assert Decimal(done["amount"]) == of_hours

        def check_tables(ledger):
            output = tmp_path / ledger.output
            assert dict(bills_of(output)) == ledger.billed.bills
            assert dict(lines_of(output)) == ledger.billed.lines

        def of(output):
            return SimpleNamespace(output=output, billed=Billed(), runs=0)

        return SimpleNamespace(
            arrive=arrive, lose=lose, find=find, run=run, of=of, state=state, usage=usage, check_tables=check_tables
        )

    return plant


def rows_of(folder):
    for file in sorted(folder.rglob("*.parquet")):
        for row in pq.ParquetFile(file).read().to_pylist():
            start = row["period_start"].replace(tzinfo=timezone.utc).astimezone(UTC8)
            assert f"billing_date={start:%Y-%m-%d}" in file.parts
            assert row["billing_hour"] == start.hour
            yield start, row


def bills_of(output):
    for start, row in rows_of(output / "bills"):
        measures = [row[name] for name in ("requests", "input_tokens", "output_tokens", "amount")]
        yield (row["workspace_id"], start), measures


def lines_of(output):
    for start, row in rows_of(output / "bill_lines"):
        names = ("region", "model", "token_type", "tier", "price_per_1k")
        key = (row["workspace_id"], start, *(row[name] for name in names))
        yield key, [row[name] for name in ("requests", "tokens", "amount")]


def test_a_few_hours(plant):
    """A price changes inside hour 1, calls arrive late, twice and with rivals, many of which stand from the first hour
    on; in hour 2 the file of hour 0 is lost."""
    production = Production(seed=1, hours=3, calls=40, crowd=150, rivals=0.2)
    factory = plant(production)
    hourly = factory.of("hourly")
    factory.arrive(0)
    factory.arrive(1)
    factory.run(hourly, 1, 48)
    factory.arrive(2)
    factory.lose(0)
    said = factory.run(hourly, 2, 48, code=RETRACTION)
    assert "would lower" in said.err
    factory.find(0)
    factory.run(hourly, 2, 48)


@pytest.mark.campaign
def test_leave_to_lose_a_file(plant):
    production = Production(seed=2, hours=3, calls=60)
    factory = plant(production)
    hourly = factory.of("hourly")
    for hour in range(2):
        factory.arrive(hour)
    factory.run(hourly, 1, 48)
    factory.lose(0)
    factory.run(hourly, 1, 48, code=RETRACTION)
    factory.run(hourly, 1, 48, "--allow-retractions")
    factory.arrive(2)
    factory.run(hourly, 2, 48)
    factory.find(0)
    factory.run(hourly, 2, 48)


@pytest.mark.campaign
def test_a_copy_in_an_hour_that_no_run_has_billed(plant):
    """It would take its call out of every bill: refused, until the run covers its hour too."""
    production = Production(seed=7, hours=2, calls=0)
    first = production.call(0, model="qwen-plus", input_tokens=1000, output_tokens=10)
    production.files[0] = [first, production.call(0, model="qwen-plus", input_tokens=5, output_tokens=5)]
    production.files[1] = [{**first, "call_time": first["call_time"] + HOUR, "output_tokens": 20}]
    factory = plant(production)
    hourly = factory.of("hourly")
    factory.arrive(0)
    factory.run(hourly, 0, 1)
    factory.arrive(1)
    said = factory.run(hourly, 0, 1, code=RETRACTION)
    assert "2026-05-01T01" in said.err
    factory.run(hourly, 1, 48)


@pytest.mark.campaign
@pytest.mark.parametrize("at_once", [True, False])
def test_copies_in_a_chain(plant, at_once):
    """Each beats the one 20 hours before it, so the first is rejected for the second, which is in no bill itself."""
    production = Production(seed=8, hours=48, calls=0)
    first = production.call(0, model="qwen-plus", region="cn-hangzhou", input_tokens=1000, output_tokens=10)
    better = [{**first, "call_time": first["call_time"] + n * 20 * HOUR, "output_tokens": 10 + n} for n in range(1, 3)]
    production.files[0] = [first]
    production.files[40 if at_once else 20].append(better[0])
    production.files[40].append(better[1])
    factory = plant(production)
    hourly = factory.of("hourly")
    for hour in (0, 20, 40):
        factory.arrive(hour)
        factory.run(hourly, hour, 48)
    assert [measures[0] for measures in hourly.billed.bills.values()] == [1]


@pytest.mark.campaign
@pytest.mark.parametrize("seed", SEEDS)
def test_days(plant, seed):
    """76 hours: every sixth hour a run over the last 48, every day one over the last 168; a file is lost for six hours
    in the second day. In between nothing but the calls of over two days ago is ever missing."""
    production = Production(seed, hours=76, calls=150, crowd=2000, change=30.5)
    factory = plant(production)
    hourly = factory.of("hourly")
    for hour in range(76):
        factory.arrive(hour)
        if hour == 33:
            factory.lose(27)
        if hour == 39:
            factory.find(27)
        code = RETRACTION if 33 <= hour < 39 else BILLED
        if hour % 6 == 5:
            factory.run(hourly, hour, 48, code=code)
        if hour % DAY == DAY - 1:
            factory.run(hourly, hour, 168, code=code)
    factory.run(hourly, 75, 168)


@pytest.mark.campaign
def test_every_way_to_cut_the_runs_gives_the_same_bill(plant, spark, tmp_path):
    """Hourly, daily, one run over everything, and a stream, over the same usage with copies near and far."""
    production = Production(seed=5, hours=30, calls=80, rivals=0.3, change=20.5)
    factory = plant(production)
    hourly, daily, once, stream = (factory.of(name) for name in ("hourly", "daily", "once", "stream"))
    last = max(production.files)
    for hour in range(last + 1):
        factory.arrive(hour)
        if hour < 30 and hour % 10 == 9:
            factory.run(hourly, hour, 48)
        if hour % DAY == DAY - 1:
            factory.run(daily, hour, 168)
    for ledger in (hourly, daily):
        factory.run(ledger, last, 168)
    factory.run(once, last, None)
    assert once.billed == hourly.billed == daily.billed

    prices = PriceList.from_csv(tmp_path / "prices.csv")
    each = bill_touched_hours(prices, usage=str(factory.usage), output=str(tmp_path / "stream"), source="the log")
    calls = spark.readStream.schema(spark.read.parquet(str(factory.usage)).schema)
    calls = calls.option("maxFilesPerTrigger", 25).parquet(str(factory.usage))
    query = calls.writeStream.foreachBatch(each).option("checkpointLocation", str(tmp_path / "checkpoint"))
    query.trigger(availableNow=True).start().awaitTermination()
    stream.billed = once.billed
    factory.check_tables(stream)
