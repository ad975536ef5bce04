"""Run a Python program as `python FILE` would, but in this process, which has imported all that takes long."""

import contextlib
import io
import runpy
import sys
from pathlib import Path
from typing import NamedTuple
from unittest import mock


class Outcome(NamedTuple):
    """What the caller of a program sees."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def errors(self) -> list[str]:
        """The lines of a job that tell what went wrong; contract: one."""
        return [line for line in self.stderr.splitlines() if line.startswith("mfspark: ")]


def run_program(path: Path, *arguments: object) -> Outcome:
    """Run the file with these arguments to its end."""
    stdout, stderr = io.StringIO(), io.StringIO()
    exit_code = 0
    with (
        mock.patch.object(sys, "argv", [str(path), *map(str, arguments)]),
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
    ):
        try:
            runpy.run_path(str(path), run_name="__main__")
        except SystemExit as end:
            if isinstance(end.code, str):
                print(end.code, file=stderr)
            exit_code = end.code if isinstance(end.code, int) else int(end.code is not None)
    return Outcome(exit_code, stdout.getvalue(), stderr.getvalue())
