"""The session of a job, and what Java prints."""

import io
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from unittest import mock

import pytest
from pyspark import SparkConf
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from mfspark.engine import session
from mfspark.errors import ConfigError
from tests.cluster.processes import wait_until
from tests.conftest import JAVA_OPTIONS, PROJECT

PROGRAM = """
import sys
from mfspark.engine.session import open_session

with open(sys.argv[1], "a") as log, open_session("test", log) as spark:
    spark.sparkContext.parallelize([0], 1).foreach(lambda _: print("of a worker", file=sys.stderr))
    spark._jvm.java.lang.System.err.println("of Java")
    print("of the job", file=sys.stderr)
"""


@pytest.mark.spark
def test_what_java_and_python_workers_print_goes_to_the_log(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    finished = subprocess.run(
        [Path(sys.executable).parent / "spark-submit", "--properties-file", "conf/spark-defaults.conf",
         tmp_path / "program.py", tmp_path / "log"],
        cwd=PROJECT, env={**os.environ, "PYSPARK_PYTHON": sys.executable, "JDK_JAVA_OPTIONS": JAVA_OPTIONS},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == "of the job\n"
    assert "of a worker" not in finished.stderr
    assert "of Java" not in finished.stderr
    lines = (tmp_path / "log").read_text().splitlines()
    assert {"of a worker", "of Java"} <= set(lines)


@pytest.mark.spark
@pytest.mark.usefixtures("spark")
@pytest.mark.parametrize(("mode", "n_redirected"), [("client", 1), ("cluster", 0)])
def test_console_of_a_driver_in_a_container_is_that_of_the_cluster(monkeypatch, mode, n_redirected):
    redirected = []
    submitted = SparkConf(loadDefaults=False).set("spark.submit.deployMode", mode)
    monkeypatch.setattr(session, "SparkConf", lambda: submitted)
    monkeypatch.setattr(session, "_redirect_console", lambda *_: redirected.append(True))
    monkeypatch.setattr(SparkSession, "builder", mock.Mock())
    session._start("test", io.StringIO())
    assert len(redirected) == n_redirected


def test_java_home_without_java_is_named(monkeypatch):
    monkeypatch.setenv("JAVA_HOME", "/nowhere")
    assert session._java() == "JAVA_HOME is '/nowhere', without bin/java"


def test_remedy_installs_what_the_scripts_install():
    scripts = (PROJECT / "scripts/environment").read_text()
    assert len(session._JAVA_INSTALLERS) == 3
    for program, command in session._JAVA_INSTALLERS.items():
        *call, package = command.split()
        assert package in scripts
        assert f"{' '.join(call)} $" in scripts
        assert f"command -v {program} " in scripts


@pytest.mark.parametrize("version", ["17.0.15", "21", "25.0.2"])
def test_a_tested_java_starts_without_a_word(caplog, version):
    session._warn_of_untested(version)
    assert not caplog.records


@pytest.mark.parametrize("version", ["18.0.2", "24", "26-ea"])
def test_a_java_that_is_not_tested_gets_a_warning(caplog, version):
    session._warn_of_untested(version)
    assert caplog.messages == [f"Java {version} is not tested with mfspark; tested are 17, 21 or 25"]


@pytest.mark.spark
@pytest.mark.usefixtures("spark")
def test_a_session_that_does_not_start_names_the_versions(monkeypatch):
    monkeypatch.setattr(session, "_redirect_console", lambda *_: None)
    # What Spark 4.0 says on Java 25.
    builder = mock.Mock(**{"getOrCreate.side_effect": PySparkException("getSubject is not supported")})
    builder.appName.return_value = builder.config.return_value = builder
    monkeypatch.setattr(SparkSession, "builder", builder)
    with pytest.raises(
        ConfigError, match=r"getSubject is not supported; .* whether Spark 4\.\d+\.\d+ runs on Java \d\d"
    ):
        session._start("test", io.StringIO())


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("sc://127.0.0.1:1/;token=secret", r"no Spark Connect server answers at 'sc://127.0.0.1:1/' within 0.3 s"),
        ("127.0.0.1:15002", "cannot open a session at '127.0.0.1:15002': .*must start with 'sc://'"),
    ],
)
def test_a_server_that_does_not_answer_is_one_clear_error(monkeypatch, url, what):
    monkeypatch.setattr(session, "_ANSWER_S", 0.3)
    with pytest.raises(ConfigError, match=rf"{what}.*; expected a running server at sc://host:port") as caught:
        session._connect(url)
    assert "secret" not in str(caught.value)


def test_a_job_ends_although_its_session_does_not(monkeypatch):
    never = threading.Event()
    stuck = mock.Mock(**{"stop.side_effect": never.wait})
    monkeypatch.setattr(session, "_STOP_S", 0.1)
    monkeypatch.setattr(session, "is_connect", lambda _: True)
    session._stop(stuck)
    stuck.stop.assert_called_once_with()
    never.set()


def test_packages_of_spark_connect_that_are_missing_are_one_clear_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(
        ConfigError, match=r"packages that are not installed: .*grpc.*; pip install 'mfspark\[connect\]'"
    ):
        session._connect("sc://127.0.0.1:1")


@pytest.mark.spark
@pytest.mark.classic
def test_files_are_shipped_on_spark_connect_only(spark):
    with pytest.raises(ConfigError, match="--ship needs --remote; a classic session gets files by spark-submit --py-f"):
        session.ship(spark, "mfspark.zip")


@pytest.mark.spark
@pytest.mark.connect
def test_a_file_to_ship_that_is_not_there_is_named(spark):
    with pytest.raises(ConfigError, match=r"--ship: there is no file 'nowhere.zip'; make it with scripts/pack_env"):
        session.ship(spark, "nowhere.zip")


@pytest.mark.spark
@pytest.mark.connect
def test_java_of_the_server(spark, monkeypatch):
    assert re.match(r"\d+", session.java_version(spark))

    def refuse(*_):
        raise PySparkException("not allowed here")

    monkeypatch.setattr(spark, "sql", refuse)
    assert session.java_version(spark) == "unknown"


@pytest.mark.spark
@pytest.mark.connect
def test_after_an_interrupt_the_server_stops_what_it_computes(spark, tmp_path):
    started = str(tmp_path / "started")

    def wait(batches):  # a nested function: Spark sends its code, and the server may not have this module
        from pathlib import Path
        from time import sleep

        Path(started).touch()
        sleep(300)
        yield from batches

    errors = []

    def compute():
        try:
            spark.range(1).mapInArrow(wait, "id long").collect()
        except PySparkException as error:
            errors.append(str(error))

    thread = threading.Thread(target=compute)
    thread.start()
    wait_until(Path(started).exists, "a task that waits")
    session.recover(spark)
    thread.join(60)
    assert not thread.is_alive()
    assert "OPERATION_CANCELED" in errors[0]
