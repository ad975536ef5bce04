"""What a catalog shows of the run that CURRENT names, for readers who know SQL and no paths.

::

    <output.path>/
      VIEWS, TABLES           the schema and the run that all its views or tables show; after a failure also which do

Views name the folder of a run (`storage/views.py`); tables are copies (`storage/catalog_tables.py`).
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from pyspark.sql import SparkSession

from mfspark.engine.failures import SPARK_ERRORS, first_line
from mfspark.engine.files import FileStore
from mfspark.errors import ConfigError, OutputError
from mfspark.storage.retention import current_name

logger = logging.getLogger(__name__)

SHOWN = ("recommendations", "user_factors", "item_factors")
"""The tables of a run that a catalog shows, under the same names."""


@dataclass(frozen=True)
class CatalogSchema(ABC):
    """A schema that shows the current run of one output. Runs on the driver."""

    spark: SparkSession
    files: FileStore
    output_path: str
    schema: str
    """`schema` or `catalog.schema`."""

    kind: ClassVar[str]
    """`views` or `tables`: what it holds, its setting of `output`, and in capitals its file."""
    names_folders: ClassVar[bool]
    """Whether they read the folders of runs."""

    def require_replaceable(self) -> None:
        """Check, before a job works for hours, that the schema can have the views or tables.

        Raises
        ------
        ConfigError    the schema does not exist or cannot have them, or one of their names is taken
        """
        expected = "expected a schema of the session's catalog"
        try:
            exists = self.spark.catalog.databaseExists(self._quoted)
        except SPARK_ERRORS as error:
            raise ConfigError(
                f"output.{self.kind}: cannot look for the schema '{self.schema}': {first_line(error)}; {expected}; set "
                "spark.sql.catalog.… of its catalog"
            ) from error
        if not exists:
            raise ConfigError(
                f"output.{self.kind}: the schema '{self.schema}' does not exist; {expected}; create it with CREATE "
                f"SCHEMA {self.schema}, or, if it is in a Hive metastore, set spark.sql.catalogImplementation=hive"
            )
        self._require_names_and_rights()

    def are_current(self) -> bool:
        """Whether all of them show the run that CURRENT names."""
        path = self._path
        return self.files.exists(path) and self.files.read_text(path) == self._state(self._current())

    def replace(self) -> None:
        """Let them show the run that CURRENT names, one after the other.

        Raises
        ------
        OutputError    at least one could not be replaced; the rest were
        """
        run = self._current()
        if run is None:
            return
        failed: dict[str, Exception] = {}
        done = self._shown_of(run)
        for name in [name for name in SHOWN if name not in done]:
            try:
                self._replace(name, run)
            except SPARK_ERRORS as error:
                failed[name] = error
            else:
                done.append(name)
        if failed:
            self.files.replace_text(self._path, f"{self.schema} {run} {' '.join(done)}\n")
            raise OutputError(
                f"run '{run}' is published, but {len(failed)} of its {len(SHOWN)} {self.kind} could not be replaced "
                f"and do not show it: {', '.join(f'{self.schema}.{name}' for name in failed)}: "
                f"{first_line(next(iter(failed.values())))}; check that this job may replace {self.kind} in "
                f"'{self.schema}', then repeat the run with --resume, or the rollback with --run-id {run}; the next "
                "run replaces them too"
            )
        self.files.replace_text(self._path, self._state(run))
        logger.info("the %s in '%s' show run %s", self.kind, self.schema, run)

    def _shown_of(self, run: str) -> list[str]:
        """What an earlier attempt already let show this run."""
        words = self.files.read_text(self._path).split() if self.files.exists(self._path) else []
        return words[2:] if words[:2] == [self.schema, run] else []

    @abstractmethod
    def _require_names_and_rights(self) -> None:
        """Raise ConfigError if the schema, which exists, cannot have them."""

    @abstractmethod
    def _replace(self, name: str, run: str) -> None:
        """Let one show a run, in one step."""

    def _folder(self, name: str, run: str) -> str:
        return self.files.qualified(f"{self.output_path}/runs/{run}/{name}")

    def _exists(self, name: str) -> bool:
        return self.spark.catalog.tableExists(self._name(name))

    def _name(self, name: str) -> str:
        return f"{self._quoted}.`{name}`"

    @property
    def _quoted(self) -> str:
        return ".".join(f"`{part}`" for part in self.schema.split("."))

    @property
    def _path(self) -> str:
        return f"{self.output_path}/{self.kind.upper()}"

    def _state(self, run: str | None) -> str:
        return f"{self.schema} {run}\n"

    def _current(self) -> str | None:
        return current_name(self.files, self.output_path)


def replace_all(schemas: Iterable[CatalogSchema]) -> None:
    """Let schemas show the run that CURRENT names; if one fails, the others do it all the same.

    Raises
    ------
    OutputError    a view or table could not be replaced
    """
    errors = []
    for schema in schemas:
        try:
            schema.replace()
        except OutputError as error:
            errors.append(str(error))
    if errors:
        raise OutputError("; ".join(errors))
