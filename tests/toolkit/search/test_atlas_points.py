"""atlas.json is data of a stranger: what is damaged is refused, with the place; what is chosen is what limits leave."""

from __future__ import annotations

import copy
import json
from math import inf, nan
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from targets.errors import InvalidInput, UsageError
from targets.verdict import Limits, Outcome, judge
from tests.toolkit.search.atlases import document, point, write
from toolkit.search.atlas.points import Atlas, Point, read_atlas
from toolkit.search.atlas.selecting import LIMITS, Miss, Selection, judge_point, select

ATLAS = Atlas.model_validate_json(json.dumps(document(60)))
BOUNDS = st.fixed_dictionaries(
    {},
    optional={
        "latency_s": st.floats(2e-4, 1e-2), "memory_bytes": st.floats(2.8e5, 6e5), "energy_j": st.floats(1e-3, 3e-2),
        "size_bytes": st.floats(3e3, 9e4), "quality": st.floats(0.7, 1.0),
    },
)  # fmt: skip


def made(**fields) -> Point:
    """A point whose intervals are exact unless `fields` say otherwise."""
    plain = point(np.random.default_rng(0), "raspberry_pi_4") | {"held_out": None, "intervals": {}}
    plain |= {"id": "p", "quality": 0.9, "quality_interval": [0.88, 0.92]} | fields
    plain["measures"] = plain["measures"] | {"latency_s": fields.get("latency_s", 0.001)}
    return Point.model_validate_json(json.dumps(plain))


# ---- reading


def test_an_atlas_is_read_from_its_folder_or_its_file(tmp_path):
    folder = write(tmp_path / "a", document(3))
    assert read_atlas(folder) == read_atlas(folder / "atlas.json")
    assert read_atlas(folder).targets == ["jetson_nano", "raspberry_pi_4"]


def broken(content, path, value):
    changed = copy.deepcopy(content)
    place = changed
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return changed


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("version",), 3, "of version 3; this toolkit reads 2"),
        (("points", 1, "measures", "latency_s"), -1.0, "points.1.measures.latency_s"),
        (("points", 1, "measures", "latency_s"), inf, "points.1.measures.latency_s"),
        (("points", 1, "quality"), nan, "points.1.quality"),
        (("points", 1, "quality_interval"), [0.9], "points.1.quality_interval"),
        (("points", 1, "intervals", "energy_j"), [2.0, 1.0], "the interval of energy_j ends before it begins"),
        (("points", 1, "id"), "--trust", "points.1.id"),
        (("points", 1, "id"), "a\nb", "points.1.id"),
        (("model", "source"), "-rf", "model.source"),
        (("points", 1, "recipe"), {"no_such_field": 1}, "no_such_field"),
        (("points", 1, "recipe", "seed"), "zero", "seed"),
        (("points", 1, "config"), {"deep": [{"x": 1e999}]}, "not finite"),
        (("points",), {}, "points"),
    ],
)
def test_a_damaged_atlas_is_refused_with_the_place(tmp_path, path, value, said):
    with pytest.raises(InvalidInput) as caught:
        read_atlas(write(tmp_path / "a", broken(document(3), path, value)))
    assert said in caught.value.problem
    assert caught.value.hint


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\xff\xfe", "[" * 100_000, '{"version": 1e400}'])
def test_what_is_no_json_of_ours_is_refused(tmp_path, text):
    (tmp_path / "atlas.json").write_text(text, "latin-1")
    with pytest.raises(InvalidInput, match="damaged"):
        read_atlas(tmp_path)


def test_what_is_no_atlas_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match="is no atlas: cannot read"):
        read_atlas(tmp_path)
    with pytest.raises(InvalidInput, match="is no atlas: cannot read"):
        read_atlas(tmp_path / "nothing")


def test_a_point_twice_is_a_damaged_atlas(tmp_path):
    content = document(3)
    content["points"].append(content["points"][0])
    with pytest.raises(InvalidInput, match="a point twice"):
        read_atlas(write(tmp_path / "a", content))


def test_a_truncated_atlas_is_refused_wherever_it_ends(tmp_path):
    file = write(tmp_path, document(1)) / "atlas.json"
    content = file.read_bytes()
    for end in range(0, len(content), 37):
        file.write_bytes(content[:end])
        with pytest.raises(InvalidInput, match="damaged"):
            read_atlas(tmp_path)


def test_a_flipped_bit_is_found_wherever_it_is(tmp_path):
    """Also where the file stays an atlas: in a digit of a latency, in the name of a pass, in a space."""
    file = write(tmp_path, document(1)) / "atlas.json"
    content = file.read_bytes()
    for place in range(0, len(content), 5):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        file.write_bytes(changed)
        with pytest.raises(InvalidInput, match="is damaged: "):
            read_atlas(tmp_path)
    file.write_bytes(content)
    assert read_atlas(tmp_path).points


def test_an_atlas_from_before_checksums_says_its_version(tmp_path):
    (tmp_path / "atlas.json").write_text(json.dumps(document(1) | {"version": 1}))
    with pytest.raises(InvalidInput, match="is of version 1; this toolkit reads 2"):
        read_atlas(tmp_path)


def test_an_atlas_that_was_written_again_by_others_is_refused(tmp_path):
    content = json.loads((write(tmp_path, document(1)) / "atlas.json").read_text())
    (tmp_path / "atlas.json").write_text(json.dumps(content))
    with pytest.raises(InvalidInput, match="does not begin with its checksum"):
        read_atlas(tmp_path)


def test_a_point_is_found_by_the_beginning_of_its_id():
    wanted = ATLAS.points[5]
    assert ATLAS.point(wanted.id) is wanted
    assert ATLAS.point(wanted.id[:9]) is wanted
    assert ATLAS.point(wanted.id, wanted.target) is wanted
    for name, target in (("zzzz", None), (wanted.id[:2], None), (wanted.id, "jetson_nano")):
        with pytest.raises(UsageError, match="has no point"):
            ATLAS.point(name, target)


def test_an_id_on_two_devices_asks_which():
    twin = made(id="same"), made(id="same", target="jetson_nano")
    atlas = ATLAS.model_copy(update={"points": twin})
    with pytest.raises(UsageError, match="same is 2 points: same on jetson_nano, same on raspberry_pi_4"):
        atlas.point("same")
    assert atlas.point("same", "jetson_nano") is twin[1]


# ---- limits


@given(limits=BOUNDS)
@settings(deadline=None)
def test_a_limit_means_what_it_means_to_check(limits):
    """The outcome of every upper limit is that of `targets.verdict.judge`, which `toolkit check` asks."""
    upper = {name: value for name, value in limits.items() if name != "quality"}
    for p in ATLAS.points[::7]:
        estimate = SimpleNamespace(
            latency_s=p.value("latency_s"), latency_interval_s=p.interval("latency_s"),
            peak_memory_bytes=p.value("peak_memory_bytes"), memory_interval_bytes=p.interval("peak_memory_bytes"),
            energy_j=p.value("energy_j"), energy_interval_j=p.interval("energy_j"),
        )  # fmt: skip
        verdict = judge(estimate, Limits(**upper), size=(p.value("model_bytes"), p.interval("model_bytes")))
        assert judge_point(p, upper) == verdict.checks


@given(limits=BOUNDS, strict=st.booleans())
@settings(deadline=None)
def test_what_is_chosen_is_within_and_nothing_within_is_better(limits, strict):
    found = select(ATLAS.points, limits, strict=strict)
    certain = [p for p in ATLAS.points if all(c.outcome == "fits" for c in judge_point(p, limits))]
    by_value = [p for p in ATLAS.points if all(holds(p, name, bound) for name, bound in limits.items())]
    allowed = certain or ([] if strict else by_value)
    assert isinstance(found, Selection) == bool(allowed)
    if isinstance(found, Selection):
        assert found.point in allowed
        assert found.fitting == len(certain)
        assert found.point.interval("quality")[0] == max(p.interval("quality")[0] for p in allowed)
        assert set(map(id, found.ties)) <= set(map(id, allowed)) - {id(found.point)}
    else:
        assert found.among == len(ATLAS.points)
        assert any(c.outcome != "fits" for c in found.checks)


def holds(p, name, bound):
    value = p.value(LIMITS[name])
    return value >= bound if name == "quality" else value <= bound


@given(limits=BOUNDS)
@settings(deadline=None)
def test_the_order_of_points_decides_nothing(limits):
    assert select(ATLAS.points, limits).point == select(ATLAS.points[::-1], limits).point


def test_what_was_measured_again_is_judged_by_that():
    lucky = made(id="lucky", quality=0.99, quality_interval=[0.98, 1.0],
                 held_out={"quality": 0.80, "quality_interval": [0.78, 0.82], "n": 500})  # fmt: skip
    assert lucky.value("quality") == 0.80
    assert select([lucky, made(id="plain")], {}).point.id == "plain"


def test_luck_on_few_samples_does_not_win():
    few = made(id="few", quality=0.95, quality_interval=[0.75, 0.99], n=10)
    assert select([few, made(id="many")], {}).point.id == "many"


def test_the_runner_up_is_named_where_the_difference_may_be_chance():
    best = made(id="best", quality=0.92, quality_interval=[0.90, 0.94])
    near = made(id="near", quality=0.90, quality_interval=[0.88, 0.92])
    far = made(id="far", quality=0.80, quality_interval=[0.78, 0.82])
    found = select([far, near, best], {})
    assert (found.point, found.runner_up, found.ties) == (best, near, (near,))  # 0.02 < hypot(0.02, 0.02) < 0.12


def test_certain_comes_before_likely_and_likely_before_nothing():
    wide = {"latency_s": [0.0005, 0.002]}
    likely = made(id="likely", quality=0.95, quality_interval=[0.94, 0.96], intervals=wide)
    beyond = made(id="beyond", quality=0.99, quality_interval=[0.98, 1.0], latency_s=0.0016, intervals=wide)
    certain = made(id="certain")
    limits = {"latency_s": 0.0015}
    found = select([likely, beyond, certain], limits)
    assert (found.point, found.outcome, found.bolder) == (certain, Outcome.FITS, likely)
    assert (found.fitting, found.uncertain) == (1, 2)
    found = select([likely, beyond], limits)
    assert (found.point, found.outcome, found.bolder) == (likely, Outcome.UNCERTAIN, None)
    assert isinstance(select([likely, beyond], limits, strict=True), Miss)
    missed = select([beyond], limits)
    assert isinstance(missed, Miss)
    assert missed.uncertain == 1


def test_the_nearest_miss_is_nearest_as_a_share_of_the_limit():
    slow, poor = made(id="slow", latency_s=0.0012), made(id="poor", quality=0.5, quality_interval=[0.5, 0.5])
    missed = select([poor, slow], {"latency_s": 0.001, "quality": 0.9})  # 20 % too slow; 44 % too poor
    assert missed.point is slow
    assert missed.among == 2
