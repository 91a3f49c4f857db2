"""Metrics against closed forms and scipy; plots hold the numbers that they were given."""

from math import exp, inf, log

import pytest
import torch

from toolkit.errors import GeometryError, MissingDependency
from toolkit.geometry.core.crystal.refraction.bands import Bands
from toolkit.geometry.core.crystal.scale.persistence import Bar
from toolkit.geometry.neural.attention.pattern_dynamics import bifurcation_analysis, schnakenberg, stability_analysis
from toolkit.geometry.utils import metrics, visualization
from toolkit.rng import torch_generator

R = torch.float64


def row(*values) -> torch.Tensor:
    return torch.tensor(values, dtype=R)


def test_ranks_of_diagonal_matrices():
    p = row(0.5, 0.3, 0.2)
    assert metrics.effective_rank(torch.diag(p)) == pytest.approx(exp(-float((p * p.log()).sum())), rel=1e-9)
    s = torch.diag(row(2.0, 1.0))
    assert metrics.participation_ratio(s) == pytest.approx(25 / 17, rel=1e-9)


def test_total_variation():
    assert metrics.total_variation(row(0.0, 2.0, 1.0)) == 3
    steps = row([0.0, 0.0], [1.0, 1.0])
    assert metrics.total_variation(steps, axes=(-2, -1)) == 2


def test_sinkhorn_approaches_the_exact_cost_from_above():
    from scipy.stats import wasserstein_distance

    x = torch.linspace(0, 1, 12, dtype=R)
    p, q = (torch.softmax(torch.randn(12, generator=torch_generator(s, "p"), dtype=R), 0) for s in (0, 1))
    cost = (x.unsqueeze(1) - x).abs()
    exact = wasserstein_distance(x.numpy(), x.numpy(), p.numpy(), q.numpy())
    loose, tight = (float(metrics.sinkhorn_distance(p, q, cost, epsilon=e, iterations=20_000)) for e in (0.05, 0.01))
    assert exact - 1e-7 <= tight < loose
    assert tight == pytest.approx(exact, abs=0.01)
    assert metrics.sinkhorn_distance(p.expand(2, 12), q, 0 * cost).tolist() == [0, 0]


def test_bootstrap_intervals_hold_the_mean_as_often_as_they_say():
    held = 0
    for seed in range(100):
        sample = 3 + torch.randn(30, generator=torch_generator(seed, "sample"), dtype=R)
        found = metrics.bootstrap_interval(sample, generator=torch_generator(seed, "bootstrap"), resamples=400)
        assert found.low < found.value < found.high
        held += found.low < 3 < found.high
    assert 84 <= held <= 100  # 95 expected; the percentile form is a little narrow, and 4 sigma are 9


def test_plots_hold_the_numbers():
    pytest.importorskip("plotly")
    k = torch.arange(3, dtype=R).unsqueeze(1) * 0.5
    bands = Bands(k, row([1, 2], [0, 3], [-1, 4]), torch.zeros(3, 2, 2))
    figure = visualization.band_plot(bands)
    assert [list(line.x) for line in figure.data] == [[0, 0.5, 1.0]] * 2
    assert list(figure.data[0].y) == [1, 0, -1]

    rest = stability_analysis(row(1.0, 0.9), row(1.0, 12.0), schnakenberg(0.1, 0.9), row(0.3, 0.6, 0.9))
    growth = visualization.dispersion_plot(rest)
    assert list(growth.data[0].y) == rest.dispersion.tolist()
    assert list(growth.data[1].x) == [rest.critical_wavenumber]

    branch = bifurcation_analysis(lambda u, m: m * u - u**3, row(0.0), (-0.5, 0.5))
    diagram = visualization.bifurcation_diagram(branch)
    assert [line.name for line in diagram.data] == ["stable", "unstable", "branch"]
    drawn = [x for line in diagram.data[:2] for x in line.x]
    assert sorted(set(drawn)) == sorted(set(branch.parameters.tolist()))

    assert visualization.tile_map(torch.eye(2, dtype=torch.bool)).data[0].z == ([1.0, 0.0], [0.0, 1.0])
    code = visualization.persistence_barcode([Bar(0, 0.0, inf), Bar(1, 0.5, 1.0)])
    assert [list(line.x) for line in code.data] == [[0.0, 1.1], [0.5, 1.0]]
    assert list(visualization.curvature_histogram(row(1.0, 2.0)).data[0].x) == [1, 2]


def test_a_missing_plotly_names_the_extra(monkeypatch):
    monkeypatch.setattr(visualization, "import_module", lambda name: (_ for _ in ()).throw(ImportError(name)))
    with pytest.raises(MissingDependency) as caught:
        visualization.tile_map(torch.eye(2))
    assert caught.value.exit_code == 3
    assert "edge-toolkit[plots]" in caught.value.hint


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: metrics.effective_rank(row(1.0)), r"\(1,\)"),
        (lambda: metrics.participation_ratio(row([inf])), "inf"),
        (lambda: metrics.sinkhorn_distance(row(1.0, 1.0), row(1.0), row([1.0], [1.0])), "sum 1 by 1"),
        (lambda: metrics.sinkhorn_distance(row(1.0), row(1.0), row(1.0)), "costs"),
        (lambda: metrics.sinkhorn_distance(row(0.9, 0.1), row(0.2, 0.8), row([0, 1], [1, 0]), iterations=1),
         "did not settle"),
        (lambda: metrics.bootstrap_interval(row(1.0), generator=torch_generator(0, "x")), r"\(1,\)"),
        (lambda: visualization.band_plot(Bands(row(1.0), row(1.0), row(1.0))), r"\(1,\)"),
        (lambda: visualization.tile_map(row(1.0)), r"\(1,\)"),
        (lambda: visualization.persistence_barcode([]), "empty"),
        (lambda: visualization.curvature_histogram(row(log(2), float("nan"))), "nan"),
    ],
)  # fmt: skip
def test_what_has_no_measure_is_refused(call, says):
    with pytest.raises(GeometryError, match=says):
        call()
