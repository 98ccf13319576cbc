"""A made-up production billed run by run: after each every bill, every line, what is rejected and the exit code are
those of a plain oracle, however the runs cut the time."""

import os

import pytest

from spark_billing import PriceList, bill_touched_hours
from tests.plant import BILLED, DAY, RETRACTION, Plant
from tests.production import HOUR, Production

pytestmark = pytest.mark.classic

SEEDS = range(3, 8) if os.environ.get("SPARK_BILLING_FULL") == "1" else (3,)


@pytest.fixture
def plant(spark, tmp_path, capsys):
    """The jobs run in the session of the tests, which a test that is alone would not start otherwise."""
    return lambda production: Plant(tmp_path, capsys, production)


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
