"""Files on any file system that Spark's driver reaches through Hadoop: hdfs://, s3a://, …."""

import random
import time
from functools import cached_property
from pathlib import Path
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark.sql import SparkSession

_OBJECT_STORES = ("s3a", "s3", "gs")
_CREATE_IF_ABSENT = "fs.option.create.conditional.overwrite"
"""Hadoop's option, and the name of the capability, of a file that is created only if it does not exist when closed."""
_TAKEN = ("FileAlreadyExistsException", "RemoteFileChangedException")
"""What Hadoop raises if a file to create exists; the second if S3 found out."""
_CONFLICT = "ConditionalRequestConflict"
"""S3's answer to conditional writes at the same time, which may all get it: they are to be tried again."""
_TRIES_AFTER_CONFLICT = 5


class HadoopFiles:
    """The file system of one folder, for `FileStore`."""

    def __init__(self, spark: SparkSession, root: str) -> None:
        # Any, because py4j returns untyped proxies.
        self._jvm: Any = spark.sparkContext._jvm
        self._conf: Any = spark.sparkContext._jsc.hadoopConfiguration()
        self._gateway: Any = spark.sparkContext._gateway
        self._file_system: Any = self._path(root).getFileSystem(self._conf)
        scheme = self._path(root).toUri().getScheme() or self._file_system.getScheme()
        self.is_local = scheme == "file"
        """Whether this is the local file system."""
        self.is_object_store = scheme in _OBJECT_STORES
        self._creates_if_absent = self.is_object_store and bool(
            self._file_system.hasPathCapability(self._path(root), _CREATE_IF_ABSENT)
        )
        # Google's connector does it without the option.
        self.creates_for_one = self._creates_if_absent or scheme == "gs" or not self.is_object_store

    def local_path(self, path: str) -> Path | None:  # noqa: ARG002
        """None: the files are on other machines."""
        return None

    def qualified(self, path: str) -> str:
        """The absolute path with its scheme."""
        return str(self._file_system.makeQualified(self._path(path)).toString())

    def exists(self, path: str) -> bool:
        """Whether there is a file or folder."""
        return bool(self._file_system.exists(self._path(path)))

    def is_folder(self, path: str) -> bool:
        """Whether there is a folder."""
        return bool(self._file_system.isDirectory(self._path(path)))

    def names(self, folder: str) -> list[str]:
        """Names in a folder; none if it does not exist; of a file its own."""
        try:
            found = self._file_system.listStatus(self._path(folder))
        except Py4JJavaError as error:
            if java_class(error) == "FileNotFoundException":
                return []
            raise
        return [str(status.getPath().getName()) for status in found]

    def read(self, path: str) -> bytes:
        """Content of a file."""
        stream = self._file_system.open(self._path(path))
        try:
            return bytes(self._jvm.org.apache.commons.io.IOUtils.toByteArray(stream))
        finally:
            stream.close()

    def write(self, path: str, content: bytes) -> None:
        """Write a file, with the folders above it."""
        self._write(path, content, overwrite=True)

    def create(self, path: str, content: bytes, n_more: int = _TRIES_AFTER_CONFLICT) -> bool:
        """Write a file that does not exist; return False if it does."""
        try:
            self._write(path, content, overwrite=False)
        except Py4JJavaError as error:
            if self._creates_if_absent and n_more and _CONFLICT in str(error):
                time.sleep(random.random() / n_more)
                return self.create(path, content, n_more - 1)
            if self._creates_if_absent and _has_no_conditions(error):
                self._creates_if_absent = self.creates_for_one = False
                return self.create(path, content)
            # Hadoop raises the same exception if a parent is a file.
            if java_class(error) in _TAKEN and self.exists(path):
                return False
            raise
        return True

    def rename(self, source: str, target: str) -> None:
        """Move a file or folder to a path that does not exist."""
        _require(self._file_system.rename(self._path(source), self._path(target)))

    def rename_over(self, source: str, target: str) -> None:
        """Move a file over another in one step: one operation of the name node on HDFS."""
        option = self._jvm.org.apache.hadoop.fs.Options.Rename
        options = self._gateway.new_array(option, 1)
        options[0] = option.OVERWRITE
        context = self._jvm.org.apache.hadoop.fs.FileContext.getFileContext(self._file_system.getUri(), self._conf)
        context.rename(self._path(source), self._path(target), options)

    def delete(self, path: str) -> None:
        """Remove a file, or a folder and its content, if it exists."""
        _require(self._file_system.delete(self._path(path), True) or not self.exists(path))

    def modified_ms(self, path: str) -> int:
        """When a file was written, in milliseconds since 1970."""
        return int(self._file_system.getFileStatus(self._path(path)).getModificationTime())

    def upload(self, local_path: Path, path: str) -> None:
        """Copy a local file to a path. The bytes stay in the JVM."""
        self._file_system.copyFromLocalFile(False, True, self._path(f"file://{local_path}"), self._path(path))

    def download(self, path: str, local_path: Path) -> None:
        """Copy a file to a local path."""
        # True, the last argument, avoids a .crc file.
        self._file_system.copyToLocalFile(False, self._path(path), self._path(f"file://{local_path}"), True)

    def require_seen(self, file: str) -> None:
        """Nothing to check: Spark reaches files as this process does."""

    def require_shared(self, folder: str) -> None:
        """Nothing to check."""

    @cached_property
    def _path(self) -> Any:
        """Hadoop's Path class. By its whole name: for each part of it py4j would look through all of Spark's jars."""
        return getattr(self._jvm, "org.apache.hadoop.fs.Path")

    def _write(self, path: str, content: bytes, *, overwrite: bool) -> None:
        stream = self._open_to_write(path, overwrite)
        try:
            stream.write(bytearray(content))
        except BaseException:
            # An object store would show what was written so far.
            (stream.abort if self.is_object_store else stream.close)()
            raise
        stream.close()

    def _open_to_write(self, path: str, overwrite: bool) -> Any:
        if not self.is_object_store:
            return self._file_system.create(self._path(path), overwrite)
        builder = self._file_system.createFile(self._path(path)).recursive()
        if overwrite:  # without looking first for a folder of this name, which costs a request
            return builder.overwrite(True).opt("fs.s3a.create.performance", True).build()
        if self._creates_if_absent:
            return builder.overwrite(True).must(_CREATE_IF_ABSENT, True).build()
        return builder.overwrite(False).build()


def java_class(error: Py4JJavaError) -> str:
    """Name of the Java class of an exception."""
    return str(error.java_exception.getClass().getSimpleName())


def _has_no_conditions(error: Py4JJavaError) -> bool:
    """Whether a store answers that it does not implement conditional writes."""
    return java_class(error) == "AWSUnsupportedFeatureException"


def _require(is_done: bool) -> None:
    if not is_done:
        raise OSError(0, "the file system gives no reason")
