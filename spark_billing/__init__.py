"""Price every model call exactly, bill every workspace for every UTC+8 hour, on Spark tables of any size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

try:
    import pyspark  # noqa: F401
except ModuleNotFoundError:
    raise ModuleNotFoundError(
        "spark_billing needs PySpark, which a cluster brings; elsewhere: pip install 'spark_billing[local]'",
        name="pyspark",
    ) from None

from spark_billing.bills import bill_lines, hourly_bills
from spark_billing.errors import PriceListError, ProviderBillError, SparkBillingError, UsageError
from spark_billing.estimate import Estimate, estimate_calls
from spark_billing.focus import to_focus
from spark_billing.focus_check import BrokenRule, check_focus
from spark_billing.history import bill_history, ledger_lines
from spark_billing.past_output import learn_output
from spark_billing.price_list import Price, PriceList
from spark_billing.provider_bill import BillMapping, provider_bill, read_bill
from spark_billing.reconciliation import reconcile
from spark_billing.rerating import rerate
from spark_billing.sql_functions import sql_function_ddl
from spark_billing.statement import Statement, monthly_statement
from spark_billing.streaming import bill_touched_hours
from spark_billing.usage import check_usage, price_calls

if TYPE_CHECKING:
    from spark_billing.udfs import model_call_cost, model_call_tier, register

__version__ = "0.1.0"

__all__ = [
    "BillMapping",
    "BrokenRule",
    "Estimate",
    "Price",
    "PriceList",
    "PriceListError",
    "ProviderBillError",
    "SparkBillingError",
    "Statement",
    "UsageError",
    "bill_history",
    "bill_lines",
    "bill_touched_hours",
    "check_focus",
    "check_usage",
    "estimate_calls",
    "hourly_bills",
    "learn_output",
    "ledger_lines",
    "model_call_cost",
    "model_call_tier",
    "monthly_statement",
    "price_calls",
    "provider_bill",
    "read_bill",
    "reconcile",
    "register",
    "rerate",
    "sql_function_ddl",
    "to_focus",
]


def __getattr__(name: str) -> Any:
    """The UDFs are imported on first use: only they need pyarrow, which a cluster may not have."""
    if name in ("model_call_cost", "model_call_tier", "register"):
        from spark_billing import udfs

        return getattr(udfs, name)
    raise AttributeError(f"module 'spark_billing' has no attribute {name!r}")
