"""Crystals: space groups, lattices found in noise, zones, bands, vibrations, extinctions."""

from itertools import product
from math import cos, pi, radians, sin, sqrt

import pytest
import torch

from toolkit.errors import GeometryError, MissingDependency
from toolkit.geometry.core.crystal.refraction import (
    band_structure,
    bloch_hamiltonian,
    brillouin_zones,
    chern_number,
    compute_symmetries,
    detect_lattice,
    finite_chain,
    image_symmetries,
    phonon_modes,
    plane_wave_bands,
    structure_factor,
    suggest_tile_size,
    winding_number,
    zak_phase,
    zone_number,
)
from toolkit.geometry.core.crystal.refraction import symmetries as symmetries_module
from toolkit.geometry.core.crystal.refraction.lattices import lattice_type
from toolkit.geometry.types import Crystal, Lattice
from toolkit.rng import torch_generator

R = torch.float64
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:spglib")  # its change of error handling


def t(values) -> torch.Tensor:
    return torch.tensor(values, dtype=R)


CENTRING = {
    "P": torch.eye(3, dtype=R),
    "F": t([[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]),
    "I": t([[-0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.5, 0.5, -0.5]]),
    "C": t([[0.5, -0.5, 0], [0.5, 0.5, 0], [0, 0, 1]]),
    "R": t([[2, 1, 1], [-1, 1, 1], [-1, -2, 1]]) / 3,
}


def crystal(vectors, positions, species) -> Crystal:
    return Crystal(Lattice(t(vectors)), t(positions), torch.tensor(species))


def conventional(centring, basis, species) -> Crystal:
    shifts = {"P": [[0, 0, 0]], "F": [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]],
              "I": [[0, 0, 0], [0.5, 0.5, 0.5]]}[centring]  # fmt: skip
    atoms = [[(b + s) % 1 for b, s in zip(atom, shift, strict=True)] for atom in basis for shift in shifts]
    return crystal(torch.eye(3).tolist(), atoms, [kind for kind in species for _ in shifts])


HCP = crystal(
    [[1, 0, 0], [-0.5, sqrt(3) / 2, 0], [0, 0, sqrt(8 / 3)]], [[1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]], [1, 1]
)
STRUCTURES = {
    "sc": (conventional("P", [[0, 0, 0]], [1]), 221, 48),
    "bcc": (conventional("I", [[0, 0, 0]], [1]), 229, 96),
    "fcc": (conventional("F", [[0, 0, 0]], [1]), 225, 192),
    "NaCl": (conventional("F", [[0, 0, 0], [0.5, 0.5, 0.5]], [1, 2]), 225, 192),
    "CsCl": (conventional("P", [[0, 0, 0], [0.5, 0.5, 0.5]], [1, 2]), 221, 48),
    "diamond": (conventional("F", [[0, 0, 0], [0.25, 0.25, 0.25]], [1, 1]), 227, 192),
    "zincblende": (conventional("F", [[0, 0, 0], [0.25, 0.25, 0.25]], [1, 2]), 216, 96),
    "hcp": (HCP, 194, 24),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_space_groups_and_that_their_operations_close(name):
    structure, number, count = STRUCTURES[name]
    found = compute_symmetries(structure)
    assert (found.number, len(found.rotations)) == (number, count)
    operations = {
        (tuple(w.flatten().tolist()), tuple((s * 48).round().long().remainder(48).tolist()))
        for w, s in zip(found.rotations, found.translations, strict=True)
    }
    first = list(zip(found.rotations, found.translations, strict=True))
    for (w, s), (v, u) in product(first[:12], first[-12:]):
        shift = (((w.to(R) @ u + s) * 48).round().long()).remainder(48)
        assert (tuple((w @ v).flatten().tolist()), tuple(shift.tolist())) in operations
    moved = (structure.positions @ found.rotations[-1].to(R).T + found.translations[-1]).remainder(1)
    apart = (moved.unsqueeze(1) - structure.positions).sub((moved.unsqueeze(1) - structure.positions).round())
    assert apart.norm(dim=-1).min(1).values.max() < 1e-6


def test_layer_groups_of_plane_crystals():
    square = compute_symmetries(crystal([[1, 0], [0, 1]], [[0, 0]], [1]))
    assert (square.symbol, len(square.rotations)) == ("p4/mmm", 8)
    graphene = compute_symmetries(crystal([[1, 0], [-0.5, sqrt(3) / 2]], [[1 / 3, 2 / 3], [2 / 3, 1 / 3]], [6, 6]))
    assert (graphene.symbol, len(graphene.rotations)) == ("p6/mmm", 12)
    assert graphene.rotations.shape[1:] == (2, 2)
    assert graphene.equivalent_atoms.tolist() == [0, 0]


def test_symmetries_of_images():
    axis = torch.arange(64, dtype=R)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    square = torch.cos(2 * pi * x / 12.3) + torch.cos(2 * pi * y / 12.3)
    assert set(image_symmetries(square)) == {"2", "4", "m", "m'"}
    rectangle = torch.cos(2 * pi * x / 12.3) + torch.cos(2 * pi * y / 8.1)
    assert set(image_symmetries(rectangle)) == {"2", "m"}
    hexagonal = sum(torch.cos(2 * pi / 10 * (cos(a) * x + sin(a) * y)) for a in (0, 2 * pi / 3, 4 * pi / 3))
    assert set(image_symmetries(hexagonal)) == {"2", "3", "6", "m"}
    triangles = sum(torch.sin(2 * pi / 10 * (cos(a) * x + sin(a) * y)) for a in (0, 2 * pi / 3, 4 * pi / 3))
    assert set(image_symmetries(triangles)) >= {"3"}
    assert "6" not in image_symmetries(triangles)


def sampled(vectors: torch.Tensor, side: int, width: float, noise: float) -> torch.Tensor:
    d = len(vectors)
    axes = torch.arange(side, dtype=R)
    points = torch.stack(torch.meshgrid(*[axes] * d, indexing="ij"), -1)
    counts = points @ torch.linalg.inv(vectors)
    off = counts - counts.round()
    density = sum(
        torch.exp(-((off - t(s)) @ vectors).square().sum(-1) / (2 * width**2)) for s in product((-1, 0, 1), repeat=d)
    )
    return density + noise * torch.randn(density.shape, generator=torch_generator(0, "noise"), dtype=R)


def cell(a, b, c, alpha=90.0, beta=90.0, gamma=90.0) -> torch.Tensor:
    alpha, beta, gamma = (radians(angle) for angle in (alpha, beta, gamma))
    x, y = c * cos(beta), c * (cos(alpha) - cos(beta) * cos(gamma)) / sin(gamma)
    return t([[a, 0, 0], [b * cos(gamma), b * sin(gamma), 0], [x, y, sqrt(c * c - x * x - y * y)]])


PLANE = {
    "square": [[9.3, 0], [0, 9.3]],
    "rectangular": [[9.3, 0], [0, 12.1]],
    "hexagonal": [[10.0, 0], [5, 8.66025]],
    "centred rectangular": [[5.2, 8.0], [-5.2, 8.0]],
    "oblique": [[9.0, 0], [3.2, 11.0]],
}
SPACE = {
    "cubic P": cell(8, 8, 8), "cubic F": cell(14, 14, 14), "cubic I": cell(11, 11, 11),
    "tetragonal P": cell(8, 8, 11), "tetragonal I": cell(10, 10, 12),
    "orthorhombic P": cell(7.5, 9, 11), "orthorhombic C": cell(10.5, 13.5, 8.5),
    "orthorhombic I": cell(9, 11, 13.5), "orthorhombic F": cell(12, 14.5, 17.5),
    "hexagonal P": cell(8.5, 8.5, 11, gamma=120), "hexagonal R": cell(11, 11, 20, gamma=120),
    "monoclinic P": cell(7.5, 9, 11, beta=105), "monoclinic C": cell(10.5, 13.5, 9, beta=105),
    "triclinic P": cell(7.5, 9, 10.5, 80, 98, 107),
}  # fmt: skip


@pytest.mark.parametrize("kind", PLANE)
def test_plane_lattices_are_found_in_noise(kind):
    found = detect_lattice(sampled(t(PLANE[kind]), 80, 1.5, 0.2))
    assert found is not None
    assert found.kind == kind
    assert found.lattice.volume == pytest.approx(float(torch.linalg.det(t(PLANE[kind])).abs()), rel=0.02)
    assert found.confidence > 2


QUICK = ("cubic I", "tetragonal P", "orthorhombic C", "hexagonal R", "triclinic P")


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind in QUICK else pytest.mark.slow) for kind in SPACE]
)
def test_space_lattices_are_found_in_noise(kind):
    vectors = CENTRING[kind[-1]] @ SPACE[kind]
    found = detect_lattice(sampled(vectors, 40, 1.3, 0.2))
    assert found is not None
    assert found.kind == kind
    assert found.lattice.volume == pytest.approx(float(torch.linalg.det(vectors).abs()), rel=0.05)


@pytest.mark.parametrize("kind", SPACE)
def test_types_of_space_lattices_do_not_depend_on_the_basis(kind):
    vectors = CENTRING[kind[-1]] @ SPACE[kind]
    other = t([[1, 1, 0], [0, 1, 2], [0, 0, 1]]) @ vectors
    assert lattice_type(Lattice(vectors)) == lattice_type(Lattice(other)) == kind


@pytest.mark.parametrize("kind", PLANE)
def test_types_of_plane_lattices_do_not_depend_on_the_basis(kind):
    for change in ([[3, 1], [4, 1]], [[3, 1], [2, 1]], [[1, -2], [0, 1]]):
        assert lattice_type(Lattice(t(change) @ t(PLANE[kind]))) == kind


def test_a_supercell_gives_its_primitive_cell_and_noise_gives_none():
    honeycomb = sampled(t([[12.0, 0], [6, 10.3923]]), 96, 1.3, 0.1)
    two = honeycomb + honeycomb.roll((4, 7), (0, 1)) * 0.7  # two unlike atoms: the translations stay those of one
    found = detect_lattice(two)
    assert found is not None
    assert found.lattice.volume == pytest.approx(12 * 10.3923, rel=0.02)
    assert detect_lattice(torch.randn(64, 64, generator=torch_generator(0, "noise"), dtype=R)) is None
    assert detect_lattice(torch.ones(16, 16)) is None
    stripes = torch.cos(torch.arange(64, dtype=R)).expand(64, 64)
    assert detect_lattice(stripes) is None  # one translation is no lattice of the plane


@pytest.mark.parametrize(
    ("centring", "faces", "corners"), [("P", 6, 8), ("F", 14, 24), ("I", 12, 14)], ids=["sc", "fcc", "bcc"]
)
def test_first_zones_of_cubic_lattices(centring, faces, corners):
    from scipy.spatial import ConvexHull

    lattice = Lattice(CENTRING[centring] * 1.7)
    first, second = brillouin_zones(lattice, 2)
    assert (len(first.faces), len(first.vertices)) == (faces, corners)
    assert ConvexHull(first.vertices.numpy()).volume == pytest.approx(first.volume, rel=1e-9)
    assert first.volume == pytest.approx((2 * pi) ** 3 / float(lattice.volume))
    assert first.contains(0.99 * first.vertices).all()
    assert not first.contains(1.01 * first.vertices).any()
    assert second.contains(1.01 * torch.stack([first.vertices[list(f)].mean(0) for f in first.faces])).all()


@pytest.mark.slow
def test_zones_of_a_skewed_plane_lattice_have_equal_areas():
    lattice = Lattice(t([[1.0, 0.0], [2.3, 0.8]]))
    zones = brillouin_zones(lattice, 4)
    hull = zones[0].vertices
    assert len(zones[0].faces) == len(hull) == 6
    side, count = 30.0, 60_000
    k = (torch.rand(count, 2, generator=torch_generator(0, "zones"), dtype=R) - 0.5) * side
    numbers = zone_number(lattice, k)
    share = zones[0].volume / side**2
    for zone in zones:
        found = float((numbers == zone.number).double().mean())
        assert abs(found - share) < 4 * sqrt(share * (1 - share) / count)
    assert brillouin_zones(Lattice(t([[2.0]])), 1)[0].vertices is None
    assert zone_number(Lattice(t([[2.0]])), t([[0.1], [2.0], [-4.0]])).tolist() == [1, 2, 3]
    assert zone_number(lattice, torch.zeros(0, 2)).shape == (0,)


def chain(hop=1.0) -> Crystal:
    return single(hoppings={(1,): t([[-hop]]), (-1,): t([[-hop]])})


def ssh(v, w) -> Crystal:
    hops = {(0,): t([[0, v], [v, 0]]), (1,): t([[0, 0], [w, 0]]), (-1,): t([[0, w], [0, 0]])}
    return Crystal(Lattice(t([[1.0]])), t([[0.0], [0.5]]), torch.tensor([0, 0]), hoppings=hops)


def graphene() -> Crystal:
    vectors = t([[1, 0], [-0.5, sqrt(3) / 2]])
    ab, ba = t([[0, 1], [0, 0]]), t([[0, 0], [1, 0]])
    hops = {(0, 0): ab + ba, (0, 1): ba, (0, -1): ab, (1, 1): ba, (-1, -1): ab}
    return Crystal(Lattice(vectors), t([[0, 0], [1 / 3, 2 / 3]]), torch.tensor([6, 6]), hoppings=hops)


def qi_wu_zhang(mass: float) -> Crystal:
    pauli = ([[0, 1], [1, 0]], [[0, -1j], [1j, 0]], [[1, 0], [0, -1]])
    x, y, z = (torch.tensor(m, dtype=torch.complex128) for m in pauli)
    hx, hy = (z - 1j * x) / 2, (z - 1j * y) / 2
    hops = {(0, 0): mass * z, (1, 0): hx, (-1, 0): hx.mH, (0, 1): hy, (0, -1): hy.mH}
    return Crystal(Lattice(torch.eye(2, dtype=R)), torch.zeros(2, 2, dtype=R), torch.tensor([0, 0]), hoppings=hops)


def test_bands_of_a_chain_and_of_graphene():
    k = torch.linspace(-pi, pi, 50, dtype=R).unsqueeze(1)
    assert (band_structure(chain(0.7), k).energies[:, 0] + 1.4 * torch.cos(k[:, 0])).abs().max() < 1e-13
    b = graphene().lattice.reciprocal.vectors
    points = torch.stack([(b[0] + b[1]) / 3, 0 * b[0], b[0] / 2])
    energies = band_structure(graphene(), points).energies[:, 1]
    assert energies.tolist() == pytest.approx([0, 3, 1], abs=1e-12)


def test_bands_keep_the_symmetries_of_the_crystal():
    k = torch.randn(7, 2, generator=torch_generator(0, "k"), dtype=R)
    b = graphene().lattice.reciprocal.vectors
    turn = t([[cos(pi / 3), -sin(pi / 3)], [sin(pi / 3), cos(pi / 3)]])
    energies = band_structure(graphene(), k).energies
    for same in (-k, k + b[0] - 2 * b[1], k @ turn.T):
        assert (band_structure(graphene(), same).energies - energies).abs().max() < 1e-12


def test_ssh_gap_winding_zak_phase_and_edge_modes():
    k = torch.linspace(0, 2 * pi, 201, dtype=R).unsqueeze(1)
    for v, w in ((0.5, 1.0), (1.0, 0.4)):
        energies = band_structure(ssh(v, w), k).energies
        assert (energies[:, 1] - energies[:, 0]).min() == pytest.approx(2 * abs(v - w), abs=1e-12)
        assert abs(winding_number(ssh(v, w))) == (v < w)
        assert zak_phase(ssh(v, w)) == pytest.approx(pi if v < w else 0, abs=1e-9)
        near_zero = int((torch.linalg.eigvalsh(finite_chain(ssh(v, w), 40)).abs() < 1e-6).sum())
        assert near_zero == (2 if v < w else 0)


@pytest.mark.parametrize(("mass", "expected"), [(-3.0, 0), (-1.0, 1), (1.0, 1), (3.0, 0)])
def test_chern_numbers(mass, expected):
    assert abs(chern_number(qi_wu_zhang(mass))) == expected
    assert chern_number(qi_wu_zhang(mass)) == -chern_number(qi_wu_zhang(-mass))


def test_nearly_free_bands():
    lattice, v = Lattice(t([[1.0]])), 0.05
    gaps = []
    for strength in (v, v / 2):
        edge = plane_wave_bands(lattice, {(1,): strength, (-1,): strength}, t([[pi]])).energies[0]
        gaps.append(abs(float(edge[1] - edge[0]) - 2 * strength))
    assert gaps[0] < v**2
    free = plane_wave_bands(lattice, {}, t([[0.3]])).energies[0, 0]
    assert free == pytest.approx(0.045)


def spring_chain(k=1.5, m=0.8) -> Crystal:
    phi = {(0,): t([[[[2 * k]]]]), (1,): t([[[[-k]]]]), (-1,): t([[[[-k]]]])}
    return Crystal(Lattice(t([[1.0]])), t([[0.0]]), torch.tensor([0]), masses=t([m]), force_constants=phi)


def diatomic(k, m, mm, own=0.0) -> Crystal:
    phi = {(0,): t([[2 * k + own, -k], [-k, 2 * k]]), (1,): t([[0, 0], [-k, 0]]), (-1,): t([[0, -k], [0, 0]])}
    blocks = {cell: matrix.reshape(2, 1, 2, 1) for cell, matrix in phi.items()}
    both = t([[0.0], [0.5]]), torch.tensor([0, 1])
    return Crystal(Lattice(t([[1.0]])), *both, masses=t([m, mm]), force_constants=blocks)


def test_vibrations_of_chains():
    q = torch.linspace(-pi, pi, 41, dtype=R).unsqueeze(1)
    one = phonon_modes(spring_chain(), q)
    assert (one.frequencies[:, 0] - 2 * sqrt(1.5 / 0.8) * (q[:, 0] / 2).sin().abs()).abs().max() < 1e-7
    assert not one.imaginary.any()
    k, m, mm = 1.3, 1.0, 2.5
    two = phonon_modes(diatomic(k, m, mm), q)
    total = 1 / m + 1 / mm
    root = (total**2 - 4 * (q[:, 0] / 2).sin().square() / (m * mm)).sqrt()
    expected = torch.stack([k * (total - root), k * (total + root)], -1)
    assert (two.frequencies.square() - expected).abs().max() < 1e-13
    assert two.frequencies[0].tolist() == pytest.approx([sqrt(2 * k / mm), sqrt(2 * k / m)], abs=1e-12)
    slow = phonon_modes(diatomic(k, m, mm), t([[1e-3]])).frequencies[0, 0] / 1e-3
    assert slow == pytest.approx(sqrt(k / (2 * (m + mm))), rel=1e-6)


def test_acoustic_sum_rule_and_imaginary_modes():
    broken = diatomic(1.3, 1.0, 2.5, own=0.2)
    reported = phonon_modes(broken, t([[0.0]]))
    assert reported.acoustic_residual == pytest.approx(0.2)
    assert reported.frequencies[0, 0] > 0.1
    enforced = phonon_modes(broken, t([[0.0]]), acoustic_sum="enforce")
    assert enforced.frequencies[0, 0] < 1e-7
    whole = phonon_modes(diatomic(1.3, 1.0, 2.5), t([[0.7]])).frequencies
    assert (phonon_modes(broken, t([[0.7]]), acoustic_sum="enforce").frequencies - whole).abs().max() < 1e-12
    assert phonon_modes(spring_chain(k=-1.0), t([[1.0]])).imaginary.all()


def test_extinctions():
    h = torch.tensor(list(product(range(-2, 3), repeat=3)))
    parity, total = h.remainder(2), h.sum(1).remainder(2)
    bcc, fcc, diamond = (structure_factor(STRUCTURES[name][0], h).abs() for name in ("bcc", "fcc", "diamond"))
    assert (bcc[total == 1] < 1e-12).all()
    assert (bcc[total == 0] > 1.99).all()
    mixed = (parity.sum(1) % 3) != 0
    assert (fcc[mixed] < 1e-12).all()
    assert (fcc[~mixed] > 3.99).all()
    assert structure_factor(STRUCTURES["diamond"][0], torch.tensor([[2, 0, 0], [2, 2, 2]])).abs().max() < 1e-12
    assert (diamond[mixed] < 1e-12).all()
    salt = structure_factor(STRUCTURES["NaCl"][0], torch.tensor([1, 1, 1]), {1: 3.0, 2: 2.0})
    assert salt.abs() == pytest.approx(4.0)


@pytest.mark.parametrize("period", [3, 8, 17])
def test_period_of_attention(period):
    i = torch.arange(160)
    strided = (((i.unsqueeze(1) - i) % period == 0) & (i.unsqueeze(1) >= i)).double()
    assert suggest_tile_size(strided / strided.sum(1, keepdim=True)) == period
    columns = ((i % period == 0).double() + 0.05).expand(160, 160)
    assert suggest_tile_size(columns / columns.sum(1, keepdim=True)) == period


def test_tile_sizes_and_attention_without_period():
    i = torch.arange(128)
    strided = ((i.unsqueeze(1) - i) % 14 == 0).double()
    assert suggest_tile_size(strided, (8, 16, 32)) == 16
    noise = torch.softmax(torch.randn(128, 128, generator=torch_generator(0, "p"), dtype=R), 1)
    assert suggest_tile_size(noise) is None
    assert suggest_tile_size(torch.full((32, 32), 1 / 32)) is None


def test_spglib_that_raises_is_one_of_our_errors(monkeypatch):
    error = pytest.importorskip("spglib.error")
    monkeypatch.setattr(error, "OLD_ERROR_HANDLING", False)
    with pytest.raises(GeometryError, match="spglib finds no symmetry"):
        compute_symmetries(crystal(torch.eye(3).tolist(), [[0, 0, 0], [0, 0, 0]], [1, 1]))


def test_a_missing_spglib_names_the_extra(monkeypatch):
    monkeypatch.setattr(symmetries_module, "import_module", lambda name: (_ for _ in ()).throw(ImportError(name)))
    with pytest.raises(MissingDependency, match="spglib") as caught:
        compute_symmetries(HCP)
    assert "edge-toolkit[geometry]" in caught.value.hint
    assert caught.value.exit_code == 3


def single(**more) -> Crystal:
    return Crystal(Lattice(t([[1.0]])), t([[0.0]]), torch.tensor([0]), masses=t([1.0]), **more)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: compute_symmetries(chain()), "dimension 1"),
        (lambda: compute_symmetries(crystal(torch.eye(3).tolist(), [[0, 0, 0], [0, 0, 0]], [1, 1])), "spglib finds no"),
        (lambda: image_symmetries(torch.zeros(4, 5)), r"\(4, 5\)"),
        (lambda: image_symmetries(torch.ones(8, 8)), "constant"),
        (lambda: detect_lattice(torch.zeros(9)), r"\(9,\)"),
        (lambda: detect_lattice(torch.full((9, 9), float("nan"))), "nan"),
        (lambda: lattice_type(Lattice(t([[1.0]]))), "dimension 1"),
        (lambda: brillouin_zones(Lattice(t([[1.0]])), 0), "0 Brillouin"),
        (lambda: zone_number(Lattice(t([[1.0]])), t([1.0, 2.0])), r"\(2,\)"),
        (lambda: band_structure(HCP, t([0.0, 0, 0])), "no bands"),
        (lambda: band_structure(chain(), t([0.0, 0])), r"\(2,\)"),
        (lambda: bloch_hamiltonian(single(hoppings={(1,): t([[1.0]])}), t([0.0])), "by inf"),
        (lambda: bloch_hamiltonian(single(hoppings={(0, 0): t([[1.0]])}), t([0.0])), r"to \(0, 0\)"),
        (lambda: plane_wave_bands(Lattice(t([[1.0]])), {(1,): 1.0}, t([0.0])), "V_-G|coefficient 1"),
        (lambda: plane_wave_bands(Lattice(t([[1.0]])), {}, t([0.0]), cutoff=0), "cutoff 0"),
        (lambda: finite_chain(graphene(), 3), "dimension 2"),
        (lambda: zak_phase(ssh(1.0, 1.0)), "gap above band 1"),
        (lambda: zak_phase(ssh(1.0, 0.5), bands=2), "2 of 2"),
        (lambda: winding_number(ssh(1.0, 1.0)), "closed"),
        (lambda: winding_number(chain()), "chiral|within a half"),
        (lambda: chern_number(chain()), "dimension 1"),
        (lambda: phonon_modes(single(), t([0.0])), "without masses"),
        (lambda: phonon_modes(spring_chain(m=-1.0), t([0.0])), "mass of -1"),
        (lambda: phonon_modes(spring_chain(), t([0.0, 1.0])), r"\(2,\)"),
        (lambda: phonon_modes(single(force_constants={(0,): t([[1.0]])}), t([0.0])), r"\(1, 1\)"),
        (lambda: phonon_modes(single(force_constants={(1,): t([[[[1.0]]]])}), t([0.0])), "by inf"),
        (lambda: structure_factor(HCP, torch.zeros(3)), "float32"),
        (lambda: structure_factor(HCP, torch.tensor([1, 0, 0]), {2: 1.0}), "species 1"),
        (lambda: suggest_tile_size(torch.zeros(4, 4)), r"\(4, 4\)"),
        (lambda: suggest_tile_size(torch.zeros(16, 16), (0,)), r"\(0,\)"),
    ],
)  # fmt: skip
def test_what_is_no_crystal_is_refused_with_its_value(call, says):
    with pytest.raises(GeometryError, match=says):
        call()


def test_polarisations_move_with_the_phase_of_their_wave():
    """The waves exp(i q n a) of a ring of six cells with two springs solve Newton's equations of the whole ring."""
    springs, masses, n, a = (1.0, 0.4), torch.tensor([1.0, 2.5], dtype=torch.float64), 6, 1.5
    own, right = torch.zeros(2, 2, dtype=torch.float64), torch.zeros(2, 2, dtype=torch.float64)
    own[0, 0] = own[1, 1] = sum(springs)
    own[0, 1] = own[1, 0] = -springs[0]
    right[1, 0] = -springs[1]  # the second atom pulls on the first one of the next cell
    constants = {(0,): own, (1,): right, (-1,): right.T}
    chain = Crystal(
        Lattice(torch.tensor([[a]], dtype=torch.float64)),
        torch.tensor([[0.0], [0.4]], dtype=torch.float64),
        torch.tensor([0, 1]),
        masses,
        {cell: phi.reshape(2, 1, 2, 1) for cell, phi in constants.items()},
    )
    q = 2 * torch.pi / (n * a)
    found = phonon_modes(chain, torch.tensor([q], dtype=torch.float64))
    ring = torch.zeros(2 * n, 2 * n, dtype=torch.float64)
    for cell in range(n):
        here, there = slice(2 * cell, 2 * cell + 2), slice(2 * (cell + 1) % (2 * n), 2 * (cell + 1) % (2 * n) + 2)
        ring[here, here] += own
        ring[here, there] += right
        ring[there, here] += right.T
    phases = torch.exp(1j * q * a * torch.arange(n, dtype=torch.float64))
    for k in range(2):
        moved = torch.kron(phases, found.vectors[:, k] / masses.sqrt())
        inertia = found.frequencies[k].square() * masses.repeat(n) * moved
        torch.testing.assert_close(ring.to(moved.dtype) @ moved, inertia, rtol=0, atol=1e-13)
