"""Files on Spark Connect: what the client reaches itself, and what the server deletes for it.

A session of Spark Connect has no JVM, so the client cannot reach Hadoop's file systems. pyarrow could reach S3, but it
cannot create a file only if it does not exist, which locks and runs need.
"""

import os
import re
from contextlib import suppress
from uuid import uuid4

from pyspark.errors import PySparkException
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from mfspark.engine.local_files import LocalFiles, local
from mfspark.engine.paths import literal
from mfspark.errors import ConfigError, OutputError

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


class ClientFiles(LocalFiles):
    """Folders of the client's machine, or mounted there, which the server reaches under the same paths.

    Raises
    ------
    OutputError    the path names another file system
    """

    def __init__(self, spark: SparkSession, root: str) -> None:
        if _SCHEME.match(root) and not root.startswith("file:/"):
            raise OutputError(
                f"cannot use '{root}' from a client of Spark Connect, which reaches only local and mounted folders; "
                "choose such a folder, or use a classic Spark session"
            )
        self._spark = spark

    def require_seen(self, file: str) -> None:
        """Check that client and server find the same file under a path, by its size and time.

        Cost: one Spark job, which lists the file.

        Raises
        ------
        ConfigError    they do not
        """
        here = {(status.st_size, status.st_mtime_ns // 1_000_000) for status in self._status(file)}
        if not here or here != set(self._seen_by_server(file)):
            raise ConfigError(
                f"the Spark Connect server and this machine do not find the same file under '{file}'; expected a "
                "folder that both reach under the same absolute path; mount it on both, or run the job on the server"
            )

    def require_shared(self, folder: str) -> None:
        """Check that client and server find the same files in a folder that the client writes.

        Cost: one Spark job; a small file.

        Raises
        ------
        ConfigError    they do not
        """
        # Spark ignores files with hidden names, but not those in a hidden folder that is named.
        probed = f"{folder}/.probe-{uuid4().hex}"
        self.write(f"{probed}/file", b"probe")
        try:
            self.require_seen(f"{probed}/file")
        finally:
            self.delete(probed)

    def _status(self, file: str) -> list[os.stat_result]:
        """The status of a file, as this machine finds it; nothing if it does not."""
        with suppress(FileNotFoundError, NotADirectoryError):
            return [local(file).stat()]
        return []

    def _seen_by_server(self, file: str) -> list[tuple[int, int]]:
        """Size in bytes and time in milliseconds of a file; nothing if the server does not find it."""
        rows = self._spark.read.format("binaryFile").load(literal(file))
        try:
            return [tuple(row) for row in rows.select("length", F.unix_millis("modificationTime")).collect()]
        except PySparkException as error:
            if "PATH_NOT_FOUND" in str(error):
                return []
            raise


def delete_on_server(path: str) -> None:
    """Delete a folder, if it exists, on any file system that the server of the active session can write."""
    from pyspark.ml.connect.readwrite import RemoteMLWriter  # needs the packages of Spark Connect

    RemoteMLWriter.handleOverwrite(path, True)
