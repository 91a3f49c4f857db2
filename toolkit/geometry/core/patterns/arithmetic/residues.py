"""Exact integer products by residues, to hold integer kernels against."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from toolkit.errors import GeometryError
from toolkit.geometry.checking import is_prime
from toolkit.geometry.types import CheckReport

__all__ = ["crt_check", "crt_matmul"]

_TOP = 1 << 20  # primes below it: residues multiply below 2**40, and 2**23 products sum in int64


def crt_matmul(a: Tensor, b: Tensor) -> npt.NDArray[np.object_]:
    """The exact product of integer matrices, of any size of entry, as Python ints.

    Args:
        a, b: [M, K] and [K, N], integer dtypes.

    Returns:
        [M, N]. Every product is taken modulo primes below 2**20, enough of them to tell the result from all others,
        and put together by the Chinese remainder theorem.

    Raises:
        GeometryError: the matrices are not of integers or do not fit, or K exceeds 2**23.

    Source: Knuth 1997, "The Art of Computer Programming", 4.3.2.
    """
    if any(m.ndim != 2 or m.is_floating_point() or m.is_complex() for m in (a, b)) or a.shape[1] != b.shape[0]:
        raise GeometryError(
            f"a product of {a.dtype} {tuple(a.shape)} and {b.dtype} {tuple(b.shape)}",
            hint="two integer matrices [M, K] and [K, N]",
        )
    if not 0 < a.shape[1] <= 1 << 23:
        raise GeometryError(f"sums of {a.shape[1]} products", hint="1 to 2**23 fit into the residues")
    left, right = a.to(torch.int64), b.to(torch.int64)
    bound = 2 * a.shape[1] * _largest(left) * _largest(right) + 1
    total = np.zeros((a.shape[0], b.shape[1]), dtype=object)
    modulus, candidate = 1, _TOP
    while modulus < bound:
        candidate = next(p for p in range(candidate - 1, 1, -1) if is_prime(p))
        residue = (left.remainder(candidate) @ right.remainder(candidate)).remainder(candidate).numpy().astype(object)
        step = (residue - total) * pow(modulus, -1, candidate) % candidate
        total, modulus = total + modulus * step, modulus * candidate
    return np.where(total > modulus // 2, total - modulus, total)


def crt_check(a: Tensor, b: Tensor, product: Tensor) -> CheckReport:
    """Whether an integer kernel's `product` [M, N] of a and b is exact: `value` counts the wrong entries, of 0 allowed.

    detail["first"] is the index of the first wrong entry, with what it is and what it should be.
    """
    exact = crt_matmul(a, b)
    if tuple(product.shape) != exact.shape or product.is_floating_point():
        raise GeometryError(
            f"a product comes as {product.dtype} {tuple(product.shape)}", hint=f"integers {exact.shape} are expected"
        )
    wrong = np.argwhere(exact != product.to(torch.int64).numpy().astype(object))
    detail = {}
    if len(wrong):
        i, j = map(int, wrong[0])
        detail["first"] = {"index": (i, j), "is": int(product[i, j]), "should_be": int(exact[i, j])}
    return CheckReport(not len(wrong), float(len(wrong)), 0.0, detail)


def _largest(matrix: Tensor) -> int:
    return max(abs(int(matrix.min())), abs(int(matrix.max()))) if matrix.numel() else 0
