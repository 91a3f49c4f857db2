"""A recipe: an ordered tuple of passes, built for a stack from its capabilities and checked when built."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from passes.contract import Pass
from passes.onnx_level.cancel_transposes import CancelTransposes
from passes.onnx_level.cast_float16 import CastFloat16
from passes.onnx_level.convert_opset import ConvertOpset
from passes.onnx_level.correct_bias import CorrectBias
from passes.onnx_level.equalise_channels import EqualiseChannels
from passes.onnx_level.fold_constants import FoldConstants
from passes.onnx_level.fuse_activation import FuseActivation
from passes.onnx_level.fuse_attention import FuseAttention
from passes.onnx_level.fuse_batch_norm import FuseBatchNorm
from passes.onnx_level.fuse_gelu import FuseGelu
from passes.onnx_level.fuse_layer_norm import FuseLayerNorm
from passes.onnx_level.mix_precision import MixPrecision
from passes.onnx_level.pack_weights import PackWeights
from passes.onnx_level.quantize_dynamic import QuantizeDynamic
from passes.onnx_level.quantize_int8 import QuantizeInt8
from passes.onnx_level.quantize_weights import QuantizeWeights
from passes.onnx_level.round_adaptively import RoundAdaptively
from passes.onnx_level.shorten_names import ShortenNames
from passes.onnx_level.smooth_activations import SmoothActivations
from passes.onnx_level.store_in_bytes import StoreInBytes
from passes.program import Level
from passes.torch_level.clean_up_module import CleanUpModule
from passes.torch_level.distil import Distil
from passes.torch_level.export import LOWEST_OPSET, Export
from passes.torch_level.fold_batch_norm import FoldBatchNorm
from passes.torch_level.low_rank import Factorise, FactoriseAndTrain
from passes.torch_level.prune_channels import PruneChannels
from passes.torch_level.prune_experts import PruneExperts
from passes.torch_level.qat import TrainQuantized
from passes.torch_level.sparsify import Sparsify
from targets.errors import InvalidInput, UnknownName
from targets.stack import QuantFormat, Stack

__all__ = ["PASSES", "RECIPES", "Recipe", "recipe_for"]

PASSES: Mapping[str, type[Pass]] = {
    p.__name__: p
    for p in (
        CleanUpModule,
        PruneChannels,
        PruneExperts,
        Factorise,
        FactoriseAndTrain,
        Distil,
        Sparsify,
        FoldBatchNorm,
        TrainQuantized,
        Export,
        FoldConstants,
        FuseBatchNorm,
        FuseActivation,
        CancelTransposes,
        ConvertOpset,
        FuseLayerNorm,
        FuseGelu,
        FuseAttention,
        CastFloat16,
        EqualiseChannels,
        SmoothActivations,
        QuantizeDynamic,
        QuantizeInt8,
        MixPrecision,
        RoundAdaptively,
        CorrectBias,
        QuantizeWeights,
        StoreInBytes,
        PackWeights,
        ShortenNames,
    )
}
"""Every pass, by the name that recipes use."""


@dataclass(frozen=True)
class Recipe:
    """Passes in order. `given` are the facts that hold before the first one.

    Raises:
        InvalidInput: a pass needs a fact that no earlier pass gives.
    """

    name: str
    passes: tuple[Pass, ...]
    given: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        facts = set(self.given)
        for step in self.passes:
            if missing := step.needs - facts:
                raise InvalidInput(
                    f"recipe {self.name!r}: {step.name} needs {', '.join(sorted(missing))}",
                    hint=f"put a pass that gives it before {step.name}; `toolkit passes` lists them",
                )
            facts = (facts - step.breaks) | step.gives

    def to_data(self) -> list[dict[str, Any]]:
        """The passes as plain data, as recipe.yaml holds them."""
        return [{"pass": step.name, **step.settings} for step in self.passes]

    @classmethod
    def from_data(cls, name: str, data: Sequence[Mapping[str, Any]], given: frozenset[str] = frozenset()) -> Recipe:
        """Inverse of `to_data`.

        Raises:
            UnknownName: there is no such pass.
            InvalidInput: a pass has no such setting, or the order does not work.
        """
        return cls(name, tuple(_pass_from_data(entry) for entry in data), given)


def _pass_from_data(entry: Mapping[str, Any]) -> Pass:
    settings = dict(entry)
    name = str(settings.pop("pass", ""))
    if name not in PASSES:
        raise UnknownName("pass", name, PASSES)
    known = [f.name for f in fields(PASSES[name])]  # type: ignore[arg-type]
    for setting in settings:
        if setting not in known:
            raise UnknownName(f"setting of {name}", setting, known)
    kinds = get_type_hints(PASSES[name])
    values = {}
    for setting, value in settings.items():
        plain = tuple(value) if isinstance(value, list) else value
        try:
            values[setting] = TypeAdapter(kinds[setting]).validate_python(plain, strict=True)
        except ValidationError as error:
            raise InvalidInput(
                f"recipe: {name}: {setting}: {error.errors()[0]['msg']}", hint=f"settings of {name}: {', '.join(known)}"
            ) from error
    try:
        return PASSES[name](**values)
    except TypeError as error:
        raise InvalidInput(f"recipe: {error}", hint=f"settings of {name}: {', '.join(known)}") from error


def _integers(stack: Stack) -> QuantFormat:
    """The integer format of a stack.

    Raises:
        InvalidInput: it has none.
    """
    if stack.quantization is None:
        raise InvalidInput(f"{stack.id} has no integer format", hint="choose an int8 stack: `toolkit targets`")
    return stack.quantization


def _computes_constants(stack: Stack) -> bool:
    """Whether the runtime computes at load what depends on no input, and so may be given it in fewer bytes."""
    return stack.runtime == "onnxruntime"


def _packing(stack: Stack) -> tuple[Pass, ...]:
    return (PackWeights(),) if _computes_constants(stack) and stack.opset >= PackWeights.opset else ()


# ---- the recipes


def float32(stack: Stack, level: Level) -> Recipe:
    """Fold and fuse, in the operators that the stack's opset has; the answers stay those of the source."""
    steps: tuple[Pass, ...] = (FoldConstants(), FuseBatchNorm(), FuseActivation(), CancelTransposes())
    if stack.opset < LOWEST_OPSET or level is Level.ONNX:
        steps += (ConvertOpset(stack.opset),)
    steps += tuple(fuse() for fuse in (FuseLayerNorm, FuseGelu, FuseAttention) if stack.opset >= fuse.opset)
    if level is Level.TORCH:
        exported = Export(max(stack.opset, LOWEST_OPSET))
        return Recipe("float32", (CleanUpModule(), FoldBatchNorm(), exported, *steps))
    return Recipe("float32", steps, frozenset({"exported"}))


def float16(stack: Stack, level: Level) -> Recipe:
    """float32, then weights and activations in half precision."""
    base = float32(stack, level)
    return Recipe("float16", (*base.passes, CastFloat16()), base.given)


def int8(stack: Stack, level: Level) -> Recipe:
    """float32, then the integer format of the stack: scales found at run time for matrix products, QDQ for the rest.

    Large weights that it leaves in float are stored in bytes, where the runtime computes constants once at load.
    Biases are corrected because that never was worse on the networks of `python -m toolkit.bench.ptq`; other repairs
    take longer, or help some networks and harm others: they are there for recipes that name them.
    """
    base = float32(stack, level)
    format_ = _integers(stack)
    static = QuantizeInt8(
        activation=format_.activation,
        activation_symmetric=format_.activation_symmetric,
        per_channel=format_.per_channel,
        least_channels=format_.least_channels,
    )
    steps: tuple[Pass, ...] = (QuantizeDynamic(), static) if format_.dynamic else (static,)
    stored = (StoreInBytes(),) if _computes_constants(stack) else ()
    return Recipe("int8", (*base.passes, *steps, *stored, CorrectBias(), *_packing(stack)), base.given)


def mixed(stack: Stack, level: Level) -> Recipe:
    """float32, then the stack's integers in those layers that the answers allow; the rest stays in float."""
    base = float32(stack, level)
    format_ = _integers(stack)
    step = MixPrecision(
        activation=format_.activation,
        activation_symmetric=format_.activation_symmetric,
        per_channel=format_.per_channel,
    )
    return Recipe("mixed", (*base.passes, step), base.given)


def qat(stack: Stack, level: Level) -> Recipe:
    """The integer format of the stack, with training through its rounding; then float32's passes."""
    format_ = _integers(stack)
    if level is Level.ONNX:
        raise InvalidInput("an ONNX graph cannot be trained here", hint="give the PyTorch module, or take recipe int8")
    train = TrainQuantized(
        activation=format_.activation,
        activation_symmetric=format_.activation_symmetric,
        per_channel=format_.per_channel,
        least_channels=format_.least_channels,
    )
    steps = float32(stack, level).passes
    export = next(i for i, step in enumerate(steps) if step.becomes is Level.ONNX)
    return Recipe("qat", (*steps[:export], train, *steps[export:]))


def compress(stack: Stack, level: Level) -> Recipe:
    """Channels removed, the rest taught by the original, qat, and what is left stored in few bytes.

    Weights have 4 bits where the file can hold them in four; 8 where the answers do not allow that.
    """
    packing = _packing(stack)
    steps = [_coarser(step) if packing else step for step in qat(stack, level).passes]
    at = next(i for i, step in enumerate(steps) if "module_clean" in step.gives) + 1
    smaller = (PruneChannels(ratio=0.6, epochs=20, iterations=2), Distil(epochs=20))
    return Recipe("compress", (*steps[:at], *smaller, *steps[at:], *packing, ShortenNames()))


def _coarser(step: Pass) -> Pass:
    return replace(step, weight_bits=4, rate=1e-3) if isinstance(step, TrainQuantized) else step


def weights8(stack: Stack, level: Level) -> Recipe:
    """float32, then weights alone in 8 bits."""
    base = float32(stack, level)
    return Recipe("weights8", (*base.passes, QuantizeWeights(bits=8)), base.given)


def weights4(stack: Stack, level: Level) -> Recipe:
    """float32, then the weights of matrix products alone in 4 bits."""
    base = float32(stack, level)
    return Recipe("weights4", (*base.passes, QuantizeWeights(bits=4)), base.given)


RECIPES: Mapping[str, Callable[[Stack, Level], Recipe]] = {
    r.__name__: r for r in (float32, float16, int8, mixed, qat, compress, weights8, weights4)
}
"""The whole registry."""


def recipe_for(stack: Stack, level: Level) -> Recipe:
    """The recipe that a stack wants for a model that comes at `level`."""
    if stack.quantization is not None and stack.precision == "int8":
        return int8(stack, level)
    if stack.precision == "fp16" and not stack.loads_float32:
        return float16(stack, level)
    return float32(stack, level)
