"""The log file of a job: all its lines, the tracebacks, and the output of Spark."""

import logging
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from mfspark.tracking.console import LogFormat, SparingSignsOfLife, formatter

NAME = "job.log"
"""Name of the log file in the folder of a run."""
KEPT = 20
"""Number of log files to keep in the temporary folder."""
_PREFIX, _SUFFIX = "mfspark-", ".log"


class LogFile:
    """A log file in the temporary folder. `close` moves it into the folder of the job's run.

    It does not start in the folder of the run, because a job must not write to the output before it holds the lock, and
    because it can fail before it has read where the output is. A new log file removes all but the newest `KEPT` log
    files of the same user.
    """

    folder: Path | None = None
    """Local folder of the run; None if the job has no run, or the output is on another machine."""

    def __init__(self, log_format: LogFormat) -> None:
        with tempfile.NamedTemporaryFile(prefix=_PREFIX, suffix=_SUFFIX, delete=False) as file:
            self._path = Path(file.name)
        _remove_old_ones(self._path)
        # backslashreplace, because arguments of the command line need not be UTF-8.
        self.stream: TextIO = self._path.open("a", encoding="utf-8", errors="backslashreplace")
        self.handler = logging.StreamHandler(self.stream)
        self.handler.setFormatter(formatter(log_format, "%(asctime)s %(levelname)s %(name)s %(message)s"))
        self.handler.addFilter(SparingSignsOfLife())

    def close(self) -> Path:
        """Close the file, append it to job.log in the folder of the run, and return the path.

        If it cannot be moved, it stays in the temporary folder. A second call only returns the path.
        """
        self.handler.close()
        self.stream.close()
        if self.folder is not None:
            with suppress(OSError):  # the folder was removed, or the disk is full
                with self._path.open("rb") as ours, (self.folder / NAME).open("ab") as of_the_run:
                    shutil.copyfileobj(ours, of_the_run)
                self._path.unlink()
                self._path = self.folder / NAME
        self.folder = None
        return self._path


def _remove_old_ones(newest: Path) -> None:
    """Remove the oldest log files in the folder of this one, but not those of other users."""
    found = []
    for path in newest.parent.glob(f"{_PREFIX}*{_SUFFIX}"):
        with suppress(OSError):  # another job removed it
            status = path.lstat()
            if status.st_uid == newest.stat().st_uid:
                found.append((status.st_mtime, path))
    for _, path in sorted(found)[:-KEPT]:
        with suppress(OSError):
            path.unlink()
