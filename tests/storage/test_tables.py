"""Reading ratings: what is the input's fault is told as such."""

import pytest
from pyspark.errors import PySparkException

from mfspark.errors import DataError
from mfspark.storage.tables import unreadable_input_is_data_error

DAMAGED = """Job aborted: java.lang.ArrayIndexOutOfBoundsException: Index 17202 out of bounds for length 10
\tat org.apache.parquet.column.values.dictionary.PlainValuesDictionary$PlainFloatDictionary.decodeToFloat(a.java:287)
\tat org.apache.spark.sql.execution.datasources.parquet.ParquetDictionary.decodeToFloat(ParquetDictionary.java:54)"""


def test_a_value_that_no_dictionary_has_is_a_damaged_file():
    message = "cannot read an input file: .*Index 17202 out of bounds"
    with pytest.raises(DataError, match=message), unreadable_input_is_data_error():
        raise PySparkException(DAMAGED)


def test_an_error_of_another_kind_stays_one():
    with pytest.raises(PySparkException, match="division by zero"), unreadable_input_is_data_error():
        raise PySparkException("division by zero")


@pytest.mark.spark
def test_a_file_that_is_removed_during_the_scan_is_told(spark, tmp_path):
    spark.range(3).coalesce(1).write.parquet(str(tmp_path / "in"))
    rows = spark.read.parquet(str(tmp_path / "in"))
    for file in (tmp_path / "in").glob("*.parquet"):
        file.unlink()
    message = r"an input file is gone: .*in/part-.*; start the run over, or read a newer version"
    with pytest.raises(DataError, match=message), unreadable_input_is_data_error():
        rows.collect()
