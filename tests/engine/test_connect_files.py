"""Files of a client of Spark Connect."""

from types import SimpleNamespace

import pytest

from mfspark.engine.connect_files import ClientFiles
from mfspark.engine.files import FileStore
from mfspark.errors import ConfigError, OutputError


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The store of a client without a server."""
    monkeypatch.setattr("mfspark.engine.files.is_connect", lambda _: True)
    return FileStore(SimpleNamespace(), str(tmp_path))


def test_files_come_back_as_written(files, tmp_path):
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.write_bytes(b"\0bytes")
    assert files.list_names(f"{tmp_path}/a b") == []
    files.upload(source, f"file:{tmp_path}/a b/one")
    files.upload(source, f"file://{tmp_path}/a b/two")
    assert files.list_names(f"{tmp_path}/a b") == ["one", "two"]
    files.download(f"{tmp_path}/a b/one", copy)
    assert copy.read_bytes() == b"\0bytes"
    for _ in range(2):
        files.delete(f"{tmp_path}/a b/one")
    assert files.list_names(f"file:{tmp_path}/a b") == ["two"]
    assert files.list_names(f"{tmp_path}/a b/two") == ["two"]  # of a file its own, as Hadoop does
    assert files.list_names(f"{tmp_path}/a b/two/below") == []


@pytest.mark.parametrize("path", ["s3a://bucket/a", "hdfs://host/a", "abfss://a@b/c", "file:", "file:relative"])
def test_other_file_systems_are_refused_by_name(path):
    with pytest.raises(OutputError, match=f"cannot use '{path}' from a client of Spark Connect, which reaches only"):
        ClientFiles(SimpleNamespace(), path)


def test_errors_name_the_path(files, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=f"cannot read '{tmp_path}/no': No such file or directory; check"):
        files.download(f"{tmp_path}/no", tmp_path / "copy")
    with pytest.raises(
        OutputError, match=f"cannot write '{tmp_path}/file/.new.tmp': (Not a directory|File exists); ch"
    ):
        files.upload(tmp_path / "file", f"{tmp_path}/file/new")


@pytest.mark.spark
@pytest.mark.connect
def test_client_and_server_see_the_same_files(spark, tmp_path, monkeypatch):
    files, (own, other) = FileStore(spark, str(tmp_path)), (tmp_path / "a [b].txt", tmp_path / "other")
    own.write_text("text")
    other.write_text("another text")
    files.require_seen(str(own))
    files.require_shared(f"{tmp_path}/new/folder")
    assert list((tmp_path / "new/folder").iterdir()) == []
    server_sees = ClientFiles._seen_by_server
    for path in (other, tmp_path / "nowhere"):
        monkeypatch.setattr(ClientFiles, "_seen_by_server", lambda files, _, path=path: server_sees(files, str(path)))
        with pytest.raises(ConfigError, match=r"do not find the same file under .*; expected a folder that both reach"):
            files.require_seen(str(own))
        with pytest.raises(ConfigError, match="do not find the same file"):
            files.require_shared(f"{tmp_path}/new/folder")
    assert list((tmp_path / "new/folder").iterdir()) == []
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="do not find the same file"):  # nor if neither has it
        files.require_seen(f"{tmp_path}/nowhere")
