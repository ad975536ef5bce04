"""Views of a catalog over the tables of the run that CURRENT names.

Each view names the folder of one run, so a query reads one run from start to end, also if the view is replaced
meanwhile. As long as VIEWS and CURRENT differ, old runs are kept, because a view may still name one of them.
"""

import logging

from mfspark.config.sections import RUN_COLUMN
from mfspark.engine.failures import SPARK_ERRORS, first_line
from mfspark.engine.paths import literal
from mfspark.errors import ConfigError
from mfspark.storage.catalog import SHOWN, CatalogSchema
from mfspark.storage.tables import read_table

logger = logging.getLogger(__name__)


class Views(CatalogSchema):
    """The views of one output. Each method takes a few calls of the catalog."""

    kind, names_folders = "views", True

    def _require_names_and_rights(self) -> None:
        self._require_catalog_with_views()
        for name in SHOWN:
            if self._exists(name) and self.spark.catalog.getTable(self._name(name)).tableType != "VIEW":
                raise ConfigError(
                    f"output.views: '{self.schema}.{name}' is a table; expected a view, or nothing with this name; "
                    "drop the table or use another schema"
                )
        if self._is_in_memory:
            logger.warning(
                "output.views: the catalog of this session is in memory, so the views end with the session; set "
                "spark.sql.catalogImplementation=hive to keep them"
            )

    def _replace(self, name: str, run: str) -> None:
        folder = self._folder(name, run)
        more = "" if RUN_COLUMN in read_table(self.spark, folder).columns else f", '{run}' AS {RUN_COLUMN}"
        query = f"SELECT *{more} FROM parquet.`{literal(folder).replace('`', '``')}`"
        # Spark drops the view and creates it again at CREATE OR REPLACE VIEW, so readers would find none in between;
        # ALTER VIEW changes it in one step.
        verb = "ALTER" if self._exists(name) else "CREATE"
        self.spark.sql(f"{verb} VIEW {self._name(name)} AS {query}")

    def _require_catalog_with_views(self) -> None:
        """Raise ConfigError if the catalog of the schema has only tables, as most catalogs of connectors have."""
        try:
            row = self.spark.sql(f"EXPLAIN CREATE VIEW {self._name('recommendations')} AS SELECT 1").first()
            reason = None if row is None or "CreateView" in row[0] else row[0].strip().splitlines()[-1]
        except SPARK_ERRORS as error:
            reason = first_line(error)
        if reason is not None:
            raise ConfigError(
                f"output.views: the catalog of '{self.schema}' has no views over files: {reason}; expected a schema of "
                "spark_catalog, such as one in a Hive metastore"
            )

    @property
    def _is_in_memory(self) -> bool:
        """Whether the views are kept by this session alone."""
        if self.schema.count(".") and not self.schema.startswith("spark_catalog."):
            return False
        return self.spark.conf.get("spark.sql.catalogImplementation") == "in-memory"
