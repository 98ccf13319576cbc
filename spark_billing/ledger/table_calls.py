"""The tables of calls in a catalog, `rejected` and `priced_calls`: appended by each run before its commit.

A run that was killed before that leaves rows whose run_id no committed run has: they do not count.
"""

from __future__ import annotations

from typing import Optional

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from spark_billing.core.errors import OutputError
from spark_billing.core.spark_errors import spark_reason
from spark_billing.ledger.formats import TableName, table_properties
from spark_billing.ledger.ledger_table import OURS, VERSION, add_columns, create_table

CALL_TABLES = ("rejected", "priced_calls")


class CallTable:
    """One of these tables."""

    def __init__(self, spark: SparkSession, namespace: str, table: str) -> None:
        self.spark, self.name = spark, TableName(namespace, table)
        self._appended: list[str] = []

    def find(self) -> Optional[TableName]:
        """Its name if it is there; `OutputError` if it is not ours."""
        if not self.spark.catalog.tableExists(str(self.name)):
            return None
        if table_properties(self.spark, self.name).get(OURS) != VERSION:
            raise OutputError(
                f"{self.name.plain} is not a table of these bills. It was left as it is: rename it, or give another "
                "namespace.",
                parameter="output_catalog",
            )
        return self.name

    def append(self, rows: DataFrame, provider: str, run_id: str) -> DataFrame:
        """Add rows, as columns that the table lacks, too; what is there of the run afterwards, read back."""
        self._appended.append(run_id)
        if self.find() is None:
            create_table(self.spark, self.name, StructType(rows.schema.fields), provider, ("billing_date",), {})
            self.find()
        add_columns(self.spark, self.name, ((field.name, field.dataType) for field in rows.schema.fields))
        try:
            rows.writeTo(str(self.name)).append()
        except (PySparkException, Py4JJavaError) as error:
            raise OutputError(
                f"the table {self.name.plain} does not take the rows of this usage: {spark_reason(error)}. Rename that "
                "table, and the next run makes a new one; nothing was billed.",
                parameter="output_catalog",
            ) from None
        self.spark.sql(f"REFRESH TABLE {self.name}")
        return self.spark.table(str(self.name)).filter(F.col("run_id") == run_id)

    def run_ids(self) -> set[str]:
        """The runs that have rows in it, committed or not."""
        self.spark.sql(f"REFRESH TABLE {self.name}")
        return {str(row["run_id"]) for row in self.spark.table(str(self.name)).select("run_id").distinct().collect()}

    def remove(self, run_id: str) -> None:
        """Remove the rows of a run that will never be committed."""
        self.spark.sql(f"DELETE FROM {self.name} WHERE run_id = '{run_id}'")

    def remove_appended(self) -> None:
        for run_id in self._appended:
            if self.find() is not None:
                self.remove(run_id)
