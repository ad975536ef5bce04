"""CheckpointFolder: the newest whole checkpoint, whatever was interrupted."""

import math
import os
from contextlib import suppress

import numpy as np
import pytest

from mfspark.engine.hadoop_files import HadoopFiles
from mfspark.errors import OutputError
from mfspark.storage.checkpoints import CheckpointFolder
from tests.storage.crash import PowerCut, cut_power_after

pytestmark = pytest.mark.spark


@pytest.fixture
def folder(spark, tmp_path):
    return CheckpointFolder(spark, f"{tmp_path}/checkpoint/")


def names(tmp_path):
    return sorted(path.name for path in (tmp_path / "checkpoint").iterdir())


def write(folder, iteration, tables=None):
    content = {"iteration": iteration, "tables": {name: [iteration] for name in tables or {}}}
    folder.put(iteration, content, {"factors": np.full(3, iteration, np.float32)}, tables or {})


def iteration_of(found):
    content, arrays, tables = found
    assert arrays["factors"].tolist() == [content["iteration"]] * 3
    assert {name: [row.n for row in table.collect()] for name, table in tables.items()} == content["tables"]
    return content["iteration"]


def test_nothing_is_read_where_nothing_was_written(folder):
    assert folder.get() is None


def test_every_bit_comes_back(folder):
    numbers = [1 / 3, 1e-310, math.inf, -0.0, 2**53 + 1, None]
    arrays = {
        "state.users.factors": np.array([[1 / 3, np.nan], [-0.0, np.inf]], np.float32),
        "best.items.gram": np.arange(6, dtype=np.float64).reshape(2, 3).T,
        "empty": np.empty(0),
    }
    folder.put(7, {"numbers": numbers, "name": "用户"}, arrays, {})
    content, found, _tables = folder.get()
    assert repr(content) == repr({"numbers": numbers, "name": "用户"})
    assert found.keys() == arrays.keys()
    for key, values in arrays.items():
        assert (found[key].dtype, found[key].shape) == (values.dtype, values.shape)
        assert found[key].tobytes() == values.tobytes()


def test_only_the_newest_checkpoint_is_kept(folder, tmp_path):
    for iteration in (9, 10, 11):
        write(folder, iteration)
    assert names(tmp_path) == ["iteration-000011.npz"]
    (tmp_path / "checkpoint/iteration-000009.npz").write_text("not deleted yet when the process ended")
    assert iteration_of(folder.get()) == 11


def test_a_crash_between_any_two_file_operations_leaves_a_checkpoint(folder, tmp_path, monkeypatch):
    found = []
    for n_operations in range(100):
        write(folder, 1)
        for name in names(tmp_path):
            if name != "iteration-000001.npz":
                (tmp_path / "checkpoint" / name).unlink()
        with monkeypatch.context() as patch:
            is_over = cut_power_after(patch, n_operations)
            with suppress(PowerCut):
                write(folder, 2)
            is_whole = not is_over()
        found.append(iteration_of(folder.get()))
        (tmp_path / "checkpoint/not a checkpoint").write_text("left over")
        write(folder, 3)
        assert names(tmp_path) == ["iteration-000003.npz"]
        (tmp_path / "checkpoint/iteration-000003.npz").unlink()
        if is_whole:
            break
    assert is_whole
    assert found == sorted(found)
    assert set(found) == {1, 2}


class MakesFolder:
    """Runs code when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_nothing_is_unpickled(folder, tmp_path):
    write(folder, 1)
    path = tmp_path / "checkpoint/iteration-000001.npz"
    with np.load(path) as file:
        members = dict(file)
    np.savez(path, **members, more=np.array([MakesFolder(f"{tmp_path}/made")], object))
    with pytest.raises(OutputError, match=rf"the checkpoint '{path}' is damaged: Object arrays cannot be loaded"):
        folder.get()
    assert not (tmp_path / "made").exists()


def test_tables_are_written_by_the_executors_and_read_back(spark, folder, tmp_path):
    def tables(number, *names):
        return {name: spark.createDataFrame([(number,)], "n int") for name in names}

    write(folder, 1, tables(1, "state.users", "best.users"))
    assert iteration_of(folder.get()) == 1
    write(folder, 2, tables(2, "state.users"))
    assert names(tmp_path) == ["iteration-000002.npz", "iteration-000002.state.users.parquet"]
    # A process ended after it wrote the tables of iteration 3, and before its file.
    tables(7, "best.users")["best.users"].write.parquet(f"{tmp_path}/checkpoint/iteration-000003.best.users.parquet")
    assert iteration_of(folder.get()) == 2
    write(folder, 3, tables(3, "state.users"))
    assert names(tmp_path) == ["iteration-000003.npz", "iteration-000003.state.users.parquet"]
    assert iteration_of(folder.get()) == 3


@pytest.mark.parametrize("damage", ["cut off", "flipped", "no content", "text"])
def test_damaged_checkpoint_is_named(folder, tmp_path, damage):
    write(folder, 1)
    path = tmp_path / "checkpoint/iteration-000001.npz"
    content = path.read_bytes()
    if damage == "cut off":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        place = content.index(np.full(3, 1, np.float32).tobytes())
        path.write_bytes(content[:place] + b"\xff" + content[place + 1 :])
    elif damage == "no content":
        np.savez(path, factors=np.zeros(3))
    else:
        path.write_text("{}")
    with pytest.raises(OutputError, match=rf"the checkpoint '{path}' is damaged: .*; delete it to start over"):
        folder.get()


def test_no_space_for_the_local_copy(folder, monkeypatch):
    def savez(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", savez)
    with pytest.raises(
        OutputError, match=r"cannot write '.*': No space left on device; check the free space in TMPDIR"
    ):
        write(folder, 1)


def test_bytes_do_not_pass_through_py4j(spark, folder, monkeypatch):
    passed = []
    for name in ("read", "write", "create"):
        monkeypatch.setattr(HadoopFiles, name, lambda *call: passed.append(call))
    monkeypatch.setattr(folder._files, "_system", HadoopFiles(spark, "."))
    write(folder, 1)
    assert folder.get() is not None
    assert passed == []
