"""What was billed in a period, summed by Spark: the figures of the report, however many calls there were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Optional

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_billing.core.columns import quoted, tag_column, tag_keys
from spark_billing.core.errors import UsageError
from spark_billing.core.hours import SECONDS_PER_DAY, SECONDS_PER_HOUR, Period, date_label, hour_label
from spark_billing.estimates.expected import Expected
from spark_billing.ledger.difference import ORIGINAL
from spark_billing.ledger.ledger import Ledger
from spark_billing.ledger.reading import lines_in_currency
from spark_billing.provider.comparison import Reconciliation
from spark_billing.reports.breakdown import WHOLE_KINDS, Part, Sums, breakdown, prove, total_of
from spark_billing.usage.reasons import REJECT_REASONS

_MOST_DAYS = 1_100  # three years


@dataclass(frozen=True)
class Report:
    """What a report shows of a period. Amounts are exact decimals, hours are epoch seconds."""

    period: Period
    currency: str
    total: Sums
    parts: Mapping[str, Sequence[Part]]  # by workspace, model, region, tier, `tag KEY` and entry
    hours: Mapping[int, Sums]  # of each hour that has lines
    rejected: Mapping[str, int]  # rows of the period's hours by reason
    rejected_without_time: Mapping[str, int]  # rows that no period can claim
    ledger: str  # what it was made from, such as `run 12 of bills`
    run_at: str  # when that run was committed
    estimate: Optional[Expected] = None
    reconciliation: Optional[Reconciliation] = None
    reasons: Sequence[tuple[int, str, Sums]] = ()  # the runs whose records say why they were made: adjustments of each

    def days(self) -> dict[str, Sums]:
        """The sums of each UTC+8 day of the period, such as 2026-04-08, with those that have no line."""
        days: dict[str, Sums] = {}
        for hour in range(self.period.start, self.period.end, SECONDS_PER_HOUR):
            day = date_label(hour)
            days[day] = days.get(day, Sums()) + self.hours.get(hour, Sums())
        return days

    @property
    def adjustments(self) -> Sequence[Part]:
        return [part for part in self.parts["entry"] if part.name != ORIGINAL]


def read_report(
    ledger: Ledger,
    period: Optional[Period] = None,
    *,
    top: int = 10,
    estimate: Optional[Expected] = None,
    reconciliation: Optional[Reconciliation] = None,
) -> Report:
    """What a ledger says of a period, or of all hours that it has.

    Each list names the `top` dearest and sums the others. `UsageError` if the ledger has no line of the period, or what
    is compared is in another currency; `OutputError` if there is no ledger or it is damaged.
    """
    last, where = ledger.last, ledger.where
    if last is None:
        raise UsageError(f"the ledger in {where} has no run; there is nothing to report")
    if period is None:
        hours = sorted(ledger.runs.amounts())
        if not hours:
            raise UsageError(f"the ledger in {where} has no line; there is nothing to report")
        period = Period(hours[0], hours[-1] + SECONDS_PER_HOUR)
        if period.end - period.start > _MOST_DAYS * SECONDS_PER_DAY:  # one call with a date of nonsense is enough
            raise UsageError(
                f"the ledger in {where} has lines from {hour_label(hours[0])} to {hour_label(hours[-1])}, more than "
                f"{_MOST_DAYS:,} days, each a bar and a row of the page; say which period",
                parameter="period",
            )
    currency = last.price_list.currency
    for what, compared in (("estimate", estimate), ("reconciliation", reconciliation)):
        if compared is not None and compared.currency != currency:
            raise UsageError(f"the {what} is in {compared.currency}, and the ledger in {currency}")
    parts = _parts(lines_in_currency(ledger, period.start, period.end), top)
    if not parts["currency"]:
        raise UsageError(f"the ledger in {where} has no line of {period} (UTC+8); there is nothing to report")
    total = total_of(parts["currency"])
    prove(total, parts)
    of_hours = {int(part.name or 0): part.sums for part in parts.pop("hour")}
    of_runs = {int(part.name): part.sums for part in parts.pop("run") if part.name is not None}
    del parts["currency"]
    rejected, without_time = _rejected_rows(ledger, period)
    return Report(
        period=period,
        currency=currency,
        total=total,
        parts=parts,
        hours=dict(sorted(of_hours.items())),
        rejected=rejected,
        rejected_without_time=without_time,
        ledger=ledger.version,
        run_at=last.committed_at,
        estimate=estimate,
        reconciliation=reconciliation,
        reasons=[
            (number, record.reason, of_runs[number])
            for number, record in sorted(ledger.records(list(of_runs)).items())
            if record.reason
        ],
    )


def _parts(lines: DataFrame, top: int) -> dict[str, list[Part]]:
    columns = {"workspace": "workspace_id", "model": "model", "region": "region", "tier": "tier"}
    columns.update({f"tag {key}": quoted(tag_column(key)) for key in tag_keys(lines)})
    kinds = {kind: F.col(column) for kind, column in columns.items()}
    kinds["entry"] = F.coalesce("reason", "entry")
    kinds.update({"hour": F.unix_seconds("period_start"), "currency": F.col("currency")})
    kinds["run"] = F.when(F.col("entry") != ORIGINAL, F.col("run"))
    return breakdown(lines, kinds, top=top, whole=(*WHOLE_KINDS, "run"))


def _rejected_rows(ledger: Ledger, period: Period) -> tuple[dict[str, int], dict[str, int]]:
    """The rejected rows as the last run on each hour has left them, by reason: of the period's hours, and of none."""
    rows = ledger.rejected(period)
    if rows is None:
        return {}, {}
    found = rows.groupBy("reject_reason", F.col("billing_date").isNull().alias("undated")).count().collect()
    counts = {(row["reject_reason"], row["undated"]): row["count"] for row in found}
    dated, without = (
        {reason: counts[reason, undated] for reason in REJECT_REASONS if (reason, undated) in counts}
        for undated in (False, True)
    )
    return dated, without
