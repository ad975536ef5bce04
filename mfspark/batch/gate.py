"""The gate: it compares a complete run with numbers, the current run and the baselines before CURRENT names it."""

import logging
from dataclasses import asdict, dataclass
from typing import Any

from mfspark.config.rules import Rule, parse_rule
from mfspark.config.sections import PipelineConfig
from mfspark.errors import GateError
from mfspark.storage.metrics import BASELINES, label, measure, of_metric
from mfspark.storage.runs import PublishedRun, Run

logger = logging.getLogger(__name__)

_LABELS = {"users": "number of users", "items": "number of items",
           "ratings": "number of ratings", "full_lists": "share of users with a full list",
           "rejected": "share of rejected rows"}  # fmt: skip
_SHARES = ("full_lists", "rejected")


@dataclass(frozen=True)
class Verdict:
    """The result of one rule for one run."""

    rule: str
    holds: bool
    """Whether the gate holds a run that breaks the rule; else it only warns."""
    passed: bool | None
    """None: this run or the other one lacks the measure. The gate treats None as False."""
    message: str

    @property
    def is_holding(self) -> bool:
        """Whether this rule keeps this run from being published."""
        return self.holds and not self.passed


def judge(config: PipelineConfig, run: Run) -> None:
    """Apply the rules to a complete run, write the verdicts to its manifest and log a warning for each broken rule.

    A rule that has held this run before applies again, even if the configuration no longer has it, unless
    `gate.accept` names it. Runs on the driver.
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
            logger.warning(
                "gate: the run does not meet '%s': %s",
                verdict.rule,
                verdict.message,
                extra={"context": asdict(verdict)},
            )
    logger.info("gate: the run meets %d of %d rules", sum(bool(verdict.passed) for verdict in verdicts), len(verdicts))


def require_not_held(run: Run) -> None:
    """If the run breaks a rule of `gate.hold`, end it without publishing it and raise GateError."""
    broken = [verdict for verdict in (Verdict(**found) for found in run.manifest["gates"]) if verdict.is_holding]
    if not broken:
        return
    run.manifest["held_by"] = [verdict.rule for verdict in broken]
    run.end_unpublished("held")
    accept = ", ".join(f'"{verdict.rule}"' for verdict in broken)
    raise GateError(
        f"the gate holds run '{run.run_id}', which does not meet {_listed(broken)}; the run is complete, but not "
        f"published; look at {run.folder}; to publish it all the same, start the job again with --run-id {run.run_id} "
        f"--resume --set gate.accept='[{accept}]'"
    )


def _listed(verdicts: list[Verdict]) -> str:
    return "; and ".join(f"'{verdict.rule}': {verdict.message}" for verdict in verdicts)


def _verdict(rule: Rule, metrics: dict[str, Any], current: PublishedRun | None, n: int, *, holds: bool) -> Verdict:
    key = rule.measure if rule.is_of_error else f"{rule.measure}_at_{n}"
    passed, message = _compare(rule, metrics, current, n, _LABELS.get(rule.measure) or label(key))
    return Verdict(str(rule), holds, passed, message)


def _compare(
    rule: Rule, metrics: dict[str, Any], current: PublishedRun | None, n: int, name: str
) -> tuple[bool | None, str]:
    found = measure(metrics, rule.measure, n)
    if found is None:
        return None, f"this run has no {name}"
    if rule.reference == "current" and current is None:
        return True, "there is no current run to compare with"
    reference = _reference(rule, metrics, current, n)
    if reference is None:
        return None, f"{name} is {_shown(rule, found)}, but {_name(rule, current)} has none to compare it with"
    bound = rule.factor * reference
    passed = found >= bound if rule.is_least else found <= bound
    word = ("at least" if rule.is_least else "at most") if passed else ("below" if rule.is_least else "above")
    return passed, f"{name} is {_shown(rule, found)}, {word} {_bound(rule, reference, current)}"


def _reference(rule: Rule, metrics: dict[str, Any], current: PublishedRun | None, n: int) -> float | None:
    """The number that the factor of a rule is multiplied by."""
    if rule.reference is None:
        return 1.0
    if rule.reference == "current":
        return None if current is None else measure(current.metrics, rule.measure, n)
    return of_metric(metrics.get("baselines", {}).get(rule.reference, {}), rule.measure, n)


def _bound(rule: Rule, reference: float, current: PublishedRun | None) -> str:
    if rule.reference is None:
        return _shown(rule, rule.factor)
    times = "" if rule.factor == 1 else f"{rule.factor:g} × "
    return f"{times}{_shown(rule, reference)} ({_name(rule, current)})"


def _name(rule: Rule, current: PublishedRun | None) -> str:
    """The run or baseline that a rule compares with."""
    return BASELINES.get(str(rule.reference)) or f"the current run '{current.name if current else ''}'"


def _shown(rule: Rule, value: float) -> str:
    if rule.measure in _SHARES:
        return f"{value:.1%}"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
