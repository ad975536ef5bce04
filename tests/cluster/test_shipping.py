"""mfspark on executors that do not have it: shipped with the job, as scripts/pack_environment packs it."""

import pytest

from tests.cluster.submit import begin, content, submit

pytestmark = pytest.mark.cluster

NO_PATH = {"spark.executorEnv.PYTHONPATH": ""}


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
