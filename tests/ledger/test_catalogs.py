"""A ledger in a catalog, for real: the cases of catalog_cases.py in each kind of catalog, on the engines that have jars
for its format.
"""

import json
import os
import subprocess
from contextlib import ExitStack

import pytest

from tests.matrix import ROOT
from tests.servers.catalogs import WITHOUT_VIEWS, configuration, name_of, together
from tests.servers.engines import python
from tests.servers.processes import hdfs, hive_metastore, iceberg_rest, postgresql, sqlite

pytestmark = [pytest.mark.campaign, pytest.mark.own_spark, pytest.mark.default_engine]


@pytest.fixture(scope="module")
def distributed():
    with hdfs() as uri:
        yield uri


def run_cases(folder, spark, places, all_cases):
    """The cases on an engine, in catalogs given by warehouse and URI: all of them in some, a few in the others."""
    settings = together(
        *(
            configuration(kind, name_of(kind), warehouse=warehouse, uri=uri, spark=spark)
            for kind, (warehouse, uri) in places.items()
        )
    )
    catalogs = [
        {
            "kind": kind,
            "name": name_of(kind),
            "views": kind not in WITHOUT_VIEWS,
            "all": kind in all_cases,
            "one_writer": False,
        }
        for kind in places
    ]
    given = folder / "catalogs.json"
    given.write_text(json.dumps({"settings": settings, "catalogs": catalogs}))
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("SPARK_", "PYSPARK_", "PYTEST_"))}
    command = [
        *python(spark),
        "-m",
        "pytest",
        "-q",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        "--basetemp",
        str(folder / "cases"),
    ]
    done = subprocess.run(
        [*command, "-o", "python_files=catalog_cases.py", "tests/ledger/catalog_cases.py"],
        cwd=ROOT,
        env={**environment, "SPARK_BILLING_CATALOGS": str(given)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-20000:]}\n{done.stderr[-2000:]}"


def test_catalogs_of_iceberg_and_delta(distributed, tmp_path):
    with ExitStack() as stack:
        rest, metastore = str(tmp_path / "rest"), stack.enter_context(hive_metastore())
        places = {
            "iceberg-jdbc-postgresql": (str(tmp_path / "postgresql"), stack.enter_context(postgresql())),
            "iceberg-rest": (rest, stack.enter_context(iceberg_rest(rest))),
            "iceberg-hive": (str(tmp_path / "hive"), metastore),
            "iceberg-hadoop": (f"{distributed}/iceberg", None),
            "delta": (f"{distributed}/delta", metastore),
        }
        run_cases(tmp_path, "4.1.1", places, ("iceberg-jdbc-postgresql", "delta"))


def test_catalogs_of_paimon(distributed, tmp_path):
    places = {
        "paimon-hdfs": (f"{distributed}/paimon", None),
        "paimon-jdbc": (str(tmp_path / "paimon"), sqlite(tmp_path)),
    }
    run_cases(tmp_path, "3.5.2", places, ("paimon-hdfs",))


@pytest.mark.parametrize("spark", ["3.5.2", "4.0.1"])
def test_other_engines(distributed, tmp_path, spark):
    places = {
        "iceberg-jdbc-sqlite": (str(tmp_path / "iceberg"), sqlite(tmp_path)),
        "delta": (f"{distributed}/delta-{spark}", None),
    }
    run_cases(tmp_path, spark, places, ())
