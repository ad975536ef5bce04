"""Plain data → page, without a JVM."""

from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

pytest.importorskip("jinja2", reason="the extra report is not installed")

from mfspark.report.collect import Bins, ItemMap, ScoredItem
from mfspark.report.figures import apart, bar_chart, error_chart, heat_steps, map_chart, nice_ticks
from mfspark.report.page import page
from tests.report.examples import LINK, NASTY, collected, facts, record


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
            self.text += f"{data} "


def tips_of(text, chart):
    """What the marks of a chart show under the pointer."""
    part = text.partition(f'id="chart-{chart}"')[2].partition("</svg>\n<p")[0]
    return Tips(part).tips


class Tips(HTMLParser):
    """Texts of the elements title."""

    def __init__(self, text):
        super().__init__()
        self.tips, self.is_open = [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):  # noqa: ARG002
        self.is_open = tag == "title"

    def handle_endtag(self, tag):  # noqa: ARG002
        self.is_open = False

    def handle_data(self, data):
        if self.is_open:
            self.tips.append(data)


@pytest.fixture(scope="module")
def text():
    return page(facts(), collected())


def test_page_is_one_file_that_may_load_and_run_nothing(text):
    elements = Elements(text)
    assert not {"script", "link", "img", "iframe", "a"} & set(elements.tags)
    assert not {"src", "href"} & {name for name, _ in elements.attributes}
    (policy,) = (value for name, value in elements.attributes if value and "default-src" in value)
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


def test_page_of_the_largest_map_and_many_iterations_is_below_a_megabyte():
    rng = np.random.default_rng(0)
    names = [f"{item} {'long name ' * 5}" for item in range(1000)]
    large = ItemMap(names, list(range(1000, 0, -1)), rng.standard_normal((1000, 2)), (0.5, 0.25))
    training = facts().metrics["training"] | {"iterations": [record(place, 1.0) for place in range(1, 1001)]}
    text = page(facts(training=training), replace(collected(), item_map=large))
    assert len(text.encode()) < 1_000_000
    assert len(tips_of(text, "map")) == 1000


def test_text_from_data_is_text(text):
    elements = Elements(text)
    assert f"User {NASTY}" in elements.text
    assert f"{NASTY} is null" in elements.text
    assert f'"path": "{NASTY}"' in elements.text
    assert f"file:///{NASTY}" in elements.text
    assert NASTY not in text
    assert LINK not in text
    assert tips_of(text, "map") == ["7: 1 ratings", f"{LINK}: 10 ratings", f"{NASTY}: 100 ratings"]


def test_page_names_the_version_of_a_table_that_has_versions(text):
    assert "snapshot-7" not in text
    run = facts()
    run.manifest["input_version"] = {"format": "iceberg", "table": None, "number": "snapshot-7"}
    assert '"number": "snapshot-7"' in Elements(page(run, collected())).text


def test_axis_of_a_histogram_has_room_for_its_labels():
    bins = Bins([f"{2**place:,} to {2 ** (place + 1) - 1:,}" for place in range(30)], [1] * 30)
    chart = bar_chart(bins, "ratings of a user", "users")
    assert chart.x_title == "ratings of a user, from"
    assert [tick.label for tick in chart.x_ticks] == [
        "1",
        "8",
        "64",
        "512",
        "4,096",
        "32.8k",
        "262k",
        "2.1M",
        "16.8M",
        "134M",
    ]
    assert [tick.is_minor for tick in chart.x_ticks] == [False, True] * 5


def test_bars_are_as_high_as_their_counts():
    chart = bar_chart(Bins(["1", "2", "3"], [5, 20, 0]), "rating", "ratings")
    assert [(tick.at, tick.label) for tick in chart.y_ticks] == [
        (100, "0"),
        (75, "5"),
        (50, "10"),
        (25, "15"),
        (0, "20"),
    ]
    assert [(bar.height, bar.tip) for bar in chart.bars] == [
        (25, "1: 5 ratings"),
        (100, "2: 20 ratings"),
        (0, "3: 0 ratings"),
    ]
    assert bar_chart(Bins([], []), "rating", "ratings").bars == []


@pytest.mark.parametrize(
    ("low", "high", "whole", "ticks"),
    [(0, 120, False, [0, 50, 100, 150]), (0.61, 0.93, False, [0.6, 0.7, 0.8, 0.9, 1.0]), (0, 2, True, [0, 1, 2]),
     (0.9, 0.9 + 1e-12, False, [0.5, 1.0]), (0, 0, True, [0, 1]), (0, 4e9, False, [0, 1e9, 2e9, 3e9, 4e9])],
)  # fmt: skip
def test_ticks_are_round_numbers_around_the_values(low, high, whole, ticks):
    assert nice_ticks(low, high, whole=whole) == ticks


def test_labels_of_the_map_do_not_lie_over_each_other_and_stay_on_it():
    places = np.array([[10.0, 10.0], [11.0, 12.0], [11.0, 90.0], [90.0, 10.0], [45.0, 50.0], [0.0, 30.0]])
    names = ["ten lettrs"] * 5 + ["a name too long for a narrow screen, by far"]
    assert apart(places, names, 1.0, []) == [0, 2, 3, 4, 5]
    assert apart(places, names, 6.0, []) == [0, 2]  # there a label has 69 % of the width
    assert apart(places, names, 1.0, [1]) == [1, 2, 3, 4, 5]


def test_points_of_the_map_have_their_place_color_and_name():
    items = ItemMap(["a", "b", "c"], [100, 10, 1], np.array([[1.0, 0.5], [-1.0, 0.25], [0.0, -0.5]]), (0.75, 0.25))
    chart = map_chart(items)
    assert [(point.x, point.y, point.step) for point in chart.points] == [(50, 97, 0), (3, 26.5, 2), (97, 3, 4)]
    assert chart.legend == [(0, "1"), (2, "10"), (4, "100")]
    assert {label.text for label in chart.labels} == {"a", "b", "c"}
    assert map_chart(items._replace(n_ratings=[4, 4, 4])).legend == []


def test_lines_are_of_the_numbers(text):
    assert tips_of(text, "objective") == [
        "objective, iteration 1: 120.00", "objective, iteration 2: 70.00", "squared error, iteration 1: 100.00",
        "squared error, iteration 2: 50.00", "penalty, iteration 1: 20.00", "penalty, iteration 2: 20.00",
    ]  # fmt: skip
    chart = error_chart([record(1), record(2)], {"holdout": 0.9, "none": None})
    assert [tick.label for tick in chart.y_ticks] == ["0.4", "0.6", "0.8", "1"]
    training, holdout = chart.lines
    assert (training.name, training.points) == ("training", "0,0 100,83.333")
    assert (holdout.name, holdout.points, holdout.is_level) == ("holdout 0.9000", "0,16.667 100,16.667", True)


def test_a_long_training_has_few_marks_and_the_last_one():
    lines = error_chart([record(place) for place in range(1, 951)], {}).lines
    assert len(lines[0].marks) == 95
    assert lines[0].marks[-1].tip.startswith("training, iteration 950:")
    assert len(lines[0].points.split()) == 950


def test_seconds_of_phases_are_beside_each_other(text):
    said = " ".join(Elements(text).text.split())
    assert "ingest 2.0 train: index 1.5 train: iterate 2.5 train: write 1.0 recommend 1.0 evaluate 1.0" in said


def test_small_matrix_is_beside_its_predictions(text):
    said = " ".join(Elements(text).text.split())
    assert f"{NASTY} 5 ? 2 ? 1" in said
    assert f"{NASTY} 4.90 2.00 2 1.00 1.10" in said
    assert heat_steps([[1.0, None, 3.0], [4.9, 5.0, 2.0]], (1.0, 5.0)) == [[0, None, 2], [4, 4, 1]]
    assert heat_steps([[1.0]], (1.0, 1.0)) == [[0]]


def test_validation_has_its_line_and_its_absence_a_word(text):
    assert "set split.validation above 0" in text
    training = facts().metrics["training"] | {"iterations": [record(1, 1.25), record(2, 1.125)]}
    with_validation = page(facts(training=training), collected())
    assert "set split.validation above 0" not in with_validation
    assert "validation, iteration 2: 1.1250" in tips_of(with_validation, "error")


def test_implicit_run_without_iterations_and_small_tables_has_a_page():
    training = facts().metrics["training"] | {"iterations": []}
    holdout = {"n_pairs": 0, "n_unknown": 0, "rmse": None, "mae": None}
    tables = replace(collected(), item_map=None, matrix=None, samples=[])
    text = page(facts(training=training, holdout=holdout), tables)
    charts = [name for name in ("objective", "error", "map", "ratings") if f'id="chart-{name}"' in text]
    assert charts == ["ratings"]
    assert "Training did no iteration" in text


def test_first_words_are_the_verdict(text):
    said = " ".join(Elements(text).text.split())
    assert "Run run-1 published Published." in said
    assert "NDCG@10 0.250. RMSE 0.900. This is the first run" in said
    gates = [
        {"rule": "users >= 0.9 * current", "holds": True, "passed": False, "message": f"250 users, {NASTY}"},
        {"rule": "ndcg >= popularity", "holds": False, "passed": None, "message": "no popularity"},
    ]
    held = page(facts(gates=gates), collected())
    said = " ".join(Elements(held).text.split())
    assert "held, not published" in said
    assert "Held by users >= 0.9 * current : 250 users, <script>" in said
    assert "Warning ndcg >= popularity : no popularity" in said
    assert '<header class="held">' in held
    assert '<header class="good">' not in held


def test_a_popular_item_in_a_list_has_no_score():
    (sample,) = collected().samples
    popular = sample._replace(recommended=[ScoredItem("Alien", 4.5), ScoredItem("Brazil", None)])
    said = Elements(page(facts(), replace(collected(), samples=[popular]))).text
    assert "Alien 4.50 Brazil popular" in " ".join(said.split())
