"""Price every model call exactly, bill every workspace for every UTC+8 hour, on Spark tables of any size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spark_billing.bills.lines import bill_lines, hourly_bills
from spark_billing.core.errors import (
    LostRaceError,
    OutputError,
    PriceListError,
    ProviderBillError,
    RetractionError,
    SparkBillingError,
    TotalsError,
    UsageError,
)
from spark_billing.core.version import __version__ as __version__
from spark_billing.estimates.answers import learn_output
from spark_billing.estimates.estimate import Estimate, estimate_calls
from spark_billing.estimates.rerating import rerate
from spark_billing.focus.rows import to_focus
from spark_billing.focus.rules import BrokenRule, check_focus
from spark_billing.ledger.billing import bill_usage
from spark_billing.ledger.reading import bill_history, ledger_bill_lines, ledger_bills, ledger_lines
from spark_billing.ledger.run_record import RunRecord
from spark_billing.ledger.streaming import bill_touched_hours
from spark_billing.prices.price import Price
from spark_billing.prices.price_list import PriceList
from spark_billing.prices.sql_functions import sql_function_ddl
from spark_billing.provider.causes import reconcile
from spark_billing.provider.files import read_bill
from spark_billing.provider.mapping import BillMapping
from spark_billing.provider.rows import provider_bill
from spark_billing.reports.statement import Statement, monthly_statement
from spark_billing.usage.checks import check_usage, price_calls

if TYPE_CHECKING:
    from spark_billing.prices.udfs import model_call_cost, model_call_tier, register

__all__ = [
    "BillMapping",
    "BrokenRule",
    "Estimate",
    "LostRaceError",
    "OutputError",
    "Price",
    "PriceList",
    "PriceListError",
    "ProviderBillError",
    "RetractionError",
    "RunRecord",
    "SparkBillingError",
    "Statement",
    "TotalsError",
    "UsageError",
    "bill_history",
    "bill_lines",
    "bill_touched_hours",
    "bill_usage",
    "check_focus",
    "check_usage",
    "estimate_calls",
    "hourly_bills",
    "learn_output",
    "ledger_bill_lines",
    "ledger_bills",
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
        from spark_billing.prices import udfs

        return getattr(udfs, name)
    raise AttributeError(f"module 'spark_billing' has no attribute {name!r}")
