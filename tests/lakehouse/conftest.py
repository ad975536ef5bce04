"""A session with tables of one format, that of --lakehouse; it needs the Spark that the jars of the format are for."""

import pytest

from tests.conftest import session_builder
from tests.lakehouse.lake import FORMATS, Lake
from tests.stores.needed import jars, needed


@pytest.fixture(scope="session")
def lake_format(request) -> str:
    return needed(request.config.getoption("--lakehouse"), "--lakehouse")


@pytest.fixture(scope="session")
def spark_session(tmp_path_factory, lake_format):
    settings = FORMATS[lake_format].settings(tmp_path_factory.mktemp("lake"))
    jar_files = ",".join(map(str, jars(lake_format)))
    session = session_builder(tmp_path_factory.mktemp("spark"), **settings, **{"spark.jars": jar_files}).getOrCreate()
    session.sparkContext.setLogLevel("OFF")
    yield session
    session.stop()


@pytest.fixture
def spark(spark_session):
    """The session; Delta keeps the states of its tables cached, so nobody looks for what is left."""
    return spark_session


@pytest.fixture
def lake(spark, lake_format) -> Lake:
    """The format, with empty schemas for the ratings and for what is published."""
    lake = FORMATS[lake_format](spark)
    lake.reset()
    return lake
