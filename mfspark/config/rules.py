"""Parses the rules of the gate: `ndcg >= popularity`, `users >= 0.9 * current`, `rejected <= 0.01`."""

import re
from dataclasses import dataclass
from typing import Literal, get_args

from mfspark.errors import did_you_mean

Metric = Literal["rmse", "mae", "ndcg", "precision", "recall", "map", "hit_rate"]
ERRORS = ("rmse", "mae")
"""Metrics where lower is better."""
RANKED = tuple(name for name in get_args(Metric) if name not in ERRORS)
COUNTS = ("users", "items", "ratings")
"""Numbers of users, items and ratings that the published factors were trained on."""
SHARES = ("full_lists", "rejected")
"""The share of users whose list is full, and the share of the rows read that were rejected."""
MEASURES = (*get_args(Metric), *COUNTS, *SHARES)
_BASELINES = {"popularity": RANKED, "mean_and_biases": ERRORS}
_LOWER_IS_BETTER = (*ERRORS, "rejected")
_NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?"
_FORM = re.compile(
    rf"(?P<measure>\w+)\s*(?P<sign>[<>]=)\s*"
    rf"(?:(?P<bound>{_NUMBER})|(?:(?P<factor>{_NUMBER})\s*\*\s*)?(?P<reference>[a-z_]+))"
)


@dataclass(frozen=True)
class Rule:
    """A lower or upper bound for a measure of the run."""

    measure: str
    is_least: bool
    """Whether the bound is a lower bound (>=); else it is an upper bound (<=)."""
    factor: float
    """The bound, or with a reference the factor of the reference's value."""
    reference: str | None
    """"current" for the run that readers use now, or a baseline of this run; None: the factor is the bound."""

    def __str__(self) -> str:
        sign, factor = ">=" if self.is_least else "<=", f"{self.factor:g}"
        if self.reference is None:
            return f"{self.measure} {sign} {factor}"
        return f"{self.measure} {sign} {'' if self.factor == 1 else f'{factor} * '}{self.reference}"

    @property
    def needs_holdout(self) -> bool:
        """Whether the measure is computed from the holdout."""
        return self.measure in get_args(Metric)

    @property
    def is_of_error(self) -> bool:
        """Whether the measure is an error, which only explicit ratings have."""
        return self.measure in ERRORS


def parse_rule(text: str) -> Rule:
    """Parse one rule.

    Raises
    ------
    ValueError    the text is not a rule, has an unknown measure or reference, or its sign favours worse runs
    """
    found = _FORM.fullmatch(text.strip())
    if found is None:
        raise ValueError(
            f"'{text}' is not a rule; expected a measure, >= or <=, and a bound, such as 'ndcg >= popularity', "
            "'users >= 0.9 * current' or 'rejected <= 0.01'"
        )
    reference, factor = found["reference"], float(found["bound"] or found["factor"] or 1)
    rule = Rule(found["measure"], found["sign"] == ">=", factor, reference)
    if rule.measure not in MEASURES:
        raise ValueError(f"'{text}': unknown measure '{rule.measure}'; {did_you_mean(rule.measure, list(MEASURES))}")
    references = ["current", *(name for name, measures in _BASELINES.items() if rule.measure in measures)]
    if reference is not None and reference not in references:
        raise ValueError(
            f"'{text}': {rule.measure} cannot be compared with '{reference}'; {did_you_mean(reference, references)}"
        )
    if rule.measure not in COUNTS and rule.is_least is (rule.measure in _LOWER_IS_BETTER):
        better, sign = ("lower", "<=") if rule.is_least else ("higher", ">=")
        raise ValueError(f"'{text}': a {better} {rule.measure} is better; write {sign}")
    return rule


def parse_rules(texts: str | list[str]) -> list[Rule]:
    """Parse a setting that is one rule or a list of rules."""
    return [parse_rule(text) for text in ([texts] if isinstance(texts, str) else texts)]


WARNINGS = tuple(
    parse_rules(
        [
            "ndcg >= popularity",
            "rmse <= mean_and_biases",
            "ndcg >= 0.9 * current",
            "rmse <= 1.1 * current",
            "users >= 0.9 * current",
            "items >= 0.9 * current",
            "ratings >= 0.9 * current",
            "full_lists >= 0.9",
            "rejected <= 0.01",
        ]
    )
)
"""The default of `gate.warn`; a run that cannot have a measure skips its rules."""
