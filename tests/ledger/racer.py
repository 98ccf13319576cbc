"""Bills when it is told to, in a session of its own: tests let several of these race on one ledger.

Run as a script it takes its settings and then one order after the other from its standard input, each a line of JSON,
and answers each with a line. It can stop just before or after a commit until it is told to go on, or to fail there.
"""

import json
import sys
from decimal import Decimal
from typing import Any

from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_billing import PriceList, bill_usage
from spark_billing.core.errors import LostRaceError
from spark_billing.core.hours import Period
from spark_billing.core.session import local_session
from spark_billing.core.storage import Storage
from spark_billing.ledger import folder_ledger, ledger_table, table_ledger
from spark_billing.ledger.folder_ledger import FolderLedger
from spark_billing.ledger.formats import FORMATS, TableFormat, TableName
from spark_billing.ledger.ledger_table import find_table
from spark_billing.ledger.numbered import numbered
from spark_billing.ledger.run_record import RunRecord
from spark_billing.ledger.stores import open_ledger
from spark_billing.ledger.table_ledger import TableLedger
from spark_billing.ledger.views import views_of
from tests.oracle import COMMERCIAL_START

MARK = "racer: "  # before each answer: Spark may print too
DAY = 24 * 3600
BILLED = Period(int(COMMERCIAL_START.timestamp()), int(COMMERCIAL_START.timestamp()) + 2 * DAY)

COMPACT = {
    "iceberg": "CALL {catalog}.system.rewrite_data_files(table => '{table}', options => map('rewrite-all', 'true'))",
    "delta": "OPTIMIZE {table}",
    "paimon": "CALL {catalog}.sys.compact(table => '{of_catalog}', options => 'compaction.min.file-num=1')",
}


def usage_of(spark: SparkSession, who: str, calls: int, rejected: int, team: bool) -> DataFrame:
    """The first calls of somebody, on two dates in turns, and some of a model that no list has."""
    number = F.col("id")
    columns = {
        "request_id": F.concat(F.lit(f"{who}-"), number.cast("string")),
        "workspace_id": F.lit(f"w-{who}"),
        "region": F.lit("cn-hangzhou"),
        "model": F.when(number < calls, "qwen-plus").otherwise("x"),
        "call_time": F.timestamp_seconds(F.lit(BILLED.start) + number % 2 * DAY),
        "input_tokens": F.lit(260).cast("bigint"),
        "output_tokens": F.lit(50).cast("bigint"),
    }
    if team:
        columns["tags"] = F.create_map(F.lit("team"), F.lit(f"t-{who}"))
    return spark.range(0, calls + rejected, 1, 1).select(*(column.alias(name) for name, column in columns.items()))


class Racer:
    """The orders."""

    def __init__(self, settings: dict[str, str]) -> None:
        self.spark = local_session("racer", settings)
        self.spark.sparkContext.setLogLevel("ERROR")
        self.prices = PriceList.bundled("emr-serverless-spark", currency="USD")
        self.stops: dict[str, str] = {}  # at a point of the next run, once: hold, fail, hold and fail, or die
        for owner in (*FORMATS.values(), folder_ledger):
            self._around(owner, "create_record" if owner is folder_ledger else "commit", "commit")
        self._around(ledger_table, "create_table", "table")
        self._around(table_ledger, "add_columns", "columns")

    def _around(self, owner: Any, name: str, what: str) -> None:
        step = getattr(owner, name)

        def with_stops(*arguments: Any, **options: Any) -> Any:
            if isinstance(arguments[0], TableFormat) and arguments[0].table.parts[-1] != "ledger":
                return step(*arguments, **options)  # a trial of the catalog
            self._meet(f"before {what}")
            if self.stops.pop(f"during {what}", None):
                answer(at=f"during {what}")
            done = step(*arguments, **options)
            self._meet(f"after {what}")
            return done

        setattr(owner, name, with_stops)

    def _meet(self, point: str) -> None:
        stop = self.stops.pop(point, "")
        if "hold" in stop:
            answer(at=point)
            sys.stdin.readline()
        if "die" in stop:
            raise KeyboardInterrupt(point)
        if "fail" in stop:
            raise PySparkException(f"failed {point}, as it was told to")

    def create(self, namespace: str) -> None:
        self.spark.sql(f"CREATE NAMESPACE {namespace}")

    def bill(
        self,
        ledger: dict[str, str],
        who: str,
        calls: int,
        rejected: int = 0,
        team: bool = False,
        stops: dict[str, str] | None = None,
    ) -> dict[str, Any]:
        """One run; what stood in its way is counted."""
        self.stops = dict(stops or {})
        usage, lost = usage_of(self.spark, who, calls, rejected, team), 0
        by = ["team"] if team else []
        while True:
            try:
                record = bill_usage(
                    usage,
                    prices=self.prices,
                    source="the log",
                    duplicates=False,
                    allow_retractions=True,
                    group_by_tags=by,
                    publishing_patience=0.2,
                    **ledger,
                )
            except LostRaceError:
                lost += 3
                continue
            lost += int(record.run_id.rpartition("-")[2]) - 1
            return {"run": record.run, "run_id": record.run_id, "who": who, "calls": calls, "lost": lost}

    def race(self, ledger: dict[str, str], who: str, rounds: int) -> list[dict[str, Any]]:
        """Runs of a usage that grows; every second one has rejected rows."""
        return [self.bill(ledger, who, 2 + n, rejected=n % 2) for n in range(rounds)]

    def count(self, ledger: dict[str, str]) -> int:
        return open_ledger(self.spark, ledger.get("output"), ledger.get("catalog")).runs.count

    def version(self, ledger: dict[str, str]) -> str | None:
        table = find_table(self.spark, TableName(ledger["catalog"], "ledger"))
        return None if table is None else table.version()

    def compact(self, ledger: dict[str, str]) -> list[str | None]:
        """The table's version before and after."""
        before, namespace = self.version(ledger), ledger["catalog"]
        table = find_table(self.spark, TableName(namespace, "ledger"))
        catalog, _, below = namespace.partition(".")
        plain = f"{namespace}.ledger"
        self.spark.sql(COMPACT[table.name].format(catalog=catalog, table=plain, of_catalog=f"{below}.ledger")).collect()
        return [before, self.version(ledger)]

    def look(self, ledger: dict[str, str]) -> dict[str, Any]:
        """All that the ledger says: its records one by one, its lines as it verifies them, and the views."""
        opened = open_ledger(self.spark, ledger.get("output"), ledger.get("catalog"))
        lines = opened.lines(opened.runs.lines)
        rejected = opened.rejected(BILLED)
        seen = {
            "count": opened.runs.count,
            "records": [[each.run, each.run_id, each.parent] for each in self._records(opened)],
            "lines": [] if lines is None else _amounts(lines, "run", "workspace_id"),
            "rejected": 0 if rejected is None else rejected.count(),
        }
        if isinstance(opened, TableLedger):
            seen["views"] = views_of(self.spark, ledger["catalog"])
            if "bills" in seen["views"]:
                seen["bills"] = _amounts(self.spark.table(f"{ledger['catalog']}.bills"), "workspace_id")
                seen["columns"] = self.spark.table(f"{ledger['catalog']}.bill_lines").columns
        else:
            seen["bills"] = _amounts(self.spark.read.parquet(f"{ledger['output']}/bills"), "workspace_id")
        return seen

    def _records(self, opened: Any) -> list[RunRecord]:
        if isinstance(opened, FolderLedger):
            storage = Storage(self.spark, opened.where)
            # a run that was killed leaves a draft there that nobody reads
            found = [storage.read(f"ledger/runs/{name}") for name in numbered(storage.names("ledger/runs"))]
        else:
            rows = opened.rows().filter("kind = 'run'").orderBy("run").select("run", "run_id", "record").collect()
            found = [row["record"] for row in rows]
        return [RunRecord.from_json("a record", text) for text in found]


def _amounts(rows: DataFrame, *by: str) -> list[list[Any]]:
    sums = rows.groupBy(*by).agg(F.sum("amount").alias("amount")).orderBy(*by).collect()
    return [[*row[:-1], str(Decimal(row[-1]))] for row in map(tuple, sums)]


def answer(**said: Any) -> None:
    print(MARK + json.dumps(said), flush=True)


def main() -> None:
    racer = Racer(json.loads(sys.stdin.readline()))
    answer(is_up=racer.spark.version)
    for line in iter(sys.stdin.readline, ""):
        order = json.loads(line)
        try:
            answer(done=getattr(racer, order.pop("do"))(**order))
        except (Exception, KeyboardInterrupt) as error:  # whatever it is: the test looks at it
            answer(error=f"{type(error).__name__}: {error}"[:3000])
    racer.spark.stop()


if __name__ == "__main__":
    main()
