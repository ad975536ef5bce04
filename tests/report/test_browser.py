"""The page in a real browser: it fits a wide and a narrow screen, breaks no word, loads and runs nothing."""

import json
import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("jinja2", reason="the extra report is not installed")

from mfspark.report.collect import ItemMap, SampleUser, ScoredItem
from mfspark.report.page import page
from tests.report.examples import LINK, NASTY, collected, facts

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--virtual-time-budget=10000", "--window-size=1280,900", "--dump-dom",
]  # fmt: skip

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on PATH")]

# A window of Chromium is at least 500 px wide, so the page is in a frame. The page may run no script; the document
# around it asks.
FRAME = """<!DOCTYPE html>
<html><body style="margin: 0"><iframe id="page" style="border: 0; width: {width}px; height: 900px"></iframe>
<script>
const frame = document.getElementById("page");
frame.addEventListener("load", () => {{
  const page = frame.contentDocument, all = selector => [...page.querySelectorAll(selector)];
  const isBroken = (text, word) => {{
    const range = page.createRange();
    range.setStart(text, word.index);
    range.setEnd(text, word.index + word[0].length);
    return new Set([...range.getClientRects()].map(box => Math.round(box.top))).size > 1;
  }};
  const broken = all("th, td, .tile *, .key").flatMap(cell => [...cell.childNodes].filter(node => node.nodeType === 3))
    .flatMap(text => [...text.data.matchAll(/[^\\s-]+/g)].filter(word => isBroken(text, word)).map(word => word[0]));
  const right = element => element.getBoundingClientRect().right;
  const found = {{
    isWide: page.documentElement.scrollWidth > {width}, broken,
    beyond: all(".card, .plot, .plot text, .plot circle, .plot rect, table")
      .filter(element => !element.closest(".scroll") && right(element) > {width}).length,
    cut: all(".tile b").filter(number => number.scrollWidth > number.clientWidth).length,
    scrolling: all(".scroll").filter(box => box.scrollWidth > box.clientWidth).length,
    sizes: [...new Set(all(".plot text").map(text => getComputedStyle(text).fontSize))],
    charts: all(".plot").map(plot => [plot.closest(".card").id, plot.getBoundingClientRect().width > 250]),
    bars: all("#chart-ratings rect").map(bar => Math.round(bar.getBoundingClientRect().height)),
    points: all("#chart-map circle").length,
    labels: all("#chart-map text").map(text => text.textContent),
    title: page.title, links: all("a").length,
    loaded: frame.contentWindow.performance.getEntriesByType("resource").map(entry => entry.name),
  }};
  const told = document.createElement("div");
  told.id = "told"; told.textContent = JSON.stringify(found);
  document.body.append(told);
}});
frame.srcdoc = {text};
</script></body></html>"""


def told_by(text, folder, width=1280):
    """What the page looks like, asked from around it."""
    path = folder / f"frame{width}.html"
    path.write_text(FRAME.format(width=width, text=json.dumps(text).replace("<", "\\u003c")), encoding="utf-8")
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder}/profile", path.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    told = re.search(r'<div id="told">(.*?)</div>', dom, re.DOTALL)[1]
    return json.loads(told.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))


def long_page():
    """A page with much text: long names, a baseline for each metric, a current run, rules that failed."""
    names = [f"Monty Python and the Holy Grail, part {number} (1974)" for number in range(40)]
    scored = [ScoredItem(name, 4.5) for name in names[:5]]
    places = [[float(7 * place % 40), float(11 * place % 40)] for place in range(40)]
    tables = replace(
        collected(),
        samples=[SampleUser("5f2b" * 12, 1234567, scored, scored)] * 2,
        item_map=ItemMap(names, list(range(40, 0, -1)), np.array(places), (0.5, 0.25)),
    )
    baselines = {"popularity": {"ndcg_at_10": 0.15, "coverage_at_10": 0.01}, "mean_and_biases": {"rmse": 0.95}}
    gates = [{"rule": "ndcg >= popularity", "holds": True, "passed": False, "message": "ndcg@10 0.025 is below 0.150"}]
    run = facts(baselines=baselines, gates=gates, lists={"full": 123456789, "short": 12345, "fallback": 1, "empty": 2})
    before = run.metrics | {"rows": run.metrics["rows"] | {"read": 1}}
    return page(replace(run, current=("2026-11-26T03-00-00", before)), tables)


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    return told_by(page(facts(), collected()), tmp_path_factory.mktemp("browser"))


@pytest.mark.parametrize("width", [400, 1280])
def test_page_fits_the_screen_and_breaks_no_word(tmp_path, width):
    told = told_by(long_page(), tmp_path, width)
    assert not told["isWide"]
    assert told["beyond"] == 0
    assert told["broken"] == []
    assert told["cut"] == 0
    assert told["sizes"] == ["12px"]
    assert [name for name, is_wide in told["charts"] if is_wide] == [
        "chart-objective", "chart-error", "chart-ratings", "chart-by_user", "chart-by_item", "chart-map",
    ]  # fmt: skip
    assert told["scrolling"] > 0  # the long id in a cell: in its own box


def test_a_page_that_is_too_wide_or_breaks_words_would_be_noticed(tmp_path):
    text = long_page().replace("</style>", "td { word-break: break-all; } .card { min-width: 500px; }</style>")
    told = told_by(text, tmp_path, 400)
    assert told["isWide"]
    assert told["beyond"] > 0
    assert told["broken"]


def test_every_mark_is_drawn(told):
    low, high = told["bars"]
    assert (low, high) == (150, 210)  # 5 and 7 of 8, of 240 px
    assert told["points"] == 3


def test_nothing_is_loaded(told):
    assert told["loaded"] == []


def test_text_from_data_is_shown_as_it_is(told):
    assert told["title"] == "run-1 · mfspark"
    shortened = [name if len(name) <= 24 else f"{name[:23]}…" for name in (NASTY, LINK, "7")]
    assert sorted(told["labels"]) == sorted(shortened)
    assert told["links"] == 0


def test_policy_lets_no_script_run_and_a_page_that_asks_for_something_would_be_noticed(tmp_path):
    added = "<main><script>document.title = 'taken'</script><img src='http://127.0.0.1:9/x.png'>"
    told = told_by(page(facts(), collected()).replace("<main>", added), tmp_path)
    assert (told["title"], told["loaded"]) == ("run-1 · mfspark", ["http://127.0.0.1:9/x.png"])
    free = page(facts(), collected()).replace("<main>", added).replace("default-src 'none'", "default-src *")
    assert told_by(free.replace("style-src", "script-src 'unsafe-inline'; style-src"), tmp_path)["title"] == "taken"
