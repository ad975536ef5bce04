"""SIGTERM and Ctrl-C: a job ends in order, as after an error. Runs on the driver, in its main thread."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(KeyboardInterrupt):
    """A signal asks the job to end; py4j closes the connection of a call that a KeyboardInterrupt breaks off."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.exit_code = 128 + number
        """As a shell has it: 143 after SIGTERM, 130 after Ctrl-C."""


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Raise Stopped at the first signal; ignore all further ones, so that they do not break off the end."""
    before = {number: signal.signal(number, _stop) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def catch_signals_again() -> None:
    """Take Ctrl-C back from the handler that PySpark sets when a session starts."""
    for number in _SIGNALS:
        signal.signal(number, _stop)


def _stop(number: int, _: FrameType | None) -> NoReturn:
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise Stopped(number)
