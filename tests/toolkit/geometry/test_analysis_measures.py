"""Effective dimension, curvature, displacement, ranges and symmetry against closed forms and torch."""

from __future__ import annotations

from math import inf, log2, pi

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.errors import GeometryError
from toolkit.geometry.analysis.curvature import total_turning
from toolkit.geometry.analysis.effective_dimension import effective_dimension, positions, rows_of
from toolkit.geometry.analysis.quantization_stability import RangeUse, displacement
from toolkit.geometry.analysis.symmetry import equivariance_defect, rolled
from toolkit.rng import torch_generator

F = torch.nn.functional


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch_generator(seed, "analysis"), dtype=torch.float64)


# ---- effective dimension


def test_the_corners_of_a_cross_use_as_many_directions_as_it_has_arms() -> None:
    arms = torch.eye(7, dtype=torch.float64)[:5]
    assert effective_dimension(torch.cat([arms, -arms]) + 3.0) == pytest.approx(5, rel=1e-12)


def test_a_stretched_cross_has_the_participation_ratio_of_its_squares() -> None:
    arms = torch.diag(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    assert effective_dimension(torch.cat([arms, -arms])) == pytest.approx((1 + 4 + 9) ** 2 / (1 + 16 + 81), rel=1e-12)


@given(st.integers(2, 12), st.integers(1, 9), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_it_lies_between_one_and_what_rows_and_columns_allow_and_does_not_depend_on_scale(
    count: int, width: int, seed: int
) -> None:
    rows = noise(count, width, seed=seed)
    found = effective_dimension(rows)
    assert 1 - 1e-9 <= found <= min(count - 1, width) + 1e-9
    assert effective_dimension(1e6 * rows - 7) == pytest.approx(found, rel=1e-6)


def test_a_constant_layer_uses_no_direction_however_its_mean_rounds() -> None:
    assert effective_dimension(torch.full((1000, 3), 0.1, dtype=torch.float32)) == 0.0


def test_places_of_an_image_and_tokens_of_a_sequence_are_vectors_of_channels() -> None:
    image = torch.arange(2 * 3 * 4 * 4).reshape(2, 3, 4, 4).double()
    rows = rows_of(image, 16)
    assert rows.shape == (32, 3)
    assert rows[5].tolist() == image[0, :, 1, 1].tolist()
    assert rows_of(noise(2, 5, 3), 4, channel=-1).shape == (8, 3)
    assert positions(9, 3).tolist() == [0, 4, 8]


@pytest.mark.parametrize("bad", [torch.zeros(3), torch.tensor([[1.0, float("nan")], [0.0, 1.0]])])
def test_what_is_no_set_of_feature_vectors_is_refused(bad: torch.Tensor) -> None:
    with pytest.raises(GeometryError):
        effective_dimension(bad)
    with pytest.raises(GeometryError):
        rows_of(bad, 4)
    with pytest.raises(GeometryError, match="positions"):
        positions(0, 4)


# ---- curvature


@pytest.mark.parametrize("corners", [3, 8, 100])
def test_a_closed_convex_polygon_turns_once(corners: int) -> None:
    angle = 2 * pi * torch.arange(corners + 2, dtype=torch.float64) / corners
    plane = torch.stack([angle.cos(), 3 * angle.sin()], 1) @ torch.linalg.qr(noise(6, 2)).Q.T
    assert float(total_turning(plane)) == pytest.approx(2 * pi, rel=1e-9)


def test_lines_do_not_turn_even_where_they_stop_and_a_way_back_turns_by_pi() -> None:
    ahead = torch.linspace(0, 1, 9, dtype=torch.float64)[:, None] * noise(1, 5)
    assert float(total_turning(ahead)) < 1e-12
    assert float(total_turning(ahead[[0, 1, 1, 2, 3]])) < 1e-12
    assert float(total_turning(ahead[[0, 4, 1]])) == pytest.approx(pi)
    assert total_turning(torch.zeros(2, 4, 3)).tolist() == [0.0, 0.0]


def test_small_angles_keep_their_digits() -> None:
    path = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 1e-9]], dtype=torch.float64)
    assert float(total_turning(path)) == pytest.approx(1e-9, rel=1e-6)


def test_two_points_are_no_path() -> None:
    with pytest.raises(GeometryError, match="a path of shape"):
        total_turning(torch.zeros(2, 3))


# ---- displacement


def test_a_step_of_one_deviation_is_one() -> None:
    rows = 5 * noise(100_000, 1)
    assert displacement(rows, rows + 5) == pytest.approx(1, rel=0.01)  # the deviation of 1e5 samples: 0.3 % at 1 sigma


def test_the_metric_is_the_layers_own() -> None:
    rows = noise(20_000, 2) * torch.tensor([1.0, 10.0])
    quiet, loud = (displacement(rows, rows + torch.eye(2, dtype=torch.float64)[i]) for i in (0, 1))
    assert quiet == pytest.approx(10 * loud, rel=0.05)  # the sphere that it is drawn to has a weight of 2 / 20002
    turned = torch.linalg.qr(noise(2, 2)).Q
    step = torch.tensor([0.3, 0.4], dtype=torch.float64)
    assert displacement(rows @ turned, (rows + step) @ turned) == pytest.approx(
        displacement(rows, rows + step), rel=1e-9
    )


def test_more_channels_than_vectors_still_have_a_metric() -> None:
    rows = noise(4, 64)
    assert 0 < displacement(rows, rows + 0.1) < inf


def test_nothing_moved_is_zero_and_a_dead_layer_that_moved_is_infinitely_far() -> None:
    still = torch.full((9, 2), 0.1)
    assert displacement(still, still) == 0.0
    assert displacement(still, still + 1) == inf
    with pytest.raises(GeometryError, match="shapes"):
        displacement(still, still[:4])
    with pytest.raises(GeometryError, match="moved"):
        displacement(still, still * float("nan"))


# ---- ranges


def test_clipping_is_counted_and_priced_in_bits() -> None:
    use = RangeUse(0.0, 255.0, 1.0)
    use.add(torch.tensor([0.0, 100.0, 255.4, 510.0]))
    assert (use.clipped, use.values, use.seen_high) == (1, 4, 510.0)
    wider = (510 / 255) ** 2 / 12
    assert use.lost_bits == pytest.approx(0.5 * log2((255**2 / 4 + 1 / 12) / wider))


def test_a_rare_value_a_little_outside_costs_nothing() -> None:
    use = RangeUse(-1.28, 1.27, 0.01)
    use.add(torch.cat([torch.linspace(-1, 1, 9999), torch.tensor([1.3])]))
    assert use.clipped == 1
    assert use.lost_bits == 0.0


def test_bounds_that_stand_for_rectifiers_clip_nothing() -> None:
    values = torch.tensor([-5.0, 3.0, 40.0])
    for folded, clipped in ((True, 0), (False, 2)):
        use = RangeUse(0.0, 6.0, 6 / 255, folded=folded)
        use.add(values)
        assert use.clipped == clipped


@pytest.mark.parametrize("bad", [(1.0, 1.0, 0.1), (0.0, 1.0, 0.0), (0.0, inf, 0.1)])
def test_an_empty_range_is_refused(bad: tuple[float, float, float]) -> None:
    with pytest.raises(GeometryError, match="range from"):
        RangeUse(*bad)


# ---- symmetry


def test_a_convolution_commutes_with_moves_away_from_the_border() -> None:
    image, weight = noise(2, 3, 12, 12), noise(4, 3, 3, 3)
    still, moved = (F.conv2d(x, weight, padding=1) for x in (image, rolled(image, (2, 1))))
    assert float(equivariance_defect(still, moved, (2, 1), (3, 2)).max()) < 1e-12
    assert float(equivariance_defect(still, moved, (2, 1), (0, 0)).max()) > 0.1, "zeros at the border are places"


def test_a_bias_that_depends_on_the_place_shows_in_its_channel_alone() -> None:
    image, weight, bias = noise(1, 3, 12, 12), noise(4, 3, 3, 3), torch.zeros(4, 12, 12, dtype=torch.float64)
    bias[2] = noise(12, 12, seed=1) * 10
    still, moved = (F.conv2d(x, weight, padding=1) + bias for x in (image, rolled(image, (0, 1))))
    defect = equivariance_defect(still, moved, (0, 1), (2, 2))
    assert float(defect[2]) > 0.5
    assert float(defect[[0, 1, 3]].max()) < 1e-12


def test_an_empty_answer_has_no_defect_and_a_margin_leaves_something() -> None:
    empty = torch.zeros(1, 2, 6, 6)
    assert equivariance_defect(empty, empty, (1, 0), (1, 1)).tolist() == [0.0, 0.0]
    with pytest.raises(GeometryError, match="margin"):
        equivariance_defect(empty, empty, (1, 0), (3, 1))
    with pytest.raises(GeometryError, match="shapes"):
        equivariance_defect(empty, empty[:, :1], (1, 0), (1, 1))
