"""Every bad input through the front door: exit code, one line, and nothing published."""

import json
import math
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mfspark.cli import command_line
from mfspark.storage.lock import lock_output
from tests.jobs.runner import Workspace, run_job, snapshot, workspace_with_a_run, write_parts

pytestmark = [pytest.mark.spark, pytest.mark.usefixtures("spark")]

COLUMNS = {"user_id": [3, 1, 3, 7], "item_id": [20, 20, 10, 10], "rating": [5.0, 1.5, 3.0, 4.0]}


def ratings_with(**columns) -> pa.Table:
    return pa.table({**COLUMNS, **columns})


@pytest.fixture
def workspace(tmp_path):
    return workspace_with_a_run(tmp_path)


def assert_refused(workspace, outcome, exit_code, message):
    assert outcome.exit_code == exit_code, outcome.stderr
    assert len(outcome.errors) == 1, outcome.stderr
    assert re.search(message, outcome.errors[0]), outcome.errors[0]
    assert "Traceback" not in outcome.stderr
    assert "\tat " not in outcome.stderr  # no Java stack either
    assert workspace.current() == "good\n"


def refuse(workspace, exit_code, message, *arguments, run_id="bad", job="run_pipeline"):
    before = snapshot(workspace.output / "runs" / "good")
    outcome = workspace.run(*arguments, run_id=run_id, job=job)
    assert_refused(workspace, outcome, exit_code, message)
    assert snapshot(workspace.output / "runs" / "good") == before
    manifest = workspace.output / "runs" / run_id / "manifest.json"
    if run_id != "good" and manifest.exists():
        assert json.loads(manifest.read_text())["status"] == "failed"


def test_absent_input(workspace):
    refuse(
        workspace,
        3,
        r"DataError: the input '.*ratings.parquet' does not exist; expected parquet files; correct input.path",
    )


def test_a_first_run_that_fails_publishes_nothing(tmp_path):
    workspace = Workspace(tmp_path)
    assert workspace.run().exit_code == 3
    assert workspace.current() is None
    assert workspace.json("manifest.json")["status"] == "failed"
    assert workspace.json("manifest.json")["error"]["step"] == "ingest"


def test_empty_folder(workspace):
    workspace.input.mkdir()
    refuse(workspace, 3, r"DataError: the input '.*' has no parquet file; expected parquet files")


def test_glob_without_a_match(workspace):
    refuse(
        workspace, 3, r"nothing\*.parquet' does not exist; expected", f"input.path={workspace.folder}/nothing*.parquet"
    )


@pytest.mark.classic
def test_unknown_file_system_of_the_input(workspace):
    message = (
        "DataError: the input 'nosuch://host/ratings' cannot be read: .* start Spark with the connector of nosuch://"
    )
    refuse(workspace, 3, message, "input.path=nosuch://host/ratings")


@pytest.mark.remote
def test_file_that_is_no_parquet(workspace):
    workspace.input.write_text("user_id,item_id,rating\n1,2,3\n")
    refuse(workspace, 3, r"DataError: the input '.*ratings.parquet' .*expected parquet files")


@pytest.mark.parametrize("broken", [0, 2])
def test_truncated_file_among_good_ones(workspace, broken):
    # A broken first file is found when the schema is read, a later one in the scan.
    folder = write_parts(ratings_with(), workspace.input, 3)
    path = folder / f"part-{broken}.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    refuse(workspace, 3, rf"DataError: .*part-{broken}.parquet.*; (replace it|expected)")


def test_file_whose_pages_are_damaged(workspace):
    table = pa.table({name: values * 5000 for name, values in COLUMNS.items()})
    pq.write_table(table, workspace.input, compression="snappy", use_dictionary=False)
    content = bytearray(workspace.input.read_bytes())
    content[100:400] = bytes(300)  # the footer stays whole
    workspace.input.write_bytes(content)
    refuse(workspace, 3, "DataError: cannot read an input file: .*ratings.parquet.*; replace it")


def test_files_of_different_types(workspace):
    folder = write_parts(ratings_with(), workspace.input, 2)
    pq.write_table(ratings_with(rating=["5", "1", "3", "4"]), folder / "part-9.parquet")
    message = r"DataError: column 'rating' is double in '.*part-0.parquet' and string in '.*part-9.parquet'; write both"
    refuse(workspace, 3, message)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (ratings_with().slice(0, 0), "DataError: the input has no rows; expected at least one rating"),
        (
            ratings_with().rename_columns(["user_id", "item_id", "ratings"]),
            "SchemaError: column 'rating' is missing; did you mean 'ratings'[?] valid: user_id, item_id, ratings",
        ),
        (
            ratings_with().select(["user_id"]),
            "SchemaError: column 'item_id' is missing; valid: user_id",
        ),
        (pa.table({}), "DataError: the input '.*' has no parquet file|SchemaError: column 'user_id' is missing"),
        (
            ratings_with(user_id=[[3], [1], [3], [7]]),
            "SchemaError: id column 'user_id' must be a number, string, binary, boolean, date or timestamp, found "
            "array<bigint>; cast it first",
        ),
        (
            ratings_with(rating=["5", "1.5", "3", "4"]),
            "SchemaError: column 'rating' must be numeric, found string; cast it first",
        ),
    ],
    ids=["no rows", "missing column", "one column", "no columns", "array id", "string rating"],
)
def test_unusable_table(workspace, table, message):
    pq.write_table(table, workspace.input)
    refuse(workspace, 3, message)


def test_absent_timestamp_column(workspace):
    pq.write_table(ratings_with(time=[1, 2, 3, 4]), workspace.input)
    refuse(workspace, 3, "SchemaError: column 'times' is missing; did you mean 'time'", "columns.timestamp=times")


def test_timestamps_without_an_order(workspace):
    pq.write_table(ratings_with(time=pa.array([[("a", 1)]] * 4, pa.map_(pa.string(), pa.int64()))), workspace.input)
    message = "SchemaError: timestamp column 'time' must be a number, string, .*found map<string,bigint>; cast it first"
    refuse(workspace, 3, message, "columns.timestamp=time", "input.duplicates=last")


def test_too_many_rejected_rows_can_be_looked_at(workspace):
    pq.write_table(ratings_with(user_id=[3, None, 3, 7], rating=[5.0, 1.5, math.inf, 4.0]), workspace.input)
    message = (
        r"DataError: 2 of 4 rows were rejected \(50.0%; .*rating is infinite: 1.*\); at most 49.0% is allowed; "
        "look at rejected_ratings in this run, then correct the input or raise input.max_rejected_share"
    )
    refuse(workspace, 3, message, "input.max_rejected_share=0.49")
    assert workspace.rows("rejected_ratings", "bad") == [
        {"user_id": 3, "item_id": 10, "rating": math.inf, "reason": "rating is infinite"},
        {"user_id": None, "item_id": 20, "rating": 1.5, "reason": "user_id is null"},
    ]


@pytest.mark.remote
def test_nothing_but_rejected_rows(workspace):
    pq.write_table(ratings_with(rating=[math.nan] * 4), workspace.input)
    refuse(workspace, 3, "DataError: all 4 rows were rejected.*expected at least one", "input.max_rejected_share=1")


def test_duplicates_where_they_are_refused(workspace):
    pq.write_table(ratings_with(item_id=[10, 20, 10, 10]), workspace.input)
    message = (
        r"DataError: some \(user, item\) pairs have several ratings: \(3, 10\) 2 times.*"
        r"input.duplicates = 'error' allows one each; choose"
    )
    refuse(workspace, 3, message, "input.duplicates=error")


def test_a_million_ratings_of_one_pair(workspace):
    n_equal = 1_000_000
    repeated = {"user_id": [3] * n_equal, "item_id": [20] * n_equal, "rating": [2.0, 4.0] * (n_equal // 2)}
    pq.write_table(pa.concat_tables([ratings_with(), pa.table(repeated)]), workspace.input)
    # Each of them counts: the mean rating of the pair is what pulls its prediction.
    outcome = workspace.run("train.max_iter=5", "train.reg_param=0.01", run_id="kept")
    assert outcome.exit_code == 0, outcome.stderr
    (user,) = (row["features"] for row in workspace.rows("user_factors", "kept") if row["user_id"] == 3)
    (item,) = (row["features"] for row in workspace.rows("item_factors", "kept") if row["item_id"] == 20)
    assert math.isclose(sum(x * y for x, y in zip(user, item, strict=True)), 3.0, abs_tol=0.05)
    assert workspace.json("metrics.json", "kept")["rows"]["train"] == n_equal + 4


@pytest.mark.parametrize("settings", [[], ["train.biases=true"], ["train.implicit_prefs=true"]])
def test_ratings_that_are_all_equal_are_trained_on(workspace, settings):
    pq.write_table(ratings_with(rating=[4.0] * 4), workspace.input)
    outcome = workspace.run(*settings, run_id="equal")
    assert outcome.exit_code == 0, outcome.stderr
    assert all(math.isfinite(number) for row in workspace.rows("user_factors", "equal") for number in row["features"])
    assert workspace.current() == "equal\n"


@pytest.mark.parametrize(
    ("arguments", "run_id", "message"),
    [
        (["train.ranc=3"], "bad", "ConfigError: unknown key 'train.ranc'; did you mean 'rank'[?] valid: algorithm,"),
        (["trian.rank=3"], "bad", "ConfigError: unknown key 'trian'; did you mean 'train'[?] valid: input, output"),
        (["train.rank=0"], "bad", "ConfigError: train.rank: .*greater than or equal to 1, found 0"),
        (['train.rank="3"'], "bad", "ConfigError: train.rank: .*integer, found '3'"),
        (["train.alpha=-1"], "bad", "ConfigError: train.alpha: .*greater than or equal to 0, found -1"),
        (["train.reg_scaling=sqrt"], "bad", "ConfigError: train.reg_scaling: .*'count' or 'none', found 'sqrt'"),
        (["train.biases=true", "train.nonnegative=true"], "bad", "ConfigError: biases do not work .*; unset"),
        (["train.nonnegative=true", "train.solver=cg"], "bad", "ConfigError: nonnegative needs solver"),
        (["train.unobserved_weight=1"], "bad", "ConfigError: unobservedWeight .*; set implicitPrefs"),
        (["sgd.learning_rate=0"], "bad", "ConfigError: sgd.learning_rate: .*greater than 0, found 0"),
        (["input.duplicates=first"], "bad", "ConfigError: input.duplicates: .*'keep_all', 'last'.*, found 'first'"),
        (["input.duplicates=last"], "bad", "ConfigError: .*columns.timestamp"),
        (["columns.item=user_id"], "bad", "ConfigError: columns: column names must be different"),
        (["rank"], "bad", "ConfigError: --set expects section.key=value, found 'rank'"),
        (["rank=3"], "bad", "ConfigError: --set expects section.key=value, found 'rank=3'"),
        ([], "../x", "ConfigError: run id '../x' is not allowed; expected 1 to 128 letters, digits"),
    ],
)  # fmt: skip
def test_wrong_configuration(workspace, arguments, run_id, message):
    refuse(workspace, 2, message, *arguments, run_id=run_id)
    assert not (workspace.output / "runs" / run_id).exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot read the configuration '.*': No such file"), ("[input", "is not valid TOML")],
)
def test_unreadable_configuration(workspace, content, message):
    workspace.config.unlink()
    if content:
        workspace.config.write_text(content)
    refuse(workspace, 2, message)


def test_no_configuration_named():
    outcome = run_job("run_pipeline")
    assert outcome.exit_code == 2
    assert outcome.errors == ["mfspark: the following arguments are required: --config; see --help"]


def test_an_argument_that_is_no_text_is_written_down(workspace):
    # What Python makes of a byte that is no UTF-8; the log file must take it, or logging prints a traceback.
    refuse(workspace, 2, "ConfigError: --set expects section.key=value, found '\udcff'", "\udcff")


def test_resume_and_overwrite_exclude_each_other(workspace):
    outcome = workspace.run("--resume", "--overwrite")
    assert outcome.exit_code == 2
    assert "not allowed with argument" in outcome.stderr


@pytest.mark.remote
def test_output_that_is_a_file(workspace):
    pq.write_table(ratings_with(), workspace.input)
    (workspace.folder / "file").write_text("precious")
    message = "OutputError: cannot .*'.*/file.*check that the folder is writable"
    refuse(workspace, 5, message, f"output.path={workspace.folder}/file")
    assert (workspace.folder / "file").read_text() == "precious"


@pytest.mark.parametrize(
    ("path", "remedy"), [("nosuch://host/out", "start Spark with"), ("file:", "check that"), ("a:b", "check that")]
)
@pytest.mark.classic
def test_output_that_no_file_system_has(workspace, path, remedy):
    refuse(workspace, 5, f"OutputError: cannot use '{path}': .*{remedy}", f"output.path={path}")


@pytest.mark.remote
@pytest.mark.parametrize("job", ["run_pipeline", "ingest", "train", "recommend", "evaluate"])
def test_output_that_another_job_holds(spark, workspace, job):
    with lock_output(spark, str(workspace.output), "the other"):
        before = snapshot(workspace.output)
        refuse(workspace, 5, r"OutputError: '.*/out' is locked by run 'the other' \(host .*, pid \d+, since", job=job)
        assert snapshot(workspace.output) == before


def test_published_run_id(workspace):
    refuse(
        workspace, 5, "OutputError: run 'good' in '.*' is already published; repeat it with --overwrite", run_id="good"
    )
    message = "OutputError: run 'good' in '.*' is already published; repeat it from the ingest step with --overwrite"
    refuse(workspace, 5, message, "--overwrite", job="train", run_id="good")
    message = "ConfigError: run 'good' was started with another configuration: train.rank"
    refuse(workspace, 2, message, "--resume", "train.rank=3", run_id="good")


def test_unfinished_run_id(workspace):
    assert workspace.run(run_id="bad").exit_code == 3
    refuse(workspace, 5, "OutputError: run 'bad' in '.*' is unfinished; continue it with --resume or .*--overwrite")
    message = r"ConfigError: run 'bad' was started with another configuration: train.rank \(2 then, 3 now\); use"
    refuse(workspace, 2, message, "--resume", "train.rank=3")


@pytest.mark.parametrize("job", ["train", "recommend", "evaluate"])
def test_step_of_a_run_that_does_not_exist(workspace, job):
    refuse(workspace, 5, "OutputError: run 'bad' in '.*' does not exist; start it with the ingest step", job=job)
    assert not (workspace.output / "runs" / "bad").exists()


def test_step_before_the_step_it_builds_on(workspace):
    pq.write_table(ratings_with(), workspace.input)
    assert workspace.run(job="ingest", run_id="bad").exit_code == 0
    refuse(workspace, 2, "ConfigError: .*recommend.*train", job="recommend", run_id="bad")


def test_singular_normal_equation(workspace):
    # Each item has 3 ratings or more; user 'lonely' has one, and rank 2 needs two.
    pairs = [(user, item) for user in ("a", "b", "c") for item in (10, 20, 30)] + [("lonely", 20)]
    users, items = zip(*pairs, strict=True)
    pq.write_table(
        pa.table({"user_id": users, "item_id": items, "rating": [1.0, 5, 2, 4, 4, 1, 2, 5, 3, 5]}), workspace.input
    )
    message = 'NumericalError: .*user "lonely" has no unique solution .*rank 2, 1 ratings.*; raise regParam .*lower'
    refuse(workspace, 4, message, "train.reg_param=0")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            [],
            "NumericalError: .*equation of user [37]: .* too large.*; scale ratings and weights down, or raise",
        ),
        (
            ["train.implicit_prefs=true", "train.alpha=10"],
            "NumericalError: .*equation of item 10: .*; scale alpha, ratings",
        ),
    ],
)
def test_ratings_that_overflow(workspace, settings, message):
    pq.write_table(ratings_with(rating=[5.0, 1.5, 3.0, 3e38]), workspace.input)
    refuse(workspace, 4, message, *settings)


def test_diverging_descent(tmp_path):
    # The runner's own numbers of blocks are of ALS.
    blocks = {"num_user_blocks": 10, "num_item_blocks": 10}
    workspace = Workspace(tmp_path, train={"algorithm": "sgd", **blocks}, sgd={"learning_rate": 1e6})
    pq.write_table(ratings_with(), workspace.input)
    outcome = workspace.run()
    assert outcome.exit_code == 4
    (line,) = outcome.errors
    assert "NumericalError: SGD diverged in epoch 1" in line
    assert "; lower learningRate or choose another schedule" in line
    assert workspace.current() is None


def test_singular_normal_equation_of_an_id_that_python_cannot_hold(workspace):
    far = pa.array([2**62], pa.int64()).view(pa.timestamp("us"))
    pq.write_table(pa.table({"user_id": far, "item_id": [1], "rating": [1.0]}), workspace.input)
    refuse(workspace, 4, "NumericalError: .*item 1 has no unique solution", "train.reg_param=0")
    message = "NumericalError: .*item .*value out of range: 4611686018427387904.* has no unique solution"
    refuse(workspace, 4, message, "train.reg_param=0", "columns.user=item_id", "columns.item=user_id", run_id="swapped")


def test_repeated_id_that_python_cannot_hold(workspace):
    far = pa.array([2**31 - 1, 2**31 - 1], pa.int32()).view(pa.date32())
    pq.write_table(pa.table({"user_id": far, "item_id": [1, 1], "rating": [1.0, 2.0]}), workspace.input)
    refuse(
        workspace, 3, r"DataError: some .* several ratings: \(\+?5881580-07-11, 1\) 2 times", "input.duplicates=error"
    )


@pytest.mark.parametrize(("steps", "flags"), [(["train"], []), (["ingest", "train"], ["--resume"])])
def test_going_on_without_a_run_id_is_wrong_usage(capsys, steps, flags):
    with pytest.raises(SystemExit) as ended:
        command_line.run_job("a job", steps, ["--config", "conf/toy.toml", *flags])
    assert ended.value.code == 2
    assert "--run-id is required to continue a run" in capsys.readouterr().err
