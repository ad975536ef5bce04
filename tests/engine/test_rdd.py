"""What only the RDD engine has; `test_engines` has what every engine keeps."""

import pytest

from mfspark.engine.rdd import RddEngine

pytestmark = pytest.mark.spark


def test_the_limit_is_taken_from_the_memory_of_an_executor(spark):
    # One GiB, Spark's default, halved, for two cores.
    assert RddEngine(spark).max_sent_bytes == 2**28
