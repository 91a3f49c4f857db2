"""Read an ONNX graph into a Workload: dead and constant parts dropped, QDQ contracted, operators grouped.

A QuantizeLinear/DequantizeLinear pair between two operators is not work: it says that the tensor is stored in
8 bits and that its consumer computes in integers. Only the conversions at the edge of the integer part are priced.

The body of a Loop or Scan counts as often as it runs, where that is known; the branches of an If by the shares that its
metadata state, else the one with more arithmetic.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING

from targets.control_flow import counted_on, shares, trips
from targets.errors import InvalidInput
from targets.grouping import ANCHORS, GATES, POINTWISE, RESCALING, absorbs
from targets.onnx_values import (
    all_inputs,
    bodies,
    bytes_of,
    dtype_name,
    is_random,
    is_view,
    live_nodes,
    producer_type,
    shape_of,
    stored,
    upstream,
)
from targets.operators import operator_class, product
from targets.workload import Operator, Workload

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["MODULE_KEY", "SOURCE_KEY", "read_workload"]

SOURCE_KEY = "toolkit.source"
"""Node metadata that holds the line of the user's Python, as `file.py:12`."""

MODULE_KEY = "toolkit.module"
"""Node metadata that holds the name of the module of the user's network, as `blocks.2.project`."""

_LOOKUPS = frozenset({"Gather", "GatherElements", "GatherND"})

_Q, _DQ = "QuantizeLinear", "DequantizeLinear"


def read_workload(model: ir.Model, *, fuses: Collection[str] = ()) -> Workload:
    """The work of `model`, whose shapes are static and inferred, grouped by the rows of `fuses`.

    Raises:
        InvalidInput: a graph input has a dimension without a value.
    """
    for value in model.graph.inputs:
        if value.shape is None or not value.shape.is_static():
            raise InvalidInput(
                f"input {value.name!r} has a dimension without a value: {value.shape}",
                hint=f"state it, for instance --input {value.name}=1x3x224x224",
            )
    reader = _Reader(model.graph, frozenset(fuses))
    operators = tuple(reader.operators())
    return Workload(
        name=model.graph.name or "model",
        operators=operators,
        tensor_bytes=reader.tensor_bytes,
        float_tensors=frozenset(reader.float_tensors),
        shared_weight_bytes=sum(op.weight_bytes for op in operators) - sum(reader.weights.values()),
        shared_kept_bytes=sum(op.kept_weight_bytes for op in operators) - reader.kept_bytes(reader.weights),
        inputs=reader.inputs(),
        outputs=reader.results(),
        branches=counted_on(model.graph),
    )


@dataclass
class _Group:
    """An anchor node and the nodes that the runtime computes with it."""

    nodes: list[ir.Node]
    tail: ir.Value = field(init=False)

    def __post_init__(self) -> None:
        self.tail = self.nodes[0].outputs[0]


class _Reader:
    """Reads one graph; the body of an operator is read by a reader of its own, which shares the parent's tables."""

    def __init__(self, graph: ir.Graph, fuses: frozenset[str], parent: _Reader | None = None, prefix: str = "") -> None:
        self.graph, self.fuses, self.prefix, self.parent = graph, fuses, prefix, parent
        self.outputs = {id(v) for v in graph.outputs}
        self.inner = {id(v) for v in (*graph.inputs, *graph.initializers.values())}
        self.inner |= {id(v) for node in graph for v in node.outputs}
        self.constant = {id(v) for v in graph.initializers.values()}
        self.tensor_bytes: dict[str, int] = parent.tensor_bytes if parent else {}
        self.float_tensors: set[str] = parent.float_tensors if parent else set()
        self.weights: dict[int, int] = parent.weights if parent else {}
        self.kept: set[int] = parent.kept if parent else set()  # weights that are no float32
        self.free: dict[int, bool] = {}
        self.roots: dict[int, ir.Value] = {}
        self.unviewed: dict[int, ir.Value] = {}
        self.through: dict[int, list[ir.Node]] = {}
        for node in reversed(graph):
            if node.op_type in (_Q, _DQ):
                self.through[id(node.outputs[0])] = self._users(node.outputs[0])
        self.nodes: list[ir.Node] = []
        live = live_nodes(graph)
        for node in graph:
            if id(node) not in live:
                continue
            if all(self._is_constant(v) for v in self._operands_of(node)) and not is_random(node):
                self.constant.update(id(v) for v in node.outputs)
            else:
                self.nodes.append(node)

    def operators(self) -> Iterator[Operator]:
        """Every operator in the order of the graph, those of a body before the operator that holds it."""
        for group in self._groups():
            if inner := [body for attribute in group.nodes[0].attributes.values() for body in bodies(attribute)]:
                yield from self._inside(group.nodes[0], inner)
            yield self._operator(group)

    def inputs(self) -> tuple[str, ...]:
        return tuple(self._touch(v) for v in self.graph.inputs if self._is_activation(v))

    def results(self) -> tuple[str, ...]:
        return tuple(self._touch(v) for v in self.graph.outputs)

    def kept_bytes(self, weights: Mapping[int, int]) -> int:
        """Bytes of those weights that a lower precision leaves as they are."""
        return sum(size for key, size in weights.items() if key in self.kept)

    def _inside(self, node: ir.Node, inner: Sequence[ir.Graph]) -> Iterator[Operator]:
        """What the bodies of `node` do; a branch that counts for nothing is read for its weights."""
        named = [(f"{self.prefix}{node.name or node.op_type}/{body.name or i}/", body) for i, body in enumerate(inner)]
        read = [list(_Reader(body, self.fuses, self, prefix).operators()) for prefix, body in named]
        if counted := shares(node):
            for operators, share in zip(read, counted, strict=True):
                yield from (replace(op, repeats=op.repeats * share) for op in operators)
            return
        work = max(read, key=lambda operators: (sum(op.macs * op.repeats for op in operators), len(operators)))
        times = 1 if node.op_type == "If" else trips(node)
        for op in work:
            yield replace(
                op, repeats=op.repeats * (1 if times is None else times), static=op.static and times is not None
            )

    # ---- grouping

    def _groups(self) -> list[_Group]:
        taken: set[int] = set()
        groups = []
        for node in self.nodes:
            if id(node) in taken or self._is_free(node):
                continue
            group = _Group([node])
            if node.op_type == "MatMulInteger":
                self._rescale(group)
            if node.op_type in (*ANCHORS, "MatMulInteger") and not node.domain:
                while (added := self._epilogue(group.tail)) and taken.isdisjoint(map(id, added)):
                    group.nodes += added
                    group.tail = added[-1].outputs[0]
            elif "pointwise" in self.fuses and node.op_type in POINTWISE:
                while (added := self._continued(group.tail)) and taken.isdisjoint(map(id, added)):
                    group.nodes += added
                    group.tail = added[-1].outputs[0]
            taken.update(map(id, group.nodes))
            groups.append(group)
        inside = {id(n): group for group in groups for n in group.nodes}
        groups = [group for group in groups if inside[id(group.nodes[0])] is group]
        position = {id(node): i for i, node in enumerate(self.nodes)}
        return sorted(groups, key=lambda g: max(position[id(n)] for n in g.nodes))

    def _rescale(self, group: _Group) -> None:
        """Add the nodes that make floats of integer sums, and the product of the two scales."""
        while len(users := self._users(group.tail)) == 1 and id(group.tail) not in self.outputs:
            node = users[0]
            if node.graph is not self.graph:
                return
            others = [v for v in node.inputs if v is not None and v is not group.tail]
            if node.op_type not in RESCALING or (node.op_type == "Add" and any(self._is_activation(v) for v in others)):
                return
            scales = [
                n for v in others if (n := v.producer()) is not None and n.op_type == "Mul" and self._users(v) == users
            ]
            group.nodes += [*scales, node]
            group.tail = node.outputs[0]

    def _epilogue(self, tail: ir.Value) -> list[ir.Node]:
        """The next nodes that the runtime folds into the operator that ends at `tail`."""
        if id(tail) in self.outputs:
            return []
        users = self._users(tail)
        if any(node.graph is not self.graph for node in users):
            return []  # a body reads it, and is read by itself
        if len(users) == 1 and absorbs(self.fuses, users[0].op_type) and self._adds_up(users[0], tail):
            return users
        if len(users) == 2 and "activation" in self.fuses:
            gates = [n for n in users if n.op_type in GATES]
            muls = [n for n in users if n.op_type == "Mul"]
            gated = gates[0].outputs[0] if gates else None
            if gated is not None and muls and id(gated) not in self.outputs and self._users(gated) == muls:
                return [gates[0], muls[0]]
        return []

    def _continued(self, tail: ir.Value) -> list[ir.Node]:
        """The next operator of a chain of elementwise ones."""
        users = self._users(tail) if id(tail) not in self.outputs else []
        single = len(users) == 1 and users[0].op_type in POINTWISE and users[0].graph is self.graph
        return users if single and shape_of(users[0].outputs[0]) == shape_of(tail) else []

    def _adds_up(self, node: ir.Node, tail: ir.Value) -> bool:
        """A residual addition is folded only where both terms have the output's shape."""
        return node.op_type != "Add" or all(
            shape_of(v) == shape_of(tail) for v in node.inputs if v is not None and self._is_activation(v)
        )

    def _users(self, value: ir.Value) -> list[ir.Node]:
        """Nodes that compute with `value`, seen through QDQ pairs."""
        found: dict[ir.Node, None] = {}
        ahead = list(value.consumers())
        for node in ahead:
            if node.op_type not in (_Q, _DQ):
                found[node] = None
            elif (known := self.through.get(id(node.outputs[0]))) is not None:
                found.update(dict.fromkeys(known))
            else:
                ahead += node.outputs[0].consumers()
        return list(found)

    # ---- one operator

    def _is_free(self, node: ir.Node) -> bool:
        """Whether the runtime does nothing for this node."""
        if id(node) not in self.free:
            self.free[id(node)] = self._costs_nothing(node)
        return self.free[id(node)]

    def _costs_nothing(self, node: ir.Node) -> bool:
        if is_view(node) or node.op_type in ("Shape", "Size"):
            return True
        if node.op_type == "Cast":
            return self._converts_at_the_edge(node)
        if node.op_type == "DynamicQuantizeLinear":  # done within the products that read it
            return all(n.op_type == "MatMulInteger" for n in node.outputs[0].consumers())
        if node.op_type == _Q:
            return self._float_producer(node) is None
        return node.op_type == _DQ and not self._float_consumer(node)

    def _converts_at_the_edge(self, node: ir.Node) -> bool:
        """A cast of an input to float16, or of an output back: runtimes that compute in float16 take float32 tensors,
        and their measured times hold that copy."""
        value = node.inputs[0]
        names = {dtype_name(v) for v in (value, node.outputs[0]) if v is not None}
        at_edge = value is None or value.producer() is None or id(node.outputs[0]) in self.outputs
        return at_edge and names == {"float32", "float16"}

    def _float_producer(self, node: ir.Node) -> ir.Value | None:
        """What a QuantizeLinear converts, where that is a graph input or the result of float arithmetic."""
        value = node.inputs[0]
        assert value is not None
        producer = self._root(value).producer()
        if producer is None:
            return value
        return None if self._dtype(self._start_of(producer)) in ("int8", "uint8") else value

    def _start_of(self, node: ir.Node) -> ir.Node:
        """The operator that the runtime computes `node` with: an activation is done where its operand is made."""
        while absorbs(self.fuses, node.op_type) and node.op_type != "Add":
            value = node.inputs[0]
            before = value.producer() if value is not None else None
            if value is None or before is None or before.op_type in (_Q, _DQ) or self._users(value) != [node]:
                break
            node = before
        return node

    def _float_consumer(self, node: ir.Node) -> bool:
        """Whether the float side of a DequantizeLinear is really read."""
        value = node.outputs[0]
        if id(value) in self.outputs:
            return True
        return any(self._dtype(n) not in ("int8", "uint8") for n in self._users(value))

    def _dtype(self, node: ir.Node) -> str:
        """The element type in which `node` computes: integer where its operands come out of DequantizeLinear."""
        if node.op_type in ("ConvInteger", "MatMulInteger"):
            return "int8"  # their sums are int32
        operands = [v for v in node.inputs if v is not None and self._is_activation(v)]
        quantized = bool(operands) and all(producer_type(self._unviewed(v)) == _DQ for v in operands)
        if quantized and (self._has_integer_weights(node) if node.op_type in ANCHORS else self._leaves_quantized(node)):
            return "int8"
        value = next((v for v in node.inputs if v is not None), node.outputs[0])
        return dtype_name(node.outputs[0]) or dtype_name(value) or "float32"

    def _has_integer_weights(self, node: ir.Node) -> bool:
        weight = node.inputs[1] if len(node.inputs) > 1 else None
        return weight is None or self._is_activation(weight) or producer_type(weight) == _DQ

    def _leaves_quantized(self, node: ir.Node) -> bool:
        users = node.outputs[0].consumers()
        return bool(users) and all(n.op_type == _Q for n in users)

    def _operator(self, group: _Group) -> Operator:
        anchor = group.nodes[0]
        inside = {id(v) for n in group.nodes for v in n.outputs}
        reads, weights = self._operands(group, inside)
        shapes = [shape_of(v) if v is not None else None for v in anchor.inputs]
        output = shape_of(anchor.outputs[0])
        position = 3 if anchor.op_type == "QLinearConv" else 1
        filters = shapes[position] if len(shapes) > position else None
        tails = [group.tail, *anchor.outputs[1:]] if len(group.nodes) == 1 else [group.tail]
        writes = tuple(self._touch(v) for v in tails if v.name)
        output_bytes = sum(self.tensor_bytes[name] for name in writes)
        weight_bytes = sum(weights.values())
        if anchor.op_type in _LOOKUPS:  # the rest of the table is stored, and not read
            weight_bytes = min(weight_bytes, output_bytes)
        known = output is not None and all(shape_of(v) is not None for v in anchor.inputs if v is not None)
        return Operator(
            name=self.prefix + (anchor.name or anchor.outputs[0].name or anchor.op_type),
            op_type=anchor.op_type if not anchor.domain else f"{anchor.domain}.{anchor.op_type}",
            op_class=operator_class(anchor, filters) if not anchor.domain else "unknown",
            dtype=self._dtype(anchor),
            product=product(anchor, shapes, output),
            input_bytes=sum(self.tensor_bytes[name] for name in reads),
            output_bytes=output_bytes,
            weight_bytes=weight_bytes,
            kept_weight_bytes=min(self.kept_bytes(weights), weight_bytes),
            reads=reads,
            writes=writes,
            fused=tuple(n.op_type for n in group.nodes[1:]),
            module=anchor.metadata_props.get(MODULE_KEY, ""),
            source=anchor.metadata_props.get(SOURCE_KEY, ""),
            rank=len(output or ()),
            static=known,
        )

    def _operands(self, group: _Group, inside: set[int]) -> tuple[tuple[str, ...], dict[int, int]]:
        """Activation tensors that the group reads, and the bytes of each constant it holds."""
        reads: dict[str, None] = {}
        weights: dict[int, int] = {}
        for node in group.nodes:
            for value in self._operands_of(node):
                if id(self._root(value)) in inside or id(value) in inside:
                    continue
                if self._is_constant(value):
                    weight = stored(value)
                    weights[id(weight)] = self.weights[id(weight)] = bytes_of(weight)
                    if dtype_name(weight) != "float32":
                        self.kept.add(id(weight))
                else:
                    reads[self._touch(value)] = None
        return tuple(reads), weights

    # ---- tensors

    def _operands_of(self, node: ir.Node) -> list[ir.Value]:
        """Values of this graph that a node reads, those that only its subgraphs read among them."""
        return [v for v in all_inputs(node) if self._is_own(v)]

    def _root(self, value: ir.Value) -> ir.Value:
        """The tensor whose bytes `value` shares: through views and QDQ pairs that cost nothing."""
        return upstream(value, self.roots, self._shares_bytes)

    def _shares_bytes(self, node: ir.Node, source: ir.Value) -> bool:
        free = is_view(node) or (node.op_type in (_Q, _DQ) and self._is_free(node))
        return free and self._is_activation(source)

    def _unviewed(self, value: ir.Value) -> ir.Value:
        return upstream(value, self.unviewed, lambda node, source: is_view(node))

    def _is_own(self, value: ir.Value) -> bool:
        """Whether `value` is of this graph, or of one around it."""
        return id(value) in self.inner or (self.parent is not None and self.parent._is_own(value))

    def _is_constant(self, value: ir.Value) -> bool:
        return id(value) in self.constant or (self.parent is not None and self.parent._is_constant(value))

    def _is_activation(self, value: ir.Value) -> bool:
        return not self._is_constant(value)

    def _touch(self, value: ir.Value) -> str:
        """Name of the activation tensor behind `value`, with its stored size entered in the table."""
        root = self._root(value)
        name = (self.prefix if id(root) in self.inner else "") + (root.name or f"tensor{id(root)}")
        if name not in self.tensor_bytes:
            users = root.consumers()
            in_8_bits = bool(users) and all(n.op_type == _Q and self._is_free(n) for n in users)
            in_8_bits = in_8_bits and id(root) not in self.outputs
            self.tensor_bytes[name] = prod(shape_of(root) or (0,)) if in_8_bits else bytes_of(root)
            if not in_8_bits and dtype_name(root) == "float32":
                self.float_tensors.add(name)
        return name
