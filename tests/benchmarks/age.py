"""What a run costs on an old ledger: runs of an hourly job that change nothing, after 10, 1,000 and 10,000 runs.

Each run of the ledger has billed one new hour, and read the 48 hours before it again. The ledgers are written directly,
as so many runs would have left them: lines, records, the last checkpoint, and the published tables. Then the job runs
on each in turn. It must find that nothing has changed, and what the 48 hours come to.

    uv run --group benchmarks python -m tests.benchmarks.age --runs 10 1000 10000 --data /tmp/ledgers
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Optional

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_billing import PriceList, bill_lines, hourly_bills
from spark_billing.core.hours import SECONDS_PER_HOUR, Period, hour_label, instant_label, parse_hour
from spark_billing.core.money import add
from spark_billing.core.schemas import BILL_LINES
from spark_billing.core.session import local_session
from spark_billing.core.storage import Storage
from spark_billing.ledger.billing import bill_table
from spark_billing.ledger.folder_ledger import CHECKPOINTS, RUNS, FolderLedger
from spark_billing.ledger.line_sums import sums_by_hour
from spark_billing.ledger.numbered import numbered_name
from spark_billing.ledger.run_record import LINES, AddedLines, LineSums, RunRecord, SeenHours, Totals, UsedPrices
from spark_billing.ledger.summed_runs import EVERY, SummedRuns
from tests.benchmarks.one_machine import CORES
from tests.benchmarks.rounds import ratio, report, spread

LAST = parse_hour("2027-06-01T00")  # the newest hour of each ledger
AGAIN = 48  # hours that each run reads again
CALLS, WORKSPACES = 200, 20  # an hour
SOURCE = "the log"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, nargs="+", default=[10, 1_000, 10_000], help="how many each ledger has")
    parser.add_argument("--data", type=Path, required=True, help="folder of the ledgers, which are made if not there")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where the figures go as JSON")
    arguments = parser.parse_args()

    settings = {"spark.master": f"local[{CORES}]", "spark.driver.memory": "4g", "spark.sql.session.timeZone": "UTC"}
    spark = local_session("benchmark", settings)
    prices = PriceList.bundled("emr-serverless-spark", currency="USD")
    usage = str(arguments.data / "usage")
    calls(spark, AGAIN).coalesce(2).write.mode("overwrite").parquet(usage)
    outputs = {runs: str(arguments.data / f"runs-{runs}") for runs in arguments.runs}
    for runs, output in outputs.items():
        if not (arguments.data / f"runs-{runs}" / RUNS).exists():
            make(spark, prices, runs, output)

    period = Period(LAST - (AGAIN - 1) * SECONDS_PER_HOUR, LAST + SECONDS_PER_HOUR)
    seconds: dict[str, dict[int, list[float]]] = {"run": {}, "open": {}}
    expected = None
    for turn in range(arguments.rounds + 1):  # the first is the warm-up
        for runs, output in outputs.items():
            start = time.perf_counter()
            FolderLedger.open(Storage(spark, output))
            opened = time.perf_counter()
            outcome = bill_table(
                spark, prices, usage=usage, output=output, source=SOURCE, period=period, as_of=period.end
            )
            ended = time.perf_counter()
            totals = outcome.record.totals
            expected = expected or totals.amount
            if outcome.record.ledger.hours or outcome.record.run <= runs:
                raise SystemExit(f"run {outcome.record.run} on {runs} runs added {outcome.record.ledger.reasons}")
            if (totals.rows["billed"], totals.amount) != (AGAIN * CALLS, expected):
                raise SystemExit(f"{runs} runs: billed {totals.rows['billed']} calls, {totals.amount}")
            for what, took in (("run", ended - opened), ("open", opened - start)):
                print(f"{runs:,} runs: {what} {took:.2f} s", file=sys.stderr)
                if turn:
                    seconds[what].setdefault(runs, []).append(took)
    first = arguments.runs[0]
    rows = [
        {"": f"{what}, {runs:,} runs", **spread(times), "to the first": ratio(times, of[first])}
        for what, of in seconds.items()
        for runs, times in of.items()
    ]
    report(rows, {"Spark": spark.version, "cores": CORES, "rounds": arguments.rounds}, arguments.json)
    return 0


def calls(spark: SparkSession, hours: int) -> DataFrame:
    """The calls of the last hours up to `LAST`; those of an hour are the same for any number of hours."""
    number = F.col("id")  # backwards
    seconds = F.lit(LAST) - F.floor(number / CALLS) * SECONDS_PER_HOUR + number % CALLS
    return spark.range(hours * CALLS).select(
        number.cast("string").alias("request_id"),
        F.concat(F.lit("w-"), (number % WORKSPACES).cast("string")).alias("workspace_id"),
        F.lit("cn-hangzhou").alias("region"),
        F.lit("qwen-plus").alias("model"),
        F.timestamp_seconds(seconds).alias("call_time"),
        (number % 2000 + 1).alias("input_tokens"),
        (number % 500).alias("output_tokens"),
    )


def make(spark: SparkSession, prices: PriceList, runs: int, output: str) -> None:
    """A ledger of so many runs: the first has billed 48 hours, and each after it one more."""
    print(f"making a ledger of {runs:,} runs", file=sys.stderr)
    first = LAST - (runs + AGAIN - 2) * SECONDS_PER_HOUR
    hour = F.floor((F.unix_seconds("period_start") - first) / SECONDS_PER_HOUR)
    run = F.greatest(F.lit(1), hour - (AGAIN - 2)).cast("bigint")
    ended = F.timestamp_seconds(F.lit(first) + (run + (AGAIN - 1)) * SECONDS_PER_HOUR)
    stamp = F.date_format(ended, "yyyyMMdd'T'HHmmss'Z'")
    usage = calls(spark, runs + AGAIN - 1)
    lines = bill_lines(usage, prices=prices, duplicates=False).withColumns(
        {
            "entry": F.lit("original"),
            "reason": F.lit(None).cast("string"),
            "run": run,
            "run_at": ended,
            "run_id": F.concat(stamp, F.lit("-"), F.lpad(F.hex(run), 8, "0"), F.lit("-1")),
        }
    )
    lines = lines.persist()
    by_run = lines.repartition(2 * CORES, "run_id").sortWithinPartitions("run_id", "billing_date", "period_start")
    by_run.write.partitionBy("run_id", "billing_date").parquet(f"{output}/{LINES}")
    published = lines.select(*BILL_LINES.fieldNames(), F.lit(runs).cast("bigint").alias("run")).repartition(
        2 * CORES, "billing_date"
    )
    published.write.partitionBy("billing_date").parquet(f"{output}/bill_lines")
    bills = hourly_bills(published).withColumn("run", F.lit(runs).cast("bigint")).repartition(2 * CORES, "billing_date")
    bills.write.partitionBy("billing_date").parquet(f"{output}/bills")
    of_hours = sums_by_hour(lines)
    lines.unpersist()

    storage, parent, texts = Storage(spark, output), None, []
    Path(output, RUNS).mkdir(parents=True)
    for number in range(1, runs + 1):
        record = record_of(prices, number, parent, first, of_hours)
        text, parent = record.to_json(), record.run_id
        Path(output, RUNS, numbered_name(number)).write_text(text, encoding="utf-8")
        texts.append((record, text))
    checkpointed = texts[: runs - runs % EVERY]
    if checkpointed:
        storage.create(f"{CHECKPOINTS}/{numbered_name(len(checkpointed))}", SummedRuns().after(checkpointed).to_text())
    ledger = FolderLedger.open(storage)
    if ledger.runs.count != runs or ledger.lines(list(ledger.runs.lines)[:3]) is None:
        raise SystemExit(f"the ledger of {runs} runs was made wrong")


def record_of(
    prices: PriceList,
    number: int,
    parent: Optional[str],
    first: int,
    of_hours: Mapping[int, Mapping[str, LineSums]],
) -> RunRecord:
    end = first + (number + AGAIN - 1) * SECONDS_PER_HOUR
    period = Period(end - AGAIN * SECONDS_PER_HOUR, end)
    added = range(period.start if number == 1 else end - SECONDS_PER_HOUR, end, SECONDS_PER_HOUR)
    lines = AddedLines.of({hour: of_hours[hour] for hour in added})
    tokens = {"read": 9_600_000, "billed": 9_600_000, "rejected": 0, "charged": 9_600_000}
    stamp = datetime.fromtimestamp(end, timezone.utc)
    return RunRecord(
        run=number,
        run_id=f"{stamp:%Y%m%dT%H%M%SZ}-{number:08X}-1",
        parent=parent,
        started_at=stamp.isoformat(),
        committed_at=stamp.isoformat(),
        as_of=instant_label(end),
        spark_version="4.1.1",
        source=SOURCE,
        arguments={"usage": "oss://bucket/usage", "last": AGAIN, "pricing": "native", "duplicates": True},
        tag_columns=[],
        price_list=UsedPrices(prices.name, prices.version, prices.currency, prices.tokens_per_k, prices.sha256),
        period=period,
        hours=SeenHours(AGAIN, hour_label(period.start), hour_label(end - SECONDS_PER_HOUR)),
        totals=Totals({"read": AGAIN * CALLS, "billed": AGAIN * CALLS, "rejected": 0}, {}, tokens, tokens,
                      add(*(sums.amount for sums in lines.hours.values())), prices.currency),
        covered=[(period.start, period.end)],
        left_out={},
        ledger=lines,
        not_adjusted=AddedLines(),
        staging=f"_staging/{stamp:%Y%m%dT%H%M%SZ}-{number:08X}/1",
    )  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
