"""The pages in a real browser: no errors, no requests, and the charts can be used."""

import json
import shutil

import pytest

from experiments import digits
from jcnn.__main__ import main as jcnn_main
from jcnn.runs import main, read_metrics
from tests.helpers.browser import NAME, Browser

pytestmark = pytest.mark.skipif(NAME is None, reason="there is no chromium")

_INK = """(() => {
  const canvas = document.querySelectorAll('#charts canvas')[%d];
  const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  const colours = new Set();
  for (let i = 0; i < data.data.length; i += 4)
    if (data.data[i + 3] > 200) colours.add(data.data.slice(i, i + 3).join());
  return [...colours];
})()"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The page of one run, and that of two compared."""
    folder = tmp_path_factory.mktemp("runs")
    options = ["--epochs", "3", "--run-dir", str(folder / "0")]
    assert main(digits.Config, digits.recipe, options) == 0
    config = shutil.copytree(folder / "0", folder / "1") / "config.json"
    config.write_text(config.read_text().replace('"seed": 0', '"seed": 1'))
    output = folder / "both.html"
    assert jcnn_main(["report", str(folder), "--output", str(output)]) == 0
    return {"one": folder / "0" / "report.html", "both": output}


@pytest.fixture
def opened(pages, tmp_path):
    browsers = []

    def open_page(name, **how):
        browsers.append(Browser(tmp_path / "profile", **how))
        browsers[0].open(pages[name])
        return browsers[0]

    yield open_page
    for browser in browsers:
        browser.close()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("name", ["one", "both"])
def test_nothing_is_wrong_or_requested_and_all_is_drawn(
    name, width, dark, opened, pages
):
    browser = opened(name, width=width, dark=dark)
    assert browser.named("Runtime.exceptionThrown") == []
    assert browser.named("Runtime.consoleAPICalled") == []
    assert browser.named("Log.entryAdded") == []
    urls = [e["request"]["url"] for e in browser.named("Network.requestWillBeSent")]
    assert urls[0] == pages[name].as_uri()
    assert all(url.startswith("data:") for url in urls[1:])
    assert browser.run("document.querySelectorAll('#charts canvas').length") == 3
    assert len(browser.run(_INK % 0)) > 3  # lines of several colours, and axes
    images = "[...document.images].filter((i) => !i.complete || !i.naturalWidth).length"
    assert browser.run(images) == 0
    # The page itself does not scroll sideways: wide tables do.
    assert browser.run("document.documentElement.scrollWidth") <= width
    light = sum(
        browser.run(
            "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
        )
    )
    assert (light < 200) == dark


def test_pointing_at_a_curve_reads_it(opened, pages):
    browser = opened("one")
    box = browser.run(
        "(({x, y, width, height}) => ({x, y, width, height}))"
        "(document.querySelectorAll('.u-over')[1].getBoundingClientRect())"
    )
    browser.run("document.querySelectorAll('.u-over')[1].scrollIntoView()")
    box |= browser.run(
        "(({x, y}) => ({x, y}))"
        "(document.querySelectorAll('.u-over')[1].getBoundingClientRect())"
    )
    browser.mouse("mouseMoved", box["x"] + box["width"] / 2, box["y"] + 20)
    legend = "document.querySelectorAll('.chart')[1].querySelectorAll('.u-value')"
    browser.wait(f"{legend}[0].textContent === '2'")  # the middle of three epochs
    shown = browser.run(f"[...{legend}].map((cell) => cell.textContent)")
    lines = [m for m in read_metrics(pages["one"].parent) if "epoch_accuracy" in m]
    assert float(shown[1]) == pytest.approx(100 * lines[1]["epoch_accuracy"], abs=0.01)


def test_dragging_zooms_in_and_a_double_click_out(opened):
    browser = opened("one")
    browser.run("document.querySelectorAll('.u-over')[0].scrollIntoView()")
    box = browser.run(
        "(({x, y, width, height}) => ({x, y, width, height}))"
        "(document.querySelectorAll('.u-over')[0].getBoundingClientRect())"
    )
    usual, y = browser.run(_INK % 0 + ".length"), box["y"] + box["height"] / 2
    axis = "document.querySelectorAll('#charts canvas')[0].toDataURL()"
    before = browser.run(axis)
    left, right = box["x"] + 0.1 * box["width"], box["x"] + 0.5 * box["width"]
    press = {"button": "left", "buttons": 1, "clickCount": 1}
    browser.mouse("mouseMoved", left, y)
    browser.mouse("mousePressed", left, y, **press)
    browser.mouse("mouseMoved", right, y, buttons=1)
    browser.mouse("mouseReleased", right, y, **press)
    browser.wait(f"{axis} !== {json.dumps(before)}")
    assert usual > 3
    for count in (1, 2):
        press["clickCount"] = count
        browser.mouse("mousePressed", right, y, **press)
        browser.mouse("mouseReleased", right, y, **press)
    browser.wait(f"{axis} === {json.dumps(before)}")


def test_the_policy_runs_no_other_script(opened, pages, tmp_path):
    evil = (
        "<script>document.title = 'evil'</script><img src=x onerror='document.title=1'>"
    )
    page = tmp_path / "changed.html"
    page.write_text(pages["one"].read_text().replace("</header>", evil + "</header>"))
    browser = Browser(tmp_path / "other")
    try:
        browser.open(page)
        assert browser.run("document.title") == "0"  # the name of the run
        assert browser.named("Log.entryAdded")  # refused
    finally:
        browser.close()
