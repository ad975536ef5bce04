"""Finds Spark's type of each column of a Parquet file.

Spark's reader cannot be asked, because it refuses a file if it cannot read one of its columns.
"""

import json
from typing import Any

from pyspark.sql import SparkSession
from pyspark.sql.types import DataType, StructType


class ParquetTypes:
    """Converts types of Parquet columns to Spark's types. Runs on the driver."""

    def __init__(self, spark: SparkSession) -> None:
        session: Any = spark
        self._jvm, self._gateway = session._jvm, session.sparkContext._gateway
        converter = self._jvm.org.apache.spark.sql.execution.datasources.parquet.ParquetToSparkSchemaConverter
        self._converter = converter(session._jsparkSession.sessionState().conf())
        self._known: dict[str, DataType | None] = {}

    def __getitem__(self, column: Any) -> DataType | None:
        """Spark's type of a column; None if Spark cannot read it.

        column : org.apache.parquet.schema.Type
        """
        text = str(column)
        if text not in self._known:
            self._known[text] = self._convert(column)
        return self._known[text]

    def _convert(self, column: Any) -> DataType | None:
        schema = self._jvm.org.apache.parquet.schema
        alone = self._gateway.new_array(schema.Type, 1)
        alone[0] = column
        try:
            found = self._converter.convert(schema.MessageType("column", alone))
        except Exception:  # Spark cannot read the type, for whatever reason
            return None
        data_type = StructType.fromJson(json.loads(found.json()))[0].dataType
        # Spark converts the type TIME, but by default it does not read it.
        return None if data_type.typeName() == "time" else data_type
