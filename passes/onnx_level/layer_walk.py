"""Walk through a graph for many samples at once, one tensor after another, holding only what is still to be read.

What stands ahead may be changed on the way: a tensor is computed with the constants that the graph has when it is asked
for. An activation that is stored in integers is held in integers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from passes.dataset import Array, Sample
from passes.onnxruntime import Session

if TYPE_CHECKING:
    import onnx

__all__ = ["LayerWalk"]

_RECOMPUTED = "DequantizeLinear"


class LayerWalk:
    """The tensors of one graph over `samples`, asked for in an order in which the graph can compute them.

    Args:
        model: May be changed between two calls, in its constants alone.
        samples: Held in memory while the walk goes on.
    """

    def __init__(self, model: onnx.ModelProto, samples: Sequence[Sample]) -> None:
        self._model = model
        self._held: dict[str, list[Array]] = {
            name: [s[name] for s in samples] for name in (samples[0] if samples else {})
        }
        self._count = len(samples)
        nodes = list(model.graph.node)
        self._maker = {name: i for i, node in enumerate(nodes) for name in node.output}
        self._reads = [list(_reads(node)) for node in nodes]
        self._undone = {i for i, node in enumerate(nodes) if node.op_type != _RECOMPUTED}
        self._readers: dict[str, set[int]] = {}
        for i in sorted(self._undone):
            for name in self._through(self._reads[i]):
                self._readers.setdefault(name, set()).add(i)

    def values(self, tensor: str) -> Iterator[Array]:
        """`tensor` of each sample in turn. What it was computed from is kept as long as something else reads it."""
        maker = self._maker.get(tensor)
        if maker is None:
            return iter(self._held[tensor])
        if self._model.graph.node[maker].op_type == _RECOMPUTED:
            self._compute([n for n in self._through([tensor]) if n in self._maker and n not in self._held])
            return (answer[tensor] for answer in self._run([maker], [tensor]))
        self._compute([tensor] if tensor not in self._held else [])
        return iter(self._held[tensor])

    def preview(self, tensor: str) -> Iterator[Array]:
        """`tensor` of each sample, computed but not held: it is computed anew when constants have changed."""
        maker = self._maker[tensor]
        self._compute([n for n in self._through(self._reads[maker]) if n in self._maker and n not in self._held])
        return (answer[tensor] for answer in self._run([maker], [tensor]))

    def _compute(self, tensors: Sequence[str]) -> None:
        """Hold `tensors` and whatever else was computed on the way to them and is read by what comes later."""
        if not tensors:
            return
        nodes = self._needed(tensors)
        self._undone -= nodes
        made = [name for i in sorted(nodes) for name in self._model.graph.node[i].output if name]
        wanted = [n for n in made if n in tensors or self._readers.get(n, set()) & self._undone]
        found: dict[str, list[Array]] = {name: [] for name in wanted}
        for answer in self._run(sorted(nodes), wanted):
            for name in wanted:
                found[name].append(answer[name])
        self._held.update(found)
        for name in [n for n in self._held if n not in tensors and not self._readers.get(n, set()) & self._undone]:
            del self._held[name]

    def _needed(self, tensors: Iterable[str]) -> set[int]:
        ahead, found = list(tensors), set[int]()
        while ahead:
            name = ahead.pop()
            maker = self._maker.get(name)
            if name in self._held or maker is None or maker in found:
                continue
            found.add(maker)
            ahead += self._through(self._reads[maker])
        return found

    def _through(self, names: Iterable[str]) -> list[str]:
        """What is read, with integers in the place of what is dequantized from them."""
        found = []
        for name in names:
            maker = self._maker.get(name)
            if maker is not None and self._model.graph.node[maker].op_type == _RECOMPUTED:
                found.append(self._model.graph.node[maker].input[0])
            else:
                found.append(name)
        return found

    def _run(self, nodes: Sequence[int], wanted: Sequence[str]) -> Iterator[Mapping[str, Array]]:
        graph = self._model.graph
        dequantizers = {self._maker[n] for i in nodes for n in self._reads[i] if n in self._maker}
        dequantizers = {i for i in dequantizers if graph.node[i].op_type == _RECOMPUTED} - set(nodes)
        session, inputs = self._session([*sorted(dequantizers), *nodes], wanted)
        for i in range(self._count):
            yield session({name: self._held[name][i] for name in inputs})

    def _session(self, nodes: Sequence[int], wanted: Sequence[str]) -> tuple[Session, list[str]]:
        import onnx
        from onnx import helper

        graph = self._model.graph
        part = onnx.ModelProto(ir_version=self._model.ir_version)
        part.opset_import.extend(self._model.opset_import)
        part.functions.extend(self._model.functions)
        part.graph.name = "part"
        part.graph.node.extend(graph.node[i] for i in nodes)
        made = {name for i in nodes for name in graph.node[i].output}
        read = {name for i in nodes for name in self._reads[i]} - made
        part.graph.initializer.extend(tensor for tensor in graph.initializer if tensor.name in read)
        inputs = sorted(read - {tensor.name for tensor in part.graph.initializer})
        for name in inputs:
            first = self._held[name][0]
            kind = helper.np_dtype_to_tensor_dtype(first.dtype)
            part.graph.input.append(helper.make_tensor_value_info(name, kind, [None] * first.ndim))
        part.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
        return Session(part.SerializeToString(), optimize=False), inputs


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Every tensor that a node reads, in its bodies as well."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for body in (attribute.g, *attribute.graphs):
            own = {v.name for v in body.input} | {t.name for t in body.initializer}
            own |= {name for inner in body.node for name in inner.output}
            for inner in body.node:
                yield from (name for name in _reads(inner) if name not in own)
            yield from (v.name for v in body.output if v.name not in own)
