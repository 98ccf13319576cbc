"""The few file operations that Spark's own reading and writing lack, on any storage that Spark can write.

`Storage` goes through the Hadoop FileSystem of the running Spark (local disk, HDFS, OSS), which is what writes the
tables too: only jobs that write need it. `Folder` reads with nothing but a session, on Spark Connect as well.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Optional
from urllib.parse import unquote, urlparse
from uuid import uuid4

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from spark_billing.core.errors import OutputError

PARALLEL_READS = 16  # files read at once: on an object store each takes some milliseconds


class Folder:
    """A folder to read from, its paths given relative to it."""

    def __init__(self, spark: SparkSession, root: str) -> None:
        self.spark, self.root = spark, root.rstrip("/") or "/"

    def path(self, relative: str) -> str:
        return f"{self.root.rstrip('/')}/{relative}"

    def texts(self, relative: str) -> dict[str, str]:
        """The content of each JSON file in a folder by its name; nothing if there is no such folder."""
        files = self.spark.read.format("binaryFile").option("pathGlobFilter", "*.json")
        try:
            rows = files.load(self.path(relative)).select("path", "content").collect()
        except PySparkException as error:
            if not path_is_absent(error):
                raise
            return {}
        return {row["path"].rpartition("/")[2]: bytes(row["content"]).decode("utf-8") for row in rows}


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
        return sorted(status.getPath().getName() for status in self._files.listStatus(self._path(relative)))

    def delete(self, relative: str) -> None:
        self._files.delete(self._path(relative), True)

    def delete_if_empty(self, relative: str) -> None:
        if self.exists(relative) and not self.names(relative):
            with suppress(Py4JJavaError):  # somebody has put something there
                self._files.delete(self._path(relative), False)

    def move(self, source: str, target: str) -> None:
        """A rename; what stands at the target must be gone."""
        self._files.mkdirs(self._path(target).getParent())
        if not self._files.rename(self._path(source), self._path(target)):
            raise OSError(f"cannot move {self.path(source)} to {self.path(target)}")

    def texts(self, relative: str) -> dict[str, str]:
        """The content of each JSON file in a folder by its name; nothing if there is no such folder."""
        with ThreadPoolExecutor(PARALLEL_READS) as readers:
            # a draft of another writer (`create`) may be gone before it is read
            names = [name for name in self.names(relative) if name.endswith(".json")]
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
