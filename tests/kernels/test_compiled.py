"""Kernels work where nothing can be written."""

import subprocess
import sys

PROGRAM = """
import logging
import numba.core.caching as caching
logging.basicConfig(format="%(message)s")
caching.CacheImpl._locator_classes = []  # none of the folders that numba tries can be written
import numpy as np
from mfspark.kernels.topn import top_n
best = top_n(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32), 1, np.zeros(3, np.int64), np.empty(0, np.int32))
print(best.items)
"""


def test_without_a_folder_for_its_cache_numba_compiles_in_memory_and_says_so_once():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[0 1]\n"
    (warning,) = done.stderr.splitlines()
    assert "no folder can be written; set NUMBA_CACHE_DIR, on the executors by spark.executorEnv.NUMBA" in warning
