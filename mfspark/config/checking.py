"""Values in, a checked dataclass out, or a ConfigError that says what to change."""

from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, TypeVar, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from mfspark.errors import ConfigError, did_you_mean

_Section = TypeVar("_Section")


def checked(section: type[_Section], values: dict[str, Any]) -> _Section:
    """Make a dataclass of this module from values; raise ConfigError if one is unknown, missing or not allowed."""
    try:
        return TypeAdapter(section).validate_python(values)
    except ValidationError as error:
        problems = [_describe_problem(detail, section) for detail in error.errors()]
        raise ConfigError("; ".join(problems)) from error


def _describe_problem(detail: ErrorDetails, section: type[Any]) -> str:
    # What comes after section and key says which of several types of value was tried.
    depth = {"others": 4, "item_names": 3, "items": 3}.get(str(detail["loc"][1]), 2) if len(detail["loc"]) > 1 else 2
    key = ".".join(str(part) for part in detail["loc"][:depth])
    if detail["type"] == "unexpected_keyword_argument":
        return f"unknown key '{key}'; {did_you_mean(str(detail['loc'][-1]), _sibling_keys(detail['loc'], section))}"
    if detail["type"] == "missing":
        return f"missing key '{key}'"
    if detail["type"] == "dataclass_type":
        return f"'{key}' must be a [section], found {shown(detail['input'])}"
    found = "" if isinstance(detail["input"], dict) else f", found {shown(detail['input'])}"
    message = detail["msg"].removeprefix("Value error, ")
    return f"{key}: {message}{found}" if key else f"{message}{found}"


def shown(value: Any) -> str:
    """The repr of the value, unless it has too many digits or levels."""
    try:
        return repr(value)
    except (ValueError, RecursionError):
        return f"{type(value).__name__} too large to show"


def _sibling_keys(location: tuple[int | str, ...], section: type[Any]) -> list[str]:
    """Names that are valid where an unknown one was found."""
    owner: Any = section
    for part in location[:-1]:
        # A table of sections has any names; below each of them is a section.
        owner = get_type_hints(owner)[str(part)] if is_dataclass(owner) else get_args(owner)[1]
        owner = next(filter(is_dataclass, get_args(owner)), owner) if isinstance(owner, UnionType) else owner
    return [field.name for field in fields(owner)]
