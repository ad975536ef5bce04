"""Compile kernels: numba's njit, which does without its cache where no folder can be written."""

import logging
from collections.abc import Callable
from functools import cache
from typing import Any

import numba

logger = logging.getLogger(__name__)


def njit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function on its first call, with numba's options.

    With cache=True the code is kept beside the source, or in the user's folder of caches. In a container that has
    neither, each process compiles it again, in some seconds.
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
    """Say it once in a process."""
    logger.warning(
        "compiled kernels cannot be kept, and each process compiles them again: no folder can be written; set "
        "NUMBA_CACHE_DIR, on the executors by spark.executorEnv.NUMBA_CACHE_DIR, to one that can"
    )
