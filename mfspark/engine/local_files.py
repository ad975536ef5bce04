"""Files on this machine and on mounts, without Hadoop."""

import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path


class LocalFiles:
    """The local file system, for `FileStore`. Paths may begin with file:.

    Hadoop starts a process for each file to set its rights, and does not create a file atomically: it checks first.
    """

    is_object_store = False
    creates_for_one = True

    def local_path(self, path: str) -> Path | None:
        """The path as a local path."""
        return local(path)

    def qualified(self, path: str) -> str:
        """The absolute path with its scheme."""
        return f"file:{local(path)}"

    def exists(self, path: str) -> bool:
        """Whether there is a file or folder."""
        return self._mode(path) is not None

    def is_folder(self, path: str) -> bool:
        """Whether there is a folder."""
        mode = self._mode(path)
        return mode is not None and stat.S_ISDIR(mode)

    def names(self, folder: str) -> list[str]:
        """Names in a folder; none if it does not exist; of a file its own."""
        path = local(folder)
        if path.is_file():
            return [path.name]
        with suppress(FileNotFoundError, NotADirectoryError):
            return [entry.name for entry in path.iterdir()]
        return []

    def read(self, path: str) -> bytes:
        """Content of a file."""
        return local(path).read_bytes()

    def write(self, path: str, content: bytes) -> None:
        """Write a file, with the folders above it."""
        self._write(path, content, "wb")

    def create(self, path: str, content: bytes) -> bool:
        """Write a file that does not exist; return False if it does."""
        try:
            self._write(path, content, "xb")
        except FileExistsError:
            if local(path).exists():  # else a folder above it is a file
                return False
            raise
        return True

    def rename(self, source: str, target: str) -> None:
        """Move a file or folder to a path that does not exist."""
        local(source).rename(local(target))

    def rename_over(self, source: str, target: str) -> None:
        """Move a file over another in one step."""
        local(source).replace(local(target))

    def delete(self, path: str) -> None:
        """Remove a file, or a folder and its content, if it exists."""
        found = local(path)
        if found.is_dir() and not found.is_symlink():
            shutil.rmtree(found)
        else:
            with suppress(FileNotFoundError, NotADirectoryError):
                found.unlink()

    def modified_ms(self, path: str) -> int:
        """When a file was written, in milliseconds since 1970."""
        return os.stat(local(path)).st_mtime_ns // 1_000_000

    def upload(self, local_path: Path, path: str) -> None:
        """Copy a local file to a path."""
        target = local(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(local_path, target)

    def download(self, path: str, local_path: Path) -> None:
        """Copy a file to a local path."""
        shutil.copyfile(local(path), local_path)

    def require_seen(self, file: str) -> None:
        """Nothing to check: Spark's driver is this process."""

    def require_shared(self, folder: str) -> None:
        """Nothing to check."""

    @staticmethod
    def _mode(path: str) -> int | None:
        """Kind and rights of a file; None if there is none. Path.exists would also say so of a mount that fails."""
        with suppress(FileNotFoundError, NotADirectoryError):
            return local(path).stat().st_mode
        return None

    def _write(self, path: str, content: bytes, mode: str) -> None:
        target = local(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open(mode) as file:
            file.write(content)


def local(path: str) -> Path:
    """A path of the local file system, absolute. As in Hadoop, % has no meaning in it."""
    return Path("/" + path.removeprefix("file:").lstrip("/") if path.startswith("file:") else path).absolute()
