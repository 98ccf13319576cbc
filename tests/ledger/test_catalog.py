"""The same tables by name in the session's catalog (Spark's own, Parquet)."""

import pytest

from spark_billing.commands.bill_history import bill_history
from spark_billing.commands.hourly_bill import hourly_bill
from spark_billing.core.schemas import BILL_LINES, BILLS, LEDGER_LINES
from spark_billing.ledger.catalog import CatalogTables
from tests.conftest import HOUR, ONE, call
from tests.oracle import COMMERCIAL_START

pytestmark = pytest.mark.classic

NAMESPACE = "spark_catalog.bills_of_a_test"


@pytest.fixture
def run(spark, tmp_path, capsys):
    spark.sql(f"CREATE NAMESPACE {NAMESPACE} LOCATION '{tmp_path}/catalog'")

    def run(usage, *arguments):
        given = ["--usage", usage, "--output-catalog", NAMESPACE, "--currency", "USD", "--source", "the log"]
        code = hourly_bill([*given, *arguments])
        return code, capsys.readouterr().err

    yield run
    spark.sql(f"DROP NAMESPACE {NAMESPACE} CASCADE")


def found(spark, table, *columns):
    return sorted(tuple(row) for row in spark.table(f"{NAMESPACE}.{table}").select(*columns).collect())


@pytest.mark.campaign
def test_tables_by_name(spark, write, run, capsys):
    next_day = COMMERCIAL_START + 24 * HOUR
    tags = {"tags": {"team": "a"}}
    assert run(write([call(1), call(2, model="x"), call(3, None), call(4, next_day)], tags=True)) == (0, "")
    tables = {row["tableName"] for row in spark.sql(f"SHOW TABLES IN {NAMESPACE}").collect()}
    assert tables == {"bill_lines", "bills", "rejected", "ledger_lines"}
    for table, schema in (("bill_lines", BILL_LINES), ("bills", BILLS), ("ledger_lines", LEDGER_LINES)):
        types = {f.name: f.dataType.simpleString() for f in schema.fields}
        assert dict(spark.table(f"{NAMESPACE}.{table}").dtypes) == {**types, "run": "bigint"}
    assert found(spark, "bills", "requests", "amount", "run") == [(1, ONE, 1)] * 2
    assert found(spark, "rejected", "request_id", "reject_reason") == [
        ("r-2", "unknown_model"),
        ("r-3", "missing_call_time"),
    ]
    # a late call, a rejected row that is gone, a day that is withdrawn, a tag that is new
    usage = write([call(1, **tags), call(5, **tags), call(3, None)], "later", tags=True)
    period = ("--from", "2026-04-08T00", "--to", "2026-04-10T00")
    assert run(usage, *period, "--group-by-tag", "team")[0] == 4
    assert run(usage, *period, "--group-by-tag", "team", "--allow-retractions") == (0, "")
    assert found(spark, "bills", "requests", "amount", "run") == [(2, 2 * ONE, 2)]
    assert found(spark, "bill_lines", "token_type", "requests", "tag_team") == [("input", 2, "a"), ("output", 2, "a")]
    assert found(spark, "rejected", "request_id") == [("r-3",)]
    assert len(found(spark, "ledger_lines", "run")) == 4 + 6
    given = ["--workspace", "w-1", "--hour", "2026-04-08T00"]
    assert bill_history(["--output-catalog", NAMESPACE, *given]) == 0
    assert "Owed: 0.00010616 USD" in capsys.readouterr().out


@pytest.mark.campaign
def test_a_run_that_died_before_the_catalog_is_caught_up(spark, write, run, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(CatalogTables, "sync", lambda self: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            run(write([call(1)]))
    assert run(write([call(1)])) == (0, "")
    assert found(spark, "bills", "requests", "run") == [(1, 1)]
    assert len(found(spark, "ledger_lines", "run")) == 2


@pytest.mark.campaign
def test_a_catalog_that_cannot_follow_leaves_the_run_committed(spark, write, run, monkeypatch):
    usage = write([call(1), call(2, model="x")])
    with monkeypatch.context() as patch:
        patch.setattr(CatalogTables, "_sync_partitions", lambda self, table, ledger: self.spark.sql("SELECT nowhere"))
        code, err = run(usage)
    assert (code, len(err.splitlines())) == (1, 1)
    assert "the run is committed" in err
    assert run(usage) == (0, "")
    assert found(spark, "rejected", "request_id") == [("r-2",)]
    assert len(found(spark, "ledger_lines", "run")) == 2


def test_a_dry_run_makes_no_table(spark, write, run):
    assert run(write([call(1)]), "--dry-run")[0] == 0
    assert spark.sql(f"SHOW TABLES IN {NAMESPACE}").count() == 0


@pytest.mark.campaign
def test_what_is_refused(spark, write, run, capsys):
    usage = write([call(1)])
    spark.sql(f"CREATE TABLE {NAMESPACE}.bills (workspace_id string, amount double) USING parquet")
    code, err = run(usage)
    assert code == 2
    assert "is not a table of these bills" in err
    spark.sql(f"DROP TABLE {NAMESPACE}.bills")
    # a table or view of somebody else, also of a name that this run writes nothing to
    spark.sql(f"CREATE TABLE {NAMESPACE}.priced_calls USING parquet AS SELECT 1 AS one")
    code, err = run(usage)
    assert (code, "priced_calls is not a table of these bills" in err) == (2, True)
    assert found(spark, "priced_calls", "one") == [(1,)]
    spark.sql(f"DROP TABLE {NAMESPACE}.priced_calls")
    spark.sql(f"CREATE VIEW {NAMESPACE}.rejected AS SELECT 1 AS one")
    code, err = run(usage)
    assert (code, "it lies at no path" in err) == (2, True)
    spark.sql(f"DROP VIEW {NAMESPACE}.rejected")
    # its own, but with another type
    assert run(usage)[0] == 0
    where = spark.sql(f"DESCRIBE TABLE EXTENDED {NAMESPACE}.bills").filter("col_name = 'Location'").first()["data_type"]
    spark.sql(f"DROP TABLE {NAMESPACE}.bills")
    spark.sql(f"CREATE TABLE {NAMESPACE}.bills (workspace_id string, amount double) USING parquet LOCATION '{where}'")
    code, err = run(usage)
    assert code == 2
    assert "amount is double, not decimal(38,12)" in err
    code = hourly_bill(["--usage", usage, "--output-catalog", "spark_catalog.nowhere", "--currency", "USD"])
    assert (code, "CREATE NAMESPACE" in capsys.readouterr().err) == (2, True)
    for arguments in (["--output", "x", "--output-catalog", "y"], []):
        with pytest.raises(SystemExit):
            hourly_bill(["--usage", usage, "--currency", "USD", *arguments])
