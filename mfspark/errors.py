"""Every error that mfspark raises on purpose, and the exit code that a job ends with.

::

    MfsparkError
    ├── ConfigError          2  wrong usage or configuration
    ├── InputError           3  input data rejected
    │   ├── SchemaError         a column is missing or has the wrong type
    │   └── DataError           rows, files or values that cannot be used
    ├── TrainingError        4  training failed
    │   ├── NumericalError      a normal equation has no unique solution
    │   └── CapacityError       more rows, or bytes, than the method can hold
    ├── OutputError          5  output cannot be written, or another run holds it
    └── GateError            6  the run is complete, but breaks a rule that holds it

A message says what is wrong, what was found, what is expected and what to do about it, in one line.
"""

from difflib import get_close_matches
from typing import ClassVar


class MfsparkError(Exception):
    """Base of all errors raised on purpose; any other error of a job is a defect (exit code 1)."""

    exit_code: ClassVar[int] = 1


class ConfigError(MfsparkError):
    """Wrong usage or configuration."""

    exit_code = 2


class InputError(MfsparkError):
    """The input data was rejected."""

    exit_code = 3


class SchemaError(InputError):
    """A column is missing or has the wrong type."""


class DataError(InputError):
    """Rows, files or values that cannot be used."""


class TrainingError(MfsparkError):
    """Training failed."""

    exit_code = 4


class NumericalError(TrainingError):
    """A normal equation has no unique solution."""


class CapacityError(TrainingError):
    """More rows or bytes than the method can hold."""


class OutputError(MfsparkError):
    """The output cannot be written, or another run holds it."""

    exit_code = 5


class GateError(MfsparkError):
    """The run is complete, but breaks a rule of the gate, and is not published."""

    exit_code = 6


def exit_codes() -> dict[int, str]:
    """The meaning of each exit code of a job."""
    found = {0: "done", MfsparkError.exit_code: "unforeseen: a defect"}
    for error in MfsparkError.__subclasses__():
        meaning = (error.__doc__ or "").strip().rstrip(".")
        found[error.exit_code] = meaning[0].lower() + meaning[1:]
    return found | {130: "stopped by Ctrl-C", 143: "stopped by SIGTERM"}


def interrupt_behind(error: BaseException | None) -> KeyboardInterrupt | None:
    """The KeyboardInterrupt that an error comes of; None if there is none.

    After an interrupt py4j closes its connection, and the call that comes next, in some `finally`, may fail in turn.
    """
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error


def did_you_mean(name: str, valid_names: list[str]) -> str:
    """Hint at the valid name nearest to `name`, then list all of them."""
    nearest = get_close_matches(name, valid_names, n=1)
    hint = f"did you mean '{nearest[0]}'? " if nearest else ""
    return f"{hint}valid: {', '.join(valid_names)}"
