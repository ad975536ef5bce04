"""Files of a client of Spark Connect."""

import pytest

from mfspark.engine.connect_files import ClientFiles
from mfspark.errors import OutputError


def test_files_come_back_as_written(tmp_path):
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.write_bytes(b"\0bytes")
    files = ClientFiles(f"file://{tmp_path}/a%20b")
    assert files.list_names(f"{tmp_path}/a b") == []
    files.upload(source, f"file:{tmp_path}/a%20b/one")
    files.upload(source, f"{tmp_path}/a b/two")
    assert files.list_names(f"{tmp_path}/a b") == ["one", "two"]
    files.download(f"{tmp_path}/a b/one", copy)
    assert copy.read_bytes() == b"\0bytes"
    files.delete(f"{tmp_path}/a b/one")
    files.delete(f"{tmp_path}/a b/one")
    assert files.list_names(f"{tmp_path}/a b") == ["two"]


@pytest.mark.parametrize("path", ["s3a://bucket/a", "hdfs://host/a", "abfss://a@b/c"])
def test_other_file_systems_are_refused_by_name(path):
    with pytest.raises(OutputError, match=f"cannot use '{path}' from a client of Spark Connect, which reaches only"):
        ClientFiles(path)


def test_errors_name_the_path(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=f"cannot list '{tmp_path}/file': Not a directory; check"):
        ClientFiles(str(tmp_path)).list_names(f"{tmp_path}/file")
    with pytest.raises(OutputError, match=f"cannot read '{tmp_path}/no': No such file or directory; check"):
        ClientFiles(str(tmp_path)).download(f"{tmp_path}/no", tmp_path / "copy")
    with pytest.raises(OutputError, match=f"cannot write '{tmp_path}/file/new': (Not a directory|File exists); check"):
        ClientFiles(str(tmp_path)).upload(tmp_path / "file", f"{tmp_path}/file/new")
