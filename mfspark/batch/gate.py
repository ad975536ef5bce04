"""The gate before CURRENT: rules that a complete run is judged by, against the current run and the baselines."""

import logging
from dataclasses import asdict, dataclass
from typing import Any

from mfspark.config.rules import Rule, parse_rule
from mfspark.config.sections import PipelineConfig
from mfspark.errors import GateError
from mfspark.storage.metrics import BASELINES, measure, of_metric
from mfspark.storage.runs import PublishedRun, Run

logger = logging.getLogger(__name__)

_LABELS = {"rmse": "RMSE", "mae": "MAE", "full_lists": "share of users with a full list",
           "rejected": "share of rejected rows"}  # fmt: skip
_SHARES = ("full_lists", "rejected")


@dataclass(frozen=True)
class Verdict:
    """One rule, judged."""

    rule: str
    holds: bool
    """Whether a run that breaks it is not published."""
    passed: bool | None
    """None: a measure is missing, so nothing can be said; that never counts as good."""
    message: str

    @property
    def is_holding(self) -> bool:
        """Whether it keeps this run from being published."""
        return self.holds and not self.passed


def judge(config: PipelineConfig, run: Run) -> None:
    """Judge a complete run by its rules; note the verdicts in the manifest, warn of the broken ones.

    A rule that has once held this run still does, whatever the configuration names now, unless `gate.accept` has it.
    Runs on the driver.
    """
    current = run.current()
    if current is not None and current.folder == run.folder:
        current = None
    held_by = [parse_rule(text) for text in run.manifest.get("held_by", [])]
    holding = [rule for rule in dict.fromkeys([*held_by, *config.gate.holding]) if rule not in config.gate.accepted]
    warning = [rule for rule in dict.fromkeys([*config.gate.accepted, *config.warnings]) if rule not in holding]
    n = config.recommend.n
    verdicts = [_verdict(rule, run.metrics, current, n, holds=True) for rule in holding]
    verdicts += [_verdict(rule, run.metrics, current, n, holds=False) for rule in warning]
    run.manifest["gates"] = [asdict(verdict) for verdict in verdicts]
    for verdict in verdicts:
        if not verdict.passed:
            logger.warning("gate: %s (%s)", verdict.message, verdict.rule, extra={"context": asdict(verdict)})
    logger.info("gate: %d of %d rules are met", sum(bool(verdict.passed) for verdict in verdicts), len(verdicts))


def require_not_held(run: Run) -> None:
    """Raise GateError, and end the run unpublished, if it breaks a rule that holds it."""
    broken = [verdict for verdict in (Verdict(**found) for found in run.manifest["gates"]) if verdict.is_holding]
    if not broken:
        return
    run.manifest["held_by"] = [verdict.rule for verdict in broken]
    run.end_unpublished("held")
    accept = ", ".join(f'"{verdict.rule}"' for verdict in broken)
    raise GateError(
        f"the gate holds run '{run.run_id}': {'; '.join(f'{verdict.message} ({verdict.rule})' for verdict in broken)}; "
        f"it is complete, but not published; look at {run.folder}, then publish it with --resume --set "
        f"gate.accept='[{accept}]', or leave it"
    )


def _verdict(rule: Rule, metrics: dict[str, Any], current: PublishedRun | None, n: int, *, holds: bool) -> Verdict:
    label = _LABELS.get(rule.measure) or (f"{rule.measure.upper()}@{n}" if rule.needs_holdout else rule.measure)
    passed, message = _compare(rule, metrics, current, n, label)
    return Verdict(str(rule), holds, passed, message)


def _compare(
    rule: Rule, metrics: dict[str, Any], current: PublishedRun | None, n: int, label: str
) -> tuple[bool | None, str]:
    found = measure(metrics, rule.measure, n)
    if found is None:
        return None, f"this run has no {label}"
    if rule.reference == "current" and current is None:
        return True, "there is no current run to compare with"
    reference = _reference(rule, metrics, current, n)
    if reference is None:
        whose = BASELINES.get(str(rule.reference)) or f"the current run '{current.name if current else ''}'"
        return None, f"{label} is {_shown(rule, found)}, and {whose} has none to compare with"
    bound = rule.factor * reference
    passed = found >= bound if rule.is_least else found <= bound
    word = ("at least" if rule.is_least else "at most") if passed else ("below" if rule.is_least else "above")
    return passed, f"{label} {_shown(rule, found)} is {word} {_bound(rule, reference, current)}"


def _reference(rule: Rule, metrics: dict[str, Any], current: PublishedRun | None, n: int) -> float | None:
    """What the factor of a rule is multiplied by."""
    if rule.reference is None:
        return 1.0
    if rule.reference == "current":
        return None if current is None else measure(current.metrics, rule.measure, n)
    return of_metric(metrics.get("baselines", {}).get(rule.reference, {}), rule.measure, n)


def _bound(rule: Rule, reference: float, current: PublishedRun | None) -> str:
    if rule.reference is None:
        return _shown(rule, rule.factor)
    whose = BASELINES.get(rule.reference) or f"the current run '{current.name if current else ''}'"
    times = "" if rule.factor == 1 else f"{rule.factor:g} times "
    return f"{times}the {_shown(rule, reference)} of {whose}"


def _shown(rule: Rule, value: float) -> str:
    if rule.measure in _SHARES:
        return f"{value:.1%}"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
