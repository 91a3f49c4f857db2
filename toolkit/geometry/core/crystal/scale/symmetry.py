"""How far a function is from keeping a symmetry."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from toolkit.errors import GeometryError
from toolkit.geometry.checking import require_finite

__all__ = ["symmetry_defect"]


def symmetry_defect(
    f: Callable[[Tensor], Tensor],
    g: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    after: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """|f(g x) - g' f(x)| / |f(x)| over all of `x`, []: 0 for an equivariant f, of order 1 for one that ignores g.

    Args:
        f: The function, say a layer.
        g: How the symmetry acts on inputs.
        x: An input, or a batch of them.
        after: g', how it acts on outputs; g if not given. The identity asks for invariance.

    Raises:
        GeometryError: f(x) is 0, or not finite, or of another shape than f(g x).
    """
    plain, moved = f(x), f(g(x))
    expected = (g if after is None else after)(plain)
    if moved.shape != expected.shape:
        raise GeometryError(
            f"f(g x) has the shape {tuple(moved.shape)} and g f(x) {tuple(expected.shape)}",
            hint="give `after`, how the symmetry acts on outputs",
        )
    require_finite(plain, "f(x)")
    require_finite(moved, "f(g x)")
    size = torch.linalg.vector_norm(plain)
    if float(size.detach()) == 0:
        raise GeometryError("f(x) is 0, so that no defect can be held against it", hint="choose another input")
    value: Tensor = torch.linalg.vector_norm(moved - expected) / size
    return value
