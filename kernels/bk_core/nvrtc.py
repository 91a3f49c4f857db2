"""CUDA C++ compiled at run time, and launched without what torch's own launcher spends on the host.

Arguments go to the driver as the one block of bytes that the kernel reads: pointers, int and double.
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

__all__ = ["compiled", "needs_compiler"]

_THREAD = threading.local()
"""`has_context`: torch's runtime has made its context this thread's own."""

_Launch = Callable[[int, int, tuple[Any, ...]], None]
_BLOCK_OF_ARGUMENTS, _ITS_SIZE, _END = 1, 2, 0
"""CU_LAUNCH_PARAM_BUFFER_POINTER, CU_LAUNCH_PARAM_BUFFER_SIZE, CU_LAUNCH_PARAM_END of cuda.h."""


def needs_compiler(call: Call) -> str | None:
    """A refusal of forms in CUDA C++: what is missing, or None."""
    if call.machine.kind != "cuda":
        return f"CUDA C++ compiles for NVIDIA's GPUs, not for {call.machine.kind}"
    if not hasattr(torch.cuda, "_compile_kernel"):
        return f"torch {torch.__version__} compiles no CUDA C++ at run time: it takes torch.cuda._compile_kernel"
    return None


@cache
def compiled(file: str, name: str, options: tuple[str, ...], device: int) -> _Launch:
    """What launches kernel `name` of a source beside this file, with grid, threads a block and arguments."""
    source = Path(__file__).with_name(file).read_text(encoding="utf-8")
    _take_context(device)
    with torch.cuda.device(device):
        kernel = torch.cuda._compile_kernel(source, name, nvcc_options=list(options))
    driver = torch.cuda._utils._get_gpu_runtime_library()

    def launch(grid: int, threads: int, arguments: tuple[Any, ...]) -> None:
        packed = ctypes.create_string_buffer(_packed(arguments))
        size = ctypes.c_size_t(len(packed) - 1)
        extra = (ctypes.c_void_p * 5)(
            _BLOCK_OF_ARGUMENTS, ctypes.addressof(packed), _ITS_SIZE, ctypes.addressof(size), _END
        )
        _take_context(device)
        stream = ctypes.c_void_p(torch._C._cuda_getCurrentRawStream(device))
        with torch.cuda.device(device):
            failed = driver.cuLaunchKernel(kernel.func, grid, 1, 1, threads, 1, 1, 0, stream, None, extra)
        if failed:
            raise RuntimeError(f"the driver refused to launch {name}: CUresult {failed}")

    return launch


def _take_context(device: int) -> None:
    """The driver wants a context in the calling thread, and the threads of autograd have none until they launch."""
    if not getattr(_THREAD, "has_context", False):
        torch.zeros(1, device=f"cuda:{device}")
        _THREAD.has_context = True


def _packed(arguments: tuple[Any, ...]) -> bytes:
    """As a C compiler lays them out one after the other."""
    layout = "".join("P" if isinstance(a, Tensor) else "i" if isinstance(a, int) else "d" for a in arguments)
    return struct.pack(layout, *(a.data_ptr() if isinstance(a, Tensor) else a for a in arguments))
