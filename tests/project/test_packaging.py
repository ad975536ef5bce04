"""The wheel: what is in it, and what it says of itself."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from email import message_from_bytes
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import mfspark
from mfspark.config.loading import tomllib
from mfspark.engine.session import TESTED_JAVA
from tests.builders import TOY_RATINGS
from tests.conftest import JAVA_OPTIONS, PROJECT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    source = tmp_path_factory.mktemp("source")
    for folder in ("mfspark", "tests", "scripts", "jobs"):
        shutil.copytree(PROJECT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / file, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps", "--no-index", "."]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (path,) = source.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def test_the_package_is_in_it_and_nothing_else(wheel):
    files = {path.relative_to(PROJECT).as_posix() for path in (PROJECT / "mfspark").rglob("*.py")} | {
        "mfspark/py.typed",
        "mfspark/report/charts.html",
        "mfspark/report/page.html",
        *(f"mfspark/config/samples/{kind}.toml" for kind in ("explicit", "implicit", "sgd", "tune")),
    }
    about = f"mfspark-{mfspark.__version__}.dist-info/"
    assert {name for name in wheel.namelist() if not name.startswith(about)} == files
    assert f"{about}licenses/LICENSE" in wheel.namelist()


@pytest.mark.spark
def test_it_is_enough_in_an_empty_environment_and_an_empty_folder(wheel, tmp_path):
    # All packages of this environment, but none of this project: its .pth file is not read there.
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = tmp_path / "venv/bin/python"
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(subprocess.check_output([python, "-c", where], text=True).strip())
    (packages / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    wheel.extractall(packages)
    # Numba takes these kernels for those that are compiled already, whose code it looks for by time and size.
    kernels = packages / "mfspark/kernels"
    for source in (PROJECT / "mfspark/kernels").glob("*.py"):
        shutil.copystat(source, kernels / source.name)
    (kernels / "__pycache__").mkdir()
    for compiled in (PROJECT / "mfspark/kernels/__pycache__").glob("*.nb[ic]"):
        shutil.copy(compiled, kernels / "__pycache__")
    folder = tmp_path / "empty"
    folder.mkdir()
    users, items, ratings = zip(*TOY_RATINGS, strict=True)
    pq.write_table(pa.table({"user_id": users, "item_id": items, "rating": ratings}), folder / "ratings.parquet")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHONPATH", "PYSPARK_"))}
    environment["JDK_JAVA_OPTIONS"] = JAVA_OPTIONS

    def mfspark_(*arguments):
        command = [python, "-m", "mfspark", *arguments]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    mfspark_("init")
    mfspark_("run", "--config", "mfspark.toml", "--set", "input.path=ratings.parquet", "--set", "split.holdout=0.0")
    assert " complete " in mfspark_("runs", "output")


def test_the_command_is_one_of_its_scripts(wheel):
    scripts = wheel.read(f"mfspark-{mfspark.__version__}.dist-info/entry_points.txt").decode()
    assert scripts == "[console_scripts]\nmfspark = mfspark.cli.commands:main\n"


def test_what_it_says_of_itself(wheel):
    about = message_from_bytes(wheel.read(f"mfspark-{mfspark.__version__}.dist-info/METADATA"))
    assert (about["Name"], about["Version"], about["Requires-Python"]) == ("mfspark", mfspark.__version__, ">=3.10")
    assert {"report", "tune", "mlflow", "openmetrics", "index"} <= set(about.get_all("Provides-Extra"))
    needed = [line for line in about.get_all("Requires-Dist") if "extra ==" not in line]
    assert not any(line.startswith(("jinja2", "optuna", "mlflow", "prometheus", "faiss")) for line in needed)


def test_every_page_and_the_matrix_name_the_same_versions():
    classifiers = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["classifiers"]
    pythons = [name.removeprefix("Programming Language :: Python :: ") for name in classifiers]
    *javas, newest = map(str, TESTED_JAVA)
    words = f"Python {pythons[0]} to {pythons[-1]} and Java {', '.join(javas)} or {newest}"
    for page in ("README.md", "CONTRIBUTING.md", "docs/tutorial.md"):
        named = re.findall(r"Python 3\.\d+ [\w. ]*Java [\d, or]+\d", (PROJECT / page).read_text())
        assert named == [words], page
    (rows,) = re.findall(r"rows=\((\d.+)\)", (PROJECT / "scripts/matrix").read_text())
    tested_pythons, _, tested_javas = map(set, zip(*(row.split("-") for row in rows.split()), strict=True))
    assert {pythons[0], pythons[-1]} <= tested_pythons <= set(pythons)
    assert tested_javas == {*javas, newest}
