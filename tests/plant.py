"""A made-up production (tests/production.py) as it runs: its folder of usage, the jobs over it, wherever they bill to,
and the check of what they leave behind against the oracle.
"""

import json
from datetime import timezone
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq

from spark_billing import ledger_bill_lines, ledger_bills
from spark_billing.commands.hourly_bill import hourly_bill
from tests.conftest import record
from tests.production import COLUMNS, HOUR, START, UTC8, Billed, Oracle

BILLED, RETRACTION = 0, 4
DAY = 24
TYPES = {name: pa.string() for name in COLUMNS[:4]}
TYPES |= {"call_time": pa.timestamp("us", "UTC"), "input_tokens": pa.int64(), "output_tokens": pa.int64()}


class InFolder:
    """Bills in a folder, read without Spark."""

    def __init__(self, output):
        self.output, self.arguments = output, ["--output", str(output)]
        self.billed, self.runs = Billed(), 0

    def record(self, number):
        return record(self.output, number)

    def bills(self):
        return self._rows("bills")

    def lines(self):
        return self._rows("bill_lines")

    def _rows(self, table):
        for file in sorted((self.output / table).rglob("*.parquet")):
            for row in pq.ParquetFile(file).read().to_pylist():
                start = row["period_start"].replace(tzinfo=timezone.utc).astimezone(UTC8)
                assert f"billing_date={start:%Y-%m-%d}" in file.parts
                yield row


class InCatalog:
    """Bills in a namespace of a catalog, read by our functions and, where the catalog has them, by its views."""

    def __init__(self, spark, namespace, *, views):
        self.spark, self.namespace, self.views = spark, namespace, views
        self.arguments = ["--output-catalog", namespace]
        self.billed, self.runs = Billed(), 0

    def record(self, number):
        rows = self.spark.table(f"{self.namespace}.ledger").filter(f"kind = 'run' AND run = {number}").collect()
        return json.loads(rows[0]["record"])

    def bills(self):
        return self._rows("bills", ledger_bills)

    def lines(self):
        return self._rows("bill_lines", ledger_bill_lines)

    def _rows(self, view, function):
        found = [row.asDict() for row in function(self.spark, catalog=self.namespace).collect()]
        if self.views:
            seen = [row.asDict() for row in self.spark.table(f"{self.namespace}.{view}").drop("run").collect()]
            by_text = [sorted(str(sorted(row.items())) for row in rows) for rows in (found, seen)]
            assert by_text[0] == by_text[1]
        return found


class Plant:
    """A production, and what has come of it so far."""

    def __init__(self, folder, capsys, production):
        self.folder, self.capsys, self.production = folder, capsys, production
        self.oracle, self.lost = Oracle(production.changes_at), set()
        self.usage = folder / "usage"
        self.usage.mkdir()
        (folder / "prices.csv").write_text(production.price_list())

    def _file_of(self, hour):
        return self.usage / f"arrived-{hour:04}.parquet"

    def arrive(self, hour):
        rows = self.production.files.get(hour)
        if rows:
            columns = {name: [row[name] for row in rows] for name in COLUMNS}
            pq.write_table(pa.table(columns, pa.schema(list(TYPES.items()))), self._file_of(hour))

    def lose(self, hour):
        self.lost.add(hour)
        self._file_of(hour).rename(self.folder / self._file_of(hour).name)

    def find(self, hour):
        self.lost.discard(hour)
        (self.folder / self._file_of(hour).name).rename(self._file_of(hour))

    def state(self, hour):
        return self.oracle.state(self.production.until(hour, self.lost))

    def of(self, output):
        return InFolder(self.folder / output)

    def run(self, ledger, hour, last, *arguments, code=BILLED):
        """The job as it is scheduled, five minutes after an hour; last=None: over all that there is."""
        now = START + (hour + 1) * HOUR
        start, end = (now - last * HOUR, now) if last else (START - DAY * HOUR, now)
        when = ("--last", str(last), "--as-of", f"{now:%Y-%m-%dT%H}:05+08:00") if last else ()
        given = ["--usage", str(self.usage), *ledger.arguments, "--currency", "USD"]
        given += ["--price-list", str(self.folder / "prices.csv"), "--source", "the log", *when, *arguments]
        found = hourly_bill(given)
        said = self.capsys.readouterr()
        assert found == code, said.err or said.out
        if code == BILLED:
            ledger.runs += 1
            now_there = self.state(hour)
            ledger.billed.commit(now_there, start, end)
            self._check(ledger, now_there, start, end)
        self.check_tables(ledger)
        return said

    def _check(self, ledger, now_there, start, end):
        done = ledger.record(ledger.runs)["totals"]
        read, rejected = now_there.totals(start, end)
        assert done["rejected"] == dict(rejected)
        assert done["rows"] == {
            "read": read,
            "billed": read - sum(rejected.values()),
            "rejected": sum(rejected.values()),
        }
        of_hours = sum((b[3] for (_, at), b in now_there.bills.items() if start <= at < end), Decimal(0))
        assert Decimal(done["amount"]) == of_hours

    def check_tables(self, ledger):
        bills, lines = list(ledger.bills()), list(ledger.lines())
        assert {
            _hour(row, "workspace_id"): _measures(row, "requests", "input_tokens", "output_tokens") for row in bills
        } == (ledger.billed.bills)
        names = ("workspace_id", "region", "model", "token_type", "tier", "price_per_1k")
        assert {_hour(row, *names): _measures(row, "requests", "tokens") for row in lines} == ledger.billed.lines
        assert (len(bills), len(lines)) == (len(ledger.billed.bills), len(ledger.billed.lines))  # no row twice


def _hour(row, workspace_id, *others):
    start = row["period_start"].replace(tzinfo=timezone.utc).astimezone(UTC8)
    assert row["billing_hour"] == start.hour
    return (row[workspace_id], start, *(row[name] for name in others))


def _measures(row, *names):
    return [row[name] for name in (*names, "amount")]
