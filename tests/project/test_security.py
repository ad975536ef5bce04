"""What must not be in the code: nothing unpickled from storage, nothing evaluated, nothing handed to a shell."""

import ast

import pytest

from tests.conftest import PROJECT

MODULES = sorted([*(PROJECT / "mfspark").rglob("*.py"), *(PROJECT / "jobs").glob("*.py")])
UNSAFE_IMPORTS = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "subprocess", "pty", "code", "runpy"}
UNSAFE_BUILTINS = {"eval", "exec", "compile", "__import__"}
UNSAFE_METHODS = {
    "system", "popen", "execv", "execve", "execvp", "spawnv", "spawnl", "pickleFile", "saveAsPickleFile",
    "objectFile", "saveAsObjectFile",
}  # fmt: skip
UNSAFE_KEYWORDS = {"shell", "allow_pickle"}


def unsafe_parts(source):
    """Line and name of everything that could run what it reads."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = {alias.name.split(".")[0] for alias in node.names} & UNSAFE_IMPORTS
        elif isinstance(node, ast.ImportFrom):
            names = {str(node.module).split(".")[0]} & UNSAFE_IMPORTS
            names |= {alias.name for alias in node.names} & (UNSAFE_METHODS | UNSAFE_IMPORTS)
        elif isinstance(node, ast.Name):
            names = {node.id} & UNSAFE_BUILTINS
        elif isinstance(node, ast.Attribute):
            names = {node.attr} & UNSAFE_METHODS
        elif isinstance(node, ast.keyword):
            is_refused = isinstance(node.value, ast.Constant) and node.value.value is False
            names = set() if is_refused else {str(node.arg)} & UNSAFE_KEYWORDS
        else:
            continue
        found += [(node.lineno, name) for name in sorted(names)]
    return found


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("import pickle", "pickle"),
        ("import pickle as harmless", "pickle"),
        ("from pickle import loads", "pickle"),
        ("from pyspark import cloudpickle", "cloudpickle"),
        ("eval('1')", "eval"),
        ("run = exec", "exec"),
        ("os.system(path)", "system"),
        ("from os import popen", "popen"),
        ("import subprocess", "subprocess"),
        ("run(path, shell=True)", "shell"),
        ("np.load(path, allow_pickle=True)", "allow_pickle"),
        ("context.pickleFile(path)", "pickleFile"),
        ("rdd.saveAsPickleFile(path)", "saveAsPickleFile"),
    ],
)
def test_unsafe_code_would_be_found(source, name):
    assert unsafe_parts(source) == [(1, name)]


def test_what_is_refused_by_name_is_safe():
    assert unsafe_parts("np.load(path, allow_pickle=False)") == []


def test_no_module_runs_what_it_reads():
    found = {str(path.relative_to(PROJECT)): unsafe_parts(path.read_text(encoding="utf-8")) for path in MODULES}
    # Records travel between the client and the executors of its own session as pickles, as those of Spark's RDDs do.
    for module in ("connect", "connect_rows"):
        assert [name for _, name in found.pop(f"mfspark/engine/{module}.py")] == ["pickle"]
    assert {path: parts for path, parts in found.items() if parts} == {}
    assert len(found) > 50
