"""What the rounds of a benchmark come to: contestants take turns, so a slow minute of the machine hits them all."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional


def ratio(seconds: Sequence[float], base: Sequence[float]) -> float:
    """The median of the ratios within each round: what slowed a whole round is in neither of them."""
    return round(statistics.median(s / b for s, b in zip(seconds, base)), 2)


def spread(figures: Sequence[float], digits: int = 2) -> dict[str, float]:
    of = {"median": statistics.median, "min": min, "max": max}
    return {name: round(function(figures), digits) for name, function in of.items()}


def report(rows: Sequence[Mapping[str, Any]], measured: Mapping[str, Any], to: Optional[Path]) -> None:
    """Print the rows as a Markdown table, and write them with what was measured as JSON."""
    print(
        ", ".join(
            f"{name} {value:,}" if isinstance(value, int) else f"{name} {value}" for name, value in measured.items()
        )
    )
    print(f"\n| {' | '.join(rows[0])} |\n|{'---|' * len(rows[0])}")
    for row in rows:
        print(f"| {' | '.join('' if value is None else str(value) for value in row.values())} |")
    if to:
        to.write_text(json.dumps({**measured, "figures": rows}, indent=2) + "\n", encoding="utf-8")
