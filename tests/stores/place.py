"""A folder in a bucket, as another client than Hadoop sees it."""

import json
from dataclasses import dataclass
from typing import Any

import pyarrow.fs as pafs
import pyarrow.parquet as pq


@dataclass(frozen=True)
class Bucket:
    """A folder, and what is in it."""

    s3: pafs.S3FileSystem
    path: str

    @property
    def uri(self) -> str:
        return f"s3a://{self.path}"

    def names(self, folder: str = "") -> list[str]:
        """Paths of all objects below a folder, from here; folders are no objects of S3."""
        selector = pafs.FileSelector(f"{self.path}/{folder}".rstrip("/"), recursive=True, allow_not_found=True)
        found = [info.path for info in self.s3.get_file_info(selector) if info.type == pafs.FileType.File]
        return sorted(path.removeprefix(f"{self.path}/") for path in found)

    def runs(self) -> list[str]:
        """Names of the runs: the folders with a manifest."""
        found = (name.split("/") for name in self.names("runs"))
        return sorted(parts[1] for parts in found if parts[2:] == ["manifest.json"])

    def read(self, name: str) -> str:
        """Content of a file.

        pyarrow asks for the size first and for the bytes then. Of an object that was replaced in between it gets a
        part, or anything behind the whole. So it reads until it gets the same twice.
        """
        last, found = None, self._read(name)
        while found != last:
            last, found = found, self._read(name)
        return found.decode()

    def _read(self, name: str) -> bytes:
        with self.s3.open_input_stream(f"{self.path}/{name}") as stream:
            return stream.read()

    def json(self, name: str) -> dict[str, Any]:
        return json.loads(self.read(name))

    def write(self, name: str, text: str) -> None:
        with self.s3.open_output_stream(f"{self.path}/{name}") as stream:
            stream.write(text.encode())

    def current(self) -> str | None:
        """Content of CURRENT."""
        return self.read("CURRENT").strip() if "CURRENT" in self.names() else None

    def rows(self, table: str) -> list[dict[str, Any]]:
        """All rows of a table, in an order of their own."""
        return sorted(pq.read_table(f"{self.path}/{table}", filesystem=self.s3).to_pylist(), key=repr)
