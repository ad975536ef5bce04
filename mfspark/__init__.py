"""Matrix factorization for recommendations on Spark, with the API of `pyspark.ml.recommendation`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mfspark.recommendation import ALS, SGD, ALSModel, SGDModel

__all__ = ["ALS", "SGD", "ALSModel", "SGDModel", "__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import the estimators on first use: the kernels must import where pyspark is absent."""
    if name in ("ALS", "ALSModel", "SGD", "SGDModel"):
        from mfspark import recommendation

        return getattr(recommendation, name)
    raise AttributeError(f"module 'mfspark' has no attribute '{name}'")
