"""Tables of Delta or Iceberg that are copies of the tables of the run that CURRENT names.

Each table is replaced by one commit, so a query reads one run. The three commits come one after the other: the column
`run_id` tells the run, and so do the metadata of the commit (Delta's `userMetadata`, Iceberg's summary).
"""

from dataclasses import dataclass

from pyspark.sql import functions as F
from pyspark.sql.types import ByteType, ShortType

from mfspark.config.sections import RUN_COLUMN
from mfspark.engine.failures import SPARK_ERRORS, first_line
from mfspark.errors import ConfigError
from mfspark.storage.catalog import SHOWN, CatalogSchema
from mfspark.storage.table_versions import format_of
from mfspark.storage.tables import read_table


@dataclass(frozen=True)
class CatalogTables(CatalogSchema):
    """The copies of one output. To replace one is to read and write it once."""

    kind, names_folders = "tables", False

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
        """Create a table and drop it: there is no other way to ask a catalog whether it allows that."""
        probe = self._name("mfspark_probe")
        try:
            self.spark.sql(f"DROP TABLE IF EXISTS {probe}")
            self.spark.sql(f"CREATE TABLE {probe} (id INT) USING {self.format}")
            self.spark.sql(f"DROP TABLE {probe}")
        except SPARK_ERRORS as error:
            raise ConfigError(
                f"output.tables: cannot create and drop a table of {self.format} in '{self.schema}': "
                f"{first_line(error)}; start Spark with the packages and the catalog of {self.format}, and check that "
                "this job may do that"
            ) from error

    def _replace(self, name: str, run: str) -> None:
        exists, table = self._exists(name), self._name(name)
        rows = read_table(self.spark, self._folder(name, run))
        if RUN_COLUMN not in rows.columns:
            rows = rows.withColumn(RUN_COLUMN, F.lit(run))
        for field in rows.schema:
            if isinstance(field.dataType, ByteType | ShortType):  # Iceberg has none
                rows = rows.withColumn(field.name, F.col(f"`{field.name}`").cast("int"))
        writer = rows.writeTo(table).option("userMetadata", run).option("snapshot-property.mfspark.run_id", run)
        if exists and self.spark.table(table).schema.simpleString() == rows.schema.simpleString():
            writer.overwrite(F.lit(True))  # which keeps how its owner has partitioned it
        else:
            writer.using(self.format).createOrReplace()
