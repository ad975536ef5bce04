"""Reads, writes, copies and renames files, so that readers find whole files or none."""

import json
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from py4j.protocol import Py4JJavaError
from pyspark.sql import SparkSession

from mfspark.engine.connect_files import ClientFiles
from mfspark.engine.failures import SPARK_ERRORS, store_failure
from mfspark.engine.hadoop_files import HadoopFiles
from mfspark.engine.local_files import LocalFiles
from mfspark.engine.paths import hidden
from mfspark.engine.session import is_connect
from mfspark.errors import OutputError


class FileSystem(Protocol):
    """What each file system does its own way. It raises OSError, or what Spark raises."""

    @property
    def is_object_store(self) -> bool:
        """Whether a rename copies and deletes each file, and a file appears whole when it is closed."""

    @property
    def creates_for_one(self) -> bool:
        """Whether of several jobs that create the same file at the same time only one succeeds, as far as known."""

    def local_path(self, path: str) -> Path | None:
        """The path as a local path; None if the files are on other machines."""

    def qualified(self, path: str) -> str:
        """The absolute path with its scheme."""

    def exists(self, path: str) -> bool:
        """Whether there is a file or folder."""

    def is_folder(self, path: str) -> bool:
        """Whether there is a folder."""

    def names(self, folder: str) -> list[str]:
        """Names in a folder; none if it does not exist; of a file its own."""

    def read(self, path: str) -> bytes:
        """Content of a file."""

    def write(self, path: str, content: bytes) -> None:
        """Write a file, with the folders above it."""

    def create(self, path: str, content: bytes) -> bool:
        """Write a file that does not exist; return False if it does."""

    def rename(self, source: str, target: str) -> None:
        """Move a file or folder to a path that does not exist."""

    def rename_over(self, source: str, target: str) -> None:
        """Move a file over another in one step; not on an object store."""

    def delete(self, path: str) -> None:
        """Remove a file, or a folder and its content, if it exists."""

    def modified_ms(self, path: str) -> int:
        """When a file was written, in milliseconds since 1970."""

    def upload(self, local_path: Path, path: str) -> None:
        """Copy a local file to a path."""

    def download(self, path: str, local_path: Path) -> None:
        """Copy a file to a local path."""

    def require_seen(self, file: str) -> None:
        """Raise ConfigError if Spark does not find the same file under this path."""

    def require_shared(self, folder: str) -> None:
        """Raise ConfigError if Spark does not find the same files in this folder, which can be written."""


class FileStore:
    """The file system of one folder: local paths, hdfs://, s3a://, …; on Spark Connect local paths only.

    Every failure raises OutputError with the path. Runs on the driver.
    """

    def __init__(self, spark: SparkSession, root: str) -> None:
        self._system: FileSystem = self._call("use", root, _file_system, spark, root)
        self.is_object_store: bool = self._system.is_object_store
        """Whether a rename copies and deletes each file, and a file appears whole when it is closed."""

    @property
    def creates_for_one(self) -> bool:
        """Whether of several jobs that create the same file at the same time only one succeeds, as far as known. Some
        stores ignore the condition, or refuse it only when a file is created.
        """
        return self._system.creates_for_one

    def local_path(self, path: str) -> Path | None:
        """The path as a local path; None if the file system is not a local one."""
        return self._system.local_path(path)

    def qualified(self, path: str) -> str:
        """The absolute path with its scheme, such as file:/data/output."""
        return self._system.qualified(path)

    def require_seen(self, file: str) -> None:
        """Check on Spark Connect, where the server may be on another machine, that both find the same file.

        Raises
        ------
        ConfigError    they do not
        """
        self._call("look at", file, self._system.require_seen, file)

    def require_shared(self, folder: str) -> None:
        """Check on Spark Connect that client and server find the same files in a folder that the client writes.

        Raises
        ------
        ConfigError    they do not
        """
        self._call("write", folder, self._system.require_shared, folder)

    def exists(self, path: str) -> bool:
        """Whether there is a file or folder with this path."""
        return bool(self._call("look at", path, self._system.exists, path))

    def is_folder(self, path: str) -> bool:
        """Whether there is a folder with this path."""
        return bool(self._call("look at", path, self._system.is_folder, path))

    def list_names(self, folder: str) -> list[str]:
        """Sorted names of the files and folders in a folder; empty if the folder does not exist."""
        return sorted(self._call("list", folder, self._system.names, folder))

    def read_text(self, path: str) -> str:
        """Content of a UTF-8 file."""
        content: bytes = self._call("read", path, self._system.read, path)
        return content.decode(errors="replace")

    def read_json(self, path: str) -> dict[str, Any]:
        """Content of a file that holds a JSON object."""
        text = self.read_text(path)
        try:
            content = json.loads(text)
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise OutputError(
                f"expected a JSON object in '{path}', found {text[:40]!r}; the file was damaged after mfspark wrote "
                "it; restore it or remove its folder"
            )
        return content

    def age_s(self, path: str) -> float:
        """Seconds since a file was written, by the clock of the file system, which may differ from this machine's."""
        probe = f"{path}-{uuid4().hex}"
        try:
            self._call("write", probe, self._system.write, probe, b"")
            return (self._modified_ms(probe) - self._modified_ms(path)) / 1000
        finally:
            self.delete(probe)

    def create_text(self, path: str, text: str) -> bool:
        """Create a file; return False if it exists, for example because another job was faster.

        If several jobs do this at the same time, it succeeds for one only, if the file system `creates_for_one`.
        """
        return bool(self._call("create", path, self._system.create, path, text.encode()))

    def replace_text(self, path: str, text: str) -> None:
        """Replace a file atomically: readers see either the old content or the new."""
        written = self._before_rename(path)
        self._call("write", written, self._system.write, written, text.encode())
        self._appear(written, path)

    def upload(self, local_path: Path, path: str) -> None:
        """Copy a local file to this file system; it gets its name when it is complete."""
        copied = self._before_rename(path)
        self._call("write", copied, self._system.upload, local_path, copied)
        self._appear(copied, path)

    def download(self, path: str, local_path: Path) -> None:
        """Copy a file to this machine."""
        self._call("read", path, self._system.download, path, local_path)

    def replace_folder(self, source: str, target: str, seal: str) -> None:
        """Move a folder to a path; if there is a folder already, remove that one.

        seal : name of the file or folder in it that is written last and read first. An object store deletes and moves
            one file after the other: it deletes the old seal first and moves the new one last.
        """
        if self.is_object_store:
            self.delete_folder(target, seal)
            for name in sorted(self.list_names(source), key=lambda name: name == seal):
                self._rename(f"{source}/{name}", f"{target}/{name}")
            self.delete(source)
            return
        old = hidden(target, uuid4().hex)
        if self.exists(target):
            self._rename(target, old)
        self._rename(source, target)
        self.delete(old)

    def delete_folder(self, folder: str, seal: str) -> None:
        """Remove a folder, if it exists, so that readers find all of it or nothing.

        seal : name of the file or folder in it that is read first; an object store deletes it first, and then one file
            after the other
        """
        if self.is_object_store:
            self.delete(f"{folder}/{seal}")
            self.delete(folder)
        elif self.exists(folder):
            moved = hidden(folder, uuid4().hex)
            self._rename(folder, moved)
            self.delete(moved)

    def delete(self, path: str) -> None:
        """Remove a file, or a folder and its content, if it exists."""
        self._call("delete", path, self._system.delete, path)

    def _before_rename(self, path: str) -> str:
        """Where a file is written that then gets a name; an object store shows a file only when it is whole."""
        return path if self.is_object_store else hidden(path, "tmp")

    def _appear(self, written: str, path: str) -> None:
        if written != path:
            self._call("replace", path, self._system.rename_over, written, path)

    def _modified_ms(self, path: str) -> int:
        return int(self._call("look at", path, self._system.modified_ms, path))

    def _rename(self, source: str, target: str) -> None:
        self._call("rename", source, self._system.rename, source, target)

    def _call(self, action: str, path: str, function: Any, *args: Any) -> Any:
        try:
            return function(*args)
        except (*SPARK_ERRORS, OSError) as error:
            raise _output_error(action, path, error) from error


def _file_system(spark: SparkSession, root: str) -> FileSystem:
    if is_connect(spark):
        return ClientFiles(spark, root)
    hadoop = HadoopFiles(spark, root)
    return LocalFiles() if hadoop.is_local else hadoop


def _output_error(action: str, path: str, error: Exception) -> OutputError:
    failure = store_failure(path, error)
    if failure is not None:
        return OutputError(f"cannot {action} '{path}': {failure}")
    message = str(error)
    if isinstance(error, Py4JJavaError):
        message = str(error.java_exception.getMessage())
    elif isinstance(error, OSError):
        message = str(error.strerror)
    reason = next(iter(message.splitlines()), "no reason given")
    return OutputError(f"cannot {action} '{path}': {reason}; check that the folder is writable")
