"""The page on ledgers in catalogs is true: its SQL runs, its settings are those that the tests of catalogs take."""

import json
import re

import pytest

from tests.conftest import HOUR, call
from tests.docs.blocks import claim, text_of
from tests.docs.commands import BY_JOB, job_of, parser_of
from tests.oracle import COMMERCIAL_START
from tests.servers import catalogs

PAGE = "jobs/catalogs.md"
(COMMANDS,) = claim(PAGE, "sh")
(CREATE,) = claim(PAGE, "sql", "create")
(REJECTED,) = claim(PAGE, "sql", "rejected")
(BILLS,) = claim(PAGE, "sql", "bills")
(TABLES,) = claim(PAGE, "sql", "parquet")
(PARTITIONS,) = claim(PAGE, "sql", "partitions")
TRIED = ("iceberg-jdbc", "iceberg-rest", "iceberg-hive", "delta", "paimon-jdbc", "paimon-hdfs")
SETTINGS = {kind: claim(PAGE, "ini", kind.replace("-", "_"))[0] for kind in (*TRIED, "iceberg-dlf", "paimon-dlf")}


def statements(block, **names):
    text = block.text
    for name, found in names.items():
        text = text.replace(name, found)
    return [statement for statement in re.split(r";\s*\n", text.strip().rstrip(";")) if statement]


def test_the_commands():
    for words in COMMANDS.commands:
        command, arguments = job_of(words)
        assert command in BY_JOB.values()
        assert parser_of(command).parse_args(arguments).output_catalog == "ice.billing"


@pytest.mark.parametrize("kind", SETTINGS)
def test_the_settings(kind):
    settings = dict(line.split() for line in SETTINGS[kind].text.splitlines())
    table_format = kind.partition("-")[0]
    name = {"iceberg": "ice", "paimon": "pai", "delta": "spark_catalog"}[table_format]
    assert settings.pop("spark.sql.extensions") == catalogs.EXTENSIONS[table_format]
    catalog = f"spark.sql.catalog.{name}"
    assert all(setting == catalog or setting.startswith(f"{catalog}.") for setting in settings)
    if kind in TRIED and kind != "delta":
        (tried, *_) = (each for each in catalogs.KINDS if each.startswith(kind))
        options = catalogs._options(tried)
        assert {key: settings.get(f"{catalog}.{key}") for key in options} == options


def test_every_kind_that_is_tried_has_settings():
    assert all(kind.startswith(TRIED) for kind in catalogs.KINDS if kind != "iceberg-hadoop")


def test_the_namespace(spark):
    (create,) = statements(CREATE, **{"ice.billing": "billing"})
    spark.sql(create)
    spark.sql("DROP NAMESPACE billing")


def test_the_rejected_rows_that_count(spark):
    """Run 1 covers three hours, run 2 the second of them, run 3 was killed; run 4 covers none."""
    covered = {1: [("00", "03")], 2: [("01", "02")], 4: []}
    runs = [
        ("run", run, f"id-{run}", json.dumps({"covered": [[f"2026-04-08T{hour}" for hour in span] for span in spans]}))
        for run, spans in covered.items()
    ]
    runs.append(("checkpoint", 2, None, "{}"))
    spark.createDataFrame(runs, "kind string, run bigint, run_id string, record string").createOrReplaceTempView(
        "ledger"
    )
    rows = [(run, f"id-{run}", hour) for run, hour in ((1, 0), (1, 1), (1, 2), (1, None), (3, 0), (4, None))]
    made = spark.createDataFrame(rows, "run bigint, run_id string, billing_hour int")
    made.selectExpr("*", "if(billing_hour IS NULL, NULL, date'2026-04-08') AS billing_date").createOrReplaceTempView(
        "rejected"
    )
    (query,) = statements(REJECTED, **{"ice.billing.": ""})
    assert sorted((row["run"], str(row["billing_hour"])) for row in spark.sql(query).collect()) == [
        (1, "0"),
        (1, "2"),
        (4, "None"),
    ]
    for view in ("ledger", "rejected"):
        spark.catalog.dropTempView(view)


@pytest.mark.classic
def test_tables_of_parquet(spark, write, bill, tmp_path):
    """As the first run left them, and after one that adds a date and takes another away."""

    def seen():
        for statement in statements(PARTITIONS):
            spark.sql(statement)
        return {table: sorted(spark.table(table).collect()) for table in ("bills", "bill_lines")}

    def written():
        out = tmp_path / "out"
        return {table: sorted(spark.read.parquet(str(out / table)).collect()) for table in ("bills", "bill_lines")}

    second, third = (call(n, COMMERCIAL_START + n * 24 * HOUR) for n in (1, 2))
    period = ("--from", "2026-04-08T00", "--to", "2026-04-12T00")
    assert bill(write([call(0), second]), *period)[0] == 0
    for statement in statements(TABLES, **{"oss://bucket/bills": str(tmp_path / "out")}):
        spark.sql(statement)
    try:
        assert seen() == written()
        assert len(seen()["bills"]) == 2
        assert bill(write([call(0), third], "later"), *period, "--allow-retractions")[0] == 0
        assert seen() == written()
        (query,) = statements(BILLS, **{"ice.billing.ledger WHERE kind = 'line'": "bill_lines"})
        summed = {(row["workspace_id"], row["period_start"]): row for row in spark.sql(query).collect()}
        bills = spark.table("bills").collect()
        assert {key: (row["requests"], row["amount"]) for key, row in summed.items()} == {
            (row["workspace_id"], row["period_start"]): (row["requests"], row["amount"]) for row in bills
        }
        spark.sql("ALTER TABLE bill_lines ADD COLUMNS (tag_team STRING)")
        assert {row["tag_team"] for row in spark.table("bill_lines").collect()} == {None}
    finally:
        for table in ("bills", "bill_lines"):
            spark.sql(f"DROP TABLE IF EXISTS {table}")


def test_the_version_is_named_as_the_ledger_names_it():
    assert "`run 12 of ice.billing.ledger,\niceberg version 123`" in text_of(PAGE)
