"""A parameter stands in the table of the configuration; all else that names it agrees with the table."""

import inspect
import re
from dataclasses import fields

import pytest
from pyspark import StorageLevel
from pyspark.ml import recommendation as spark_ml

from mfspark import ALS, SGD, ALSModel
from mfspark.config.loading import tomllib
from mfspark.config.sections import SGDConfig, TrainConfig, als_only_keys
from mfspark.errors import ConfigError
from mfspark.ml.params import ALSParams, SGDParams, snake_case
from tests.conftest import PROJECT

ESTIMATOR_ONLY = {
    "userCol", "itemCol", "ratingCol", "weightCol", "predictionCol", "validationIndicatorCol", "coldStartStrategy",
    "intermediateStorageLevel", "finalStorageLevel", "blockSize", "checkpointPath",
}  # fmt: skip
JOB_ONLY = {"algorithm", "warm_max_iter", "refit"}
CASES = pytest.mark.parametrize(("estimator", "params"), [(ALS, ALSParams), (SGD, SGDParams)])


def settings_of(estimator):
    """The table: default by key."""
    train = {field.name: field.default for field in fields(TrainConfig) if field.name not in JOB_ONLY}
    if estimator is ALS:
        return train
    own = {field.name: field.default for field in fields(SGDConfig)}
    return {key: default for key, default in train.items() if key not in als_only_keys()} | own


@CASES
def test_an_estimator_has_the_parameters_of_the_table_and_no_others(estimator, params):
    names = {param.name for param in params().params}
    assert names >= ESTIMATOR_ONLY
    assert {snake_case(name) for name in names - ESTIMATOR_ONLY} == settings_of(estimator).keys()


@CASES
def test_defaults_are_those_of_the_table(estimator, params):
    owner = params()
    found = {snake_case(p.name): owner.getOrDefault(p) if owner.isDefined(p) else None for p in owner.params}
    expected = settings_of(estimator)
    assert {key: found[key] for key in expected} == expected


@CASES
def test_the_signature_names_every_parameter_with_its_default(estimator, params):
    signature = inspect.signature(estimator.__init__).parameters
    assert signature.keys() - {"self", "initialModel"} == {param.name for param in params().params}
    for key, default in settings_of(estimator).items():
        (name,) = (name for name in signature if snake_case(name) == key)
        # The seed of Spark's ALS is None in its signature.
        assert signature[name].default == (None if key == "seed" else default), name


@CASES
def test_every_parameter_has_a_getter_a_setter_and_a_description(estimator, params):
    for param in params().params:
        capitalized = param.name[0].upper() + param.name[1:]
        assert callable(getattr(estimator, f"get{capitalized}"))
        assert callable(getattr(estimator, f"set{capitalized}"))
        assert len(param.doc) > 10


def test_every_parameter_is_in_a_docstring_with_its_default():
    documented = dict(re.findall(r"^    ([\w, ]+) : (.*)$", f"{ALS.__doc__}\n{SGD.__doc__}", re.MULTILINE))
    texts = {name: text for names, text in documented.items() for name in names.split(", ")}
    names = {param.name for owner in (ALSParams(), SGDParams()) for param in owner.params}
    assert names - {"predictionCol", "blockSize"} <= texts.keys()
    for key, default in (settings_of(ALS) | settings_of(SGD)).items():
        (name,) = (name for name in texts if snake_case(name) == key)
        if default is not None:
            shown = f'"{default}"' if isinstance(default, str) else str(default).removesuffix(".0")
            assert re.search(rf"\({re.escape(shown)}(\.0)?[,)]", texts[name]), name


@pytest.mark.parametrize(("name", "estimator"), [("explicit", ALS), ("sgd", SGD)])
def test_the_sample_configurations_show_the_settings(name, estimator):
    text = (PROJECT / f"conf/{name}.toml").read_text(encoding="utf-8")
    active = tomllib.loads(text)
    if estimator is ALS:
        commented = set(re.findall(r"^# (\w+) = ", text, re.MULTILINE))
        expected = settings_of(ALS)
        assert active["train"].keys() | commented >= expected.keys() - {
            "alpha",
            "confidence_offset",
            "unobserved_weight",
        }
        settings = {key: value for key, value in active["train"].items() if key not in JOB_ONLY}
        assert {key: expected[key] for key in settings} == settings
    else:
        assert active["sgd"] == {field.name: field.default for field in fields(SGDConfig)}


def test_every_added_parameter_is_on_the_page_for_users_of_sparks_als():
    page = (PROJECT / "docs/howto/from-spark-als.md").read_text(encoding="utf-8")
    for param in ALSParams().params:
        assert f"`{param.name}`" in page, param.name


@pytest.mark.spark
@pytest.mark.usefixtures("spark")
def test_parameters_accessors_and_defaults_are_sparks():
    ours, theirs = ALS(), spark_ml.ALS()
    public = {name for name in dir(theirs) if not name.startswith("_")}
    assert public - set(dir(ours)) == set()
    for param in theirs.params:
        if param.name != "seed":  # Spark's differs from process to process
            assert ours.getOrDefault(param.name) == theirs.getOrDefault(param.name), param.name
    values = {
        "rank": 3, "maxIter": 4, "regParam": 0.5, "numUserBlocks": 6, "numItemBlocks": 7, "implicitPrefs": True,
        "alpha": 2.5, "userCol": "u", "itemCol": "i", "ratingCol": "r", "nonnegative": True, "checkpointInterval": 5,
        "intermediateStorageLevel": "DISK_ONLY", "finalStorageLevel": "MEMORY_ONLY", "coldStartStrategy": "drop",
        "blockSize": 99, "seed": 12, "predictionCol": "p",
    }  # fmt: skip
    assert {param.name for param in theirs.params} == set(values)
    for name, value in values.items():
        accessor = name[0].upper() + name[1:]
        assert getattr(ours, f"set{accessor}")(value) is ours
        assert getattr(ours, f"get{accessor}")() == value
    assert ALS().setNumBlocks(3).getNumUserBlocks() == ALS().setNumBlocks(3).getNumItemBlocks() == 3
    assert "rank: Number of latent factors" in ours.explainParams()
    assert {name for name in dir(spark_ml.ALSModel) if not name.startswith("_")} - set(dir(ALSModel)) == set()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"rank": 0}, "rank must be finite and at least 1, found 0"),
        ({"maxIter": -1}, "maxIter must be finite and at least 0, found -1"),
        ({"regParam": float("nan")}, "regParam must be finite and at least 0, found nan"),
        ({"numUserBlocks": -1}, "numUserBlocks must be finite and at least 0, found -1"),
        ({"cgSteps": 0}, "cgSteps must be finite and at least 1, found 0"),
        ({"solver": "qr"}, "solver must be one of 'cholesky', 'cg', 'subspace', found 'qr'"),
        ({"patience": 2}, "patience needs validation ratings; set validationIndicatorCol"),
        ({"intermediateStorageLevel": "NONE"}, "other than NONE, found 'NONE'"),
        ({"coldStartStrategy": "guess"}, "'nan', 'drop' or 'mean', found 'guess'"),
        ({"alpha": -1.0}, "alpha must be finite and at least 0, found -1.0"),
        ({"confidenceOffset": float("nan")}, "confidenceOffset must be finite and at least 0, found nan"),
        ({"userRegParam": -0.1}, "userRegParam must be finite and at least 0, found -0.1"),
        ({"regScaling": "sqrt"}, "regScaling must be 'count', 'none' or a number of at least 0, found 'sqrt'"),
        ({"regScaling": -0.5}, "regScaling must be 'count', 'none' or a number of at least 0, found -0.5"),
        ({"biases": True, "implicitPrefs": True}, "biases do not work with implicitPrefs or nonnegative"),
        ({"biases": True, "nonnegative": True}, "biases do not work with implicitPrefs or nonnegative"),
        ({"nonnegative": True, "solver": "cg"}, "nonnegative needs solver 'cholesky', found 'cg'"),
        ({"implicitPrefs": True, "alpha": 0.0, "confidenceOffset": 0.0}, "alpha and confidenceOffset are both 0"),
        ({"unobservedWeight": 0.5}, "unobservedWeight works with implicit feedback only; set implicitPrefs"),
    ],
)
def test_parameters_of_als_out_of_range_or_without_a_meaning_are_refused(params, message):
    with pytest.raises(ConfigError, match=message):
        ALS(**params).require_valid()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"learningRate": 0.0}, "learningRate must be above 0"),
        ({"decay": -1.0}, "decay must be finite and at least 0, found -1.0"),
        ({"schedule": "cosine"}, "schedule must be one of 'constant', 'inverse', 'bold', 'adagrad', found 'cosine'"),
        ({"numBlocks": 0}, "numBlocks must be finite and at least 1, found 0"),
    ],
)
def test_parameters_of_sgd_out_of_range_are_refused(params, message):
    with pytest.raises(ConfigError, match=message):
        SGD(**params).require_valid()


@pytest.mark.parametrize("name", ["intermediateStorageLevel", "finalStorageLevel"])
@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("MEMORY_AND_DISK_SER", StorageLevel.MEMORY_AND_DISK),
        ("MEMORY_AND_DISK_SER_2", StorageLevel.MEMORY_AND_DISK_2),
        ("MEMORY_ONLY_SER", StorageLevel.MEMORY_ONLY),
        ("MEMORY_ONLY_SER_2", StorageLevel.MEMORY_ONLY_2),
        ("DISK_ONLY_3", StorageLevel.DISK_ONLY_3),
        ("OFF_HEAP", StorageLevel.OFF_HEAP),
    ],
)
def test_every_storage_level_that_sparks_als_knows_is_known(name, level, expected):
    assert ALS(**{name: level}).storage_level(name) == expected


def test_unknown_storage_levels_are_refused():
    with pytest.raises(ConfigError, match="finalStorageLevel must name a StorageLevel other than NONE, found 'foo'"):
        ALS(finalStorageLevel="foo").require_valid()
