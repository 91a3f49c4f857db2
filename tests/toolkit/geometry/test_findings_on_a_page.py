"""What makes a finding, to either side of its limit, and the page that shows them."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from toolkit.geometry.analysis import findings
from toolkit.geometry.analysis.attention_reports import head_reports
from toolkit.geometry.analysis.page import render
from toolkit.geometry.analysis.quantization_stability import RangeUse


def kinds(found: Any) -> list[str]:
    return [finding.kind for finding in found]


def used(top: float) -> RangeUse:
    """A range from 0 to 1 in 256 steps that is told values from 0 to `top`."""
    use = RangeUse(0.0, 1.0, 1 / 255)
    use.add(torch.arange(1000.0) * (top / 999))
    return use


def test_a_layer_of_one_answer() -> None:
    assert kinds(findings.about_dimension("a", 0.0)) == ["constant"]
    assert not kinds(findings.about_dimension("a", 1e-6))


def test_a_range_that_clips_is_named_with_both_ranges() -> None:
    assert not kinds(findings.about_range("a", used(1.0)))
    assert not kinds(findings.about_range("a", used(1.0 + 1 / 510)))
    (found,) = findings.about_range("a", used(4.0))
    assert "from 0 to 4, stored from 0 to 1; 74.9% are clipped" in found.text  # within half a step is no clipping
    assert found.value > found.limit.value


def test_rounding_as_strong_as_the_signal() -> None:
    assert not kinds(findings.about_displacement("a", 0.99))
    assert kinds(findings.about_displacement("a", 1.0)) == ["displaced"]


def test_places_that_are_treated_differently() -> None:
    assert not kinds(findings.about_symmetry("a", 3, 0.05, 0))
    (alone,) = findings.about_symmetry("a", 3, 0.17, 0)
    (many,) = findings.about_symmetry("a", 3, 0.17, 4)
    assert "channel 3 is off by 17%" in alone.text
    assert "more channels" not in alone.text
    assert many.text.endswith("and 4 more channels")


def test_heads_at_both_ends() -> None:
    even = torch.full((2, 8, 8), 1 / 8)
    same_key = torch.zeros(2, 8, 8).index_fill_(2, torch.tensor([5]), 1.0)
    own_key = torch.eye(8).expand(2, 8, 8)
    between = torch.softmax(torch.arange(64.0).reshape(8, 8).remainder(7.0), -1).expand(2, 8, 8)
    heads = head_reports(torch.stack([even, same_key, own_key, between], 1), torch.ones(2, 4, 8, 8, dtype=torch.bool))
    by_head = [list(findings.about_attention("layer", head)) for head in heads]
    assert [kinds(found) for found in by_head] == [["even attention"], ["one-key attention"], ["one-key attention"], []]
    assert by_head[0][0].layer == "layer head 0"
    assert "all of them the same one" in by_head[1][0].text
    assert "rank" in by_head[2][0].text


def document(**changed: Any) -> dict[str, Any]:
    row = {"layer": "one", "operator": "Conv", "width": 8, "effective_dimension": 4.0, "total_turning_rad": 1.5,
           "displacement_deviations": 0.01, "clipped_share": 0.25, "symmetry_defect": 0.125}  # fmt: skip
    return {"model": "net", "data": "images", "samples": 4, "stack": "board/stack", "notes": ["not looked at"],
            "findings": [], "layers": [row, {**row, "layer": "two", "total_turning_rad": 3.0}], "attention": [],
            "same_answer_when_moved": [], "before": None, **changed}  # fmt: skip


def test_the_page_draws_what_it_is_given() -> None:
    page = render(document())
    assert "Nothing is broken" in page
    lines = re.findall(r'<polyline points="([^"]+)"', page)
    assert [line.split() for line in lines] == [
        ["0.0,50.0", "1000.0,50.0"],  # 4 of 8 directions
        ["0.0,50.0", "1000.0,0.0"],  # half of the most turning, and all of it
        ["0.0,50.0", "1000.0,50.0"],  # 0.01 in the middle of four decades
    ]
    for shown in ("4.0 of 8", ">1.50<", "12.5 %", "25.00 %", "not looked at", "rounded as board/stack does"):
        assert shown in page


def test_the_page_marks_what_is_broken() -> None:
    (found,) = findings.about_symmetry("two", 3, 0.17, 0)
    page = render(document(findings=[found.to_json()]))
    assert "1 finding<" in page
    assert page.count('<tr class="broken"><td><b>two</b>') == 1
    assert page.count("stroke-dasharray") == 3, "one mark in each plot"
    assert "the limit is 0.05" in page


@pytest.mark.parametrize("count", [0, 1])
def test_a_page_of_fewer_than_two_layers_has_no_plots(count: int) -> None:
    page = render(document(layers=document()["layers"][:count]))
    assert "<polyline" not in page
    assert "nothing to plot" in page


def test_what_was_not_measured_is_a_dash_and_names_are_text() -> None:
    bare = {"layer": "<b>x</b>", "operator": "Add", "width": 8, "effective_dimension": None, "total_turning_rad": None,
            "displacement_deviations": None, "clipped_share": None, "symmetry_defect": None}  # fmt: skip
    page = render(document(layers=[bare, bare], before=document(layers=[]), stack=""))
    row = page[page.index("<td><b>&lt;b&gt;x") :].split("</tr>")[0]
    assert row.count("–") == 6
    assert "<b>x</b>" not in page
