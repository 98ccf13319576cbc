"""Each kind of catalog for real: one session for all those that the default engine has, one for Paimon's on Spark 3.5.

What fails here says that the machine or the jars are not as the tests of ledgers in catalogs need them.
"""

from contextlib import ExitStack

import pytest

from tests.servers.catalogs import KINDS, WITHOUT_VIEWS, configuration, name_of, together
from tests.servers.engines import run
from tests.servers.processes import hdfs, hive_metastore, iceberg_rest, postgresql, sqlite

pytestmark = [pytest.mark.campaign, pytest.mark.own_spark, pytest.mark.default_engine]

PAIMON = [kind for kind in KINDS if kind.startswith("paimon")]
OTHERS = [kind for kind in KINDS if kind not in PAIMON]


@pytest.fixture(scope="module")
def distributed():
    with hdfs() as uri:
        yield uri


def tried(places, spark):
    """What each kind showed, from its warehouse and URI."""
    settings = together(
        *(
            configuration(kind, name_of(kind), warehouse=warehouse, uri=uri, spark=spark)
            for kind, (warehouse, uri) in places.items()
        )
    )
    catalogs = {name_of(kind): kind.partition("-")[0] for kind in places}
    said = run("tests.servers.trial", {"settings": settings, "catalogs": catalogs}, spark)
    assert said["spark"] == spark
    return {kind: said["seen"][name_of(kind)] for kind in places}


def check(seen):
    for kind, what in seen.items():
        view = what.pop("view")
        assert what == {"versions": 2, "now": [1, 2], "before": [1]}, kind
        assert view == (None if kind in WITHOUT_VIEWS else "0.200000000000"), kind


def test_catalogs_of_iceberg_and_delta(distributed, tmp_path):
    with ExitStack() as stack:
        metastore = stack.enter_context(hive_metastore())
        rest = str(tmp_path / "rest")
        places = {
            "iceberg-jdbc-postgresql": (str(tmp_path / "postgresql"), stack.enter_context(postgresql())),
            "iceberg-jdbc-sqlite": (str(tmp_path / "sqlite"), sqlite(tmp_path)),
            "iceberg-rest": (rest, stack.enter_context(iceberg_rest(rest))),
            "iceberg-hive": (str(tmp_path / "hive"), metastore),
            "iceberg-hadoop": (f"{distributed}/iceberg", None),
            "delta": (f"{distributed}/delta", metastore),
        }
        assert list(places) == OTHERS
        check(tried(places, "4.1.1"))


def test_catalogs_of_paimon(distributed, tmp_path):
    places = {
        "paimon-hdfs": (f"{distributed}/paimon", None),
        "paimon-jdbc": (str(tmp_path / "paimon"), sqlite(tmp_path)),
    }
    assert list(places) == PAIMON
    check(tried(places, "3.5.2"))
