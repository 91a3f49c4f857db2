"""The page of an atlas, in a browser: what it chooses is what Python chooses, by mouse, by keys, from a link."""

from __future__ import annotations

import copy
import json
import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise
from urllib.parse import quote, urlencode

import numpy as np
import pytest

from targets.target import load_target
from tests.toolkit.search.atlases import HOSTILE, document, write
from tests.toolkit.search.browsing import Browser
from toolkit import units
from toolkit.search.atlas.page import render, write_page
from toolkit.search.atlas.points import Atlas, read_atlas
from toolkit.search.atlas.selecting import LIMITS, Selection, device_limits, judge_point, select

NONE = "none"


def atlas_of(content) -> Atlas:
    return Atlas.model_validate_json(json.dumps(content))


# ---- as text


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.links = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "action", "data")]


def test_it_is_one_file_that_fetches_nothing_and_weighs_little():
    text = render(atlas_of(document(1)), "a")
    page = Page(text)
    assert page.links == []
    assert not {"iframe", "img", "link", "object", "style link"} & set(page.tags)
    assert "url(" not in text
    assert "@import" not in text
    assert not re.search(r"\b(fetch|XMLHttpRequest|import|eval|innerHTML|outerHTML|document\.write)\b\s*[(=]", text)
    empty = len(render(atlas_of(document(0)), "a").encode())
    assert empty < 60_000


def test_equal_atlases_are_equal_pages(tmp_path):
    content = document(5)
    first = write_page(write(tmp_path / "a", content)).read_bytes()
    content["points"].reverse()
    assert write_page(write(tmp_path / "a", content)).read_bytes() == first
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["atlas.html", "atlas.json"]


def hostile_document():
    content = document(6, targets=("raspberry_pi_4", "mine"))
    content["model"].update(name=HOSTILE, source="x; touch broken " + "'\"", digest=HOSTILE)
    content["metric"] = HOSTILE
    for p in content["points"]:
        p.update(provenance=HOSTILE, config={HOSTILE: HOSTILE})
        p["recipe"] = {"recipe": HOSTILE, "passes": [{"pass": HOSTILE, HOSTILE: HOSTILE}]}
        p["stack"] = "s</script>"
        if p["target"] == "mine":
            p["target"] = "mine</script><b>&"
    return content


def test_no_name_ends_the_script_or_begins_another():
    plain, hostile = Page(render(atlas_of(document(1)), "a")), Page(render(atlas_of(hostile_document()), HOSTILE))
    assert hostile.tags == plain.tags


# ---- contrast, of the colours as they are written


def luminance(colour):
    """Source: WCAG 2.2, relative luminance."""
    share = np.array([int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)])
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]


def contrast(one, other):
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def palettes():
    text = render(atlas_of(document(1)), "a")
    found = [
        dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", block)) for block in re.findall(r":root \{(.*?)\}", text, re.S)
    ]
    assert len(found) == 2
    return found


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_every_text_can_be_read_and_every_mark_be_seen(scheme):
    colours = palettes()[scheme]
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    for text in ("ink", "soft", "fits", "open", "bad"):
        for ground in ("card", "back", "hover"):
            assert contrast(colours[text], colours[ground]) >= 4.5, f"{text} on {ground}"
    assert contrast(colours["card"], colours["ink"]) >= 4.5  # the tip is the page inverted
    for mark in ("fits", "open", "ink"):  # WCAG asks 3 of graphics
        assert contrast(colours[mark], colours["card"]) >= 3
    ramp = [contrast(colours[f"q{k}"], colours["card"]) for k in range(6)]
    assert ramp == sorted(ramp), "by lightness alone, so that no hue has to be told apart"
    assert all(b / a > 1.2 for a, b in pairwise(ramp))


# ---- in a browser

CHROMIUM = pytest.mark.skipif(
    shutil.which("chromium") is None, reason="no chromium on this machine: apt-get install chromium"
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    found = Browser(tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = write(tmp_path_factory.mktemp("atlases") / "the atlas", document(60))
    write_page(folder)
    return folder


def address(folder, **state):
    return (folder / "atlas.html").resolve().as_uri() + "#" + urlencode(state)


FOUND = """(() => {
  const found = selection(), id = (p) => p && p.id;
  return { remaining: found.remaining.map(id), best: id(found.best), ties: found.ties.map(id),
           nearest: found.best ? null : id(found.nearest), bolder: id(found.bolder), fitting: found.fitting.length,
           rows: [...document.querySelectorAll("#list tbody button")].map((b) => b.dataset.id) };
})()"""

FOCUSED = """(() => {
  const e = document.activeElement;
  if (!e || e === document.body) return null;
  const where = e.closest("figure, section, form, fieldset");
  return { id: e.id || e.dataset.id || `${where && where.id}/${e.tagName}`,
           name: e.getAttribute("aria-label") || (e.labels && e.labels[0] && e.labels[0].textContent) || e.textContent,
           outline: getComputedStyle(e.closest("#targets label") ?? e).outlineStyle };
})()"""

PLACE_OF_THE_FASTEST = """(() => {
  const p = frontOf(here())[0], [x, y] = plots[0].place(p), box = plots[0].box.getBoundingClientRect();
  return [box.left + MARGIN.left + x, box.top + MARGIN.top + y, p.id];
})()"""


def in_python(atlas, target, limits, strict=False):
    points = [p for p in atlas.points if p.target == target]
    found = select(points, limits, strict=strict)
    outcomes = {p.id: {c.outcome for c in judge_point(p, limits)} for p in points}
    remaining = {i for i, o in outcomes.items() if "does not fit" not in o and not (strict and "uncertain" in o)}
    chosen = isinstance(found, Selection)
    return {
        "remaining": remaining,
        "best": found.point.id if chosen else None,
        "nearest": None if chosen else found.point.id,
        "ties": [p.id for p in found.ties] if chosen else [],
        "bolder": found.bolder.id if chosen and found.bolder else None,
        "fitting": found.fitting if chosen else 0,
    }


def agree(browser, atlas, target, limits, strict=False):
    said, wanted = browser.evaluate(FOUND), in_python(atlas, target, limits, strict)
    assert set(said["rows"]) <= wanted["remaining"]
    assert len(said.pop("rows")) == min(25, len(wanted["remaining"]))
    assert {**said, "remaining": set(said["remaining"])} == wanted


def some_limits(atlas, rng):
    """As many that cut as that leave, at values between points and exactly on their ends."""
    limits = {}
    for name, measure in LIMITS.items():
        p = atlas.points[rng.integers(len(atlas.points))]
        kind = rng.random()
        if kind < 0.5:
            limits[name] = (
                p.interval(measure)[int(rng.integers(2))] if kind < 0.2 else p.value(measure) * rng.uniform(0.9, 1.1)
            )
    return limits


@pytest.mark.slow
@CHROMIUM
def test_a_link_chooses_what_python_chooses(browser, folder):
    atlas, rng, empty = read_atlas(folder), np.random.default_rng(0), 0
    browser.open(address(folder))
    for k in range(40):
        target, limits, strict = atlas.targets[k % 2], some_limits(atlas, rng), bool(k % 3 == 0)
        state = {name: repr(float(limits[name])) if name in limits else NONE for name in LIMITS}
        fragment = "#" + urlencode({"target": target, **state, "strict": int(strict)})
        browser.evaluate(f"location.hash = {json.dumps(fragment)}; 0")
        browser.settle()
        agree(browser, atlas, target, limits, strict)
        empty += in_python(atlas, target, limits, strict)["best"] is None
    assert 3 <= empty <= 37, "both what fits and the nearest miss were compared"
    assert browser.troubles() == []


@pytest.mark.slow
@CHROMIUM
def test_without_a_word_the_limits_are_the_devices(browser, folder):
    atlas = read_atlas(folder)
    browser.open(address(folder, target="jetson_nano"))
    assert device_limits("jetson_nano")["latency_s"] == load_target("jetson_nano").latency_target_s
    agree(browser, atlas, "jetson_nano", device_limits("jetson_nano"))


@pytest.mark.slow
@CHROMIUM
def test_a_slider_moves_by_keys_and_the_link_keeps_it(browser, folder):
    atlas = read_atlas(folder)
    browser.open(address(folder, target="raspberry_pi_4", latency_s=NONE, memory_bytes=NONE))
    browser.evaluate("document.getElementById('latency_s').focus()")
    browser.press("ArrowLeft", 90)
    limit = browser.evaluate("state.limits.raspberry_pi_4.latency_s")
    assert limit == float(f"{limit:.3g}"), "round, so that the command says the same"
    agree(browser, atlas, "raspberry_pi_4", {"latency_s": limit})
    assert browser.evaluate("document.getElementById('latency_s').getAttribute('aria-valuetext')") == (
        f"at most {units.seconds(limit)}"
    )
    browser.evaluate("new Promise((done) => setTimeout(done, 250))")
    link, chosen = browser.evaluate("location.href"), browser.evaluate(FOUND)
    command = browser.evaluate("document.getElementById('by-limits').textContent")
    given = re.search(r"--max-latency (\S+)", command)[1]
    assert units.parse_quantity("latency_s", given) == pytest.approx(limit, rel=1e-12)
    browser.open(link)
    assert browser.evaluate(FOUND) == chosen
    browser.evaluate("document.getElementById('latency_s').focus()")
    browser.press("End")
    assert browser.evaluate("state.limits.raspberry_pi_4.latency_s") is None
    agree(browser, atlas, "raspberry_pi_4", {})


@pytest.mark.slow
@CHROMIUM
def test_what_a_constant_answer_gets_stands_where_the_limit_is(browser, tmp_path):
    content = document(12, seed=3)
    rising = sorted(p["quality"] for p in content["points"])
    content["quality_floor"] = floor = rising[len(rising) // 2]
    folder = write(tmp_path / "floor", content)
    write_page(folder)
    browser.open(address(folder, target="raspberry_pi_4"))
    said = browser.evaluate(
        "document.getElementById(document.getElementById('quality').getAttribute('aria-describedby')).textContent"
    )
    assert said == f"a constant answer: {floor:.3f}"
    assert browser.evaluate("document.querySelector('#slider-quality .floor').getAttribute('d')").startswith("M")
    front = browser.evaluate("frontOf(here()).map((p) => p.id)")
    above = {p["id"] for p in content["points"] if p["quality"] > floor}
    assert front
    assert set(front) <= above
    below = next(p["id"] for p in content["points"] if p["id"] not in above and p["target"] == "raspberry_pi_4")
    browser.open(address(folder, target="raspberry_pi_4", point=below))
    assert "no better than one constant answer" in browser.evaluate("document.getElementById('provenance').textContent")
    assert browser.troubles() == []


@pytest.mark.slow
@CHROMIUM
def test_a_limit_can_be_typed(browser, folder):
    atlas = read_atlas(folder)
    browser.open(address(folder, target="raspberry_pi_4", memory_bytes=NONE))
    typed = "((text) => { const box = document.getElementById('text-latency_s'); box.value = text;" \
            " box.dispatchEvent(new Event('change')); return box.getAttribute('aria-invalid'); })"  # fmt: skip
    for text in ("2.5ms", "2500 us", "0.0025 s"):
        assert browser.evaluate(f"{typed}({json.dumps(text)})") == "false"
        browser.settle()
        agree(browser, atlas, "raspberry_pi_4", {"latency_s": units.parse_quantity("latency_s", text)})
    for text in ("2.5", "-1ms", "2.5MB", "much"):
        assert browser.evaluate(f"{typed}({json.dumps(text)})") == "true"
    agree(browser, atlas, "raspberry_pi_4", {"latency_s": 0.0025})


@pytest.mark.slow
@CHROMIUM
def test_everything_is_reached_with_tab_and_has_a_name(browser, folder):
    browser.open(address(folder))
    reached = []
    for _ in range(90):
        browser.press("Tab")
        found = browser.evaluate(FOCUSED)
        if found is None:
            break
        reached.append(found)
        assert found["name"].strip(), found
        assert found["outline"] == "solid", found
    ids = [r["id"] for r in reached]
    assert {*LIMITS, "strict", "reset", "x", "y", "front/DIV", "map/DIV"} <= set(ids)
    rows = browser.evaluate(FOUND)["rows"]
    assert set(rows) <= set(ids)


@pytest.mark.slow
@CHROMIUM
def test_points_are_walked_by_keys_and_told(browser, folder):
    browser.open(address(folder, target="raspberry_pi_4"))
    browser.evaluate("document.querySelector('#front .plot').focus()")
    told = []
    browser.press("Home")
    for _ in range(5):
        told.append(browser.evaluate("[current(selection()).v[0], document.getElementById('said').textContent]"))
        browser.press("ArrowRight")
    latencies = [latency for latency, _ in told]
    fastest = sorted(p.value("latency_s") for p in read_atlas(folder).points if p.target == "raspberry_pi_4")
    assert latencies == fastest[:5]
    assert all(f"latency {units.seconds(latency)}" in text for latency, text in told)
    browser.press("Escape")
    assert browser.evaluate("state.point") is None


@pytest.mark.slow
@CHROMIUM
def test_a_chosen_point_shows_its_recipe_its_numbers_and_its_command(browser, folder):
    atlas = read_atlas(folder)
    p = next(p for p in atlas.points if p.target == "jetson_nano" and p.held_out)
    browser.open(address(folder, target="jetson_nano", point=p.id))
    text = browser.evaluate("document.getElementById('chosen').innerText")
    assert f"toolkit compile digits --from 'the atlas' --target jetson_nano --point {p.id}" in " ".join(text.split())
    low, high = (units.seconds(v) for v in p.interval("latency_s"))
    ratio = f"ratio {p.recipe['passes'][0]['ratio']:.6g}"
    told = ["PruneChannels", ratio, "latency: made up", f"on {p.held_out.n} samples that the search never saw"]
    for said in (units.seconds(p.value("latency_s")), f"{low} – {high}", *told):
        assert said in text


@pytest.mark.slow
@CHROMIUM
def test_a_click_chooses_the_mark_under_it(browser, folder):
    browser.open(address(folder, target="raspberry_pi_4"))
    x, y, wanted = browser.evaluate(PLACE_OF_THE_FASTEST)
    browser.click(x, y)
    assert browser.evaluate("state.point") == wanted


@pytest.mark.slow
@CHROMIUM
def test_numbers_are_written_as_the_command_line_writes_them(browser, folder):
    browser.open(address(folder))
    rng = np.random.default_rng(1)
    values = [float(v) for v in 10 ** rng.uniform(-8, 2.9, 400)] + [0.0, 0.9995, 0.99949, 1.0, 20e-3, 999.4, 9.996e-3]
    shown = browser.evaluate(f"{json.dumps(values)}.map((v) => show(0, v))")
    assert shown == [units.seconds(v) for v in values]


@pytest.mark.slow
@CHROMIUM
def test_hostile_names_stay_text(browser, tmp_path):
    folder = write(tmp_path / "a", hostile_document())
    write_page(folder)
    for target in ("raspberry_pi_4", "mine</script><b>&"):
        browser.open(address(folder, target=target))
        assert browser.evaluate("document.title").startswith("Deployment atlas of")
        assert browser.evaluate("document.querySelectorAll('img').length") == 0
        assert browser.evaluate("state.target") == target
        browser.evaluate("document.querySelector('#genes').open = true; 0")
        shown = browser.evaluate("document.body.innerText")
        assert shown.count("<img src=x") > 5
        assert "49" not in browser.evaluate("document.querySelector('h1').textContent")
        command = browser.evaluate("document.getElementById('by-point').textContent")
        assert "toolkit compile 'x; touch broken '\"'\"'\"' --from a --target" in command
    assert browser.troubles() == []


@pytest.mark.slow
@CHROMIUM
@pytest.mark.parametrize(
    "link",
    [
        "target=nowhere&latency_s=x&x=9&y=-1", "point=" + quote(HOSTILE), "__proto__:latency_s=1",
        "latency_s=&quality=1e999", "latency_s=0&energy_j=-1", "%E0%A4%A", "target=constructor",
    ],
)  # fmt: skip
def test_a_strange_link_does_no_harm(browser, folder, link):
    browser.open((folder / "atlas.html").resolve().as_uri() + "#" + link)
    atlas = read_atlas(folder)
    agree(browser, atlas, "jetson_nano", device_limits("jetson_nano"))
    assert browser.troubles() == []


@pytest.mark.slow
@CHROMIUM
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (800, "dark"), (400, "light")])
def test_it_fits_a_desk_a_tablet_and_a_phone(browser, folder, width, scheme):
    browser.open(address(folder), width=width, prefers_color_scheme=scheme, prefers_reduced_motion="reduce")
    assert browser.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
    ground = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(244, 246, 249)", "dark": "rgb(17, 21, 27)"}[scheme]
    moving = "[...document.querySelectorAll('*')].some((e) => parseFloat(getComputedStyle(e).transitionDuration) > 0)"
    assert not browser.evaluate(moving)


@pytest.mark.slow
@CHROMIUM
def test_it_prints_on_a_few_pages(browser, folder):
    browser.open(address(folder))
    pages = len(re.findall(rb"/Type\s*/Page\b", browser.printed()))
    assert 2 <= pages <= 5


@pytest.mark.slow
@CHROMIUM
def test_thousands_of_points_are_a_few_elements(browser, tmp_path, folder):
    count = "document.querySelectorAll('#front svg *, #map svg *').length"
    browser.open(address(folder, target="raspberry_pi_4"))
    few = browser.evaluate(count)
    many = write(tmp_path / "many", document(3000, targets=("raspberry_pi_4",)))
    write_page(many)
    browser.open(address(many, target="raspberry_pi_4"))
    assert browser.evaluate(count) <= few + 40, "marks are parts of paths; only ticks and labels may differ"
    assert browser.evaluate("document.querySelectorAll('#list tbody tr').length") == 25


@pytest.mark.slow
@CHROMIUM
@pytest.mark.parametrize("count", [0, 1])
def test_an_atlas_of_next_to_nothing_is_a_page_too(browser, tmp_path, count):
    folder = write(tmp_path / "a", document(count, targets=("raspberry_pi_4",)))
    write_page(folder)
    browser.open(address(folder))
    assert browser.troubles() == []
    said = browser.evaluate("document.getElementById('best').textContent")
    assert ("no deployment" in said) if count == 0 else ("The best within these limits" in said)


@pytest.mark.slow
@CHROMIUM
def test_points_that_are_equal_in_everything_are_drawn(browser, tmp_path):
    content = document(1, targets=("raspberry_pi_4",))
    twin = copy.deepcopy(content["points"][0]) | {"id": "twin"}
    folder = write(tmp_path / "a", content | {"points": [content["points"][0], twin]})
    write_page(folder)
    browser.open(address(folder))
    assert browser.troubles() == []
    assert "NaN" not in browser.evaluate("document.querySelector('main').innerHTML")


@pytest.mark.slow
@CHROMIUM
@pytest.mark.parametrize("most", [1.003, 1.02, 1.4, 30.0])
def test_every_axis_has_numbers_that_differ(browser, tmp_path, most):
    """Also where all deployments take nearly the same: no round number lies between 465 and 466 µs."""
    content = document(5, targets=("raspberry_pi_4",))
    for k, point in enumerate(content["points"]):
        for name, start in (("latency_s", 465.1e-6), ("model_bytes", 9.98e3)):
            value = start * most ** (k / 4)
            point["measures"][name], point["intervals"][name] = value, [value, value]
    folder = write(tmp_path / "a", content)
    write_page(folder)
    browser.open(address(folder))
    assert browser.troubles() == []
    axes = "plots.flatMap((p) => [[p.across, p.x], [p.up, p.y]].map(([s, x]) => s.ticks.map((v) => tickText(x, v))))"
    for said in browser.evaluate(axes):
        assert len(said) >= 2
        assert len(set(said)) == len(said)
