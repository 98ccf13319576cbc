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
