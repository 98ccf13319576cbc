"""The columns and types of a provider's bill and of its comparison with ours."""

from __future__ import annotations

from pyspark.sql.types import DecimalType, LongType, StringType, TimestampType

from spark_billing.core.schemas import AMOUNT, PRICE, TOTAL_TOKENS, struct

ADDEND = DecimalType(28, 12)  # an amount that is to be added up: the sum has ten digits more, which is AMOUNT

PROVIDER_BILL = struct(  # without the columns among workspace_id to tokens that a provider's bill does not tell
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

RECONCILIATION = struct(
    period_start=TimestampType(),
    period_end=TimestampType(),
    workspace_id=StringType(),
    region=StringType(),
    model=StringType(),
    token_type=StringType(),
    tier=StringType(),
    cause=StringType(),  # one of `causes.CAUSES`
    our_tokens=TOTAL_TOKENS,
    provider_tokens=TOTAL_TOKENS,
    our_price_per_1k=PRICE,  # null where there are several
    provider_price_per_1k=PRICE,
    our_amount=AMOUNT,
    provider_amount=AMOUNT,
    difference=AMOUNT,  # of this cause: provider - ours
    currency=StringType(),
)
