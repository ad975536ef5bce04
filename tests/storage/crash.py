"""The end of a process between two file operations."""

from pathlib import Path

from mfspark.engine.files import FileStore


class PowerCut(BaseException):
    """Nothing runs after it: no error handler does anything to a file."""


def delete_first_file(_files, path):
    """Delete the first file by name below a local folder."""
    for file in sorted(file for file in Path(path).rglob("*") if file.is_file())[:1]:
        file.unlink()


def cut_power_after(monkeypatch, n_operations, begin_to_delete=delete_first_file):
    """Let a process do so many operations on files and no more; says whether it wanted to.

    begin_to_delete : what has been done, of a folder that is being deleted, when the power goes
    """
    call, left = FileStore._call, [n_operations]

    def call_while_power_lasts(files, action, path, *arguments):
        left[0] -= 1
        if left[0] >= 0:
            return call(files, action, path, *arguments)
        if left[0] == -1 and action == "delete":
            begin_to_delete(files, path)
        raise PowerCut

    monkeypatch.setattr(FileStore, "_call", call_while_power_lasts)
    return lambda: left[0] < 0
