"""Files that are whole or not there, on this machine's disk and through Hadoop's file systems."""

import pytest

from spark_billing.core.errors import TotalsError
from spark_billing.core.storage import Storage

pytestmark = pytest.mark.classic


@pytest.fixture(params=["local", "hadoop"])
def storage(request, spark, tmp_path, monkeypatch):
    if request.param == "hadoop":  # as on HDFS or OSS, here through Hadoop's local file system
        monkeypatch.setattr(Storage, "local_path", lambda storage, relative: None)
    return Storage(spark, str(tmp_path / "new"))


def names(storage, folder=""):
    return [name for name in storage.names(folder) if not name.endswith(".crc")]


def test_a_file_is_replaced_whole_or_not_at_all(storage):
    storage.replace("a.txt", ["one", " é\n"])
    storage.replace("a.txt", ["two", " é\n"])
    assert storage.read("a.txt") == "two é\n"

    def torn():
        yield "three"
        raise TotalsError("in the middle")

    with pytest.raises(TotalsError):
        storage.replace("a.txt", torn())
    assert storage.read("a.txt") == "two é\n"
    assert names(storage) == ["a.txt"]


def test_of_two_that_create_a_file_one_does(storage):
    assert storage.create("runs/1.json", "mine é")
    assert not storage.create("runs/1.json", "yours")
    assert storage.read("runs/1.json") == "mine é"
    assert names(storage, "runs") == ["1.json"]


def test_where_a_file_is(spark, tmp_path):
    storage = Storage(spark, str(tmp_path / "a b"))
    assert storage.local_path("c/d.txt") == str(tmp_path / "a b" / "c" / "d.txt")
