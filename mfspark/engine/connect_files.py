"""Files on Spark Connect: what the client reaches itself, and what the server deletes for it.

A session of Spark Connect has no JVM, so the client cannot reach Hadoop's file systems as `FileStore` does.
"""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote

from mfspark.errors import OutputError

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


class ClientFiles:
    """A folder on this machine or a mounted one, with the methods of `FileStore` that checkpoints need.

    Raises
    ------
    OutputError    the path names another file system; and every failure, with the path
    """

    def __init__(self, root: str) -> None:
        _local(root)

    def list_names(self, folder: str) -> list[str]:
        """Sorted names of the files and folders in a folder; empty if the folder does not exist."""
        with _named("list", folder):
            path = _local(folder)
            return sorted(entry.name for entry in path.iterdir()) if path.exists() else []

    def upload(self, local_path: Path, path: str) -> None:
        """Copy a file to this folder; it gets its name when it is complete."""
        target = _local(path)
        temporary = target.with_name(f".{target.name}.tmp")
        with _named("write", path):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(local_path, temporary)
            os.replace(temporary, target)

    def download(self, path: str, local_path: Path) -> None:
        """Copy a file from this folder."""
        with _named("read", path):
            shutil.copyfile(_local(path), local_path)

    def delete(self, path: str) -> None:
        """Remove a file, if it exists."""
        with _named("delete", path), suppress(FileNotFoundError):
            _local(path).unlink()


def delete_on_server(path: str) -> None:
    """Delete a folder, if it exists, on any file system that the server of the active session can write."""
    from pyspark.ml.connect.readwrite import RemoteMLWriter  # needs the packages of Spark Connect

    RemoteMLWriter.handleOverwrite(path, True)


def _local(path: str) -> Path:
    if path.startswith("file:"):
        return Path(unquote("/" + path.removeprefix("file:").lstrip("/")))
    if _SCHEME.match(path):
        raise OutputError(
            f"cannot use '{path}' from a client of Spark Connect, which reaches only local and mounted folders; choose "
            "such a folder, or use a classic Spark session"
        )
    return Path(path).absolute()


@contextmanager
def _named(action: str, path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot {action} '{path}': {error.strerror}; check that the folder is writable") from error
