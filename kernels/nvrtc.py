"""CUDA C++ compiled at run time, and launched without what torch's own launcher spends on the host.

Arguments go to the driver as the one block of bytes that the kernel reads: pointers, int, double, bytes of structures.
"""

from __future__ import annotations

import ctypes
import struct
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kernels.dispatch import Call

__all__ = ["compiled", "driver", "needs_compiler"]

_THREAD = threading.local()
"""`has_context`: torch's runtime has made its context this thread's own."""

_Launch = Callable[[int, int, tuple[Any, ...]], None]
_BLOCK_OF_ARGUMENTS, _ITS_SIZE, _END = 1, 2, 0
"""CU_LAUNCH_PARAM_BUFFER_POINTER, CU_LAUNCH_PARAM_BUFFER_SIZE, CU_LAUNCH_PARAM_END of cuda.h."""
_ALWAYS_THERE = 48 * 1024
"""Bytes of shared memory that a block gets without asking."""


def needs_compiler(call: Call) -> str | None:
    """A refusal of forms in CUDA C++: what is missing, or None."""
    if call.machine.kind != "cuda":
        return f"CUDA C++ compiles for NVIDIA's GPUs, not for {call.machine.kind}"
    if not hasattr(torch.cuda, "_compile_kernel"):
        return f"torch {torch.__version__} compiles no CUDA C++ at run time: it takes torch.cuda._compile_kernel"
    return None


@cache
def compiled(source: Path, name: str, options: tuple[str, ...], device: int, shared_bytes: int = 0) -> _Launch:
    """What launches kernel `name` of a file, with grid, threads a block and arguments.

    Args:
        options: Of NVRTC; files beside the source can be included as they are.
        shared_bytes: Of a block, beside what the kernel declares.
    """
    _take_context(device)
    with torch.cuda.device(device):
        kernel = torch.cuda._compile_kernel(
            source.read_text(encoding="utf-8"), name, compute_capability=_architecture(device),
            nvcc_options=[f"-I{source.parent}", *options],
        )  # fmt: skip
        if shared_bytes > _ALWAYS_THERE:
            kernel.set_shared_memory_config(shared_bytes)
    before = bytes(_offset_of_arguments(kernel.func))

    def launch(grid: int, threads: int, arguments: tuple[Any, ...]) -> None:
        packed = ctypes.create_string_buffer(before + _packed(arguments))
        size = ctypes.c_size_t(len(packed) - 1)
        extra = (ctypes.c_void_p * 5)(
            _BLOCK_OF_ARGUMENTS, ctypes.addressof(packed), _ITS_SIZE, ctypes.addressof(size), _END
        )
        _take_context(device)
        stream = ctypes.c_void_p(torch._C._cuda_getCurrentRawStream(device))
        with torch.cuda.device(device):
            failed = driver().cuLaunchKernel(kernel.func, grid, 1, 1, threads, 1, 1, shared_bytes, stream, None, extra)
        if failed:
            raise RuntimeError(f"the driver refused to launch {name}: CUresult {failed}")

    return launch


@cache
def driver() -> Any:
    """NVIDIA's driver as a library; its functions answer 0 where they succeed."""
    return torch.cuda._utils._get_gpu_runtime_library()


def _architecture(device: int) -> str:
    """Hopper's warpgroups are known to its own architecture only, sm_90a."""
    major, minor = torch.cuda.get_device_capability(device)
    return f"{major}{minor}a" if major == 9 else f"{major}{minor}"


def _take_context(device: int) -> None:
    """The driver wants a context in the calling thread, and the threads of autograd have none until they launch."""
    if not getattr(_THREAD, "has_context", False):
        torch.zeros(1, device=f"cuda:{device}")
        _THREAD.has_context = True


def _offset_of_arguments(function: ctypes.c_void_p) -> int:
    """Bytes before a kernel's first argument: there are some where it is a structure of large alignment.

    Drivers that cannot tell are older than CUDA 12.4, for which no kernel here takes structures.
    """
    if not hasattr(driver(), "cuFuncGetParamInfo"):
        return 0
    offset, size = ctypes.c_size_t(), ctypes.c_size_t()
    failed = driver().cuFuncGetParamInfo(function, ctypes.c_size_t(0), ctypes.byref(offset), ctypes.byref(size))
    return 0 if failed else offset.value


def _packed(arguments: tuple[Any, ...]) -> bytes:
    """As a C compiler lays them out one after the other; bytes are structures, whose place must be right already."""
    layout = "".join(map(_letter, arguments))
    return struct.pack(layout, *(a.data_ptr() if isinstance(a, Tensor) else a for a in arguments))


def _letter(argument: Any) -> str:
    if isinstance(argument, Tensor):
        return "P"
    if isinstance(argument, bytes):
        return f"{len(argument)}s"
    return "i" if isinstance(argument, int) else "d"
