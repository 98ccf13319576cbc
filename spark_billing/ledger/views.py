"""`bill_lines` and `bills` of a ledger in a catalog: views of its table, as the tables of a folder are."""

from __future__ import annotations

from contextlib import suppress

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession
from pyspark.sql.types import StructField

from spark_billing.core.columns import quoted, tag_column
from spark_billing.core.errors import OutputError
from spark_billing.core.schemas import BILL_LINES, BILLS, LINE_MEASURES
from spark_billing.ledger.formats import TableName, table_properties
from spark_billing.ledger.ledger_table import LINE, OURS, TABLE, VERSION

VIEWS = ("bill_lines", "bills")


def views_of(spark: SparkSession, namespace: str) -> list[str]:
    """Those of these views that are there."""
    name = ".".join(quoted(part) for part in namespace.split("."))
    try:
        rows = spark.sql(f"SHOW VIEWS IN {name}").collect()
    except (PySparkException, Py4JJavaError):  # a catalog without views
        return []
    there = {row["viewName"] for row in rows}
    return [view for view in VIEWS if view in there]


def require_views(spark: SparkSession, namespace: str) -> None:
    """`OutputError` if a table, or a view of somebody else, has the name of one of ours."""
    there = views_of(spark, namespace)
    for view in VIEWS:
        name = TableName(namespace, view)
        is_view = view in there
        if not is_view and not spark.catalog.tableExists(str(name)):
            continue
        if not is_view or table_properties(spark, name).get(OURS) != VERSION:
            raise OutputError(
                f"{name.plain} is not a view of these bills. It was left as it is: rename it, or give another "
                "namespace.",
                parameter="output_catalog",
            )


def keep_views(spark: SparkSession, namespace: str, *, anew: bool = False) -> None:
    """See that the views are there, with a column for each tag; a catalog without views stays without them. `anew`:
    also if they seem to be as they must be."""
    table = TableName(namespace, TABLE)
    tags = [name for name in spark.table(str(table)).columns if name.startswith(tag_column(""))]
    try:
        there = spark.table(str(TableName(namespace, "bill_lines"))).columns
        if not anew and set(tags) <= set(there) and "bills" in views_of(spark, namespace):
            return
    except PySparkException:  # none yet
        pass
    with suppress(PySparkException, Py4JJavaError):
        for view, query in (("bill_lines", _lines(table, tags)), ("bills", _bills(table, tags))):
            name, ours = TableName(namespace, view), f"TBLPROPERTIES ('{OURS}' = '{VERSION}')"
            spark.sql(f"CREATE OR REPLACE VIEW {name} {ours} AS {query}")


def _lines(table: TableName, tags: list[str]) -> str:
    """What `difference.net_lines` says."""
    keys = [name for name in BILL_LINES.fieldNames() if name not in LINE_MEASURES]
    columns = [_as(field, f"sum({field.name})") if field.name in LINE_MEASURES else field.name for field in BILL_LINES]
    own = [quoted(tag) for tag in tags]
    something = " OR ".join(f"sum({name}) <> 0" for name in LINE_MEASURES)
    return (
        f"SELECT {', '.join([*columns, *own])}, max(run) AS run FROM {table} WHERE kind = '{LINE}' "
        f"GROUP BY {', '.join([*keys, *own])} HAVING {something}"
    )


def _bills(table: TableName, tags: list[str]) -> str:
    """What `lines.hourly_bills` says."""
    measures = {
        "requests": "sum(CASE WHEN token_type = 'input' THEN requests ELSE 0L END)",
        "input_tokens": "sum(CASE WHEN token_type = 'input' THEN tokens ELSE 0L END)",
        "output_tokens": "sum(CASE WHEN token_type = 'output' THEN tokens ELSE 0L END)",
        "amount": "sum(amount)",
    }
    keys = [name for name in BILLS.fieldNames() if name not in measures]
    columns = [_as(field, measures[field.name]) if field.name in measures else field.name for field in BILLS]
    return (
        f"SELECT {', '.join(columns)}, max(run) AS run FROM ({_lines(table, tags)}) AS lines GROUP BY {', '.join(keys)}"
    )


def _as(field: StructField, expression: str) -> str:
    return f"CAST({expression} AS {field.dataType.simpleString()}) AS {field.name}"
