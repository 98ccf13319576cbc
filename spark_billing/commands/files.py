"""Files that a job writes for a person or reads from one, on whatever storage this Spark knows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pyspark.sql import SparkSession

from spark_billing.commands.command import say
from spark_billing.core.errors import OutputError, UsageError
from spark_billing.core.storage import Storage

_LINES_AT_ONCE = 1000


def place_of(spark: SparkSession, argument: str, path: str) -> tuple[Storage, str]:
    """The folder of a file, and its name in there; `OutputError` if that is a folder itself."""
    above, slash, name = path.rpartition("/")
    storage = Storage(spark, above or ("/" if slash else "."))
    if not name or storage.is_folder(name):
        raise OutputError(f"{argument} {path} is a folder; give the name of a file")
    return storage, name


def write_lines(spark: SparkSession, argument: str, path: str, lines: Iterable[str]) -> None:
    """A text file in place of what is there, once it is whole."""
    storage, name = place_of(spark, argument, path)
    storage.replace(name, _chunks(lines))


def say_lines(lines: Iterable[str]) -> None:
    for chunk in _chunks(lines):
        say(chunk[:-1])


def read_text(spark: SparkSession, argument: str, path: str) -> str:
    """The content of a text file; `UsageError` if there is none."""
    storage, name = place_of(spark, argument, path)
    if not storage.exists(name):
        raise UsageError(f"{argument} {path}: there is no such file")
    return storage.read(name)


def _chunks(lines: Iterable[str]) -> Iterator[str]:
    """Some lines at a time: neither all in memory nor each on its own."""
    chunk: list[str] = []
    for line in lines:
        chunk.append(f"{line}\n")
        if len(chunk) == _LINES_AT_ONCE:
            yield "".join(chunk)
            chunk = []
    if chunk:
        yield "".join(chunk)
