"""Reports of attention heads whose pattern is known."""

from __future__ import annotations

import pytest
import torch

from toolkit.errors import GeometryError
from toolkit.geometry.analysis.attention_reports import HeadReport, head_reports
from toolkit.geometry.analysis.findings import about_attention
from toolkit.rng import torch_generator

ALL = torch.ones(1, 1, 1, 1, dtype=torch.bool)


def report(weights: torch.Tensor, allowed: torch.Tensor = ALL) -> HeadReport:
    (head,) = head_reports(weights[None, None] if weights.ndim == 2 else weights, allowed)
    return head


def kinds(head: HeadReport) -> list[str]:
    return [finding.kind for finding in about_attention("attention", head)]


def test_an_even_head_has_all_the_entropy_and_one_pattern() -> None:
    head = report(torch.full((8, 8), 1 / 8))
    assert head.entropy_share == pytest.approx(1)
    assert head.from_even == pytest.approx(0, abs=1e-7)
    assert [head.rank, head.spectral_gap] == pytest.approx([1, 1])
    assert kinds(head) == ["even attention"]


def test_a_head_that_copies_one_token_has_none() -> None:
    one = torch.zeros(8, 8)
    one[:, 3] = 1
    head = report(one)
    assert head.entropy_share == pytest.approx(0, abs=1e-12)
    assert (head.one_key_share, head.same_key_share) == (1, 1)
    assert head.rank == pytest.approx(1)
    assert kinds(head) == ["one-key attention"]


def test_a_permutation_is_saturated_too_and_keeps_every_token_apart() -> None:
    head = report(torch.eye(8)[torch.tensor([1, 2, 3, 4, 5, 6, 7, 0])])
    assert head.rank == pytest.approx(8)
    assert head.same_key_share == pytest.approx(1 / 8)
    assert head.spectral_gap == pytest.approx(0, abs=1e-9)
    assert kinds(head) == ["one-key attention"]


def test_two_groups_that_keep_to_themselves_have_no_gap() -> None:
    block = torch.eye(2).kron(torch.full((4, 4), 0.25))
    head = report(block)
    assert head.spectral_gap == pytest.approx(0, abs=1e-9)
    assert head.rank == pytest.approx(2)
    assert head.curvature == pytest.approx(4 - 3 - 3 + 3 * 2), "edges of a complete graph of four"
    assert kinds(head) == []


def test_masked_keys_are_no_choice() -> None:
    length = 6
    seen = torch.ones(length, length, dtype=torch.bool).tril()
    head = report(seen / seen.sum(-1, keepdim=True), seen)
    assert head.from_even == pytest.approx(0, abs=1e-7)
    assert head.one_key_share == 0, "the first query sees itself alone, and is left out"
    assert kinds(head) == ["even attention"]


def test_heads_are_told_apart_and_ordinary_ones_are_left_alone() -> None:
    scores = torch.randn(3, 2, 10, 10, generator=torch_generator(0, "heads"))
    scores[:, 1] *= 1e-3
    first, second = head_reports(scores.softmax(-1), ALL)
    assert kinds(first) == []
    assert kinds(second) == ["even attention"]


def test_long_attentions_are_told_without_their_eigenvalues() -> None:
    head = report(torch.randn(1, 1, 260, 260, generator=torch_generator(2, "long")).softmax(-1))
    assert head.spectral_gap is None
    assert head.curvature is not None


def test_attention_between_two_sequences_has_no_chain() -> None:
    head = report(torch.randn(1, 1, 4, 9, generator=torch_generator(1, "cross")).softmax(-1))
    assert head.spectral_gap is None
    assert head.curvature is None


@pytest.mark.parametrize(
    ("weights", "allowed", "said"),
    [
        (torch.full((1, 1, 2, 2), 0.6), ALL, "sums to"),
        (torch.ones(2, 2), ALL, "shape"),
        (torch.ones(1, 1, 1, 1), ALL, "more than one key"),
        (torch.full((1, 1, 2, 2), float("nan")), ALL, "nan"),
    ],
)
def test_what_is_no_attention_is_refused(weights: torch.Tensor, allowed: torch.Tensor, said: str) -> None:
    with pytest.raises(GeometryError, match=said):
        head_reports(weights, allowed)
