"""A cluster as conf/cluster-defaults.conf makes it: who does not have its secret is turned away."""

import pytest

from tests.cluster.standalone import Cluster
from tests.cluster.submit import content, make_workspace, submit
from tests.jobs.runner import PROJECT

pytestmark = pytest.mark.cluster


def write_properties(path, secret):
    """The example with a secret, as its comment says."""
    example = (PROJECT / "conf/cluster-defaults.conf").read_text()
    path.write_text(f"{example}\nspark.authenticate.secret {secret}\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def guarded(tmp_path):
    """A cluster with a secret, and the file that holds it."""
    properties = write_properties(tmp_path / "cluster.conf", "open sesame")
    cluster = Cluster(tmp_path / "guarded", n_workers=1, properties=properties)
    yield cluster, properties
    cluster.stop()


def test_only_who_has_the_secret_may_submit(guarded, undisturbed, tmp_path):
    cluster, properties = guarded
    wrong = write_properties(tmp_path / "wrong.conf", "open barley")
    # Spark asks three times, 20 seconds apart, before it believes that it is turned away: the three jobs wait together.
    strangers = {
        name: (make_workspace(tmp_path / name), options)
        for name, options in (("without", []), ("wrong", ["--properties-file", wrong]))
    }
    turned_away = {
        name: submit(cluster.url, workspace, options=options) for name, (workspace, options) in strangers.items()
    }
    workspace = make_workspace(tmp_path / "known")
    conf = {"spark.cores.max": 1, "spark.executorEnv.NUMBA_CACHE_DIR": ""}  # beside the sources, as in all tests
    job = submit(cluster.url, workspace, options=["--properties-file", properties], conf=conf)
    assert job.wait() == 0, job.output
    assert content(workspace) == undisturbed.content
    for name, stranger in turned_away.items():
        assert stranger.wait() == 2, stranger.output
        (line,) = [line for line in stranger.output.splitlines() if line.startswith("mfspark: ")]
        assert f"ConfigError: cannot start a Spark session on '{cluster.url}'" in line
        assert not strangers[name][0].output.exists()
