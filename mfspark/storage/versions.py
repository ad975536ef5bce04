"""Software versions of a run."""

import platform

import numba
import numpy
import pyarrow
import pyspark
from pyspark.sql import SparkSession

from mfspark.version import __version__


def versions(spark: SparkSession) -> dict[str, str]:
    """Versions of all software that can change a result."""
    return {
        "mfspark": __version__,
        "python": platform.python_version(),
        "java": str(spark.sparkContext._jvm.System.getProperty("java.version")),  # type: ignore[union-attr]
        "spark": spark.version,
        "pyspark": pyspark.__version__,
        "numpy": numpy.__version__,
        "numba": numba.__version__,
        "pyarrow": pyarrow.__version__,
    }
