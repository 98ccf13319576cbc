"""Ledger lines as rows of FOCUS, the FinOps Open Cost and Usage Specification, in its versions 1.2 and 1.4.

One row per ledger line. FOCUS asks that a correction of an invoiced month is a new row in a later billing period, and
lets an open month's correction be a row of its own. The ledger only ever adds lines, so nothing is netted: what once
was a row stays one, each can be traced to its run, and the costs add up to what the ledger holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Optional, Union

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from spark_billing.core.columns import billing_date, midnight, quoted, tag_column, tag_keys
from spark_billing.core.errors import UsageError
from spark_billing.core.hours import SECONDS_PER_DAY, instant_label, parse_instant, parse_month
from spark_billing.core.published import PROVIDER, SERVICE
from spark_billing.core.schemas import LEDGER_LINES, PRICE, THOUSANDS, TOKENS
from spark_billing.focus.columns import FOCUS
from spark_billing.ledger.difference import ADJUSTMENT
from spark_billing.prices.price_list import published_region_names

VERSIONS = tuple(FOCUS)
ClosedMonths = Union[Sequence[str], Mapping[str, Optional[str]]]


def to_focus(
    lines: DataFrame,
    *,
    billing_account_id: str,
    billing_account_name: Optional[str] = None,
    invoice_issuer: str = PROVIDER,
    version: str = "1.2",
    closed_months: ClosedMonths = (),
    invoice_ids: Optional[Mapping[str, str]] = None,
    invoice_detail_ids: Optional[Mapping[str, str]] = None,
    tags: Optional[Mapping[str, str]] = None,
    region_names: Optional[Mapping[str, str]] = None,
    ledger: Optional[str] = None,
) -> DataFrame:
    """Ledger lines -> rows of FOCUS 1.2 or 1.4 (`columns.FOCUS`), one per line; quantities are in 1,000 tokens.

    `lines` are those of `ledger_lines`. Billing periods are months in UTC+8. `closed_months` are those whose invoice is
    issued, such as `{"2026-04": "2026-05-03T12:00+08:00"}`: what a run added to them from that instant on is a
    Correction, in the billing period of that run. Of a month without an instant, the adjustments after its end are.
    `invoice_ids` and, for 1.4, `invoice_detail_ids` go by billing month; `tags` gives keys of the bill's tags another
    name; `region_names` replaces those of the bundled price list (a region in neither is its own name); `ledger` names
    what the lines were read from, in `x_Ledger`. `UsageError` if an option or the lines do not fit.

    Examples
    --------
    >>> rows = to_focus(ledger_lines(spark, output), billing_account_id="1234567890123456")
    >>> rows.select("SkuId", "PricingQuantity", "ListUnitPrice", "BilledCost").orderBy("SkuId").show()
    +----------------+---------------+-------------+--------------+
    |           SkuId|PricingQuantity|ListUnitPrice|    BilledCost|
    +----------------+---------------+-------------+--------------+
    | qwen-plus/input|          0.260|  0.000138000|0.000035880000|
    |qwen-plus/output|          0.050|  0.000344000|0.000017200000|
    +----------------+---------------+-------------+--------------+
    """
    if version not in FOCUS:
        raise UsageError(f"FOCUS {version!r} cannot be written; give {' or '.join(FOCUS)}")
    if not billing_account_id or not invoice_issuer or billing_account_name == "":
        raise UsageError("the billing account and the invoice issuer are empty text; FOCUS needs an id and a name")
    lacking = [name for name in LEDGER_LINES.fieldNames() if name not in lines.columns]
    if lacking:
        raise UsageError(f"the lines have no column {', '.join(lacking)}; pass what ledger_lines returns")
    closed = _closed_at(closed_months)
    ids, detail_ids = _ids_by_month("invoice id", invoice_ids), _ids_by_month("invoice detail id", invoice_detail_ids)
    if version == "1.2" and detail_ids:
        raise UsageError("FOCUS 1.2 has no invoice detail id; leave it out, or write FOCUS 1.4")
    if version == "1.4" and ids.keys() != detail_ids.keys():
        raise UsageError(
            "FOCUS 1.4 names the invoice and its detail, or neither: give an invoice id and an invoice detail id for "
            "the same months"
        )

    month = billing_month(closed_months)
    if region_names is None:
        region_names = published_region_names()
    region_name = _named(F.col("region"), region_names)
    quantity = F.col("tokens").cast(TOKENS) * F.lit("0.001").cast("decimal(3,3)")
    columns = {
        "BilledCost": F.col("amount"),
        "BillingAccountId": F.lit(billing_account_id),
        "BillingAccountName": F.lit(billing_account_name),
        "BillingCurrency": F.col("currency"),
        "BillingPeriodEnd": F.timestamp_seconds(midnight(F.add_months(month, 1))),
        "BillingPeriodStart": F.timestamp_seconds(midnight(month)),
        "ChargeCategory": F.lit("Usage"),
        "ChargeClass": F.when(_is_correction(closed), F.lit("Correction")),
        "ChargeDescription": _description(region_name),
        "ChargeFrequency": F.lit("Usage-Based"),
        "ChargePeriodEnd": F.col("period_end"),
        "ChargePeriodStart": F.col("period_start"),
        "CommitmentDiscountStatus": F.lit(None),
        "ConsumedQuantity": F.col("tokens"),
        "ConsumedUnit": F.lit("Tokens"),
        "ContractedCost": F.col("amount"),
        "ContractedUnitPrice": F.col("price_per_1k"),
        "EffectiveCost": F.col("amount"),
        "HostProviderName": F.lit(PROVIDER),
        "InvoiceDetailId": _of_month(month, detail_ids),
        "InvoiceId": _of_month(month, ids),
        "InvoiceIssuerName": F.lit(invoice_issuer),
        "ListCost": F.col("amount"),
        "ListUnitPrice": F.col("price_per_1k"),
        "PricingCategory": F.lit("Standard"),
        "PricingCurrency": F.col("currency"),  # the prices are native to it: never converted
        "PricingCurrencyContractedUnitPrice": F.col("price_per_1k"),
        "PricingCurrencyEffectiveCost": F.col("amount"),
        "PricingCurrencyListUnitPrice": F.col("price_per_1k"),
        "PricingQuantity": quantity.cast(THOUSANDS),
        "PricingUnit": F.lit("1000 Tokens"),
        "ProviderName": F.lit(PROVIDER),
        "PublisherName": F.lit(PROVIDER),
        "RegionId": F.col("region"),
        "RegionName": region_name,
        "ResourceId": F.col("workspace_id"),
        "ResourceName": F.lit(None),  # the ledger knows no display names
        "ResourceType": F.lit("Workspace"),
        "ServiceCategory": F.lit("AI and Machine Learning"),
        "ServiceName": F.lit(SERVICE),
        "ServiceProviderName": F.lit(PROVIDER),
        "ServiceSubcategory": F.lit("Generative AI"),
        # the same wherever it is used and whatever it costs, unlike the SKU price
        "SkuId": F.concat("model", F.lit("/"), "token_type"),
        "SkuMeter": F.concat(F.initcap("token_type"), F.lit(" Tokens")),
        "SkuPriceDetails": _json({"x_Model": "model", "x_TokenType": "token_type", "x_InputTokensPerRequest": "tier"}),
        "SkuPriceId": F.concat("price_id", F.lit("/"), "token_type"),
        "SubAccountId": F.col("workspace_id"),
        "SubAccountName": F.col("workspace_id"),  # never null where there is an id
        "Tags": _tags_as_json(lines, tags or {}),
        "x_BillingHour": F.concat(
            F.col("billing_date").cast("string"), F.lit("T"), F.lpad(F.col("billing_hour").cast("string"), 2, "0")
        ),
        "x_Entry": F.col("entry"),
        "x_Ledger": F.lit(ledger),
        "x_Model": F.col("model"),
        "x_Reason": F.col("reason"),
        "x_Requests": F.col("requests"),
        "x_Run": F.col("run"),
        "x_Tier": F.col("tier"),
        "x_TokenType": F.col("token_type"),
    }
    return lines.select(*(columns[f.name].cast(f.dataType).alias(f.name) for f in FOCUS[version].fields))


def billing_month(closed_months: ClosedMonths = ()) -> Column:
    """The first day, in UTC+8, of a ledger line's billing month: that of its hour, or of the run that corrected it."""
    incurred, run = (_month_of(F.unix_seconds(name)) for name in ("period_start", "run_at"))
    return F.when(_is_correction(_closed_at(closed_months)), run).otherwise(incurred)


def plain(number: Column, scale: int) -> Column:
    """A decimal as plain text with so many decimals; a cast would write 0E-12 on Spark 3.5, and so do CSV files."""
    return F.translate(F.format_number(number, scale), ",", "")


def utc_text(instant: Column) -> Column:
    """An instant such as 2026-04-08T00:00:00Z, whatever the session's zone."""
    seconds = F.unix_seconds(instant)
    second = F.pmod(seconds, F.lit(SECONDS_PER_DAY))
    day = F.date_from_unix_date(((seconds - second) / F.lit(SECONDS_PER_DAY)).cast("int"))

    def whole(units: Column, of: int) -> Column:
        return ((units - units % of) / of).cast("int")

    clock = (whole(second, 3600), whole(second % 3600, 60), (second % 60).cast("int"))
    text = F.format_string("%sT%02d:%02d:%02dZ", day.cast("string"), *clock)
    return F.when(instant.isNotNull(), text)


def _month_of(seconds: Column) -> Column:
    return F.trunc(billing_date(seconds), "month")


def _is_correction(closed: Mapping[str, Optional[int]]) -> Column:
    """Whether a line was added to a month after its invoice was issued."""
    at, run_at = F.unix_seconds("period_start"), F.unix_seconds("run_at")
    found = F.lit(False)
    for month, closed_at in closed.items():
        start, end = parse_month(month)
        late = (run_at >= end) & (F.col("entry") == ADJUSTMENT) if closed_at is None else run_at >= closed_at
        found |= (at >= start) & (at < end) & late
    return found


def _closed_at(months: ClosedMonths) -> dict[str, Optional[int]]:
    """The closed months and when their invoices were issued, in epoch seconds, where that is given."""
    if isinstance(months, str):
        raise UsageError(f"closed_months is the text {months!r}; give a list of months")
    given = dict(months) if isinstance(months, Mapping) else dict.fromkeys(months)
    closed: dict[str, Optional[int]] = {}
    for month, instant in given.items():
        end = _end_of_month(month)
        try:
            closed_at = None if instant is None else parse_instant(instant)
        except ValueError as error:
            raise UsageError(f"the month {month} is said to be closed at no instant: {error}") from None
        if closed_at is not None and closed_at < end:
            raise UsageError(
                f"the month {month} is said to be closed at {instant}, before it ended; give an instant from "
                f"{instant_label(end)} on"
            )
        closed[month] = closed_at
    return closed


def _ids_by_month(what: str, ids: Optional[Mapping[str, str]]) -> dict[str, str]:
    given = dict(ids or {})
    for month, name in given.items():
        _end_of_month(month)
        if not name:
            raise UsageError(f"the {what} of {month} is empty; give one, or leave the month out")
    if what == "invoice id" and len(set(given.values())) < len(given):
        raise UsageError("two months have the same invoice id; FOCUS wants a correction on another invoice")
    return given


def _end_of_month(month: str) -> int:
    try:
        return parse_month(month)[1]
    except ValueError as error:
        raise UsageError(str(error)) from None


def _of_month(month: Column, ids: Mapping[str, str]) -> Column:
    found = F.lit(None).cast("string")
    for name, value in ids.items():
        found = F.when(month == F.lit(f"{name}-01").cast("date"), F.lit(value)).otherwise(found)
    return found


def _named(region: Column, names: Mapping[str, str]) -> Column:
    found = region
    for name, known in names.items():
        found = F.when(region == name, F.lit(known)).otherwise(found) if known else found
    return found


def _description(region_name: Column) -> Column:
    """What is charged and at which price, such as
    `qwen-plus input tokens, requests of 0-128K, China (Hangzhou): 0.000138 USD per 1000`."""
    price = F.regexp_replace(plain(F.col("price_per_1k"), PRICE.scale), r"\.?0+$", "")
    charged = ("model", F.lit(" "), "token_type", F.lit(" tokens, requests of "), "tier", F.lit(", "), region_name)
    why = F.when(F.col("entry") == ADJUSTMENT, F.concat(F.lit(" ("), F.translate("reason", "_", " "), F.lit(")")))
    words = (*charged, F.lit(": "), price, F.lit(" "), "currency", F.lit(" per 1000"), F.coalesce(why, F.lit("")))
    return F.concat(*words)


def _tags_as_json(lines: DataFrame, names: Mapping[str, str]) -> Column:
    """The bill's tags as JSON, without those that a line does not have; null if it has none."""
    keys = tag_keys(lines)
    unknown = [key for key in names if key not in keys]
    if unknown:
        raise UsageError(
            f"the ledger has no tag {', '.join(unknown)}; it is grouped by {', '.join(keys) or 'no tag at all'}"
        )
    called = {key: names.get(key, key) for key in keys}
    if len(set(called.values())) < len(called):
        raise UsageError("two tags would have the same name; a key can stand in Tags only once")
    if not keys:
        return F.lit(None)
    some = F.coalesce(*(F.col(quoted(tag_column(key))) for key in keys)).isNotNull()
    return F.when(some, _json({name: quoted(tag_column(key)) for key, name in called.items()}))


def _json(columns: Mapping[str, str]) -> Column:
    """A JSON object of text columns; those that are null are left out, whatever the session says."""
    fields = F.struct(*(F.col(column).alias(name) for name, column in columns.items()))
    return F.to_json(fields, {"ignoreNullFields": "true"})
