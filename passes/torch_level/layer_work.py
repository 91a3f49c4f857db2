"""What the layers with weights cost on a stack at other widths: asked of `targets`, without an export for each width.

Only linear and convolution layers are counted; what is between them is priced with the exported graph, in the proof.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from targets.cost import estimate
from targets.operators import Product
from targets.stack import Stack
from targets.workload import Operator, Workload

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["LayerWork", "layers_of", "seconds"]


@dataclass(frozen=True, kw_only=True)
class LayerWork:
    """A linear or convolution layer as matrix products of `positions` rows, for each of `calls` in one inference.

    `taps` are the elements of a filter for one channel; `depthwise` is set where each output has an input of its own,
    `groups` is the number of groups otherwise.
    """

    name: str
    op_class: str
    positions: int
    taps: int
    inputs: int
    outputs: int
    groups: int = 1
    depthwise: bool = False
    calls: int = 1

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference."""
        return self.calls * self._product.elements

    def resized(self, inputs: int, outputs: int) -> LayerWork:
        """The same layer with other widths."""
        return replace(self, inputs=outputs if self.depthwise else inputs, outputs=outputs)

    @property
    def _product(self) -> Product:
        groups = self.outputs if self.depthwise else self.groups
        return Product(self.positions, self.inputs // groups * self.taps, self.outputs // groups, groups, self.taps)

    def operator(self) -> Operator:
        """As cost models read it; float32, and without what a runtime may fold into it."""
        product = self._product
        read, written = 4 * self.positions * self.inputs, 4 * self.positions * self.outputs
        return Operator(
            name=self.name,
            op_type="Gemm" if self.op_class == "matmul" else "Conv",
            op_class=self.op_class,
            dtype="float32",
            input_bytes=read,
            output_bytes=written,
            weight_bytes=4 * product.groups * product.depth * product.columns,
            product=product,
            reads=(f"{self.name}.in",),
            writes=(f"{self.name}.out",),
            rank=2 if self.op_class == "matmul" else 4,
            repeats=self.calls,
        )


def seconds(layers: Iterable[LayerWork], stack: Stack, *, as_is: bool = False) -> float:
    """Predicted time of these layers alone, in the stack's precision; in float32 where it has one, with `as_is`."""
    operators = tuple(layer.operator() for layer in layers)
    sizes: dict[str, int] = {}
    for op in operators:
        sizes.update({op.reads[0]: op.input_bytes, op.writes[0]: op.output_bytes})
    work = Workload(name="layers", operators=operators, tensor_bytes=sizes, inputs=(), outputs=(),
                    float_tensors=frozenset(sizes))  # fmt: skip
    priced = estimate(work, stack, as_is=as_is, quick=True)
    return priced.latency_s - priced.fixed_s


def layers_of(model: nn.Module, args: Sequence[torch.Tensor]) -> Mapping[str, LayerWork]:
    """The linear and convolution layers that one forward of `model` on `args` runs, by module name."""
    import torch
    from torch import nn

    found: dict[str, LayerWork] = {}

    def note(name: str, layer: Any, taken: Any, made: Any) -> None:
        if name in found:
            found[name] = replace(found[name], calls=found[name].calls + 1)
        else:
            found[name] = _work(name, layer, taken[0], made)

    hooks = [
        module.register_forward_hook(lambda layer, taken, made, name=name: note(name, layer, taken, made))
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, nn.modules.conv._ConvNd))
    ]
    try:
        with torch.no_grad():
            model(*args)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _work(name: str, layer: Any, taken: torch.Tensor, made: torch.Tensor) -> LayerWork:
    from torch import nn

    if isinstance(layer, nn.Linear):
        return LayerWork(name=name, op_class="matmul", positions=made.numel() // layer.out_features, taps=1,
                         inputs=layer.in_features, outputs=layer.out_features)  # fmt: skip
    taps = layer.weight[0, 0].numel()
    depthwise = layer.groups > 1 and layer.groups == layer.in_channels == layer.out_channels
    positions = taken.numel() // layer.in_channels if layer.transposed else made.numel() // layer.out_channels
    return LayerWork(
        name=name,
        op_class=_conv_class(layer, depthwise),
        positions=positions,
        taps=taps,
        inputs=layer.in_channels,
        outputs=layer.out_channels,
        groups=1 if depthwise else layer.groups,
        depthwise=depthwise,
    )


def _conv_class(layer: Any, depthwise: bool) -> str:
    """As `targets.operators.operator_class` names the ONNX operator that the layer becomes."""
    if depthwise and not layer.transposed:
        return "depthwise"
    if layer.groups > 1 or layer.transposed:
        return "conv"
    if all(k == 1 for k in layer.kernel_size):
        return "pointwise"
    plain = set(layer.stride) == {1} and set(layer.dilation) == {1}
    return "conv3x3" if tuple(layer.kernel_size) == (3, 3) and plain else "conv"
