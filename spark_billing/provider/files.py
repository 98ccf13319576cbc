"""A provider's bill read as it is: CSV, Parquet, a table, or the JSON pages of DescribeInstanceBill, each page once."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Optional

from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_billing.core.columns import quoted
from spark_billing.core.errors import ProviderBillError
from spark_billing.core.text import printable


def read_bill(spark: SparkSession, path: str, file_format: Optional[str] = None) -> DataFrame:
    """A provider's bill as it is: CSV with a header, JSON (rows, or responses of DescribeInstanceBill), Parquet or a
    catalog table (`table`); by default what the name ends with. Text stays text, so that no amount becomes a float.

    JSON is read by the driver: pages of a bill, not of a usage table. `ProviderBillError` if it cannot be read, or if
    two files have the same row: a bill by the day beside that of its month would bill everything twice.
    """
    kind = file_format or ("json" if re.search(r"\.(json|jsonl|ndjson)/?\Z", path.lower()) else None)
    kind = kind or ("csv" if path.lower().rstrip("/").endswith(".csv") else "parquet")
    try:
        if kind == "json":
            files = spark.read.text(path, wholetext=True).select(F.input_file_name(), "value").collect()
            return _rows_of_json(spark, path, [(str(name), str(text)) for name, text in files])
        if kind == "csv":
            reader = spark.read.options(header=True, escape='"', multiLine=True, mode="FAILFAST")
            # files whose headers differ are not read by position
            frame = reader.csv(path, enforceSchema=False)
        else:
            frame = spark.table(path) if kind == "table" else spark.read.parquet(path)
        _ = frame.schema  # Spark Connect looks no earlier
        if kind != "table":  # a table's files are nobody's but Spark's
            _refuse_rows_in_two_files(path, frame)
    except PySparkException as error:
        reason = str(error).splitlines()[0]
        raise ProviderBillError(f"cannot read the provider's bill {path!r} as {kind}: {reason}") from None
    return frame


def _refuse_rows_in_two_files(path: str, frame: DataFrame) -> None:
    """Of files without pages, which have no count of their own: a row is in one of them."""
    if len(frame.inputFiles()) < 2:
        return
    rows = frame.select(F.to_json(F.struct("*")).alias("shown"), F.input_file_name().alias("file"))
    of_row = rows.groupBy("shown").agg(F.min("file").alias("one"), F.max("file").alias("other"))
    twice = of_row.filter("one <> other")
    first = twice.orderBy("one", "other", "shown").first()
    if first is not None:
        raise _twice(path, first["one"], first["other"], twice.count(), first["shown"])


def _twice(path: str, one: str, other: str, rows: int, shown: str) -> ProviderBillError:
    return ProviderBillError(
        f"the provider's bill {path!r} has {rows:,} rows in two files, such as {one} and {other}: "
        f"{printable(shown, 300)}. What was billed once would be compared twice. Give each row once, such as by one "
        "bill of the month or one of each day; if both are meant, give them as one file"
    )


def _rows_of_json(spark: SparkSession, path: str, files: Sequence[tuple[str, str]]) -> DataFrame:
    """Rows as text: one after the other, in a list, or in the pages that DescribeInstanceBill gives."""
    rows: list[Any] = []
    pages: list[_Page] = []
    in_files: dict[str, set[str]] = {}
    for name, text in files:
        for at, document in enumerate(_documents(path, text), start=1):
            found = _items_of(document)
            rows += found
            data = _page_data(document)
            if data is not None:
                pages.append(_Page(name if at == 1 else f"{name} (its document {at})", data, found))
            for row in found:
                in_files.setdefault(_row_text(row), set()).add(name)
    for row in rows:
        if not isinstance(row, dict):
            raise ProviderBillError(f"the provider's bill {path!r} has {row!r} where a row was needed")
    names = list(dict.fromkeys(name for row in rows for name in row))
    if not names:
        raise ProviderBillError(f"the provider's bill {path!r} has no row")
    whole = _require_each_page_once(path, pages)
    twice = [row for row, names_of_row in in_files.items() if len(names_of_row) > 1 and row not in whole]
    if twice:
        one, other = sorted(in_files[twice[0]])[:2]
        raise _twice(path, one, other, len(twice), twice[0])
    schema = ", ".join(f"{quoted(name)} string" for name in names)
    return spark.createDataFrame([tuple(_text_of_value(row.get(name)) for name in names) for row in rows], schema)


def _documents(path: str, text: str) -> Iterator[Any]:
    decoder = json.JSONDecoder(parse_float=Decimal)
    at, end = 0, len(text)
    while True:
        while at < end and text[at] in " \t\r\n\ufeff":
            at += 1
        if at == end:
            return
        try:
            document, at = decoder.raw_decode(text, at)
        except ValueError as error:
            raise ProviderBillError(f"the provider's bill {path!r} is not JSON: {error}") from None
        yield document


def _items_of(document: Any) -> list[Any]:
    if isinstance(document, list):
        return document
    data = _page_data(document)
    if data is None:
        return [document]
    items = data["Items"]
    items = items.get("Item") if isinstance(items, dict) else items
    items = [] if items is None else items if isinstance(items, list) else [items]
    # a monthly bill says its month once, above its rows
    return [{"BillingCycle": data.get("BillingCycle"), **item} if isinstance(item, dict) else item for item in items]


def _page_data(document: Any) -> Optional[dict[str, Any]]:
    """What a page of DescribeInstanceBill has around its rows; None if it is no such page."""
    data = document.get("Data") if isinstance(document, dict) else None
    return data if isinstance(data, dict) and "Items" in data else None


@dataclass(frozen=True)
class _Page:
    name: str
    data: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]

    @property
    def total(self) -> Optional[int]:
        """How many rows all pages of its query have; None if it does not say."""
        text = str(self.data.get("TotalCount"))
        return int(text) if re.fullmatch("[0-9]{1,18}", text) else None


def _require_each_page_once(path: str, pages: Sequence[_Page]) -> set[str]:
    """A page that is missing would look like a saving, one that is there twice like a loss.

    The rows of queries that are counted, and have as many: such a row may be in two pages.
    """
    counted_rows: set[str] = set()
    seen: dict[str, str] = {}
    for page in pages:
        if page.rows:
            first = seen.setdefault(_row_text(page.rows), page.name)
            if first != page.name:
                raise ProviderBillError(
                    f"the provider's bill {path!r} has the same page twice: {first} and {page.name}; leave one out"
                )
    cycles: dict[tuple[str, str], list[_Page]] = {}
    for page in pages:
        of_whom = (str(page.data.get("BillingCycle")), str(page.data.get("AccountID")))
        cycles.setdefault(of_whom, []).append(page)
    for (cycle, _), of_cycle in cycles.items():
        whole = _counted_rows(of_cycle)
        if whole is not None and whole[0] == whole[1]:
            counted_rows |= {_row_text(row) for page in of_cycle for row in page.rows}
            continue
        for query in _queries(of_cycle):
            counted = _counted_rows(query)
            if counted is not None and counted[0] != counted[1]:
                day = query[0].rows[0].get("BillingDate") if query[0].rows else None
                of = printable(str(day or cycle))
                raise ProviderBillError(
                    f"the provider's bill {path!r} has {counted[1]:,} rows of {of}, but TotalCount in its "
                    f"pages is {counted[0]:,}; give every page once, down to the last, which has no NextToken"
                )
            if counted is not None:
                counted_rows |= {_row_text(row) for page in query for row in page.rows}
    return counted_rows


def _queries(pages: Sequence[_Page]) -> list[list[_Page]]:
    """The pages of a month by the query that gave them: a daily bill can be asked for day by day, each day with a
    TotalCount of its own."""
    days: dict[str, list[_Page]] = {}
    for page in pages:
        of_page = {str(row.get("BillingDate")) for row in page.rows}
        if len(of_page) > 1:
            return [list(pages)]
        for day in of_page:
            days.setdefault(day, []).append(page)
    return list(days.values()) or [list(pages)]


def _counted_rows(pages: Sequence[_Page]) -> Optional[tuple[int, int]]:
    """How many rows pages say that there are, and how many they have; None if they do not all say the same."""
    totals = {page.total for page in pages}
    total = totals.pop()
    return None if totals or total is None else (total, sum(len(page.rows) for page in pages))


def _row_text(row: Any) -> str:
    return json.dumps(row, sort_keys=True, default=str, ensure_ascii=False)


def _text_of_value(value: Any) -> Optional[str]:
    if value is None or isinstance(value, str):
        return value
    return f"{value:f}" if isinstance(value, Decimal) else json.dumps(value, default=str)
