"""The columns and types of usage, bill lines, bills and ledger lines: the contract of the package in one place."""

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
COST = DecimalType(18, 12)  # of one request, which stays below `price.COST_LIMIT`
AMOUNT = DecimalType(38, 12)  # of any number of requests
TOTAL_TOKENS = DecimalType(38, 0)  # of a whole table
TOKENS = DecimalType(19, 0)  # a bigint as a decimal
THOUSANDS = DecimalType(19, 3)  # of tokens: THOUSANDS x PRICE is AMOUNT, exactly


def struct(**types: DataType) -> StructType:
    return StructType([StructField(name, dtype) for name, dtype in types.items()])


USAGE = struct(
    request_id=StringType(),
    workspace_id=StringType(),
    region=StringType(),
    model=StringType(),
    call_time=TimestampType(),
    input_tokens=LongType(),
    output_tokens=LongType(),
)

TAGS = MapType(StringType(), StringType())  # of the optional usage column `tags`
PRICED = struct(price_id=StringType(), tier=StringType(), input_cost=COST, output_cost=COST, cost=COST)

BILL_LINES = struct(
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

LINE_MEASURES = ("requests", "tokens", "amount")  # of a line, which add up: `columns.sums_of_lines`

LEDGER_LINES = struct(
    **{field.name: field.dataType for field in BILL_LINES.fields},
    entry=StringType(),  # `difference.ORIGINAL` or `difference.ADJUSTMENT`
    reason=StringType(),  # of an adjustment: one of `difference.ADJUSTMENT_REASONS`
    run=LongType(),
    run_at=TimestampType(),
    run_id=StringType(),
)

LEFT_OUT = struct(
    workspace_id=StringType(),
    region=StringType(),
    model=StringType(),
    period_start=TimestampType(),
    billing_date=DateType(),
    rival_at=TimestampType(),  # the hour of the copies that they are left out for
    requests=LongType(),
    input_tokens=LongType(),
    output_tokens=LongType(),  # of what the list bills
    amount=AMOUNT,
    beaten=LongType(),  # calls in the hour rival_at that are left out for those of this hour
    run=LongType(),
    run_id=StringType(),
)  # of a run, what it changes: the sum of all rows of a workspace and hour is what is left out there as a conflict

BILLS = struct(
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
