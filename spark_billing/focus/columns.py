"""The columns and types of FOCUS rows, in its versions 1.2 and 1.4."""

from __future__ import annotations

from pyspark.sql.types import DataType, LongType, StringType, TimestampType

from spark_billing.core.schemas import AMOUNT, PRICE, THOUSANDS, TOKENS, struct

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
    "x_Ledger": StringType(),  # what the rows were made from, such as `run 12 of bills`
    "x_Model": StringType(),
    "x_Reason": StringType(),
    "x_Requests": LongType(),
    "x_Run": LongType(),
    "x_Tier": StringType(),
    "x_TokenType": StringType(),
}

# The rows of each version of FOCUS: its columns in alphabetical order, then our own
FOCUS = {
    version: struct(**dict(sorted({**_FOCUS, **dict.fromkeys(names, StringType())}.items())), **_FOCUS_OWN)
    for version, names in _FOCUS_OF_VERSION.items()
}
