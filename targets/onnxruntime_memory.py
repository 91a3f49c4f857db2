"""What onnxruntime's CPU provider allocates for activations: its own layout, its own reuse, its own offsets.

Found by running onnxruntime 1.31 with an arena that counts every byte, operator by operator:

- Convolutions of float32 images work on blocks of channels; tensors are padded to whole blocks, and copied where an
  operator that knows no blocks reads or writes them.
- A convolution adds a residual into the residual's own buffer. Of the other operators only activations overwrite their
  operand; Add and Mul do not.
- A buffer that is free passes to the next result of the same shape, and stays allocated until then. Nothing else is
  shared.
- The first run allocates and frees each buffer. From the second run on one block holds them all, at offsets found by
  best fit in the order of that first run. Results of the graph lie outside it, the caller's inputs outside both.
- Scratch is allocated beside them: see `_scratch`.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from targets.arena import Buffer, lower_bound, pack
from targets.workload import ITEM_BYTES, Operator, Workload

__all__ = ["CHANNEL_BLOCK", "ArenaUse", "arena_use"]

CHANNEL_BLOCK = 16
"""Channels in a block: 16 with AVX-512, 8 with AVX2."""

_ALIGNMENT = 256
_CHANNEL_ALIGNMENT = 4  # convolutions of fewer or other channels keep the plain layout
_MOST_ALIVE = 4_000  # buffers alive at once; above, offsets are found by a faster best fit

_IN_PLACE = frozenset(
    "Cast Celu Clip Elu HardSigmoid LeakyRelu LogSoftmax Relu Selu Shrink Sigmoid Softmax Softplus Softsign Tanh "
    "ThresholdedRelu Trilu".split()
)
_POOLS = frozenset({"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool"})
_KEEPS_BLOCKS = frozenset(
    {"Add", "BatchNormalization", "Clip", "HardSigmoid", "LeakyRelu", "Mul", "Relu", "Sigmoid", "Tanh"}
)


@dataclass(frozen=True)
class ArenaUse:
    """Bytes of activations and scratch that onnxruntime holds.

    `first_run_bytes` is the peak while each buffer is allocated by itself; `later_runs_bytes` that of the runs after
    it, in one block with offsets.
    """

    first_run_bytes: int
    later_runs_bytes: int


def arena_use(workload: Workload, *, channel_block: int = CHANNEL_BLOCK) -> ArenaUse:
    """The arena's peak above its weights, for the operators of `workload` on one thread.

    Args:
        workload: Grouped as onnxruntime fuses: batch normalization and activations into convolutions.
        channel_block: Channels that a convolution's layout holds together; 1 for a processor without such kernels.
    """
    allocation = _Allocation(_Layout(workload, channel_block).steps(), workload.outputs)
    inside, apart = allocation.buffers(apart=False), allocation.buffers(apart=True)
    return ArenaUse(lower_bound([*inside, *apart]), _block_bytes(inside) + lower_bound(apart))


@dataclass(frozen=True, slots=True)
class _Step:
    """One kernel: what it reads and writes with the shape of each, an operand it may overwrite, and its scratch."""

    reads: tuple[str, ...]
    writes: tuple[tuple[str, _Shape], ...]
    overwrites: str = ""
    scratch: int = 0


class _Shape(NamedTuple):
    """As much of a shape as a workload knows: two results of one shape agree in all of it."""

    size: int
    channels: int
    rank: int


# ---- layout


class _Layout:
    """Which tensors lie in blocks of channels, and the kernels that run: operators, and copies between layouts."""

    def __init__(self, workload: Workload, block: int) -> None:
        self.work, self.block = workload, block
        self.channels: dict[str, int] = {}
        self.blocked: set[str] = set()  # written in blocks
        self.users: dict[str, list[int]] = defaultdict(list)
        self.takes: list[bool] = []  # for each operator, whether it reads blocks
        for position, op in enumerate(workload.operators):
            for name in op.reads:
                self.users[name].append(position)
            self._count_channels(op)
            gives = self._gives_blocks(op)
            self.takes.append(gives and (op.op_type != "Conv" or op.product.groups > 1 or _each(op) >= block))
            if gives:
                self.blocked.update(op.writes)
        self.read_plain = set(workload.outputs)
        for op, takes in zip(workload.operators, self.takes, strict=True):
            if not takes:
                self.read_plain.update(op.reads)

    def steps(self) -> list[_Step]:
        done: list[_Step] = []
        summed: set[int] = set()
        copied: set[str] = set()
        written = set(self.work.inputs)
        for position, op in enumerate(self.work.operators):
            if position in summed:
                continue
            for name in op.reads if self.takes[position] else ():
                if name in self.channels and name not in self.blocked and name not in copied:
                    copied.add(name)
                    done.append(_Step((name,), ((f"{name} in blocks", self._shape(name, op, blocks=True)),)))
            add = self._sum(op, written)
            if add is not None:
                summed.add(add)
            done += self._kernel(op, position, self.work.operators[add] if add is not None else None)
            written.update(op.writes)
            if add is not None:
                written.update(self.work.operators[add].writes)
        return done

    def _kernel(self, op: Operator, position: int, add: Operator | None) -> list[_Step]:
        """An operator, with the sum that it does within itself; then the plain copy of its result, if one is read."""
        reads = [self._as_read(name, self.takes[position]) for name in op.reads]
        overwrites = reads[0] if op.op_type in _IN_PLACE and reads else ""
        results = op.writes
        if add is not None:
            results = add.writes
            others = [name for name in add.reads if name not in op.writes]
            reads += others
            overwrites = others[0] if others else ""
        elif "Add" in op.fused and results[0] in self.blocked and len(reads) > 1:
            overwrites = reads[-1]
        blocks = results[0] in self.blocked if results else False
        shapes = tuple((name, self._shape(name, op, blocks=blocks)) for name in results)
        steps = [_Step(tuple(reads), shapes, overwrites, _scratch(op))]
        if _is_gated_apart(op):
            steps = _gated(steps[0])
        if blocks and results[0] in self.read_plain:
            steps.append(_Step(results, ((f"{results[0]} plain", self._shape(results[0], op, blocks=False)),)))
        return steps

    def _as_read(self, name: str, in_blocks: bool) -> str:
        if in_blocks:
            return f"{name} in blocks" if name in self.channels and name not in self.blocked else name
        return f"{name} plain" if name in self.blocked else name

    def _sum(self, op: Operator, written: set[str]) -> int | None:
        """Position of the Add that is done within a product: a bias, or a residual that exists already."""
        if op.op_type not in ("Conv", "MatMul") or not op.weight_bytes or "Add" in op.fused:
            return None
        result, sizes = op.writes[0], self.work.tensor_bytes
        if len(self.users[result]) != 1 or result in self.work.outputs:
            return None
        add = self.work.operators[self.users[result][0]]
        others = [name for name in add.reads if name != result]
        if add.op_type != "Add" or any(sizes[name] != sizes[result] for name in (*others, *add.writes)):
            return None
        if op.op_type == "MatMul":
            return None if others else self.users[result][0]
        in_blocks = result in self.blocked and bool(others) and self.blocked.issuperset(others)
        return self.users[result][0] if in_blocks and written.issuperset(others) else None

    def _count_channels(self, op: Operator) -> None:
        if op.rank != 4 or len(op.writes) != 1 or op.dtype != "float32":
            return
        result = op.writes[0]
        known = [self.channels[name] for name in op.reads if name in self.channels]
        if op.op_type == "Conv":
            self.channels[result] = op.product.columns * op.product.groups
            self.channels.setdefault(op.reads[0], _each(op) * op.product.groups)
        elif op.op_type == "ConvTranspose":
            self.channels[result] = op.product.columns // max(op.product.taps, 1) * op.product.groups
        elif len(known) == len(op.reads) and known:
            if op.op_type == "Concat":
                self.channels[result] = sum(known)
            elif op.op_type in _POOLS | _KEEPS_BLOCKS and len(set(known)) == 1:
                self.channels[result] = known[0]

    def _gives_blocks(self, op: Operator) -> bool:
        if op.op_type == "Conv":
            return self._is_blocked_convolution(op)
        if self.block < 2 or len(op.writes) != 1 or op.writes[0] not in self.channels or op.dtype != "float32":
            return False
        whole = all(self.channels.get(name, 1) % self.block == 0 for name in op.reads)
        if op.op_type in _POOLS:
            return whole
        if not self.blocked.issuperset(op.reads):
            return False
        if op.op_type == "Concat":
            return whole
        return op.op_type in _KEEPS_BLOCKS and len({self.work.tensor_bytes[name] for name in op.reads}) == 1

    def _is_blocked_convolution(self, op: Operator) -> bool:
        if self.block < 2 or op.rank != 4 or op.dtype != "float32" or not op.weight_bytes:
            return False
        each, product = _each(op), op.product
        if product.groups == 1:
            return each < self.block or each % _CHANNEL_ALIGNMENT == 0
        if each == 1 and product.columns == 1:
            return product.groups % _CHANNEL_ALIGNMENT == 0
        return each % _CHANNEL_ALIGNMENT == 0 and product.columns % self.block == 0

    def _shape(self, name: str, op: Operator, *, blocks: bool) -> _Shape:
        size, channels = self.work.tensor_bytes[name], self.channels.get(name, 0)
        if not blocks or not channels:
            return _Shape(size, channels, 2 if op.op_type == "MatMul" and op.weight_bytes else op.rank)
        whole = -(-channels // self.block) * self.block
        return _Shape(size * whole // channels, whole, op.rank)


def _is_gated_apart(op: Operator) -> bool:
    """Whether the activation of a product is a kernel with a result of its own: x sigmoid(x), unlike hard-swish."""
    return "Gelu" in op.fused or ("Mul" in op.fused and "Sigmoid" in op.fused)


def _gated(product: _Step) -> list[_Step]:
    """The product, and the kernel that makes its activation of it."""
    ((name, shape),) = product.writes
    before = f"{name} before its activation"
    return [
        _Step(product.reads, ((before, shape),), product.overwrites, product.scratch),
        _Step((before,), product.writes),
    ]


def _each(op: Operator) -> int:
    """Input channels of each group of a convolution."""
    return op.product.depth // max(op.product.taps, 1)


def _scratch(op: Operator) -> int:
    """Bytes that a kernel holds only while it runs.

    A transposed convolution writes every tap of every position first. An integer convolution whose channels fill whole
    vectors reads through a table of pointers; any other gathers its operand, and sums in 32 bits.
    """
    product = op.product
    if op.op_type == "ConvTranspose":
        return product.rows * product.columns * ITEM_BYTES.get(op.dtype, 4)
    if op.op_type not in ("Conv", "QLinearConv") or op.dtype not in ("int8", "uint8"):
        return 0
    each = _each(op)
    depthwise = each == product.columns == 1
    table = product.rows * product.taps * 8 if product.taps > 1 else 0
    if product.groups % 16 == 0 if depthwise else product.groups == 1 and each % 4 == 0 and product.columns % 16 == 0:
        return table
    sums = 4 * product.rows * product.columns * product.groups
    return sums + (table if depthwise else product.rows * product.depth if product.taps > 1 else 0)


# ---- allocation


class _Allocation:
    """A buffer for each result: an operand's, a free one of its shape, or a new one.

    `apart` are the positions of buffers that lie in no block: results of the graph, and scratch.
    """

    def __init__(self, steps: Sequence[_Step], outputs: Collection[str]) -> None:
        self.holder: dict[str, int] = {}
        self.shapes: list[_Shape] = []
        self.spans: list[list[int]] = []
        self.readers: list[int] = []  # of each buffer, those still to come
        self.free: dict[_Shape, list[int]] = defaultdict(list)
        self.apart: set[int] = set()
        self.uses: dict[str, int] = defaultdict(int)
        written = {name for step in steps for name, _ in step.writes}
        self.kept = {f"{name} plain" if f"{name} plain" in written else name for name in outputs}
        for step in steps:
            for name in step.reads:
                self.uses[name] += 1
        for at, step in enumerate(steps):
            self._allocate(step, at)
            self._release(step, at)
        for name in self.kept & set(self.holder):
            self.spans[self.holder[name]][1] = len(steps) - 1

    def buffers(self, *, apart: bool) -> list[Buffer]:
        """What lies in the block, or what does not, in sizes as they are allocated."""
        return [
            Buffer("", -(-shape.size // _ALIGNMENT) * _ALIGNMENT, first, last)
            for position, (shape, (first, last)) in enumerate(zip(self.shapes, self.spans, strict=True))
            if (position in self.apart) == apart
        ]

    def _allocate(self, step: _Step, at: int) -> None:
        for name, shape in step.writes:
            if name in self.kept:
                held = self._new(shape, at)
                self.apart.add(held)
            elif self._may_overwrite(step, shape):
                held = self.holder[step.overwrites]
            elif self.free[shape]:
                held = self.free[shape].pop()
            else:
                held = self._new(shape, at)
            self.holder[name] = held
            self.readers[held] += self.uses[name]
            self.spans[held][1] = at
        if step.scratch:
            self.apart.add(self._new(_Shape(step.scratch, 0, 0), at))

    def _release(self, step: _Step, at: int) -> None:
        """What no one reads after this step is free for the next result of its shape."""
        for name in step.reads:
            if (held := self.holder.get(name)) is not None:
                self.spans[held][1] = at
                self.readers[held] -= 1
        for held in dict.fromkeys(self.holder.get(name, -1) for name in (*step.reads, *(n for n, _ in step.writes))):
            if held >= 0 and not self.readers[held] and held not in self.apart:
                self.free[self.shapes[held]].append(held)

    def _may_overwrite(self, step: _Step, shape: _Shape) -> bool:
        held = self.holder.get(step.overwrites, -1)
        if held < 0 or held in self.apart or self.shapes[held] != shape:
            return False
        return self.readers[held] == step.reads.count(step.overwrites)

    def _new(self, shape: _Shape, at: int) -> int:
        self.shapes.append(shape)
        self.spans.append([at, at])
        self.readers.append(0)
        return len(self.shapes) - 1


def _block_bytes(buffers: Sequence[Buffer]) -> int:
    """The block that onnxruntime's planner makes of the first run: best fit among the gaps, else above all."""
    if len(buffers) and max(_alive(buffers)) > _MOST_ALIVE:
        return pack(buffers, alignment=_ALIGNMENT).arena_bytes
    ending = sorted(range(len(buffers)), key=lambda i: buffers[i].last)
    spans: list[tuple[int, int]] = []  # (offset, size) of what is alive, sorted
    offsets = [0] * len(buffers)
    end, done = 0, 0
    for index in sorted(range(len(buffers)), key=lambda i: buffers[i].first):
        size = buffers[index].size
        while buffers[ending[done]].last < buffers[index].first:
            gone = ending[done]
            del spans[bisect_left(spans, (offsets[gone], buffers[gone].size))]
            done += 1
        offsets[index] = _offset(spans, size, end)
        end = max(end, offsets[index] + size)
        insort(spans, (offsets[index], size))
    return end


def _offset(spans: Sequence[tuple[int, int]], size: int, end: int) -> int:
    """The tightest gap, the one below the end of the block included."""
    current, tightest, found = 0, -1, -1
    for offset, taken in (*spans, (end, 0)):
        gap = offset - current
        if gap >= size and (tightest < 0 or gap < tightest):
            tightest, found = gap, current
        current = max(current, offset + taken)
    return found if found >= 0 else (spans[-1][0] + spans[-1][1] if spans else 0)


def _alive(buffers: Sequence[Buffer]) -> list[int]:
    change = [0] * (max(b.last for b in buffers) + 2)
    for buffer in buffers:
        change[buffer.first] += 1
        change[buffer.last + 1] -= 1
    total, counts = 0, []
    for delta in change:
        total += delta
        counts.append(total)
    return counts
