"""A table of the catalog that has versions is read at one of them by the whole run, and the record names it."""

import json
import os
import subprocess
import sys

import pytest

from spark_billing import UsageError
from spark_billing.commands.hourly_bill import hourly_bill
from spark_billing.usage import table_versions
from spark_billing.usage.table_versions import parts_of, pinned, provider_of
from spark_billing.usage.used_version import UsedVersion
from tests.conftest import ROOT, call, record, usage_frame


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("usage", ["usage"]),
        ("ice.db.usage", ["ice", "db", "usage"]),
        ("ice.`my-db`.`a.b`.branch_x", ["ice", "my-db", "a.b", "branch_x"]),
        ("delta.`oss://bucket/a``b`", ["delta", "oss://bucket/a`b"]),
        (" `a` . b ", ["a", "b"]),
    ],
)
def test_the_parts_of_a_name(name, parts):
    assert parts_of(name) == parts


COLUMNS = [("Provider", "string", None), ("Type", "string", None), ("", "", "")]
OF_TABLE = ("# Detailed Table Information", "", "")


@pytest.mark.parametrize(
    ("told", "provider"),
    [
        ([*COLUMNS, OF_TABLE, ("Type", "MANAGED", ""), ("Provider", "iceberg", "")], "iceberg"),
        ([*COLUMNS, OF_TABLE, ("Provider", "DELTA", "")], "delta"),
        ([*COLUMNS, OF_TABLE, ("Type", "EXTERNAL", ""), ("Provider", "paimon", "")], "paimon"),
        ([*COLUMNS, OF_TABLE, ("Provider", "parquet", "")], None),
        ([*COLUMNS, OF_TABLE, ("Type", "VIEW", "")], None),
        ([*COLUMNS, OF_TABLE, ("Type", "MATERIALIZED_VIEW", ""), ("Provider", "delta", "")], None),
        ([("Provider", "delta", None)], None),  # a temporary view with such a column
        ([*COLUMNS, OF_TABLE, ("Provider", None, "")], None),
    ],
)
def test_the_format_is_what_describe_tells_of_the_table(told, provider):
    assert provider_of(told) == provider


def test_a_version_has_the_name_that_its_format_has_for_it():
    assert str(UsedVersion("iceberg", "5396389530921079326")) == "snapshot 5396389530921079326 of the Iceberg table"
    assert str(UsedVersion("delta", "0")) == "version 0 of the Delta table"


@pytest.fixture
def table(spark):
    usage_frame(spark, [call(1), call(2, model="no such")]).write.saveAsTable("log_without_versions")
    yield "log_without_versions"
    spark.sql("DROP TABLE log_without_versions")


@pytest.mark.classic
def test_other_tables_and_views_are_read_as_they_are(spark, table, tmp_path, capsys):
    spark.sql(f"CREATE OR REPLACE TEMP VIEW a_view AS SELECT * FROM {table}")
    usage_frame(spark, [call(1)]).write.parquet(str(tmp_path / "u"))
    for name in (table, f"spark_catalog.default.`{table}`", "a_view", f"parquet.`{tmp_path / 'u'}`"):
        rows, version = pinned(spark, name)
        assert rows.count() > 0
        assert version is None
    arguments = ["--usage", table, "--usage-format", "table", "--output", str(tmp_path / "out"), "--currency", "USD"]
    assert hourly_bill(arguments) == 0
    assert "Usage:" not in capsys.readouterr().out
    assert "usage_version" not in record(tmp_path / "out")


@pytest.mark.classic
@pytest.mark.parametrize("provider", ["iceberg", "delta", "paimon"])
def test_a_version_that_cannot_be_told_is_refused(spark, table, monkeypatch, provider):
    """Here as the table is Parquet; it may be that the user must not see the table's history."""
    monkeypatch.setattr(table_versions, "_provider", lambda *_: provider)
    with pytest.raises(
        UsageError, match=f"which version of the table {table} is the current one.*give a view"
    ) as error:
        pinned(spark, table)
    assert error.value.parameter == "usage"


# --- real tables ----------------------------------------------------------------------------------------------------

PACKAGES = "org.apache.iceberg:iceberg-spark-runtime-4.1_2.13:1.11.0,io.delta:delta-spark_4.1_2.13:4.1.0"
CATALOGS = {
    "spark.jars.packages": PACKAGES,
    "spark.sql.extensions": "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions,"
    "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
    # one warehouse under two names: each sees what the other writes as what another process writes
    **{f"spark.sql.catalog.{name}": "org.apache.iceberg.spark.SparkCatalog" for name in ("ice", "other")},
    **{f"spark.sql.catalog.{name}.type": "hadoop" for name in ("ice", "other")},
    "spark.sql.shuffle.partitions": "2",
    "spark.databricks.delta.snapshotPartitions": "2",
    "spark.ui.enabled": "false",
}


@pytest.fixture(scope="module")
def tried(tmp_path_factory):
    """What became of tables that got rows between the passes of each run."""
    folder = str(tmp_path_factory.mktemp("versions"))
    warehouses = {f"spark.sql.catalog.{name}.warehouse": f"{folder}/ice" for name in ("ice", "other")}
    given = {
        "settings": {**CATALOGS, **warehouses, "spark.sql.warehouse.dir": f"{folder}/warehouse"},
        "tables": {"iceberg": ["ice.db.log", "other.db.log"], "delta": ["default.log"]},
        "output": f"{folder}/output",
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.usage.pinned_run"],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith(("SPARK_", "PYSPARK_"))},
        input=json.dumps(given),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    return json.loads(done.stdout.strip().rpartition("\n")[2])


real_tables = [pytest.mark.campaign, pytest.mark.classic, pytest.mark.own_spark, pytest.mark.default_engine]


def of_real_tables(test):
    for mark in (pytest.mark.parametrize("table_format", ["iceberg", "delta"]), *real_tables):
        test = mark(test)
    return test


@of_real_tables
def test_a_run_bills_the_version_that_its_record_names(tried, table_format):
    found = tried[table_format]
    rows, half = found["pinned"]["rows"], found["at_version"] // 2
    assert found["pinned"]["version"]["format"] == table_format
    assert rows == {"read": 2 * half, "billed": half, "rejected": half}
    assert found["pinned"]["written"] == {"billed": half, "details": half, "rejected": half}
    assert found["now"] > found["at_version"]  # rows came in meanwhile


@of_real_tables
def test_without_it_the_passes_of_a_run_read_different_rows(tried, table_format):
    """If this fails, the engine pins by itself, and the test above proves nothing."""
    found = tried[table_format]["unpinned"]
    assert "error" in found or found["written"] != {
        "billed": found["rows"]["billed"],
        "details": found["rows"]["billed"],
        "rejected": found["rows"]["rejected"],
    }


@of_real_tables
def test_a_table_without_a_version_has_no_row_for_the_whole_run(tried, table_format):
    version, read = tried[table_format]["empty"]
    assert read == 0
    assert version == (None if table_format == "iceberg" else {"format": "delta", "version": "0"})


@of_real_tables
def test_the_summary_tells_the_version(tried, table_format):
    kind = {"iceberg": "snapshot", "delta": "version"}[table_format]
    (line,) = tried[table_format]["said"]
    assert line.startswith(f"Usage:  {kind} ")


@of_real_tables
def test_a_condition_still_reaches_the_scan(tried, table_format):
    (scan,) = tried[table_format]["scan"]
    assert "w-2" in scan


@of_real_tables
def test_each_run_of_a_stream_reads_a_version(tried, table_format):
    versions = [each["version"] for each in tried[table_format]["stream"]]
    assert len(set(versions)) == len(versions) == 2  # of two hours, and rows came in between


@pytest.mark.campaign
@pytest.mark.classic
@pytest.mark.own_spark
@pytest.mark.default_engine
def test_columns_that_a_snapshot_has_under_another_name_are_refused(tried):
    added, refused = tried["iceberg"]["refused"]
    assert added.startswith("snapshot ")
    assert "output_tokens of snapshot" in refused
    assert "Bill again once the table has a commit" in refused


@pytest.mark.campaign
@pytest.mark.classic
@pytest.mark.own_spark
@pytest.mark.default_engine
def test_what_is_named_within_a_table_of_iceberg(tried):
    """A branch and a tag have snapshots of their own; a table about a table is read as it is."""
    assert tried["iceberg"]["selected"] == {
        "log": [False, True],
        "log.branch_b": [True, True],
        "log.tag_t": [True, True],
        "log.snapshots": [True, False],
        "tag_usage": [True, True],
    }
