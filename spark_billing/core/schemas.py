"""The columns and types of every stage: the contract of the package in one place."""

from __future__ import annotations

from pyspark.sql.types import (
    DataType,
    DateType,
    DecimalType,
    IntegerType,
    LongType,
    MapType,
    StringType,
    StructField,
    StructType,
    TimestampType,
)

PRICE = DecimalType(18, 9)  # of 1,000 tokens
COST = DecimalType(18, 12)  # of one request; see price_list.COST_LIMIT
AMOUNT = DecimalType(38, 12)  # of any number of requests
TOTAL_TOKENS = DecimalType(38, 0)  # of a whole table
TOKENS = DecimalType(19, 0)  # a bigint as a decimal
THOUSANDS = DecimalType(19, 3)  # of tokens: THOUSANDS x PRICE is AMOUNT, exactly


def _columns(**types: DataType) -> StructType:
    return StructType([StructField(name, dtype) for name, dtype in types.items()])


USAGE = _columns(
    request_id=StringType(),
    workspace_id=StringType(),
    region=StringType(),
    model=StringType(),
    call_time=TimestampType(),
    input_tokens=LongType(),
    output_tokens=LongType(),
)
TAGS = MapType(StringType(), StringType())  # of the optional usage column `tags`

PRICED = _columns(price_id=StringType(), tier=StringType(), input_cost=COST, output_cost=COST, cost=COST)

BILL_LINES = _columns(
    workspace_id=StringType(),
    region=StringType(),
    model=StringType(),
    period_start=TimestampType(),
    period_end=TimestampType(),
    billing_date=DateType(),
    billing_hour=IntegerType(),
    token_type=StringType(),
    tier=StringType(),
    price_id=StringType(),
    currency=StringType(),
    requests=LongType(),
    tokens=LongType(),
    price_per_1k=PRICE,
    amount=AMOUNT,
)  # and one string column tag_KEY for each tag that the bill is grouped by

LEDGER_LINES = _columns(
    **{field.name: field.dataType for field in BILL_LINES.fields},
    entry=StringType(),  # ledger.ORIGINAL or ledger.ADJUSTMENT
    reason=StringType(),  # of an adjustment: ledger.ADJUSTMENT_REASONS
    run=LongType(),
    run_at=TimestampType(),
    run_id=StringType(),
)

_FOCUS: dict[str, DataType] = {
    "BilledCost": AMOUNT,
    "BillingAccountId": StringType(),
    "BillingAccountName": StringType(),
    "BillingCurrency": StringType(),
    "BillingPeriodEnd": TimestampType(),
    "BillingPeriodStart": TimestampType(),
    "ChargeCategory": StringType(),
    "ChargeClass": StringType(),
    "ChargeDescription": StringType(),
    "ChargeFrequency": StringType(),
    "ChargePeriodEnd": TimestampType(),
    "ChargePeriodStart": TimestampType(),
    "CommitmentDiscountStatus": StringType(),  # null: model calls know no commitments, but rules of others refer to it
    "ConsumedQuantity": TOKENS,
    "ConsumedUnit": StringType(),
    "ContractedCost": AMOUNT,
    "ContractedUnitPrice": PRICE,
    "EffectiveCost": AMOUNT,
    "InvoiceId": StringType(),
    "InvoiceIssuerName": StringType(),
    "ListCost": AMOUNT,
    "ListUnitPrice": PRICE,
    "PricingCategory": StringType(),
    "PricingCurrency": StringType(),
    "PricingCurrencyContractedUnitPrice": PRICE,
    "PricingCurrencyEffectiveCost": AMOUNT,
    "PricingCurrencyListUnitPrice": PRICE,
    "PricingQuantity": THOUSANDS,
    "PricingUnit": StringType(),
    "RegionId": StringType(),
    "RegionName": StringType(),
    "ResourceId": StringType(),
    "ResourceName": StringType(),
    "ResourceType": StringType(),
    "ServiceCategory": StringType(),
    "ServiceName": StringType(),
    "ServiceSubcategory": StringType(),
    "SkuId": StringType(),
    "SkuMeter": StringType(),
    "SkuPriceDetails": StringType(),  # JSON
    "SkuPriceId": StringType(),
    "SubAccountId": StringType(),
    "SubAccountName": StringType(),
    "Tags": StringType(),  # JSON
}
_FOCUS_OF_VERSION = {
    "1.2": ("ProviderName", "PublisherName"),
    "1.4": ("HostProviderName", "InvoiceDetailId", "ServiceProviderName"),
}
_FOCUS_OWN: dict[str, DataType] = {
    "x_BillingHour": StringType(),  # in UTC+8, such as 2026-04-08T10
    "x_Entry": StringType(),
    "x_Model": StringType(),
    "x_Reason": StringType(),
    "x_Requests": LongType(),
    "x_Run": LongType(),
    "x_Tier": StringType(),
    "x_TokenType": StringType(),
}
# The rows of each version of FOCUS: its columns in alphabetical order, then our own
FOCUS = {
    version: _columns(**dict(sorted({**_FOCUS, **dict.fromkeys(names, StringType())}.items())), **_FOCUS_OWN)
    for version, names in _FOCUS_OF_VERSION.items()
}

BILLS = _columns(
    workspace_id=StringType(),
    period_start=TimestampType(),
    period_end=TimestampType(),
    billing_date=DateType(),
    billing_hour=IntegerType(),
    currency=StringType(),
    requests=LongType(),
    input_tokens=LongType(),
    output_tokens=LongType(),
    amount=AMOUNT,
)

PROVIDER_BILL = _columns(  # without the columns among workspace_id to tokens that a provider's bill does not tell
    period_start=TimestampType(),
    period_end=TimestampType(),
    workspace_id=StringType(),
    region=StringType(),
    model=StringType(),
    token_type=StringType(),
    tier=StringType(),
    tokens=LongType(),
    price_per_1k=PRICE,
    amount=AMOUNT,  # by the list price
    discount=AMOUNT,
    vouchers=AMOUNT,
    currency=StringType(),
)

RECONCILIATION = _columns(
    period_start=TimestampType(),
    period_end=TimestampType(),
    workspace_id=StringType(),
    region=StringType(),
    model=StringType(),
    token_type=StringType(),
    tier=StringType(),
    cause=StringType(),  # reconciliation.CAUSES
    our_tokens=TOTAL_TOKENS,
    provider_tokens=TOTAL_TOKENS,
    our_price_per_1k=PRICE,  # null where there are several
    provider_price_per_1k=PRICE,
    our_amount=AMOUNT,
    provider_amount=AMOUNT,
    difference=AMOUNT,  # of this cause: provider - ours
    currency=StringType(),
)

RUN = StructField("run", LongType())  # of a written table: the run at which the row stands

REJECT_REASONS = (  # the first that applies, in this order
    "missing_request_id",
    "missing_workspace_id",
    "missing_region",
    "missing_model",
    "missing_call_time",
    "invalid_input_tokens",
    "invalid_output_tokens",
    "unknown_model",
    "unknown_region",
    "no_price_in_force",
    "input_tokens_out_of_range",
    "duplicate_request",
    "conflicting_request",
)

SECONDS_PER_HOUR = 3600
UTC8_SECONDS = 8 * SECONDS_PER_HOUR  # the provider's billing cycles are clock hours in UTC+8, which has no summer time
