"""Matrix factorization for recommendations on Spark, with the API of `pyspark.ml.recommendation`."""

from typing import TYPE_CHECKING, Any

from mfspark.version import __version__

if TYPE_CHECKING:
    from mfspark.batch.published import load, read
    from mfspark.ml.estimators import ALS, SGD, ALSModel, SGDModel

__all__ = ["ALS", "SGD", "ALSModel", "SGDModel", "__version__", "load", "read"]


def __getattr__(name: str) -> Any:
    """Import what needs pyspark on first use, so that the kernels import without pyspark."""
    if name in ("ALS", "ALSModel", "SGD", "SGDModel"):
        from mfspark.ml import estimators

        return getattr(estimators, name)
    if name in ("load", "read"):
        from mfspark.batch import published

        return getattr(published, name)
    raise AttributeError(f"module 'mfspark' has no attribute '{name}'")
