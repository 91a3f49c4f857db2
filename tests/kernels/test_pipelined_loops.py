"""What Triton makes of loops for Hopper, compiled here: no copy may write to what a product in flight reads."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

pytestmark = pytest.mark.slow

_COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from kernels.correlation.columns.fused import _PLAIN, _TILE, _plain_products as kernel

constants = {"BD": _TILE, "BT": _PLAIN["BT"], "STAGES": _PLAIN["STAGES"]}
types = {"x": f"tensordesc<bf16[{_PLAIN['BT']},{_TILE}]>", "Shift": "*bf16", "Part": "*fp32", "Sums": "*fp32"}
names = kernel.arg_names
signature = {n: "constexpr" if n in constants else types.get(n, "i32") for n in names}
source = ASTSource(kernel, signature, {(names.index(n),): value for n, value in constants.items()})
compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": _PLAIN["num_warps"]})
print(compiled.asm["ttgir"])
"""


def _loops(text: str) -> Iterator[str]:
    """Bodies of the loops that multiply."""
    lines = text.splitlines()
    for at, line in enumerate(lines):
        if "scf.for" in line:
            end = line[: len(line) - len(line.lstrip())] + "}"
            body = "\n".join(lines[at : next(i for i in range(at, len(lines)) if lines[i].startswith(end)) + 1])
            if "warp_group_dot " in body:
                yield body


def _buffers(text: str, body: str) -> int:
    """The fewest tiles that one of the arrays holds which the loop copies to."""
    held = dict(re.findall(r"(%\w+) = ttg\.local_alloc : \(\) -> !ttg\.memdesc<(\d+)x\d+x\d+x", text))
    return min(int(tiles) for array, tiles in held.items() if f"{array}[" in body)


def test_correlations_multiply_no_tile_that_is_written_meanwhile() -> None:
    """A load is STAGES - 1 tiles ahead: with as many buffers it goes where the product of this round reads."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    text = subprocess.run(
        [sys.executable, "-c", _COMPILE], check=True, capture_output=True, text=True, env=environment
    ).stdout
    bodies = list(_loops(text))
    assert len(bodies) == 2  # a tile by itself and two tiles
    for body in bodies:
        stages = int(re.findall(r"num_stages = (\d+)", body)[-1])
        in_flight = max(int(n) for n in re.findall(r"pendings = (\d+)", body))
        assert "async_tma_copy_global_to_local" in body
        assert in_flight == 0 or _buffers(text, body) >= stages
