"""An S3 server behind a proxy, and a Spark session that reaches it, for all tests of this folder."""

from pathlib import Path

import pyarrow.fs as pafs
import pytest

from tests.conftest import PROJECT, session_builder
from tests.stores.needed import jars
from tests.stores.place import Bucket
from tests.stores.proxy import Proxy, no_fault
from tests.stores.weed import ACCESS_KEY, BUCKET, SECRET_KEY, Weed


def s3a_settings(address: str, settings_path: Path | None = PROJECT / "conf/s3a-defaults.conf") -> dict[str, object]:
    """Spark's settings for a store at this address: those of a file, and short waits."""
    s3a = {
        "endpoint": f"http://{address}",
        "endpoint.region": "us-east-1",
        "path.style.access": "true",
        "connection.ssl.enabled": "false",
        "access.key": ACCESS_KEY,
        "secret.key": SECRET_KEY,
        # The other providers would ask a server in the network of a cloud.
        "aws.credentials.provider": "org.apache.hadoop.fs.s3a.SimpleAWSCredentialsProvider",
        "retry.interval": "50ms",
        "retry.throttle.interval": "50ms",
    }
    lines = [] if settings_path is None else settings_path.read_text().splitlines()
    of_file = dict(line.split() for line in lines if line and not line.startswith("#"))
    settings = {f"spark.hadoop.fs.s3a.{key}": value for key, value in s3a.items()}
    return {"spark.jars": ",".join(map(str, jars("s3a"))), **of_file, **settings}


@pytest.fixture(scope="session")
def weed(tmp_path_factory):
    jars("s3a")
    server = Weed(tmp_path_factory.mktemp("weed") / "data")
    yield server
    server.stop()


@pytest.fixture(scope="session")
def shared_proxy(weed):
    proxy = Proxy(weed.address)
    yield proxy
    proxy.stop()


@pytest.fixture
def proxy(shared_proxy):
    """The proxy, without a fault; afterwards too."""
    shared_proxy.set(no_fault)
    yield shared_proxy
    shared_proxy.set(no_fault)


@pytest.fixture(scope="session")
def spark_session(tmp_path_factory, shared_proxy):
    session = session_builder(tmp_path_factory.mktemp("spark"), **s3a_settings(shared_proxy.address)).getOrCreate()
    session.sparkContext.setLogLevel("OFF")
    yield session
    session.stop()


@pytest.fixture(scope="session")
def s3(weed) -> pafs.S3FileSystem:
    """Another client than the one under test, past the proxy."""
    return pafs.S3FileSystem(
        access_key=ACCESS_KEY, secret_key=SECRET_KEY, endpoint_override=weed.address, scheme="http", region="us-east-1"
    )


@pytest.fixture
def bucket(s3, tmp_path) -> Bucket:
    """A folder of the bucket that no other test uses."""
    return Bucket(s3, f"{BUCKET}/{Path(tmp_path).name}")
