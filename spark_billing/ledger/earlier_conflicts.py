"""The conflicts that the records of earlier versions told: a list in the record, cut at 1,000, where the ledger now
keeps rows.

No Spark in here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional

from spark_billing.core.hours import SECONDS_PER_HOUR, parse_hour, ranges
from spark_billing.ledger.run_record import RunRecord

MEASURES = ("requests", "input_tokens", "output_tokens", "amount")  # of what is left out, as bills have them


@dataclass(frozen=True)
class EarlierConflicts:
    """What earlier versions told of the hours that no run has covered since."""

    rows: Sequence[Mapping[str, Any]] = ()  # of `conflicts.settle_conflicts`, instants in epoch seconds
    unknown: frozenset[int] = frozenset()  # hours, in epoch seconds, of which they told nothing

    def after(self, records: Sequence[RunRecord]) -> EarlierConflicts:
        """What is left of this, and what comes new, after some more runs."""
        if not (self.rows or self.unknown) and all(record.left_out is not None for record in records):
            return self
        rows: dict[int, list[Mapping[str, Any]]] = {}
        for row in self.rows:
            rows.setdefault(row["period_start"], []).append(row)
        unknown = set(self.unknown)
        for record in records:
            is_earlier = record.left_out is None
            covered = {hour for start, end in record.covered for hour in range(start, end, SECONDS_PER_HOUR)}
            unknown -= covered
            for hour in covered & rows.keys():
                del rows[hour]
            if is_earlier and record.conflicts is None:
                unknown |= covered
            elif is_earlier:
                for told in record.conflicts or ():
                    row = _row(*told)
                    rows.setdefault(row["period_start"], []).append(row)
        return EarlierConflicts([row for of_hour in rows.values() for row in of_hour], frozenset(unknown))

    def to_json(self) -> dict[str, Any]:
        return {"rows": [dict(row) for row in self.rows], "unknown": ranges(sorted(self.unknown))}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> EarlierConflicts:
        unknown = (hour for start, end in found["unknown"] for hour in range(start, end, SECONDS_PER_HOUR))
        return cls(found["rows"], frozenset(unknown))


def _row(
    workspace_id: str, hour: str, region: str, model: str, rejected: bool, billed_at: Optional[str], *counts: Any
) -> dict[str, Any]:
    """A conflict as a record told it: calls that are left out, or the calls that are billed in their place."""
    measures = dict(zip(MEASURES, counts)) if rejected else {**dict.fromkeys(MEASURES, 0), "amount": "0"}
    where = {"workspace_id": workspace_id, "region": region, "model": model}
    at = {"period_start": parse_hour(hour), "rival_at": parse_hour(billed_at or hour)}
    return {**where, **at, **measures, "beaten": 0 if rejected else counts[0]}
