"""Plain data → page, without a JVM."""

import html
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

pytest.importorskip("plotly", reason="the extra report is not installed")

from mfspark.report.collect import Bins
from mfspark.report.figures import _apart, bins_figure
from mfspark.report.page import changes, holdout_table, number, page, tiles, within_script
from tests.report.examples import NASTY, collected, facts, record


class Elements(HTMLParser):
    """Tags, and the text outside of scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text, self.open = [], [], "", ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.open = tag

    def handle_endtag(self, tag):  # noqa: ARG002
        self.open = ""

    def handle_data(self, data):
        if self.open not in ("script", "style"):
            self.text += data


def figures_of(text):
    return json.loads(re.search(r'<script id="figures" type="application/json">(.*?)</script>', text, re.DOTALL)[1])


@pytest.fixture(scope="module")
def text():
    return page(facts(), collected())


def test_page_is_one_file_that_may_load_nothing(text):
    elements = Elements(text)
    assert elements.tags.count("script") == 3
    assert not {"link", "img", "iframe", "a"} & set(elements.tags)
    assert not {"src", "href"} & {name for name, _ in elements.attributes}
    assert "default-src 'none'" in dict(elements.attributes)["content"] or "default-src 'none'" in text


def test_text_from_data_is_text(text):
    elements = Elements(text)
    assert f"User {NASTY}" in elements.text
    assert f"{NASTY} is null" in elements.text
    assert f'"path": "{NASTY}"' in elements.text
    assert f"file:///{NASTY}" in elements.text
    assert NASTY not in text
    shown = json.dumps(figures_of(text))
    assert "&lt;script&gt;" in shown  # in labels, which plotly reads as HTML
    assert "<" not in shown


def test_json_ends_no_script():
    content = {"a": "</script><script>alert(1)</script>", "λ": ["<!--"]}
    assert "<" not in within_script(content)
    assert json.loads(within_script(content)) == content


def test_axis_of_a_histogram_has_room_for_its_labels():
    bins = Bins([f"{2**place} to {2 ** (place + 1) - 1}" for place in range(30)], [1] * 30)
    axis = bins_figure(bins, "ratings of a user", "users").layout.xaxis
    assert (axis.title.text, len(axis.ticktext)) == ("ratings of a user, from", 10)
    assert (axis.tickvals[1], axis.ticktext[1]) == ("8 to 15", "8")


def test_labels_of_the_map_do_not_lie_over_each_other():
    places = np.array([[0.0, 0.0], [0.05, 0.05], [0.05, 1.0], [1.0, 0.0], [0.95, 0.01]])
    assert _apart(places) == {0, 2, 3}


def test_figures_are_of_the_numbers(text):
    figures = figures_of(text)
    assert sorted(figures) == ["by_item", "by_user", "error", "map", "matrix", "objective", "ratings", "seconds"]
    objective, error, penalty = figures["objective"]["data"]
    assert [trace["name"] for trace in (objective, error, penalty)] == ["objective", "squared error", "penalty"]
    assert (objective["x"], objective["y"], error["y"]) == ([1, 2], [120, 70], [100, 50])
    training, holdout = figures["error"]["data"]
    assert (training["y"], holdout["name"], holdout["y"]) == ([1, 0.5], "holdout 0.9000", [0.9, 0.9])
    assert (figures["ratings"]["data"][0]["x"], figures["ratings"]["data"][0]["y"]) == (["1", "2"], [5, 7])
    phases = dict(zip(figures["seconds"]["data"][0]["y"], figures["seconds"]["data"][0]["x"], strict=True))
    assert phases == {
        "ingest": 2, "train: index": 1.5, "train: iterate": 2.5, "train: write": 1, "recommend": 1, "evaluate": 1
    }  # fmt: skip
    ratings, predictions = figures["matrix"]["data"]
    assert (ratings["z"], predictions["z"]) == ([[5, None], [None, 1]], [[4.9, 2], [1, 1.1]])
    notes = figures["matrix"]["layout"]["annotations"]
    assert [(note["y"], note["x"]) for note in notes if note["text"] == "?"] == [(0, 1), (1, 0)]  # places, not ids
    assert figures["map"]["data"][0]["text"][::2] == ["7", html.escape(NASTY, quote=False)]
    assert figures["map"]["data"][0]["marker"]["colorbar"]["ticktext"] == ["1", "10", "100"]


def test_validation_has_its_line_and_its_absence_a_word(text):
    assert "Set split.validation above 0" in text
    training = facts().metrics["training"] | {"iterations": [record(1, 1.25), record(2, 1.125)]}
    with_validation = page(facts(training=training), collected())
    assert "Set split.validation above 0" not in with_validation
    assert figures_of(with_validation)["error"]["data"][1]["y"] == [1.25, 1.125]


def test_implicit_run_without_iterations_and_small_tables_has_a_page():
    training = facts().metrics["training"] | {"iterations": []}
    holdout = {"n_pairs": 0, "n_unknown": 0, "rmse": None, "mae": None}
    tables = replace(collected(), item_map=None, matrix=None, samples=[])
    text = page(facts(training=training, holdout=holdout), tables)
    assert sorted(figures_of(text)) == ["by_item", "by_user", "ratings", "seconds"]
    assert "No iteration was asked for" in text


def test_change_is_that_of_every_number_that_both_runs_have():
    before = facts().metrics | {"holdout": {"rmse": 0.8, "map_at_5": 0.5}, "seconds": {"ingest": 18.0}}
    found = {name: rest for name, *rest in changes(replace(facts(), current=("run-0", before)))}
    assert found["holdout RMSE"] == [0.8, 0.9, "+12.50%"]
    assert found["seconds"] == [18, 9, "-50.00%"]
    assert found["rows rejected"] == [7, 7, "±0"]
    assert "holdout MAP@5" not in found
    assert "holdout MAE" not in found
    assert changes(facts()) == []
    assert "run-0" in page(replace(facts(), current=("run-0", before)), collected())


def test_holdout_is_beside_the_baselines_that_there_are():
    names, rows = holdout_table(facts().metrics)
    assert names == ["this model"]
    assert rows[2] == ["RMSE", 0.9]
    baselines = {"popularity": {"ndcg_at_10": 0.125}, "mean_and_biases": {"rmse": 0.95}}
    names, rows = holdout_table(facts(baselines=baselines).metrics)
    assert names == ["this model", "most popular items", "mean and biases"]
    assert rows[2] == ["RMSE", 0.9, None, 0.95]
    assert rows[-1] == ["NDCG@10", 0.25, 0.125, None]
    assert "mean and biases, holdout 0.9500" in page(facts(baselines=baselines), collected())


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
