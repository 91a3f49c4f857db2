"""What a device can do, as far as the choice of a form depends on it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec

import torch

__all__ = ["Machine", "machine_of"]


@dataclass(frozen=True)
class Machine:
    """A device of torch, and which compilers of kernels are at hand for it.

    `capability` is CUDA's compute capability, (0, 0) for anything else; `shared_bytes` is what one block may take of a
    multiprocessor's shared memory.
    """

    kind: str  # torch's device type: "cpu", "cuda"
    name: str = ""
    capability: tuple[int, int] = (0, 0)
    shared_bytes: int = 0
    has_triton: bool = False
    interprets: bool = False  # Triton's interpreter is switched on, and runs kernels where there is no GPU

    def __str__(self) -> str:
        return f"{self.name} (sm_{self.capability[0]}{self.capability[1]})" if self.kind == "cuda" else self.kind


def machine_of(device: torch.device) -> Machine:
    """The machine behind `device`; asked of the driver once for each device."""
    if device.type != "cuda":
        return Machine(device.type, has_triton=_has_triton(), interprets=os.environ.get("TRITON_INTERPRET") == "1")
    return _gpu(device.index if device.index is not None else torch.cuda.current_device())


@cache
def _gpu(index: int) -> Machine:
    found = torch.cuda.get_device_properties(index)
    shared = getattr(found, "shared_memory_per_block_optin", 48 * 1024)
    return Machine("cuda", found.name, (found.major, found.minor), shared, _has_triton())


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None
