"""The command `mfspark`, over a published run."""

import json
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import mfspark
from mfspark.cli.commands import COMMANDS, main
from mfspark.config.loading import load_config, load_study_config
from mfspark.errors import ConfigError, OutputError
from tests.builders import random_ratings, ratings_table
from tests.conftest import PROJECT
from tests.jobs.runner import Workspace

USERS, ITEMS, VALUES = random_ratings(seed=4, n_users=20, n_items=15, n_ratings=150)
RATINGS = ratings_table(USERS, ITEMS, VALUES, user="who", item="what", rating="stars")


@pytest.fixture(scope="module")
def workspace(spark_session, tmp_path_factory):  # noqa: ARG001
    """Two published runs with columns of their own names, with biases."""
    workspace = Workspace(
        tmp_path_factory.mktemp("commands"),
        columns={"user": "who", "item": "what", "rating": "stars"},
        split={"holdout": 0.2},
        train={"biases": True, "max_iter": 3},
        recommend={"n": 4},
    )
    pq.write_table(RATINGS, workspace.input)
    for run_id, settings in (("first", []), ("second", ["train.reg_param=0.5"])):
        assert workspace.run(*settings, run_id=run_id).exit_code == 0
    return workspace


@pytest.fixture
def command(workspace, spark, capsys):  # noqa: ARG001
    """Run a command over the output; what it prints."""

    def run(name, *arguments, exit_code=0):
        capsys.readouterr()
        assert main([name, str(workspace.output), *map(str, arguments)]) == exit_code
        said = capsys.readouterr()
        return said.out if exit_code == 0 else said.err

    return run


def table(tmp_path, name, **columns):
    pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
    return tmp_path / f"{name}.parquet"


def rows(path):
    return pq.read_table(path).to_pylist()


def lists_of(table):
    """Items of each user, in their order."""
    return {row["who"]: [entry["what"] for entry in row["recommendations"]] for row in table}


@pytest.mark.parametrize("kind", ["explicit", "implicit", "sgd", "tune"])
def test_init_writes_a_configuration_that_is_valid(tmp_path, capsys, kind):
    path = tmp_path / "job.toml"
    assert main(["init", kind, "--to", str(path)]) == 0
    (load_study_config if kind == "tune" else load_config)(path)
    assert path.read_text() == (PROJECT / f"conf/{kind}.toml").read_text()
    assert f"mfspark run --config {path}" in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:  # it may have been edited
        main(["init", kind, "--to", str(path)])
    assert end.value.code == 2


def test_help_names_every_command_and_each_has_its_own(capsys):
    assert main([]) == 0
    text = capsys.readouterr().out
    for name in COMMANDS:
        assert re.search(rf"^  {name} +\S", text, re.MULTILINE)
        with pytest.raises(SystemExit) as end:
            main([name, "--help"])
        assert end.value.code == 0
        assert f"usage: mfspark {name}" in capsys.readouterr().out
    assert main(["rnu"]) == 2
    assert "unknown command 'rnu'; see mfspark --help" in capsys.readouterr().err


def test_the_package_is_a_command_too():
    done = subprocess.run([sys.executable, "-m", "mfspark", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"mfspark {mfspark.__version__}\n"


def test_the_path_for_spark_submit_is_a_file_that_runs_commands(capsys):
    assert main(["path"]) == 0
    path = capsys.readouterr().out.strip()
    assert Path(path) == files("mfspark.cli") / "submitted.py"
    done = subprocess.run([sys.executable, path, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("mfspark ")


@pytest.mark.remote
@pytest.mark.spark
def test_runs_are_listed_with_the_current_one_marked(command):
    lines = [line.split() for line in command("runs").splitlines()]
    assert [line[:2] for line in lines] == [["run", "status"], ["first", "complete"], ["*", "second"]]
    assert lines[1][3:6] == ["20", "15", "150"]


@pytest.mark.spark
def test_a_run_is_shown(command, workspace):
    for arguments, run in (([], "second"), (["first"], "first")):
        text = command("show", *arguments)
        assert text.startswith(f"{workspace.output}/runs/{run}\n")
        assert "recommendations: who:int,recommendations:array<struct<what:int,score:float>>" in text
        rmse = workspace.json("metrics.json", run)["holdout"]["rmse"]
        assert re.search(rf"^  rmse +{rmse:.4g} ", text, re.MULTILINE)


@pytest.mark.spark
def test_two_runs_are_compared(command, workspace):
    text = command("diff", "first", "second")
    assert re.search(r"train\.reg_param +0\.1 +→ +0\.5", text)
    lists = [
        {
            row["who"]: [entry["what"] for entry in row["recommendations"]]
            for row in workspace.rows("recommendations", run)
        }
        for run in ("first", "second")
    ]
    stayed = np.mean([len(set(lists[0][user]) & set(lists[1][user])) / 4 for user in lists[0]])
    assert re.search(rf"share of items that stayed, mean over users +{stayed:.4g}$", text, re.MULTILINE)
    assert re.search(r"users in both +20$", text, re.MULTILINE)


@pytest.mark.spark
def test_pairs_are_scored_as_the_factors_say(command, workspace, tmp_path):
    command("score", "--pairs", table(tmp_path, "pairs", who=[0, 1], what=[3, 4]), "--to", tmp_path / "scored")
    users, items = (
        {row[name]: row for row in workspace.rows(f"{side}_factors", "second")}
        for side, name in (("user", "who"), ("item", "what"))
    )
    mean = workspace.json("metrics.json", "second")["refit"]["global_mean"]
    for row in rows(tmp_path / "scored"):
        user, item = users[row["who"]], items[row["what"]]
        expected = mean + user["bias"] + item["bias"] + np.dot(user["features"], item["features"])
        assert row["prediction"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.remote
@pytest.mark.spark
def test_lists_keep_to_users_candidates_and_exclusions(command, workspace, tmp_path):
    users, stock = table(tmp_path, "users", who=[0, 5]), table(tmp_path, "stock", what=[1, 2, 3])
    command(
        "lists", "--users", users, "--candidates", stock, "--exclude", table(tmp_path, "gone", what=[2]),
        "--n", 5, "--to", tmp_path / "lists",
    )  # fmt: skip
    found = {row["who"]: {entry["what"] for entry in row["recommendations"]} for row in rows(tmp_path / "lists")}
    assert found == {0: {1, 3}, 5: {1, 3}}
    # All users, without what they have rated: the lists of the run.
    command("lists", "--seen", workspace.input, "--n", 4, "--to", tmp_path / "all")
    assert lists_of(rows(tmp_path / "all")) == lists_of(workspace.rows("recommendations", "second"))


@pytest.mark.spark
def test_strangers_get_what_is_popular(command, workspace, tmp_path):
    users = table(tmp_path, "users", who=[0, 999])
    command("lists", "--users", users, "--popular", workspace.input, "--n", 2, "--to", tmp_path / "lists")
    found = {row["who"]: row["recommendations"] for row in rows(tmp_path / "lists")}
    counts = np.bincount(ITEMS)
    best = sorted(range(15), key=lambda item: (-counts[item], item))[:2]
    assert [entry["what"] for entry in found[999]] == best
    assert "--popular is for users without factors" in command(
        "lists", "--popular", workspace.input, "--to", tmp_path / "other", exit_code=2
    )


@pytest.mark.remote
@pytest.mark.spark
def test_neighbours_newcomers_and_reasons(command, tmp_path):
    command("similar", "--of", table(tmp_path, "of", what=[3]), "--n", 2, "--to", tmp_path / "near")
    (near,) = rows(tmp_path / "near")
    assert near["what"] == 3
    assert 3 not in [entry["what"] for entry in near["similar"]]
    newcomers = table(tmp_path, "new", who=[100, 100, 101], what=[1, 2, 3], stars=[5.0, 1.0, 4.0])
    command("fold-in", "--ratings", newcomers, "--n", 3, "--to", tmp_path / "folded")
    found = {row["who"]: {entry["what"] for entry in row["recommendations"]} for row in rows(tmp_path / "folded")}
    assert found.keys() == {100, 101}
    assert not found[100] & {1, 2}
    command("fold-in", "--ratings", newcomers, "--factors", "--to", tmp_path / "factors")
    assert sorted(row["who"] for row in rows(tmp_path / "factors")) == [100, 101]
    command("explain", "--ratings", newcomers, "--user", 100, "--item", 4, "--to", tmp_path / "reasons")
    assert sorted(row["what"] for row in rows(tmp_path / "reasons")) == [1, 2]


@pytest.mark.spark
def test_factors_are_exported_as_arrays(command, workspace, tmp_path):
    command("export", "--run", "first", "--to", tmp_path / "export")
    for side, name in (("user", "who"), ("item", "what")):
        matrix = np.load(tmp_path / f"export/{side}_factors.npy")
        ids = pq.read_table(tmp_path / f"export/{side}_ids.parquet")["id"].to_pylist()
        expected = {row[name]: [*row["features"], row["bias"]] for row in workspace.rows(f"{side}_factors", "first")}
        assert dict(zip(ids, matrix.tolist(), strict=True)) == expected


@pytest.mark.spark
@pytest.mark.parametrize("kind", [[], ["HNSW32"]])
def test_an_exported_index_finds_the_best_items_of_a_user(command, workspace, tmp_path, kind):
    faiss = pytest.importorskip("faiss", reason="the extra index is not installed")
    command("export", "--to", tmp_path / "export", "--index", *kind)
    index = faiss.read_index(str(tmp_path / "export/item_factors.faiss"))
    ids = pq.read_table(tmp_path / "export/item_ids.parquet")["id"].to_numpy()
    items = {row["what"]: row for row in workspace.rows("item_factors", "second")}
    n_found = 0
    for user in workspace.rows("user_factors", "second")[:5]:
        query = np.array([[*user["features"], 1.0]], np.float32)
        scores, rows = index.search(query, 10)
        expected = {item: row["bias"] + np.dot(row["features"], user["features"]) for item, row in items.items()}
        best = sorted(expected, key=expected.get, reverse=True)[:10]
        found = ids[rows[0]].tolist()
        np.testing.assert_allclose(scores[0], [expected[item] for item in found], rtol=1e-4, atol=1e-6)
        n_found += len(set(found) & set(best))
        assert kind or found == best
    assert n_found >= 0.95 * 5 * 10


@pytest.mark.spark
def test_an_index_that_cannot_be_made_leaves_nothing(command, tmp_path, monkeypatch):
    pytest.importorskip("faiss", reason="the extra index is not installed")
    said = command("export", "--to", tmp_path / "export", "--index", "Falt", exit_code=2)
    assert "--index Falt: FAISS cannot make it of 15 vectors of 3 numbers" in said
    assert "expected Flat, HNSW32 or another" in said
    monkeypatch.setattr("mfspark.cli.serve.find_spec", lambda _: None)
    said = command("export", "--to", tmp_path / "export", "--index", exit_code=2)
    assert "--index needs the library faiss, which is not installed; pip install 'mfspark[index]'" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.spark
def test_what_is_there_is_not_overwritten_unasked(command, tmp_path):
    pairs = table(tmp_path, "pairs", who=[0], what=[3])
    command("score", "--pairs", pairs, "--to", tmp_path / "scored")
    said = command("score", "--pairs", pairs, "--to", tmp_path / "scored", exit_code=5)
    assert "exists already; write elsewhere, or replace it with --overwrite" in said
    command("score", "--pairs", table(tmp_path, "other", who=[1], what=[3]), "--to", tmp_path / "scored", "--overwrite")
    assert [row["who"] for row in rows(tmp_path / "scored")] == [1]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.spark
def test_a_run_is_a_model(workspace, spark, tmp_path):
    model = mfspark.load(str(workspace.output))
    assert (model.getUserCol(), model.getItemCol()) == ("who", "what")
    recommendations = mfspark.read(spark, str(workspace.output), "recommendations", "second")
    ratings = spark.read.parquet(str(workspace.input))
    found = model.recommendForAllUsers(4, seen=ratings)
    for ours, theirs in zip(found.orderBy("who").collect(), recommendations.orderBy("who").collect(), strict=True):
        assert [entry["what"] for entry in ours["recommendations"]] == [
            entry["what"] for entry in theirs["recommendations"]
        ]
    # It was solved from the item factors, so the fold-in of all ratings gives the user factors again.
    folded = {row["id"]: row["features"] for row in model.foldInUsers(ratings).userFactors.collect()}
    for row in model.userFactors.collect():
        np.testing.assert_allclose(folded[row["id"]], row["features"], rtol=1e-3, atol=1e-3)
    model.save(f"{tmp_path}/model")
    assert mfspark.ALSModel.load(f"{tmp_path}/model").getUserCol() == "who"


@pytest.mark.spark
def test_what_is_not_published_is_not_loaded(workspace, spark, tmp_path):
    with pytest.raises(OutputError, match="has no published run: no file CURRENT"):
        mfspark.load(str(tmp_path))
    with pytest.raises(OutputError, match=r"run 'unknown' in .* was removed"):
        mfspark.load(str(workspace.output), "unknown")
    with pytest.raises(ConfigError, match="run 'second' has no table 'ratings'; found item_factors, recommendations"):
        mfspark.read(spark, str(workspace.output), "ratings")
    manifest = workspace.output / "runs/first/manifest.json"
    text = manifest.read_text()
    manifest.write_text(json.dumps(json.loads(text) | {"status": "held"}))
    with pytest.raises(OutputError, match=r"run 'first' in .* is held; expected a complete run"):
        mfspark.load(str(workspace.output), "first")
    manifest.write_text(text)


@pytest.mark.spark
def test_the_python_of_the_documentation_runs(command, workspace, spark, tmp_path):
    pytest.importorskip("faiss", reason="the extra index is not installed")
    page = (PROJECT / "docs/howto/serve.md").read_text(encoding="utf-8")
    command("export", "--to", tmp_path / "vectors", "--index")
    names = {"spark": spark}
    for code in re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE):
        exec(code.replace('"output', f'"{workspace.output}').replace('"vectors', f'"{tmp_path}/vectors'), names)
    assert names["model"].rank == 2
    assert sorted(names["lists"]["who"]) == list(range(20))
    assert names["best"].columns == ["who", "what", "score"]
    expected = [
        (row["who"], entry["what"], entry["score"])
        for row in workspace.rows("recommendations", "second")
        for entry in row["recommendations"]
    ]
    assert sorted(names["best"].fetchall()) == sorted(expected)
    users, items = (np.load(tmp_path / f"vectors/{side}_factors.npy") for side in ("user", "item"))
    scores = users[:5, :2] @ items[:, :2].T + items[:, 2]
    expected = pq.read_table(tmp_path / "vectors/item_ids.parquet")["id"].to_numpy()[np.argsort(-scores)[:, :10]]
    np.testing.assert_array_equal(names["nearest"], expected)
