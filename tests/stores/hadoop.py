"""HDFS: one name node and one data node, each a process, on this machine alone."""

import os
from pathlib import Path

import pyspark

from tests.cluster.processes import Process, wait_until
from tests.stores.needed import jars
from tests.stores.weed import free_ports

_CLASSES = "org.apache.hadoop.hdfs.server"


class Hdfs:
    """The servers."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        # The name node looks up the address of a data node, which has no name here.
        name, http, data, transfer, ipc = (f"127.0.0.1:{port}" for port in free_ports(5))
        self.uri = f"hdfs://{name}"
        settings = {
            "fs.defaultFS": self.uri,
            "dfs.namenode.name.dir": folder / "name",
            "dfs.datanode.data.dir": folder / "data",
            "dfs.namenode.http-address": http,
            "dfs.datanode.http.address": data,
            "dfs.datanode.address": transfer,
            "dfs.datanode.ipc.address": ipc,
            "dfs.replication": 1,
            "dfs.namenode.datanode.registration.ip-hostname-check": "false",
            "dfs.permissions.enabled": "false",
        }
        options = [f"-D{key}={value}" for key, value in settings.items()]
        classpath = ":".join(map(str, [*jars("hdfs"), Path(pyspark.__file__).parent / "jars/*"]))
        java = Path(os.environ["JAVA_HOME"], "bin/java") if "JAVA_HOME" in os.environ else "java"

        def start(server: str, *arguments: str) -> Process:
            log = folder / f"{server.rpartition('.')[2]}{''.join(arguments)}.log"
            command = [java, "-Xmx256m", "-cp", classpath, f"{_CLASSES}.{server}", *options, *arguments]
            return Process(command, log, dict(os.environ))

        formatted = start("namenode.NameNode", "-format", "-force")
        assert formatted.wait() == 0, formatted.output
        self._processes = [start("namenode.NameNode"), start("datanode.DataNode")]
        wait_until(lambda: (folder / "data/current/VERSION").exists(), "the data node is known")

    def stop(self) -> None:
        """End both."""
        for process in self._processes:
            process.kill()
