"""One Spark session for all tests, and the settings that must make no difference.

The engine is the PySpark that is installed. SPARK_BILLING_CONNECT=1 runs the tests through a local Spark Connect
server, SPARK_BILLING_ANSI=true or false with that setting; tests/matrix.py runs all of them.
"""

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from datetime import timedelta
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path

import pyspark
import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from pyspark.sql import DataFrame, SparkSession
from xdist.scheduler import LoadScopeScheduling

from spark_billing import PriceList
from spark_billing.commands.hourly_bill import hourly_bill
from spark_billing.core.schemas import TAGS, USAGE
from spark_billing.core.session import LOG_SETTINGS, ensure_java, local_session
from tests.oracle import COMMERCIAL_START

ROOT = Path(__file__).resolve().parent.parent
CONNECT = os.environ.get("SPARK_BILLING_CONNECT") == "1"
ANSI = os.environ.get("SPARK_BILLING_ANSI")
COMPILED = os.environ.get("SPARK_BILLING_COMPILED") == "1"
LONGEST = {
    f"test_{name}.py"
    for name in (
        *("billing", "causes", "crashes", "docstrings", "hourly_bill", "late_usage", "production", "spark_submit"),
        "streaming",
    )
}
NOT_COMPILED = {"spark.sql.codegen.wholeStage": "false", "spark.sql.codegen.factoryMode": "NO_CODEGEN"}
SPARK = tuple(int(part) for part in pyspark.__version__.split(".")[:2])

os.environ["TZ"] = "UTC"  # collect() returns naive datetimes in the zone of this process
time.tzset()
# how long an example takes says how busy the machine is
hypothesis_settings.register_profile("on any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.load_profile("on any machine")


def of_campaigns(config):
    return config.getoption("markexpr").startswith("campaign")


def pytest_xdist_make_scheduler(config, log):
    """Two workers share the campaigns test by test: some take minutes, and their files would leave a worker alone."""
    if not of_campaigns(config):
        return None  # as pyproject.toml says: file by file

    class TestByTest(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.partition("::")[0]
            if file.endswith("test_catalog_races.py"):  # whose engines serve many tests
                return f"{file} on Spark {'3.5' if 'paimon' in nodeid else '4.1'}"
            # one of its tests kills every executor that it finds
            return file if file.endswith("test_spark_submit.py") else nodeid

    return TestByTest(config, log)


def pytest_collection_modifyitems(config, items):
    """What does not apply to an engine is not run there: on Connect no job runs (their commits need the JVM), the
    linters read the types of the default engine, and the other ANSI setting is that of the session of the tests.

    The files that take longest go first, so that no worker is left alone with one of them."""

    def applies(item):
        if CONNECT and item.get_closest_marker("classic"):
            return False
        if SPARK < (4, 1) and item.get_closest_marker("default_engine"):
            return False
        if ANSI and item.get_closest_marker("own_spark"):
            return False
        return SPARK >= (4, 0) or not item.get_closest_marker("spark4")

    config.hook.pytest_deselected(items=[item for item in items if not applies(item)])
    items[:] = sorted((item for item in items if applies(item)), key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(scope="session")
def spark(tmp_path_factory, pytestconfig):
    """One session for many small queries: compiling one costs more than running it."""
    plans = {"spark.sql.shuffle.partitions": "4" if COMPILED or of_campaigns(pytestconfig) else "1"}
    if not COMPILED:
        plans |= NOT_COMPILED
    settings = {**plans, "spark.sql.session.timeZone": "UTC", **({"spark.sql.ansi.enabled": ANSI} if ANSI else {})}
    if CONNECT:
        ensure_java()
        os.environ["PYSPARK_PYTHON"] = sys.executable
        builder = SparkSession.builder.remote("local[2]")
        for name, value in settings.items():
            builder = builder.config(name, value)
        session = builder.getOrCreate()
    else:
        of_start = {
            "spark.master": "local[2]",
            "spark.sql.warehouse.dir": str(tmp_path_factory.mktemp("spark") / "warehouse"),
            "spark.ui.showConsoleProgress": "false",
            # many small queries: no time to wait for the second compiler
            "spark.driver.extraJavaOptions": f"-Dlog4j2.configurationFile={LOG_SETTINGS} -XX:TieredStopAtLevel=1",
        }
        session = local_session("spark-billing tests", {**of_start, **settings})
    yield session
    session.stop()


@pytest.fixture(scope="session")
def usd():
    return PriceList.bundled("emr-serverless-spark", currency="USD")


@pytest.fixture(scope="session")
def cny():
    return PriceList.bundled("emr-serverless-spark", currency="CNY")


@contextmanager
def setting(spark, name, value):
    before = spark.conf.get(name)
    spark.conf.set(name, value)
    try:
        yield
    finally:
        spark.conf.set(name, before)


@pytest.fixture
def compiled(spark):
    """Plans are compiled, as those of a job are, whatever the session of the tests does."""
    with (
        setting(spark, "spark.sql.codegen.wholeStage", "true"),
        setting(spark, "spark.sql.codegen.factoryMode", "FALLBACK"),
    ):
        yield


@pytest.fixture(params=["true", pytest.param("false", marks=pytest.mark.campaign)], ids=["ansi", "no-ansi"])
def ansi(request, spark):
    with setting(spark, "spark.sql.ansi.enabled", request.param):
        yield request.param


OTHER_ZONES = [pytest.param(zone, marks=pytest.mark.campaign) for zone in ("UTC", "America/New_York")]


@pytest.fixture(params=["Asia/Kolkata", *OTHER_ZONES])
def session_zone(request, spark):
    with setting(spark, "spark.sql.session.timeZone", request.param):
        yield request.param


CALL = {
    "request_id": "r-1",
    "workspace_id": "w-1",
    "region": "cn-hangzhou",
    "model": "qwen-plus",
    "call_time": None,
    "input_tokens": 260,
    "output_tokens": 50,
}


def usage_frame(spark, calls, tags=False) -> DataFrame:
    """Calls, given as dicts, as a usage table of the contract's types."""
    schema = USAGE if not tags else USAGE.fromJson(USAGE.jsonValue()).add("tags", TAGS)
    columns = {f.name: [call.get(f.name) for call in calls] for f in schema.fields}
    if CONNECT or SPARK < (4, 0) or find_spec("pyarrow") is None:
        return spark.createDataFrame(list(zip(*columns.values())), schema)
    import pyarrow as pa
    from pyspark.sql.pandas.types import to_arrow_schema

    # rows in the JVM: each query over Python's own rows would send them through a Python worker again
    if tags:
        columns["tags"] = [found and list(found.items()) for found in columns["tags"]]
    return spark.createDataFrame(pa.table(columns, to_arrow_schema(schema, timestamp_utc=True)), schema)


# --- jobs: usage on disk, billed into a folder

HOUR = timedelta(hours=1)
ONE = Decimal("0.00005308")  # CALL in Hangzhou


def call(n, at=COMMERCIAL_START, **changes):
    return {**CALL, "request_id": f"r-{n}", "call_time": at, **changes}


@pytest.fixture
def write(spark, tmp_path):
    def write(calls, name="usage", file_format="parquet", tags=False):
        path = str(tmp_path / name)
        options = {"header": "true", "escape": '"'} if file_format == "csv" else {}
        usage_frame(spark, calls, tags).coalesce(1).write.mode("overwrite").format(file_format).options(**options).save(
            path
        )
        return path

    return write


@pytest.fixture
def bill(spark, tmp_path, capsys):
    def bill(usage, *arguments, output="out", currency="USD"):
        """One log, however the test names its files. The jobs run in the session of the tests."""
        given = ["--usage", usage, "--output", str(tmp_path / output), "--currency", currency, "--source", "the log"]
        if CONNECT:  # what only reads a ledger works on Connect; the job that wrote it had a session of its own
            job = [sys.executable, str(ROOT / "jobs" / "hourly_bill.py"), *given, *arguments]
            environment = {k: v for k, v in os.environ.items() if not k.startswith(("SPARK_", "PYSPARK_"))}
            done = subprocess.run(job, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
            return done.returncode, done.stdout, done.stderr
        code = hourly_bill([*given, *arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return bill


def rows(spark, path, table, order="period_start"):
    frame = spark.read.parquet(str(path / table))
    return frame.orderBy(order).collect()


def record(path, number=1):
    return json.loads((path / f"ledger/runs/{number:020}.json").read_text(encoding="utf-8"))


def files(path):
    """Every file of the tables under an output, with its bytes; not the ledger's."""
    return {
        str(f.relative_to(path)): f.read_bytes()
        for table in ("bill_lines", "bills", "rejected", "priced_calls")
        for f in (path / table).rglob("*.parquet")
    }


def site_without(folder: Path, *names: str) -> Path:
    """A folder for PYTHONPATH with everything that is installed here but some packages (use it with `python -S`)."""
    folder.mkdir()
    for entry in Path(pyspark.__file__).parent.parent.iterdir():
        if not entry.name.startswith(names) and not entry.name.endswith(".pth"):
            (folder / entry.name).symlink_to(entry)
    return folder
