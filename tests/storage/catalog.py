"""A session with a real Hive metastore, in embedded Derby, in a process of its own: a session keeps its catalog.

python -m tests.storage.catalog FOLDER

It publishes made-up runs, with readers that query the views again and again. FOLDER/seen.json has what they saw.
"""

import json
import sys
import threading
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import SparkSession

from mfspark.config.sections import InputConfig, OutputConfig, PipelineConfig
from mfspark.storage.catalog import SHOWN, replace_all
from mfspark.storage.lock import lock_output
from mfspark.storage.rollback import roll_back
from mfspark.storage.runs import catalogs_of, open_run
from tests.conftest import JAVA_OPTIONS

N_PUBLICATIONS, KEEP_RUNS = 10, 2


def hive_session(folder: Path) -> SparkSession:
    return (
        SparkSession.builder.master("local[2]")
        .config("spark.ui.enabled", False)
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.sql.shuffle.partitions", 1)
        .config("spark.sql.catalogImplementation", "hive")
        .config("spark.sql.warehouse.dir", str(folder / "warehouse"))
        .config("spark.hadoop.javax.jdo.option.ConnectionURL", "jdbc:derby:memory:metastore;create=true")
        .config("spark.hadoop.datanucleus.schema.autoCreateAll", True)
        .config("spark.driver.extraJavaOptions", f"{JAVA_OPTIONS} -Dderby.system.home={folder}")
        .getOrCreate()
    )


class Reader(threading.Thread):
    """Does one query again and again."""

    def __init__(self, spark: SparkSession, query: str) -> None:
        super().__init__()
        self.spark, self.query = spark.newSession(), query
        self.answers: list[list[list[object]]] = []
        self.problems: list[str] = []
        self.is_over = False

    def run(self) -> None:
        while not self.is_over:
            try:
                self.answers.append([list(row) for row in self.spark.sql(self.query).collect()])
            except Exception as problem:
                self.problems.append(str(problem)[:500])

    def wait(self) -> None:
        """Wait until a query has begun and ended."""
        n_done = len(self.answers) + len(self.problems)
        while len(self.answers) + len(self.problems) < n_done + 2:
            time.sleep(0.01)


def config_of(output: Path) -> PipelineConfig:
    return PipelineConfig(InputConfig("in"), OutputConfig(str(output), keep_runs=KEEP_RUNS, views="lists"))


def publish(spark: SparkSession, output: Path, number: int) -> None:
    """Publish a run whose tables have its number in both rows; from the sixth on with other columns."""
    config = config_of(output)
    with lock_output(spark, str(output), "a job") as lock:
        run = open_run(spark, config, f"run-{number}", "new", lock)
        for name in SHOWN:
            Path(run.path(name)).mkdir()
            more = {"bias": [0.5]} if number > 5 else {}
            for part in range(2):
                table = pa.table({"user_id": [part], "number": [number], **more})
                pq.write_table(table, run.path(f"{name}/part-{part}.parquet"))
        run.publish()


def main() -> None:
    folder = Path(sys.argv[1])
    spark, output = hive_session(folder), folder / "an output, 'quoted' [and] `more`"
    spark.sql("CREATE SCHEMA lists")
    publish(spark, output, 0)
    one = "SELECT number, run_id, count(*) FROM lists.recommendations GROUP BY ALL"
    joined = (
        "SELECT a.number, b.number, a.run_id FROM lists.recommendations a JOIN lists.item_factors b "
        "USING (user_id, run_id)"
    )
    readers = [Reader(spark, query) for query in (one, joined)]
    for reader in readers:
        reader.start()
    for number in range(1, N_PUBLICATIONS + 1):
        publish(spark, output, number)
        for reader in readers:  # a query lasts less than from one publication to the next
            reader.wait()
    with lock_output(spark, str(output), "rollback") as lock:
        roll_back(spark, lock, str(output), None)
        replace_all(catalogs_of(spark, lock.files, config_of(output).output))
    for reader in readers:
        reader.wait()
        reader.is_over = True
        reader.join()
    seen = {
        "runs": sorted(path.name for path in (output / "runs").iterdir()),
        "views": (output / "VIEWS").read_text(),
        "columns": spark.table("lists.user_factors").columns,
        "answers": [reader.answers for reader in readers],
        "problems": [reader.problems for reader in readers],
    }
    (folder / "seen.json").write_text(json.dumps(seen))
    spark.stop()


if __name__ == "__main__":
    main()
