"""The few file operations that Spark's own reading and writing lack, on any storage that Spark can write.

`Storage` goes through the Hadoop FileSystem of the running Spark (local disk, HDFS, OSS), which is what writes the
tables too: only jobs that write need it. `Folder` reads with nothing but a session, on Spark Connect as well.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Optional
from urllib.parse import unquote, urlparse
from uuid import uuid4

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import Row, SparkSession

from spark_billing.core.errors import OutputError, StorageError

_PATH = re.compile(r"(?:file:)?/[^\s'\",;:()]+")
_STATUS = re.compile(r"\{path=(.*?); isDirectory=(?:true|false); length=(\d+)")
PARALLEL_READS = 16  # files read at once: on an object store each takes some milliseconds


class Folder:
    """A folder to read from, its paths given relative to it."""

    def __init__(self, spark: SparkSession, root: str) -> None:
        self.spark, self.root = spark, root.rstrip("/") or "/"

    def path(self, relative: str) -> str:
        return f"{self.root.rstrip('/')}/{relative}"

    def names(self, relative: str) -> list[str]:
        """The JSON files in a folder, sorted; nothing if there is no such folder."""
        files = self.spark.read.format("binaryFile").option("pathGlobFilter", "*.json")
        try:  # not as rows: an empty file has none
            return sorted(path.rpartition("/")[2] for path in files.load(self.path(relative)).inputFiles())
        except PySparkException as error:
            if not path_is_absent(error):
                raise
            return []

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


def not_allowed_to_see(location: str) -> Optional[str]:
    """Of a path on this machine that this user may not look at, that it is so: Java and Spark say that it is not there.
    None of any other path."""
    uri = urlparse(location)
    path = unquote(uri.path) if uri.scheme == "file" else location
    try:
        os.lstat(path)
        if os.path.isdir(path):
            os.scandir(path).close()
    except PermissionError:
        return (
            f"permission denied: this user may not look at {path.rstrip('/')}. Let it read that and the folders above "
            "it, or run it as a user who may."
        )
    except (OSError, ValueError):
        pass
    return None


def unseen_in(told: str) -> Optional[str]:
    """The first of the paths in an error that this user may not look at (`not_allowed_to_see`), if there is any."""
    paths = dict.fromkeys(_PATH.findall(told[:20_000]))
    return next((unseen for unseen in map(not_allowed_to_see, paths) if unseen), None)


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
        if self._files.exists(self._path(relative)):
            return True
        local = self.local_path(relative)
        if local is not None:
            unseen = not_allowed_to_see(local)
            if unseen:
                raise OutputError(unseen)
        return False

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
        try:
            listed = self._files.listStatus(self._path(relative))
        except Py4JJavaError:
            unseen = not_allowed_to_see(self.local_path(relative) or "")
            if unseen is None:
                raise
            raise OutputError(unseen) from None
        found = self._jvm.org.apache.hadoop.fs.FileUtil.stat2Paths(listed)
        if not len(found):
            return []
        # as one text, `{PARENT/NAME,PARENT/NAME}`: each alone is a call to the JVM, and a ledger may have ten thousand
        text, parent = self._jvm.org.apache.commons.lang3.ArrayUtils.toString(found), found[0].getParent().toString()
        return sorted(f",{text[1:-1]}".split(f",{parent.rstrip('/')}/")[1:])

    def delete(self, relative: str) -> None:
        if not relative.strip("/"):
            raise ValueError(f"{self.root} itself is never deleted with what is in it")
        self._files.delete(self._path(relative), True)  # what it returns is not to be relied on
        if not self.exists(relative):
            return
        local = self.local_path(relative)
        if local is not None:
            with suppress(FileNotFoundError):  # unlike Java it says why it cannot
                shutil.rmtree(local) if os.path.isdir(local) else os.remove(local)
        if self.exists(relative):
            raise StorageError(f"{self.path(relative)} was deleted without an error, and is still there")

    def make(self, relative: str) -> None:
        """A folder, and those above it."""
        local = self.local_path(relative)
        if local is not None:
            os.makedirs(local, exist_ok=True)
        elif not self._files.mkdirs(self._path(relative)):
            raise StorageError(f"cannot make the folder {self.path(relative)}")

    def files(self, relative: str) -> dict[str, int]:
        """Every file below a folder by its path from there, with its size, in one listing; none if there is no such
        folder. As when Spark reads it, what begins with _ or . is passed over."""
        local = self.local_path(relative)
        if not self.exists(relative):
            return {}
        if local is not None:  # Hadoop's starts a process for each file, to learn its owner
            found = {}
            for above, _, names in os.walk(local, onerror=_raise):
                for name in names:
                    path = f"{above}/{name}"
                    found[path[len(local) :].lstrip("/")] = os.lstat(path).st_size
        else:
            root = self._files.makeQualified(self._path(relative)).toUri().getPath()
            listed = (
                (path.partition(f"{root}/")[2], int(size)) for path, size in _STATUS.findall(self._listed(relative))
            )
            found = dict(listed)
        return {path: size for path, size in found.items() if not any(map(_is_hidden, path.split("/")))}

    def _listed(self, relative: str) -> str:
        """The status of all files below a folder, as one text: each alone is a call to the JVM."""
        files = self._files.listFiles(self._path(relative), True)
        try:
            return str(self._jvm.org.apache.hadoop.util.functional.RemoteIterators.toList(files).toString())
        except TypeError:  # Hadoop before 3.3.1 has none
            found = []
            while files.hasNext():
                found.append(files.next().toString())
            return "".join(found)

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
        """A rename; what stands at the target must be gone, or it would end up inside of it."""
        self.make(target.rpartition("/")[0])
        if self.exists(target):
            raise StorageError(f"cannot move {self.path(source)} to {self.path(target)}: that is still there")
        moved = self._files.rename(self._path(source), self._path(target))
        if moved and self.exists(target) and not self.exists(source):
            return
        local, local_target = self.local_path(source), self.local_path(target)
        if not moved and local is not None and local_target is not None and not self.exists(target):
            os.rename(local, local_target)  # unlike Java it says why it cannot
            return
        raise StorageError(f"{self.path(source)} was not moved to {self.path(target)}")

    def texts(self, relative: str, names: Sequence[str]) -> dict[str, str]:
        """The content of some files in a folder by their names."""
        with ThreadPoolExecutor(PARALLEL_READS) as readers:
            return dict(zip(names, readers.map(lambda name: self.read(f"{relative}/{name}"), names)))

    def read(self, relative: str) -> str:
        try:
            stream = self._files.open(self._path(relative))
            try:
                return str(self._jvm.org.apache.commons.io.IOUtils.toString(stream, "UTF-8"))
            finally:
                stream.close()
        except Py4JJavaError as error:
            if error.java_exception.getClass().getSimpleName() != "ChecksumException":
                raise
            above, _, name = self.path(relative).rpartition("/")
            raise OutputError(
                f"{above}/{name} is not what its checksum in {above}/.{name}.crc says. Restore it; or if it was "
                "restored, and only the checksum is older, remove that."
            ) from None

    def create(self, relative: str, text: str) -> bool:
        """Write a file that must not exist yet, whole or not at all; False if another writer was first."""
        local = self.local_path(relative)
        if local is not None:  # Hadoop's local file system looks before it creates; a hard link is one atomic step
            os.makedirs(os.path.dirname(local), exist_ok=True)
            draft = f"{os.path.dirname(local)}/.{uuid4().hex}"
            try:
                with open(draft, "x", encoding="utf-8") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())  # else a power failure could leave the name without the text
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


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or (name.startswith("_") and "=" not in name)


def _raise(error: OSError) -> None:
    raise error
