"""Checkpoints: a folder with one file each; the newest file counts.

A file is a numpy .npz without pickled objects. It is written on this machine, copied under a hidden name and renamed;
then older files are deleted. So the newest visible file is complete, even after a crash. Tables, which the executors
write, are Parquet beside it; they are whole before the file appears, which names them.
"""

import json
import re
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession

from mfspark.engine.failures import SPARK_ERRORS, first_line
from mfspark.engine.files import FileStore
from mfspark.errors import OutputError
from mfspark.storage.tables import read_table, write_table

_FILE_NAME = re.compile(r"iteration-(\d+)\.npz")
_CONTENT, _TABLES = "content", "tables"


class CheckpointFolder:
    """The checkpoints of one training. Runs on the driver; on Spark Connect in a folder that the client reaches. The
    executors need the folder too if there are tables.
    """

    def __init__(self, spark: SparkSession, path: str) -> None:
        self.path = path.rstrip("/")
        self._spark, self._files = spark, FileStore(spark, self.path)

    def get(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]], dict[str, DataFrame]] | None:
        """Content, arrays and tables of the newest checkpoint; None if there is none.

        Raises
        ------
        OutputError    it cannot be read, or is damaged
        """
        names = {int(match[1]): match[0] for match in map(_FILE_NAME.fullmatch, self._names()) if match}
        if not names:
            return None
        path = f"{self.path}/{names[max(names)]}"
        with tempfile.TemporaryDirectory(prefix="mfspark-") as folder:
            local_path = Path(folder) / "checkpoint.npz"
            self._files.download(path, local_path)
            try:
                with local_path.open("rb") as file, np.load(file, allow_pickle=False) as members:
                    arrays = dict(members)
                content = json.loads(arrays.pop(_CONTENT).tobytes())
                names_of_tables = json.loads(arrays.pop(_TABLES).tobytes())
            except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
                raise OutputError(f"the checkpoint '{path}' is damaged: {error}; delete it to start over") from error
        try:
            tables = {table: read_table(self._spark, self._path_of(max(names), table)) for table in names_of_tables}
        except SPARK_ERRORS as error:
            raise OutputError(
                f"cannot read the tables of the checkpoint '{path}': {first_line(error)}; put it where executors and "
                "driver find the same files, or delete it to start over"
            ) from error
        return content, arrays, tables

    def put(
        self,
        iteration: int,
        content: dict[str, Any],
        arrays: dict[str, NDArray[Any]],
        tables: dict[str, DataFrame],
    ) -> None:
        """Add a checkpoint, then delete the older ones.

        content : JSON

        Cost: the bytes of the arrays, twice to the local disk and once to the folder; the executors write the tables.
        """
        name = f"iteration-{iteration:06d}.npz"
        if tables:
            self._files.require_shared(self.path)
        for table, rows in tables.items():
            write_table(rows, self._path_of(iteration, table))
        members: dict[str, Any] = {_CONTENT: _json(content), _TABLES: _json(list(tables)), **arrays}
        with tempfile.TemporaryDirectory(prefix="mfspark-") as folder:
            local_path = Path(folder) / name
            try:
                np.savez(local_path, **members)
            except OSError as error:
                raise OutputError(
                    f"cannot write '{local_path}': {error.strerror}; check the free space in TMPDIR"
                ) from error
            self._files.upload(local_path, f"{self.path}/{name}")
        kept = {name, *(_table_name(iteration, table) for table in tables)}
        for other in self._names():
            if other not in kept:
                self._files.delete(f"{self.path}/{other}")

    def _path_of(self, iteration: int, table: str) -> str:
        return self._files.qualified(f"{self.path}/{_table_name(iteration, table)}")

    def _names(self) -> list[str]:
        return self._files.list_names(self.path)


def _table_name(iteration: int, table: str) -> str:
    return f"iteration-{iteration:06d}.{table}.parquet"


def _json(content: Any) -> NDArray[np.uint8]:
    return np.frombuffer(json.dumps(content).encode(), np.uint8)
