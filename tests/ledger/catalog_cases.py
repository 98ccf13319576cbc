"""What a ledger in a catalog must do, catalog by catalog: the cases that tests/ledger/test_catalogs.py runs, each
engine in a process of its own, as Spark takes the jars of a format only when it starts.

SPARK_BILLING_CATALOGS names a JSON file with the settings of the session, and the catalogs to try in it.
"""

import json
import os
from decimal import Decimal
from pathlib import Path
from uuid import uuid4

import pytest
from pyspark.sql import functions as F

from spark_billing import bill_history, bill_touched_hours, bill_usage, ledger_bill_lines, ledger_bills, ledger_lines
from spark_billing.commands.bill_history import bill_history as history_job
from spark_billing.commands.export_focus import export_focus
from spark_billing.commands.hourly_bill import hourly_bill
from spark_billing.commands.maintain_ledger import maintain_ledger
from spark_billing.commands.report import report
from spark_billing.commands.statement import statement
from spark_billing.core.errors import OutputError, RetractionError, UsageError
from spark_billing.core.schemas import LEDGER_LINES
from spark_billing.core.session import LOG_SETTINGS, local_session
from spark_billing.ledger import summed_runs, table_ledger
from spark_billing.ledger.stores import open_ledger
from tests.conftest import HOUR, ONE, call, usage_frame
from tests.oracle import COMMERCIAL_START
from tests.plant import InCatalog, Plant
from tests.production import Production

GIVEN = json.loads(Path(os.environ["SPARK_BILLING_CATALOGS"]).read_text())
NEXT_DAY = COMMERCIAL_START + 24 * HOUR
FIRST, SECOND = (at.replace(tzinfo=None) for at in (COMMERCIAL_START, NEXT_DAY))  # as Spark gives instants back
DATE = "2026-04-08"


@pytest.fixture(scope="session")
def spark():
    java = f"-Dlog4j2.configurationFile={LOG_SETTINGS} -XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=240m"
    session = local_session(
        "catalogs",
        {
            "spark.master": "local[2]",
            "spark.sql.shuffle.partitions": "1",
            "spark.sql.codegen.wholeStage": "false",
            "spark.sql.codegen.factoryMode": "NO_CODEGEN",
            "spark.sql.session.timeZone": "UTC",
            "spark.databricks.delta.snapshotPartitions": "2",
            "spark.driver.extraJavaOptions": java,
            **GIVEN["settings"],
        },
    )
    yield session
    session.stop()


def pytest_generate_tests(metafunc):
    """All cases where a catalog is given for all; in each other one what shows that it works at all."""
    if "catalog" in metafunc.fixturenames:
        every = metafunc.function.__name__ in ("test_bills_late_calls_and_rejected_rows",)
        catalogs = [catalog for catalog in GIVEN["catalogs"] if catalog["all"] or every]
        metafunc.parametrize("catalog", catalogs, ids=[catalog["kind"] for catalog in catalogs])


@pytest.fixture
def place(spark, catalog):
    """A namespace of its own."""
    namespace = f"{catalog['name']}.billing_{uuid4().hex[:8]}"
    spark.sql(f"CREATE NAMESPACE {namespace}")
    return namespace


@pytest.fixture
def options(usd, place):
    return {"prices": usd, "source": "the log", "catalog": place}


def owed(spark, place, views):
    """Calls and amount by workspace and hour, from our functions and, where they are, the views."""
    found = ledger_bills(spark, catalog=place).collect()
    if views:
        for view, rows in (("bills", found), ("bill_lines", ledger_bill_lines(spark, catalog=place).collect())):
            names = [f"`{name}`" for name in rows[0].__fields__]
            assert sorted(map(str, spark.table(f"{place}.{view}").select(*names).collect())) == sorted(map(str, rows))
    return {(row["workspace_id"], row["period_start"]): (row["requests"], row["amount"]) for row in found}


def test_bills_late_calls_and_rejected_rows(spark, catalog, place, options):
    first = bill_usage(usage_frame(spark, [call(1), call(2, model="x"), call(3, None)]), **options)
    assert (first.run, first.totals.rejected) == (1, {"unknown_model": 1, "missing_call_time": 1})
    assert owed(spark, place, catalog["views"]) == {("w-1", FIRST): (1, ONE)}
    again = bill_usage(usage_frame(spark, [call(1), call(2, model="x"), call(3, None)]), **options)
    assert (again.run, again.ledger.reasons) == (2, {})
    late = bill_usage(usage_frame(spark, [call(1), call(4), call(5, NEXT_DAY)]), **options, detail=True)
    assert {reason: sums.requests for reason, sums in late.ledger.reasons.items()} == {"original": 2, "late_usage": 2}
    assert owed(spark, place, catalog["views"]) == {("w-1", FIRST): (2, 2 * ONE), ("w-1", SECOND): (1, ONE)}
    lines = ledger_lines(spark, catalog=place)
    assert lines.agg(F.sum("amount")).first()[0] == 3 * ONE
    assert [(f.name, f.dataType) for f in lines.schema] == [(f.name, f.dataType) for f in LEDGER_LINES]
    history = bill_history(spark, catalog=place, workspace_id="w-1", hour=f"{DATE}T00")
    assert [row["run"] for row in history.collect()] == [1, 1, 3, 3]
    rejected = spark.table(f"{place}.rejected")
    assert sorted((r["request_id"], r["reject_reason"], r["run"]) for r in rejected.collect()) == [
        ("r-2", "unknown_model", 1),
        ("r-2", "unknown_model", 2),
        ("r-3", "missing_call_time", 1),
        ("r-3", "missing_call_time", 2),
    ]
    assert spark.table(f"{place}.priced_calls").agg(F.sum("cost")).first()[0] == 3 * ONE


def test_names_and_types_are_those_of_a_folder(spark, catalog, place, options, usd, tmp_path):
    usage = usage_frame(spark, [call(1, tags={"team": "a"}), call(2, workspace_id="w-2")], tags=True)
    bill_usage(usage, **options, group_by_tags=["team"])
    bill_usage(usage, prices=usd, source="the log", output=str(tmp_path / "out"), group_by_tags=["team"])
    for table, function in (("bill_lines", ledger_bill_lines), ("bills", ledger_bills)):
        of_folder = spark.read.parquet(str(tmp_path / "out" / table))
        types = dict(of_folder.dtypes)
        if catalog["views"]:
            view = spark.table(f"{place}.{table}")
            assert dict(view.dtypes) == types
            assert sorted(map(str, view.select(*types).collect())) == sorted(map(str, of_folder.collect()))
        assert {**dict(function(spark, catalog=place).dtypes), "run": "bigint"} == types


def test_a_tag_that_is_new_is_a_new_column(spark, catalog, place, options):
    tags = {"tags": {"te am": "a", "cost`centre": "7"}}
    bill_usage(usage_frame(spark, [call(1, **tags), call(2, NEXT_DAY, **tags)], tags=True), **options)
    period = (f"{DATE}T00", f"{DATE}T01")
    usage = usage_frame(spark, [call(1, **tags)], tags=True)
    for keys in (["te am"], ["te am", "cost`centre"]):
        record = bill_usage(usage, **options, period=period, group_by_tags=keys)
        assert {reason: sums.lines for reason, sums in record.ledger.reasons.items()} == {"regrouped": 4}
    lines = ledger_bill_lines(spark, catalog=place)
    assert sorted(
        (row["tag_te am"] or "", row["tag_cost`centre"] or "", row["token_type"]) for row in lines.collect()
    ) == [
        ("", "", "input"),
        ("", "", "output"),
        ("a", "7", "input"),
        ("a", "7", "output"),
    ]
    assert owed(spark, place, catalog["views"]) == {("w-1", FIRST): (1, ONE), ("w-1", SECOND): (1, ONE)}
    with pytest.raises(OutputError, match="Spark does not tell these apart"):
        bill_usage(usage, **options, group_by_tags=["TE AM"])


def test_verifying(spark, place, options, capsys):
    """All of it is whole; then a line is there twice, and a run's rows without its record."""
    for calls in ([call(1)], [call(1), call(2, NEXT_DAY)]):
        bill_usage(usage_frame(spark, calls), **options)
    assert maintain_ledger(["verify", "--output-catalog", place]) == 0
    assert capsys.readouterr().out.endswith("\nWhole: nothing differs\n")
    of_first = spark.table(f"{place}.ledger").filter("kind = 'line' AND run = 1").limit(1).localCheckpoint()
    of_first.writeTo(f"{place}.ledger").append()
    of_first.withColumn("run_id", F.lit("20260101T000000Z-0a1b2c3d-1")).writeTo(f"{place}.ledger").append()
    assert maintain_ledger(["verify", "--output-catalog", place]) == 3
    said = capsys.readouterr().out.splitlines()
    assert any(line.startswith("lines, run ") and f" on {DATE}: needed is 2 lines" in line for line in said)
    assert "rows, run 20260101T000000Z-0a1b2c3d-1: needed is a record of that run, there is nothing" in said
    assert maintain_ledger(["compact", "--output-catalog", place]) == 2
    assert "rewrite_data_files" in capsys.readouterr().err


def test_a_way_back(spark, catalog, place, options, cny, capsys):
    """All of it is reversed and billed in another currency; leftovers are removed, views made anew."""
    where = ["--output-catalog", place]
    calls = [call(1), call(2, NEXT_DAY), call(2, NEXT_DAY, input_tokens=250)]
    bill_usage(usage_frame(spark, [*calls, call(3, model="x")]), **options, reason="the first")
    assert maintain_ledger(["reverse", *where, "--run", "1", "--reason", "wrong", "--dry-run"]) == 0
    assert maintain_ledger(["reverse", *where, "--all", "--reason", "the wrong currency"]) == 0
    assert "Run 2 has reversed all that is owed\nAdded: 4 lines, -0.00010616 USD\n" in capsys.readouterr().out
    assert ledger_bills(spark, catalog=place).collect() == []
    assert open_ledger(spark, None, place).left_out(["2026-04-09"]).agg(F.sum("requests")).first()[0] == 0
    bill_usage(usage_frame(spark, calls), **{**options, "prices": cny})
    # 260 x 0.00096 / 1000 + 50 x 0.0024 / 1000
    assert {amount for _, amount in owed(spark, place, catalog["views"]).values()} == {Decimal("0.0003696")}
    left = spark.table(f"{place}.rejected").withColumn("run_id", F.lit("20260101T000000Z-0a1b2c3d-1")).localCheckpoint()
    left.limit(2).writeTo(f"{place}.rejected").append()
    before = spark.table(f"{place}.rejected").count()
    assert maintain_ledger(["clean", *where]) == 0
    assert f"Removed: {place}.rejected, of 20260101T000000Z-0a1b2c3d-1" in capsys.readouterr().out
    spark.sql(f"REFRESH TABLE {place}.rejected")
    assert spark.table(f"{place}.rejected").count() == before - 2
    if catalog["views"]:
        spark.sql(f"DROP VIEW {place}.bills")
        assert maintain_ledger(["rebuild", *where]) == 0
        assert "Rebuilt: bill_lines, bills, to what the ledger says, 0.0007392 CNY" in capsys.readouterr().out
    assert maintain_ledger(["rename-source", *where, "--to", "log 2"]) == 0
    assert maintain_ledger(["runs", *where]) == 0
    assert "reason: the wrong currency" in capsys.readouterr().out
    assert maintain_ledger(["gaps", *where]) == 0
    assert "no run has covered 23 hours" in capsys.readouterr().out
    assert maintain_ledger(["verify", *where]) == 0


def test_a_bill_does_not_fall_without_leave_or_reason(spark, catalog, place, options):
    calls = [call(n) for n in range(5)]
    bill_usage(usage_frame(spark, calls), **options)
    with pytest.raises(RetractionError):
        bill_usage(usage_frame(spark, calls[:4]), **options)
    # two calls have fuller copies an hour later: that explains the fall, and is kept beside the lines
    fuller = [call(n, COMMERCIAL_START + HOUR, input_tokens=270) for n in range(2)]
    record = bill_usage(usage_frame(spark, calls + fuller), **options)
    assert record.left_out[DATE].requests == 2
    calls_of = {hour: requests for (_, hour), (requests, _) in owed(spark, place, catalog["views"]).items()}
    assert calls_of == {FIRST: 3, FIRST + HOUR: 2}
    left_out = open_ledger(spark, None, place).left_out([DATE])
    assert left_out.agg(F.sum("requests"), F.sum("beaten")).first() == (2, 2)
    with pytest.raises(RetractionError):  # what stands since then excuses nothing
        bill_usage(usage_frame(spark, calls[:4] + fuller), **options)
    allowed = bill_usage(usage_frame(spark, calls[:4] + fuller), **options, allow_retractions=True)
    assert allowed.run == 3


def test_a_dry_run_makes_no_table(spark, place, options):
    record = bill_usage(usage_frame(spark, [call(1)]), **options, dry_run=True)
    assert record.totals.amount == ONE
    assert spark.sql(f"SHOW TABLES IN {place}").count() == 0


def test_what_is_refused_is_left_as_it_is(spark, catalog, place, options):
    usage = usage_frame(spark, [call(1), call(2, model="x")])
    with pytest.raises(OutputError, match="CREATE NAMESPACE"):
        bill_usage(usage, **{**options, "catalog": f"{catalog['name']}.nowhere"})
    with pytest.raises(OutputError, match=r"CATALOG\.NAMESPACE"):
        bill_usage(usage, **{**options, "catalog": "billing"})
    with pytest.raises(UsageError, match="either output"):
        bill_usage(usage, **options, output="folder")
    using = f"USING {catalog['kind'].partition('-')[0]}"
    for table in ("ledger", "bills", "rejected"):
        spark.sql(f"CREATE TABLE {place}.{table} (one int) {using}")
        spark.sql(f"INSERT INTO {place}.{table} VALUES (1)")
        with pytest.raises(OutputError, match=r"is not a (table|view) of these bills"):
            bill_usage(usage, **options)
        assert [tuple(row) for row in spark.table(f"{place}.{table}").collect()] == [(1,)]
        spark.sql(f"DROP TABLE {place}.{table}")
    record = bill_usage(usage, **options)
    assert record.totals.rejected == {"unknown_model": 1}
    with pytest.raises(OutputError, match="holds the bills of the usage 'the log'"):
        bill_usage(usage, **{**options, "source": "another"})


def test_a_table_of_other_types_is_refused(spark, catalog, place, options):
    using = f"USING {catalog['kind'].partition('-')[0]}"
    spark.sql(
        f"CREATE TABLE {place}.ledger (kind string, amount double) {using} TBLPROPERTIES ('spark_billing.table' = '1')"
    )
    with pytest.raises(OutputError, match=r"amount is double, not decimal\(38,12\)"):
        bill_usage(usage_frame(spark, [call(1)]), **options)


def test_checkpoints_spare_the_records(spark, place, options, monkeypatch):
    """With one every third run; a ledger that is opened from it is the ledger that is opened from all records."""
    monkeypatch.setattr(table_ledger, "EVERY", 3)
    for n in range(1, 8):
        bill_usage(usage_frame(spark, [call(k) for k in range(n)]), **options)
    kinds = spark.table(f"{place}.ledger").groupBy("kind").agg(F.sort_array(F.collect_list("run")).alias("runs"))
    runs = {row["kind"]: row["runs"] for row in kinds.collect()}
    assert (runs["checkpoint"], runs["run"]) == ([3, 6], list(range(1, 8)))
    ledger = open_ledger(spark, None, place)
    assert (ledger.checkpointed, ledger.runs.count) == (6, 7)
    monkeypatch.setattr(summed_runs.SummedRuns, "from_text", classmethod(lambda cls, text: None))
    of_records = open_ledger(spark, None, place)
    assert (of_records.checkpointed, of_records.runs) == (0, ledger.runs)


def test_rows_that_were_changed_are_seen(spark, catalog, place, options):
    bill_usage(usage_frame(spark, [call(1), call(2, NEXT_DAY)]), **options)
    spark.sql(f"DELETE FROM {place}.ledger WHERE kind = 'line' AND token_type = 'output' AND billing_date = '{DATE}'")
    with pytest.raises(OutputError, match="is not what its run wrote"):
        ledger_lines(spark, catalog=place)
    assert ledger_lines(spark, catalog=place, start="2026-04-09T00").count() == 2


def test_every_job(spark, place, catalog, write, tmp_path, capsys):
    usage = write([call(1), call(2, model="x"), call(3, NEXT_DAY), call(4, None)])
    where = ["--output-catalog", place]
    assert hourly_bill(["--usage", usage, "--currency", "USD", "--source", "the log", *where]) == 0
    said = capsys.readouterr().out
    assert f"{place}.ledger" in said
    assert f"{place}.rejected" in said
    assert history_job([*where, "--workspace", "w-1", "--hour", f"{DATE}T00"]) == 0
    assert "Owed: 0.00005308 USD" in capsys.readouterr().out
    assert statement([*where, "--month", "2026-04"]) == 0
    assert "0.00010616" in capsys.readouterr().out
    assert report([*where, "--to-file", str(tmp_path / "report.html")]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "0.00010616" in page
    assert "unknown_model" in page
    assert "missing_call_time" in page
    focus = ["--to", str(tmp_path / "focus"), "--billing-account", "1234567890123456", "--month", "2026-04"]
    assert export_focus([*where, *focus]) == 0
    cost = spark.read.parquet(str(tmp_path / "focus")).agg(F.sum("BilledCost")).first()[0]
    assert cost == 2 * ONE


def test_a_stream(spark, catalog, place, usd, tmp_path):
    usage = str(tmp_path / "usage")
    each = bill_touched_hours(usd, usage=usage, catalog=place, source="the log")
    for calls in ([call(1), call(2, NEXT_DAY)], [call(3), call(1)]):
        usage_frame(spark, calls).coalesce(1).write.mode("append").parquet(usage)
        stream = spark.readStream.schema(usage_frame(spark, []).schema).parquet(usage)
        query = stream.writeStream.foreachBatch(each).option("checkpointLocation", str(tmp_path / "checkpoint"))
        query.trigger(availableNow=True).start().awaitTermination()
    assert ledger_lines(spark, catalog=place).agg(F.sum("amount")).first()[0] == 3 * ONE


def test_a_made_up_production(spark, catalog, place, tmp_path, capsys):
    """Some hours of tests/production.py, every bill and line after every run as the oracle says."""
    production = Production(seed=4, hours=9, calls=40, crowd=150, rivals=0.2, change=4.5)
    factory = Plant(tmp_path, capsys, production)
    ledger = InCatalog(spark, place, views=catalog["views"])
    for hour in range(9):
        factory.arrive(hour)
        if hour == 5:
            factory.lose(4)
            factory.run(ledger, hour, 48, code=4)
            factory.find(4)
        if hour % 3 == 2:
            factory.run(ledger, hour, 48)
    for hour in range(9, max(production.files) + 1):
        factory.arrive(hour)
    factory.run(ledger, max(production.files), 168)
