"""The scripts a person starts: MovieLens import, synthetic ratings, checks of the environment."""

import gzip
import json
import os
import shutil
import subprocess
import sys
from datetime import datetime, timezone

import numpy as np
import pyarrow.parquet as pq
import pytest

from scripts import bench_capacity, plan_capacity
from scripts.drill_nights import N_USERS, play_all
from tests.conftest import PROJECT
from tests.programs import run_program

ROWS = [(196, 242, 3.0, 881250949), (186, 302, 3.5, 891717742), (22, 377, 1.0, 878887116)]
FORMS = {
    "u.data": "".join(f"{user}\t{item}\t{rating:g}\t{at}\n" for user, item, rating, at in ROWS),
    "ratings.dat": "".join(f"{user}::{item}::{rating:g}::{at}\n" for user, item, rating, at in ROWS),
    "ratings.csv": "userId,movieId,rating,timestamp\n"
    + "".join(f"{user},{item},{rating},{at}\n" for user, item, rating, at in ROWS),
}
TEXT_TIMES = {at: datetime.fromtimestamp(at, timezone.utc).strftime("%Y-%m-%d %H:%M:%S") for *_, at in ROWS}
FORMS |= {
    "byte-order mark.csv": "\ufeff" + FORMS["ratings.csv"],
    "lower case.csv": FORMS["ratings.csv"].replace("userId,movieId", "userid,movieid"),
    "names with lines.csv": FORMS["ratings.csv"].replace("userId,movieId", "User_ID,Movie_ID"),
    "quotes and times.csv": '"userId","movieId","rating","timestamp"\n'
    + "".join(f'{user},{item},{rating},"{TEXT_TIMES[at]}"\n' for user, item, rating, at in ROWS),
    "ratings.csv.gz": FORMS["ratings.csv"],
    "windows.csv": FORMS["ratings.csv"].replace("\n", "\r\n"),
}


def run_script(name, *arguments):
    return run_program(PROJECT / "scripts" / name, *arguments)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_movielens_becomes_the_same_table(tmp_path, form):
    source, target = tmp_path / form, tmp_path / "new folder" / "ratings.parquet"
    content = FORMS[form].encode()
    source.write_bytes(gzip.compress(content) if form.endswith(".gz") else content)
    done = run_script("import_movielens.py", source, target)
    assert (done.exit_code, done.stdout) == (0, f"3 ratings in {target}\n")
    table = pq.read_table(target)
    assert [(field.name, str(field.type)) for field in table.schema] == [
        ("user_id", "int64"),
        ("item_id", "int64"),
        ("rating", "float"),
        ("timestamp", "int64"),
    ]
    assert [tuple(row.values()) for row in table.to_pylist()] == ROWS


def test_the_files_of_the_netflix_prize_have_their_film_in_a_line_before(tmp_path):
    source, target = tmp_path / "combined_data_1.txt", tmp_path / "ratings.parquet"
    source.write_text("1:\n1488844,3,2005-09-06\n822109,5,1999-12-31\n17:\n885013,4,2005-10-19\n")
    done = run_script("import_movielens.py", source, target)
    assert (done.exit_code, done.stdout) == (0, f"3 ratings in {target}\n")
    # Seconds at the beginning of those days, by `date -u -d DAY +%s`.
    assert [tuple(row.values()) for row in pq.read_table(target).to_pylist()] == [
        (1488844, 1, 3.0, 1125964800), (822109, 1, 5.0, 946598400), (885013, 17, 4.0, 1129680000)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1;2;3;4\n", "the first line is '1;2;3;4'; expected u.data"),
        ("", "the first line is ''; expected u.data"),
        ("1\t2\tthree\t4\n", "three"),
        ("1\t2\t3\t4\n1\t\t3\t4\n", "CSV conversion error to int64"),
        ("1:\n2;3\n", "line 2 is '2;3'; expected user,rating,date"),
    ],
)
def test_a_file_that_is_no_movielens_is_refused_and_leaves_no_table(tmp_path, content, message):
    source, target = tmp_path / "u.data", tmp_path / "ratings.parquet"
    source.write_text(content)
    done = run_script("import_movielens.py", source, target)
    assert done.exit_code == 3
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not target.exists()


def test_synthetic_ratings_have_the_size_asked_for_and_distinct_pairs(tmp_path):
    arguments = ("--users", 300, "--items", 120, "--ratings", 5000, "--seed", 3)
    for name in ("a", "b"):
        assert run_script("make_ratings.py", tmp_path / name, *arguments).exit_code == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    table = pq.read_table(tmp_path / "a")
    users, items, ratings = (table[name].to_numpy() for name in ("user_id", "item_id", "rating"))
    assert len(users) == len(set(zip(users.tolist(), items.tolist(), strict=True))) == 5000
    assert set(users) == set(range(300))
    assert set(items) == set(range(120))
    assert set(ratings) <= set(np.arange(1, 11) / 2)
    # Long-tailed on both sides: the busiest tenth has far more than a tenth.
    for ids, least_share in ((users, 0.25), (items, 0.25)):
        counts = np.sort(np.bincount(ids))[::-1]
        assert counts[: len(counts) // 10].sum() > least_share * 5000


def program(path, text):
    """An executable file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def in_environment(command, **variables):
    """Run a function of scripts/environment."""
    return subprocess.run(
        ["/bin/bash", "-c", f". scripts/environment; {command}"],
        cwd=PROJECT, env={**os.environ, **variables}, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("version", "exit_code", "message"),
    [
        ('openjdk version "11.0.2" 2019-01-15', 1, "Java 17 or later is needed, found 11"),
        (None, 1, "Java 17 or later is needed and none was found; install it "),
        (
            'openjdk version "24.0.1" 2025-04-15',
            0,
            "mfspark: Java 24 is not tested with mfspark; tested are 17, 21, 25",
        ),
        ('openjdk version "26-ea" 2026-03-17', 0, "mfspark: Java 26 is not tested with mfspark; tested are 17, 21, 25"),
        ('openjdk version "17.0.15" 2025-04-15', 0, ""),
        ('openjdk version "25.0.3" 2026-04-21 LTS', 0, ""),
    ],
)
def test_an_old_java_is_refused_and_one_that_is_not_tested_gets_a_warning(tmp_path, version, exit_code, message):
    (tmp_path / "java/bin").mkdir(parents=True)
    if version:
        program(tmp_path / "java/bin/java", f"echo '{version}' >&2")
    done = in_environment("require_java", JAVA_HOME=str(tmp_path / "java"))
    assert done.returncode == exit_code
    assert message in done.stderr
    assert bool(done.stderr) == bool(message)


# A Python that says its version, which is all that is asked of it.
FAKE = """
case "$*" in
    --version) echo "Python {0}.0" ;;
    *print*) echo {0} ;;
    *) case {0} in 3.[0-9]) exit 1 ;; esac ;;
esac"""


@pytest.mark.parametrize(
    ("pythons", "found", "message"),
    [
        ({"python3": "3.99", "python3.12": "3.12"}, "python3.12", ""),
        ({"python3": "3.9", "python3.11": "3.11", "python3.14": "3.14"}, "python3.14", ""),
        ({"python3": "3.10", "python3.14": "3.14"}, "python3", ""),
        ({"python3": "3.99"}, "python3", "mfspark: Python 3.99.0 is not tested with mfspark; tested are 3.14 3.13"),
        ({"python3": "3.9"}, None, "Python 3.10 or later is needed and none was found"),
    ],
)
def test_a_python_that_is_not_tested_is_the_last_resort(tmp_path, pythons, found, message):
    for name, version in pythons.items():
        program(tmp_path / name, FAKE.format(version))
    for name in ("cat", "dirname", "grep", "sed", "tac"):
        (tmp_path / name).symlink_to(shutil.which(name))
    done = in_environment("find_python", PATH=str(tmp_path))
    assert done.stdout == (f"{tmp_path}/{found}\n" if found else "")
    assert done.returncode == (0 if found else 1)
    assert message in done.stderr
    assert bool(done.stderr) == bool(message)


def test_the_benchmark_of_the_kernels_measures_each_of_them(tmp_path):
    arguments = ("--ranks", 3, "--ratings", 20_000, "--repeats", 1, "--json", tmp_path / "found.json")
    command = [sys.executable, "-m", "scripts.bench_kernels", *map(str, arguments)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert all(row["seconds"] > 0 for row in found["rows"])
    names = [row["what"].strip() for row in found["rows"]]
    assert {"implicit feedback", "nonnegative", "subspaces", "3 steps of CG", "SGD, rank 3"} <= set(names)
    assert found["machine"]["numba"] != "absent"


def test_an_environment_that_is_not_that_of_its_lock_is_refused(tmp_path):
    lock = tmp_path / "lock.txt"
    good = f"# By hand\nnumpy=={np.__version__} \\\n    --hash=sha256:00\nabsent==1 ; sys_platform == 'win32' \\\n"
    lock.write_text(good)
    done = run_script("check_lock.py", lock)
    assert (done.exit_code, done.stderr) == (0, "")
    lock.write_text(f"{good}PyTest==0.1 \\\nabsent==2 ; python_full_version >= '3.10' \\\n")
    done = run_script("check_lock.py", lock)
    assert done.exit_code == 1
    assert done.stderr.splitlines()[:2] == [
        f"PyTest: locked ==0.1, installed {pytest.__version__}",
        "absent: locked ==2, installed none",
    ]
    assert f"the environment does not match {lock}" in done.stderr


@pytest.mark.parametrize(
    ("users", "items", "ratings", "measured"),
    [(138_493, 26_744, 20_000_263, 1.33), (480_189, 17_770, 100_000_000, 5.8), (480_189, 17_770, 10_000_000, 2.4)],
)
def test_planned_seconds_are_near_the_measured_ones(users, items, ratings, measured):
    sizes = [f"--users={users}", f"--items={items}", f"--ratings={ratings}", "--network=100", "--json"]
    done = run_script("plan_capacity.py", *sizes)
    assert json.loads(done.stdout)["seconds an iteration"] == pytest.approx(measured, rel=0.25)


MEASURED = {  # by scripts/bench_capacity.py: GiB of the driver, an executor's JVM, its Python, moved; seconds
    (200_000, 4e6, "broadcast"): (0.706, 0.179, 0.365, 0.160, 1.713),
    (200_000, 4e6, "users-exchanged"): (0.315, 0.270, 0.724, 0.137, 2.441),
    (500_000, 8e6, "broadcast"): (1.014, 0.323, 0.474, 0.379, 3.290),
    (500_000, 8e6, "users-exchanged"): (0.328, 0.462, 0.800, 0.306, 4.829),
    (1_500_000, 16e6, "broadcast"): (2.238, 0.991, 0.956, 1.107, 8.926),
    (1_500_000, 16e6, "users-exchanged"): (0.341, 1.372, 1.750, 0.726, 11.155),
}


@pytest.mark.parametrize(("users", "ratings", "way"), MEASURED)
def test_what_is_planned_for_two_executors_is_near_what_was_measured(users, ratings, way):
    work = plan_capacity.Work(users, 20_000, ratings, rank=64)
    planned = bench_capacity.reckoned(work, way)
    measured = MEASURED[users, ratings, way]
    assert planned == pytest.approx(dict(zip(planned, measured, strict=True)), rel=0.25)


def test_a_side_beyond_an_executors_share_is_planned_as_exchanged():
    done = run_script("plan_capacity.py", "--users=1e8", "--items=1e5", "--ratings=1e9", "--executors=50", "--cores=8")
    assert "user factors                exchanged" in done.stdout
    assert "item factors                broadcast" in done.stdout


@pytest.mark.drill
def test_fourteen_nights_end_as_they_should(tmp_path):
    nights = play_all(tmp_path)
    assert len(nights) == 14
    assert {night.n_served for night in nights} == {N_USERS}
