"""The control totals of a run: what becomes of its usage, in calls and tokens, and the proof that nothing is lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pyspark.sql import Row

from spark_billing.core.errors import TotalsError
from spark_billing.usage.reasons import REJECT_REASONS

TOKENS = ("input_tokens", "output_tokens")
_KINDS = ("read", "billed", "rejected", "open", "too_old", "charged")
_ALWAYS = ("read", "billed", "rejected")


@dataclass(frozen=True)
class ControlTotals:
    """The usage of a run, summed by hour, reject code and whether the list bills its output (`free_output`)."""

    sums: Sequence[Row]
    open_from: int  # epoch seconds: hours from here on are still open
    old_until: int  # hours before this are too old

    def by_kind(self) -> dict[str, dict[str, int]]:
        """Requests and tokens by what becomes of them; `charged` are billed tokens that the list has a price for."""
        sums = {kind: dict.fromkeys(("requests", *TOKENS), 0) for kind in _KINDS}
        for row in self.sums:
            kind = "billed" if row["reject"] is None else "rejected"
            if row["hour"] is not None and row["hour"] >= self.open_from:
                kind = "open"
            elif row["hour"] is not None and row["hour"] < self.old_until:
                kind = "too_old"
            for name in ("requests", *TOKENS):
                sums["read"][name] += int(row[name])
                sums[kind][name] += int(row[name])
                if kind == "billed":
                    sums["charged"][name] += 0 if row["free_output"] and name == "output_tokens" else int(row[name])
        return sums

    def rejected(self) -> dict[str, int]:
        """The rejected rows of the covered hours by reason, in the order of the reasons."""
        rows: dict[str, int] = {}
        for row in self.sums:
            if row["reject"] is not None and (row["hour"] is None or self.old_until <= row["hour"] < self.open_from):
                reason = REJECT_REASONS[row["reject"] - 1]
                rows[reason] = rows.get(reason, 0) + int(row["requests"])
        return {reason: rows[reason] for reason in REJECT_REASONS if reason in rows}

    def recorded(self) -> dict[str, Any]:
        """As the record of a run has them: rows and tokens by kind, rejected rows by reason."""
        sums = self.by_kind()
        kinds = [kind for kind in _KINDS[:-1] if kind in _ALWAYS or sums[kind]["requests"]]
        return {
            "rows": {kind: sums[kind]["requests"] for kind in kinds},
            "rejected": self.rejected(),
            **{name: {kind: sums[kind][name] for kind in (*kinds, "charged")} for name in TOKENS},
        }


def balance(what: str, expected: object, where: str, found: object) -> None:
    """`TotalsError` if what was found is not what was expected."""
    if expected != found:
        raise TotalsError(
            f"the totals do not balance: {what} {expected}, {where} {found}. Nothing was published. "
            "If the usage table was written to during the run, run it again."
        )
