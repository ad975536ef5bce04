"""What the executors can hold, and which Python they run."""

import sys
from types import SimpleNamespace

import pytest
from pyspark import SparkConf
from pyspark.errors import PySparkException

from mfspark import ALS
from mfspark.engine import rdd
from mfspark.engine.failures import cluster_failure, package_versions, require_packages, require_same_python
from mfspark.engine.rdd import RddEngine
from mfspark.errors import ConfigError

GIB = 2**30


@pytest.mark.spark
@pytest.mark.parametrize(
    ("master", "settings", "expected"),
    [
        # Half of the memory by the cores.
        ("yarn", {"executor.memory": "8g", "executor.memoryOverhead": "2048", "executor.cores": "4"}, GIB // 4),
        ("yarn", {"executor.memory": "20g", "executor.cores": "2"}, 2 * GIB // 4),  # a tenth of the JVM's
        ("k8s://host", {"executor.memory": "1g"}, 384 * 2**20 // 2),  # Spark's least
        ("k8s://host", {"executor.memoryOverheadFactor": "0.5", "executor.memory": "2g"}, GIB // 2),
        ("yarn", {"executor.pyspark.memory": "1g", "executor.cores": "4", "executor.memory": "64g"}, GIB // 8),
        # On a standalone cluster nothing limits Python; an executor has all cores of its worker, here 8 of 16.
        ("spark://host:7077", {"executor.memory": "4g"}, 4 * GIB // 16),
        ("spark://host:7077", {"executor.memory": "4g", "executor.cores": "1"}, 0.9 * GIB),
        # The driver collects what it sends.
        ("spark://host:7077", {"executor.memory": "4g", "executor.cores": "1", "driver.maxResultSize": "0"}, 2 * GIB),
        ("spark://host:7077", {"executor.memory": "64g", "driver.maxResultSize": "200m"}, 0.9 * 200 * 2**20),
    ],
)
def test_a_broadcast_is_no_larger_than_a_worker_can_hold(spark, master, settings, expected):
    conf = SparkConf(loadDefaults=False).setAll([(f"spark.{key}", value) for key, value in settings.items()])
    # Two executors and the driver.
    jsc = SimpleNamespace(sc=lambda: SimpleNamespace(getExecutorMemoryStatus=lambda: SimpleNamespace(size=lambda: 3)))
    context = SimpleNamespace(
        master=master, getConf=lambda: conf, _jvm=spark.sparkContext._jvm, _jsc=jsc, defaultParallelism=16
    )
    assert RddEngine(SimpleNamespace(sparkContext=context)).max_sent_bytes == int(expected)


def test_the_driver_has_its_own_message_for_results_that_are_too_large():
    error = PySparkException(
        "org.apache.spark.SparkException: Job aborted due to stage failure: Total size of serialized results of 4 "
        "tasks (1100.0 MiB) is bigger than spark.driver.maxResultSize (1024.0 MiB)"
    )
    failure = cluster_failure(error)
    assert failure.startswith("the driver collects more than spark.driver.maxResultSize: ")
    assert "raise it, with spark.driver.memory, or lower train.max_broadcast_bytes" in failure


@pytest.mark.spark
def test_executors_with_a_python_that_lacks_mfspark_are_one_clear_error(spark, monkeypatch):
    bare = sys._base_executable
    monkeypatch.setattr(spark.sparkContext, "pythonExec", bare)
    ratings = spark.createDataFrame([(1, 1, 1.0), (2, 1, 2.0)], "user int, item int, rating float")
    with pytest.raises(ConfigError) as raised:
        ALS(rank=1, maxIter=1, engine="rdd").fit(ratings)
    message = str(raised.value)
    assert "\n" not in message
    assert message.startswith("the executors' Python, ")
    assert f"(Python {sys.version.split()[0]}), reports 'No module named '" in message
    assert f"(or PYSPARK_PYTHON) to such a Python on every machine (on this one it is {sys.executable}), or" in message


@pytest.mark.spark
@pytest.mark.parametrize(
    ("text", "what"),
    [
        (
            "[PYTHON_VERSION_MISMATCH] Python in worker has different version: 3.9 than that in driver: 3.11",
            "is not version",
        ),
        ('java.io.IOException: Cannot run program "/opt/env/bin/python": error=2, No such file', "does not exist"),
        ("ModuleNotFoundError: No module named 'numpy._core'", "reports 'No module named 'numpy._core''"),
    ],
)
def test_other_mistakes_with_the_executors_python(spark, text, what):
    with pytest.raises(ConfigError, match=what):
        require_same_python(PySparkException(text), spark.sparkContext)


@pytest.mark.spark
@pytest.mark.parametrize("package", ["numpy", "numba", "pyarrow"])
def test_another_major_version_of_a_package_is_one_clear_error(spark, monkeypatch, package):
    here = package_versions()
    monkeypatch.setattr(rdd, "package_versions", lambda: here | {package: "99.1.2"})
    with pytest.raises(ConfigError) as raised:
        RddEngine(spark).numbers(2).run(lambda _, numbers: numbers)
    assert f"reports '{package} {here[package]}, but the driver has 99.1.2'; expected" in str(raised.value)


def test_another_minor_version_of_a_package_is_accepted():
    require_packages({name: f"{version.partition('.')[0]}.999" for name, version in package_versions().items()})


@pytest.mark.spark
def test_other_failures_are_not_blamed_on_python(spark):
    require_same_python(PySparkException("Job aborted due to stage failure: java.io.IOException"), spark.sparkContext)
