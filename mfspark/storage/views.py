"""Views of a catalog over the tables of the run that CURRENT names, for readers who know SQL and no paths.

::

    <output.path>/
      VIEWS                   the schema and the run that all views name; written when all of them were replaced

Each view names the folder of one run, so a query reads one run from start to end, also if the view is replaced
meanwhile. As long as VIEWS and CURRENT differ, old runs are kept, because a view may still name one of them.
"""

import logging
from dataclasses import dataclass

from pyspark.sql import SparkSession

from mfspark.config.sections import RUN_COLUMN, OutputConfig
from mfspark.engine.failures import SPARK_ERRORS, first_line
from mfspark.engine.files import FileStore
from mfspark.errors import ConfigError, OutputError
from mfspark.storage.retention import current_name
from mfspark.storage.tables import literal, read_table

logger = logging.getLogger(__name__)

VIEWS = ("recommendations", "user_factors", "item_factors")
"""The tables of a run that have a view, which has the same name."""


@dataclass(frozen=True)
class Views:
    """The views of one output. Runs on the driver; each method takes a few calls of the catalog."""

    spark: SparkSession
    files: FileStore
    output_path: str
    schema: str
    """`schema` or `catalog.schema`."""

    def require_replaceable(self) -> None:
        """Check, before a job works for hours, that the schema can have the views.

        Raises
        ------
        ConfigError    the schema does not exist, its catalog has no views, or a table has the name of a view
        """
        expected = "expected a schema of the session's catalog"
        try:
            exists = self.spark.catalog.databaseExists(self._quoted)
        except SPARK_ERRORS as error:
            raise ConfigError(
                f"output.views: cannot look for the schema '{self.schema}': {first_line(error)}; {expected}; set "
                "spark.sql.catalog.… of its catalog"
            ) from error
        if not exists:
            raise ConfigError(
                f"output.views: the schema '{self.schema}' does not exist; {expected}; create it with CREATE SCHEMA "
                f"{self.schema}, or, if it is in a Hive metastore, set spark.sql.catalogImplementation=hive"
            )
        self._require_catalog_with_views()
        for name in VIEWS:
            if self._exists(name) and self.spark.catalog.getTable(self._view(name)).tableType != "VIEW":
                raise ConfigError(
                    f"output.views: '{self.schema}.{name}' is a table; expected a view, or nothing with this name; "
                    "drop the table or use another schema"
                )
        if self._is_in_memory:
            logger.warning(
                "output.views: the catalog of this session is in memory, so the views end with the session; set "
                "spark.sql.catalogImplementation=hive to keep them"
            )

    def are_current(self) -> bool:
        """Whether all views name the run that CURRENT names."""
        path = self._path
        return self.files.exists(path) and self.files.read_text(path) == self._state(self._current())

    def replace(self) -> None:
        """Let the views name the run that CURRENT names.

        Raises
        ------
        OutputError    a view could not be replaced; the others were
        """
        run = self._current()
        if run is None:
            return
        failed: dict[str, Exception] = {}
        for name in VIEWS:
            try:
                self._replace(name, run)
            except SPARK_ERRORS as error:
                failed[name] = error
        if failed:
            raise OutputError(
                f"run '{run}' is published, but {len(failed)} of its {len(VIEWS)} views could not be replaced and do "
                f"not show it: {', '.join(f'{self.schema}.{name}' for name in failed)}: "
                f"{first_line(next(iter(failed.values())))}; check that this job may replace views in '{self.schema}', "
                "then repeat the command (a run with --resume); the next run replaces them too"
            )
        self.files.replace_text(self._path, self._state(run))
        logger.info("the views in '%s' show run %s", self.schema, run)

    def _replace(self, name: str, run: str) -> None:
        path = self.files.qualified(f"{self.output_path}/runs/{run}/{name}")
        columns = read_table(self.spark, path).columns
        more = "" if RUN_COLUMN in columns else f", '{run}' AS {RUN_COLUMN}"
        query = f"SELECT *{more} FROM parquet.`{literal(path).replace('`', '``')}`"
        # Spark drops the view and creates it again at CREATE OR REPLACE VIEW, so readers would find none in between;
        # ALTER VIEW changes it in one step.
        verb = "ALTER" if self._exists(name) else "CREATE"
        self.spark.sql(f"{verb} VIEW {self._view(name)} AS {query}")

    def _require_catalog_with_views(self) -> None:
        """Raise ConfigError if the catalog of the schema has only tables, as most catalogs of connectors have."""
        try:
            row = self.spark.sql(f"EXPLAIN CREATE VIEW {self._view('recommendations')} AS SELECT 1").first()
            reason = None if row is None or "CreateView" in row[0] else row[0].strip().splitlines()[-1]
        except SPARK_ERRORS as error:
            reason = first_line(error)
        if reason is not None:
            raise ConfigError(
                f"output.views: the catalog of '{self.schema}' has no views over files: {reason}; expected a schema of "
                "spark_catalog, such as one in a Hive metastore"
            )

    def _exists(self, name: str) -> bool:
        return self.spark.catalog.tableExists(self._view(name))

    def _view(self, name: str) -> str:
        return f"{self._quoted}.`{name}`"

    @property
    def _quoted(self) -> str:
        return ".".join(f"`{part}`" for part in self.schema.split("."))

    @property
    def _is_in_memory(self) -> bool:
        """Whether the views are kept by this session alone."""
        if self.schema.count(".") and not self.schema.startswith("spark_catalog."):
            return False
        return self.spark.conf.get("spark.sql.catalogImplementation") == "in-memory"

    @property
    def _path(self) -> str:
        return f"{self.output_path}/VIEWS"

    def _state(self, run: str | None) -> str:
        return f"{self.schema} {run}\n"

    def _current(self) -> str | None:
        return current_name(self.files, self.output_path)


def views_of(spark: SparkSession, files: FileStore, config: OutputConfig) -> Views | None:
    """The views of an output; None if it has none."""
    return None if config.views is None else Views(spark, files, config.path.rstrip("/"), config.views)
