"""What the files under a usage table hold as times: instants, or times without a zone; microseconds or nanoseconds.

The schema of a folder comes from one of its files, and that of a table from the catalog. Where another file holds the
other kind, Spark reads it without a word, hours off. So the footers of the files are looked at, by the executors. Only
Parquet tells; ORC tells in which zone its times were written; text (JSON, CSV) has neither.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import reduce
from typing import Any, Optional

from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, DataType, LongType, MapType, StructType, TimestampNTZType, TimestampType

from spark_billing.core.columns import quoted
from spark_billing.core.errors import UsageError
from spark_billing.usage.footers import footers

NAME_THE_ZONE = "name the zone of the log's times (such as Asia/Shanghai or UTC)"
Path = tuple[str, ...]  # of a column: its name, or that of a field nested in one
_PARQUET, _ORC = "ParquetFileFormat", "OrcFileFormat"
_TEXT = ("JsonFileFormat", "CSVFileFormat", "XmlFileFormat")
_PARQUET_FIELD = re.compile(
    r"(?P<indent> *)(?:required|optional|repeated) (?P<type>\S+) (?P<name>.+?)"
    r"(?: \(TIMESTAMP\((?P<unit>\w+),(?P<instant>true|false)\)\)| \(\w+(?:\(.*\))?\))?(?: = [0-9]+)?(?:;| \{)"
)
_WRAPPERS = ("list", "element", "array", "bag", "array_element", "key_value", "map", "key", "value")
_looked: ContextVar[Optional[dict[tuple[str, str], list[Footer]]]] = ContextVar("looked", default=None)


@dataclass(frozen=True)
class Time:
    """A column of times in a Parquet file."""

    zoneless: bool
    nanoseconds: bool


@dataclass(frozen=True)
class Footer:
    """What some files have in common."""

    text: str
    files: list[str]

    @property
    def times(self) -> dict[Path, Time]:
        """The columns of times in a Parquet schema, fields of structs included."""
        found: dict[Path, Time] = {}
        parents: list[str] = []
        for line in self.text.splitlines():
            field = _PARQUET_FIELD.fullmatch(line)
            if field is None:
                continue
            path = (*parents[: len(field["indent"]) // 2 - 1], field["name"])
            parents = list(path)
            if field["unit"] is not None:
                found[path] = Time(field["instant"] == "false", field["unit"] == "NANOS")
            elif field["type"] == "int96":  # what Spark and Hive write instants as
                found[path] = Time(False, False)
        return found


@dataclass(frozen=True)
class Scan:
    """The files that a query reads at one place, and the columns that it takes from them."""

    file_format: str
    files: str  # one a line
    columns: StructType
    partition_columns: list[str]


@contextmanager
def looked_at_once() -> Iterator[None]:
    """For as long as it takes, the same files are looked at once."""
    token = _looked.set({})
    try:
        yield
    finally:
        _looked.reset(token)


def check_files(usage: DataFrame, *, plain: bool, zone_is_known: bool) -> None:
    """`UsageError` if the files under `call_time` of a usage hold other times than the usage says, or both kinds; or if
    ORC files were written in another zone than this Spark runs in. `plain`: it is a column as the source has it."""
    if not hasattr(usage, "_jdf"):
        return  # Spark Connect, where no job runs
    as_instants = plain and isinstance(usage.schema["call_time"].dataType, TimestampType)
    for scan in scans(usage.select("call_time")):
        times = dict(_times_in(scan.columns))
        if not times or not scan.files:
            continue
        if scan.file_format in _TEXT and as_instants and not zone_is_known:
            raise UsageError(
                f"{_name(next(iter(times)))} is declared as a timestamp over text ({_first(scan)}), where a time "
                "without an offset would pass for one in UTC. Declare it as string, which is an instant only with an "
                f"offset; or {NAME_THE_ZONE}",
                parameter="call_time_zone",
            )
        if scan.file_format == _ORC and any(not zoneless for zoneless in times.values()):
            _check_orc(usage.sparkSession, scan)
        if scan.file_format == _PARQUET:
            looks = look(usage.sparkSession, scan)
            for path, zoneless in times.items():
                _check_parquet(path, zoneless, _kinds(looks, path), as_instants)


def _check_parquet(path: Path, zoneless: bool, found: Mapping[Time, str], as_instants: bool) -> None:
    """`UsageError` if files hold a column as other times than it is declared as."""
    refuse_both_kinds(path, found)
    for time, file in found.items():
        if time.nanoseconds:
            raise UsageError(
                f"{_name(path)} is in nanoseconds in {file}, which Spark does not read under a table's timestamp. Give "
                "the files by their path, in the format parquet"
            )
        if time.zoneless and not zoneless:
            raise UsageError(
                f"{_name(path)} is a time without a zone in {file}, but the table calls it an instant, so it would "
                "pass for one in UTC. Give the files by their path, in the format parquet, or declare the column as "
                f"timestamp_ntz; and {NAME_THE_ZONE}",
                parameter="call_time_zone",
            )
        if zoneless and not time.zoneless:
            raise UsageError(
                f"{_name(path)} is an instant in {file}, but the table calls it a time without a zone. Give the files "
                "by their path, in the format parquet, or declare the column as timestamp"
            )
        if time.zoneless and as_instants:  # a view makes them in the zone of the session that has made the view
            raise UsageError(
                f"{_name(path)} is a time without a zone in {file}, and is made an instant on the way, by a view or by "
                "a union with instants. Let it stay timestamp_ntz, or bill the files by their path; and "
                + NAME_THE_ZONE,
                parameter="call_time_zone",
            )


def refuse_both_kinds(path: Path, found: Mapping[Time, str]) -> None:
    """`UsageError` if some files hold a column as instants and others as times without a zone."""
    example = {time.zoneless: file for time, file in found.items()}
    if len(example) > 1:
        raise UsageError(
            f"{_name(path)} is an instant in {example[False]}, but a time without a zone in {example[True]}; no zone "
            "can be right for both. Write the files of one kind anew as the other, or bill them as two usages, each "
            "into an output of its own"
        )


def _check_orc(spark: SparkSession, scan: Scan) -> None:
    for footer in look(spark, scan):
        written, here, same = footer.text.split("\t")
        if same != "true":
            raise UsageError(
                f"the ORC file {footer.files[0]} was written in {written or 'an unknown zone'}, and this Spark runs in "
                f"{here}: ORC keeps times without a zone, so all would be shifted. Start Spark with -Duser.timezone="
                f"{written or 'ZONE'} in spark.driver.extraJavaOptions and spark.executor.extraJavaOptions, or give "
                "Parquet."
            )


def nanoseconds_as_times(spark: SparkSession, location: str, usage: DataFrame, where: Optional[str]) -> DataFrame:
    """Parquet read from a path, with nanoseconds (which Spark reads as whole numbers) as the timestamps that they are,
    cut to microseconds. Files that hold a column in other units are read apart, and put together.

    Looked at are the files in the partitions that have rows `where` a condition holds (None: all)."""
    if not hasattr(usage, "_jdf"):
        return usage  # Spark Connect has no way to the files
    found = [scan for scan in _scans_where(usage, where) if scan.file_format == _PARQUET and scan.files]
    if not found:
        return usage
    (scan,) = found
    looks = look(spark, scan)
    paths = sorted({path for each in looks for path, time in each.times.items() if time.nanoseconds})
    if not paths:
        return usage
    for path in paths:
        refuse_both_kinds(path, _kinds(looks, path))
    reader = spark.read
    if scan.partition_columns:
        reader = reader.option("basePath", location)
    groups: dict[frozenset[tuple[Path, Time]], list[str]] = {}
    for each in looks:
        kind = frozenset((path, time) for path, time in each.times.items() if time.nanoseconds)
        groups.setdefault(kind, []).extend(each.files)
    frames = (_with_times(reader.parquet(*files), dict(kind)) for kind, files in groups.items())
    return reduce(lambda one, other: one.unionByName(other, allowMissingColumns=True), frames)


def _scans_where(usage: DataFrame, where: Optional[str]) -> list[Scan]:
    """By the parts of the condition that fit: nanoseconds are numbers here, and only times later on."""
    found = scans(usage)
    for part in () if where is None else _parts(usage.sparkSession, where):
        with suppress(PySparkException, Py4JError):
            narrower = usage.where(part)
            usage, found = narrower, scans(narrower)
    return found


def _parts(spark: Any, where: str) -> list[str]:
    """What a condition connects by AND."""
    with suppress(PySparkException, Py4JError):  # it is refused later on
        found, left = list[str](), [spark._jsparkSession.sessionState().sqlParser().parseExpression(where)]
        while left:
            part = left.pop()
            if part.getClass().getSimpleName() == "And":
                left += [part.left(), part.right()]
            else:
                found.append(part.sql())
        return found
    return []


def _with_times(rows: DataFrame, nanoseconds: Mapping[Path, Time]) -> DataFrame:
    replaced: dict[str, Column] = {}
    for path, time in nanoseconds.items():
        if not _is_long(rows.schema, path):
            continue  # within an array or a map: it stays a number
        here = ".".join(quoted(name) for name in path)
        micros = f"({here} div 1000 - if({here} % 1000 < 0, 1, 0))"  # rounded down, also before 1970
        value = F.expr(f"timestamp_micros({micros})")
        if time.zoneless:
            seconds = f"cast(cast({micros} AS decimal(20, 0)) * 0.000001BD AS decimal(18, 6))"
            value = F.expr(f"timestamp_ntz'1970-01-01 00:00:00' + make_dt_interval(0, 0, 0, {seconds})")
        whole = replaced.get(path[0], F.col(quoted(path[0])))
        nested = ".".join(quoted(name) for name in path[1:])
        replaced[path[0]] = whole.withField(nested, value) if nested else value
    return rows.withColumns(replaced)


def _is_long(dtype: DataType, path: Path) -> bool:
    for name in path:
        if not isinstance(dtype, StructType) or name not in dtype.fieldNames():
            return False
        dtype = dtype[name].dataType
    return isinstance(dtype, LongType)


def scans(rows: DataFrame) -> list[Scan]:
    """The places at which a query reads files: what lies under tables and views, without the partitions that it skips,
    and only the columns that it takes."""
    frame: Any = rows
    leaves = frame._jdf.queryExecution().sparkPlan().collectLeaves()
    found = [leaves.apply(n) for n in range(leaves.size())]
    return [_scan(frame, leaf) for leaf in found if leaf.getClass().getSimpleName() == "FileSourceScanExec"]


def _scan(rows: Any, leaf: Any) -> Scan:
    relation, filters = leaf.relation(), leaf.partitionFilters()
    if filters.isEmpty():
        names = rows.sparkSession._jvm.scala.Predef.genericWrapArray(relation.location().inputFiles())
        files = names.mkString("\n")  # as one text: a call for each name is slow
    else:
        listed = relation.location().listFiles(filters, leaf.dataFilters())
        folders = [listed.apply(n).files() for n in range(listed.size())]
        files = "\n".join(
            folder.apply(n).getPath().toUri().toString() for folder in folders for n in range(folder.size())
        )
    columns = StructType.fromJson(json.loads(leaf.requiredSchema().json()))
    partitions = json.loads(relation.partitionSchema().json())["fields"]
    file_format = relation.fileFormat().getClass().getSimpleName()
    return Scan(file_format, files, columns, [field["name"] for field in partitions])


def look(spark: SparkSession, scan: Scan) -> list[Footer]:
    """What the files of a scan say, put together by what they say; the executors look."""
    looked, asked = _looked.get(), (scan.file_format, scan.files)
    if looked is not None and asked in looked:
        return looked[asked]
    kind = "orc" if scan.file_format == _ORC else "parquet"
    found = [Footer(row["text"], sorted(row["files"])) for row in footers(spark, kind, scan.files.split("\n"))]
    found.sort(key=lambda footer: footer.files[0])
    for footer in found:
        if footer.text.startswith("unreadable\t"):
            reason = " ".join(footer.text.split()[1:])
            raise UsageError(f"cannot read the file {footer.files[0]} as {kind}: {reason}. Write it anew, or remove it")
    if looked is not None:
        looked[asked] = found
    return found


def _kinds(looks: Iterable[Footer], path: Path) -> dict[Time, str]:
    """What a column is in files that have it, each with a file."""
    found: dict[Time, str] = {}
    for each in looks:
        for other, time in each.times.items():
            if _plain(other) == _plain(path):
                found.setdefault(time, each.files[0])
    return found


def _times_in(dtype: DataType, path: Path = ()) -> Iterator[tuple[Path, bool]]:
    """The timestamps in a type, and whether they are without a zone."""
    if isinstance(dtype, (TimestampType, TimestampNTZType)):
        yield path, isinstance(dtype, TimestampNTZType)
    elif isinstance(dtype, StructType):
        for field in dtype.fields:
            yield from _times_in(field.dataType, (*path, field.name))
    elif isinstance(dtype, ArrayType):
        yield from _times_in(dtype.elementType, path)
    elif isinstance(dtype, MapType):
        yield from _times_in(dtype.valueType, path)


def _plain(path: Path) -> Path:
    """Without regard to case, as Spark finds columns, and to how a writer wraps the elements of arrays and maps."""
    return tuple(name.lower() for name in path if name.lower() not in _WRAPPERS)


def _name(path: Path) -> str:
    return ".".join(path)


def _first(scan: Scan) -> str:
    return scan.files.partition("\n")[0]
