"""Which catalogs are refused because two runs could both commit, as their settings tell; the formats are not needed."""

import pytest

from spark_billing.ledger.exclusion import why_not_exclusive
from spark_billing.ledger.formats import TableName

HADOOP = "org.apache.iceberg.hadoop.HadoopCatalog"


@pytest.mark.parametrize(
    ("provider", "given", "why"),
    [
        ("iceberg", {"type": "hadoop", "warehouse": "hdfs://host/w"}, None),
        ("iceberg", {"catalog-impl": HADOOP, "warehouse": "viewfs://host/w"}, None),
        ("iceberg", {"catalog-impl": HADOOP, "warehouse": "oss://bucket/w"}, "on oss:// that does not say"),
        ("iceberg", {"type": "hadoop", "warehouse": "gs://bucket/w"}, "on gs:// that does not say"),
        ("iceberg", {"type": "hadoop", "warehouse": "/w"}, "on a local disk"),
        ("iceberg", {"type": "jdbc", "warehouse": "oss://bucket/w"}, None),
        ("iceberg", {"catalog-impl": "org.apache.iceberg.rest.RESTCatalog", "warehouse": "name"}, None),
        ("iceberg", {}, None),  # nothing to be seen: the platform's own
        ("paimon", {"metastore": "jdbc", "warehouse": "hdfs://host/w"}, "locks only with lock.enabled=true"),
        ("paimon", {"metastore": "filesystem", "warehouse": "abfs://bucket/w"}, "on abfs:// that does not say"),
        ("paimon", {"warehouse": "file:/w"}, "on a local disk"),
        ("paimon", {"metastore": "hive", "warehouse": "oss://bucket/w"}, "on oss:// that does not say"),
    ],
)
def test_what_the_settings_tell(spark, provider, given, why):
    names = {f"spark.sql.catalog.seen.{key}": value for key, value in given.items()}
    for name, value in names.items():
        spark.conf.set(name, value)
    try:
        found = why_not_exclusive(spark, provider, TableName("seen.billing", "ledger"), "scratch")
    finally:
        for name in names:
            spark.conf.unset(name)
    assert (found is None) if why is None else why in found
