"""What tracking needs: an interface of a run, and a check that the libraries are installed."""

from importlib.util import find_spec
from typing import Any, Protocol

from mfspark.config.sections import TrackConfig
from mfspark.errors import ConfigError


class TrackedRun(Protocol):
    """The parts of a run that tracking uses."""

    run_id: str
    folder: str
    manifest: dict[str, Any]
    metrics: dict[str, Any]

    def read_text(self, name: str) -> str | None:
        """Content of a file of the run; None if there is no such file."""


def require_trackable(config: TrackConfig) -> None:
    """Raise ConfigError if a library that the settings need is not installed. Needs no Spark session."""
    needs = (
        ("mlflow_uri", config.mlflow_uri, "mlflow", "mlflow"),
        ("openmetrics_path", config.openmetrics_path, "prometheus_client", "openmetrics"),
    )
    for key, value, module, extra in needs:
        if value is not None and find_spec(module) is None:
            raise ConfigError(
                f"track.{key} needs the library {module}, which is not installed; install it with "
                f"pip install 'mfspark[{extra}]', or remove the setting"
            )
