"""Put fake quantizers into a captured graph, with ranges from calibration data; and freeze them to integers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from passes.dataset import Sample
from passes.fake_quant import FakeQuantize, Grid, dequantize
from passes.torch_level.capture import to_tensor
from passes.torch_level.integer_places import Places, Weight, operator
from targets.errors import InvalidInput

__all__ = ["freeze", "insert_quantizers", "observe"]

_HOME = "quantizers"
_SHARES = tuple(0.3 + 0.02 * i for i in range(36))
"""Of the largest weight: scales that are tried where there are few levels, and clipping some is worth it."""


class Observer(nn.Module):
    """Notes the least and the greatest value that comes by."""

    def __init__(self) -> None:
        super().__init__()
        self.low = self.high = torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        """`x` itself."""
        low, high = torch.aminmax(x)
        self.low, self.high = torch.minimum(self.low, low), torch.maximum(self.high, high)
        return x


# ---- putting them in


def observe(module: fx.GraphModule, places: Places, samples: Iterable[Sample], inputs: Sequence[str]) -> None:
    """Put an observer at every place of an activation, in place, and run the samples through.

    Raises:
        InvalidInput: a value is not finite.
    """
    graph = module.graph
    module.add_submodule(_HOME, nn.ModuleDict({owner.name: Observer() for owner in places.activations.values()}))
    first = next(node for node in graph.nodes if node.op not in ("placeholder", "get_attr"))
    for node, owner in places.activations.items():
        before = first if node.op in ("placeholder", "get_attr") else node.next
        readers = tuple(node.users)
        with graph.inserting_before(before):
            _put(graph.call_module(f"{_HOME}.{owner.name}", (node,)), node, readers)
    module.recompile()
    with torch.no_grad():
        for sample in samples:
            module(*(to_tensor(sample[name]) for name in inputs))
    for name, observer in _home(module).items():
        assert isinstance(observer, Observer)
        if not bool(torch.isfinite(observer.high - observer.low)):
            raise InvalidInput(
                f"{name} is not finite on the calibration data", hint="look for infinities and NaN in data and weights"
            )


def insert_quantizers(
    module: fx.GraphModule, places: Places, activation: Grid, weight: Grid, *, per_channel: bool, learned: bool
) -> None:
    """Turn the observers into fake quantizers of `activation`, and put those of `weight` at the weights; in place."""
    home = _home(module)
    for name, observer in list(home.items()):
        assert isinstance(observer, Observer)
        home[name] = FakeQuantize(activation, *activation.covering(observer.low, observer.high), learned=learned)
    first = next(node for node in module.graph.nodes if node.op not in ("placeholder", "get_attr"))
    for place in places.weights:
        name = f"{place.node.name}_{place.axis}"
        home[name] = _for_weight(module, place, weight, per_channel and not place.grouped, learned)
        with module.graph.inserting_before(first):
            _put(module.graph.call_module(f"{_HOME}.{name}", (place.node,)), place.node, place.readers)
    module.recompile()


def _put(call: fx.Node, node: fx.Node, readers: Iterable[fx.Node]) -> None:
    call.meta = {k: v for k, v in node.meta.items() if k in ("val", "stack_trace", "nn_module_stack")}
    for reader in readers:
        reader.replace_input_with(node, call)


def _home(module: fx.GraphModule) -> nn.ModuleDict:
    found = module.get_submodule(_HOME)
    assert isinstance(found, nn.ModuleDict)
    return found


def _for_weight(module: fx.GraphModule, place: Weight, grid: Grid, per_channel: bool, learned: bool) -> FakeQuantize:
    values = _tensor(module, place.node)
    rows = values.movedim(place.axis, 0).reshape(values.shape[place.axis], -1) if per_channel else values.reshape(1, -1)
    largest = rows.abs().amax(1)
    share = _best_shares(rows, largest, grid) if grid.bits < 8 else torch.ones_like(largest)
    scale, zero = grid.covering(-largest * share, largest * share)
    scale = torch.maximum(scale, _least_scale(module, place, per_channel))
    if not per_channel:
        scale, zero = scale[0], zero[0]
    return FakeQuantize(grid, scale, zero, place.axis, learned=learned)


def _best_shares(rows: Tensor, largest: Tensor, grid: Grid) -> Tensor:
    """For each row the share of its largest weight that leaves the least squared error."""
    errors = []
    for share in _SHARES:
        scale, _ = grid.covering(-largest * share, largest * share)
        rounded = torch.round(rows / scale[:, None]).clamp(grid.low, grid.high) * scale[:, None]
        errors.append((rounded - rows).square().sum(1))
    return torch.tensor(_SHARES)[torch.stack(errors).argmin(0)]


def _least_scale(module: fx.GraphModule, place: Weight, per_channel: bool) -> Tensor:
    """Below it, the bias of a reader would not fit into 32 bits: its scale is that of input times weight."""
    least = torch.zeros(place.node.meta["val"].shape[place.axis] if per_channel else 1)
    for reader in place.readers:
        bias = _bias(module, reader)
        if bias is not None:
            wanted = bias.abs() / (_input_quantizer(module, reader).step() * 2**30)
            least = torch.maximum(least, wanted if per_channel and wanted.shape == least.shape else wanted.max())
    return least.detach()


# ---- freezing


def freeze(module: fx.GraphModule) -> fx.GraphModule:
    """The same arithmetic with weights stored as integers, biases too, and scales that are no parameters."""
    graph = module.graph
    for node in list(graph.nodes):
        if node.op == "call_module" and node.args[0].op == "get_attr":
            _freeze_weight(module, node)
    home = _home(module)
    for name, quantizer in list(home.items()):
        assert isinstance(quantizer, FakeQuantize)
        home[name] = FakeQuantize(quantizer.grid, quantizer.step().detach(), quantizer.zero_point, quantizer.axis)
    graph.eliminate_dead_code()
    return fx.GraphModule(module, graph)


def _freeze_weight(module: fx.GraphModule, call: fx.Node) -> None:
    quantizer = module.get_submodule(str(call.target))
    assert isinstance(quantizer, FakeQuantize)
    weight, scale = _tensor(module, call.args[0]), quantizer.step().detach()
    integers = quantizer.integers(weight)
    for reader in list(call.users):
        if operator(reader) == "linear" and reader.meta["val"].ndim > 2:
            _as_product(module, reader, integers.T.contiguous(), scale)
            continue
        if operator(reader) == "embedding" and _varies(reader.args[1]):
            _as_rows(module, reader, integers, scale)
            continue
        stored = _stored(module, reader, str(call.args[0].target), integers, scale, quantizer.axis)  # type: ignore[union-attr]
        reader.replace_input_with(call, stored)
        _freeze_bias(module, reader, scale)


def _freeze_bias(module: fx.GraphModule, reader: fx.Node, weight_scale: Tensor) -> None:
    bias = _bias(module, reader)
    if bias is None:
        return
    scale = _input_quantizer(module, reader).step().detach() * weight_scale
    scale = scale.expand(bias.shape).contiguous()
    integers = torch.round(bias.double() / scale)
    if bool((integers.abs() < 2**31).all()):
        node = reader.args[2]
        assert isinstance(node, fx.Node)
        stored = _stored(module, reader, str(node.target), integers.to(torch.int32), scale, 0)
        reader.replace_input_with(node, stored)


def _as_product(module: fx.GraphModule, linear: fx.Node, integers: Tensor, scale: Tensor) -> None:
    """`linear` of more than a matrix becomes product and sum: as ONNX writes it, without a transposed weight.

    The bias has as many axes as the sum: onnxruntime would make a Gemm with one axis, and take it out of the integers.
    """
    graph = linear.graph
    name = str(linear.args[1].args[0].target)  # type: ignore[union-attr]
    stored = _stored(module, linear, name, integers, scale, 1)
    bias = _bias(module, linear)
    with graph.inserting_before(linear):
        product = graph.call_function(torch.ops.aten.matmul.default, (linear.args[0], stored))
        _put(product, linear, ())
        if bias is not None:
            held = f"{linear.name}_bias"
            module.register_buffer(held, bias.reshape([1] * (linear.meta["val"].ndim - 1) + [-1]).clone())
            product = graph.call_function(torch.ops.aten.add.Tensor, (product, graph.get_attr(held)))
            _put(product, linear, ())
    linear.replace_all_uses_with(product)
    graph.erase_node(linear)


def _varies(value: Any) -> bool:
    """Whether it depends on an input: rows that are always the same would be folded to floats."""
    pending, seen = [value], set()
    while pending:
        node = pending.pop()
        if node.op == "placeholder":
            return True
        pending.extend(n for n in node.all_input_nodes if n not in seen)
        seen.update(node.all_input_nodes)
    return False


def _as_rows(module: fx.GraphModule, embedding: fx.Node, integers: Tensor, scale: Tensor) -> None:
    """Rows are looked up as integers, their scales beside them: onnxruntime would widen a whole table at every run."""
    graph = embedding.graph
    scales = scale.expand(len(integers)).reshape(-1, 1).clone()
    with graph.inserting_before(embedding):
        found = []
        for part, table in (("integers", integers), ("scale", scales)):
            module.register_buffer(f"{embedding.name}_{part}", table)
            held = graph.get_attr(f"{embedding.name}_{part}")
            found.append(graph.call_function(torch.ops.aten.embedding.default, (held, embedding.args[1])))
        wide = graph.call_function(torch.ops.aten.to.dtype, (found[0], torch.float32))
        rows = graph.call_function(torch.ops.aten.mul.Tensor, (wide, found[1]))
    _put(rows, embedding, ())
    embedding.replace_all_uses_with(rows)
    graph.erase_node(embedding)


def _stored(module: fx.GraphModule, before: fx.Node, name: str, integers: Tensor, scale: Tensor, axis: int) -> fx.Node:
    """A node in front of `before` that gives `integers` times `scale`, both kept in the module under `name`."""
    flat = f"{name.replace('.', '_')}_{before.name}"
    parts = {"integers": integers, "scale": scale, "zero": torch.zeros_like(scale, dtype=integers.dtype)}
    for part, value in parts.items():
        module.register_buffer(f"{flat}_{part}", value)
    graph = before.graph
    with graph.inserting_before(before):
        held = [graph.get_attr(f"{flat}_{part}") for part in parts]
        call = graph.call_function(dequantize._opoverload, (*held, axis))
    _put(call, before, ())
    return call


def _bias(module: fx.GraphModule, kernel: fx.Node) -> Tensor | None:
    node = kernel.args[2] if len(kernel.args) > 2 else kernel.kwargs.get("bias")
    return _tensor(module, node) if isinstance(node, fx.Node) and node.op == "get_attr" else None


def _input_quantizer(module: fx.GraphModule, kernel: fx.Node) -> FakeQuantize:
    value: Any = kernel.args[0]
    found = module.get_submodule(str(value.target))
    assert isinstance(found, FakeQuantize)
    return found


def _tensor(module: fx.GraphModule, node: Any) -> Tensor:
    value: Any = module
    for part in str(node.target).split("."):
        value = getattr(value, part)
    found: Tensor = value.detach()
    return found


def quantizers(module: fx.GraphModule) -> Iterator[tuple[str, FakeQuantize]]:
    """Every fake quantizer, by name."""
    for name, quantizer in _home(module).items():
        if isinstance(quantizer, FakeQuantize):
            yield name, quantizer
