"""Loads a configuration from a TOML file and `section.key=value` overrides."""

import sys
from datetime import date, time
from pathlib import Path
from typing import Any

from mfspark.config.checking import checked, shown
from mfspark.config.sections import PipelineConfig
from mfspark.config.study import StudyConfig
from mfspark.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def load_config(path: str | Path, overrides: list[str] | None = None) -> PipelineConfig:
    """Read the configuration of a run from a TOML file, apply `section.key=value` overrides, and check everything.

    Raises
    ------
    ConfigError  the file is missing or not TOML, a key is unknown, a value is not allowed
    """
    tree = _read_tree(path, overrides or [])
    tree.pop("tune", None)  # for jobs/tune.py alone
    return checked(PipelineConfig, tree)


def load_study_config(path: str | Path, overrides: list[str] | None = None) -> StudyConfig:
    """Read the configuration of a study, as `load_config` does for a run."""
    return checked(StudyConfig, _read_tree(path, overrides or []))


def _read_tree(path: str | Path, overrides: list[str]) -> dict[str, Any]:
    tree: dict[str, Any]
    try:
        tree = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the configuration '{path}': {error.strerror}") from error
    # tomllib also raises Python's own errors: numbers with too many digits, tables nested too deep.
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"the configuration '{path}' is not valid TOML: {error}") from error
    for override in overrides:
        _apply_override(tree, override)
    return tree


def _apply_override(tree: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    section, dot, name = key.strip().partition(".")
    if not (separator and dot and section and name):
        raise ConfigError(f"--set expects section.key=value, found '{override}'")
    table = tree.setdefault(section, {})
    if not isinstance(table, dict):
        raise ConfigError(f"'{section}' in the configuration must be a [section], found {shown(table)}")
    table[name] = _parse_value(text.strip())


def _parse_value(text: str) -> Any:
    """Parse a TOML value; anything else, such as an unquoted path or a date, is a string."""
    try:
        value = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):  # as in load_config
        return text
    is_value = len(value) == 1 and not isinstance(value["value"], (date, time))
    return value["value"] if is_value else text
