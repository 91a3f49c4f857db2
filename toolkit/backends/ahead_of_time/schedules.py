"""How kernels walk their loops: a sum is kept in registers over a small tile, and what follows it is done there.

TVM's own lowering computes a convolution into memory, then adds the bias, then clips, each over the whole tensor, and
copies the input even where it pads nothing. Here, for a kernel with one reduction:

1. what only copies or works element by element is inlined;
2. the last loop is split for vectors, and a loop over which the vector is used again (output channels of a
   convolution, rows of a product) is split so that the sums of one tile fill the registers;
3. the sums are written out through the steps after them, tile by tile;
4. padding is done plane by plane where planes do not mix.

These are rules, not a search: the same on every machine, and never called tuned. A kernel that they do not fit stays
as TVM made it.

Source: Goto and van de Geijn 2008 (register tiles); Chen et al. 2018, arXiv:1802.04799 (the primitives).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from toolkit.backends.ahead_of_time.machines import Vectors

__all__ = ["scheduled"]

_ACCUMULATORS = 16
"""Vectors of four floats that hold sums: half of the registers of NEON and of AVX-512, all of SSE."""

_MOST_VECTORS = 8
_FEWEST_LANES = 4

_LONGEST_ROW, _ROWS = 64, 4
"""Elements of a tile in memory: 1 KiB, which TVM still puts on the stack."""


def scheduled(function: Any, vectors: Vectors) -> Any:
    """The same function with its loops rearranged, or the function itself where the rules do not fit."""
    from tvm.error import InternalError
    from tvm.s_tir import ScheduleError

    try:
        return _rearranged(function, vectors)
    except (ScheduleError, InternalError, _Unfit):
        return function


class _Unfit(Exception):
    """The rules do not know such a kernel."""


@dataclass(frozen=True)
class _Axis:
    """A loop of a block: its variable, its extent, and whether it is summed over."""

    variable: Any
    extent: int
    summed: bool


@dataclass(frozen=True)
class _Tile:
    """`rows` of the reused axis by `vectors` of `lanes` elements of the last axis."""

    vectors: int
    lanes: int
    rows: int
    in_registers: bool = True


@dataclass(frozen=True)
class _Nest:
    """The loops of a reduction, outermost first: those over tiles, the sums, those within a tile.

    `planes` is the loop whose steps read separate planes of the input, where there is one.
    """

    tiles: list[Any]
    sums: list[Any]
    within: list[Any]
    tile: _Tile
    planes: Any


def _rearranged(function: Any, vectors: Vectors) -> Any:
    from tvm import s_tir

    schedule = s_tir.Schedule(function)
    _inline(schedule)
    blocks = schedule.get_child_blocks(schedule.get_sblock("root"))
    sums = [block for block in blocks if _sums(schedule, block)]
    if len(sums) > 1:
        raise _Unfit
    if sums:
        _tile(schedule, sums[0], vectors)
    return schedule.mod["main"]


def _sums(schedule: Any, block: Any) -> bool:
    return any(axis.summed for axis in _axes(schedule, block))


def _inline(schedule: Any) -> None:
    """Blocks that are read once, by a neighbour, and cost nothing to compute there."""
    for block in schedule.get_child_blocks(schedule.get_sblock("root")):
        consumers = schedule.get_consumers(block)
        if len(consumers) != 1 or _sums(schedule, block):
            continue
        if not _sums(schedule, consumers[0]) or _copies(schedule, block):
            schedule.compute_inline(block)


def _copies(schedule: Any, block: Any) -> bool:
    """Whether the block writes as many elements as it reads of its one input: padding by nothing, a reshape."""
    statement = schedule.get(block)
    if len(statement.reads) != 1:
        return False
    return prod(_shape(statement.reads[0].source)) == prod(_shape(statement.writes[0].source))


def _shape(buffer: Any) -> list[int]:
    return [_whole(extent) for extent in buffer.shape]


def _whole(expression: Any) -> int:
    """TVM leaves sums such as 28 + 0 in shapes and extents."""
    from tvm import tirx
    from tvm.sym import Analyzer

    found = expression if isinstance(expression, int) else Analyzer().simplify(expression)
    if not isinstance(found, int | tirx.IntImm):
        raise _Unfit
    return int(found)


def _axes(schedule: Any, block: Any) -> list[_Axis]:
    axes = schedule.get(block).iter_vars
    return [_Axis(a.var, _whole(a.dom.extent), int(a.iter_type) == 2) for a in axes]


def _tile(schedule: Any, block: Any, vectors: Vectors) -> None:
    """Sums in registers: outer loops, the sums, then the tile; what follows is done for each tile."""
    consumers, pads = schedule.get_consumers(block), schedule.get_producers(block)
    if len(consumers) > 1:
        raise _Unfit
    after = consumers[0] if consumers else schedule.cache_write(block, 0, "global")
    if _is_pointwise(schedule, block):
        _flatten_planes(schedule, block, after)
    nest = _split(schedule, block, vectors)
    schedule.reorder(*nest.tiles, *nest.sums, *nest.within)
    schedule.reverse_compute_at(after, nest.tiles[-1])
    _finish(schedule, after, len(nest.tiles), nest.tile)
    if nest.planes is not None:
        for pad in pads:
            schedule.compute_at(pad, nest.planes)
    if nest.tile.in_registers:
        _unrolled(schedule, nest.within)
    schedule.decompose_reduction(block, nest.sums[0])  # what sets the sums to zero is unrolled like the tile


def _split(schedule: Any, block: Any, vectors: Vectors) -> _Nest:
    """The last loop in vectors, the reused one in rows."""
    axes, loops = _axes(schedule, block), schedule.get_loops(block)
    spatial = [i for i, axis in enumerate(axes) if not axis.summed]
    if len(loops) != len(axes) or not spatial:
        raise _Unfit
    reused = _reused(schedule, block, axes, spatial)
    tile = _best_tile(axes[spatial[-1]].extent, axes[reused].extent if reused is not None else 1, vectors)
    tiles = [loops[i] for i in spatial[:-1] if i != reused]
    planes = tiles[1] if reused is None and len(tiles) > 1 else None
    last, *within = schedule.split(loops[spatial[-1]], [None, tile.vectors, tile.lanes])
    if reused is not None:
        rows, row = schedule.split(loops[reused], [None, tile.rows])
        tiles.append(rows)
        within.insert(0, row)
    sums = [loops[i] for i, axis in enumerate(axes) if axis.summed]
    return _Nest([*tiles, last], sums, within, tile, planes)


def _finish(schedule: Any, block: Any, depth: int, tile: _Tile) -> None:
    """Unroll and vectorize what is done with the sums of one tile."""
    loops = schedule.get_loops(block)[depth:]
    if not loops or not tile.in_registers:
        return
    loops[-1:] = schedule.split(loops[-1], [None, tile.lanes])
    _unrolled(schedule, loops)


def _unrolled(schedule: Any, loops: Sequence[Any]) -> None:
    for loop in loops[:-1]:
        schedule.unroll(loop)
    schedule.vectorize(loops[-1])


def _reused(schedule: Any, block: Any, axes: Sequence[_Axis], spatial: Sequence[int]) -> int | None:
    """The axis along which a vector that was loaded is used again: some operand has the vector's axis and not this."""
    operands = [_variables(region) for region in schedule.get(block).reads]
    operands = [names for names in operands if _among(axes[spatial[-1]].variable, names)]
    for index in reversed(spatial[:-1]):
        if axes[index].extent > 1 and any(not _among(axes[index].variable, names) for names in operands):
            return index
    return None


def _among(variable: Any, others: Sequence[Any]) -> bool:
    return any(variable.same_as(other) for other in others)


def _variables(region: Any) -> list[Any]:
    import tvm_ffi
    from tvm.ir import Var

    found: list[Any] = []
    for bounds in region.region:
        tvm_ffi.structural_walk(bounds.min, (Var, found.append), order="post")
    return found


def _is_pointwise(schedule: Any, block: Any) -> bool:
    """A convolution whose kernel is one point and whose image keeps its size: the plane is one long row."""
    axes = _axes(schedule, block)
    if [a.summed for a in axes] != [False] * 4 + [True] * 3 or any(a.extent != 1 for a in axes[5:]):
        return False
    plane = [a.extent for a in axes[2:4]]
    return any(_shape(region.source)[2:] == plane for region in schedule.get(block).reads)


def _flatten_planes(schedule: Any, block: Any, after: Any) -> None:
    """Rows and columns of a pointwise convolution, of its sums and of what follows it, as one axis."""
    width = _axes(schedule, block)[3].extent
    schedule.transform_layout(block, ("write", 0), lambda n, c, y, x: (n, c, y * width + x))
    schedule.transform_block_layout(block, lambda n, c, y, x, k, i, j: (n, c, y * width + x, k))
    schedule.transform_block_layout(after, lambda n, c, y, x: (n, c, y * width + x))


def _best_tile(length: int, rows: int, wanted: Vectors) -> _Tile:
    """The tile that needs the fewest loads for each multiplication: v vectors and r rows load v + r for v r.

    A length that no vector divides stays one row of memory, which the compiler vectorizes with a remainder; where it
    cannot, sums are kept in registers one by one.
    """
    lanes = wanted.lanes
    while lanes > 1 and length % lanes:
        lanes //= 2
    if lanes < _FEWEST_LANES:
        if wanted.automatic:
            row = max(_divisors(length, _LONGEST_ROW))
            return _Tile(1, row, max(_divisors(rows, _ROWS)), in_registers=False)
        lanes = 1
    choices = [
        ((vectors + high) / (vectors * high), _Tile(vectors, lanes, high))
        for vectors in _divisors(length // lanes, _MOST_VECTORS)
        for high in _divisors(rows, max(1, _ACCUMULATORS // vectors))
    ]
    return min(choices, key=lambda choice: choice[0])[1]


def _divisors(number: int, most: int) -> list[int]:
    return [d for d in range(1, min(number, most) + 1) if number % d == 0]
