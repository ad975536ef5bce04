"""Numbers of a run → text and rows."""

from dataclasses import replace

import pytest

from mfspark.report.facts import change, changes, holdout_table, number, percent, short_number, tiles
from tests.report.examples import facts


def test_change_is_that_of_every_number_that_both_runs_have():
    before = facts().metrics | {"holdout": {"rmse": 0.8, "map_at_5": 0.5}, "seconds": {"ingest": 18.0}}
    found = {name: rest for name, *rest in changes(replace(facts(), current=("run-0", before)))}
    assert found["holdout RMSE"] == [0.8, 0.9, "+12 %"]
    assert found["seconds"] == [18, 9, "−50 %"]
    assert found["rows rejected"] == [7, 7, "±0"]
    assert "holdout MAP@5" not in found
    assert "holdout MAE" not in found
    assert changes(facts()) == []


def test_holdout_is_beside_the_baselines_that_there_are():
    names, rows = holdout_table(facts().metrics)
    assert names == ["this model"]
    assert rows[2] == ["RMSE", 0.9]
    baselines = {"popularity": {"ndcg_at_10": 0.125}, "mean_and_biases": {"rmse": 0.95}}
    names, rows = holdout_table(facts(baselines=baselines).metrics)
    assert names == ["this model", "most popular items", "mean and biases"]
    assert rows[2] == ["RMSE", 0.9, None, 0.95]
    assert rows[-1] == ["NDCG@10", 0.25, 0.125, None]


def test_tiles_say_the_first_things():
    assert [(name, value) for name, value, _ in tiles(facts().metrics)] == [
        ("ratings", "12,000"), ("rejected", "7"), ("users", "3"), ("iterations", "2"),
        ("training RMSE", "0.5000"), ("holdout RMSE", "0.9000"), ("NDCG@10", "0.2500"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "–"), (0, "0"), (1234567, "1,234,567"), (0.12345, "0.1235"), (1.00043, "1.0004"), (859.7, "859.70"),
     (1234.5, "1,234"), (123456.7, "123,457"), (0.0, "0.0000")],
)  # fmt: skip
def test_numbers_are_to_be_read(value, shown):
    assert number(value) == shown


@pytest.mark.parametrize(
    ("before", "now", "shown"),
    [(4.0, 4.0, "±0"), (0.8, 0.9, "+12 %"), (943, 250, "−73 %"), (943, 1, "−99.9 %"), (1000, 1004, "+0.40 %"),
     (1.0, 1.00001, "≈ 0"), (1, 11, "+1,000 %"), (1, 95001, "× 95,001"), (1e-9, 0.3, ""), (-1.0, 20.0, ""),
     (0, 7, "+7"), (0.0, -0.25, "−0.2500"), (float("inf"), 1.0, ""), (2, 0, "−100 %")],
)  # fmt: skip
def test_change_is_said_so_that_it_can_be_read(before, now, shown):
    assert change(before, now) == shown


@pytest.mark.parametrize(
    ("share", "shown"), [(0.21, "21 %"), (-0.0107, "1.1 %"), (0.0025, "0.25 %"), (12.3, "1,230 %")]
)
def test_percent_has_two_digits(share, shown):
    assert percent(share) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(0, "0"), (0.75, "0.75"), (950, "950"), (27145, "27.1k"), (2097152, "2.1M"), (3e9, "3B")]
)
def test_axis_has_short_numbers(value, shown):
    assert short_number(value) == shown


def test_users_are_told_by_their_kind_of_list():
    lists = {"full": 5, "short": 1, "fallback": 0, "empty": 2}
    assert ("full lists", "5", "of 8 users; 1 short, 2 empty") in tiles(facts(lists=lists).metrics)
    assert ("full lists", "8", "of 8 users") in tiles(facts(lists={"full": 8, "short": 0}).metrics)
    before = facts().metrics | {"lists": {"full": 8, "short": 0, "fallback": 0, "empty": 0}}
    found = {name: rest for name, *rest in changes(replace(facts(lists=lists), current=("run-0", before)))}
    assert found["lists: empty"] == [0, 2, "+2"]
