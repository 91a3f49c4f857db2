"""Six steps of the geometry library: in its form, in the plain forms of torch, and as one first writes them.

The best plain form counts: the same formula, for any metric, potential or graph, in public functions of eager torch. A
loop in Python is shown and counts for nothing, as anything beats it, and so does a closed form, which holds for one
case alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import grad, jacfwd, vmap
from torch.nn.functional import conv2d, pad

from toolkit.bench.tiled_attention.speed import layers, tokens
from toolkit.geometry.core.patterns.riemannian import RiemannianManifold
from toolkit.geometry.core.patterns.riemannian.tensors import riemann, riemann_field
from toolkit.geometry.neural.attention.pattern_dynamics import schnakenberg
from toolkit.geometry.neural.flow.geometric_flow import forman_curvature
from toolkit.geometry.neural.flow.hamiltonian import Mechanical, leapfrog
from toolkit.geometry.runtime.vectorization import Diffusion
from toolkit.rng import torch_generator

__all__ = ["STEPS", "Forms"]

Run = Callable[[], Tensor]


@dataclass(frozen=True, kw_only=True)
class Forms:
    """Ways of computing the same.

    Args:
        ours: As the library computes it.
        plain: In torch; the best of them is what the library is held against.
        shown: Beside them; they count for nothing.
    """

    ours: Run
    plain: Mapping[str, Run]
    shown: Mapping[str, Run]

    def __iter__(self) -> Iterator[tuple[str, Run]]:
        yield "library", self.ours
        yield from self.plain.items()
        yield from self.shown.items()


# ---- symbols and curvature of the unit sphere, at 64 points


def _sphere(point: Tensor) -> Tensor:
    return torch.diag(torch.stack([torch.ones_like(point[0]), point[0].sin() ** 2]))


def _spheres(points: Tensor) -> Tensor:
    one, other = torch.ones_like(points[:, 0]), points[:, 0].sin() ** 2
    return torch.diag_embed(torch.stack([one, other], -1))


def _points() -> Tensor:
    return torch.rand(64, 2, generator=torch_generator(0, "points"), dtype=torch.float64) + 0.5


def _symbols_of(metric: Tensor, slope: Tensor) -> Tensor:
    """Of g and slope[m, j, i] = ∂_i g_mj."""
    lowered = 0.5 * (slope.mT + slope - slope.movedim(-1, -3))
    symbols: Tensor = torch.linalg.solve(metric, lowered.flatten(-2))
    return symbols.reshape(lowered.shape)


def _slopes(values: Tensor, points: Tensor, graph: bool = False) -> Tensor:
    """Derivatives of values [N, ..., n, n], symmetric in the last two: a backward pass for each entry of a half."""
    n = values.shape[-1]
    row, column = torch.triu_indices(n, n)
    parts = [torch.autograd.grad(part.sum(), points, retain_graph=True, create_graph=graph)[0]
             for part in values[..., row, column].flatten(1).unbind(1)]  # fmt: skip
    half = torch.stack(parts, 1).reshape(*values.shape[:-2], len(row), n)
    place = torch.empty(n, n, dtype=torch.long)
    place[row, column] = place[column, row] = torch.arange(len(row))
    return half[..., place, :]


def _by_autograd(points: Tensor, graph: bool = False) -> Tensor:
    metric = _spheres(points)
    return _symbols_of(metric, _slopes(metric, points, graph))


def _one(point: Tensor) -> Tensor:
    return _symbols_of(_sphere(point), jacfwd(_sphere)(point))


def _christoffel() -> Forms:
    points, manifold = _points(), RiemannianManifold(_sphere, 2, recorded=True)

    def closed() -> Tensor:
        sin, cos = points[:, 0].sin(), points[:, 0].cos()
        found = points.new_zeros(len(points), 2, 2, 2)
        found[:, 0, 1, 1] = -sin * cos
        found[:, 1, 0, 1] = found[:, 1, 1, 0] = cos / sin
        return found

    return Forms(
        ours=lambda: manifold.christoffel_symbols(points),
        plain={"autograd": lambda: _by_autograd(points.detach().requires_grad_()).detach(),
               "vmap": lambda: vmap(_one)(points)},
        shown={"loop": lambda: torch.stack([_one(point) for point in points]), "closed form": closed},
    )  # fmt: skip


def _curvature() -> Forms:
    points, manifold = _points(), RiemannianManifold(_sphere, 2, recorded=True)
    one = riemann_field(_sphere)  # torch.linalg.solve gives NaN there, see `toolkit.geometry.linear`

    def by_autograd() -> Tensor:
        x = points.detach().requires_grad_()
        symbols = _by_autograd(x, graph=True)
        return riemann(symbols, _slopes(symbols, x)).detach()

    def closed() -> Tensor:
        """R^l_ijk = δ^l_j g_ik − δ^l_k g_ij."""
        half = torch.einsum("lj,pik->plijk", torch.eye(2, dtype=points.dtype), _spheres(points))
        return half - half.mT

    return Forms(
        ours=lambda: manifold.curvature_tensor(points).riemann,
        plain={"autograd": by_autograd, "vmap": lambda: vmap(one)(points)},
        shown={"loop": lambda: torch.stack([one(point) for point in points]), "closed form": closed},
    )


# ---- a step of Schnakenberg's pattern


def _pattern(size: int) -> Forms:
    a, b, dt, rates = 0.1, 0.9, 0.01, (0.01, 0.1)
    noise = torch.rand(2, size, size, generator=torch_generator(0, "grid"))
    start = torch.tensor([a + b, b / (a + b) ** 2])[:, None, None] + 0.1 * noise
    moving, rate = Diffusion(start, rates, schnakenberg(a, b), dt=dt), torch.tensor(rates)[:, None, None]
    kernel = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]]) * rate.unsqueeze(1)

    def reacted(x: Tensor, spread: Tensor) -> Tensor:
        u, v = x.unbind(0)
        met = u * u * v
        return x + spread + dt * torch.stack([a - u + met, b - met])

    def rolled() -> Tensor:
        x = start
        return reacted(x, rate * (x.roll(1, -1) + x.roll(-1, -1) + x.roll(1, -2) + x.roll(-1, -2) - 4 * x))

    def sliced() -> Tensor:
        x = pad(start[None], (1, 1, 1, 1), mode="circular")[0]
        around = x[:, :-2, 1:-1] + x[:, 2:, 1:-1] + x[:, 1:-1, :-2] + x[:, 1:-1, 2:]
        return reacted(start, rate * (around - 4 * start))

    def convolved() -> Tensor:
        wide = pad(start[None], (1, 1, 1, 1), mode="circular")
        return reacted(start, conv2d(wide, kernel, groups=2)[0])

    def loop() -> Tensor:
        (us, vs), found = start.tolist(), torch.empty_like(start)
        for i in range(size):
            for j in range(size):
                up, down, left, right = (i - 1, j), ((i + 1) % size, j), (i, j - 1), (i, (j + 1) % size)
                met = us[i][j] ** 2 * vs[i][j]
                for kind, (x, made) in enumerate(((us, a - us[i][j] + met), (vs, b - met))):
                    around = sum(x[k][m] for k, m in (up, down, left, right)) - 4 * x[i][j]
                    found[kind, i, j] = x[i][j] + rates[kind] * around + dt * made
        return found

    return Forms(ours=moving.step_, plain={"rolled": rolled, "sliced": sliced, "convolution": convolved},
                 shown={"loop": loop})  # fmt: skip


# ---- ten leapfrogs of 256 chains of 8 pendulums that are joined by springs


def _chains() -> Forms:
    q0, p0 = (torch.randn(256, 8, generator=torch_generator(0, name), dtype=torch.float64) for name in "qp")
    dt, steps, system = 0.05, 10, Mechanical(_chain, recorded=True)

    def walk(force: Callable[[Tensor], Tensor], q: Tensor = q0, p: Tensor = p0) -> Tensor:
        now, seen = force(q), [torch.cat([q, p], -1)]
        for _ in range(steps):
            p = torch.add(p, now, alpha=dt / 2)
            q = torch.add(q, p, alpha=dt)
            now = force(q)
            p = torch.add(p, now, alpha=dt / 2)
            seen.append(torch.cat([q, p], -1))
        return torch.stack(seen)

    def by_autograd(q: Tensor) -> Tensor:
        x = q.detach().requires_grad_()
        return -torch.autograd.grad(_chain(x), x)[0]

    def loop() -> Tensor:
        force = grad(_chain)
        return torch.stack([walk(lambda x: -force(x), q, p) for q, p in zip(q0, p0, strict=True)], 1)

    return Forms(
        ours=lambda: leapfrog(system, q0, p0, dt=dt, steps=steps).states,
        plain={"autograd": lambda: walk(by_autograd), "vmap": lambda: walk(lambda q: -vmap(grad(_chain))(q))},
        shown={"loop": loop,
               "closed form": lambda: walk(lambda q: q.roll(-1, -1) + q.roll(1, -1) - 2 * q - q.sin())},
    )  # fmt: skip


def _chain(q: Tensor) -> Tensor:
    """The energy of one chain [n], or of all [N, n] together."""
    return (1 - q.cos()).sum() + 0.5 * (q.roll(-1, -1) - q).square().sum()


# ---- the curvature of a graph's edges


def _graph(nodes: int, degree: int) -> Forms:
    drawn = torch.rand(nodes, nodes, generator=torch_generator(0, "graph"), dtype=torch.float64).triu(1)
    upper = (drawn > 0) & (drawn < degree / nodes)
    weights = (upper | upper.T).double()

    def of_product(number: Tensor, common: Tensor) -> Tensor:
        degrees = number.sum(1)
        return number * (4 - degrees[:, None] - degrees + 3 * common)

    def dense(dtype: torch.dtype) -> Tensor:
        number = (weights > 0).to(dtype)
        return of_product(number, number @ number).to(weights.dtype)

    def sparse() -> Tensor:
        number = (weights > 0).to(weights.dtype)
        rows = number.to_sparse_csr()
        return of_product(number, (rows @ rows).to_dense())

    def sampled() -> Tensor:
        number = (weights > 0).to(weights.dtype)
        return of_product(number, torch.sparse.sampled_addmm(number.to_sparse_csr(), number, number, beta=0).to_dense())

    def loop() -> Tensor:
        near = [set(row.nonzero().flatten().tolist()) for row in weights]
        found = torch.zeros_like(weights)
        for x, others in enumerate(near):
            for y in others:
                found[x, y] = 4 - len(others) - len(near[y]) + 3 * len(others & near[y])
        return found

    return Forms(
        ours=lambda: forman_curvature(weights),
        plain={"product": lambda: dense(torch.float64), "product in float32": lambda: dense(torch.float32),
               "sparse product": sparse, "sampled product": sampled},
        shown={"loop": loop},
    )  # fmt: skip


# ---- attention over tiles


def _attention(length: int) -> Forms:
    """The default score; plain, the same layer by torch's fused kernel, and dot products by it."""
    made, x = layers(False), tokens(length)
    tiled, whole = made["tiled metric"], layers(False)["tiled metric"]
    whole.plan = "dense"  # type: ignore[assignment]

    def forward(layer: nn.Module) -> Run:
        return torch.no_grad()(lambda: layer(x))

    return Forms(
        ours=forward(tiled),
        plain={"fused, metric": forward(whole), "fused, dot": forward(made["sdpa"])},
        shown={"unfused, dot": forward(made["unfused"])},
    )


STEPS: Mapping[str, Callable[[], Forms]] = {
    "Christoffel symbols, 64 points": _christoffel,
    "Riemann tensor, 64 points": _curvature,
    "reaction and diffusion, 2 x 128 x 128": lambda: _pattern(128),
    "10 leapfrogs, 256 x 8": _chains,
    "Forman curvature, 1,024 nodes of degree 16": lambda: _graph(1024, 16),
    "tiled attention, 4,096 tokens": lambda: _attention(4096),
}
"""What the goal of twice the speed is taken over."""
