"""Derivatives sample by sample, as `toolkit.geometry` takes them by `torch.func.vmap`, beside plain torch.

    python -m toolkit.bench.derivatives [--seconds S] [--json]

The plain form is the best that is known for each: all samples in one batch, and one backward pass for every number of a
sample whose gradient is wanted (the sum over samples has the gradient of each in its row). It asks that the function be
written for batches; the fields of `toolkit.geometry` are of one point. Answers are compared before anything is timed.
One thread, whose processor time is counted; the forms run in turns.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from toolkit.geometry.core.patterns.riemannian import RiemannianManifold
from toolkit.geometry.core.patterns.riemannian.tensors import christoffel, riemann
from toolkit.geometry.neural.flow.hamiltonian import hamilton_equations
from toolkit.geometry.runtime.memory import live_bytes
from toolkit.geometry.runtime.vectorization import threads
from toolkit.rng import torch_generator
from toolkit.timing import in_turns_s, spread_s
from toolkit.units import seconds

__all__ = ["Case", "Row", "cases", "main", "measure"]

_POINTS = 64


@dataclass(frozen=True)
class Case:
    """A derivative of every sample, in the library's form and in the plain one."""

    name: str
    mapped: Callable[[], Tensor]
    plain: Callable[[], Tensor]


@dataclass(frozen=True)
class Row:
    """Lower quartile, median and upper quartile in seconds of each form, and the operators that torch runs for it."""

    name: str
    mapped_s: tuple[float, float, float]
    plain_s: tuple[float, float, float]
    mapped_operators: int
    plain_operators: int

    @property
    def ratio(self) -> float:
        """Times as fast as the plain form."""
        return self.plain_s[1] / self.mapped_s[1]


def cases() -> Iterator[Case]:
    """Equations of motion, and symbols and curvature of a metric of several dimensions."""
    q, p = (torch.rand(256, 8, generator=torch_generator(0, name), dtype=torch.float64) for name in "qp")
    yield Case("Hamilton's equations, 256 x 8", lambda: torch.cat(hamilton_equations((q, p), _energy), -1),
               lambda: _equations(q, p))  # fmt: skip
    for n in (2, 4, 8):
        yield _symbols(n)
    for n in (2, 4):
        yield _curvature(n)


def measure(case: Case, *, time_s: float = 3.0) -> Row:
    """Both forms in turns on one thread.

    Raises:
        ArithmeticError: they answer differently.
    """
    mapped, plain = case.mapped(), case.plain()
    if not torch.allclose(mapped, plain, rtol=1e-9, atol=1e-12):
        raise ArithmeticError(f"{case.name}: the forms differ by {float((mapped - plain).abs().max()):.1e}")
    with threads(1):
        taken = in_turns_s({"mapped": case.mapped, "plain": case.plain}, seconds=time_s, fewest=30,
                           clock=time.process_time)  # fmt: skip
    with live_bytes() as in_map:
        case.mapped()
    with live_bytes() as in_plain:
        case.plain()
    return Row(case.name, spread_s(taken["mapped"]), spread_s(taken["plain"]), in_map.operators, in_plain.operators)


def _energy(q: Tensor, p: Tensor) -> Tensor:
    """Of one sample [n] or of many [*B, n]: a mass that depends on the place, in a well."""
    return (0.5 * p.square() * (1 + q.square()) + q.pow(4) / 4).sum(-1)


def _equations(q: Tensor, p: Tensor) -> Tensor:
    q, p = q.detach().requires_grad_(), p.detach().requires_grad_()
    dq, dp = torch.autograd.grad(_energy(q, p).sum(), (q, p))
    return torch.cat([dp, -dq], -1)


def _metric(n: int) -> Callable[[Tensor], Tensor]:
    """1 + u uᵀ with u = tanh(W x): of one point [n] or of many [*B, n]."""
    weight = torch.randn(n, n, generator=torch_generator(0, "metric", str(n)), dtype=torch.float64)
    one = torch.eye(n, dtype=torch.float64)

    def metric(point: Tensor) -> Tensor:
        u = torch.tanh(point @ weight.T)
        return one + u.unsqueeze(-1) * u.unsqueeze(-2)

    return metric


def _slopes(values: Tensor, points: Tensor, *, graph: bool = False) -> Tensor:
    """Derivatives [*B, ..., n] of values [*B, ...]: one backward pass for each number of a sample."""
    parts = [
        torch.autograd.grad(part.sum(), points, retain_graph=True, create_graph=graph)[0]
        for part in values.flatten(1).unbind(1)
    ]
    return torch.stack(parts, 1).reshape(*values.shape, points.shape[-1])


def _metric_slopes(g: Tensor, points: Tensor, *, graph: bool = False) -> Tensor:
    """Of a symmetric matrix: n (n + 1) / 2 passes give all of it."""
    n = g.shape[-1]
    row, column = torch.triu_indices(n, n)
    half = _slopes(g[:, row, column], points, graph=graph)
    place = torch.empty(n, n, dtype=torch.long)
    place[row, column] = place[column, row] = torch.arange(len(row))
    return half[:, place]


def _points(n: int) -> Tensor:
    return torch.rand(_POINTS, n, generator=torch_generator(0, "points", str(n)), dtype=torch.float64)


def _symbols(n: int) -> Case:
    metric, points = _metric(n), _points(n)

    def plain() -> Tensor:
        x = points.detach().requires_grad_()
        g = metric(x)
        return christoffel(g, _metric_slopes(g, x)).detach()

    manifold = RiemannianManifold(metric, n)
    return Case(f"Christoffel symbols, {_POINTS} points, n = {n}", lambda: manifold.christoffel_symbols(points), plain)


def _curvature(n: int) -> Case:
    metric, points = _metric(n), _points(n)

    def plain() -> Tensor:
        x = points.detach().requires_grad_()
        g = metric(x)
        symbols = christoffel(g, _metric_slopes(g, x, graph=True))
        row, column = torch.triu_indices(n, n)
        half = _slopes(symbols[:, :, row, column], x)  # they are symmetric in the lower places
        place = torch.empty(n, n, dtype=torch.long)
        place[row, column] = place[column, row] = torch.arange(len(row))
        return riemann(symbols, half[:, :, place]).detach()

    manifold = RiemannianManifold(metric, n)
    return Case(f"Riemann tensor, {_POINTS} points, n = {n}", lambda: manifold.curvature_tensor(points).riemann, plain)


def main(arguments: list[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m toolkit.bench.derivatives", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--seconds", type=float, default=3.0, help="for each case, at least. [3]")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    args = parser.parse_args(arguments)
    rows = [measure(case, time_s=args.seconds) for case in cases()]
    if args.json:
        found = [asdict(row) | {"ratio": row.ratio} for row in rows]
        print(
            json.dumps({"schema": "toolkit.bench.derivatives/1", "torch": torch.__version__, "rows": found}, indent=1)
        )
        return 0
    print(f"torch {torch.__version__}, processor time of one thread, median [quartiles]; operators")
    for row in rows:
        print(f"{row.name:<40} vmap {_shown(row.mapped_s)}, {row.mapped_operators}; plain {_shown(row.plain_s)},"
              f" {row.plain_operators}; {row.ratio:.2f}x")  # fmt: skip
    return 0


def _shown(spread: tuple[float, float, float]) -> str:
    low, middle, high = spread
    return f"{seconds(middle)} [{seconds(low)}, {seconds(high)}]"


if __name__ == "__main__":
    sys.exit(main())
