"""The version of a table that a run has read, as its record keeps it. No Spark in here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class UsedVersion:
    """A version of a table, by the name that its format has for it: a snapshot of Iceberg or Paimon, a version of
    Delta. As text, since other programs that read JSON round such numbers."""

    format: str
    version: str

    def __str__(self) -> str:
        kind = "version" if self.format == "delta" else "snapshot"
        return f"{kind} {self.version} of the {self.format.capitalize()} table"
