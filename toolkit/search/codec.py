"""Weights stored as factors: of the matrices themselves, or of what training changed in them.

A matrix (o, i) as U V with U (o, k) and V (k, i) takes k (o + i) numbers instead of o i: a D x D matrix half of them at
k = D / 4, all at k = D / 2. Matrices of trained networks are not of low rank; how far they moved from where they began
nearly is.

Source: Eckart and Young 1936; randomized: Halko, Martinsson, Tropp 2011.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from toolkit.digests import canonical_digest
from toolkit.errors import ArchiveFormatError, DescriptorError
from toolkit.rng import derive_seed

__all__ = ["Arrays", "Codec", "Encoded", "decode", "encode", "initial"]

Arrays: TypeAlias = Mapping[str, NDArray[Any]]
_LEFT, _RIGHT = "@left", "@right"
_OVERSAMPLED, _POWER_STEPS = 10, 4


@dataclass(frozen=True, kw_only=True)
class Codec:
    """How weights are stored.

    Args:
        kind: As they are; as factors; or as factors of their difference from a start that can be made again.
        rank: Of the factors. Matrices that would take as many bytes are stored whole.
        dtype: Of the factors.
    """

    kind: Literal["raw", "lowrank", "seed_delta"] = "raw"
    rank: int = 64
    dtype: Literal["float32", "float16"] = "float32"

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise DescriptorError(f"factors of rank {self.rank}", hint="a rank is 1 or more")


@dataclass(frozen=True)
class Encoded:
    """Stored weights.

    Args:
        payload: Arrays; NAME@left and NAME@right hold the factors of NAME.
        header: JSON: how to decode, and the digest of the start where there is one.
        rel_error: Norm of what was lost over the norm of the whole matrix, by name.
    """

    payload: Arrays
    header: Mapping[str, Any]
    rel_error: Mapping[str, float]

    @property
    def nbytes(self) -> int:
        """Of the arrays."""
        return sum(array.nbytes for array in self.payload.values())


def encode(weights: Arrays, codec: Codec, *, start: Arrays | None = None) -> Encoded:
    """`weights` as `codec` stores them.

    Args:
        start: What "seed_delta" takes differences from: the same names and shapes; see `initial`.

    Raises:
        DescriptorError: "seed_delta" without a start of these shapes, or weights that are not finite.
    """
    if codec.kind == "seed_delta" and (start is None or _shapes(start) != _shapes(weights)):
        raise DescriptorError(
            "no start of these shapes to take differences from", hint="give `start`, or use 'lowrank'"
        )
    payload: dict[str, NDArray[Any]] = {}
    errors: dict[str, float] = {}
    for name in sorted(weights):
        whole = np.asarray(weights[name])
        if whole.dtype.kind == "f" and not np.isfinite(whole).all():
            raise DescriptorError(f"{name} is not finite", hint="weights like these are not worth keeping")
        base = start[name] if codec.kind == "seed_delta" and start is not None else None
        if codec.kind == "raw" or not _is_smaller_in_factors(whole, codec.rank):
            payload[name] = whole
            continue
        left, right = _factors(whole if base is None else whole - base, codec.rank, codec.dtype)
        payload[name + _LEFT], payload[name + _RIGHT] = left, right
        errors[name] = _relative(whole, _product(left, right, base))
    header = {"codec": codec.kind, "rank": codec.rank, "dtype": codec.dtype,
              "start": canonical_digest(dict(start)) if codec.kind == "seed_delta" and start else None}  # fmt: skip
    return Encoded(MappingProxyType(payload), MappingProxyType(header), MappingProxyType(errors))


def decode(encoded: Encoded, *, start: Arrays | None = None) -> dict[str, NDArray[Any]]:
    """The weights, in float32 where they were factors.

    Raises:
        ArchiveFormatError: `start` is not what the differences were taken from.
    """
    wanted = encoded.header.get("start")
    if wanted is not None and (start is None or canonical_digest(dict(start)) != wanted):
        raise ArchiveFormatError(
            f"these weights are differences from another start than the one given (digest {wanted})",
            hint="make the start again from its seed, with the version that made it",
        )
    payload = encoded.payload
    weights = {}
    for name in sorted(payload):
        if name.endswith(_LEFT):
            plain = name.removesuffix(_LEFT)
            base = start[plain] if wanted is not None and start is not None else None
            weights[plain] = _product(payload[name], payload[plain + _RIGHT], base)
        elif not name.endswith(_RIGHT):
            weights[name] = payload[name]
    return weights


def initial(shapes: Mapping[str, tuple[int, ...]], seed: int, *path: int | str) -> dict[str, NDArray[np.float32]]:
    """Weights that can be made again anywhere: uniform in +-1 / sqrt(fan in), from the raw output of Philox.

    Numpy promises the raw output for all versions, and its distributions for none; so we map it to a range ourselves.
    """
    return {name: _uniform(shape, derive_seed(seed, *path, "initial", name)) for name, shape in sorted(shapes.items())}


def _uniform(shape: tuple[int, ...], key: int) -> NDArray[np.float32]:
    count = int(np.prod(shape))
    raw = np.random.Philox(key=key).random_raw(count) >> np.uint64(40)
    bound = 1 / np.sqrt(max(1, count // max(1, shape[0]) if shape else 1))
    spread: NDArray[np.float32] = ((raw / 2**23 - 1) * bound).astype(np.float32).reshape(shape)
    return spread


def _is_smaller_in_factors(array: NDArray[Any], rank: int) -> bool:
    return array.ndim == 2 and array.dtype.kind == "f" and rank * sum(array.shape) < array.size


def _factors(matrix: NDArray[Any], rank: int, dtype: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """U sqrt(S) and sqrt(S) V of the `rank` greatest singular values, with one sign for equal matrices."""
    u, s, v = _singular(np.asarray(matrix, np.float64), rank)
    largest = u[np.abs(u).argmax(0), np.arange(u.shape[1])]
    root, sign = np.sqrt(s), np.where(largest < 0, -1.0, 1.0)
    return (u * root * sign).astype(dtype), ((root * sign)[:, None] * v).astype(dtype)


def _singular(matrix: NDArray[np.float64], rank: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    rank = min(rank, *matrix.shape)
    if rank * 4 >= min(matrix.shape):
        u, s, v = np.linalg.svd(matrix, full_matrices=False)
        return u[:, :rank], s[:rank], v[:rank]
    rng = np.random.Generator(np.random.Philox(key=derive_seed(0, "codec", rank, *matrix.shape)))
    basis, _ = np.linalg.qr(matrix @ rng.standard_normal((matrix.shape[1], rank + _OVERSAMPLED)))
    for _ in range(_POWER_STEPS):
        basis, _ = np.linalg.qr(matrix @ (matrix.T @ basis))
    u, s, v = np.linalg.svd(basis.T @ matrix, full_matrices=False)
    return basis @ u[:, :rank], s[:rank], v[:rank]


def _product(left: NDArray[Any], right: NDArray[Any], base: NDArray[Any] | None) -> NDArray[Any]:
    whole = left.astype(np.float32) @ right.astype(np.float32)
    summed: NDArray[Any] = whole if base is None else base + whole
    return summed


def _relative(whole: NDArray[Any], again: NDArray[Any]) -> float:
    norm = float(np.linalg.norm(whole))
    return float(np.linalg.norm(whole - again)) / norm if norm else 0.0


def _shapes(arrays: Arrays) -> dict[str, tuple[int, ...]]:
    return {name: np.shape(array) for name, array in arrays.items()}
