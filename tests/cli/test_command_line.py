"""Flags in, exit code out."""

import re

import pytest

from mfspark.cli.command_line import run_job


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
