"""The page in a real browser: it draws every plot, runs no text from data, and asks for nothing."""

import json
import re
import shutil
import subprocess

import pytest

pytest.importorskip("plotly", reason="the extra report is not installed")

from mfspark.report.page import page
from tests.report.examples import LINK, NASTY, collected, facts

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--virtual-time-budget=10000", "--window-size=1280,900", "--dump-dom",
]  # fmt: skip

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on PATH")]

# Put before all of the page: what its policy has refused. At its end: what it has loaded and drawn.
WATCH = """<script>
var refused = [];
addEventListener("securitypolicyviolation", event => refused.push(event.blockedURI));
addEventListener("error", event => refused.push(event.message));
</script>"""
TELL = """<script>
setTimeout(() => {
  const found = {
    refused, loaded: performance.getEntriesByType("resource").map(entry => entry.name), title: document.title,
    plots: [...document.querySelectorAll(".plot")].map(plot => [plot.id, plot.querySelectorAll("svg.main-svg").length]),
    bars: document.querySelectorAll("#plot-ratings .bars .point").length,
    points: document.querySelectorAll("#plot-map .points path").length,
    labels: [...document.querySelectorAll("#plot-map .textpoint")].map(text => text.textContent),
    links: document.querySelectorAll("a").length,
    isWide: document.documentElement.scrollWidth > innerWidth,
  };
  const told = document.createElement("div");
  told.id = "told"; told.textContent = JSON.stringify(found);
  document.body.append(told);
}, 3000);
</script>"""


def told_by(text, folder):
    """What the page says of itself after it was drawn."""
    path = folder / "report.html"
    watched = text.replace("<head>", f"<head>{WATCH}", 1).replace("</body>", f"{TELL}</body>")
    path.write_text(watched, encoding="utf-8")
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder}/profile", path.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    told = re.search(r'<div id="told">(.*?)</div>', dom, re.DOTALL)[1]
    return json.loads(told.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    return told_by(page(facts(), collected()), tmp_path_factory.mktemp("browser"))


def test_every_plot_is_drawn(told):
    assert len(told["plots"]) == 8
    assert all(n_layers >= 1 for _, n_layers in told["plots"]), told["plots"]
    assert (told["bars"], told["points"]) == (2, 3)
    assert not told["isWide"]


def test_nothing_is_asked_for_and_nothing_fails(told):
    assert (told["refused"], told["loaded"]) == ([], [])


def test_text_from_data_is_shown_as_it_is(told):
    assert told["title"] == "run-1 · mfspark"
    assert told["labels"] == ["7", LINK, NASTY]  # the most rated is drawn last
    assert told["links"] == 0


def test_a_page_that_asks_for_something_would_be_noticed(tmp_path):
    text = page(facts(), collected()).replace("<main>", '<main><img src="http://127.0.0.1:9/x.png">')
    assert told_by(text, tmp_path)["refused"] == ["http://127.0.0.1:9/x.png"]
