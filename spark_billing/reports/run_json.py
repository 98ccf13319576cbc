"""What a run did, for a program to read: what its summary in a terminal says, amounts as text."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from spark_billing.core.hours import hour_label
from spark_billing.ledger.run import Outcome
from spark_billing.ledger.run_record import LineSums
from spark_billing.prices.price_list import PriceList
from spark_billing.reports.run_summary import warnings_of

_COUNTS = ("requests", "input_tokens", "output_tokens")


def summary_of(outcome: Outcome, prices: PriceList) -> dict[str, Any]:
    """A billing run as JSON. The names are those of the run's record."""
    record = outcome.record
    period = record.period and {"from": hour_label(record.period.start), "to": hour_label(record.period.end)}
    return {
        "run": record.run,
        "run_id": record.run_id,
        "dry_run": bool(record.arguments.get("dry_run")),
        "committed_at": record.committed_at,
        "as_of": record.as_of,
        "version": record.version,
        "source": record.source,
        "reason": record.reason or None,
        "period": period,
        "hours": vars(record.hours),
        "prices": {**vars(record.price_list), "text": str(prices)},
        "usage_version": record.usage_version and vars(record.usage_version),
        "totals": record.totals.to_json(),
        "added": _by_reason(record.ledger.reasons),
        "not_adjusted": _by_reason(record.not_adjusted.reasons),
        "lowered": [
            {
                "workspace_id": row["workspace_id"],
                "hour": hour_label(row["hour"]),
                **_bill(row),
                "by_conflict": row["by_conflict"],
            }
            for row in outcome.lowered
        ],
        "dearest_workspaces": [{"workspace_id": row["name"], **_bill(row)} for row in outcome.dearest_workspaces],
        "dearest_hours": [{"hour": hour_label(int(row["name"])), **_bill(row)} for row in outcome.dearest_hours],
        "model_aliases": [dict(each) for each in record.model_aliases],
        "most_conflicts": [row.asDict() for row in outcome.most_conflicts],
        "places": dict(outcome.places),
        "warnings": warnings_of(outcome),
    }


def _by_reason(reasons: Mapping[str, LineSums]) -> dict[str, Any]:
    return {reason: sums.to_json() for reason, sums in reasons.items()}


def _bill(row: Any) -> dict[str, Any]:
    return {**{name: int(row[name] or 0) for name in _COUNTS}, "amount": f"{Decimal(row['amount'] or 0):f}"}
