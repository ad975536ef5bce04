"""What the tests need of Delta and of Iceberg, under the same names."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pyspark.sql import SparkSession

COLUMNS = "user_id STRING, item_id STRING, rating DOUBLE, at BIGINT"
Row = tuple[str, str, float, int]


@dataclass(frozen=True)
class Lake(ABC):
    """The tables of one format."""

    spark: SparkSession

    name: ClassVar[str]
    catalog: ClassVar[str]
    """What comes before the name of a schema."""
    keeps_changes: ClassVar[str]
    """Properties of a table that tells what changed."""
    keeps_none: ClassVar[str]
    """And of one that does not."""

    @staticmethod
    @abstractmethod
    def settings(folder: Path) -> dict[str, str]:
        """Spark's settings for the catalog."""

    @property
    def ratings(self) -> str:
        """The table of ratings."""
        return f"{self.catalog}shop.ratings"

    @property
    def published(self) -> str:
        """The schema for what is published."""
        return f"{self.catalog}published"

    def reset(self) -> None:
        """Empty schemas."""
        for schema, tables in ((f"{self.catalog}shop", ["ratings"]), (self.published, None)):
            self.sql(f"CREATE SCHEMA IF NOT EXISTS {schema}")
            found = [row["tableName"] for row in self.sql(f"SHOW TABLES IN {schema}").collect()]
            for table in tables or found:
                self.sql(f"DROP TABLE IF EXISTS {schema}.{table} PURGE")

    def create(self, rows: Iterable[Row], columns: str = COLUMNS, properties: str | None = None) -> None:
        """Create the table of ratings."""
        kept = self.keeps_changes if properties is None else properties
        self.sql(f"CREATE TABLE {self.ratings} ({columns}) USING {self.name} TBLPROPERTIES ({kept})")
        self.insert(rows, columns)

    def insert(self, rows: Iterable[Row], columns: str = COLUMNS) -> None:
        """Add ratings, by one commit."""
        self.spark.createDataFrame(list(rows), columns).coalesce(1).writeTo(self.ratings).append()

    def sql(self, statement: str):
        return self.spark.sql(statement)

    def run_sql(self, statement: str) -> None:
        """Run a statement on the ratings: {} is the table."""
        self.sql(statement.format(self.ratings)).collect()

    @abstractmethod
    def path(self) -> str:
        """The folder of the table of ratings."""

    @abstractmethod
    def newest(self) -> int:
        """The newest version of the ratings."""

    @abstractmethod
    def compact(self) -> None:
        """Rewrite the files of the ratings; the rows stay."""

    @abstractmethod
    def forget(self) -> None:
        """Remove all versions of the ratings but the newest."""

    @abstractmethod
    def commits(self, table: str) -> list[str | None]:
        """The runs that the commits of a published table name, in their order."""


class Delta(Lake):
    """Delta, in the catalog of the session."""

    name, catalog = "delta", ""
    keeps_changes, keeps_none = "'delta.enableChangeDataFeed' = 'true'", "'delta.appendOnly' = 'false'"

    @staticmethod
    def settings(folder: Path) -> dict[str, str]:  # noqa: ARG004  # the session has a warehouse
        return {
            "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
            "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
            "spark.databricks.delta.snapshotPartitions": "1",
            "spark.databricks.delta.retentionDurationCheck.enabled": "false",
        }

    def path(self) -> str:
        return self.sql(f"DESCRIBE DETAIL {self.ratings}").first()["location"]

    def newest(self) -> int:
        return self.sql(f"DESCRIBE HISTORY {self.ratings} LIMIT 1").first()["version"]

    def compact(self) -> None:
        self.run_sql("OPTIMIZE {}")

    def forget(self) -> None:
        self.run_sql("VACUUM {} RETAIN 0 HOURS")

    def commits(self, table: str) -> list[str | None]:
        history = self.sql(f"DESCRIBE HISTORY {self.published}.{table}").orderBy("version").collect()
        return [row["userMetadata"] for row in history]


class Iceberg(Lake):
    """Iceberg, in a catalog of its own over a folder."""

    name, catalog = "iceberg", "lake."
    keeps_changes = "'write.delete.mode' = 'copy-on-write', 'write.update.mode' = 'copy-on-write'"
    keeps_none = "'write.delete.mode' = 'merge-on-read', 'write.update.mode' = 'merge-on-read'"

    @staticmethod
    def settings(folder: Path) -> dict[str, str]:
        return {
            "spark.sql.extensions": "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions",
            "spark.sql.catalog.lake": "org.apache.iceberg.spark.SparkCatalog",
            "spark.sql.catalog.lake.type": "hadoop",
            "spark.sql.catalog.lake.warehouse": str(folder),
        }

    def path(self) -> str:
        rows = self.sql(f"DESCRIBE TABLE EXTENDED {self.ratings}").where("col_name = 'Location'")
        return rows.first()["data_type"]

    def newest(self) -> int:
        return self.sql(f"SELECT snapshot_id FROM {self.ratings}.refs WHERE name = 'main'").first()[0]

    def compact(self) -> None:
        self.sql(
            f"CALL lake.system.rewrite_data_files(table => '{self.ratings}', options => map('rewrite-all', 'true'))"
        )

    def forget(self) -> None:
        self.sql(
            f"CALL lake.system.expire_snapshots(table => '{self.ratings}', older_than => TIMESTAMP '2999-01-01', "
            "retain_last => 1)"
        ).collect()

    def commits(self, table: str) -> list[str | None]:
        name = f"{self.published}.{table}.snapshots"
        rows = self.sql(f"SELECT summary['mfspark.run_id'] FROM {name} ORDER BY committed_at").collect()
        return [row[0] for row in rows]


FORMATS = {"delta": Delta, "iceberg": Iceberg}
