"""The few file operations that Spark's own reading and writing lack, on any storage that Spark can write.

`Storage` goes through the Hadoop FileSystem of the running Spark (local disk, HDFS, OSS), which is what writes the
tables too: only jobs that write need it. `Folder` reads with nothing but a session, on Spark Connect as well.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Optional
from urllib.parse import unquote, urlparse
from uuid import uuid4

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import Row, SparkSession

from spark_billing.core.errors import OutputError

PARALLEL_READS = 16  # files read at once: on an object store each takes some milliseconds


class Folder:
    """A folder to read from, its paths given relative to it."""

    def __init__(self, spark: SparkSession, root: str) -> None:
        self.spark, self.root = spark, root.rstrip("/") or "/"

    def path(self, relative: str) -> str:
        return f"{self.root.rstrip('/')}/{relative}"

    def names(self, relative: str) -> list[str]:
        """The JSON files in a folder, sorted; nothing if there is no such folder."""
        rows = self._files_of(self.path(relative), "path")
        return sorted(row["path"].rpartition("/")[2] for row in rows)

    def texts(self, relative: str, names: Sequence[str]) -> dict[str, str]:
        """The content of some JSON files in a folder by their names, of those that are there."""
        if not names:
            return {}
        rows = self._files_of([self.path(f"{relative}/{name}") for name in names], "path", "content")
        return {row["path"].rpartition("/")[2]: bytes(row["content"]).decode("utf-8", "replace") for row in rows}

    def _files_of(self, paths: str | list[str], *columns: str) -> list[Row]:
        files = self.spark.read.format("binaryFile").option("pathGlobFilter", "*.json")
        try:
            return files.load(paths).select(*columns).collect()
        except PySparkException as error:
            if not path_is_absent(error):
                raise
            return []


def folder_to_read(spark: SparkSession, root: str) -> Folder:
    """A folder as this session can read it."""
    return Storage(spark, root) if hasattr(spark, "_jvm") else Folder(spark, root)


def path_is_absent(error: PySparkException) -> bool:
    return "PATH_NOT_FOUND" in str(error)


class Storage(Folder):
    """A folder to read from and to write to."""

    def __init__(self, spark: SparkSession, root: str) -> None:
        super().__init__(spark, root)
        if set(root) & set("[]{}*?\\"):
            raise OutputError(
                f"the output {root!r} has a character of []{{}}*? or a backslash, which Spark reads as a pattern"
            )
        session: Any = spark
        self._jvm = session._jvm
        try:
            path = self._jvm.org.apache.hadoop.fs.Path(self.root)
            self._files = path.getFileSystem(session._jsc.hadoopConfiguration())
            self._uri = self._files.makeQualified(path).toUri().toString()
            is_file = self._files.exists(path) and self._files.getFileStatus(path).isFile()
        except Py4JJavaError as error:
            reason = str(error.java_exception).splitlines()[0]
            raise OutputError(f"cannot use {root!r} as a folder: {reason}. Give a path this Spark can write.") from None
        if is_file:
            raise OutputError(f"the output {root!r} is a file; give a folder, which may be new")

    def _path(self, relative: str) -> Any:
        return self._jvm.org.apache.hadoop.fs.Path(self.path(relative))

    def exists(self, relative: str) -> bool:
        return bool(self._files.exists(self._path(relative)))

    def is_folder(self, relative: str) -> bool:
        return self.exists(relative) and not self._files.getFileStatus(self._path(relative)).isFile()

    def is_at(self, uri: str, relative: str) -> bool:
        """Whether a path in any of Hadoop's spellings (`file:/a`, `file:///a`) is that of a file or folder here."""
        qualified = self._files.makeQualified(self._jvm.org.apache.hadoop.fs.Path(uri))
        return bool(qualified.equals(self._files.makeQualified(self._path(relative))))

    def names(self, relative: str) -> list[str]:
        """What stands in a folder, sorted; nothing if there is no such folder."""
        if not self.exists(relative):
            return []
        found = self._jvm.org.apache.hadoop.fs.FileUtil.stat2Paths(self._files.listStatus(self._path(relative)))
        if not len(found):
            return []
        # as one text, `{PARENT/NAME,PARENT/NAME}`: each alone is a call to the JVM, and a ledger may have ten thousand
        text, parent = self._jvm.org.apache.commons.lang3.ArrayUtils.toString(found), found[0].getParent().toString()
        return sorted(f",{text[1:-1]}".split(f",{parent.rstrip('/')}/")[1:])

    def delete(self, relative: str) -> None:
        if not relative.strip("/"):
            raise ValueError(f"{self.root} itself is never deleted with what is in it")
        self._files.delete(self._path(relative), True)

    def modified(self, relative: str) -> int:
        """When a file or folder was changed last, in epoch seconds, as far as the storage knows; 0 if it is gone."""
        if not self.exists(relative):
            return 0
        return int(self._files.getFileStatus(self._path(relative)).getModificationTime()) // 1000

    def size(self, relative: str) -> tuple[int, int]:
        """How many files are below a folder, and their bytes; none if there is no such folder."""
        if not self.exists(relative):
            return 0, 0
        found = self._files.getContentSummary(self._path(relative))
        return int(found.getFileCount()), int(found.getLength())

    def delete_if_empty(self, relative: str) -> None:
        if self.exists(relative) and not self.names(relative):
            with suppress(Py4JJavaError):  # somebody has put something there
                self._files.delete(self._path(relative), False)

    def move(self, source: str, target: str) -> None:
        """A rename; what stands at the target must be gone."""
        self._files.mkdirs(self._path(target).getParent())
        if not self._files.rename(self._path(source), self._path(target)):
            raise OSError(f"cannot move {self.path(source)} to {self.path(target)}")

    def texts(self, relative: str, names: Sequence[str]) -> dict[str, str]:
        """The content of some files in a folder by their names."""
        with ThreadPoolExecutor(PARALLEL_READS) as readers:
            return dict(zip(names, readers.map(lambda name: self.read(f"{relative}/{name}"), names)))

    def read(self, relative: str) -> str:
        stream = self._files.open(self._path(relative))
        try:
            return str(self._jvm.org.apache.commons.io.IOUtils.toString(stream, "UTF-8"))
        finally:
            stream.close()

    def create(self, relative: str, text: str) -> bool:
        """Write a file that must not exist yet, whole or not at all; False if another writer was first."""
        local = self.local_path(relative)
        if local is not None:  # Hadoop's local file system looks before it creates; a hard link is one atomic step
            os.makedirs(os.path.dirname(local), exist_ok=True)
            draft = f"{os.path.dirname(local)}/.{uuid4().hex}"
            with open(draft, "x", encoding="utf-8") as file:
                file.write(text)
            try:
                os.link(draft, local)
            except FileExistsError:
                return False
            finally:
                with suppress(OSError):
                    os.remove(draft)
            return True
        # elsewhere a rename, which HDFS refuses in one step if the target is there
        draft = f"{relative.rpartition('/')[0]}/.{uuid4().hex}"
        stream = self._files.create(self._path(draft), False)
        try:
            stream.write(bytearray(text.encode("utf-8")))
        finally:
            stream.close()
        if not self.exists(relative) and self._files.rename(self._path(draft), self._path(relative)):
            return True
        self.delete(draft)
        return False

    def replace(self, relative: str, texts: Iterable[str]) -> None:
        """Write a file of these texts in place of what is there, once it is whole."""
        above, slash, _ = relative.rpartition("/")
        draft = f"{above}{slash}.{uuid4().hex}"
        local, local_target = self.local_path(draft), self.local_path(relative)
        try:
            if local is not None and local_target is not None:  # Hadoop's would leave a .crc file beside it
                os.makedirs(os.path.dirname(local), exist_ok=True)
                with open(local, "x", encoding="utf-8", errors="replace", newline="") as file:
                    file.writelines(texts)
                os.replace(local, local_target)
                return
            stream = self._files.create(self._path(draft), False)
            try:
                for text in texts:
                    stream.write(bytearray(text.encode("utf-8", "replace")))
            finally:
                stream.close()
            self._files.delete(self._path(relative), False)
            self.move(draft, relative)
        finally:
            if local is not None:
                with suppress(OSError):
                    os.remove(local)
            else:
                self.delete(draft)

    def local_path(self, relative: str) -> Optional[str]:
        """Where a file or folder is in this machine's own file system; None if the storage is another one."""
        uri = urlparse(self._uri)
        return f"{unquote(uri.path)}/{relative}" if uri.scheme == "file" else None
