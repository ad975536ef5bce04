"""FileStore: whole files or none, and errors that name the path."""

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from types import SimpleNamespace

import pytest

from mfspark.engine.files import FileStore
from mfspark.engine.hadoop_files import HadoopFiles
from mfspark.engine.local_files import LocalFiles
from mfspark.errors import OutputError

pytestmark = pytest.mark.spark

N_REPLACEMENTS = 50


@pytest.fixture
def files(spark, tmp_path):
    return FileStore(spark, str(tmp_path))


@pytest.fixture
def through_hadoop(spark, files, monkeypatch):
    """The same folder, reached through Hadoop like a remote one."""
    hadoop = HadoopFiles(spark, ".")
    monkeypatch.setattr(hadoop, "_file_system", hadoop._file_system.getRawFileSystem())  # writes no .crc files
    monkeypatch.setattr(files, "_system", hadoop)
    return files


@pytest.fixture(params=["files", "through_hadoop"])
def either_way(request):
    """Files by Python and by Hadoop, the latter on the local file system too."""
    return request.getfixturevalue(request.param)


def test_text_comes_back_as_written(either_way, tmp_path):
    files, text = either_way, 'Größe: λ = 0.1\n{"id": "用户"}\n'
    files.create_text(f"{tmp_path}/new folder/a b.json", text)
    assert files.read_text(f"{tmp_path}/new folder/a b.json") == text
    assert (tmp_path / "new folder/a b.json").read_bytes() == text.encode()


def test_path_of_this_machine(request, files, tmp_path, monkeypatch):
    assert files.local_path(f"{tmp_path}/a b") == files.local_path(f"file:{tmp_path}/a b") == tmp_path / "a b"
    monkeypatch.chdir(tmp_path)
    assert files.local_path("out") == tmp_path / "out"
    assert request.getfixturevalue("through_hadoop").local_path(f"{tmp_path}/a b") is None


@pytest.fixture
def create(either_way):
    return either_way.create_text


def test_create_leaves_a_file_that_exists(create, tmp_path):
    assert create(f"{tmp_path}/claim", "first")
    assert not create(f"{tmp_path}/claim", "second")
    assert (tmp_path / "claim").read_text() == "first"


def test_create_below_a_file_is_an_error(create, tmp_path):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(OutputError, match=f"cannot create '{tmp_path}/file/below'"):
        create(f"{tmp_path}/file/below", "text")


def test_only_one_of_several_jobs_creates_a_file(files, tmp_path):
    n_jobs, barrier = 8, threading.Barrier(8)

    def claim(path):
        barrier.wait()
        return files.create_text(path, "mine")

    with ThreadPoolExecutor(n_jobs) as jobs:
        for attempt in range(10):
            assert sum(jobs.map(claim, [f"{tmp_path}/claim-{attempt}"] * n_jobs)) == 1


def test_names_of_a_folder(either_way, tmp_path):
    files = either_way
    assert files.list_names(f"{tmp_path}/absent") == []
    for name in ("b", ".hidden", "a @2"):
        (tmp_path / "folder" / name).mkdir(parents=True)
    (tmp_path / "folder/file").write_text("x")
    assert files.list_names(f"{tmp_path}/folder") == [".hidden", "a @2", "b", "file"]


def test_age_is_by_the_clock_of_the_file_system(files, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    monkeypatch.setattr("time.time", lambda: 0.0)
    assert 0 <= files.age_s(f"{tmp_path}/file") < 60
    os.utime(tmp_path / "file", (1e9, 1e9))
    written = datetime.fromtimestamp(1e9, timezone.utc)
    age = (datetime.now(timezone.utc) - written).total_seconds()
    assert files.age_s(f"{tmp_path}/file") == pytest.approx(age, abs=60)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_uploaded_file_comes_back(files, tmp_path):
    content = bytes(range(256)) * 100
    (tmp_path / "a b").write_bytes(content)
    for _ in range(2):  # the second time over the first
        files.upload(tmp_path / "a b", f"{tmp_path}/new folder/file")
    files.download(f"{tmp_path}/new folder/file", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a b", "back", "file", "new folder"]


def test_upload_that_is_interrupted_leaves_the_file_that_was_there(files, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("before")
    (tmp_path / "local").write_text("after")

    def fail(*_):
        raise OSError(5, "power cut")

    monkeypatch.setattr(LocalFiles, "rename_over", fail)
    with pytest.raises(OutputError, match=f"cannot replace '{tmp_path}/file': power cut"):
        files.upload(tmp_path / "local", f"{tmp_path}/file")
    assert (tmp_path / "file").read_text() == "before"


@pytest.mark.parametrize("fixture", ["files", "through_hadoop"])
def test_replaced_file_holds_the_new_text_and_leaves_nothing_else(request, tmp_path, fixture):
    files = request.getfixturevalue(fixture)
    files.create_text(f"{tmp_path}/CURRENT", "a longer text before\n")
    files.replace_text(f"{tmp_path}/CURRENT", "after\n")
    assert (tmp_path / "CURRENT").read_text() == "after\n"
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".crc")] == ["CURRENT"]


def test_readers_see_the_old_or_the_new_text_while_it_is_replaced(files, tmp_path):
    path = tmp_path / "CURRENT"
    texts = [f"{number}".rjust(9, "0") * 1000 for number in range(N_REPLACEMENTS + 1)]
    files.create_text(str(path), texts[0])
    seen, problems, is_over = set(), [], threading.Event()

    def read():
        while not is_over.is_set():
            try:
                seen.add(path.read_text())
            except OSError as error:
                problems.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for text in texts[1:]:
        files.replace_text(str(path), text)
    is_over.set()
    reader.join()
    assert problems == []
    assert seen <= set(texts)
    assert len(seen) > 1  # it did read in between
    assert path.read_text() == texts[-1]


@pytest.mark.parametrize("is_object_store", [False, True])
def test_folder_moves_over_another(through_hadoop, tmp_path, monkeypatch, is_object_store):
    files = through_hadoop
    monkeypatch.setattr(files, "is_object_store", is_object_store)
    for _ in range(2):
        for name in ("a", "seal", "table/part"):
            files.create_text(f"{tmp_path}/new/{name}", "new")
        files.replace_folder(f"{tmp_path}/new", f"{tmp_path}/final", "seal")
        assert {path.name for path in (tmp_path / "final").rglob("*") if path.is_file()} == {"a", "seal", "part"}
        assert [path.name for path in tmp_path.iterdir()] == ["final"]
        (tmp_path / "final/old").write_text("old")
    files.delete_folder(f"{tmp_path}/final", "seal")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("action", ["replace_folder", "delete_folder"])
def test_where_files_move_one_by_one_the_seal_is_removed_first_and_moved_last(
    through_hadoop, tmp_path, monkeypatch, action
):
    files = through_hadoop
    monkeypatch.setattr(files, "is_object_store", True)
    call, seen = FileStore._call, []

    def look(store, *arguments):
        found = {path.name for path in tmp_path.glob("final/*")}
        seen.append("seal" in found and found != {"a", "seal", "z"})
        return call(store, *arguments)

    for folder in ("new", "final"):
        for name in ("a", "seal", "z"):
            files.create_text(f"{tmp_path}/{folder}/{name}", folder)
    monkeypatch.setattr(FileStore, "_call", look)
    arguments = {"replace_folder": [f"{tmp_path}/new", f"{tmp_path}/final"], "delete_folder": [f"{tmp_path}/final"]}
    getattr(files, action)(*arguments[action], "seal")
    assert len(seen) >= 2
    assert not any(seen)


def test_delete_takes_everything_below_and_allows_nothing_there(files, tmp_path):
    files.create_text(f"{tmp_path}/run/table/part-0", "x")
    for _ in range(2):
        files.delete(f"{tmp_path}/run")
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("action", "arguments"),
    [
        ("read_text", ["{}/absent"]),
        ("create_text", ["{}/file/below", "text"]),
        ("replace_text", ["{}/file/below", "text"]),
        ("replace_folder", ["{}/absent", "{}/target", "seal"]),
        ("replace_text", ["{}/folder", "text"]),
        ("age_s", ["{}/absent"]),
        ("download", ["{}/absent", "{}/target"]),
    ],
)
def test_every_failure_is_an_output_error_that_names_the_path(files, tmp_path, action, arguments):
    files.create_text(f"{tmp_path}/file", "text")
    files.create_text(f"{tmp_path}/folder/inside", "text")
    path, *rest = [argument.format(tmp_path) for argument in arguments]
    # The file that is written before it replaces another has a name of its own in the same folder.
    with pytest.raises(OutputError, match=path if action != "replace_text" else path.rpartition("/")[0]):
        getattr(files, action)(path, *rest)
    assert (tmp_path / "folder/inside").read_text() == "text"


def test_delete_that_does_not_delete_is_an_error(through_hadoop, monkeypatch):
    files, refuses = through_hadoop, SimpleNamespace(delete=lambda *_: False, exists=lambda *_: True)
    monkeypatch.setattr(files._system, "_file_system", refuses)
    with pytest.raises(OutputError, match="cannot delete '/out/runs/r'"):
        files.delete("/out/runs/r")


def test_folder_of_an_unknown_file_system(spark):
    with pytest.raises(OutputError, match=r"cannot use 'nosuch://host/out': .*nosuch"):
        FileStore(spark, "nosuch://host/out")


def test_uri_of_the_local_file_system(spark, tmp_path):
    files = FileStore(spark, f"file://{tmp_path}")
    files.replace_text(f"file://{tmp_path}/CURRENT", "run\n")
    files.replace_text(f"file://{tmp_path}/CURRENT", "next\n")
    assert [path.name for path in tmp_path.iterdir()] == ["CURRENT"]
    assert (tmp_path / "CURRENT").read_text() == "next\n"


@pytest.mark.parametrize("look", ["exists", "is_folder"])
def test_a_mount_that_fails_is_not_an_absent_file(files, tmp_path, monkeypatch, look):
    def stat(*_, **__):
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr("pathlib.Path.stat", stat)
    with pytest.raises(OutputError, match="Stale file handle"):
        getattr(files, look)(f"{tmp_path}/CURRENT")
