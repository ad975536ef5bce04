"""The documentation: its code runs, its commands are those that there are, its tables are complete."""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from contextlib import redirect_stdout, suppress
from functools import cache
from io import StringIO
from pathlib import Path

import pyspark
import pytest
from pyspark.ml import recommendation as spark_ml

from mfspark.cli.command_line import _parse
from mfspark.cli.commands import COMMANDS
from mfspark.config.loading import load_config, load_study_config, tomllib
from mfspark.errors import MfsparkError
from scripts.make_reference import FOLDER, pages
from tests.builders import random_ratings, ratings_table
from tests.conftest import PROJECT
from tests.jobs.runner import run_job
from tests.programs import run_program

DOCS = sorted([*PROJECT.glob("*.md"), *PROJECT.glob("docs/**/*.md")])
MIGRATION, TUTORIAL = PROJECT / "docs/howto/from-spark-als.md", PROJECT / "docs/tutorial.md"
SERVE = PROJECT / "docs/howto/serve.md"  # run by tests/cli/test_commands.py
SCHEDULE = PROJECT / "conf/schedule"
HARMLESS = {"cat", "echo", "ls", "mv", "source", "openssl", "pip", "crontab", "set", ":", "cd", "flock", "tail", "mvn"}
"""Programs of the system in commands, whose arguments are not looked at."""


def blocks(path, *languages):
    """(language, text) of each block of code in these languages."""
    found = re.findall(r"^```(\w+)\n(.*?)^```", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [(language, text) for language, text in found if language in languages]


def commands(console):
    """What follows each $; the rest is what it prints."""
    return re.findall(r"^\$ (.*)", console.replace("\\\n", " "), re.MULTILINE)


def name_of(path):
    return str(path.relative_to(PROJECT))


def with_code(*languages, besides=()):
    paths = [path for path in DOCS if blocks(path, *languages) and path not in besides]
    return pytest.mark.parametrize("path", paths, ids=name_of)


@pytest.fixture
def names(spark, tmp_path):
    """What the code of the pages takes as given."""
    arrays = random_ratings(seed=2, n_users=40, n_items=25, n_ratings=500)
    ratings = spark.createDataFrame(ratings_table(*arrays, user="user_id", item="item_id"))
    rejected = tmp_path / "runs/bad/rejected_ratings"
    ratings.selectExpr("*", "'rating is null' AS reason").write.parquet(str(rejected))
    return {
        "ratings": ratings,
        "pairs": ratings,
        "users": ratings.select("user_id").distinct(),
        "in_stock": ratings.select("item_id").where("item_id < 20").distinct(),
        "banned": ratings.select("item_id").where("item_id < 5").distinct(),
        "newcomers": ratings.selectExpr("user_id + 1000 AS user_id", "item_id", "rating"),
        "path": str(tmp_path / "model"),
        "output": tmp_path,
        "run_id": "bad",
    }


@pytest.mark.docs
@pytest.mark.spark
# Spark's own tuning leaves its pools of threads to the collector.
@pytest.mark.filterwarnings(
    "ignore:unclosed running multiprocessing pool:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
@with_code("python", besides=[MIGRATION, TUTORIAL, SERVE])
def test_the_code_of_a_page_runs(path, names):
    for _, code in blocks(path, "python"):
        exec(code, names)


@pytest.mark.docs
@pytest.mark.spark
def test_the_migration_example_runs(spark, tmp_path):
    ((_, code),) = blocks(MIGRATION, "python")
    data = ratings_table(*random_ratings(seed=2, n_users=40, n_items=25, n_ratings=500))
    names = {"ratings": spark.createDataFrame(data), "path": str(tmp_path / "model")}
    exec(code, names)
    assert 0 < names["rmse"] < 5
    assert names["same"].rank == 8
    assert names["best"].count() == names["unseen"].count() == names["model"].userFactors.count()
    assert names["for_newcomers"].where("user >= 1000").count() == names["some"].count()
    assert names["tonight"].summary.objective_history[-1] > 0


@pytest.fixture(scope="module")
def tutorial(spark_session, tmp_path_factory):  # noqa: ARG001
    """The tutorial, done step by step in a folder of its own: that folder, and what its code has named."""
    build, names = f"{tmp_path_factory.mktemp('tutorial')}/build/", {}
    os.mkdir(build)
    for language, text in blocks(TUTORIAL, "console", "python"):
        here = text.replace("build/", build)
        if language == "python":
            exec(here, names)
            continue
        for command in commands(here):
            if command.startswith("spark-submit"):
                _, _, job = command.partition("jobs/")
                name, *arguments = shlex.split(job)
                outcome = run_job(name.removesuffix(".py"), *arguments)
                assert (outcome.exit_code, outcome.errors) == (0, []), command
            elif not command.startswith(("./scripts/demo", "source ")):
                python = f"PATH={Path(sys.executable).parent}:$PATH; {command}"
                subprocess.run(["bash", "-c", python], cwd=PROJECT, check=True, capture_output=True)
    return Path(build) / "tutorial", names


@pytest.mark.docs
@pytest.mark.spark
def test_the_tutorial_leads_where_it_says(tutorial):
    output, names = tutorial
    assert sorted(path.name for path in (output / "runs").iterdir()) == ["first", "second"]
    assert names["rmse"]["second"] < names["rmse"]["first"]  # "a better run"
    assert names["top"].where("size(recommendations) = 5").count() == 30
    assert names["similar"].count() == 100
    assert names["for_newcomer"].where("user_id = 1000").count() == 1


@pytest.mark.docs
@pytest.mark.spark
def test_tables_and_files_of_a_run_are_those_of_the_page(spark, tutorial):
    run = tutorial[0] / "runs/first"
    page = (FOLDER / "output.md").read_text(encoding="utf-8")
    schemas = dict(re.findall(r"^\| `(\w+)` \| `(user_id.*?|item_id.*?)` \|$", page, re.MULTILINE))
    assert sorted(schemas) == sorted(path.name for path in run.iterdir() if path.is_dir() and path.name[0] != ".")
    for table, schema in schemas.items():
        found = spark.read.parquet(str(run / table)).schema
        assert schema == ", ".join(f"{field.name} {field.dataType.simpleString()}" for field in found).replace(
            "struct<item_id:bigint,score:float>", "struct<item_id: bigint, score: float>"
        )
    for file, optional in (
        ("metrics.json", set()),
        ("manifest.json", {"error", "excluded_runs", "held_by", "input_version"}),
    ):
        section = page.partition(f"## {file}\n")[2].partition("\n## ")[0]
        documented = {
            name for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
        }
        assert documented - optional == set(json.loads((run / file).read_text()))


def test_reference_pages_are_those_of_the_sources():
    for name, text in pages().items():
        assert (FOLDER / name).read_text(encoding="utf-8") == text, f"{name}: python scripts/make_reference.py"


@with_code("console")
def test_the_commands_of_a_page_are_those_that_there_are(path, spark_submit_flags):
    for _, console in blocks(path, "console"):
        for command in commands(console):
            check(command, spark_submit_flags)


@pytest.mark.parametrize("name", ["crontab", "yarn.sh", "kubernetes.sh"])
def test_the_commands_of_the_schedules_are_those_that_there_are(name, spark_submit_flags):
    text = (SCHEDULE / name).read_text(encoding="utf-8").replace("\\\n", " ").replace("\\%", "%")
    lines = [line.removeprefix("0 3 * * * ") for line in text.splitlines()]
    lines = [line for line in lines if line and not re.match(r"#|\w+=", line)]
    assert any("jobs/" in line for line in lines)
    for line in lines:
        check(line, spark_submit_flags)


@pytest.fixture(scope="module")
def spark_submit_flags():
    """Flags of spark-submit, by its own word."""
    submit = Path(pyspark.__file__).parent / "bin/spark-submit"
    done = subprocess.run([submit, "--help"], capture_output=True, text=True, check=False)
    return set(re.findall(r"--[\w-]+", done.stdout + done.stderr))


def check(command, spark_submit_flags):
    """Fail where a command has a file, flag or setting that does not exist."""
    words = shlex.split(re.sub(r"\s#\s.*|\s\.\.\.", "", re.sub(r"\$\((?:[^()]|\([^()]*\))*\)", "ANSWER", command)))
    for file in re.findall(r"(?<![\w/])(?:conf|jobs|scripts|tests)/[\w./-]+", " ".join(words)):
        assert (PROJECT / file).exists(), f"{command}: there is no {file}"
    jobs = [number for number, word in enumerate(words) if re.fullmatch(r"jobs/\w+\.py", word)]
    script = next((word for word in words if re.fullmatch(r"(\./)?scripts/\w+(\.py)?|scripts\.\w+", word)), None)
    if jobs:
        flags = {word for word in words[words.index(_program(words)) : jobs[0]] if word.startswith("--")}
        assert flags <= spark_submit_flags, command
        ends = [number for number, word in enumerate(words) if word.startswith((">", "||")) and number > jobs[0]]
        options = _parse("", words[jobs[0] + 1 : min(ends, default=len(words))], begins=True)
        if Path(options.config).name == "best.toml":  # what a study writes
            return
        load = load_study_config if words[jobs[0]] == "jobs/tune.py" else load_config
        load(PROJECT / options.config, options.overrides)
    elif words[0] == "mfspark" or ("ANSWER" in words and "spark-submit" in words[0]):
        name, *arguments = words[1:] if words[0] == "mfspark" else words[words.index("ANSWER") + 1 :]
        assert {word for word in arguments if word.startswith("--")} <= flags_of_command(name), command
    elif script:
        path = PROJECT / script.removeprefix("./").replace("scripts.", "scripts/")
        files = [file for file in (path, path.with_suffix(".py")) if file.exists()]
        assert files, f"{command}: there is no {script}"
        assert not script.startswith("./") or os.access(path, os.X_OK), command
        flags = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert not flags or flags <= flags_of(files[-1]), command
    else:
        assert words[0].lstrip("(") in {*HARMLESS, "umask"} or "$SPARK_HOME/bin/spark-class" in words, command
        for extra in re.findall(r"\[(\w+)\]", command):
            assert extra in tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


@cache
def flags_of_command(name):
    """Flags of a command of mfspark, by its own word."""
    with redirect_stdout(StringIO()) as said, suppress(SystemExit):
        COMMANDS[name].run("", ["--help"])
    return set(re.findall(r"--[\w-]+", said.getvalue()))


@cache
def flags_of(script):
    """Flags of a script, by its own word."""
    if script.suffix != ".py":
        return set(re.findall(r"--[\w-]+", script.read_text(encoding="utf-8")))
    return set(re.findall(r"--[\w-]+", run_program(script, "--help").stdout))


def _program(words):
    """The word that is spark-submit."""
    return next(word for word in words if word.endswith("spark-submit"))


@pytest.mark.parametrize("path", DOCS, ids=name_of)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\((?!https?:)([^)#]*)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
        assert not target or (path.parent / target).exists(), target


def test_every_page_is_in_the_index():
    index = (PROJECT / "docs/README.md").read_text(encoding="utf-8")
    for path in (PROJECT / "docs").rglob("*.md"):
        assert path.name == "README.md" or f"({path.relative_to(PROJECT / 'docs')})" in index, path


def test_every_exit_code_has_a_remedy_and_a_task_state():
    errors = [MfsparkError, *MfsparkError.__subclasses__()]
    codes = {error.exit_code for error in errors}
    recover = (PROJECT / "docs/howto/recover.md").read_text(encoding="utf-8")
    assert {int(code) for code in re.findall(r"^\| (\d) \|", recover, re.MULTILINE)} == codes
    readme = (PROJECT / "docs/howto/operate.md").read_text(encoding="utf-8")
    assert {int(code) for code in re.findall(r"^\| (\d) \|", readme, re.MULTILINE)} == codes | {0}
    (permanent,) = (
        ast.literal_eval(node.value)
        for node in ast.parse((SCHEDULE / "airflow_dag.py").read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign) and node.targets[0].id == "PERMANENT"
    )
    schedule = (PROJECT / "docs/howto/schedule.md").read_text(encoding="utf-8")
    at_once = re.findall(r"^\| ([\d, ]+) \| fails at once", schedule, re.MULTILINE)
    assert {int(code) for codes in at_once for code in codes.split(",")} == set(permanent) < codes


@pytest.mark.spark
@pytest.mark.usefixtures("spark")
def test_every_parameter_and_method_of_sparks_is_on_the_page():
    prose = re.sub(r"```.*?```", "", MIGRATION.read_text(encoding="utf-8"), flags=re.DOTALL)
    tables = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]+)`", prose))))
    assert {param.name for param in spark_ml.ALS().params} <= tables
    for owner in (spark_ml.ALS, spark_ml.ALSModel):
        accessors = {name for name in dir(owner) if re.fullmatch(r"[gs]et[A-Z]\w*", name)}
        public = {name for name in dir(owner) if not name.startswith("_")} - accessors
        assert public - tables <= {param.name for param in spark_ml.ALS().params}
