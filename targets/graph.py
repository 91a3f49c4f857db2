"""Read an ONNX graph into a Workload: dead and constant parts dropped, QDQ contracted, operators grouped.

A QuantizeLinear/DequantizeLinear pair between two operators is not work: it says that the tensor is stored in
8 bits and that its consumer computes in integers. Only the conversions at the edge of the integer part are priced.

The body of a Loop or Scan counts as often as it runs, where that is known; the branches of an If by the shares that its
metadata state (SHARE_KEY), else the one with more arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from math import ceil, prod
from typing import TYPE_CHECKING

from targets.errors import InvalidInput
from targets.grouping import ANCHORS, GATES, POINTWISE, RESCALING, absorbs
from targets.operators import VIEWS, operator_class, product
from targets.workload import Operator, Workload

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["SHARE_KEY", "SOURCE_KEY", "read_workload"]

SOURCE_KEY = "toolkit.source"
"""Node metadata that holds the line of the user's Python, as `file.py:12`."""

SHARE_KEY = "toolkit.share"
"""Metadata of an If: the share of the samples counted that took its `then_branch`, as `0.25 of 64 samples`."""

_ENDLESS = 2**31
"""Turns from which on a Loop's count says nothing: exporters write the largest integer for `while`."""

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
        branches=_counted(model.graph),
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
        live = _live_nodes(graph)
        for node in graph:
            if id(node) not in live:
                continue
            if all(self._is_constant(v) for v in self._operands_of(node)) and not _random(node):
                self.constant.update(id(v) for v in node.outputs)
            else:
                self.nodes.append(node)

    def operators(self) -> Iterator[Operator]:
        """Every operator in the order of the graph, those of a body before the operator that holds it."""
        for group in self._groups():
            if bodies := [body for attribute in group.nodes[0].attributes.values() for body in _bodies(attribute)]:
                yield from self._inside(group.nodes[0], bodies)
            yield self._operator(group)

    def inputs(self) -> tuple[str, ...]:
        return tuple(self._touch(v) for v in self.graph.inputs if self._is_activation(v))

    def results(self) -> tuple[str, ...]:
        return tuple(self._touch(v) for v in self.graph.outputs)

    def kept_bytes(self, weights: Mapping[int, int]) -> int:
        """Bytes of those weights that a lower precision leaves as they are."""
        return sum(size for key, size in weights.items() if key in self.kept)

    def _inside(self, node: ir.Node, bodies: Sequence[ir.Graph]) -> Iterator[Operator]:
        """What the bodies of `node` do; a branch that counts for nothing is read for its weights."""
        named = [(f"{self.prefix}{node.name or node.op_type}/{body.name or i}/", body) for i, body in enumerate(bodies)]
        read = [list(_Reader(body, self.fuses, self, prefix).operators()) for prefix, body in named]
        if shares := _shares(node):
            for operators, share in zip(read, shares, strict=True):
                yield from (replace(op, repeats=op.repeats * share) for op in operators)
            return
        work = max(read, key=lambda operators: (sum(op.macs * op.repeats for op in operators), len(operators)))
        times = 1 if node.op_type == "If" else _trips(node)
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
        return users if single and _shape(users[0].outputs[0]) == _shape(tail) else []

    def _adds_up(self, node: ir.Node, tail: ir.Value) -> bool:
        """A residual addition is folded only where both terms have the output's shape."""
        return node.op_type != "Add" or all(
            _shape(v) == _shape(tail) for v in node.inputs if v is not None and self._is_activation(v)
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
        if _is_view(node) or node.op_type in ("Shape", "Size"):
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
        names = {_dtype_name(v) for v in (value, node.outputs[0]) if v is not None}
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
        quantized = bool(operands) and all(_producer_type(self._unviewed(v)) == _DQ for v in operands)
        if quantized and (self._has_integer_weights(node) if node.op_type in ANCHORS else self._leaves_quantized(node)):
            return "int8"
        value = next((v for v in node.inputs if v is not None), node.outputs[0])
        return _dtype_name(node.outputs[0]) or _dtype_name(value) or "float32"

    def _has_integer_weights(self, node: ir.Node) -> bool:
        weight = node.inputs[1] if len(node.inputs) > 1 else None
        return weight is None or self._is_activation(weight) or _producer_type(weight) == _DQ

    def _leaves_quantized(self, node: ir.Node) -> bool:
        users = node.outputs[0].consumers()
        return bool(users) and all(n.op_type == _Q for n in users)

    def _operator(self, group: _Group) -> Operator:
        anchor = group.nodes[0]
        inside = {id(v) for n in group.nodes for v in n.outputs}
        reads, weights = self._operands(group, inside)
        shapes = [_shape(v) if v is not None else None for v in anchor.inputs]
        output = _shape(anchor.outputs[0])
        position = 3 if anchor.op_type == "QLinearConv" else 1
        filters = shapes[position] if len(shapes) > position else None
        tails = [group.tail, *anchor.outputs[1:]] if len(group.nodes) == 1 else [group.tail]
        writes = tuple(self._touch(v) for v in tails if v.name)
        output_bytes = sum(self.tensor_bytes[name] for name in writes)
        weight_bytes = sum(weights.values())
        if anchor.op_type in _LOOKUPS:  # the rest of the table is stored, and not read
            weight_bytes = min(weight_bytes, output_bytes)
        known = output is not None and all(_shape(v) is not None for v in anchor.inputs if v is not None)
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
                    stored = _stored(value)
                    weights[id(stored)] = self.weights[id(stored)] = _bytes(stored)
                    if _dtype_name(stored) != "float32":
                        self.kept.add(id(stored))
                else:
                    reads[self._touch(value)] = None
        return tuple(reads), weights

    # ---- tensors

    def _operands_of(self, node: ir.Node) -> list[ir.Value]:
        """Values of this graph that a node reads, those that only its subgraphs read among them."""
        return [v for v in _all_inputs(node) if self._is_own(v)]

    def _root(self, value: ir.Value) -> ir.Value:
        """The tensor whose bytes `value` shares: through views and QDQ pairs that cost nothing."""
        return _upstream(value, self.roots, self._shares_bytes)

    def _shares_bytes(self, node: ir.Node, source: ir.Value) -> bool:
        free = _is_view(node) or (node.op_type in (_Q, _DQ) and self._is_free(node))
        return free and self._is_activation(source)

    def _unviewed(self, value: ir.Value) -> ir.Value:
        return _upstream(value, self.unviewed, lambda node, source: _is_view(node))

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
            self.tensor_bytes[name] = prod(_shape(root) or (0,)) if in_8_bits else _bytes(root)
            if not in_8_bits and _dtype_name(root) == "float32":
                self.float_tensors.add(name)
        return name


def _shares(node: ir.Node) -> list[float]:
    """How often each body of an If runs, in the order of its attributes; empty where nobody counted."""
    noted = node.metadata_props.get(SHARE_KEY, "")
    if node.op_type != "If" or not noted:
        return []
    then = float(noted.split()[0])
    return [then if name == "then_branch" else 1 - then for name, a in node.attributes.items() if _bodies(a)]


def _counted(graph: ir.Graph) -> str:
    """What the shares of branches were counted on; empty where none are stated."""
    noted = {node.metadata_props[SHARE_KEY] for node in graph if SHARE_KEY in node.metadata_props}
    samples = sorted({note.partition(" of ")[2] for note in noted})
    return f"branches by how often {', '.join(samples)} took them" if samples else ""


def _trips(node: ir.Node) -> int | None:
    """How often the body of a Loop or Scan runs; None where only the data say."""
    if node.op_type == "Loop":
        count = node.inputs[0] if node.inputs else None
        known = count.const_value if count is not None else None
        times = int(known.numpy().reshape(())) if known is not None else _ENDLESS
        return max(times, 0) if times < _ENDLESS and not _stops_early(node) else None
    scanned = node.inputs[len(node.inputs) - node.attributes.get_int("num_scan_inputs", 1) :]
    axis = node.attributes.get_ints("scan_input_axes", [0])[0]
    shape = _shape(scanned[0]) if scanned and scanned[0] is not None else None
    return shape[axis] if shape else None


def _stops_early(loop: ir.Node) -> bool:
    """Whether a condition that the body computes may end the loop."""
    body = next((b for attribute in loop.attributes.values() for b in _bodies(attribute)), None)
    if body is None or not body.outputs or len(loop.inputs) < 2 or loop.inputs[1] is None:
        return False
    condition = body.outputs[0]
    producer = condition.producer()
    return producer is not None and producer.op_type != "Identity" and condition.const_value is None


def _live_nodes(graph: ir.Graph) -> set[int]:
    live: set[int] = set()
    stack = [v.producer() for v in graph.outputs]
    while stack:
        node = stack.pop()
        if node is None or id(node) in live or node.graph is not graph:
            continue
        live.add(id(node))
        stack += [v.producer() for v in _all_inputs(node)]
    return live


def _all_inputs(node: ir.Node) -> Iterator[ir.Value]:
    """Inputs of a node and whatever its subgraphs capture from outside."""
    yield from (v for v in node.inputs if v is not None)
    for attribute in node.attributes.values():
        for body in _bodies(attribute):
            for inner in body:
                yield from _all_inputs(inner)


def _bodies(attribute: ir.Attr) -> Sequence[ir.Graph]:
    kind = attribute.type.name
    if kind == "GRAPH":
        return [attribute.as_graph()]
    return list(attribute.as_graphs()) if kind == "GRAPHS" else []


def _is_view(node: ir.Node) -> bool:
    return node.op_type in VIEWS and not node.domain


def _upstream(value: ir.Value, known: dict[int, ir.Value], passes: Callable[[ir.Node, ir.Value], bool]) -> ir.Value:
    """Back along the first inputs of nodes that `passes`; `known` keeps what was found: no chain is walked twice."""
    walked = []
    while (found := known.get(id(value))) is None:
        walked.append(id(value))
        producer = value.producer()
        source = producer.inputs[0] if producer is not None and producer.inputs else None
        if producer is None or source is None or not passes(producer, source):
            found = value
            break
        value = source
    known.update(dict.fromkeys(walked, found))
    return found


def _random(node: ir.Node) -> bool:
    return node.op_type.startswith("Random") or node.op_type in ("Bernoulli", "Multinomial")


def _stored(value: ir.Value) -> ir.Value:
    """The constant as it lies in the file: behind a DequantizeLinear, the integers."""
    producer = value.producer()
    if producer is not None and producer.op_type == _DQ and producer.inputs[0] is not None:
        return producer.inputs[0]
    return value


def _producer_type(value: ir.Value) -> str:
    producer = value.producer()
    return producer.op_type if producer is not None else ""


def _shape(value: ir.Value) -> tuple[int, ...] | None:
    if value.shape is None:
        return None
    dims = tuple([d for d in value.shape.dims if isinstance(d, int)])
    return dims if len(dims) == len(value.shape.dims) else None


def _dtype_name(value: ir.Value) -> str:
    """The numpy name of a tensor's element type; empty where the graph does not say."""
    return _type_name(value.dtype) if value.dtype is not None else ""


@cache
def _type_name(dtype: ir.DataType) -> str:
    return {"FLOAT": "float32", "DOUBLE": "float64"}.get(dtype.name, dtype.name.lower())


def _bytes(value: ir.Value) -> int:
    shape = _shape(value)
    if shape is None or value.dtype is None or value.dtype.name == "STRING":
        return 0  # text has no fixed size, and no device here takes it
    return ceil(prod(shape) * value.dtype.itemsize)
