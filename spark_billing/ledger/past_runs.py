"""What was done to a ledger, run by run, as its records tell it. No Spark in here."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Optional

from spark_billing.core.hours import UTC8, hour_label, instant_label, iso_instant
from spark_billing.core.money import money
from spark_billing.core.text import printable, table
from spark_billing.ledger.run_record import LineSums, RunRecord

_LINE = 200  # characters of a name, an expression or a reason
_SWITCHES = {"duplicates": "--no-dedup"}  # options that say the opposite of the argument
_OPTIONS = {"columns": "--column", "group_by_tags": "--group-by-tag"}
# What the job and `bill_usage` take if nothing else is said; an argument that is not named here has no default
_DEFAULTS: Mapping[str, Any] = {
    "columns": {},
    "duplicates": True,
    "model_alias": [],
    "pricing": "native",
    "group_by_tags": [],
    "detail": False,
    "dedup_lookback": 24,
    "keep_copy": "fullest",
    "allow_retractions": False,
}
_TOLD_ELSEWHERE = ("dry_run", "action")


def told_run(record: RunRecord) -> dict[str, Any]:
    """A run as JSON: amounts as text, and of the arguments those that are not the defaults."""
    reasons = record.ledger.reasons
    return {
        "run": record.run,
        "run_id": record.run_id,
        "committed_at": record.committed_at,
        "version": record.version or None,
        "action": record.arguments.get("action", "bill"),
        "source": record.source,
        "currency": record.price_list.currency,
        "price_list": vars(record.price_list),
        "period": record.period and {"from": hour_label(record.period.start), "to": hour_label(record.period.end)},
        "arguments": given_arguments(record.arguments),
        "reason": record.reason or None,
        "added": {reason: sums.to_json() for reason, sums in reasons.items()},
        "amount": f"{_all(reasons).amount:f}",
    }


def printed_runs(records: Sequence[RunRecord]) -> Iterator[str]:
    """A line for each run, and below it what it was asked, why, and the usage where that has another name than
    before."""
    currencies = {record.price_list.currency for record in records}
    currency = currencies.pop() if len(currencies) == 1 else ""
    cells = [("run", "at", "version", "lines", currency or "amount")]
    for record in records:
        added = _all(record.ledger.reasons)
        amount = money(added.amount) + ("" if currency else f" {record.price_list.currency}")
        cells.append((f"{record.run}", _moment(record.committed_at), record.version or "-", f"{added.lines:,}", amount))
    head, *lines = table(cells)
    yield f"{head}   added"
    source: Optional[str] = None
    for record, line in zip(records, lines):
        yield f"{line}   {_reasons(record.ledger.reasons)}"
        if record.source != source:
            source = record.source
            yield f"     source: {printable(source, _LINE)}"
        asked = _asked(record)
        if asked:
            yield f"     {printable(asked, 3 * _LINE)}"
        if record.reason:
            yield f"     reason: {printable(record.reason, _LINE)}"


def given_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a run that are not the defaults."""
    return {
        name: value
        for name, value in arguments.items()
        if name not in _TOLD_ELSEWHERE and value is not None and value != _DEFAULTS.get(name)
    }


def _asked(record: RunRecord) -> str:
    """What a run was asked, as options of its job."""
    given, action = given_arguments(record.arguments), record.arguments.get("action")
    words = [str(action)] if action else []
    for name, value in given.items():
        words += _option(name, value)
    if record.period is not None:
        words += ["--from", hour_label(record.period.start), "--to", hour_label(record.period.end)]
    return " ".join(map(shlex.quote, words))


def _option(name: str, value: Any) -> list[str]:
    if name in _SWITCHES:
        return [_SWITCHES[name]]
    option = _OPTIONS.get(name, f"--{name.replace('_', '-')}")
    if value is True:
        return [option]
    if name == "period":
        return ["--from", value["from"], "--to", value["to"]]
    if name == "columns":
        return [word for column, expression in value.items() for word in (option, f"{column}={expression}")]
    if name == "model_alias":
        return [word for pair in value for word in (option, "=".join(pair))]
    if name == "group_by_tags":
        return [word for key in value for word in (option, key)]
    if name == "as_of":
        return [option, instant_label(value)]
    return [option, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)]


def _reasons(reasons: Mapping[str, LineSums]) -> str:
    return ", ".join(f"{reason} {money(sums.amount)}" for reason, sums in reasons.items()) or "nothing"


def _all(reasons: Mapping[str, LineSums]) -> LineSums:
    return sum(reasons.values(), LineSums())


def _moment(text: str) -> str:
    """When a run was committed, in UTC+8; as it is told if that is no instant."""
    try:
        found = iso_instant(text)
    except ValueError:
        found = None
    return found.astimezone(UTC8).isoformat(timespec="seconds") if found else text or "-"
