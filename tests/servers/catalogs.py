"""The settings of Spark for a catalog of each kind that a ledger may be in.

A session takes those of several catalogs at once, by `together`: one start of Spark for many of them.
"""

from collections.abc import Mapping

import pyspark

from tests.servers.jars import DRIVERS, format_jars, jars

ICEBERG = "org.apache.iceberg.spark.SparkCatalog"
EXTENSIONS = {
    "iceberg": "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions",
    "delta": "io.delta.sql.DeltaSparkSessionExtension",
    "paimon": "org.apache.paimon.spark.extensions.PaimonSparkSessionExtensions",
}

KINDS = (
    "iceberg-jdbc-postgresql",
    "iceberg-jdbc-sqlite",
    "iceberg-rest",
    "iceberg-hive",
    "iceberg-hadoop",
    "delta",
    "paimon-hdfs",
    "paimon-jdbc",
)
WITHOUT_VIEWS = ("iceberg-hadoop", "paimon-hdfs", "paimon-jdbc")
_LISTS = ("spark.jars", "spark.sql.extensions")


def name_of(kind: str) -> str:
    """The name of a catalog of a kind in a session that has one of each."""
    return "spark_catalog" if kind == "delta" else kind.replace("-", "_")


def configuration(
    kind: str, name: str, *, warehouse: str, uri: str | None = None, spark: str = pyspark.__version__
) -> dict[str, str]:
    """The settings of a catalog for a session of some Spark, of the installed one unless said.

    The name is what tables of it begin with: name.namespace.table. Delta's is always spark_catalog, the session's own.
    The URI is that of the server: JDBC, thrift or http. Delta takes that of a Hive metastore; without one, only its own
    session knows the tables by their names.
    """
    if kind not in KINDS:
        raise ValueError(f"{kind}: no such kind of catalog; there are {', '.join(KINDS)}")
    table_format = kind.partition("-")[0]
    catalog = f"spark.sql.catalog.{name}"
    found = {
        "spark.jars": ",".join([*format_jars(table_format, spark), *_driver(uri)]),
        "spark.sql.extensions": EXTENSIONS[table_format],
    }
    if table_format == "delta":
        return found | _delta(name, warehouse, uri)
    found[f"{catalog}.warehouse"] = warehouse
    if table_format == "paimon":
        found[catalog] = "org.apache.paimon.spark.SparkCatalog"
    else:
        found[catalog] = ICEBERG
    found |= {f"{catalog}.{key}": value for key, value in _options(kind).items()}
    if uri is not None:
        found[f"{catalog}.uri"] = uri
    return found


def _options(kind: str) -> dict[str, str]:
    if kind.startswith("iceberg-jdbc"):
        return {"type": "jdbc", "jdbc.schema-version": "V1"}  # V0 has no views
    if kind.startswith("iceberg-"):
        return {"type": kind.partition("-")[2]}
    if kind == "paimon-jdbc":
        return {"metastore": "jdbc", "lock.enabled": "true"}  # without the lock a commit may be lost
    return {"metastore": "filesystem"}


def _delta(name: str, warehouse: str, uri: str | None) -> dict[str, str]:
    if name != "spark_catalog":
        raise ValueError(f"{name}: Delta's catalog is spark_catalog")
    found = {
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        "spark.sql.warehouse.dir": warehouse,
        "spark.databricks.delta.snapshotPartitions": "2",  # 50 tasks for each look at a small log take seconds
    }
    if uri is not None:
        found |= {"spark.sql.catalogImplementation": "hive", "spark.hadoop.hive.metastore.uris": uri}
    return found


def _driver(uri: str | None) -> list[str]:
    scheme, _, rest = (uri or "").partition(":")
    return jars(DRIVERS[rest.partition(":")[0]], alone=True) if scheme == "jdbc" else []


def together(*configurations: Mapping[str, str]) -> dict[str, str]:
    """The settings of one session with all of these catalogs."""
    found: dict[str, str] = {}
    for settings in configurations:
        for key, value in settings.items():
            if key in _LISTS:
                value = ",".join(dict.fromkeys([*filter(None, found.get(key, "").split(",")), *value.split(",")]))
            elif found.get(key, value) != value:
                raise ValueError(f"{key} cannot be both {found[key]} and {value} in one session")
            found[key] = value
    return found
