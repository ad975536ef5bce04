"""Rules of the gate: what can be said, and what is refused."""

import pytest

from mfspark.config.rules import WARNINGS, Rule, parse_rule


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ndcg >= popularity", Rule("ndcg", True, 1.0, "popularity")),
        (" rmse<=mean_and_biases ", Rule("rmse", False, 1.0, "mean_and_biases")),
        ("users >= 0.9 * current", Rule("users", True, 0.9, "current")),
        ("users <= 2*current", Rule("users", False, 2.0, "current")),
        ("mae <= .5", Rule("mae", False, 0.5, None)),
        ("ratings >= 1e6", Rule("ratings", True, 1e6, None)),
        ("rejected <= 0.01", Rule("rejected", False, 0.01, None)),
    ],
)
def test_a_rule_is_read_and_said_again(text, expected):
    rule = parse_rule(text)
    assert rule == expected
    assert parse_rule(str(rule)) == rule


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not a rule; expected a measure"),
        ("ndcg", "is not a rule"),
        ("ndcg > 0.1", "is not a rule"),
        ("ndcg >=", "is not a rule"),
        ("ndcg >= 0.9 popularity", "is not a rule"),
        ("ndcg >= popularity * 0.9", "is not a rule"),
        ("ndcg >= 0.9 * 0.1", "is not a rule"),
        ("ndgc >= 0.1", "unknown measure 'ndgc'; did you mean 'ndcg'"),
        ("ndcg >= mean_and_biases", "ndcg cannot be compared with 'mean_and_biases'; valid: current, popularity"),
        ("rmse <= popularity", "rmse cannot be compared with 'popularity'; valid: current, mean_and_biases"),
        ("users >= popularity", "users cannot be compared with 'popularity'; valid: current"),
        ("rmse >= current", "a lower rmse is better; write <="),
        ("rejected >= 0.5", "a lower rejected is better; write <="),
        ("ndcg <= current", "a higher ndcg is better; write >="),
        ("full_lists <= 0.5", "a higher full_lists is better; write >="),
    ],
)
def test_what_is_no_rule_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_rule(text)


def test_our_own_rules_can_be_said():
    assert [parse_rule(str(rule)) for rule in WARNINGS] == list(WARNINGS)
