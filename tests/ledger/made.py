"""Ledgers made for a test: billed from a few calls, and aged by hand with the records of runs that change nothing."""

import json
from pathlib import Path

from spark_billing import PriceList, bill_usage
from spark_billing.core.storage import Storage
from spark_billing.ledger.folder_ledger import FolderLedger
from tests.conftest import usage_frame


def billed(spark, calls, output, tags=False, **options):
    """Bill calls into a folder; the run's record."""
    prices = PriceList.bundled("emr-serverless-spark", currency="USD")
    given = {"source": "the log", "publishing_patience": 0, **options}
    return bill_usage(usage_frame(spark, calls, tags).coalesce(1), prices=prices, output=str(output), **given)


def opened(spark, output):
    return FolderLedger.open(Storage(spark, str(output)))


def record_file(output, number) -> Path:
    return Path(output) / f"ledger/runs/{number:020}.json"


def age(output, until):
    """Records of runs that change nothing, up to a number, on top of the last one."""
    number = len(list((Path(output) / "ledger/runs").glob("*.json")))
    record = json.loads(record_file(output, number).read_text(encoding="utf-8"))
    nothing = {"reasons": {}, "hours": {}}
    for run in range(number + 1, until + 1):
        record = {**record, "run": run, "parent": record["run_id"], "run_id": f"20260409T000000Z-{run:08x}-1"}
        record = {**record, "ledger": nothing, "left_out": {}, "replace": [], "remove": [], "staging": ""}
        record_file(output, run).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
