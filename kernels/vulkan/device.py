"""A Vulkan device: arrays on it, programs for it, and results that cannot be read before they are there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial, reduce
from importlib import import_module
from importlib.util import find_spec
from math import prod
from operator import or_
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kernels.dispatch import KernelUnavailable
from kernels.vulkan.buffers import Buffers, Lent
from kernels.vulkan.clock import Clock

__all__ = ["Array", "Device", "DeviceLost", "Dispatch", "Pending", "open_device"]

_KERNELS = Path(__file__).parents[1]
_MOST_BYTES = 2**32 - 4
"""Of one array: shaders count in 32 bits."""
_MOST_UNIFORMS = 256
"""Sizes that were given to shaders, kept for the next run with the same."""
_NEED = "apt-get install libvulkan1 mesa-vulkan-drivers, or the vendor's driver"


class DeviceLost(RuntimeError):
    """The device is gone: unplugged, reset, hung or closed. What it held is lost; open it again."""


class Array(NamedTuple):
    """float32 or complex64 values on a device, C-contiguous."""

    device: Device
    buffer: Lent
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return prod(self.shape) * self.dtype.itemsize


class Dispatch(NamedTuple):
    """One run of a shader: its file below `kernels`, what is bound to it in order, and how many workgroups."""

    shader: str
    arrays: Sequence[Array]
    sizes: bytes
    groups: tuple[int, int, int]


def open_device(software: bool = True) -> Device:
    """The first Vulkan device: a GPU where there is one.

    Args:
        software: Whether a driver that computes on the CPU (lavapipe, SwiftShader) will do.

    Raises:
        KernelUnavailable: wgpu is not installed, or there is no such device.
    """
    if find_spec("wgpu") is None:
        raise KernelUnavailable("Vulkan kernels need wgpu, which is not installed: pip install wgpu")
    if find_spec("triton") is not None:
        import_module("triton")  # libtriton crashes where it is loaded behind the LLVM of Mesa's drivers, not before
    import wgpu

    # where there is no Vulkan, wgpu offers OpenGL, on which these shaders were never run
    found = [a for a in wgpu.gpu.enumerate_adapters_sync() if a.info["backend_type"] == "Vulkan"]
    fit = [a for a in found if software or a.info["adapter_type"] != "CPU"]
    if not fit:
        seen = ", ".join(a.info["device"] for a in found)
        raise KernelUnavailable(f"no Vulkan GPU, only {seen}" if found else f"no Vulkan driver: {_NEED}")
    order = ["DiscreteGPU", "IntegratedGPU", "VirtualGPU", "Unknown", "CPU"]
    best = min(fit, key=lambda a: order.index(a.info["adapter_type"]) if a.info["adapter_type"] in order else 3)
    wanted = ("max-storage-buffer-binding-size", "max-buffer-size", "max-compute-workgroups-per-dimension")
    clock = best.features & {"timestamp-query"}
    try:
        handle = best.request_device_sync(
            required_features=sorted(clock), required_limits={name: best.limits[name] for name in wanted}
        )
    except (wgpu.GPUError, RuntimeError) as error:
        raise KernelUnavailable(f"{best.info['device']} cannot be opened: {error}") from error
    return Device(handle, best.info)


class Device:
    """Made by `open_device`. Work is done in the order in which it was submitted.

    It belongs to the process that opened it: the driver's threads do not follow a fork. Every method below that talks
    to it raises RuntimeError in another one.
    """

    def __init__(self, handle: Any, info: Mapping[str, Any]) -> None:
        self._handle, self._info = handle, dict(info)
        self._pipelines: dict[str, Any] = {}
        self._uniforms: dict[bytes, Any] = {}
        self._buffers = Buffers(partial(self._buffer, ("STORAGE", "COPY_SRC", "COPY_DST")))
        self._staging = Buffers(partial(self._buffer, ("MAP_READ", "COPY_DST")))
        self._is_lost, self._process = False, os.getpid()
        self._clock: Clock | None = None
        self.dispatched = 0
        """Shaders run so far."""
        self.moved_bytes = 0
        """Bytes copied to the device and from it so far."""

    @property
    def name(self) -> str:
        """As the driver says it."""
        return str(self._info["device"])

    @property
    def driver(self) -> str:
        """The driver and its version, as it says them."""
        return str(self._info["description"])

    @property
    def is_software(self) -> bool:
        """Whether it computes on the CPU; times taken there say nothing about GPUs."""
        return bool(self._info["adapter_type"] == "CPU")

    @property
    def limit_bytes(self) -> int:
        """The largest array."""
        return min(int(self._handle.limits["max-storage-buffer-binding-size"]), _MOST_BYTES)

    @property
    def most_groups(self) -> int:
        """Workgroups along one axis at most."""
        return int(self._handle.limits["max-compute-workgroups-per-dimension"])

    @property
    def pipelines(self) -> int:
        """Shaders compiled so far; each is compiled once."""
        return len(self._pipelines)

    def put(self, values: np.ndarray[Any, Any]) -> Array:
        """`values` on the device.

        Raises:
            TypeError: they are neither float32 nor complex64.
            ValueError: there are none.
            MemoryError: they are more than one array may hold, or than is free.
            DeviceLost: see there.
        """
        array = self.empty(values.shape, values.dtype)
        self.write(array, values)
        return array

    def write(self, array: Array, values: np.ndarray[Any, Any]) -> None:
        """`values` over those of `array`, behind what was submitted before.

        Raises:
            ValueError: they differ in shape or dtype, or the array is another device's.
            DeviceLost: see there.
        """
        self._own(array)
        if values.shape != array.shape or values.dtype != array.dtype:
            raise ValueError(f"{values.dtype} {values.shape} over an array of {array.dtype} {array.shape}")
        with self._guarded():
            self._handle.queue.write_buffer(array.buffer.handle, 0, np.ascontiguousarray(values))
        self.moved_bytes += array.nbytes

    def empty(self, shape: Sequence[int], dtype: Any = np.float32) -> Array:
        """An array that holds anything, until it is written; see `put`."""
        sizes, kind = tuple(int(n) for n in shape), np.dtype(dtype)
        if kind not in (np.dtype(np.float32), np.dtype(np.complex64)):
            raise TypeError(f"arrays on a Vulkan device are float32 or complex64, not {kind}")
        if any(n < 1 for n in sizes):
            raise ValueError(f"an array of shape {sizes} holds nothing")
        nbytes = prod(sizes) * kind.itemsize
        if nbytes > self.limit_bytes:
            raise MemoryError(f"{nbytes} bytes in one array; {self.name} takes {self.limit_bytes} at most")
        return Array(self, self._buffers.lend(nbytes), sizes, kind)

    def submit(self, work: Sequence[Dispatch]) -> None:
        """Have shaders run, each after the one before it is done. Returns at once.

        Raises:
            ValueError: one wants more workgroups than the device has along an axis, or an array of another device.
            DeviceLost: see there.
        """
        for one in work:
            if max(one.groups) > self.most_groups:
                raise ValueError(
                    f"{one.shader} wants {max(one.groups)} workgroups; {self.name} runs {self.most_groups}"
                )
            for array in one.arrays:
                self._own(array)
        with self._guarded():
            encoder = self._handle.create_command_encoder()
            uniforms = {sizes: self._uniform(sizes) for sizes in sorted({one.sizes for one in work})}
            queries, marks = self._clock.marks(len(work)) if self._clock else (None, [{}] * len(work))
            for one, mark in zip(work, marks, strict=True):
                pipeline = self._pipeline(one.shader)
                bound = [*(array.buffer.handle for array in one.arrays), uniforms[one.sizes]]
                group = self._handle.create_bind_group(
                    layout=pipeline.get_bind_group_layout(0),
                    entries=[{"binding": i, "resource": {"buffer": buffer}} for i, buffer in enumerate(bound)],
                )
                run = encoder.begin_compute_pass(**mark)
                run.set_pipeline(pipeline)
                run.set_bind_group(0, group)
                run.dispatch_workgroups(*one.groups)
                run.end()
            if self._clock:
                self._clock.fetch(encoder, queries)
            self._handle.queue.submit([encoder.finish()])
        self.dispatched += len(work)

    def clocked_s(self, work: Callable[[], object]) -> float:
        """How long what `work` submits takes by the device's own clock; waits for it.

        Raises:
            KernelUnavailable: it has no clock that can be read.
            DeviceLost: see there.
        """
        if "timestamp-query" not in self._handle.features:
            raise KernelUnavailable(f"{self.name} has no clock that can be read")
        self._clock = clock = Clock(self._handle)
        try:
            work()
        finally:
            self._clock = None
        with self._guarded():
            return sum(clock.seconds())

    def fetch(self, array: Array) -> Pending:
        """Have the values of `array`, as all that was submitted so far leaves them, copied back. Returns at once.

        Raises:
            ValueError: it is another device's.
            MemoryError, DeviceLost: see `put`.
        """
        self._own(array)
        staging = self._staging.lend(array.nbytes)
        with self._guarded():
            encoder = self._handle.create_command_encoder()
            encoder.copy_buffer_to_buffer(array.buffer.handle, 0, staging.handle, 0, array.nbytes)
            self._handle.queue.submit([encoder.finish()])
        return Pending(self, staging, array.shape, array.dtype)

    def get(self, array: Array) -> np.ndarray[Any, Any]:
        """The values of `array`; waits for all that was submitted before.

        Raises:
            ValueError, MemoryError, DeviceLost: see `fetch`.
        """
        return self.fetch(array).wait()

    def let_go(self) -> None:
        """Give the buffers of arrays that are gone back to the driver, instead of keeping them for the next."""
        self._buffers.let_go()
        self._staging.let_go()

    def close(self) -> None:
        """Give the device back. What it holds is lost."""
        self._is_lost = True
        self._handle.destroy()

    def _own(self, array: Array) -> None:
        if array.device is not self:
            raise ValueError(
                f"an array of shape {array.shape} lies on another device than {self.name}'s: `put` it here"
            )

    def _pipeline(self, shader: str) -> Any:
        if shader not in self._pipelines:
            module = self._handle.create_shader_module(label=shader, code=(_KERNELS / shader).read_text("utf-8"))
            self._pipelines[shader] = self._handle.create_compute_pipeline(
                label=shader, layout="auto", compute={"module": module, "entry_point": "main"}
            )
        return self._pipelines[shader]

    def _uniform(self, sizes: bytes) -> Any:
        import wgpu

        if sizes not in self._uniforms:
            if len(self._uniforms) == _MOST_UNIFORMS:
                self._uniforms.clear()
            padded = sizes + bytes(-len(sizes) % 16)
            self._uniforms[sizes] = self._handle.create_buffer_with_data(data=padded, usage=wgpu.BufferUsage.UNIFORM)
        return self._uniforms[sizes]

    def _buffer(self, usages: Sequence[str], nbytes: int) -> Any:
        import wgpu

        usage = reduce(or_, (getattr(wgpu.BufferUsage, name) for name in usages))
        with self._guarded():
            return self._handle.create_buffer(size=nbytes, usage=usage)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """What wgpu raises as what a caller can tell apart.

        Raises:
            DeviceLost: the device is gone.
            MemoryError: its memory is full.
            RuntimeError: it was opened in another process.
        """
        import wgpu

        if os.getpid() != self._process:
            raise RuntimeError(f"{self.name} was opened before a fork; start processes with spawn, and open it in each")
        if self._is_lost:
            raise DeviceLost(f"{self.name} was closed, or is gone")
        try:
            yield
        except wgpu.GPUOutOfMemoryError as error:
            raise MemoryError(f"the memory of {self.name} is full") from error
        except (wgpu.GPUError, RuntimeError) as error:
            said = " ".join(str(error).split())
            if "lost" in said.lower():
                self._is_lost = True
                raise DeviceLost(f"{self.name} is gone: {said[:200]}") from error
            raise


class Pending:
    """Values on their way back. What they are copied from may be gone meanwhile."""

    def __init__(self, device: Device, staging: Lent, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._device, self._staging, self._shape, self._dtype = device, staging, shape, dtype
        self._values: np.ndarray[Any, Any] | None = None

    def wait(self) -> np.ndarray[Any, Any]:
        """The values; blocks until the device has copied them. A second call gives them again.

        Raises:
            DeviceLost: the device went away before.
        """
        import wgpu

        if self._values is None:
            with self._device._guarded():
                staging = self._staging.handle
                staging.map_sync(wgpu.MapMode.READ)
                try:
                    raw = staging.read_mapped(copy=True)
                finally:
                    staging.unmap()
            self._values = np.frombuffer(raw, self._dtype).reshape(self._shape)
            self._device.moved_bytes += self._values.nbytes
            del self._staging  # another array may travel in it
        return self._values
