"""Times a bill of one generated usage table: ours, what else one would write in Spark, DuckDB and Polars.

Every contestant gives the bill of each workspace and hour (or the total of the costs), and all must be equal before
anything is timed. Then the contestants take turns, so that a slow minute of the machine hits them all.

    uv run --group benchmarks python -m tests.benchmarks.bills --rows 10000000 --data /tmp/usage

It prints the table of its README, and with --json writes the same figures there.
"""

from __future__ import annotations

import argparse
import sys
import time
from decimal import Decimal
from pathlib import Path
from typing import Any, Callable

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import DecimalType

from spark_billing import PriceList, bill_lines, hourly_bills, model_call_cost, price_calls
from spark_billing.core.session import local_session
from spark_billing.prices.price import MAX_TOKENS
from tests.benchmarks.generate import generated
from tests.benchmarks.one_machine import CORES, duckdb_bills, polars_bills
from tests.benchmarks.rounds import ratio, report, spread

PICO = Decimal("0.000000000001")
FLOOR = "floor: count and sum tokens, no prices"


class Contest:
    """The contestants on one table. Those in Spark give a DataFrame, the others the bills themselves."""

    def __init__(self, spark: SparkSession, path: str, rows: int) -> None:
        self.spark, self.path, self.rows = spark, path, rows
        self.usage = spark.read.parquet(path)
        self.prices = PriceList.bundled("emr-serverless-spark", currency="USD")
        seconds = F.unix_seconds("call_time")
        self.hour = (seconds - F.pmod(seconds, F.lit(3600))).alias("hour")
        # the generated calls are all after the start of commercial billing
        self.in_force = [p for p in self.prices.prices if p.effective_to is None]

    def contestants(self) -> dict[str, tuple[str, Callable[[], Any]]]:
        """By name: what its answer is compared as, and the contestant."""
        return {
            FLOOR: ("calls", self.floor),
            "bill_lines(usage, duplicates=False)": ("lines", lambda: self.lines(duplicates=False)),
            "bill_lines(usage)": ("lines", self.lines),
            "bill_lines(usage, duplicates=False, pricing='udf')": (
                "lines",
                lambda: self.lines(duplicates=False, pricing="udf"),
            ),
            "CASE, decimal per request, group by": ("bills", lambda: self.by_hand(self.usage)),
            "dropDuplicates, range join, decimals": ("bills", self.drop_duplicates),
            "price_calls(usage), summed": ("cost", self.native_cost),
            "model_call_cost, summed": ("cost", self.udf_cost),
            "cost of each call: pandas UDF of Decimals": ("cost", self.pandas_cost),
            "cost of each call: plain udf": ("cost", self.plain_cost),
            "DuckDB": ("bills", lambda: duckdb_bills(self.path, self.prices, distinct=False)),
            "DuckDB, distinct": ("bills", lambda: duckdb_bills(self.path, self.prices, distinct=True)),
            "Polars": ("bills", lambda: polars_bills(self.path, self.prices, distinct=False)),
            "Polars, distinct": ("bills", lambda: polars_bills(self.path, self.prices, distinct=True)),
        }

    # --- ours --------------------------------------------------------------------------------------------------------

    def floor(self) -> DataFrame:
        sums = [F.count(F.lit(1)).alias("calls"), F.sum("input_tokens"), F.sum("output_tokens")]
        return self.usage.groupBy("workspace_id", self.hour, "model", "region").agg(*sums)

    def lines(self, **options: Any) -> DataFrame:
        return bill_lines(self.usage, prices=self.prices, **options)

    def native_cost(self) -> DataFrame:
        return price_calls(self.usage, prices=self.prices).agg(F.sum("cost"))

    def udf_cost(self) -> DataFrame:
        return self.usage.agg(F.sum(model_call_cost(self.prices)(*_CALL)))

    # --- what a Spark engineer would write ---------------------------------------------------------------------------

    def by_hand(self, usage: DataFrame) -> DataFrame:
        cost = F.lit(None).cast("decimal(38,12)")
        for p in self.in_force:
            ours = (F.col("model") == p.model) & (F.col("region") == p.region)
            ours &= (F.col("input_tokens") > p.min_input_tokens) & (F.col("input_tokens") <= p.max_input_tokens)
            cost = F.when(ours, _cost(F.lit(p.input_pico_per_token), F.lit(p.output_pico_per_token or 0))).otherwise(
                cost
            )
        return self._summed(usage.withColumn("cost", cost))

    def drop_duplicates(self) -> DataFrame:
        p = [(p.model, p.region, p.min_input_tokens, p.max_input_tokens, p.input_pico_per_token,
              p.output_pico_per_token or 0) for p in self.in_force]  # fmt: skip
        names = "price_model string, price_region string, above long, up_to long, input_pico long, output_pico long"
        rows = F.broadcast(self.spark.createDataFrame(p, names))
        usage = self.usage.dropDuplicates(["workspace_id", "request_id"])
        at = (usage.model == rows.price_model) & (usage.region == rows.price_region)
        at &= (usage.input_tokens > rows.above) & (usage.input_tokens <= rows.up_to)
        return self._summed(usage.join(rows, at).withColumn("cost", _cost(F.col("input_pico"), F.col("output_pico"))))

    def _summed(self, priced: DataFrame) -> DataFrame:
        calls = F.count(F.lit(1)).cast("bigint").alias("requests")
        sums = [calls, F.sum("input_tokens"), F.coalesce(F.sum("output_tokens"), F.lit(0)), F.sum("cost")]
        return priced.groupBy("workspace_id", self.hour).agg(*sums)

    def pandas_cost(self) -> DataFrame:
        import pandas as pd
        from pyspark.sql.functions import pandas_udf

        tiers = self._lookup()

        def price(model: pd.Series, region: pd.Series, tokens: pd.Series, output: pd.Series) -> pd.Series:
            calls = zip(model, region, tokens, output.fillna(0))
            return pd.Series([_one(tiers, m, r, int(i), int(o)) for m, r, i, o in calls])

        price.__annotations__ = dict.fromkeys(("model", "region", "tokens", "output", "return"), pd.Series)
        return self.usage.agg(F.sum(pandas_udf(price, DecimalType(18, 12))(*_CALL[:4])))

    def plain_cost(self) -> DataFrame:
        tiers = self._lookup()
        price = F.udf(lambda m, r, i, o: _one(tiers, m, r, i, o or 0), DecimalType(18, 12), useArrow=False)
        return self.usage.agg(F.sum(price(*_CALL[:4])))

    def _lookup(self) -> dict[tuple[str, str], list[tuple[int, int, int]]]:
        found: dict[tuple[str, str], list[tuple[int, int, int]]] = {}
        for p in self.in_force:
            found.setdefault((p.model, p.region), []).append(
                (p.max_input_tokens, p.input_pico_per_token, p.output_pico_per_token or 0)
            )
        return {key: sorted(tiers) for key, tiers in found.items()}


_CALL = ("model", "region", "input_tokens", "output_tokens", "call_time")


def _cost(input_pico: Column, output_pico: Column) -> Column:
    """Tokens x price as a decimal, from prices of one token in 10^-12."""

    def charge(tokens: Column, pico: Column) -> Column:
        price = (pico.cast("decimal(9,0)") * F.lit(PICO)).cast("decimal(12,12)")
        return F.coalesce(tokens, F.lit(0)).cast("decimal(10,0)") * price

    return (charge(F.col("input_tokens"), input_pico) + charge(F.col("output_tokens"), output_pico)).cast(
        "decimal(18,12)"
    )


def _one(tiers: dict[tuple[str, str], list[tuple[int, int, int]]], model: str, region: str, i: int, o: int) -> Decimal:
    if not 0 < i <= MAX_TOKENS:
        raise ValueError(i)
    for top, input_pico, output_pico in tiers[model, region]:
        if i <= top:
            return (i * input_pico + o * output_pico) * PICO
    raise ValueError(i)


def answer(kind: str, result: Any) -> Any:
    """What a contestant found, in one form for all."""
    if kind == "calls":
        return result.agg(F.sum("calls")).collect()[0][0]
    if kind == "cost":
        return result.collect()[0][0]
    if kind == "lines":
        hour = F.unix_seconds("period_start").alias("hour")
        bills = hourly_bills(result)
        result = bills.select("workspace_id", hour, "requests", "input_tokens", "output_tokens", "amount")
    rows = [tuple(row) for row in (result.collect() if isinstance(result, DataFrame) else result)]
    exact = [(*row[:5], row[5] if isinstance(row[5], Decimal) else row[5] * PICO) for row in rows]
    return sorted((w, int(h), int(n), int(i), int(o), a) for w, h, n, i, o, a in exact)


def run(contestant: Callable[[], Any]) -> float:
    """Seconds until the last row of the answer is there."""
    start = time.perf_counter()
    result = contestant()
    if isinstance(result, DataFrame):
        result.write.format("noop").mode("overwrite").save()
    return time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000, help="calls in the table (default 10 million)")
    parser.add_argument("--order", choices=("time", "random"), default="time", help="order of the rows (generate.py)")
    parser.add_argument("--data", type=Path, required=True, help="folder of the generated tables")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these contestants, and the floor")
    parser.add_argument("--json", type=Path, help="where the figures go as JSON")
    arguments = parser.parse_args()

    spark = local_session("benchmark", {"spark.master": f"local[{CORES}]", "spark.driver.memory": "8g"})
    contest = Contest(spark, generated(spark, arguments.data, arguments.rows, arguments.order), arguments.rows)
    chosen = {
        name: entry
        for name, entry in contest.contestants().items()
        if name == FLOOR or not arguments.only or name in arguments.only
    }
    answers: dict[str, Any] = {}
    for name, (kind, contestant) in chosen.items():  # also the warm-up
        print(f"checking {name}", file=sys.stderr)
        found = answer(kind, contestant())
        if answers.setdefault("bills" if kind == "lines" else kind, found) != found:
            print(f"{name}: not the same answer as the others", file=sys.stderr)
            return 1
    if answers["calls"] != arguments.rows:
        return 1
    bills = answers.get("bills")
    if bills and "cost" in answers and sum(bill[5] for bill in bills) != answers["cost"]:
        print("the costs of the calls do not add up to the bills", file=sys.stderr)
        return 1

    seconds: dict[str, list[float]] = {name: [] for name in chosen}
    for turn in range(arguments.rounds):
        for name, (_, contestant) in chosen.items():
            seconds[name].append(run(contestant))
            print(f"round {turn + 1}: {seconds[name][-1]:7.2f} s  {name}", file=sys.stderr)
    rows = [{"": name, **spread(times), "to floor": ratio(times, seconds[FLOOR])} for name, times in seconds.items()]
    measured = {"calls": arguments.rows, "order": arguments.order, "Spark": spark.version, "cores": CORES}
    report(rows, measured, arguments.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
