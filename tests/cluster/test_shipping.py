"""mfspark on executors that do not have it: shipped with the job, as scripts/pack_environment packs it."""

import os
import subprocess
import sys
import sysconfig

import pytest

from tests.cluster.submit import begin, content, submit
from tests.jobs.runner import PROJECT

pytestmark = pytest.mark.cluster

NO_PATH = {"spark.executorEnv.PYTHONPATH": ""}


@pytest.fixture(scope="session")
def packed(tmp_path_factory):
    """environment.tar.gz and mfspark.zip."""
    folder = tmp_path_factory.mktemp("ship")
    done = subprocess.run([PROJECT / "scripts/pack_environment", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def bare_python(tmp_path):
    """A Python with all packages of this one but mfspark, which is installed by a .pth file that nobody reads there."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    python = tmp_path / "bare/bin/python"
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = subprocess.check_output([python, "-c", where], text=True).strip()
    with open(f"{packages}/packages.pth", "w") as file:
        file.write(sysconfig.get_path("purelib") + "\n")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    found = subprocess.run(
        [python, "-c", "import numba, pyarrow, mfspark"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "No module named 'mfspark'" in found.stderr
    return python


def compiled_kernels(folder):
    return list(folder.rglob("als.*.nbc"))


def test_environment_in_an_archive(cluster, ingested, undisturbed, packed, tmp_path):
    workspace = begin(ingested, tmp_path / "job")
    conf = NO_PATH | {"spark.pyspark.python": "./environment/bin/python"}
    job = submit(
        cluster.url, workspace, "--resume", conf=conf,
        options=["--archives", f"{packed}/environment.tar.gz#environment"],
    )  # fmt: skip
    assert job.wait() == 0, job.output
    assert content(workspace) == undisturbed.content
    assert compiled_kernels(cluster.folder)


def test_package_in_a_zip(cluster, ingested, undisturbed, packed, bare_python, tmp_path):
    workspace, cache = begin(ingested, tmp_path / "job"), tmp_path / "cache"
    conf = NO_PATH | {"spark.pyspark.python": bare_python, "spark.executorEnv.XDG_CACHE_HOME": cache}
    job = submit(cluster.url, workspace, "--resume", conf=conf, options=["--py-files", packed / "mfspark.zip"])
    assert job.wait() == 0, job.output
    assert content(workspace) == undisturbed.content
    assert compiled_kernels(cache)
