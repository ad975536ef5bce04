"""SIGTERM and Ctrl-C raise an exception, so that a job cleans up as after any error.

Runs in the main thread of the driver.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(KeyboardInterrupt):
    """A signal asked the job to end.

    It is a KeyboardInterrupt, because py4j closes the connection of a call that a KeyboardInterrupt breaks off.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.exit_code = 128 + number
        """The exit code that a shell reports: 143 after SIGTERM, 130 after Ctrl-C."""


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Raise Stopped at the first signal and ignore later ones, so that they do not interrupt the cleanup."""
    before = {number: signal.signal(number, _stop) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def catch_signals_again() -> None:
    """Replace the handler of Ctrl-C that PySpark sets when a session starts."""
    for number in _SIGNALS:
        signal.signal(number, _stop)


def _stop(number: int, _: FrameType | None) -> NoReturn:
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise Stopped(number)
