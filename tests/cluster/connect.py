"""A Spark Connect server of its own process, from the pyspark package."""

import os
import sys
from pathlib import Path

from tests.cluster.processes import Process
from tests.cluster.standalone import SPARK_HOME
from tests.conftest import JAVA_OPTIONS, PROJECT


class ConnectServer:
    """A server on loopback, in front of a master. Its executors find mfspark here unless their path is taken away.

    python : the Python of the executors
    """

    def __init__(self, master: str, folder: Path, python: object = sys.executable, **settings: object) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        of_server = {
            "spark.connect.grpc.binding.address": "127.0.0.1",
            "spark.connect.grpc.binding.port": 0,
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.driver.extraJavaOptions": JAVA_OPTIONS,
            "spark.executorEnv.PYTHONPATH": PROJECT,
            "spark.ui.enabled": "false",
            "spark.sql.shuffle.partitions": 2,
            "spark.sql.warehouse.dir": folder / "warehouse",
            "spark.local.dir": folder / "local",
            "spark.python.unix.domain.socket.enabled": "true",
            **settings,
        }
        command: list[object] = [SPARK_HOME / "bin/spark-submit", "--master", master]
        command += ["--class", "org.apache.spark.sql.connect.service.SparkConnectServer"]
        command += [word for key, value in of_server.items() for word in ("--conf", f"{key}={value}")]
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("SPARK_", "PYSPARK_"))}
        # In local mode the executors are in the server, and have its environment.
        environment |= {"SPARK_HOME": str(SPARK_HOME), "PYTHONPATH": str(of_server["spark.executorEnv.PYTHONPATH"])}
        # Spark Connect takes the executors' Python from here, not from spark.pyspark.python.
        environment["PYSPARK_PYTHON"] = str(python)
        self._process = Process([*command, "spark-internal"], folder / "server.log", environment)
        try:
            self.url = "sc://" + self._process.wait_for(r"Spark Connect server started at: (127\.0\.0\.1:\d+)")
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int:
        """Number of its process."""
        return self._process.pid

    def stop(self) -> None:
        """Kill the server."""
        self._process.kill()
