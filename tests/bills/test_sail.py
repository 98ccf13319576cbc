"""An engine that shares no code with Spark gives the same bills: Sail, a Spark Connect server without Java."""

import json
import subprocess
import sys
from decimal import Decimal

import pytest

from tests import oracle
from tests.bills.test_differential import hostile_calls
from tests.conftest import HOUR, ROOT, setting, usage_frame

pytestmark = pytest.mark.default_engine


@pytest.mark.campaign
def test_the_public_functions_on_sail_and_on_spark(spark, tmp_path):
    calls = list(hostile_calls(3_000, seed=11))
    billed = [c for c in calls if c["workspace_id"] and oracle.reason(c) is None]
    copies = [dict(c) for c in billed[:40]]  # the same again
    less = {n: oracle.whole(c["input_tokens"]) - 1 for n, c in enumerate(billed[30:60])}  # than the call that is billed
    rivals = [{**billed[30 + n], "call_time": billed[30 + n]["call_time"] + 2 * HOUR, "input_tokens": i}
              for n, i in less.items() if i > 0]  # fmt: skip
    nameless = [{**c, "request_id": None} for c in billed[:20]]
    path, found = str(tmp_path / "calls"), tmp_path / "found.json"
    with setting(spark, "spark.sql.parquet.outputTimestampType", "TIMESTAMP_MICROS"):  # else Sail sees no instants
        usage_frame(spark, [*calls, *copies, *rivals, *nameless]).repartition(3).write.parquet(path)

    command = [sys.executable, "-m", "tests.bills.on_sail", path, str(found)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    on_sail = {name: [tuple(row) for row in rows] for name, rows in json.loads(found.read_text()).items()}

    from tests.bills import on_sail as script

    assert on_sail == script.answers(spark, path)
    expected = {
        (w, str(date), str(hour)): [str(n), str(i), str(o), amount]
        for (w, date, hour), (n, i, o, amount) in oracle.bill(calls).items()
    }
    for name in ("bills", "bills by the UDF"):
        rows = {(w, day, hour): [n, i, o, Decimal(a)] for w, _, _, day, hour, _, n, i, o, a in on_sail[name]}
        assert rows == expected
    there_once = {c["request_id"]: oracle.cost(c) for c in calls}
    for call in (*copies, *rivals):
        there_once.pop(call["request_id"], None)
    costs = {request_id: cost and Decimal(cost) for request_id, cost, _ in on_sail["udfs"] if request_id in there_once}
    assert costs == there_once
