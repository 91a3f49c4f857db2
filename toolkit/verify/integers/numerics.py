"""How a kind of device computes with integers, as data.

Sources: onnxruntime 1.32, `core/mlas/lib` and `core/providers/cpu/quantization` (MIT); what is said below of rounding
and saturation was held against the runtimes themselves, see `checked`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = ["NUMERICS", "Numerics"]


@dataclass(frozen=True, kw_only=True)
class Numerics:
    """Arithmetic of one runtime on one kind of processor.

    Args:
        name: As the user types it.
        title: Which machines and which runtime it stands for.
        runtime: Whose rules say which operators compute in integers.
        multipliers: How sums are brought to the scale of a result: times a float32 that is rounded to even, or times
            an integer of 31 bits and a shift.
        saturating_pairs: Products of unsigned activations and signed weights are added in pairs in 16 bits, which
            saturate (x86's `vpmaddubsw`). A pair is two neighbours among input channels, after each window position.
        sums_of_integers: Two integer tensors are added as integers with a common shift; else as float32.
        fused_multiply_add: The compiler joined a product and a sum where the source has two operations.
        neighbours_first: Four lanes of floats are summed as (0+1)+(2+3); else as (0+2)+(1+3).
        products_by_shifts: Two integer tensors are multiplied as integers with a shift; else the product is brought to
            the result's scale as `multipliers` says.
        signed_activations: The runtime keeps int8 activations as integers in every operator; onnxruntime on x86 does
            that for uint8 alone.
        checked: What its results were compared with, bit for bit.
    """

    name: str
    title: str
    runtime: Literal["onnxruntime", "litert"]
    multipliers: Literal["float32", "fixed_point"]
    saturating_pairs: bool = False
    sums_of_integers: bool = False
    fused_multiply_add: bool = False
    neighbours_first: bool = False
    products_by_shifts: bool = False
    signed_activations: bool = True
    checked: str


_ALL = (
    Numerics(
        name="a72",
        title="onnxruntime on 64-bit ARM without dot products (Cortex-A53, A57, A72)",
        runtime="onnxruntime",
        multipliers="float32",
        sums_of_integers=True,
        fused_multiply_add=True,
        neighbours_first=True,
        checked="onnxruntime's aarch64 build on an emulated Cortex-A72",
    ),
    Numerics(
        name="vnni",
        title="onnxruntime on x86 with VNNI or AMX",
        runtime="onnxruntime",
        multipliers="float32",
        signed_activations=False,
        checked="onnxruntime on an x86 with VNNI and AMX",
    ),
    Numerics(
        name="avx2",
        title="onnxruntime on x86 with AVX2 and no VNNI",
        runtime="onnxruntime",
        multipliers="float32",
        saturating_pairs=True,
        signed_activations=False,
        checked="onnxruntime on an emulated Haswell",
    ),
    Numerics(
        name="tflite",
        title="TFLite's reference kernels, which the Edge TPU's compiler starts from",
        runtime="litert",
        multipliers="fixed_point",
        checked="LiteRT's reference kernels; no oracle exists for the chip",
    ),
    Numerics(
        name="xnnpack",
        title="LiteRT with XNNPACK on 64-bit ARM, as boards run a .tflite by default",
        runtime="litert",
        multipliers="float32",
        fused_multiply_add=True,
        products_by_shifts=True,
        checked="LiteRT's aarch64 build on an emulated Cortex-A72",
    ),
    Numerics(
        name="xnnpack-x86",
        title="LiteRT with XNNPACK on x86",
        runtime="litert",
        multipliers="float32",
        checked="LiteRT on x86",
    ),
)

NUMERICS: Mapping[str, Numerics] = {numerics.name: numerics for numerics in _ALL}
"""Every kind of device that is known, by name."""
