"""Random configurations and flags: refused in one line, or read. No JVM."""

import contextlib
import io
import json
import tempfile
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from mfspark.config.loading import load_config
from mfspark.errors import ConfigError, OutputError
from mfspark.storage.runs import require_run_id
from tests import fuzz
from tests.conftest import PROJECT
from tests.jobs.runner import run_job

EXPLICIT = (PROJECT / "conf" / "explicit.toml").read_bytes()
JOBS = ["run_pipeline", "ingest", "train", "recommend", "evaluate"]


@pytest.fixture(autouse=True)
def no_session(tmp_path, monkeypatch):
    """A job that gets as far as the session ends with exit code 5."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # for the logs of all these jobs
    with mock.patch("mfspark.engine.session.open_session", side_effect=OutputError("no session here")):
        yield


def load_or_refuse(folder, content, overrides=()):
    path = folder / "job.toml"
    path.write_bytes(content)
    try:
        config = load_config(path, list(overrides))
    except ConfigError as error:
        event(str(error).split("'")[0][:40])
    else:
        event("loaded")
        assert json.loads(json.dumps(config.as_dict(), allow_nan=False)) == config.as_dict()
        assert len(config.hash()) == 64


@fuzz.examples(100)
@given(content=st.one_of(fuzz.toml_texts().map(str.encode), fuzz.damaged(EXPLICIT), st.binary(max_size=50)))
def test_any_file_is_read_or_refused(tmp_path, content):
    load_or_refuse(tmp_path, content)


@fuzz.examples(100)
@given(overrides=st.lists(fuzz.overrides(), max_size=4))
def test_any_override_is_applied_or_refused(tmp_path, overrides):
    load_or_refuse(tmp_path, EXPLICIT, overrides)


@fuzz.examples(50)
@given(job=st.sampled_from(JOBS), has_config=st.booleans(), flags=st.lists(fuzz.flags, max_size=5))
def test_any_flags_end_with_a_listed_exit_code_and_one_line(job, has_config, flags):
    config = [f"--config={PROJECT / 'conf' / 'explicit.toml'}"] if has_config else []
    with contextlib.redirect_stdout(io.StringIO()):
        outcome = run_job(job, *config, *flags)
    event(f"exit code {outcome.exit_code}")
    is_help = outcome.exit_code == 0
    assert is_help or outcome.exit_code in (2, 5), outcome.stderr
    assert len(outcome.errors) == (0 if is_help else 1), outcome.stderr
    assert "Traceback" not in outcome.stderr


@fuzz.examples(100)
@given(run_id=fuzz.run_ids)
def test_any_run_id_is_one_folder_or_refused(run_id):
    try:
        require_run_id(run_id)
    except ConfigError:
        return
    runs = Path("/out/runs")
    assert (runs / run_id).resolve().parent == runs
    assert run_id == run_id.strip() != ""
