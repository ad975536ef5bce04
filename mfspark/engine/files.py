"""Reads, writes, copies and renames files on any file system that Spark can write."""

import json
import random
import re
import time
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import uuid4

from py4j.protocol import Py4JJavaError
from pyspark.sql import SparkSession

from mfspark.engine.failures import SPARK_ERRORS, store_failure
from mfspark.engine.session import is_connect
from mfspark.errors import OutputError

_OBJECT_STORES = ("s3a", "s3", "gs")
_SCHEME_OF_LOCAL = re.compile("^file:(//)?")
_CREATE_IF_ABSENT = "fs.option.create.conditional.overwrite"
"""Hadoop's option, and the name of the capability, of a file that is created only if it does not exist when closed."""
_TAKEN = ("FileAlreadyExistsException", "RemoteFileChangedException")
"""What Hadoop raises if a file to create exists; the second if S3 found out."""
_CONFLICT = "ConditionalRequestConflict"
"""S3's answer to conditional writes at the same time, which may all get it: they are to be tried again."""
_TRIES_AFTER_CONFLICT = 5


class FileStore:
    """The file system of one folder, reached through Hadoop: local paths, hdfs://, s3a://, ….

    Every failure raises OutputError with the path. Runs on the driver.
    """

    def __init__(self, spark: SparkSession, root: str) -> None:
        if is_connect(spark):
            raise OutputError(
                f"cannot use '{root}' in a session of Spark Connect, which has no Hadoop to reach files: jobs, runs "
                "and published models need a classic Spark session"
            )
        # Any, because py4j returns untyped proxies.
        self._jvm: Any = spark.sparkContext._jvm
        self._conf: Any = spark.sparkContext._jsc.hadoopConfiguration()
        self._gateway: Any = spark.sparkContext._gateway
        try:
            self._file_system: Any = self._path(root).getFileSystem(self._conf)
        except SPARK_ERRORS as error:
            raise _output_error("use", root, error) from error
        scheme = self._path(root).toUri().getScheme() or self._file_system.getScheme()
        self._is_local = scheme == "file"
        self.is_object_store = scheme in _OBJECT_STORES
        """Whether a rename copies and deletes each file, and a file appears whole when it is closed."""
        self._creates_if_absent = self.is_object_store and bool(
            self._file_system.hasPathCapability(self._path(root), _CREATE_IF_ABSENT)
        )
        # Google's connector does it without the option.
        self.creates_for_one = self._creates_if_absent or scheme == "gs" or not self.is_object_store
        """Whether of several jobs that create the same file at the same time only one succeeds, as far as known. Some
        stores ignore the condition, or refuse it only when a file is created."""
        if self._is_local:  # the raw file system writes no .crc files and can rename over a file
            self._file_system = self._file_system.getRawFileSystem()

    def local_path(self, path: str) -> Path | None:
        """The path as a local path; None if the file system is not a local one."""
        return Path(_SCHEME_OF_LOCAL.sub("", path)).absolute() if self._is_local else None

    def qualified(self, path: str) -> str:
        """The absolute path with its scheme, such as file:/data/output."""
        return str(self._file_system.makeQualified(self._path(path)).toString())

    def exists(self, path: str) -> bool:
        """Whether there is a file or folder with this path."""
        return bool(self._call("look at", path, self._file_system.exists, self._path(path)))

    def is_folder(self, path: str) -> bool:
        """Whether there is a folder with this path."""
        return bool(self._call("look at", path, self._file_system.isDirectory, self._path(path)))

    def list_names(self, folder: str) -> list[str]:
        """Sorted names of the files and folders in a folder; empty if the folder does not exist."""
        return list(self._call("list", folder, self._list_names, folder))

    def read_text(self, path: str) -> str:
        """Content of a UTF-8 file."""
        return str(self._call("read", path, self._read_text, path))

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

    def parquet_columns(self, path: str) -> list[Any]:
        """The columns of a Parquet file, each an org.apache.parquet.schema.Type."""
        parquet = self._jvm.org.apache.parquet.hadoop

        def read() -> list[Any]:
            reader = parquet.ParquetFileReader.open(parquet.util.HadoopInputFile.fromPath(self._path(path), self._conf))
            try:
                fields = reader.getFooter().getFileMetaData().getSchema().getFields()
                return [fields.get(i) for i in range(fields.size())]
            finally:
                reader.close()

        return list(self._call("read", path, read))

    def age_s(self, path: str) -> float:
        """Seconds since a file was written, by the clock of the file system, which may differ from this machine's."""
        probe = f"{path}-{uuid4().hex}"
        try:
            self._call("write", probe, self._write, probe, "", True)
            return (self._modified_ms(probe) - self._modified_ms(path)) / 1000
        finally:
            self.delete(probe)

    def create_text(self, path: str, text: str) -> bool:
        """Create a file; return False if it exists, for example because another job was faster.

        If several jobs do this at the same time, it succeeds for one only, if the file system `creates_for_one`.
        """
        return bool(self._call("create", path, self._create, path, text))

    def replace_text(self, path: str, text: str) -> None:
        """Replace a file atomically: readers see either the old content or the new."""
        if self.is_object_store:
            self._call("write", path, self._write, path, text, True)
            return
        temporary = hidden(path, "tmp")
        self._call("write", temporary, self._write, temporary, text, True)
        self._call("replace", path, self._rename_over, temporary, path)

    def upload(self, local_path: Path, path: str) -> None:
        """Copy a local file to this file system; it gets its name when it is complete. The bytes stay in the JVM."""
        copied = path if self.is_object_store else hidden(path, "tmp")
        copy = self._file_system.copyFromLocalFile
        self._call("write", copied, copy, False, True, self._path(f"file://{local_path}"), self._path(copied))
        if copied != path:
            self._call("replace", path, self._rename_over, copied, path)

    def download(self, path: str, local_path: Path) -> None:
        """Copy a file to this machine."""
        target = self._path(f"file://{local_path}")
        # True, the last argument, avoids a .crc file.
        self._call("read", path, self._file_system.copyToLocalFile, False, self._path(path), target, True)

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
        deleted = self._call("delete", path, self._file_system.delete, self._path(path), True)
        self._require(deleted or not self.exists(path), "delete", path)

    @cached_property
    def _path(self) -> Any:
        """Hadoop's Path class. By its whole name: for each part of it py4j would look through all of Spark's jars."""
        return getattr(self._jvm, "org.apache.hadoop.fs.Path")

    def _modified_ms(self, path: str) -> int:
        status = self._call("look at", path, self._file_system.getFileStatus, self._path(path))
        return int(status.getModificationTime())

    def _read_text(self, path: str) -> str:
        local_path = self.local_path(path)
        if local_path is not None:
            return local_path.read_text(encoding="utf-8")
        stream = self._file_system.open(self._path(path))
        try:
            return str(self._jvm.org.apache.commons.io.IOUtils.toString(stream, "UTF-8"))
        finally:
            stream.close()

    def _list_names(self, folder: str) -> list[str]:
        local_path = self.local_path(folder)
        try:
            if local_path is not None:  # py4j takes 12 ms to raise an exception of the JVM
                return sorted(entry.name for entry in local_path.iterdir())
            found = self._file_system.listStatus(self._path(folder))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except Py4JJavaError as error:
            if _java_class(error) == "FileNotFoundException":
                return []
            raise
        return sorted(status.getPath().getName() for status in found)

    def _rename(self, source: str, target: str) -> None:
        renamed = self._call("rename", source, self._file_system.rename, self._path(source), self._path(target))
        self._require(renamed, "rename", source)

    def _create(self, path: str, text: str, n_more: int = _TRIES_AFTER_CONFLICT) -> bool:
        try:
            self._write(path, text, False)
        except (FileExistsError, Py4JJavaError) as error:
            if self._creates_if_absent and n_more and _CONFLICT in str(error):
                time.sleep(random.random() / n_more)
                return self._create(path, text, n_more - 1)
            if self._creates_if_absent and _has_no_conditions(error):
                self._creates_if_absent = self.creates_for_one = False
                return self._create(path, text)
            is_taken = isinstance(error, FileExistsError) or _java_class(error) in _TAKEN
            # Hadoop raises the same exception if a parent is a file.
            if is_taken and self._file_system.exists(self._path(path)):
                return False
            raise
        return True

    def _write(self, path: str, text: str, overwrite: bool) -> None:
        local_path = self.local_path(path)
        if local_path is not None:
            # Hadoop starts a chmod process for each file, and does not create it atomically: it checks first.
            local_path.parent.mkdir(parents=True, exist_ok=True)
            with local_path.open("wb" if overwrite else "xb") as file:
                file.write(text.encode())
            return
        stream = self._open_to_write(path, overwrite)
        try:
            stream.write(bytearray(text.encode()))
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

    def _rename_over(self, source: str, target: str) -> None:
        if self._is_local:
            # rename(2) replaces a file; FileContext would delete it first.
            self._require(not self._file_system.isDirectory(self._path(target)), "replace", target)
            self._require(self._file_system.rename(self._path(source), self._path(target)), "replace", target)
        else:
            self._rename_over_remotely(source, target)

    def _rename_over_remotely(self, source: str, target: str) -> None:
        """One atomic operation of the name node on HDFS."""
        option = self._jvm.org.apache.hadoop.fs.Options.Rename
        options = self._gateway.new_array(option, 1)
        options[0] = option.OVERWRITE
        context = self._jvm.org.apache.hadoop.fs.FileContext.getFileContext(self._file_system.getUri(), self._conf)
        context.rename(self._path(source), self._path(target), options)

    def _call(self, action: str, path: str, function: Any, *args: Any) -> Any:
        try:
            return function(*args)
        except (*SPARK_ERRORS, OSError) as error:
            raise _output_error(action, path, error) from error

    @staticmethod
    def _require(is_done: bool, action: str, path: str) -> None:
        if not is_done:
            raise OutputError(f"cannot {action} '{path}'; check that the folder is writable")


def hidden(path: str, suffix: str) -> str:
    """A path beside another, for what readers must not find."""
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}.{name}.{suffix}"


def _has_no_conditions(error: Exception) -> bool:
    """Whether a store answers that it does not implement conditional writes."""
    return isinstance(error, Py4JJavaError) and _java_class(error) == "AWSUnsupportedFeatureException"


def _java_class(error: Py4JJavaError) -> str:
    return str(error.java_exception.getClass().getSimpleName())


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
