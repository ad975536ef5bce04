"""Flags in, exit code out."""

import re

import pytest

from mfspark.cli.command_line import _LastStep, _told, run_job
from mfspark.cli.signals import Stopped


def test_help_has_every_exit_code(capsys):
    with pytest.raises(SystemExit) as end:
        run_job("Train.", ["train"], ["--help"])
    assert end.value.code == 0
    text = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert (
        "Exit codes: 0 done; 1 unforeseen: a defect; 2 wrong usage or configuration; 3 the input data was rejected; "
        "4 training failed; 5 the output cannot be written, or another run holds it; 6 the run is complete, but "
        "breaks a rule of the gate, and is not published; 130 stopped by Ctrl-C; 143 stopped by SIGTERM."
    ) in text


@pytest.mark.parametrize(
    ("run_id", "remedy"), [("night", "continue with --run-id night --resume"), (None, "repeat the command")]
)
def test_a_stopped_job_names_what_continues_it(run_id, remedy):
    assert _told(Stopped(15), _LastStep(), run_id) == (f"stopped by SIGTERM; {remedy}", 143)
