"""A parameter stands in the table of the configuration; all else that names it agrees with the table."""

import inspect
import re
from dataclasses import fields

import pytest

from mfspark import ALS, SGD
from mfspark.config.sections import SGDConfig, TrainConfig, als_only_keys, tomllib
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
