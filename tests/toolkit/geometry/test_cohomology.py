"""Cohomology of complexes: known Betti numbers, gudhi, exactness, cup products, characteristic numbers."""

from __future__ import annotations

import math
from itertools import pairwise, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from toolkit.errors import GeometryError
from toolkit.geometry.core.patterns import cohomology as co
from toolkit.geometry.core.patterns.cohomology import classes
from toolkit.geometry.types import Crystal, Lattice, Path, SimplicialComplex, Trajectory
from toolkit.rng import torch_generator

F64 = torch.float64
OCTAHEDRON = [(a, b, c) for a, b, c in product((0, 1), (2, 3), (4, 5))]
TORUS_7 = [tuple(sorted(((i + a) % 7, (i + b) % 7, i))) for i in range(7) for a, b in ((1, 3), (2, 3))]
RP2 = [(0, 1, 2), (0, 2, 3), (0, 3, 4), (0, 4, 5), (0, 1, 5), (1, 2, 4), (2, 4, 5), (2, 3, 5), (1, 3, 5), (1, 3, 4)]


def klein_bottle(n: int = 4) -> list[tuple[int, ...]]:
    def at(i: int, j: int) -> int:  # one full turn along i reflects j
        return (i % n) * n + (j if i < n else -j) % n

    squares = [(at(i, j), at(i + 1, j), at(i, j + 1), at(i + 1, j + 1)) for i in range(n) for j in range(n)]
    return [triangle for a, b, c, d in squares for triangle in ((a, b, d), (a, c, d))]


def of(facets: list[tuple[int, ...]], coefficients: classes.Coefficients = "R") -> co.SimplicialCohomology:
    return co.SimplicialCohomology(SimplicialComplex.from_facets(facets), coefficients)


SPACES = {"sphere": OCTAHEDRON, "torus": TORUS_7, "klein": klein_bottle(), "rp2": RP2}


@pytest.mark.parametrize(
    ("space", "coefficients", "betti"),
    [
        ("torus", "R", (1, 2, 1)),
        ("klein", "R", (1, 1, 0)),
        ("klein", 2, (1, 2, 1)),
        ("klein", 3, (1, 1, 0)),
        ("sphere", "R", (1, 0, 1)),
        ("rp2", "R", (1, 0, 0)),
        ("rp2", 2, (1, 1, 1)),
        ("rp2", 3, (1, 0, 0)),
    ],
)
def test_betti_numbers(space: str, coefficients: classes.Coefficients, betti: tuple[int, ...]) -> None:
    found = of(SPACES[space], coefficients)
    assert tuple(found.betti(k) for k in range(3)) == betti
    assert found.betti(3) == found.betti(-1) == 0
    for k in range(3):
        basis = found.cohomology_classes(k)
        assert basis.shape == (betti[k], found.complex.count(k))
        closed = found.exterior_derivative(basis, k)
        assert closed.abs().sum() < 1e-12
    assert found.complex.euler_characteristic == sum((-1) ** k * b for k, b in enumerate(betti))


@settings(max_examples=20, derandomize=True, deadline=None)
@given(
    st.lists(st.sets(st.integers(0, 7), min_size=1, max_size=4), min_size=1, max_size=9), st.sampled_from([2, 3, 11])
)
def test_against_gudhi(facets: list[set[int]], p: int) -> None:
    gudhi = pytest.importorskip("gudhi")
    tree = gudhi.SimplexTree()
    for facet in facets:
        tree.insert(sorted(facet))
    complex_ = SimplicialComplex.from_facets([tuple(f) for f in facets])
    assert complex_.count(0) == tree.num_vertices()
    assert sum(map(len, complex_.simplices)) == tree.num_simplices()
    tree.compute_persistence(homology_coeff_field=p, persistence_dim_max=True)
    expected = tree.betti_numbers()
    found = co.SimplicialCohomology(complex_, p)
    assert [found.betti(k) for k in range(complex_.dim + 1)] == expected[: complex_.dim + 1]
    assert complex_.euler_characteristic == sum((-1) ** k * found.betti(k) for k in range(complex_.dim + 1))


@settings(max_examples=20, derandomize=True, deadline=None)
@given(st.lists(st.sets(st.integers(0, 8), min_size=1, max_size=5), min_size=1, max_size=8), st.integers(0, 2**32))
def test_d_squared_is_zero_and_leibniz(facets: list[set[int]], seed: int) -> None:
    complex_ = SimplicialComplex.from_facets([tuple(f) for f in facets])
    found = co.SimplicialCohomology(complex_)
    generator = torch_generator(seed)
    forms = [torch.randint(-9, 9, (2, complex_.count(k)), generator=generator) for k in range(complex_.dim + 1)]
    for k in range(complex_.dim):
        if complex_.count(k + 2):
            assert not (co.coboundary(complex_, k + 1) @ co.coboundary(complex_, k)).toarray().any()
        once = found.exterior_derivative(forms[k], k)
        assert torch.equal(once, torch.from_numpy((co.coboundary(complex_, k) @ forms[k].numpy().T).T))
    for p, q in product(range(complex_.dim), repeat=2):
        if p + q + 1 > complex_.dim:
            continue
        a, b = forms[p], forms[q]
        left = found.exterior_derivative(found.cup_product(a, b, (p, q)), p + q)
        right = found.cup_product(found.exterior_derivative(a, p), b, (p + 1, q))
        right = right + (-1) ** p * found.cup_product(a, found.exterior_derivative(b, q), (p, q + 1))
        assert torch.equal(left, right)


def test_products_above_the_dimension_are_empty() -> None:
    found = of(RP2)
    area = torch.ones(2, 10, dtype=F64)
    assert found.exterior_derivative(area, 2).shape == (2, 0)
    assert found.cup_product(area, area[0], (2, 2)).shape == (2, 0)


def test_stokes() -> None:
    torus = co.grid_torus(4, 5)
    patch = torch.zeros(torus.count(2), dtype=torch.int64)
    patch[::3] = 1
    form = torch.randint(-5, 5, (torus.count(1),), generator=torch_generator(0))
    boundary = torch.from_numpy(co.coboundary(torus, 1).T @ patch.numpy())
    assert torch.equal((co.exterior_derivative(torus, form, 1) * patch).sum(), (form * boundary).sum())


def fundamental_cycle(torus: SimplicialComplex) -> Tensor:
    kernel = classes.kernel_modulo(co.coboundary(torus, 1).T.toarray(), 1_000_003)
    cycle = torch.from_numpy(kernel[0])
    return torch.where(cycle > 500_000, cycle - 1_000_003, cycle)


def test_cup_product_of_the_torus() -> None:
    n = 4
    torus = co.grid_torus(n, n)
    found = co.SimplicialCohomology(torus)
    harmonic = found.cohomology_classes(1)

    def loop(step: int) -> Tensor:  # the oriented chain of a grid loop through vertex 0
        vertices = [step * i for i in range(n)] + [0]
        chain = torch.zeros(torus.count(1), dtype=F64)
        for a, b in pairwise(vertices):
            chain[co.positions_of(torus, torch.tensor([sorted((a, b))]))] += 1 if a < b else -1
        return chain

    loops = torch.stack([loop(n), loop(1)])
    a, b = torch.linalg.inv(harmonic @ loops.T) @ harmonic
    whole = fundamental_cycle(torus).to(F64)
    assert whole.abs().min() == whole.abs().max() == 1
    ab, ba, aa = (float(found.cup_product(x, y, (1, 1)) @ whole) for x, y in ((a, b), (b, a), (a, a)))
    assert abs(ab) == pytest.approx(1, abs=1e-12)
    assert ba == pytest.approx(-ab, abs=1e-12)
    assert aa == pytest.approx(0, abs=1e-12)


def test_hodge_theory_with_the_metric_of_a_mesh() -> None:
    n = 6
    torus = co.grid_torus(n, n)
    angle = torch.arange(n, dtype=F64) * (2 * math.pi / n)
    u, v = torch.meshgrid(angle, angle, indexing="ij")
    points = torch.stack([(3 + v.cos()) * u.cos(), (3 + v.cos()) * u.sin(), v.sin()], -1).reshape(-1, 3)
    defects = co.angle_defects(torus, points)
    assert defects.sum().abs() < 1e-12
    assert co.euler_number(torus, points) == 0
    sphere = SimplicialComplex.from_facets(OCTAHEDRON)
    corners = torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0, 2, 0], [0, -2, 0], [0, 0, 1], [0, 0, -1]], dtype=F64)
    assert co.euler_number(sphere, corners) == 2
    masses = co.dec_masses(sphere, corners)
    assert float(masses[0].sum()) == pytest.approx(float((1 / masses[2]).sum()))  # both are the area
    found = co.SimplicialCohomology(sphere, masses=masses)
    space = found.differential_forms(2)
    basis = found.cohomology_classes(2)
    torch.testing.assert_close(space.inner(basis, basis), torch.ones(1, dtype=F64))
    density = basis[0] * masses[2] * torch.tensor([1.0, -1, -1, 1, -1, 1, 1, -1], dtype=F64)
    torch.testing.assert_close(density, density[:1].expand(8))  # the harmonic 2-form is the area form
    assert found.cohomology_classes(1).shape == (0, 12)
    # on functions the mesh Laplacian is exact for linear ones in the plane
    hexagon = SimplicialComplex.from_facets([(i, (i + 1) % 6, 6) for i in range(6)])
    turn = torch.arange(6, dtype=F64) * (math.pi / 3)
    flat = torch.cat([torch.stack([turn.cos(), turn.sin()], -1), torch.tensor([[0.05, 0.1]], dtype=F64)])
    slope = co.exterior_derivative(hexagon, flat[:, 0], 0) * co.dec_masses(hexagon, flat)[1]
    assert abs(float((co.coboundary(hexagon, 0).T @ slope.numpy())[6])) < 1e-14


def test_spaces_of_forms() -> None:
    found = co.SimplicialCohomology(co.grid_torus(3, 4))
    for k, count in enumerate((12, 36, 24)):
        space = found.differential_forms(k)
        assert space.dim == len(space.basis()) == count
        assert torch.equal(space.inner(space.basis(), space.basis()), torch.ones(count, dtype=F64))
    laplacian = found.hodge_laplacian(1)
    assert torch.equal(laplacian, laplacian.T)
    assert torch.linalg.eigvalsh(laplacian)[0] > -1e-12


def test_large_complexes_use_sparse_eigenvectors(monkeypatch: pytest.MonkeyPatch) -> None:
    found = co.SimplicialCohomology(co.grid_torus(6, 6))
    dense = found.cohomology_classes(1)
    monkeypatch.setattr(classes, "_DENSE_SIMPLICES", 10)
    sparse = found.cohomology_classes(1)
    torch.testing.assert_close(sparse.T @ sparse, dense.T @ dense, rtol=0, atol=1e-10)
    assert of(OCTAHEDRON).cohomology_classes(1).shape == (0, 12)
    points = SimplicialComplex.from_facets([(i,) for i in range(30)])
    assert co.SimplicialCohomology(points).cohomology_classes(0).shape == (30, 30)


def test_attention_that_runs_in_a_ring() -> None:
    n = 12
    near = torch.eye(n, dtype=F64).roll(1, 0)
    ring = 0.4 * near + 0.4 * near.T + 0.2 * torch.eye(n, dtype=F64)
    circle = co.SimplicialCohomology(co.from_attention(ring, 0.3))
    assert [circle.betti(k) for k in (0, 1, 2)] == [1, 1, 0]
    apart = co.from_attention(ring, 0.5)
    assert co.SimplicialCohomology(apart).betti(0) == n
    everyone = co.from_attention(torch.full((6, 6), 1 / 6, dtype=F64), 0.1)
    assert [everyone.count(k) for k in range(4)] == [6, 15, 20, 0]
    assert co.from_attention(torch.full((6, 6), 1 / 6, dtype=F64), 0.1, max_dim=5).euler_characteristic == 1


def qwz(mass: float, size: int = 16) -> Tensor:
    k = torch.arange(size, dtype=F64) * (2 * math.pi / size)
    x, y = torch.meshgrid(k, k, indexing="ij")
    pauli = torch.tensor([[[0, 1], [1, 0]], [[0, -1j], [1j, 0]], [[1, 0], [0, -1]]], dtype=torch.complex128)
    parts = torch.stack([x.sin(), y.sin(), mass + x.cos() + y.cos()], -1).to(torch.complex128)
    return torch.linalg.eigh(torch.einsum("xyp,pab->xyab", parts, pauli)).eigenvectors[..., 0]


def test_chern_numbers_of_a_two_band_model() -> None:
    below, above = co.lattice_chern_number(qwz(-1.0)), co.lattice_chern_number(qwz(1.0))
    assert abs(below) == 1
    assert above == -below
    assert co.lattice_chern_number(qwz(3.0)) == co.lattice_chern_number(qwz(-3.0)) == 0
    phases = torch.rand(16, 16, 1, generator=torch_generator(2), dtype=F64) * 7
    assert co.lattice_chern_number(qwz(-1.0) * torch.exp(1j * phases)) == below
    both = torch.stack([qwz(-1.0), torch.linalg.eigh(torch.eye(2)).eigenvectors[0].expand(16, 16, 2) + 0j], -1)
    trivial = torch.eye(2, dtype=torch.complex128).expand(16, 16, 2, 2)
    assert co.lattice_chern_number(trivial) == 0
    assert co.lattice_chern_number(both[..., 0]) == below


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: SimplicialComplex(()), "without vertices"),
        (lambda: SimplicialComplex((torch.ones(2, 2, dtype=torch.int64),)), "dimension 0"),
        (lambda: SimplicialComplex((torch.tensor([[1], [0]]),)), "ascending"),
        (lambda: SimplicialComplex((torch.tensor([[0], [1]]), torch.tensor([[0, 2]]))), r"face \(2,\)"),
        (lambda: SimplicialComplex.from_facets([(0, 0)]), r"\(0, 0\)"),
        (lambda: co.grid_torus(2, 5), "2 x 5"),
        (lambda: co.from_attention(torch.ones(2, 2), 0.0), "threshold 0.0"),
        (lambda: of(RP2, 4), "modulo 4"),
        (lambda: of(RP2).differential_forms(3), "no 3-simplices"),
        (lambda: of(RP2).exterior_derivative(torch.ones(4), 1), r"\(4,\)"),
        (lambda: co.positions_of(SimplicialComplex.from_facets(RP2), torch.tensor([[0, 9]])), r"\(0, 9\)"),
        (lambda: co.dec_masses(SimplicialComplex.from_facets([(0, 1)]), torch.ones(2, 2)), "dimension 1"),
        (lambda: co.dec_masses(SimplicialComplex.from_facets([(0, 1, 2)]), torch.ones(3, 2)), "area 0"),
        (
            lambda: co.dec_masses(
                SimplicialComplex.from_facets([(0, 1, 2)]), torch.tensor([[0.0, 0], [4, 0], [2, 0.1]])
            ),
            "star of an edge",
        ),
        (lambda: co.angle_defects(SimplicialComplex.from_facets([(0, 1, 2)]), torch.ones(3, 3)), "closed surface"),
        (lambda: co.euler_number(SimplicialComplex.from_facets(OCTAHEDRON), torch.ones(6, 3)), "area 0"),
        (lambda: co.lattice_chern_number(torch.eye(2).reshape(2, 1, 2) + 0j), "overlap by 0"),
        (lambda: Lattice(torch.ones(2, 2)), "volume of 0"),
        (lambda: Lattice(torch.ones(0, 0)), r"\(0, 0\)"),
        (lambda: Crystal(Lattice(torch.eye(2)), torch.ones(0, 2), torch.ones(0)), "at least one atom|positions"),
        (lambda: Crystal(Lattice(torch.eye(2)), torch.ones(1, 2), torch.ones(2)), "species"),
        (lambda: Path(torch.ones(3, 2), torch.arange(2.0)), "a path of 3"),
        (lambda: Trajectory(torch.ones(2, 2), torch.zeros(2)), "ascend"),
    ],
)
def test_bad_input(call, says: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(GeometryError, match=says):
        call()


def test_lattices() -> None:
    lattice = Lattice(torch.tensor([[1.0, 0.0], [0.5, 2.0]], dtype=F64))
    assert float(lattice.volume) == 2.0
    assert lattice.dim == 2
    torch.testing.assert_close(lattice.reciprocal.vectors @ lattice.vectors.T, 2 * math.pi * torch.eye(2, dtype=F64))
    crystal = Crystal(lattice, torch.zeros(1, 2, dtype=F64), torch.zeros(1, dtype=torch.int64), torch.ones(1))
    assert crystal.hoppings is None
