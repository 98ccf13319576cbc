"""A made-up production, and a plain oracle of what it must come to.

Hour by hour calls arrive in a usage folder, one file for each hour of arrival: most of them at once, some hours or days
late, some twice, and some with rivals (the same ids, other content). A price changes inside an hour. The oracle knows
every row, prices it with `tests.oracle`, and says after each run which bills, lines and rejected rows there must be. It
imports nothing of the package.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, Optional

from tests import oracle

UTC8 = timezone(timedelta(hours=8))
HOUR = timedelta(hours=1)
START = datetime(2026, 5, 1, tzinfo=UTC8)
LOOKBACK = 24 * HOUR
DEARER = Decimal("1.5")  # what qwen-plus costs after the change, of what it cost before
COLUMNS = ("request_id", "workspace_id", "region", "model", "call_time", "input_tokens", "output_tokens")
Row = dict[str, Any]
HEAD = "model,region,min_input_tokens,max_input_tokens,input_price_per_1k,output_price_per_1k,currency,"


def hour_of(at: datetime) -> datetime:
    return at.astimezone(UTC8).replace(minute=0, second=0, microsecond=0)


# --- what arrives


@dataclass
class Production:
    """So many hours of calls, from `START` on; the same ones for the same seed.

    `crowd` are workspaces of their own with two rival copies each in the first hour: more conflicts than a record or a
    message can hold. `change` is when the price of qwen-plus changes, in hours after the start.
    """

    seed: int
    hours: int
    calls: int  # in each hour
    crowd: int = 0
    change: float = 1.5
    rivals: float = 0.03  # of the calls
    files: dict[int, list[Row]] = field(default_factory=lambda: defaultdict(list))  # by hour of arrival

    def __post_init__(self) -> None:
        self._random, self._number = random.Random(self.seed), 0
        for n in range(self.crowd):
            first = self.call(0, workspace_id=f"w-crowd-{n:05}", model="qwen-plus", output_tokens=n)
            self.files[0] += [first, {**first, "output_tokens": n + 1}]
        for hour in range(self.hours):
            for _ in range(self.calls):
                self._arrives(hour, self.call(hour))

    def until(self, hour: int, lost: Iterable[int] = ()) -> list[Row]:
        """What lies in the folder when an hour is over."""
        return [row for at, rows in sorted(self.files.items()) if at <= hour and at not in lost for row in rows]

    def price_list(self) -> str:
        """The published USD list, with another price for qwen-plus from the change on, as CSV."""
        change = self.changes_at.isoformat()
        rows = [HEAD + "effective_from,effective_to"]
        for model, regions, tiers in oracle.PUBLISHED["USD"]:
            tops = ["0", *(top for top, _, _ in tiers)]
            for region in regions:
                for bottom, (top, given, answered) in zip(tops, tiers):
                    if model != "qwen-plus":
                        rows.append(f"{model},{region},{bottom},{top},{given},{answered or ''},USD,,")
                        continue
                    later = [f"{Decimal(price) * DEARER:f}" for price in (given, answered)]
                    rows.append(f"{model},{region},{bottom},{top},{given},{answered},USD,,{change}")
                    rows.append(f"{model},{region},{bottom},{top},{later[0]},{later[1]},USD,{change},")
        return "\n".join(rows) + "\n"

    @property
    def changes_at(self) -> datetime:
        return START + self.change * HOUR

    def call(self, hour: int, **fixed: Any) -> Row:
        """A call of an hour, made up by chance but for what is given."""
        pick = self._random
        self._number += 1
        model = pick.choices(("qwen-plus", "text-embedding-v4", "qwen-max"), (85, 12, 3))[0]
        bounds = (1, 128_000, 128_001, 256_000, 256_001, 1_000_000, 0, 1_000_001)
        tokens = pick.randint(1, 3000) if pick.random() < 0.9 else pick.choice(bounds)
        call = {
            "request_id": f"r-{self._number:07}",
            "workspace_id": pick.choice(("w-1", "w-2", "w-3")),
            "region": pick.choice(("cn-hangzhou", "cn-beijing", "ap-southeast-1")),
            "model": model,
            "call_time": START + hour * HOUR + timedelta(milliseconds=pick.randrange(3_600_000)),
            "input_tokens": tokens,
            "output_tokens": None if model == "text-embedding-v4" else pick.randint(0, 900),
            **fixed,
        }
        broken = ("request_id", "workspace_id", "region", "call_time", "output_tokens")
        if not fixed and pick.random() < 0.01:
            call[pick.choice(broken)] = None
        return call

    def _arrives(self, hour: int, call: Row) -> None:
        pick = self._random
        at = hour + pick.choices((0, pick.randint(1, 6), pick.randint(49, 70)), (90, 8, 2))[0]
        chance = pick.random()
        if at < hour + 48 and chance < self.rivals:
            self._rivals(hour, at, call)
        elif chance < self.rivals + 0.03:  # sent twice
            self.files[at + pick.randint(0, 2)].append(call)
        self.files[at].append(call)

    def _rivals(self, hour: int, at: int, call: Row) -> None:
        """One to three more copies with other content: a growing answer, other tokens, hours before or after, even
        farther than the lookback. Each arrives in time for the runs of the hour that it is dated in."""
        pick = self._random
        for _ in range(pick.randint(1, 3)):
            shift = pick.choice((0, 0, pick.randint(-30, 30)))
            other = min(max(0, hour + shift), self.hours - 1)
            more = pick.choice(({"output_tokens": pick.randint(0, 2000)}, {"input_tokens": pick.randint(1, 300_000)}))
            within = timedelta(milliseconds=pick.randrange(3_600_000))
            moved = call["call_time"] and START + other * HOUR + within
            self.files[max(at, other) + pick.randint(0, 3)].append({**call, "call_time": moved, **more})


# --- what it must come to


@dataclass(frozen=True)
class Charge:
    """What a billable row costs: its tier, and (price per 1,000, tokens, amount) of input and of billed output."""

    tier: str
    parts: Mapping[str, tuple[Decimal, int, Decimal]]


class Oracle:
    """What a usage comes to, row by row, under the price list of a production."""

    def __init__(self, changes_at: datetime) -> None:
        self.changes_at = changes_at
        self._seen: dict[tuple[Any, ...], tuple[Optional[str], Optional[Charge]]] = {}

    def fates(self, rows: Iterable[Row]) -> Iterator[tuple[Row, Optional[str], Optional[Charge]]]:
        """Each row with why it is not billed, or with its charge.

        A billable row is rejected exactly if a better one of the same ids lies within the lookback of it, or if it is a
        billed row once more.
        """
        copies = defaultdict(list)
        for row in rows:
            reason, charge = self._alone(row)
            if reason:
                yield row, reason, None
            else:
                copies[row["workspace_id"], row["request_id"]].append((row, charge))
        for group in copies.values():
            once: set[tuple[Any, ...]] = set()
            for row, charge in group:
                content = tuple(row[name] for name in COLUMNS)
                others = (other for other, _ in group) if len(group) > 1 else ()
                beaten = any(
                    rank(other) < rank(row) and abs(other["call_time"] - row["call_time"]) <= LOOKBACK
                    for other in others
                )
                repeated = "duplicate_request" if content in once else None
                yield row, "conflicting_request" if beaten else repeated, charge
                once.add(content)

    def state(self, rows: Iterable[Row]) -> State:
        state = State()
        for row, reason, charge in self.fates(rows):
            state.take(row, reason, charge)
        return state

    def _alone(self, row: Row) -> tuple[Optional[str], Optional[Charge]]:
        content = tuple(row[name] for name in COLUMNS)
        if content not in self._seen:
            reason = "missing_request_id" if not row["request_id"] else None
            reason = reason or ("missing_workspace_id" if not row["workspace_id"] else oracle.reason(row))
            self._seen[content] = reason, None if reason else self._charge(row)
        return self._seen[content]

    def _charge(self, row: Row) -> Charge:
        tier, _, _ = oracle.price(row)
        (tiers,) = (t for m, r, t in oracle.PUBLISHED["USD"] if m == row["model"] and row["region"] in r)
        ((_, given, answered),) = (prices for prices in tiers if prices[0] == tier.rpartition("-")[2])
        later = row["model"] == "qwen-plus" and row["call_time"] >= self.changes_at
        parts = {}
        for kind, price, tokens in (("input", given, row["input_tokens"]), ("output", answered, row["output_tokens"])):
            if price is not None:
                per_1k = Decimal(price) * (DEARER if later else 1)
                parts[kind] = per_1k, tokens, per_1k * tokens / 1000
        return Charge(tier, parts)


def rank(row: Row) -> tuple[Any, ...]:
    """The better of two copies comes first: more input, more output, earlier, then the remaining columns in order."""
    output = row["output_tokens"]
    fuller = (-row["input_tokens"], (output is None, -(output or 0)))
    return (*fuller, row["call_time"], row["region"], row["model"])


@dataclass
class State:
    """What a usage comes to: bills, lines, and what is rejected, each by the hour of the call."""

    bills: dict[tuple[str, datetime], list[Any]] = field(default_factory=dict)  # requests, input, output, amount
    lines: dict[tuple[Any, ...], list[Any]] = field(default_factory=dict)  # requests, tokens, amount
    rejected: dict[Optional[datetime], Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    read: Counter[Optional[datetime]] = field(default_factory=Counter)

    def take(self, row: Row, reason: Optional[str], charge: Optional[Charge]) -> None:
        hour = row["call_time"] and hour_of(row["call_time"])
        self.read[hour] += 1
        if reason:
            self.rejected[hour][reason] += 1
            return
        bill = self.bills.setdefault((row["workspace_id"], hour), [0, 0, 0, Decimal(0)])
        bill[0] += 1
        for kind, (price, tokens, amount) in charge.parts.items():
            bill[1 if kind == "input" else 2] += tokens
            bill[3] += amount
            key = (row["workspace_id"], hour, row["region"], row["model"], kind, charge.tier, price)
            line = self.lines.setdefault(key, [0, 0, Decimal(0)])
            line[0] += 1
            line[1] += tokens
            line[2] += amount

    def totals(self, start: datetime, end: datetime) -> tuple[int, Counter[str]]:
        """How many rows a run over these hours reads, and how many it rejects by reason: rows without a time are in
        every period."""
        hours = [hour for hour in self.read if hour is None or start <= hour < end]
        rejected: Counter[str] = Counter()
        for hour in hours:
            rejected += self.rejected[hour]
        return sum(self.read[hour] for hour in hours), rejected


@dataclass
class Billed:
    """What has been billed so far: of each hour what the last run that covered it saw."""

    bills: dict[tuple[str, datetime], list[Any]] = field(default_factory=dict)
    lines: dict[tuple[Any, ...], list[Any]] = field(default_factory=dict)

    def commit(self, state: State, start: datetime, end: datetime) -> None:
        for mine, of_state in ((self.bills, state.bills), (self.lines, state.lines)):
            for key in [key for key in mine if start <= key[1] < end]:
                del mine[key]
            mine.update({key: value for key, value in of_state.items() if start <= key[1] < end})
