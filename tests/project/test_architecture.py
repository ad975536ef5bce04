"""The rules that the folders impose, read from the source."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import PROJECT

# Imports go down only, within a layer freely.
LAYERS = [
    "jobs",
    "__main__",
    "cli",
    "batch",
    "tracking",
    "report",
    "__init__",
    "evaluation",
    "ml",
    "serving",
    "tables",
    "training",
    "blocks",
    "storage",
    "engine",
    "kernels",
    "config",
    "version",
    "errors",
]
KERNEL_IMPORTS = {
    "__future__", "collections", "dataclasses", "enum", "functools", "logging", "math", "typing",
    "llvmlite", "numba", "numpy", "scipy", "mfspark.kernels", "mfspark.errors",
}  # fmt: skip
FILE_CALLS = {"open", "save", "saveAsTable", "saveAsTextFile", "read_text", "write_text", "read_bytes", "write_bytes"}
FILE_ATTRIBUTES = {"write", "writeTo", "writeStream"}
MAX_JOB_LINES = 40

MODULES = sorted((PROJECT / "mfspark").rglob("*.py"))
JOBS = sorted((PROJECT / "jobs").glob("*.py"))


@cache
def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def layer_of(path):
    """Name of the top-level module or folder that the file belongs to."""
    parts = path.relative_to(PROJECT).with_suffix("").parts
    return parts[0] if parts[0] == "jobs" else parts[1]


def imported_names(path):
    """Full dotted names of all that a file imports, inside functions too."""
    names = []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative imports escape these checks"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def imported_layers(path):
    """Top-level modules and folders of mfspark that a file imports."""
    parts = [name.split(".") for name in imported_names(path)]
    return {name[1] for name in parts if name[0] == "mfspark" and len(name) > 1}


def file_accesses(path):
    """Line numbers of what looks like reading or writing a file."""
    lines = []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Attribute) and node.attr in FILE_ATTRIBUTES:
            lines.append(node.lineno)
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
            if called in FILE_CALLS:
                lines.append(node.lineno)
    return lines


def files_of(*layers):
    return [path for path in MODULES if layer_of(path) in layers]


def each(paths):
    return pytest.mark.parametrize("path", paths, ids=lambda path: str(Path(path).relative_to(PROJECT)))


def test_there_are_files_to_check():
    assert len(JOBS) >= 5
    for layer in LAYERS[1:]:
        assert files_of(layer), layer


@each(MODULES)
def test_every_module_has_a_place_in_the_layers(path):
    assert layer_of(path) in LAYERS


@each([path for path in MODULES + JOBS if layer_of(path) != "__init__"])
def test_layers_import_downwards_only(path):
    layer = layer_of(path)
    above = set(LAYERS[: LAYERS.index(layer)])
    assert not imported_layers(path) & above


@each(JOBS)
def test_jobs_import_nothing_of_the_project_but_the_command_line(path):
    assert {name for name in imported_names(path) if name.startswith("mfspark")} <= {
        "mfspark.cli.command_line.run_job",
        "mfspark.cli.command_line.run_rollback",
        "mfspark.cli.command_line.run_tuning",
    }


@each(files_of("kernels"))
def test_kernels_import_numbers_only(path):
    for name in imported_names(path):
        assert any(name == allowed or name.startswith(f"{allowed}.") for allowed in KERNEL_IMPORTS), name


WITH_FILES = ("storage", "engine", "config", "ml", "batch", "cli", "tracking")


@each([path for path in MODULES if layer_of(path) not in WITH_FILES])
def test_only_storage_and_the_faces_of_the_project_touch_files(path):
    assert file_accesses(path) == []


@each([path for path in MODULES + JOBS if layer_of(path) != "engine"])
def test_only_the_engine_knows_what_spark_keeps_private(path):
    private = {"_jvm", "_jsc", "_jdf", "_jdd", "_gateway", "_jsparkSession", "_sc"}
    assert not private & {node.attr for node in ast.walk(tree_of(path)) if isinstance(node, ast.Attribute)}
    assert not [name for name in imported_names(path) if name.partition(".")[0] == "py4j"]


@each(MODULES + JOBS)
def test_only_the_command_line_parses_arguments(path):
    parses = any(name.split(".")[0] in ("argparse", "optparse", "getopt", "click") for name in imported_names(path))
    assert not parses or layer_of(path) == "cli"


@each(JOBS)
def test_jobs_are_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_JOB_LINES


TESTS_OF_SEVERAL_MODULES = {
    "engine/test_engines": "the contract that every engine keeps",
    "kernels/test_toy": "the worked example through all kernels",
    "config/test_fuzz": "random input to the whole of the configuration",
    "ml/test_ids": "ids of every type through all methods",
    "ml/test_parity": "results beside Spark's ALS",
    "ml/test_quality": "errors on real ratings",
    "storage/test_publishing": "readers while jobs are cut off",
    "report/test_browser": "the page in a browser",
}
# Folders of tests whose subject is not one folder of mfspark.
OTHER_TESTS = {"cluster", "jobs", "lakehouse", "project", "scripts", "stores"}
TEST_MODULES = sorted((PROJECT / "tests").rglob("test_*.py"))


def name_of_tests(path):
    return str(path.relative_to(PROJECT / "tests").with_suffix(""))


@each([path for path in TEST_MODULES if path.parent.name not in OTHER_TESTS])
def test_a_test_module_has_the_name_of_the_module_that_it_tests(path):
    folder = PROJECT / "mfspark" / path.parent.relative_to(PROJECT / "tests")
    tested = folder / f"{path.stem.removeprefix('test_')}.py"
    assert tested.exists() != (name_of_tests(path) in TESTS_OF_SEVERAL_MODULES)


def test_every_exception_is_a_test_module():
    assert TESTS_OF_SEVERAL_MODULES.keys() <= {name_of_tests(path) for path in TEST_MODULES}
    assert {path.parent.name for path in TEST_MODULES} >= OTHER_TESTS


def run_without_pyspark(statements):
    program = f"import sys; sys.modules['pyspark'] = None; {statements}"
    return subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, check=False)


def test_kernels_import_where_pyspark_is_absent():
    names = [f"mfspark.kernels.{path.stem}" for path in files_of("kernels") if path.stem != "__init__"]
    result = run_without_pyspark(f"import {', '.join(names)}")
    assert (result.returncode, result.stderr) == (0, "")


def test_absence_of_pyspark_would_be_noticed():
    result = run_without_pyspark("import mfspark.training.exchange")
    assert result.returncode == 1
    assert "ModuleNotFoundError" in result.stderr
    assert "pyspark" in result.stderr
