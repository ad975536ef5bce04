"""Train for many iterations, with a checkpoint after each, and show whether memory or seconds grow.

Prints every 20 iterations: seconds of an iteration, resident memory of the driver's JVM and Python, the JVM's live heap
after a collection, and the size of the checkpoint. Columns of the input: user_id, item_id, rating.
"""

import argparse
import logging
import tempfile
import time
from pathlib import Path

from pyspark.sql import SparkSession

from mfspark import ALS

_STEP = 20
_MIB = 2**20


class Sampler(logging.Handler):
    """Prints a line for every _STEP-th iteration in the log."""

    def __init__(self, spark: SparkSession, checkpoint_path: Path) -> None:
        super().__init__()
        self._jvm = spark.sparkContext._jvm
        self._jvm_pid = self._jvm.java.lang.ProcessHandle.current().pid()
        self._checkpoint_path, self._seconds = checkpoint_path, []
        self._since = time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        """Record the time of an iteration."""
        if not record.getMessage().startswith("iteration "):
            return
        self._seconds.append(time.monotonic() - self._since)
        if len(self._seconds) % _STEP == 0:
            self._sample()
        self._since = time.monotonic()

    def _sample(self) -> None:
        runtime = self._jvm.java.lang.Runtime.getRuntime()
        runtime.gc()
        heap = runtime.totalMemory() - runtime.freeMemory()
        saved = sum(path.stat().st_size for path in self._checkpoint_path.iterdir())
        print(
            f"{len(self._seconds):9d}  {sorted(self._seconds[-_STEP:])[_STEP // 2]:12.3f}  "
            f"{_resident_bytes(self._jvm_pid) / _MIB:9.0f}  {_resident_bytes('self') / _MIB:11.0f}  "
            f"{heap / _MIB:14.0f}  {saved / _MIB:14.1f}",
            flush=True,
        )


def _resident_bytes(pid: int | str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) * 1024


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ratings", help="Parquet file")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--iterations", type=int, default=200)
    options = parser.parse_args()
    spark = (
        SparkSession.builder.master("local[*]")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.python.unix.domain.socket.enabled", "true")
        .getOrCreate()
    )
    spark.sparkContext.setLogLevel("ERROR")
    with tempfile.TemporaryDirectory() as folder:
        sampler = Sampler(spark, Path(folder))
        logger = logging.getLogger("mfspark")
        logger.addHandler(sampler)
        logger.setLevel(logging.INFO)
        print("iteration  s/iteration*  JVM (MiB)  Python (MiB)  live heap (MiB)  checkpoint (MiB)")
        als = ALS(
            engine="rdd",
            rank=options.rank,
            maxIter=options.iterations,
            userCol="user_id",
            itemCol="item_id",
            numUserBlocks=2,
            numItemBlocks=2,
            checkpointPath=folder,
            checkpointInterval=1,
        )
        als.fit(spark.read.parquet(options.ratings))
    print(f"* median of {_STEP}, with the checkpoint")
    spark.stop()


if __name__ == "__main__":
    main()
