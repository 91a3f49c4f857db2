"""The report: one file that needs no network, escapes what it shows, and says what the JSON says."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

import toolkit
from toolkit.bundle.bundle import Bundle
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
    assert {op["op_type"] for op in report["estimate"]["operators"]} <= words
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


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium on this machine: apt-get install chromium")
def test_chromium_lays_the_page_out(bundle: Bundle, tmp_path: Path) -> None:
    chromium = [
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path}", "--virtual-time-budget=2000",
    ]  # fmt: skip
    page = (bundle.path / "report.html").resolve().as_uri()
    dom = subprocess.run(
        [*chromium, "--dump-dom", page], capture_output=True, text=True, check=True, timeout=120
    ).stdout
    rows = len(bundle.report["estimate"]["operators"])
    assert dom.count('class="bar"') == rows
    picture = tmp_path / "report.png"
    subprocess.run([*chromium, "--window-size=1100,1600", f"--screenshot={picture}", page], check=True, timeout=120,
                   capture_output=True)  # fmt: skip
    from skimage.io import imread

    pixels = imread(picture)[..., :3].reshape(-1, 3)
    assert len({tuple(p) for p in pixels[::97]}) > 20  # a blank or unstyled page has a handful of colours
