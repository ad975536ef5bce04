"""Software versions of a run."""

import platform

import numba
import numpy
import pyarrow
import pyspark
from pyspark.sql import SparkSession

from mfspark.engine.session import java_version
from mfspark.version import __version__


def versions(spark: SparkSession) -> dict[str, str]:
    """Versions of all software that can change a result."""
    return {
        "mfspark": __version__,
        "python": platform.python_version(),
        "java": java_version(spark),
        "spark": spark.version,
        "pyspark": pyspark.__version__,
        "numpy": numpy.__version__,
        "numba": numba.__version__,
        "pyarrow": pyarrow.__version__,
    }
