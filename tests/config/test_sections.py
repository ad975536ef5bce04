import os
import re

import pytest

from mfspark.config.checking import checked
from mfspark.config.loading import load_config
from mfspark.config.sections import PipelineConfig
from mfspark.config.study import StudyConfig
from mfspark.errors import ConfigError
from tests.conftest import PROJECT

PATHS = """
[input]
path = "ratings.parquet"
[output]
path = "runs"
"""


@pytest.fixture
def load(tmp_path):
    """Load a configuration that is PATHS and some more TOML, with overrides."""

    def load_text(more="", *overrides, start=PATHS):
        path = tmp_path / "job.toml"
        path.write_text(start + more, encoding="utf-8")
        return load_config(path, list(overrides))

    return load_text


def message_of(load, more="", *overrides, start=PATHS):
    with pytest.raises(ConfigError) as raised:
        load(more, *overrides, start=start)
    return str(raised.value)


def test_all_but_the_paths_have_defaults(load):
    assert load().as_dict() == {
        "input": {
            "path": "ratings.parquet",
            "table": None,
            "format": "parquet",
            "options": {},
            "base_path": None,
            "recursive": False,
            "version": None,
            "query": None,
            "others": {},
            "duplicates": "keep_all",
            "exclude": [],
            "exclude_runs": [],
            "max_rejected_share": 0.1,
            "incremental": False,
        },
        "output": {
            "path": "runs",
            "keep_runs": None,
            "single_writer": False,
            "report": True,
            "views": None,
            "tables": None,
            "table_format": None,
        },
        "gate": {"hold": [], "warn": None, "accept": []},
        "report": {"item_names": None},
        "columns": {
            "user": "user_id",
            "item": "item_id",
            "rating": "rating",
            "timestamp": None,
            "timestamp_format": None,
            "weight": None,
            "fold": None,
        },
        "split": {
            "method": "random",
            "holdout": 0.1,
            "validation": 0.0,
            "seed": 0,
            "holdout_items": 1,
            "validation_items": 0,
            "holdout_fold": None,
            "validation_fold": None,
        },
        "train": {
            "algorithm": "als",
            "rank": 10,
            "max_iter": 10,
            "warm_max_iter": None,
            "refit": True,
            "reg_param": 0.1,
            "seed": 0,
            "num_user_blocks": 10,
            "num_item_blocks": 10,
            "tol": 0.0,
            "patience": 0,
            "solver": "cholesky",
            "cg_steps": 3,
            "implicit_prefs": False,
            "alpha": 1.0,
            "confidence_offset": 1.0,
            "unobserved_weight": None,
            "nonnegative": False,
            "biases": False,
            "bias_reg_param": None,
            "user_reg_param": None,
            "item_reg_param": None,
            "reg_scaling": "count",
            "clip": None,
            "max_broadcast_bytes": None,
            "engine": "auto",
            "checkpoint_interval": 10,
        },
        "sgd": {"num_blocks": 4, "learning_rate": 0.02, "schedule": "inverse", "decay": 0.1},
        "recommend": {"n": 10, "drop_seen": True, "fallback": "none", "layout": "nested", "items": None},
        "track": {"mlflow_uri": None, "mlflow_experiment": "mfspark", "openmetrics_path": None},
    }


def test_there_are_configurations_to_load():
    names = {path.name for path in (PROJECT / "conf").glob("*.toml")}
    assert {"demo.toml", "explicit.toml", "implicit.toml", "sgd.toml", "toy.toml"} <= names


@pytest.mark.parametrize("path", sorted((PROJECT / "conf").glob("*.toml")), ids=lambda path: path.name)
def test_configuration_of_the_project_loads(path):
    assert load_config(path).input.path


def test_explicit_toml_shows_the_defaults(load):
    shown, defaults = load_config(PROJECT / "conf" / "explicit.toml").as_dict(), load().as_dict()
    assert shown | {"output": defaults["output"]} == defaults


def test_values_of_the_file_are_used(load):
    config = load(
        '[columns]\nuser = "u"\ntimestamp = "t"\n[split]\nholdout = 0.25\nvalidation = 0.5\nseed = -9\n'
        "[train]\nrank = 3\nreg_param = 0\npatience = 2\n[recommend]\nn = 7\ndrop_seen = false\n"
    )
    assert (config.columns.user, config.columns.item, config.columns.timestamp) == ("u", "item_id", "t")
    assert (config.split.holdout, config.split.validation, config.split.seed) == (0.25, 0.5, -9)
    assert (config.train.rank, config.train.reg_param, config.train.patience) == (3, 0.0, 2)
    assert (config.recommend.n, config.recommend.drop_seen) == (7, False)


def test_settings_of_als_are_refused_beside_sgd(load):
    assert load('[train]\nalgorithm = "sgd"\nbiases = true\n').train.biases
    with pytest.raises(ConfigError, match=r"train\.solver works with ALS only; remove it or set train\.algorithm"):
        load('[train]\nalgorithm = "sgd"\nsolver = "cg"\n')


def test_configuration_is_frozen(load):
    config = load()
    with pytest.raises(AttributeError, match="rank"):
        config.train.rank = 3


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("[train]\nrnk = 3", "unknown key 'train.rnk'; did you mean 'rank'? valid: algorithm, rank, max_iter,"),
        ("[train]\nregParam = 3", "unknown key 'train.regParam'; did you mean 'reg_param'? valid: algorithm, rank,"),
        (
            "[split]\nholdot = 3",
            "unknown key 'split.holdot'; did you mean 'holdout'? valid: method, holdout, validation, seed,",
        ),
        ("[train]\nxyzzy = 3", "unknown key 'train.xyzzy'; valid: algorithm, rank, max_iter,"),
        ("[trian]\nrank = 3", "unknown key 'trian'; did you mean 'train'? valid: input, output, columns,"),
        ("[xyzzy]", "unknown key 'xyzzy'; valid: input, output, columns, split, train, sgd, recommend"),
    ],
)
def test_unknown_key_is_refused_and_the_nearest_named(load, more, message):
    assert message_of(load, more).startswith(message)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ('[output]\npath = "b"', "missing key 'input'"),
        ('[input]\npath = "a"', "missing key 'output'"),
        ('[input]\npath = "a"\n[output]', "missing key 'output.path'"),
        ("", "missing key 'input'; missing key 'output'"),
    ],
)
def test_missing_path_is_refused(load, start, message):
    assert message_of(load, start=start) == message


def test_value_where_a_section_belongs_is_refused(load):
    message = message_of(load, start='input = 3\n[output]\npath = "b"\n')
    assert message == "'input' must be a [section], found 3"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("train.rank", '"10"', "valid integer, found '10'"),
        ("train.rank", "true", "valid integer, found True"),
        ("train.rank", "10.0", "valid integer, found 10.0"),
        ("train.rank", "[10]", r"valid integer, found \[10\]"),
        ("train.reg_param", '"0.1"', "valid number, found '0.1'"),
        ("train.reg_param", "false", "valid number, found False"),
        ("split.holdout", "true", "valid number, found True"),
        ("split.seed", "1.5", "valid integer, found 1.5"),
        ("recommend.drop_seen", "1", "valid boolean, found 1"),
        ("recommend.drop_seen", '"yes"', "valid boolean, found 'yes'"),
        ("input.path", "3", "valid string, found 3; input.path: .* valid list, found 3"),
        ("columns.user", "true", "valid string, found True"),
        ("columns.timestamp", "0", "valid string, found 0"),
        # More digits than Python reads and than it writes, and more levels than it descends.
        ("train.rank", "9" * 5000, "valid integer, found '9+'"),
        ("train.seed", "0x" + "f" * 5000, "found int too large to show"),
        ("train.rank", "[" * 5000, r"valid integer, found '\[+'"),
    ],
)
def test_value_of_wrong_type_is_refused(load, key, value, message):
    assert re.search(f"^{key}: .*{message}$", refusal(load, key, value))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("train.rank", "0", "greater than or equal to 1, found 0"),
        ("train.rank", "16385", "less than or equal to 16384, found 16385"),
        ("train.num_user_blocks", "2147483648", "less than 2147483648, found 2147483648"),
        ("recommend.n", "2147483648", "less than 2147483648, found 2147483648"),
        ("train.max_iter", "-1", "greater than or equal to 0, found -1"),
        ("train.reg_param", "-0.1", "greater than or equal to 0, found -0.1"),
        ("train.reg_param", "inf", "finite number, found inf"),
        ("train.reg_param", "nan", "finite number, found nan"),
        ("train.tol", "-1", "greater than or equal to 0, found -1"),
        ("train.patience", "-1", "greater than or equal to 0, found -1"),
        ("output.keep_runs", "0", "greater than or equal to 1, found 0"),
        ("train.num_user_blocks", "-1", "greater than or equal to 0, found -1"),
        ("train.num_item_blocks", "-1", "greater than or equal to 0, found -1"),
        ("train.seed", "9223372036854775808", "less than 9223372036854775808, found 9223372036854775808"),
        ("split.seed", "-9223372036854775809", "greater than or equal to -9223372036854775808, found -92233.*"),
        ("split.holdout", "1.0", "less than 1, found 1.0"),
        ("split.holdout", "-0.1", "greater than or equal to 0, found -0.1"),
        ("split.holdout", "nan", "found nan"),
        ("split.validation", "1", "less than 1, found 1"),
        ("input.max_rejected_share", "1.1", "less than or equal to 1, found 1.1"),
        ("input.max_rejected_share", "nan", "found nan"),
        ("recommend.n", "0", "greater than or equal to 1, found 0"),
        ("output.path", '""', "at least 1 character, found ''"),
        ("columns.item", '""', "at least 1 character, found ''"),
        ("input.duplicates", '"first"', "'keep_all', 'last', 'mean', 'max', 'sum' or 'error', found 'first'"),
    ],
)
def test_value_out_of_range_is_refused(load, key, value, message):
    assert re.search(f"^{key}: .*{message}$", refusal(load, key, value))


def refusal(load, key, value):
    return message_of(load, "", f"{key}={value}")


@pytest.mark.parametrize(
    "override",
    [
        "split.holdout=0",
        "split.holdout=0.999",
        "input.max_rejected_share=0",
        "input.max_rejected_share=1",
        "train.rank=1",
        "train.max_iter=0",
        "train.reg_param=0",
        "train.seed=9223372036854775807",
        "train.seed=-9223372036854775808",
        "recommend.n=1",
    ],
)
def test_value_at_the_end_of_its_range_is_allowed(load, override):
    load("", override)


def test_value_where_a_section_belongs_may_be_too_deep_to_show(load):
    start = f"[[input]]\n{'.'.join('a' * 3000)} = 1\n[output]\npath = 'b'\n"
    assert message_of(load, start=start) == "'input' must be a [section], found list too large to show"


def test_all_problems_are_reported_at_once(load):
    message = message_of(load, "[train]\nrank = 0\nreg_param = -1\n[recommend]\nm = 3")
    assert re.search("train.rank: .*found 0; train.reg_param: .*found -1; unknown key 'recommend.m'", message)


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("train.rank=20", "train", "rank", 20),
        ("train.reg_param=1e-3", "train", "reg_param", 0.001),
        ("train.reg_param=2", "train", "reg_param", 2.0),
        ("train.seed=-5", "train", "seed", -5),
        (" train.rank = 20 ", "train", "rank", 20),
        ("recommend.drop_seen=false", "recommend", "drop_seen", False),
        ("input.duplicates=mean", "input", "duplicates", "mean"),
        ('input.duplicates="mean"', "input", "duplicates", "mean"),
        ("columns.timestamp=rated_at", "columns", "timestamp", "rated_at"),
        ("output.path=/data/my runs/today", "output", "path", "/data/my runs/today"),
        ("output.path=s3a://bucket/key=1/*.parquet", "output", "path", "s3a://bucket/key=1/*.parquet"),
        ('output.path="2024"', "output", "path", "2024"),
    ],
)
def test_override_replaces_one_value(load, override, section, key, value):
    expected = load().as_dict()
    expected[section][key] = value
    found = load("", override).as_dict()
    assert found == expected
    assert type(found[section][key]) is type(value)


def test_last_override_of_a_key_wins_over_the_file_and_the_others(load):
    assert load("[train]\nrank = 3\nseed = 8", "train.rank=4", "train.rank=5").train.rank == 5
    assert load("[train]\nrank = 3\nseed = 8", "train.rank=4").train.seed == 8


def test_override_makes_up_for_a_missing_section(load):
    config = load("", "input.path=a", "output.path=b", start="")
    assert (config.input.path, config.output.path) == ("a", "b")


@pytest.mark.parametrize("override", ["", "train.rank", "rank=3", "=3", ".rank=3", "train.=3", "train", "train=3"])
def test_override_without_section_key_and_value_is_refused(load, override):
    assert message_of(load, "", override) == f"--set expects section.key=value, found '{override}'"


def test_override_of_an_unknown_key_is_refused(load):
    assert message_of(load, "", "train.rnk=3").startswith("unknown key 'train.rnk'; did you mean 'rank'?")


def test_override_into_a_value_is_refused(load):
    message = message_of(load, "", "input.path=a", start='input = 3\n[output]\npath = "b"')
    assert message == "'input' in the configuration must be a [section], found 3"


def test_last_of_duplicates_needs_the_timestamp(load):
    expected = "input.duplicates = 'last' needs columns.timestamp; set it"
    assert message_of(load, "", "input.duplicates=last") == expected
    assert load("", "input.duplicates=last", "columns.timestamp=t").input.duplicates == "last"


def test_node_exporter_reads_only_names_that_end_in_prom(load):
    assert (
        message_of(load, "", "track.openmetrics_path=a.txt")
        == "track: openmetrics_path must end in .prom, found 'a.txt'"
    )
    assert load("", "track.openmetrics_path=a.prom").track.openmetrics_path == "a.prom"


def test_password_of_mlflow_is_neither_taken_nor_shown(load):
    message = message_of(load, "", "track.mlflow_uri=https://me:secret@mlflow/")
    assert message.startswith("track: mlflow_uri must not have a password in it; set MLFLOW_TRACKING_USERNAME and")
    assert "secret" not in message
    assert load("", "track.mlflow_uri=https://mlflow/").track.mlflow_uri == "https://mlflow/"


@pytest.mark.parametrize("interval", [0, -2])
def test_checkpoint_interval_is_a_number_of_iterations_or_never(load, interval):
    message = message_of(load, "", f"train.checkpoint_interval={interval}")
    assert f"greater than or equal to 1, found {interval}" in message
    assert f"should be -1, found {interval}" in message
    assert load("", "train.checkpoint_interval=-1").train.checkpoint_interval == -1


def test_patience_needs_validation_ratings(load):
    expected = "train.patience needs validation ratings: set split.validation above 0 ("
    assert message_of(load, "", "train.patience=1").startswith(expected)
    for setting in VALIDATION:
        assert load("", "train.patience=1", *setting).train.patience == 1


VALIDATION = [
    ["split.validation=0.1"],
    ["split.method=leave_last", "columns.timestamp=t", "split.validation_items=1"],
    ["split.method=column", "columns.fold=f", "split.holdout_fold=1", "split.validation_fold=b"],
]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["split.method=leave_last"], "split.method = 'leave_last' needs columns.timestamp"),
        (["split.method=time"], "split.method = 'time' needs columns.timestamp"),
        (["split.method=column", "split.holdout_fold=1"], "split.method = 'column' and columns.fold "),
        (["columns.fold=f"], "split.method = 'column' and columns.fold go together"),
        (["split.method=column", "columns.fold=f"], "split: method 'column' needs holdout_fold"),
        (
            ["split.method=column", "columns.fold=f", "split.holdout_fold=1", 'split.validation_fold="1"'],
            "split: holdout_fold and validation_fold must be different folds, found 1",
        ),
        (
            ["split.method=leave_last", "columns.timestamp=t", "split.holdout=0.2"],
            "split: method 'leave_last' has no setting holdout; remove it; valid: holdout_items, validation_items, "
            "seed",
        ),
        (["split.holdout_items=2"], "split: method 'random' has no setting holdout_items"),
        (
            ["split.method=random_per_user", "split.holdout_fold=2"],
            "split: method 'random_per_user' has no setting holdout_fold",
        ),
        (["split.method=time", "columns.timestamp=t", "split.seed=1"], "split: method 'time' has no setting seed"),
        (["split.method=sample"], "split.method: Input should be 'random', 'random_per_user', 'leave_last', 'time' or"),
    ],
)
def test_a_method_of_splitting_has_its_own_settings(load, settings, message):
    assert message_of(load, "", *settings).startswith(message)


def test_each_method_of_splitting_takes_its_settings(load):
    load("", "split.method=random_per_user", "split.holdout=0.2", "split.validation=0.1", "split.seed=3")
    load("", "split.method=time", "columns.timestamp=t", "split.holdout=0.2", "split.validation=0.1")
    load("", "split.method=leave_last", "columns.timestamp=t", "split.holdout_items=2", "split.seed=3")
    assert load("", "split.method=column", "columns.fold=f", "split.holdout_fold=a").split.holdout_fold == "a"


@pytest.mark.parametrize(("holdout", "validation"), [(0.5, 0.5), (0.9, 0.2), (0.25, 0.75)])
def test_split_must_leave_ratings_to_train_on(load, holdout, validation):
    message = message_of(load, f"[split]\nholdout = {holdout}\nvalidation = {validation}")
    expected = f"split: holdout + validation must leave ratings to train on, found {holdout} + {validation}"
    assert message == expected


@pytest.mark.parametrize(
    "more",
    ['user = "x"\nitem = "x"', 'item = "Rating"', 'timestamp = "USER_ID"', 'rating = "t"\ntimestamp = "t"'],
)
def test_columns_of_the_same_name_are_refused(load, more):
    message = message_of(load, f"[columns]\n{more}")
    assert message.startswith("columns: column names must be different, found [")


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read the configuration '.*none\.toml': No such file"):
        load_config(tmp_path / "none.toml")


def test_folder_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read the configuration .*: Is a directory"):
        load_config(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"[input\n",
        b"path = a b",
        b"\xff\xfe",
        b'[input]\npath="a"\npath="b"',
        b"a = " + b"[" * 5000,
        b"a = " + b"9" * 5000,
    ],
)
def test_file_that_is_not_toml_is_refused(tmp_path, content):
    path = tmp_path / "job.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"the configuration '.*job\.toml' is not valid TOML: "):
        load_config(path)


def test_path_may_be_a_string(tmp_path):
    path = tmp_path / "job.toml"
    path.write_text(PATHS)
    assert load_config(str(path)) == load_config(path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "input: expected either path or table, found neither"),
        ({"path": "a", "table": "b"}, "input: expected either path or table, found both"),
        ({"table": "b", "format": "csv"}, "input: format works with path only, found table; remove format"),
        ({"format": "jdbc", "incremental": True}, "incremental = true compares files or versions, but there"),
        ({"table": "b", "exclude": ["c"]}, "exclude and exclude_runs skip files, but the input is a table; delete the"),
        ({"path": "a", "format": "delta", "exclude_runs": ["c"]}, "exclude and exclude_runs skip files, but the input"),
        ({"path": "a", "version": 3}, "version works with tables of delta and iceberg only, found format 'parquet'"),
        ({"table": "b", "version": -1}, "input.version: .*greater than or equal to 0"),
        ({"path": "a", "format": "delta", "options": {"versionAsOf": 3}}, "options must not name versionAsOf; set ver"),
        ({"path": "a", "format": "iceberg", "options": {"Branch": "b"}}, "options must not name Branch; set version"),
        ({"path": "a", "query": "DROP TABLE b"}, "input: query must be a SELECT, or a WITH … SELECT"),
        ({"path": "a", "others": {"b": {"path": "c"}}}, "input: others works with query only; set query"),
        ({"path": "a", "query": "select 1", "others": {"input": {"path": "c"}}}, "others must not have the name"),
        ({"path": "a", "query": "select 1", "others": {"b": {}}}, "input.others.b: expected either path or table"),
        ({"path": "a", "query": "select 1", "others": {"b": {"pth": "c"}}}, "unknown key 'input.others.b.pth'; did"),
        ({"path": []}, "input.path: .*at least 1 item"),
    ],
)  # fmt: skip
def test_a_source_is_one_that_can_be_read(settings, message):
    with pytest.raises(ConfigError, match=message):
        checked(PipelineConfig, {"input": settings, "output": {"path": "out"}})


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"path": "a", "name": "title"}, "missing key 'report.item_names.id'"),
        ({"path": "a", "id": "item_id"}, "missing key 'report.item_names.name'"),
        ({"id": "item_id", "name": "title"}, "report.item_names: expected either path or table, found neither"),
        ({"path": "a", "id": "b", "nme": "c", "name": "d"}, "unknown key 'report.item_names.nme'; did you mean 'name'"),
        ({"path": "a", "id": 3, "name": "c"}, "report.item_names.id: .*string, found 3"),
        ("titles.parquet", "'report.item_names' must be a .section., found 'titles.parquet'"),
    ],
)  # fmt: skip
def test_names_of_items_are_a_source_and_two_columns(names, message):
    with pytest.raises(ConfigError, match=message):
        checked(PipelineConfig, {"input": {"path": "a"}, "output": {"path": "out"}, "report": {"item_names": names}})


def test_names_of_items_are_no_content_of_a_run(load):
    config = load("", 'report.item_names={path = "titles.csv", format = "csv", id = "item_id", name = "title"}')
    assert (config.report.item_names.paths, config.report.item_names.name) == (["titles.csv"], "title")
    assert config.changes_since(load().as_dict()) == {}
    assert load().changes_since({**config.as_dict(), "report": {}}) == {}


def test_a_form_of_timestamps_needs_their_column(load):
    assert "timestamp_format works with timestamp only; set timestamp" in message_of(
        load, "", "columns.timestamp_format=yyyy"
    )


def test_hash_does_not_depend_on_the_order_of_keys_or_on_how_a_value_is_written(load):
    config = load("[train]\nrank = 3\nreg_param = 1\n[recommend]\nn = 5")
    other = load("[recommend]\nn = 5\n[train]\nreg_param = 1.0\nrank = 3")
    assert config.hash() == other.hash()
    assert re.fullmatch("[0-9a-f]{64}", config.hash())


def test_hash_does_not_depend_on_whether_a_default_is_written_out(load):
    assert load("[train]\nrank = 10").hash() == load().hash()


@pytest.mark.parametrize(
    "override",
    [
        "input.path=x", "input.duplicates=max", "input.max_rejected_share=0.2", "output.path=x", "columns.user=x",
        "columns.timestamp=x", "split.holdout=0.2", "split.seed=1", "train.rank=11", "train.reg_param=0.2",
        "train.seed=1", "train.num_user_blocks=1", "train.tol=1", "recommend.n=1", "recommend.drop_seen=false",
    ],
)  # fmt: skip
def test_hash_changes_with_a_value(load, override):
    assert load("", override).hash() != load().hash()


@pytest.mark.parametrize("name", ["features", "bias", "Recommendations", "score"])
def test_id_column_named_as_one_of_the_output_is_refused(load, name):
    message = message_of(load, "", f"columns.item={name}")
    assert f"'{name}' is the name of an output column; rename the input column" in message


@pytest.mark.parametrize(
    ("input_path", "output_path"),
    [
        ("data", "data"),
        ("data/ratings", "data"),
        ("data/ratings/", "./data//"),
        (f"file:{os.getcwd()}/data/ratings", "data"),
        (["elsewhere", "data/day=*"], "file:///" + f"{os.getcwd()}/data".lstrip("/")),
        ("s3a://bucket/data/ratings", "s3a://bucket/data"),
        ("hdfs://host/data", "hdfs://host/data/"),
    ],
)
def test_an_output_that_is_or_contains_the_input_is_refused(input_path, output_path):
    with pytest.raises(ConfigError, match=r"is or contains the input '.*'; write to another folder"):
        checked(PipelineConfig, {"input": {"path": input_path}, "output": {"path": output_path}})


@pytest.mark.parametrize(
    ("input_path", "output_path"),
    [("data/in", "data/out"), ("data-2", "data"), ("s3a://bucket/data", "s3a://other/data"), ("s3a://b/data", "data")],
)
def test_an_output_beside_the_input_is_accepted(input_path, output_path):
    checked(PipelineConfig, {"input": {"path": input_path}, "output": {"path": output_path}})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"views": "a.b.c"}, r"output: views must be 'schema' or 'catalog.schema', .*found 'a.b.c'"),
        ({"views": "a`b"}, "output: views must be"),
        ({"views": "lists", "keep_runs": 1}, "output: views needs keep_runs = 2 or more"),
        ({"tables": "a.b.c", "table_format": "delta"}, "output: tables must be 'schema' or 'catalog.schema'"),
        ({"tables": "lists"}, "output: tables and table_format work together only; set both, or none"),
        ({"table_format": "delta"}, "output: tables and table_format work together only"),
        ({"tables": "lists", "table_format": "hudi"}, "output.table_format: .*'delta' or 'iceberg'"),
        ({"tables": "a.b", "table_format": "delta", "views": "a.b"}, "views and tables have the same names, and both"),
        ({"tables": "spark_catalog.B", "table_format": "delta", "views": "b"}, "views and tables have the same names"),
    ],
)
def test_bad_views_and_tables(settings, message):
    with pytest.raises(ConfigError, match=message):
        checked(PipelineConfig, {"input": {"path": "a"}, "output": {"path": "out"} | settings})


@pytest.mark.parametrize("shown", [{"views": "lists"}, {"tables": "lists", "table_format": "delta"}])
def test_an_id_column_may_not_have_the_name_of_the_run_column(shown):
    tree = {"input": {"path": "a"}, "output": {"path": "out", **shown}, "columns": {"item": "Run_id"}}
    with pytest.raises(ConfigError, match="'Run_id' is the name of a column of views and tables; rename the input"):
        checked(PipelineConfig, tree)
    checked(PipelineConfig, tree | {"output": {"path": "out"}})


ITEMS = {"path": "items", "id": "item", "columns": ["title"]}


@pytest.mark.parametrize(
    ("recommend", "message"),
    [
        ({"layout": "long"}, r"recommend\.layout: Input should be 'nested' or 'flat', found 'long'"),
        ({"items": {"path": "items", "id": "item"}}, r"missing key 'recommend\.items\.columns'"),
        ({"items": ITEMS | {"columns": []}}, r"recommend\.items\.columns: "),
        ({"items": ITEMS | {"path": None}}, r"recommend\.items: expected either path or table, found neither"),
        ({"items": ITEMS | {"columns": ["Score"]}}, "recommendations already have a column 'Score'; rename it"),
        ({"items": ITEMS | {"columns": ["user_id"]}}, "recommendations already have a column 'user_id'"),
        ({"items": ITEMS | {"columns": ["a", "A"]}}, "recommendations already have a column 'A'"),
    ],
)
def test_bad_tables_of_recommendations(recommend, message):
    with pytest.raises(ConfigError, match=message):
        checked(PipelineConfig, {"input": {"path": "a"}, "output": {"path": "out"}, "recommend": recommend})


def test_an_id_column_may_not_have_the_name_of_a_column_of_flat_recommendations():
    tree = {"input": {"path": "a"}, "output": {"path": "out"}, "columns": {"user": "Rank"}}
    checked(PipelineConfig, tree)
    with pytest.raises(ConfigError, match="'Rank' is the name of a column of flat recommendations; rename the input"):
        checked(PipelineConfig, tree | {"recommend": {"layout": "flat"}})


def test_catalogs_do_not_show_the_runs_of_a_study():
    output = {"path": "out", "views": "a", "tables": "b", "table_format": "delta"}
    tune = {"space": {"train": {"rank": [4, 8]}}, "metric": "rmse"}
    tree = {"input": {"path": "in"}, "output": output, "split": {"validation": 0.1}, "tune": tune}
    config = checked(StudyConfig, tree)
    found = config.of_study().output
    assert (found.path, found.views, found.tables, found.table_format) == ("out/tuning", None, None, None)
