"""Which store a ledger is in: a folder by its path, or a table of a catalog by its namespace."""

from __future__ import annotations

from typing import Optional

from pyspark.sql import SparkSession

from spark_billing.core.errors import OutputError, UsageError
from spark_billing.core.storage import Storage, folder_to_read
from spark_billing.ledger.damage import require_no_lost_runs
from spark_billing.ledger.folder_kept import FolderKept
from spark_billing.ledger.folder_ledger import FolderLedger, FolderStore
from spark_billing.ledger.kept import Kept
from spark_billing.ledger.ledger import Ledger, Store
from spark_billing.ledger.table_kept import TableKept
from spark_billing.ledger.table_ledger import TableLedger, TableStore


def store_of(
    spark: SparkSession,
    output: Optional[str],
    catalog: Optional[str],
    *,
    one_writer: bool = False,
    patience: float = 10,
) -> Store:
    """Where runs are billed into: the folder `output`, or the namespace `catalog`, such as `ice.billing`."""
    _require_one(output, catalog)
    if catalog is not None:
        return TableStore(spark, catalog, one_writer=one_writer)
    return FolderStore(Storage(spark, str(output)), patience)


def open_ledger(spark: SparkSession, output: Optional[str], catalog: Optional[str] = None) -> Ledger:
    """The ledger of a folder or namespace that was billed into, with one run at least; `OutputError` if nothing ever
    was."""
    _require_one(output, catalog)
    ledger: Ledger
    if catalog is not None:
        ledger = TableLedger.open(spark, catalog)
    else:
        folder = folder_to_read(spark, str(output))
        ledger = FolderLedger.open(folder)
        require_no_lost_runs(folder, ledger.runs)
    if ledger.last is None:
        raise OutputError(
            f"nothing was ever billed into {ledger.where}, it has no ledger; give the folder or namespace of a bill",
            parameter="output" if catalog is None else "output_catalog",
        )
    return ledger


def kept_of(spark: SparkSession, output: Optional[str], catalog: Optional[str] = None) -> Kept:
    """What is kept of a ledger that was billed into, whole or not."""
    _require_one(output, catalog)
    return FolderKept(Storage(spark, str(output))) if catalog is None else TableKept(spark, catalog)


def _require_one(output: Optional[str], catalog: Optional[str]) -> None:
    if (output is None) == (catalog is None):
        raise UsageError(
            "a ledger is in a folder or in a catalog: give either output, a path, or catalog, such as ice.billing",
            parameter="output",
        )
