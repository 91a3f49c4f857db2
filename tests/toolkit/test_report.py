"""The report: one file that needs no network, escapes what it shows, and says what the JSON says."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import toolkit
from passes.proof import Decision, Drift, Proof
from toolkit.bundle.bundle import Bundle
from toolkit.report.document import accuracy_of
from toolkit.report.html import render


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return toolkit.compile(target="raspberry_pi_4", output=tmp_path_factory.mktemp("report") / "bundle")


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "action", "data")]

    def handle_data(self, data: str) -> None:
        self.words.append(data.strip())


def test_the_page_fetches_nothing(bundle: Bundle) -> None:
    text = (bundle.path / "report.html").read_text()
    page = Page(text)
    assert page.links == []
    assert not {"script", "iframe", "img", "link", "object"} & set(page.tags)
    assert "url(" not in text
    assert "@import" not in text


def test_the_page_shows_every_pass_and_every_operator(bundle: Bundle) -> None:
    words = set(Page((bundle.path / "report.html").read_text()).words)
    report = bundle.report
    for proof in report["proofs"]:
        assert proof["pass"] in words
        assert proof["decision"] in words
    operators = report["estimate"]["operators"]
    assert {op["op_type"] for op in operators} <= words
    assert {"block1.0", "classify"} <= {op["module"] for op in operators if op["module"]} <= words
    assert report["verdict"]["outcome"] in words


def test_text_of_a_model_is_escaped(bundle: Bundle) -> None:
    report = copy.deepcopy(dict(bundle.report))
    bad = "<script>alert(1)</script>"
    report["model"]["name"] = bad
    report["estimate"]["operators"][0].update(name=bad, op_type=bad, source=bad, reason=bad, fused=[bad])
    report["proofs"][0]["reason"] = bad
    report["artifact"]["remaining"] = bad
    text = render(report)
    assert "<script" not in text
    assert text.count("&lt;script&gt;") >= 7


def test_numbers_come_with_interval_and_provenance(bundle: Bundle) -> None:
    report = bundle.report
    assert report["stack"]["provenance"]
    for row in (report["before"], report["after"]):
        for value, spread in (
            ("latency_s", "latency_interval_s"),
            ("memory_bytes", "memory_interval_bytes"),
            ("energy_j", "energy_interval_j"),
        ):
            low, high = row[spread]
            assert low <= row[value] <= high
    json.dumps(report, allow_nan=False)


def test_accuracy_is_told_with_its_interval_and_its_samples(bundle: Bundle) -> None:
    metric = bundle.report["accuracy"]["metric"]
    assert metric == bundle.report["proofs"][-1]["metric"]
    low, high = metric["drop_interval"]
    text = render(bundle.report)
    assert f"{metric['after']:.4f}" in text
    assert f"drop {low:.4f} to {high:.4f} (90 %)" in text
    assert "360 labelled samples" in text


@pytest.mark.parametrize(
    ("accuracy", "said"),
    [
        ({"metric": None, "data": "d.npz"}, "No labels were given: accuracy was not measured."),
        ({"metric": None, "data": "synthetic", "samples": 4}, "says nothing about real inputs"),
        ({"metric": None, "worst_sqnr_db": None, "identical": True}, ">identical<"),
        ({"metric": None, "worst_sqnr_db": None, "identical": False}, ">not finite<"),
        ({"metric": None, "samples": 0}, "nothing is known about the answers"),
    ],
)
def test_without_labels_the_worst_output_speaks_and_the_page_says_so(
    bundle: Bundle, accuracy: dict[str, object], said: str
) -> None:
    report = copy.deepcopy(dict(bundle.report))
    report["accuracy"].update(accuracy)
    assert said in render(report)


def test_a_loss_of_accuracy_is_a_loss(bundle: Bundle) -> None:
    report = copy.deepcopy(dict(bundle.report))
    report["accuracy"]["metric"].update(before=0.9, after=0.875, drop_interval=[0.01, None])
    text = render(report)
    assert '<td class="n change bad">-0.0250</td>' in text
    assert "drop 0.0100 to unknown (90 %)" in text


def test_the_accuracy_is_that_of_the_passes_that_stand() -> None:
    """A pass that was reverted moved nothing."""
    fine, poor = (
        Proof(name=n, settings={}, kind="approximate", decision=Decision.KEPT, data="d", samples=3,
              drift=(Drift(output="y", sqnr_db=db, max_abs_error=0.1),))
        for n, db in (("A", 40.0), ("B", 5.0))
    )  # fmt: skip
    assert accuracy_of([fine, poor])["worst_sqnr_db"] == 5.0
    assert accuracy_of([fine, replace(poor, decision=Decision.REVERTED)])["worst_sqnr_db"] == 40.0
    assert accuracy_of([])["samples"] == 0


def test_a_fallback_is_priced_and_named_with_what_avoids_it(bundle: Bundle) -> None:
    report = copy.deepcopy(dict(bundle.report))
    first, second, third = report["estimate"]["operators"][:3]
    first.update(op_type="HardSwish", latency_s=0.002, reason="HardSwish is not in the operator list of edgetpu")
    for row in (second, third):
        row.update(latency_s=0.001, reason=f"it comes after {first['name']}, which leaves the accelerator")
    report["estimate"]["latency_s"] = 0.008
    text = render(report)
    fallbacks = text.partition('id="fallbacks"')[2].partition("How it was made")[0]
    assert "3 operators run on the host and take 4.00 ms of the latency above, 50 %." in fallbacks
    assert "x * relu6(x + 3) / 6" in fallbacks
    assert fallbacks.index("not in the operator list") < fallbacks.index("it comes after")
    assert fallbacks.count("<li>") == 2
    assert text.count('class="bar away"') == 3


def test_a_limit_is_drawn_where_it_lies(bundle: Bundle) -> None:
    report = copy.deepcopy(dict(bundle.report))
    check = {"quantity": "latency_s", "value": 0.5, "interval": [0.25, 2.0], "limit": 1.0, "outcome": "uncertain"}
    report["verdict"] = {"outcome": "uncertain", "checks": [check]}
    text = render(report)
    reach = 2.0 * 1.06
    assert f'class="band" style="left: {25 / reach:.2f}%; width: {175 / reach:.2f}%"' in text
    assert f'class="at" style="left: {50 / reach:.2f}%"' in text
    assert f'class="limit" style="left: {100 / reach:.2f}%"' in text
    report["verdict"]["checks"] = []
    assert "No limits were set." in render(report)


# ---- in a browser

CHROMIUM = pytest.mark.skipif(
    shutil.which("chromium") is None, reason="no chromium on this machine: apt-get install chromium"
)


def chromium(folder: Path, *arguments: str) -> str:
    command = [
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", f"--user-data-dir={folder / 'profile'}",
        "--virtual-time-budget=2000", *arguments,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


@pytest.mark.slow
@CHROMIUM
def test_chromium_lays_the_page_out(bundle: Bundle, tmp_path: Path) -> None:
    page = (bundle.path / "report.html").resolve().as_uri()
    dom = chromium(tmp_path, "--dump-dom", page)
    drawn = len(bundle.report["estimate"]["operators"]) + min(6, len(bundle.report["layers"]))
    assert dom.count('class="bar"') == drawn
    assert dom.count("<details>") == dom.count("<summary>") == len(bundle.report["proofs"])
    assert dom.count('class="gauge"') == len(bundle.report["verdict"]["checks"])
    picture = tmp_path / "report.png"
    chromium(tmp_path, "--window-size=1100,1600", f"--screenshot={picture}", page)
    from skimage.io import imread

    pixels = imread(picture)[..., :3].reshape(-1, 3)
    assert len({tuple(p) for p in pixels[::97]}) > 20  # a blank or unstyled page has a handful of colours


MEASURE = """<script>
const all = (s) => [...document.querySelectorAll(s)];
document.title = JSON.stringify({
  overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  width: document.documentElement.clientWidth,
  page: getComputedStyle(document.body).backgroundColor,
  heads: all("thead").map((e) => getComputedStyle(e).display),
  bars: all("#operators .bar").map((e) => e.getBoundingClientRect().width),
  folded: all("details").every((e) => !e.open),
});
</script>"""


def measured(bundle: Bundle, folder: Path, *arguments: str) -> dict[str, Any]:
    """What a browser makes of the page: the test's own script writes it into the title."""
    (folder / "page.html").write_text((bundle.path / "report.html").read_text("utf-8") + MEASURE, "utf-8")
    dom = chromium(folder, *arguments, "--dump-dom", (folder / "page.html").resolve().as_uri())
    found: dict[str, Any] = json.loads(unescape(dom.partition("<title>")[2].partition("</title>")[0]))
    return found


@pytest.mark.slow
@CHROMIUM
def test_a_phone_a_desk_and_the_dark(bundle: Bundle, tmp_path: Path) -> None:
    desk = measured(bundle, tmp_path, "--window-size=1000,1200")
    phone = measured(bundle, tmp_path, "--window-size=500,1200")
    dark = measured(bundle, tmp_path, "--blink-settings=preferredColorScheme=0")
    assert desk["overflow"] == phone["overflow"] == 0, "nothing is wider than the screen"
    assert phone["width"] <= 500 < desk["width"]
    assert desk["heads"] == ["table-header-group"] * 2
    assert phone["heads"] == ["none"] * 2, "rows become cards"
    assert desk["bars"] == sorted(desk["bars"], reverse=True)
    assert desk["bars"][0] > 100
    assert desk["folded"]
    assert desk["page"] == "rgb(244, 246, 249)"
    assert dark["page"] == "rgb(17, 21, 27)"


@pytest.mark.slow
@CHROMIUM
def test_it_prints_on_a_few_pages_of_a4(bundle: Bundle, tmp_path: Path) -> None:
    paper = tmp_path / "report.pdf"
    page = (bundle.path / "report.html").resolve().as_uri()
    chromium(tmp_path, f"--print-to-pdf={paper}", "--no-pdf-header-footer", page)
    boxes = re.findall(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", paper.read_bytes())
    assert 2 <= len(boxes) <= 8
    for width, height in boxes:
        assert (float(width), float(height)) == pytest.approx((595.3, 841.9), abs=1)  # 210 x 297 mm in points


def test_the_line_through_the_layers_is_drawn_from_their_figures(bundle: Bundle) -> None:
    layers = bundle.report["layers"]
    page = render(bundle.report)
    assert len(layers) > 5
    assert page.count("<rect ") == len(layers)
    for row in sorted(layers, key=lambda row: -row["share_of_noise"])[:6]:
        assert f"<b>{row['layer']}</b>" in page
    assert sum(row["share_of_noise"] for row in layers) <= 1.001
    assert 'id="layers"' not in render({**bundle.report, "layers": []})
