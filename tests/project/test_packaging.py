"""The wheel: what is in it, and what it says of itself."""

import shutil
import subprocess
import sys
import zipfile
from email import message_from_bytes

import pytest

import mfspark
from tests.conftest import PROJECT


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
    }
    about = f"mfspark-{mfspark.__version__}.dist-info/"
    assert {name for name in wheel.namelist() if not name.startswith(about)} == files
    assert f"{about}licenses/LICENSE" in wheel.namelist()


def test_what_it_says_of_itself(wheel):
    about = message_from_bytes(wheel.read(f"mfspark-{mfspark.__version__}.dist-info/METADATA"))
    assert (about["Name"], about["Version"], about["Requires-Python"]) == ("mfspark", mfspark.__version__, ">=3.10")
    assert {"report", "tune", "mlflow", "openmetrics"} <= set(about.get_all("Provides-Extra"))
    needed = [line for line in about.get_all("Requires-Dist") if "extra ==" not in line]
    assert not any(line.startswith(("jinja2", "optuna", "mlflow", "prometheus")) for line in needed)
