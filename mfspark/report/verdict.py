"""Writes the verdict on a run: is it good, is it published, what changed. Does not use Spark."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from mfspark.report.facts import RunFacts, change, number, percent
from mfspark.storage.metrics import BASELINES, label, n_known_ratings, published_course

State = Literal["good", "doubtful", "unknown", "held"]
"""`unknown`: there is no metric to compare the model by."""

_AS_GOOD = 0.005
"""If two metrics differ by less than this share, the verdict calls them about the same."""
_MOST_SHARE = 10.0
"""If two metrics differ by more than this share, the verdict says "far" instead of a percentage."""
_SETTING_LENGTH = 60


class Gate(NamedTuple):
    """A rule that the run does not meet."""

    holds: bool
    """Whether the rule keeps the run from being published; else it is a warning."""
    rule: str
    message: str


@dataclass(frozen=True)
class Verdict:
    """The text at the top of the report."""

    state: State
    badge: str
    lead: str
    """One or two sentences: the outcome and the quality."""
    metrics: list[str]
    """A sentence for each metric that the verdict uses."""
    gates: list[Gate]
    """Rules that the run does not meet; first those that hold it."""
    news: str
    """What changed since the current run."""


class _Comparison(NamedTuple):
    """A metric compared with that of another model.

    other : name of the other model
    value : metric of the other model
    better_by : how much better this model is, as a share of `value`; None if `value` is 0 and this model is better
    """

    other: str
    value: float
    better_by: float | None

    @property
    def sense(self) -> int:
        """1: better, -1: worse, 0: about the same."""
        if self.better_by is None:
            return 1
        return 0 if abs(self.better_by) < _AS_GOOD else 1 if self.better_by > 0 else -1

    @property
    def words(self) -> str:
        """For example `21 % better than the most popular items (0.150)`."""
        shown = f"{self.other} ({_metric(self.value)})"
        word = "worse" if self.sense < 0 else "better"
        if self.sense == 0:
            return f"about the same as {shown}"
        if self.better_by is None:
            return f"{word} than {shown}"
        is_far = abs(self.better_by) > _MOST_SHARE
        return f"{'far' if is_far else percent(self.better_by)} {word} than {shown}"


def verdict(run: RunFacts) -> Verdict:
    """Judge a complete run by its metrics, the baselines, the current run and the rules of the gate."""
    failed = [gate for gate in run.manifest.get("gates", []) if not gate["passed"]]
    gates = [Gate(gate["holds"], gate["rule"], gate["message"]) for gate in failed]
    gates.sort(key=lambda gate: not gate.holds)
    against_baselines, against_current, sentences = _judged(run)
    is_held = any(gate.holds for gate in gates)
    is_doubtful = bool(gates) or any(found.sense <= 0 for found in against_baselines)
    return Verdict(
        "held" if is_held else "doubtful" if is_doubtful else "good" if against_baselines else "unknown",
        "held, not published" if is_held else "published",
        f"{_outcome(run, is_held=is_held)} {_quality(run, against_baselines, against_current)}",
        sentences,
        gates,
        _news(run),
    )


def _outcome(run: RunFacts, *, is_held: bool) -> str:
    if not is_held:
        return "Published."
    return f"Held: readers stay with run {run.current[0]}." if run.current else "Held: readers have no run yet."


def _judged(run: RunFacts) -> tuple[list[_Comparison], list[_Comparison], list[str]]:
    """Comparisons with the baselines and with the current run, and a sentence for each metric."""
    holdout, baselines = run.metrics["holdout"], run.metrics.get("baselines", {})
    with_baselines, with_current, sentences = [], [], []
    for key in _deciding(run):
        value = holdout.get(key)
        if value is None:
            if holdout["n_pairs"]:
                sentences.append(f"{label(key)} has no value: {_why_none(holdout)}.")
            continue
        ours, theirs, words = [], [], []
        for name, metrics in baselines.items():
            if metrics.get(key) is not None:
                ours.append(_compared(key, BASELINES.get(name, name), value, metrics[key]))
        if run.current is not None:
            name, other = run.current[0], run.current[1].get("holdout", {}).get(key)
            if other is None:
                words.append(f"run {name} has none to compare it with")
            else:
                theirs.append(_compared(key, f"run {name}", value, other))
        words = [found.words for found in ours + theirs] + words
        sentences.append(f"{label(key)} {_metric(value)}" + (f": {', '.join(words)}." if words else "."))
        with_baselines += ours
        with_current += theirs
    return with_baselines, with_current, sentences


def _deciding(run: RunFacts) -> list[str]:
    """Keys of the metrics that the verdict uses: NDCG, and RMSE unless the ratings are implicit."""
    holdout = run.metrics["holdout"]
    found = [key for key in holdout if key.startswith("ndcg_at_")]
    return found if run.manifest["config"]["train"].get("implicit_prefs") else [*found, "rmse"]


def _why_none(holdout: dict[str, Any]) -> str:
    if holdout["n_unknown"] == holdout["n_pairs"]:
        return "every holdout rating has a user or item that is not in the training ratings"
    return "it could not be computed for any holdout rating"


def _compared(key: str, other: str, ours: float, theirs: float) -> _Comparison:
    difference = theirs - ours if key == "rmse" else ours - theirs
    if theirs == 0:  # both metrics are ≥ 0
        return _Comparison(other, theirs, 0.0 if difference == 0 else None if difference > 0 else -float("inf"))
    return _Comparison(other, theirs, difference / theirs)


def _quality(run: RunFacts, against_baselines: list[_Comparison], against_current: list[_Comparison]) -> str:
    """The comparisons in one sentence."""
    if not run.metrics["holdout"]["n_pairs"]:
        return "It is not known whether the model is good: the run has no holdout to judge it by."
    if not against_baselines and not against_current:
        return "It is not known whether the model is good: none of its metrics could be compared."
    parts = []
    if against_baselines:
        better, same, worse = (
            _baselines([found.other for found in against_baselines if found.sense == sense]) for sense in (1, 0, -1)
        )
        if worse:
            parts.append(f"worse than {worse}" + (f", though better than {better}," if better else ""))
        else:
            parts.append(f"no better than {same}" if same else f"better than {better}")
    if against_current:
        senses = {found.sense for found in against_current}
        if senses >= {1, -1}:
            parts.append("better than the run before by one metric and worse by another")
        elif 1 in senses or -1 in senses:
            parts.append(f"{'better' if 1 in senses else 'worse'} than the run before")
        else:
            parts.append("about as good as the run before")
    return f"The model is {' and '.join(parts).removesuffix(',')}."


def _news(run: RunFacts) -> str:
    """What changed in the data and the settings."""
    if run.current is None:
        return "This is the first run of its output, so there is no run to compare it with."
    name, metrics = run.current
    counts = [
        ("ratings", n_known_ratings(metrics), n_known_ratings(run.metrics)),
        *((key, _size(metrics, key), _size(run.metrics, key)) for key in ("users", "items")),
    ]
    parts = [
        f"{key} {number(before)} → {number(now)} ({change(before, now)})"
        for key, before, now in counts
        if before is not None and now is not None and before != now
    ]
    parts += [f"{key} {_setting(then)} → {_setting(now)}" for key, (then, now) in run.settings.items()]
    if not parts:
        return f"The numbers of ratings, users and items and the settings are those of run {name}."
    return f"Since run {name}: {'; '.join(parts)}."


def _size(metrics: dict[str, Any], key: str) -> int | None:
    size: int | None = published_course(metrics).get(key)
    return size


def _setting(value: Any) -> str:
    text = "not set" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= _SETTING_LENGTH else f"{text[:_SETTING_LENGTH]}…"


def _metric(value: float) -> str:
    """A metric with three decimals, or with two significant digits if it is small."""
    return f"{value:.3f}" if value == 0 or abs(value) >= 0.01 else f"{value:.2g}"


def _baselines(names: list[str]) -> str:
    """Baselines in words; "" for no names."""
    found = set(names)
    return "both baselines" if len(found) > 1 else next(iter(found), "")
