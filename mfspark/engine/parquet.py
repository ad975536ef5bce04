"""Finds Spark's type of each column of a Parquet file.

Spark's reader cannot be asked, because it refuses a file if it cannot read one of its columns.
"""

import json
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession
from pyspark.sql.pandas.types import from_arrow_type
from pyspark.sql.types import DataType, DecimalType, IntegerType, LongType, ShortType, StructType, TimestampType

from mfspark.engine.local_files import local
from mfspark.engine.session import is_connect
from mfspark.errors import DataError

# Arrow has these types and Spark does not: what Spark reads them as.
_READ_AS: dict[pa.DataType, DataType] = {
    pa.uint8(): ShortType(),
    pa.uint16(): IntegerType(),
    pa.uint32(): LongType(),
    pa.uint64(): DecimalType(20, 0),
}
_MOST_DIGITS = 38
"""Of a decimal in Spark."""


class ParquetTypes(Protocol):
    """The types of Parquet files. Runs on the driver."""

    def of(self, file: str) -> list[tuple[str, DataType | None]]:
        """Name and Spark's type of each column; None if Spark cannot read it.

        Cost: reads the footer of the file.
        """


def parquet_types(spark: SparkSession) -> ParquetTypes:
    """The types of files that the session reads; on Spark Connect of files that the client reaches."""
    return _ArrowTypes() if is_connect(spark) else _JavaTypes(spark)


class _JavaTypes:
    """As Spark converts them."""

    def __init__(self, spark: SparkSession) -> None:
        session: Any = spark
        self._jvm, self._gateway = session._jvm, session.sparkContext._gateway
        self._conf = session.sparkContext._jsc.hadoopConfiguration()
        converter = self._jvm.org.apache.spark.sql.execution.datasources.parquet.ParquetToSparkSchemaConverter
        self._converter = converter(session._jsparkSession.sessionState().conf())
        self._known: dict[str, DataType | None] = {}

    def of(self, file: str) -> list[tuple[str, DataType | None]]:
        """Name and type of each column."""
        parquet = self._jvm.org.apache.parquet.hadoop
        path = self._jvm.org.apache.hadoop.fs.Path(file)
        reader = parquet.ParquetFileReader.open(parquet.util.HadoopInputFile.fromPath(path, self._conf))
        try:
            fields = reader.getFooter().getFileMetaData().getSchema().getFields()
            return [(str(field.getName()), self._type(field)) for field in map(fields.get, range(fields.size()))]
        finally:
            reader.close()

    def _type(self, column: Any) -> DataType | None:
        """Spark's type of an org.apache.parquet.schema.Type."""
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


class _ArrowTypes:
    """As pyarrow finds them, where there is no JVM."""

    def of(self, file: str) -> list[tuple[str, DataType | None]]:
        """Name and type of each column."""
        try:
            with pq.ParquetFile(local(file)) as opened:
                stored = {
                    column.path: column.physical_type for column in map(opened.schema.column, range(len(opened.schema)))
                }
                return [
                    (field.name, TimestampType() if stored.get(field.name) == "INT96" else _spark_type(field.type))
                    for field in opened.schema_arrow
                ]
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"cannot read '{file}' as a Parquet file: {error}; replace it or remove it") from error


def _spark_type(arrow: pa.DataType) -> DataType | None:
    """The type that Spark reads; None where it reads none, or only through another type than pyarrow finds."""
    if isinstance(arrow, pa.DictionaryType):
        return _spark_type(arrow.value_type)
    if arrow in _READ_AS:
        return _READ_AS[arrow]
    if _is_stored_as_number(arrow):
        return LongType()
    if pa.types.is_time(arrow) or (pa.types.is_decimal(arrow) and arrow.precision > _MOST_DIGITS):
        return None
    if any(_has_numbers(arrow.field(i).type) for i in range(arrow.num_fields)):
        return None
    try:
        return from_arrow_type(arrow, prefer_timestamp_ntz=True)
    except PySparkException:
        return None


def _is_stored_as_number(arrow: pa.DataType) -> bool:
    """Whether Spark reads a whole number: a duration is one with a note for Arrow, and so are nanoseconds, with
    spark.sql.legacy.parquet.nanosAsLong.
    """
    return bool(pa.types.is_duration(arrow) or (pa.types.is_timestamp(arrow) and arrow.unit == "ns"))


def _has_numbers(arrow: pa.DataType) -> bool:
    return _is_stored_as_number(arrow) or any(_has_numbers(arrow.field(i).type) for i in range(arrow.num_fields))
