"""Bills that keep up with a stream: after each micro-batch the batch bill of the hours that it touches.

A micro-batch is not billed by itself. It only names hours, and these are billed from the usage table as any run bills
them, so that the ledger is at every moment what one run over the whole table would say: late rows, repeats of earlier
micro-batches and a micro-batch that is delivered twice add what they change, which may be nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Optional

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_billing.bills.sums import Pricing
from spark_billing.core.columns import hour_of
from spark_billing.core.errors import UsageError
from spark_billing.core.hours import Period, ranges
from spark_billing.core.session import settings
from spark_billing.ledger.billing import bill_table, instant_of, warn_of_rejected
from spark_billing.ledger.max_rejected import MaxRejected, max_rejected_of
from spark_billing.prices.price_list import PriceList
from spark_billing.usage.aliases import GivenAliases
from spark_billing.usage.calls import in_period, typed_calls
from spark_billing.usage.copies import IDS, CopyRule, KeepCopy
from spark_billing.usage.mapping import refuse_zoneless_times, usage_session
from spark_billing.usage.reading import Reading

# Off in the session of a stream before Spark 4.1, and of one with state since: a small bill would run in hundreds of
# empty tasks
_STREAM_SETTINGS = {"spark.sql.adaptive.enabled": "true"}


def bill_touched_hours(
    prices: PriceList,
    *,
    usage: str,
    output: Optional[str] = None,
    catalog: Optional[str] = None,
    usage_format: Optional[str] = None,
    columns: Optional[Mapping[str, str]] = None,
    call_time_zone: Optional[str] = None,
    where: Optional[str] = None,
    model_alias: GivenAliases = (),
    usage_schema: Optional[str] = None,
    max_rejected: MaxRejected = None,
    duplicates: bool = True,
    dedup_lookback: int = 24,
    keep_copy: KeepCopy = "fullest",
    source: Optional[str] = None,
    pricing: Pricing = "native",
    group_by_tags: Sequence[str] = (),
    detail: bool = False,
    as_of: Optional[str] = None,
    closed_after: Optional[int] = None,
    adjust_within: Optional[int] = None,
    allow_retractions: bool = False,
    one_writer: bool = False,
) -> Callable[[DataFrame, int], None]:
    """A function for `foreachBatch`: bills the UTC+8 hours that a micro-batch touches, from the usage table.

    The rows of the stream are rows of the table `usage`, in its columns, and must be in it when their micro-batch comes
    (a stream of the table's own files is). Touched are the hours of its calls, and with `duplicates` those within
    `dedup_lookback` hours in which the table has another copy of one of them, better or worse: only these can change.
    A call without a readable time touches no hour; it is rejected in the next period that is billed. The arguments are
    those of `bill_usage`, but for `closed_after`, which is refused: no later micro-batch names the hours again that
    are open when their calls arrive. A call dated in an hour that has not begun is counted in the record of its run,
    and not billed. `where` holds for both the stream and the table; `usage_schema` says how the table's files are read.
    A table that has versions is pinned by each run anew, to the one that is current then.
    Nothing is lost if the stream dies: a micro-batch that comes again adds what is missing. If a run rejects more rows
    than `max_rejected` says, the logger `spark_billing` warns, and the stream goes on.

    Billing needs a classic Spark session, not Spark Connect. `UsageError` if the columns do not fit; whatever the job
    refuses, such as lowering a bill, ends the stream.

    Examples
    --------
    >>> prices = PriceList.bundled("emr-serverless-spark", currency="USD")
    >>> calls = spark.readStream.schema(usage.schema).parquet(usage_path)
    >>> each = bill_touched_hours(prices, usage=usage_path, output=output)
    >>> query = calls.writeStream.foreachBatch(each).trigger(availableNow=True).start()
    >>> query.awaitTermination()
    >>> ledger_lines(spark, output).agg({"amount": "sum"}).show()
    +--------------+
    |   sum(amount)|
    +--------------+
    |0.000053080000|
    +--------------+
    """
    if closed_after is not None:
        raise UsageError(
            "closed_after would leave out the hours that are open when their calls arrive, and no later micro-batch "
            "names them again; leave it out, or bill closed hours with the job"
        )
    rule = CopyRule(dedup_lookback, keep_copy)
    table: dict[str, Any] = {
        "usage": usage,
        "usage_format": usage_format,
        "columns": dict(columns or {}),
        "call_time_zone": call_time_zone,
        "where": where,
        "model_alias": model_alias,
        "usage_schema": usage_schema,
        "max_rejected": max_rejected_of(max_rejected),
        "duplicates": duplicates,
        "dedup_lookback": dedup_lookback,
        "keep_copy": keep_copy,
        "source": source,
        "pricing": pricing,
        "group_by_tags": list(group_by_tags),
        "detail": detail,
        "as_of": instant_of(as_of, last=None, closed_after=None, adjust_within=adjust_within),
        "adjust_within": adjust_within,
        "allow_retractions": allow_retractions,
        "one_writer": one_writer,
    }
    of_batch = Reading(dict(columns or {}), call_time_zone, duplicates, where, model_alias)
    of_table = replace(of_batch, usage_format=usage_format, usage_schema=usage_schema)

    def bill_batch(batch: DataFrame, batch_id: int) -> None:
        spark = batch.sparkSession  # of the stream: what is set in it is seen by nobody else
        with settings(spark, _STREAM_SETTINGS):
            with usage_session(spark, call_time_zone):
                calls, whole = of_batch.map(batch, prices).usage, of_table.read(spark, usage, prices).usage
                hours = _hours_of_calls(calls)
                if duplicates and hours:
                    hours |= _hours_of_copies(calls, _around(hours, whole, rule.seconds))
            periods = _periods(hours)
            for period in periods:  # the better copy may lie in a later one: these runs are one, cut where hours lack
                done = bill_table(
                    spark, prices, output=output, catalog=catalog, period=period, billed_with=periods, **table
                )
                warn_of_rejected(done.record, str(output or catalog))

    return bill_batch


def _hours_of_calls(calls: DataFrame) -> set[int]:
    """The UTC+8 hours of mapped calls, in epoch seconds."""
    hour = hour_of(F.unix_seconds("call_time")).alias("hour")
    rows = typed_calls(calls, ("call_time",)).select(hour).distinct().collect()
    hours = {row["hour"] for row in rows}
    if None in hours:
        refuse_zoneless_times(calls)
    return hours - {None}


def _hours_of_copies(calls: DataFrame, around: DataFrame) -> set[int]:
    """The hours in which the usage has calls with the ids of these."""
    ids = typed_calls(calls, IDS).select(*IDS).filter(F.col("request_id") != "").distinct()
    copies = typed_calls(around, (*IDS, "call_time")).join(ids, list(IDS), "left_semi")
    return _hours_of_calls(copies)


def _around(hours: set[int], usage: DataFrame, seconds: int) -> DataFrame:
    """The usage of these hours and of so many seconds before and after each."""
    call_time, dtype = F.col("call_time"), usage.schema["call_time"].dataType
    near = F.lit(False)
    for period in _periods(hours):
        near |= in_period(call_time, dtype, (period.start - seconds) * 1_000_000, (period.end + seconds) * 1_000_000)
    return usage.filter(near)


def _periods(hours: set[int]) -> list[Period]:
    return [Period(start, end) for start, end in ranges(sorted(hours))]
