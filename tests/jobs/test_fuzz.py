"""Random bad input through the front door: a listed exit code, one line, and nothing lost that was there."""

import io
import re
import tempfile
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, event, given
from hypothesis import strategies as st

from tests import fuzz
from tests.builders import random_ratings, ratings_table
from tests.jobs.runner import snapshot, workspace_with_a_run

pytestmark = [pytest.mark.spark, pytest.mark.usefixtures("spark")]


@pytest.fixture
def try_job(tmp_path, monkeypatch):
    """Run a job in a workspace of its own and check the contract; `prepare` puts the input there and adds settings."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # for the logs of all these jobs

    def run(prepare, *arguments, run_id="bad", job="run_pipeline"):
        with tempfile.TemporaryDirectory() as folder:
            base = Path(folder, *PARENTS)
            base.mkdir(parents=True)
            workspace = workspace_with_a_run(base)
            settings = prepare(workspace)
            before = snapshot(Path(folder))
            outcome = workspace.run(*arguments, *settings, run_id=run_id, job=job)
            assert_contract(outcome, before, snapshot(Path(folder)), run_id)

    return run


def assert_contract(outcome, before, after, run_id):
    event(f"exit code {outcome.exit_code}")
    event(re.sub("'.*'", "…", " ".join(outcome.errors))[:90])
    assert outcome.exit_code in (0, 2, 3, 4, 5), outcome.stderr  # 1 is a defect
    assert len(outcome.errors) == (1 if outcome.exit_code else 0), outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert "\tat " not in outcome.stderr  # no Java stack either
    changed = {path for path in before if after.get(path) != before[path]}
    if outcome.exit_code == 0:
        changed = {path for path in changed if f"runs/{run_id}/" not in path and not path.endswith("/CURRENT")}
    assert not changed


def write(table):
    """What puts this table, or these bytes, into a workspace."""

    def prepare(workspace):
        workspace.input.write_bytes(table if isinstance(table, bytes) else parquet_bytes(table))
        return []

    return prepare


def parquet_bytes(table, **options):
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


PARENTS = ["deep", "deep", "deep"]  # what leaves the workspace by .. stays in the folder
RATINGS = ratings_table(*random_ratings(3, 30, 20, 200), user="user_id", item="item_id")
FEW_RATINGS = ratings_table(*random_ratings(4, 7, 5, 20), user="user_id", item="item_id")
NAMED = RATINGS.set_column(0, "user_id", RATINGS["user_id"].cast(pa.string()))
FILES = [
    parquet_bytes(RATINGS),
    parquet_bytes(RATINGS, compression="none", use_dictionary=False, data_page_version="2.0", data_page_size=100),
    parquet_bytes(RATINGS, compression="zstd", row_group_size=50, write_page_index=True),
    parquet_bytes(NAMED, compression="gzip"),
    parquet_bytes(NAMED, use_dictionary=False, column_encoding={"user_id": "DELTA_BYTE_ARRAY"}),
]


@fuzz.examples(6)
@given(content=st.sampled_from(FILES).flatmap(fuzz.damaged))
def test_damaged_file(try_job, content):
    try_job(write(content), "train.max_iter=1")


def scalars(type_, values):
    return pa.array(values, type_)


def from_integers(storage, type_, values):
    return pa.array(values, storage).view(type_)


I64 = [-(2**63), -(2**53) - 1, -1, 0, 1, 2**53 + 1, 2**63 - 1]
I32 = [-(2**31), -719_163, -1, 0, 1, 2_932_897, 2**31 - 1]
FLOATS = [float("nan"), float("inf"), float("-inf"), -0.0, 0.0, 5e-324, 1e-40, 1.5, 3.4e38, 1e308]
# Far from year 1 to 9999, which Python's own types hold.
MICROSECONDS = [-(2**63), -62_135_596_800_000_001, -1, 0, 253_402_300_800_000_000, 2**63 - 1]

GOOD = [scalars(pa.int64(), [1, 2, 3, 4, 5]), scalars(pa.string(), ["a", "b", "c", "d"])]
GOOD_NUMBERS = [scalars(pa.float64(), [1, 2.5, 3, 5]), scalars(pa.int8(), [1, 2, 3])]
NUMBERS = [
    scalars(pa.int64(), I64),
    scalars(pa.int8(), [-128, 0, 127]),
    scalars(pa.uint64(), [0, 2**63, 2**64 - 1]),
    scalars(pa.float64(), FLOATS),
    scalars(pa.float32(), [*FLOATS[:5], 1e-45, 3.4e38]),
    scalars(pa.float16(), [0, 1.5, float("nan")]),
    scalars(pa.decimal128(38), [10**38 - 1, -(10**38) + 1, 0]),
    pa.array(["0." + "9" * 38, "-0." + "1" * 38, "0"]).cast(pa.decimal128(38, 38)),
    scalars(pa.decimal256(76), [10**75]),
]
ATOMS = [
    scalars(pa.string(), ["", "a", "\x00", "é", "e\u0301", "\U0001f600", "NaN", "null", "'; --", "`", "x" * 100_000]),
    pa.array([b"\xff\xfe", b"\xed\xa0\x80", b"a"], pa.binary()).view(pa.string()),
    scalars(pa.large_string(), ["a", "b"]),
    scalars(pa.binary(), [b"", b"\x00", b"\xff" * 1000]),
    scalars(pa.binary(4), [b"abcd", b"\x00\x00\x00\x00"]),
    scalars(pa.bool_(), [True, False]),
    scalars(pa.dictionary(pa.int8(), pa.string()), ["a", "b", "a"]),
    from_integers(pa.int32(), pa.date32(), I32),
    from_integers(pa.int64(), pa.timestamp("us"), MICROSECONDS),
    from_integers(pa.int64(), pa.timestamp("us", "UTC"), MICROSECONDS),
    from_integers(pa.int64(), pa.timestamp("ms", "America/New_York"), MICROSECONDS[1:5]),
    from_integers(pa.int64(), pa.timestamp("ns"), I64),
    from_integers(pa.int64(), pa.time64("us"), [0, 1, 86_399_999_999, 86_400_000_000]),
    from_integers(pa.int64(), pa.duration("us"), I64),
]
NESTED = [
    pa.nulls(3),
    scalars(pa.list_(pa.int32()), [[], [1, None], [2]]),
    scalars(pa.struct([("user_id", pa.int64())]), [{"user_id": 1}, {"user_id": None}]),
    scalars(pa.map_(pa.string(), pa.int64()), [[("a", 1)], []]),
    scalars(pa.list_(pa.null()), [[], [None]]),
    scalars(pa.list_(pa.struct([("a.b", pa.list_(pa.string()))])), [[{"a.b": ["x"]}], None]),
]

INTERNAL_NAMES = [
    "user", "item", "user_id", "item_id", "rating", "weight", "timestamp", "part", "is_validation", "features", "bias",
    "id", "items", "reason", "_reason", "score", "prediction", "recommendations", "label", "relevant", "recommended",
    "count", "latest", "__mfspark_user_id", "__mfspark_user_factors", "__mfspark_wanted", "_metadata", "USER_ID", "Id",
]  # fmt: skip
AWKWARD_NAMES = [
    "a.b",
    "`",
    "a`b",
    "``",
    "`a`.`b`",
    "*",
    "a.*",
    " ",
    "a b",
    "'",
    '"',
    "\\",
    "a,b",
    "é",
    "ſ",
    "\n",
    "$x",
]
names = st.one_of(
    st.sampled_from(INTERNAL_NAMES),
    st.sampled_from(AWKWARD_NAMES),
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=5),
)


@st.composite
def columns(draw, pools, n_rows):
    """An array of one of the pools' types, with nulls or without."""
    pool, has_nulls = draw(st.sampled_from(pools)), draw(st.booleans())
    place = st.integers(0, len(pool) - 1)
    places = draw(st.lists(st.none() | place if has_nulls else place, min_size=n_rows, max_size=n_rows))
    return pool.take(pa.array(places, pa.int32()))


@st.composite
def tables(draw):
    """A table of ratings with columns of odd names, types and values, and the settings that name them."""
    n_rows = draw(st.sampled_from([8, 8, 8, 5, 1, 0]))
    ids = st.sampled_from([GOOD, GOOD, ATOMS + NUMBERS, ATOMS + NUMBERS, NESTED])
    numbers = st.sampled_from([GOOD_NUMBERS, GOOD_NUMBERS, NUMBERS, NUMBERS, ATOMS + NESTED])
    pools = {"user": ids, "item": ids, "rating": numbers, "weight": numbers, "timestamp": ids}
    roles = ["user", "item", "rating", *sorted(draw(st.sets(st.sampled_from(["weight", "timestamp"]))))]
    n_more = draw(st.integers(0, 3))
    found = draw(st.lists(names, min_size=len(roles) + n_more, max_size=len(roles) + n_more, unique_by=str.lower))
    pool_of = [*(draw(pools[role]) for role in roles), *[GOOD + NUMBERS + ATOMS + NESTED] * n_more]
    arrays = [draw(columns(pool, n_rows)) for pool in pool_of]
    settings = [f"columns.{role}={fuzz.toml_string(name)}" for role, name in zip(roles, found, strict=False)]
    policies = ["keep_all", "mean", "max", "sum", "error", *(["last"] if "timestamp" in roles else [])]
    settings.append(f"input.duplicates={draw(st.sampled_from(policies))}")
    if draw(st.integers(0, 9)) == 0:
        found[draw(st.integers(0, len(found) - 1))] = draw(names)  # two of one name, or one is missing
    order = draw(st.permutations(range(len(found))))
    return pa.Table.from_arrays([arrays[i] for i in order], [found[i] for i in order]), settings


SGD = ["train.algorithm=sgd", "train.num_user_blocks=10", "train.num_item_blocks=10", "sgd.num_blocks=2"]
METHODS = [
    [], ["train.implicit_prefs=true"], ["train.biases=true"], ["train.nonnegative=true"], ["train.solver=cg"],
    ["train.solver=subspace"], ["train.reg_param=0"], ["train.num_user_blocks=3"], ["recommend.drop_seen=false"],
    SGD,
]  # fmt: skip
SPLITS = [
    [], ["split.holdout=0.5"], ["split.holdout=0.3", "split.validation=0.3"],
    *[[f"split.method={name}"] for name in ("random_per_user", "leave_last", "time")],
]  # fmt: skip
SHARES = [["input.max_rejected_share=1"]] * 4 + [[]]
mild_settings = st.tuples(*map(st.sampled_from, (METHODS, SPLITS, SHARES))).map(lambda drawn: [*chain(*drawn)])


@fuzz.examples(10)
@given(table=tables(), settings=mild_settings)
def test_odd_table(try_job, table, settings):
    table, of_columns = table
    try:
        content = parquet_bytes(table)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid, OverflowError):
        assume(False)
    try_job(write(content), *of_columns, "train.max_iter=1", *settings)


@fuzz.examples(8)
@given(
    settings=st.sampled_from([SGD, []]).flatmap(
        lambda first: st.lists(fuzz.settings_in_range, max_size=4).map(first.__add__)
    )
)
def test_settings_at_the_ends_of_their_ranges(try_job, settings):
    try_job(write(FEW_RATINGS), *settings)


PIECES = [
    "..", ".", "/", "/", "a", "*", "?", "[", "]", "[a", "{", "{a,b}", "\\", " ", "%20", "%", "#", ":", "~", "$HOME",
    "`id`", "$(id)", "\n", "é", "x" * 300, "\x00", ",", "=", "user_id=1", ".next", "out", "runs", "good", "CURRENT",
    "ratings.parquet",
]  # fmt: skip
# None that would look for a server.
FOREIGN = ["", "file:", "file://host/a", "nosuch://host/a", "s3a://bucket/a", "jar:a", ":", "hdfs:"]


@st.composite
def paths(draw):
    """A path within the workspace, or one that no file system knows."""
    pieces = draw(st.lists(st.sampled_from(PIECES), min_size=1, max_size=5))
    assume(pieces.count("..") <= len(PARENTS))
    return draw(st.sampled_from(["{folder}/" + "".join(pieces)] * 9 + FOREIGN))


@fuzz.examples(10)
@given(
    path_of=st.fixed_dictionaries({}, optional={"output": paths()}) | st.dictionaries(st.just("input"), paths()),
    run_id=st.just("bad") | st.just("good") | fuzz.run_ids,
    flags=st.sampled_from([[], ["--resume"], ["--overwrite"]]),
    job=st.sampled_from(["run_pipeline", "run_pipeline", "ingest", "train", "recommend", "evaluate"]),
)
def test_odd_paths_and_run_ids(try_job, path_of, run_id, flags, job):
    def prepare(workspace):
        write(RATINGS)(workspace)
        return [
            f"{section}.path={fuzz.toml_string(path.replace('{folder}', str(workspace.folder)))}"
            for section, path in path_of.items()
        ]

    try_job(prepare, "train.max_iter=1", *flags, run_id=run_id, job=job)
