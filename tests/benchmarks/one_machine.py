"""The same bill by what one would take on one machine: DuckDB and Polars, from the same Parquet files."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Any, Optional

from spark_billing import PriceList

CORES = 2
Bills = list[tuple[Any, ...]]  # workspace, hour, calls, input tokens, output tokens, amount in 10^-12


def bands(prices: PriceList) -> tuple[list[int], list[tuple[Any, ...]]]:
    """Tier bounds of the list, and its prices by model, region and number of bounds below the tokens."""
    in_force = [p for p in prices.prices if p.effective_to is None]  # generated calls are after every change of price
    bounds = sorted({b for p in in_force for b in (p.min_input_tokens, p.max_input_tokens)})
    rows = [
        (p.model, p.region, band, p.input_pico_per_token, p.output_pico_per_token or 0)
        for p in in_force
        for band in range(bounds.index(p.min_input_tokens) + 1, bounds.index(p.max_input_tokens) + 1)
    ]
    return bounds, rows


def duckdb_bills(path: str, prices: PriceList, *, distinct: bool, config: Optional[Mapping[str, Any]] = None) -> Bills:
    import duckdb

    bounds, rows = bands(prices)
    session = duckdb.connect(config={"threads": CORES, **(config or {})})
    session.execute("create table prices (model text, region text, band int, i bigint, o bigint)")
    session.executemany("insert into prices values (?, ?, ?, ?, ?)", rows)
    band = " + ".join(f"(input_tokens > {bound})::int" for bound in bounds)
    picked = "distinct on (workspace_id, request_id) *" if distinct else "*"
    return session.execute(
        f"""select workspace_id, epoch_us(call_time) // 3600000000 * 3600, count(*), sum(input_tokens)::bigint,
            sum(coalesce(output_tokens, 0))::bigint, sum(input_tokens * i + coalesce(output_tokens, 0) * o)
        from (select {picked}, {band} as band from read_parquet('{path}/*.parquet'))
        join prices using (model, region, band) group by all"""
    ).fetchall()


def polars_bills(path: str, prices: PriceList, *, distinct: bool) -> Bills:
    import polars as pl

    bounds, rows = bands(prices)
    listed = pl.LazyFrame(rows, schema=["model", "region", "band", "i", "o"], orient="row")
    tokens, output = pl.col("input_tokens"), pl.col("output_tokens").fill_null(0)
    calls = pl.scan_parquet(f"{path}/*.parquet")
    if distinct:
        calls = calls.unique(subset=["workspace_id", "request_id"], keep="any")
    band = reduce(lambda a, b: a + b, [(tokens > bound).cast(pl.Int64) for bound in bounds])
    hour = pl.col("call_time").cast(pl.Int64) // 3_600_000_000 * 3600
    if calls.collect_schema()["call_time"].time_unit == "ns":  # Spark's INT96
        hour = pl.col("call_time").cast(pl.Int64) // 3_600_000_000_000 * 3600
    bills = (
        calls.with_columns(band.alias("band"), hour.alias("hour"))
        .join(listed, on=["model", "region", "band"])
        .group_by("workspace_id", "hour")
        .agg(pl.len(), tokens.sum(), output.sum(), (tokens * pl.col("i") + output * pl.col("o")).sum().alias("pico"))
    )
    return bills.collect(engine="streaming").rows()
