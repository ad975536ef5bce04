"""The gate before CURRENT: it keeps, but does not publish, a run that is too much worse than the current one."""

import logging

from mfspark.config.sections import PipelineConfig
from mfspark.errors import GateError
from mfspark.storage.runs import Run

logger = logging.getLogger(__name__)


def require_not_worse(config: PipelineConfig, run: Run) -> None:
    """Raise GateError if a complete run is too much worse than the current one. Runs on the driver."""
    gate = config.gate
    current = run.current() if gate.metric else None
    if gate.metric is None or current is None or current.folder == run.folder:
        return
    name = gate.metric if gate.is_error else f"{gate.metric}_at_{config.recommend.n}"
    ours, theirs = (metrics.get("holdout", {}).get(name) for metrics in (run.metrics, current.metrics))
    logger.info("gate: %s is %s, %s in the current run %s", name, ours, theirs, current.name)
    if is_too_much_worse(ours, theirs, gate.margin, is_error=gate.is_error):
        run.end_unpublished("held")
        raise GateError(
            f"the gate failed: {name} {_shown(ours)} of run '{run.run_id}' is {_worse_by(ours, theirs)} than "
            f"{_shown(theirs)} of the current run '{current.name}'; at most {gate.margin:.1%} is allowed "
            f"(gate.margin); the run is complete but not published; check {run.folder}, then publish it with "
            "--resume and a higher gate.margin, or ignore it"
        )


def _shown(metric: float | None) -> str:
    return "none" if metric is None else f"{metric:.4g}"


def _worse_by(ours: float | None, theirs: float | None) -> str:
    """Relative difference of two metrics as text."""
    return "worse" if ours is None or not theirs else f"{abs(ours - theirs) / abs(theirs):.1%} worse"


def is_too_much_worse(ours: float | None, theirs: float | None, margin: float, *, is_error: bool) -> bool:
    """Whether a metric is worse than another by more than a share of it; a missing metric is worse than any value.

    is_error : whether lower is better
    """
    if theirs is None:
        return False
    if ours is None:
        return True
    return ours > theirs * (1 + margin) if is_error else ours < theirs * (1 - margin)
