"""Tables of Delta or Iceberg that are copies of the tables of the run that CURRENT names.

Each table is replaced by one commit, so a query reads one run. The three commits come one after the other: the column
`run_id` tells the run, and so do the metadata of the commit (Delta's `userMetadata`, Iceberg's summary).
"""

from dataclasses import dataclass
from uuid import uuid4

from pyspark.sql import functions as F

from mfspark.config.sections import RUN_COLUMN
from mfspark.engine.failures import SPARK_ERRORS, first_line
from mfspark.errors import ConfigError
from mfspark.storage.catalog import SHOWN, CatalogSchema
from mfspark.storage.table_versions import format_of
from mfspark.storage.tables import read_table


@dataclass(frozen=True)
class CatalogTables(CatalogSchema):
    """The copies of one output. To replace one is to read and write it once."""

    kind = "tables"

    format: str
    """`delta` or `iceberg`."""

    def _require_names_and_rights(self) -> None:
        missing = [name for name in SHOWN if not self._exists(name)]
        for name in SHOWN:
            found = None if name in missing else format_of(self.spark, self._name(name))
            if name not in missing and found != self.format:
                raise ConfigError(
                    f"output.tables: '{self.schema}.{name}' is {f'a table of {found}' if found else 'no table'}; "
                    f"expected a table of {self.format}, or nothing with this name; drop it or use another schema"
                )
        if missing:
            self._require_creatable()

    def _require_creatable(self) -> None:
        """Create a table and drop it; no catalog tells otherwise that it refuses."""
        probe = self._name(f"mfspark_probe_{uuid4().hex}")
        try:
            self.spark.sql(f"CREATE TABLE {probe} (id INT) USING {self.format}")
            self.spark.sql(f"DROP TABLE {probe}")
        except SPARK_ERRORS as error:
            raise ConfigError(
                f"output.tables: cannot create a table of {self.format} in '{self.schema}': {first_line(error)}; start "
                f"Spark with the packages and the catalog of {self.format}, and check that this job may create tables"
            ) from error

    def _replace(self, name: str, run: str) -> None:
        exists, table = self._exists(name), self._name(name)
        if exists and self._run_of(table) == run:  # an earlier attempt replaced it
            return
        rows = read_table(self.spark, self._folder(name, run))
        if RUN_COLUMN not in rows.columns:
            rows = rows.withColumn(RUN_COLUMN, F.lit(run))
        writer = rows.writeTo(table).option("userMetadata", run).option("snapshot-property.mfspark.run_id", run)
        if exists and self.spark.table(table).schema.simpleString() == rows.schema.simpleString():
            writer.overwrite(F.lit(True))  # which keeps how its owner has partitioned it
        else:
            writer.using(self.format).createOrReplace()

    def _run_of(self, table: str) -> str | None:
        """The run that a table shows; None if it is empty."""
        rows = self.spark.table(table)
        row = rows.select(RUN_COLUMN).first() if RUN_COLUMN in rows.columns else None
        return None if row is None else str(row[0])
