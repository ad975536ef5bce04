"""Matrix factorization for recommendations on Spark, with the API of `pyspark.ml.recommendation`."""

from mfspark.recommendation import ALS, ALSModel

__all__ = ["ALS", "ALSModel", "__version__"]

__version__ = "0.1.0"
