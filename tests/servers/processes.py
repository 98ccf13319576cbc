"""Servers that catalogs need, each a process of its own on a free port, gone when its `with` ends.

They run with the jars that PySpark brings and a few more. Each dies with the process that started it, so that tests
that are killed leave none behind.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyspark

from spark_billing.core.session import ensure_java
from tests.servers.jars import DRIVERS, jars

SPARK_JARS = Path(pyspark.__file__).parent / "jars"
PATIENCE = 120  # seconds for a server to come up; a busy machine takes long

_REST = (
    "org.apache.iceberg:iceberg-core:1.11.0",
    "org.apache.iceberg:iceberg-core:1.11.0:tests",
    "org.apache.iceberg:iceberg-open-api:1.11.0:test-fixtures",
    "org.eclipse.jetty.ee10:jetty-ee10-servlet:12.1.3",
    "org.eclipse.jetty.compression:jetty-compression-server:12.1.3",
    "org.eclipse.jetty.compression:jetty-compression-gzip:12.1.3",
    DRIVERS["sqlite"],
)

_HIVE = {
    "datanucleus.schema.autoCreateAll": "true",
    "hive.metastore.schema.verification": "false",
    # the defaults of both need jars that Spark does not bring
    "datanucleus.connectionPoolingType": "HikariCP",
    "hive.async.log.enabled": "false",
}
# Iceberg's commits take locks, whose tables the metastore leaves to a script of Hive's that Spark does not bring
_HIVE_LOCKS = """
CREATE TABLE NEXT_LOCK_ID (NL_NEXT bigint NOT NULL);
INSERT INTO NEXT_LOCK_ID VALUES (1);
CREATE TABLE AUX_TABLE (
  MT_KEY1 varchar(128) NOT NULL, MT_KEY2 bigint NOT NULL, MT_COMMENT varchar(255), PRIMARY KEY (MT_KEY1, MT_KEY2));
CREATE TABLE HIVE_LOCKS (
  HL_LOCK_EXT_ID bigint NOT NULL, HL_LOCK_INT_ID bigint NOT NULL, HL_TXNID bigint, HL_DB varchar(128) NOT NULL,
  HL_TABLE varchar(128), HL_PARTITION varchar(767), HL_LOCK_STATE char(1) NOT NULL, HL_LOCK_TYPE char(1) NOT NULL,
  HL_LAST_HEARTBEAT bigint NOT NULL, HL_ACQUIRED_AT bigint, HL_USER varchar(128) NOT NULL,
  HL_HOST varchar(128) NOT NULL, HL_HEARTBEAT_COUNT integer, HL_AGENT_INFO varchar(128),
  HL_BLOCKEDBY_EXT_ID bigint, HL_BLOCKEDBY_INT_ID bigint, PRIMARY KEY (HL_LOCK_EXT_ID, HL_LOCK_INT_ID));
"""


@contextmanager
def hdfs() -> Iterator[str]:
    """A name node and a data node of Spark's Hadoop version: hdfs://127.0.0.1:port."""
    (client,) = SPARK_JARS.glob("hadoop-client-api-*.jar")
    version = client.stem.rpartition("-")[2]
    minicluster = jars(f"org.apache.hadoop:hadoop-client-minicluster:{version}", "junit:junit:4.13.2", alone=True)
    with _folder() as folder:
        told = folder / "up.json"
        command = _java(folder, [*minicluster, f"{SPARK_JARS}/*"], "org.apache.hadoop.test.MiniDFSClusterManager")
        command += ["-format", "-datanodes", "1", "-nnport", "0", "-writeDetails", str(told)]

        def port() -> int:
            return json.loads(told.read_text())["namenode_port"]

        with _running(command, folder, port):
            yield f"hdfs://127.0.0.1:{port()}"


@contextmanager
def hive_metastore() -> Iterator[str]:
    """A Hive metastore of Spark's Hive version, over a new Derby database: thrift://127.0.0.1:port."""
    with _folder() as folder:
        database = f"jdbc:derby:{folder}/metastore;create=true"
        (folder / "locks.sql").write_text(f"CONNECT '{database}';{_HIVE_LOCKS}")
        make = [*_java(folder, [f"{SPARK_JARS}/*"], "org.apache.derby.tools.ij"), str(folder / "locks.sql")]
        subprocess.run(make, cwd=folder, check=True, capture_output=True)
        settings = {
            **_HIVE,
            "javax.jdo.option.ConnectionURL": database,
            "hive.metastore.warehouse.dir": str(folder / "warehouse"),
        }
        properties = "".join(f"<property><name>{k}</name><value>{v}</value></property>" for k, v in settings.items())
        (folder / "hive-site.xml").write_text(f"<configuration>{properties}</configuration>")
        port = free_port()
        command = _java(folder, [str(folder), f"{SPARK_JARS}/*"], "org.apache.hadoop.hive.metastore.HiveMetaStore")
        with _running([*command, "-p", str(port)], folder, lambda: _accepts(port)):
            yield f"thrift://127.0.0.1:{port}"


@contextmanager
def iceberg_rest(warehouse: str) -> Iterator[str]:
    """The REST catalog of Iceberg's own tests, over a warehouse that this server and Spark both see: its URI."""
    hadoop = [str(jar) for name in ("hadoop-client-*", "log4j-*") for jar in SPARK_JARS.glob(f"{name}.jar")]
    port = free_port()
    with _folder() as folder:
        settings = {
            "CATALOG_REST_PORT": str(port),
            "CATALOG_WAREHOUSE": warehouse,
            "CATALOG_URI": f"jdbc:sqlite:{folder}/catalog.db",
            "CATALOG_CLIENTS": "1",  # connections to SQLite, which refuses a second writer
        }

        def up() -> None:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/config", timeout=10).close()

        command = _java(folder, [*jars(*_REST), *hadoop], "org.apache.iceberg.rest.RESTCatalogServer")
        with _running(command, folder, up, settings):
            yield f"http://127.0.0.1:{port}"


@contextmanager
def postgresql() -> Iterator[str]:
    """A cluster of PostgreSQL of one's own: the JDBC URL of an empty database."""
    found = [*Path("/usr/lib/postgresql").glob("*/bin/initdb"), *filter(None, [shutil.which("initdb")])]
    if not found:
        raise RuntimeError("these tests need PostgreSQL: install the Debian package postgresql")
    programs = Path(found[0]).parent
    # it refuses to run as root
    user = ["--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
    with _folder() as folder:
        if user:
            shutil.chown(folder, "postgres")
        port = free_port()
        data = folder / "data"
        made = subprocess.run(
            [
                "setpriv",
                *user,
                str(programs / "initdb"),
                "-U",
                "postgres",
                "--auth=trust",
                "--no-sync",
                "-D",
                str(data),
            ],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode != 0:
            raise RuntimeError(f"initdb made no cluster:\n{made.stdout}\n{made.stderr}")
        command = [str(programs / "postgres"), "-D", str(data), "-h", "127.0.0.1", "-p", str(port)]
        command += ["-c", "unix_socket_directories=", "-c", "fsync=off"]
        asked = [str(programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
        with _running(command, folder, lambda: subprocess.run(asked, check=True), user=user, stop=signal.SIGINT):
            yield f"jdbc:postgresql://127.0.0.1:{port}/postgres?user=postgres"


def sqlite(folder: Path) -> str:
    """The JDBC URL of an SQLite database in a folder: no server, and any process of this machine may open it."""
    return f"jdbc:sqlite:{folder}/catalog.db?journal_mode=WAL&busy_timeout=60000"


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def _accepts(port: int) -> None:
    socket.create_connection(("127.0.0.1", port), timeout=10).close()


def _java(folder: Path, class_path: Sequence[str], main: str) -> list[str]:
    ensure_java()
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home, "bin", "java")) if home else "java"
    own = [f"-Djava.io.tmpdir={folder}", f"-Dhive.log.dir={folder}"]  # else they leave files on the machine
    return [java, "-Xmx512m", "-XX:TieredStopAtLevel=1", *own, "-cp", ":".join(class_path), main]


@contextmanager
def _folder() -> Iterator[Path]:
    """Not one of pytest's, which other users, such as postgres, must not enter."""
    with tempfile.TemporaryDirectory(prefix="spark-billing-") as folder:
        yield Path(folder)


@contextmanager
def _running(
    command: Sequence[str],
    folder: Path,
    up: Callable[[], object],
    environment: Mapping[str, str] | None = None,
    user: Sequence[str] = (),
    stop: signal.Signals = signal.SIGTERM,
) -> Iterator[None]:
    """A process while the block runs, from when `up` raises no longer."""
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["setpriv", *user, "--pdeathsig", "KILL", *command],
            cwd=folder,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        started = time.monotonic()
        while True:
            try:
                up()
                break
            except (OSError, ValueError, subprocess.CalledProcessError) as error:
                if process.poll() is not None or time.monotonic() - started > PATIENCE:
                    said = log.read_text(errors="replace")[-5000:]
                    raise RuntimeError(f"no server from {command[0]}, {error}; it said:\n{said}") from error
                time.sleep(0.2)
        yield
    finally:
        process.send_signal(stop)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
