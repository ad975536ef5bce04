"""A standalone cluster on loopback: a master and workers, each a process of its own, from the pyspark package."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pyspark

from tests.cluster.processes import Process
from tests.conftest import JAVA_OPTIONS

SPARK_HOME = Path(pyspark.__file__).parent
_DISK_SIZE = "400m"


class Cluster:
    """A master and workers of one core each; where the kernel lets us, each worker has a small disk of its own."""

    def __init__(
        self, folder: Path, n_workers: int = 2, properties: Path | None = None, *, wants_small_disks: bool = True
    ) -> None:
        folder.mkdir(parents=True)
        self.folder, self._n_workers, self._properties = folder, n_workers, properties
        self.has_small_disks = wants_small_disks and _can_mount()
        self.workers: dict[int, Process] = {}
        self._master = self._start("master.Master", "master", host="127.0.0.1")
        try:
            self.url = self._master.wait_for(r"Starting Spark master at (spark://127\.0\.0\.1:\d+)")
            self.mend()
        except BaseException:
            self.stop()
            raise

    def mend(self) -> None:
        """Start the workers that a fault has ended, with nothing left of their earlier selves."""
        started = []
        for number in range(self._n_workers):
            if number not in self.workers or not self.workers[number].is_alive:
                self._end_worker(number)
                self.workers[number] = self._start_worker(number)
                started.append(self.workers[number])
        for worker in started:
            worker.wait_for("(Successfully registered with master)")

    def stop(self) -> None:
        """Kill every process of the cluster."""
        for number in list(self.workers):
            self._end_worker(number)
        self._master.kill()

    def _start_worker(self, number: int) -> Process:
        work_dir, local_dir = self.folder / f"work-{number}", self.folder / f"local-{number}"
        local_dir.mkdir(exist_ok=True)
        arguments = ["--cores", "1", "--memory", "4g", "--work-dir", work_dir, self.url]
        # An address each, as machines have: Spark would read from the disk of an executor that has its own address.
        return self._start(
            "worker.Worker", f"worker-{number}", *arguments, host=f"127.0.0.{number + 2}", local_dir=local_dir
        )

    def _end_worker(self, number: int) -> None:
        if number in self.workers:
            self.workers.pop(number).kill()
            shutil.rmtree(self.folder / f"local-{number}")

    def _start(
        self, class_name: str, name: str, *arguments: object, host: str, local_dir: Path | None = None
    ) -> Process:
        command = [SPARK_HOME / "bin/spark-class", f"org.apache.spark.deploy.{class_name}"]
        command += ["--host", host, "--port", "0", "--webui-port", "0", *arguments]
        if self._properties:
            command[2:2] = ["--properties-file", self._properties]
        # A job brings its own Python and its own path.
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("SPARK_", "PY"))} | {
            "SPARK_HOME": str(SPARK_HOME),
            "SPARK_CONF_DIR": str(self.folder),
            "SPARK_LOCAL_IP": host,
            "SPARK_DAEMON_MEMORY": "256m",
            "SPARK_DAEMON_JAVA_OPTS": JAVA_OPTIONS,
        }
        if local_dir:
            environment["SPARK_LOCAL_DIRS"] = str(local_dir)
            if self.has_small_disks:
                command = [*_mounted(local_dir), *command]
        return Process(command, self.folder / f"{name}.log", environment)


def _mounted(folder: Path) -> list[object]:
    """A command's prefix that gives the command a small disk of its own there; it is gone when the command is."""
    is_root = os.geteuid() == 0
    mount = f'mount -t tmpfs -o size={_DISK_SIZE} tmpfs "$0" && exec "$@"'
    return ["unshare", "--mount", *([] if is_root else ["--map-root-user"]), "sh", "-c", mount, folder]


def _can_mount() -> bool:
    with tempfile.TemporaryDirectory() as folder:
        command = [str(word) for word in [*_mounted(Path(folder)), "true"]]
        return (
            bool(shutil.which("unshare")) and subprocess.run(command, capture_output=True, check=False).returncode == 0
        )
