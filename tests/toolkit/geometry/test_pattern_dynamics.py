"""Pattern formation against dispersion relations, thresholds and branches in closed form."""

from math import log, pi, sqrt

import pytest
import torch

from toolkit.errors import GeometryError, UnknownName
from toolkit.geometry.integrators import rk4_step
from toolkit.geometry.neural.attention.pattern_dynamics import (
    ControlConstraints,
    bifurcation_analysis,
    brusselator,
    fisher_kpp,
    gray_scott,
    pattern_control,
    pattern_growth,
    reaction_diffusion,
    riccati_gain,
    schnakenberg,
    stability_analysis,
    turing_threshold,
)
from toolkit.geometry.neural.attention.pattern_dynamics import stability as stability_module
from toolkit.rng import torch_generator

R = torch.float64
SCHEMES = ("explicit", "semi_implicit", "etdrk2")


def row(*values) -> torch.Tensor:
    return torch.tensor(values, dtype=R)


def still(u: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(u)


def mode(nx: int, ny: int, n: int = 16, species: int = 2) -> torch.Tensor:
    x = 2 * pi * torch.arange(n, dtype=R) / n
    return torch.cos(ny * x.unsqueeze(1) + nx * x).expand(species, n, n)


@pytest.mark.parametrize("n", [16, 15])
def test_modes_decay_as_they_must(n):
    h, d = 2 * pi / n, row(0.3, 0.7)
    start, t = mode(2, 1, n), 0.5
    exact = start * torch.exp(-5 * t * d)[:, None, None]
    got = reaction_diffusion(start, d, still, 0.05, 10, "etdrk2", spacing=h).states[-1]
    assert (got - exact).abs().max() < 1e-10
    backward = reaction_diffusion(start, d, still, 0.05, 10, "semi_implicit", spacing=h).states[-1]
    assert (backward - start * (1 + 0.05 * 5 * d[:, None, None]) ** -10).abs().max() < 1e-12
    k2 = sum(4 / h**2 * torch.sin(torch.tensor(k * h / 2, dtype=R)) ** 2 for k in (1, 2))
    forward = reaction_diffusion(start, d, still, 0.01, 10, "explicit", spacing=h).states[-1]
    assert (forward - start * (1 - 0.01 * k2 * d[:, None, None]) ** 10).abs().max() < 1e-12


def test_cross_and_directed_diffusion():
    h, t = 2 * pi / 16, 0.4
    cross = row([0.3, 0.1], [0.05, 0.7])
    got = reaction_diffusion(mode(2, 1), cross, still, t / 5, 5, spacing=h).states[-1]
    expected = torch.einsum("ij,jhw->ihw", torch.linalg.matrix_exp(-5 * t * cross), mode(2, 1))
    assert (got - expected).abs().max() < 1e-10
    directed = row([[0.3, 0.1], [0.1, 0.5]], [[0.2, 0.0], [0.0, 0.2]])  # axes: rows (y), columns (x)
    got = reaction_diffusion(mode(2, 1), directed, still, t / 5, 5, spacing=h).states[-1]
    rates = row(0.3 + 2 * 2 * 0.1 + 4 * 0.5, 5 * 0.2)
    assert (got - mode(2, 1) * torch.exp(-t * rates)[:, None, None]).abs().max() < 1e-10
    errors = []
    for n in (16, 32):  # differences converge to the same with order two
        small = reaction_diffusion(mode(2, 1, n), directed, still, 1e-3, 100, "explicit", spacing=2 * pi / n).states[-1]
        errors.append(float((small - mode(2, 1, n) * torch.exp(-0.1 * rates)[:, None, None]).abs().max()))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.2)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_mass_is_kept(scheme):
    start = torch.randn(3, 2, 8, 8, generator=torch_generator(0, "mass"), dtype=R)
    end = reaction_diffusion(start, row(0.2, 0.1), still, 0.5, 20, scheme).states[-1]
    assert (end.sum((-2, -1)) - start.sum((-2, -1))).abs().max() < 1e-12


@pytest.mark.parametrize(("scheme", "order"), [("explicit", 1), ("semi_implicit", 1), ("etdrk2", 2)])
def test_homogeneous_states_follow_the_reaction_by_the_order_of_the_scheme(scheme, order):
    reaction = brusselator(1.0, 1.7)
    exact = row(1.2, 1.0)
    for _ in range(400):
        exact = rk4_step(reaction, exact, 0.0025)
    start = row(1.2, 1.0)[:, None, None].expand(2, 4, 4)
    errors = [
        float((reaction_diffusion(start, row(0.1, 0.1), reaction, 1 / n, n, scheme).states[-1][:, 0, 0] - exact).norm())
        for n in (40, 80)
    ]
    assert log(errors[0] / errors[1], 2) == pytest.approx(order, abs=0.15)


def test_fisher_fronts_run_at_twice_the_root():
    rate, d, h, dt, width = 1.0, 1.0, 0.5, 0.05, 800
    x = torch.arange(width, dtype=R) * h
    start = ((x > 180) & (x < 220)).to(R).reshape(1, 1, width).expand(1, 2, width)
    # Differences keep u >= 0; Fourier modes would round below 0, from where this reaction runs away.
    run = reaction_diffusion(start, row(d), fisher_kpp(rate), dt, 1400, "explicit", spacing=h, every=400)

    def front(u):
        return float((u[0, 0] > 0.5).sum()) * h / 2

    speed = (front(run.states[-1]) - front(run.states[1])) / float(run.times[-1] - run.times[1])
    # The slowest exp(-s (x - c t)) that grid and step let through, in the limit 2 sqrt(r D); and Bramson's delay of
    # 3 / (2 t s) with s = 1, between the times 20 and 70.
    s = torch.linspace(0.5, 2, 1501, dtype=R)
    discrete = float((torch.log1p(dt * (rate + 2 * d * (torch.cosh(s * h) - 1) / h**2)) / (s * dt)).min())
    assert discrete == pytest.approx(2 * sqrt(rate * d), rel=0.04)
    assert speed == pytest.approx(discrete - 1.5 * log(70 / 20) / 50, abs=0.02)


def test_trajectories_keep_what_was_asked_for():
    run = reaction_diffusion(mode(1, 0), row(0.1, 0.1), still, 0.1, 7, every=3)
    assert run.times.tolist() == pytest.approx([0, 0.3, 0.6, 0.7])
    assert run.states.shape == (4, 2, 16, 16)


def test_cross_diffusion_by_differences():
    cross = row([0.3, 0.1], [0.05, 0.7])
    got = reaction_diffusion(mode(1, 0), cross, still, 0.01, 1, "explicit", spacing=2 * pi / 16).states[-1]
    k2 = 4 / (2 * pi / 16) ** 2 * torch.sin(torch.tensor(pi / 16, dtype=R)) ** 2
    assert (got - torch.einsum("ij,jhw->ihw", torch.eye(2) - 0.01 * k2 * cross, mode(1, 0))).abs().max() < 1e-14


def test_the_flow_is_differentiable():
    start = (0.5 + 0.1 * torch.randn(1, 4, 4, generator=torch_generator(0, "g"), dtype=R)).requires_grad_()
    for scheme in SCHEMES:
        assert torch.autograd.gradcheck(
            lambda u, s=scheme: reaction_diffusion(u, row(0.1), fisher_kpp(1.0), 0.1, 2, s).states[-1], start
        )


def test_schnakenberg_threshold():
    reaction, rest = schnakenberg(0.1, 0.9), row(1.0, 0.9)
    jacobian = torch.func.jacrev(reaction)(rest)
    assert (jacobian - row([0.8, 1.0], [-1.8, -1.0])).abs().max() < 1e-14
    found = turing_threshold(jacobian)
    assert found.ratio == pytest.approx(8.567627, abs=1e-6)
    assert found.wavenumber_squared == pytest.approx(0.341641, abs=1e-6)
    k = torch.linspace(0.01, 2, 2000, dtype=R)
    below, above = (stability_analysis(rest, row(1.0, found.ratio * f), reaction, k) for f in (0.99, 1.01))
    assert below.growth_rate < 0 < above.growth_rate
    assert above.critical_wavenumber**2 == pytest.approx(found.wavenumber_squared, rel=0.03)


def test_brusselator_threshold():
    a, d = 3.0, row(1.0, 8.0)
    critical = (1 + a * sqrt(1 / 8)) ** 2
    assert critical == pytest.approx(4.246320, abs=1e-6)
    k = torch.linspace(0.9, 1.2, 3001, dtype=R)
    found = stability_analysis(row(a, critical / a), d, brusselator(a, critical), k)
    assert found.growth_rate == pytest.approx(0, abs=1e-7)  # the grid misses the top by half a step of 1e-4
    assert found.critical_wavenumber**2 == pytest.approx(1.060660, abs=3e-4)
    for b, sign in ((1 + a * a - 0.01, -1), (1 + a * a + 0.01, 1)):
        rate = stability_analysis(row(a, b / a), row(0.0, 0.0), brusselator(a, b), row(0.0)).growth_rate
        assert rate * sign > 0


def test_a_seeded_mode_grows_as_predicted():
    reaction, rest, d = schnakenberg(0.1, 0.9), row(1.0, 0.9), row(1.0, 20.0)
    n, h = 16, 1.0
    k = 2 * pi * 2 / n
    found = stability_analysis(rest, d, reaction, row(k))
    wave = torch.cos(k * torch.arange(n, dtype=R))
    seed = 1e-7 * found.eigenvector.real[:, None, None] * wave
    run = reaction_diffusion(rest[:, None, None] + seed.expand(2, n, n), d, reaction, 0.01, 400, spacing=h, every=200)
    sizes = (run.states - rest[:, None, None]).flatten(1).norm(dim=1)
    rate = float((sizes[2] / sizes[1]).log() / 2)
    assert rate == pytest.approx(found.growth_rate, rel=2e-3)


@pytest.mark.slow
def test_arnoldi_finds_the_growth_that_modes_predict():
    reaction, rest, d = schnakenberg(0.1, 0.9), row(1.0, 0.9), row(1.0, 12.0)
    rates, modes = pattern_growth(rest[:, None, None].expand(2, 8, 8), d, reaction, count=2)
    k = 2 * pi * torch.fft.fftfreq(8, dtype=R)
    squares = 4 * (k / 2).sin().square()
    of_differences = (squares.unsqueeze(1) + squares).flatten().sqrt()
    expected = stability_analysis(rest, d, reaction, of_differences).growth_rate
    assert rates[0].real == pytest.approx(expected, abs=1e-9)
    assert modes.shape == (2, 2, 8, 8)


def test_arnoldi_that_does_not_converge_says_so(monkeypatch):
    import scipy.sparse.linalg as sparse

    def never(*_, **__):
        raise sparse.ArpackNoConvergence("no", [], [])

    monkeypatch.setattr(sparse, "eigs", never)
    with pytest.raises(GeometryError, match="did not converge"):
        stability_module.pattern_growth(torch.zeros(1, 4, 4, dtype=R), row(1.0), still)


def pitchfork(u, m):
    return m * u - u**3


@pytest.mark.slow
def test_pitchfork_and_its_branch():
    trivial = bifurcation_analysis(pitchfork, row(0.0), (-1.0, 1.0))
    (point,) = trivial.points
    assert point.kind == "branch"
    assert point.parameter == pytest.approx(0, abs=1e-10)
    assert trivial.stable[0]
    assert not trivial.stable[-1]
    other = bifurcation_analysis(pitchfork, point, (-1.0, 1.0))
    assert (other.states[:, 0].square() - other.parameters).abs().max() < 1e-9
    assert other.parameters[-1] > 0.9
    assert other.stable.all()


def test_fold_downwards():
    branch = bifurcation_analysis(lambda u, m: m - u**2, row(1.0), (1.0, -1.0))
    (fold,) = branch.points
    assert fold.kind == "fold"
    assert fold.parameter == pytest.approx(0, abs=1e-10)
    assert branch.states[-1, 0] < -0.9  # around the nose and back
    assert branch.stable.tolist() == (branch.states[:, 0] > 0).tolist()


def test_a_branch_says_why_it_ends():
    def torn(u, m):  # the rest state u = sqrt(1 - m) meets the end of what the family is defined on at m = 1/2
        return u - (1 - m).sqrt() + 0 * (0.5 - m).sqrt()

    ends = [
        bifurcation_analysis(torn, row(1.0), (0.0, 1.0)).ended,
        bifurcation_analysis(torn, row(1.0), (0.0, 0.3)).ended,
        bifurcation_analysis(torn, row(1.0), (0.0, 1.0), most=3).ended,
    ]
    assert ends == ["lost", "interval", "steps"]


def test_hopf_of_the_brusselator():
    def family(u, b):
        return torch.stack([1 - (b + 1) * u[0] + u[0] ** 2 * u[1], b * u[0] - u[0] ** 2 * u[1]])

    branch = bifurcation_analysis(family, row(1.0, 1.0), (1.0, 3.0))
    assert [p.kind for p in branch.points] == ["hopf"]
    assert branch.points[0].parameter == pytest.approx(2, abs=1e-9)


@pytest.mark.slow
def test_period_doublings_of_the_logistic_map():
    def logistic(u, m):
        return m * u * (1 - u)

    one = bifurcation_analysis(logistic, row(0.5), (2.0, 3.3), discrete=True)
    assert [p.kind for p in one.points] == ["period_doubling"]
    assert one.points[0].parameter == pytest.approx(3, abs=1e-9)
    m = 3.2
    cycle = row((m + 1 + sqrt((m - 3) * (m + 1))) / (2 * m))
    two = bifurcation_analysis(lambda u, r: logistic(logistic(u, r), r), cycle, (m, 3.5), discrete=True)
    assert two.points[0].kind == "period_doubling"
    assert two.points[0].parameter == pytest.approx(1 + sqrt(6), abs=1e-9)


@pytest.mark.slow
def test_maps_leave_the_unit_circle_in_pairs():
    def delayed(u, m):  # u' = m u (1 - v), v' = u: a pair of modulus 1 at m = 2
        return torch.stack([m * u[0] * (1 - u[1]), u[0]])

    branch = bifurcation_analysis(delayed, row(1 / 3, 1 / 3), (1.5, 2.3), discrete=True)
    (point,) = [p for p in branch.points if p.kind == "hopf"]
    assert point.parameter == pytest.approx(2, abs=1e-9)


@pytest.mark.slow
def test_saddle_node_of_gray_scott():
    feed, kill = 0.06, 0.06  # F > 4 (F + k)^2 = 0.0576
    root = sqrt(1 - 4 * (feed + kill) ** 2 / feed)
    u = (1 - root) / 2
    start = row(u, feed * (1 - u) / (feed + kill))
    branch = bifurcation_analysis(lambda s, f: gray_scott(f, kill)(s), start, (feed, 0.01), step=0.02)
    fold = next(p for p in branch.points if p.kind == "fold")
    assert fold.parameter == pytest.approx(4 * (fold.parameter + kill) ** 2, abs=1e-9)
    assert fold.parameter == pytest.approx(0.04, abs=1e-8) or fold.parameter == pytest.approx(0.09, abs=1e-8)


def test_riccati_and_its_horizon():
    one = row([1.0])
    p, k = riccati_gain(one, one, one, one)
    assert p.item() == pytest.approx(1 + sqrt(2), abs=1e-12)
    assert (one - one @ k).item() == pytest.approx(-sqrt(2), abs=1e-12)
    assert riccati_gain(one, one, one, one, horizon=30.0)[0].item() == pytest.approx(1 + sqrt(2), abs=1e-10)
    # p' = -1 - 2p + p^2 backwards from 0 in closed form
    t = torch.tensor(sqrt(2) * 0.4, dtype=R)
    assert riccati_gain(one, one, one, one, horizon=0.4)[0].item() == pytest.approx(
        float(t.tanh() / (sqrt(2) - t.tanh())), abs=1e-12
    )


def test_control_falls_monotonically_within_its_constraints():
    mask = torch.tensor([True, True, True, False])
    limits = ControlConstraints(box=(-0.5, 1.5), budget=4.0, mask=mask)
    got = pattern_control(torch.zeros(4, dtype=R), torch.ones(4, dtype=R), lambda s, c: s + 0.1 * (c - s**3), limits)
    assert (got.costs.diff() <= 0).all()
    assert got.costs[-1] < 0.7 * got.costs[0]
    assert got.control.max() <= 1.5
    assert got.control.min() >= -0.5
    assert got.control.norm() <= 4.0 * (1 + 1e-12)
    assert (got.control[:, 3] == 0).all()


def test_control_of_a_linear_system_is_least_squares():
    target = row(1.0, -2.0)
    got = pattern_control(torch.zeros(2, dtype=R), target, lambda s, c: s + c, steps=3, iterations=200, effort=0.5)
    # each of three equal pushes c minimises (3 c - x)^2 + 0.5 * 3 c^2
    assert (got.control - target / 3.5).abs().max() < 1e-6
    settled = pattern_control(target, target, lambda s, c: s + c, steps=2)
    assert len(settled.costs) == 1


def _line(u, m):
    return u - m


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: reaction_diffusion(mode(1, 0), row(1.0, 1.0), still, 0.3, 1, "explicit"), "0.3 with D_max = 1"),
        (lambda: reaction_diffusion(mode(1, 0), row(1.0, -1.0), still, 0.1, 1), "eigenvalue -1"),
        (lambda: reaction_diffusion(mode(1, 0), row(1.0), still, 0.1, 1), r"\(1,\) for 2"),
        (lambda: reaction_diffusion(mode(1, 0), row(1.0, float("nan")), still, 0.1, 1), "diffusivity is nan"),
        (lambda: reaction_diffusion(mode(1, 0), row(1.0, 1.0), still, -0.1, 1), "-0.1"),
        (lambda: reaction_diffusion(mode(1, 0), row(1.0, 1.0), lambda u: u**3 * 1e200, 0.1, 9), "after step"),
        (lambda: stability_analysis(row(1.0, 1.0), row(1.0, 1.0), schnakenberg(0.1, 0.9), row(1.0)), "moves"),
        (lambda: stability_analysis(row([1.0]), row(1.0), still, row(1.0)), r"\(1, 1\)"),
        (lambda: turing_threshold(row([1.0, 0.0], [0.0, 1.0])), "trace 2"),
        (lambda: turing_threshold(row([1.0])), r"\(1, 1\)"),
        (lambda: pattern_growth(row(1.0), row(1.0), still), r"\(1,\)"),
        (lambda: bifurcation_analysis(_line, row(0.0), (1.0, 1.0)), r"over \(1.0, 1.0\)"),
        (lambda: bifurcation_analysis(lambda u, m: u**2 + 1 + 0 * m, row(1.0), (0.0, 1.0)), "no rest state"),
        (lambda: bifurcation_analysis(lambda u, m: u.log() + m * 0, row(-1.0), (0.0, 1.0)), "no rest state"),
        (lambda: ControlConstraints(box=(1.0, 2.0)), "between 1"),
        (lambda: ControlConstraints(budget=-1.0), "budget of -1"),
        (lambda: pattern_control(row(1.0), row(1.0, 2.0), lambda s, c: s), r"\(1,\) to \(2,\)"),
        (lambda: riccati_gain(row([1.0]), row([0.0]), row([1.0]), row([1.0])), "no stabilising"),
        (lambda: riccati_gain(row([1.0]), row([1.0]), row([1.0]), row([1.0]), horizon=0.0), "horizon of 0"),
        (lambda: riccati_gain(row([1.0]), row([1.0]), row([1.0]), row([-1.0])), "eigenvalue is -1"),
        (lambda: riccati_gain(row([1.0]), row([1.0], [1.0]), row([1.0]), row([1.0])), r"b \(2, 1\)"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_with_its_value(call, says):
    with pytest.raises(GeometryError, match=says):
        call()


def test_unknown_schemes_are_refused():
    with pytest.raises(UnknownName, match="euler"):
        reaction_diffusion(mode(1, 0), row(1.0, 1.0), still, 0.1, 1, "euler")
