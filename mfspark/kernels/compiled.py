"""Compiles kernels by numba's njit, without the cache if no folder for it can be written."""

import logging
from collections.abc import Callable
from functools import cache
from typing import Any

import numba

logger = logging.getLogger(__name__)


def njit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function on its first call, with numba's options.

    With cache=True numba keeps the compiled code next to the source or in the user's cache folder. If it can write to
    neither, as in some containers, each process compiles the code again, which takes some seconds.
    """

    def compiled(function: Callable[..., Any]) -> Any:
        try:
            return numba.njit(**options)(function)
        except RuntimeError as error:  # numba's "cannot cache function: no locator available"
            if "cache" not in str(error):
                raise
            _warn()
            return numba.njit(**{**options, "cache": False})(function)

    return compiled


@cache
def _warn() -> None:
    """Log the warning once per process."""
    logger.warning(
        "compiled kernels cannot be kept, and each process compiles them again: no folder can be written; set "
        "NUMBA_CACHE_DIR, on the executors by spark.executorEnv.NUMBA_CACHE_DIR, to one that can"
    )
