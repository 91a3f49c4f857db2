"""Memory of a Vulkan device: arrays for shaders, from a pool of buffers that are used again.

Arrays are those of `kernels.vulkan`. A buffer has 2^k bytes, the least that hold what was asked for; given back, it
waits for the next array of its size.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from targets.errors import MissingDependency
from toolkit.errors import BudgetExceeded, GeometryError
from toolkit.geometry.runtime.gpu import MemoryUse

if TYPE_CHECKING:
    from kernels.vulkan import Array, Device

__all__ = ["VulkanMemoryManager"]

_LEAST = 256
"""Bytes of the smallest buffer: where a storage buffer may begin on any device."""


class VulkanMemoryManager:
    """Arrays on a Vulkan device, and what they take; beside `GPUMemoryManager` in all but that arrays are given back.

    Args:
        device: Of `kernels.vulkan.open_device`; the first one there is where None.

    Raises:
        MissingDependency: there is no Vulkan device.
    """

    def __init__(self, device: Device | None = None) -> None:
        from kernels.dispatch import KernelUnavailable
        from kernels.vulkan import open_device

        try:
            self.device = open_device() if device is None else device
        except KernelUnavailable as error:
            raise MissingDependency(str(error), hint="or compute on the CPU: GPUMemoryManager('cpu')") from error
        self._idle: dict[int, list[Array]] = {}
        self._used: dict[int, tuple[Array, int]] = {}
        self._peak = 0

    def allocate_tensor(self, shape: Sequence[int]) -> Array:
        """float32 on the device, its numbers undefined.

        Raises:
            GeometryError: a size below 1.
            BudgetExceeded: more than one array may hold, or than is free.
        """
        if any(size < 1 for size in shape):
            raise GeometryError(f"an array of {tuple(shape)} on a device", hint="sizes are 1 or more")
        wanted = 4 * prod(shape)
        size = max(1 << (wanted - 1).bit_length(), _LEAST)
        idle = self._idle.get(size)
        try:
            whole = idle.pop() if idle else self.device.empty((size // 4,))
        except MemoryError as error:
            raise BudgetExceeded(str(error), hint="give arrays back, or compute in smaller parts") from error
        array = whole._replace(shape=tuple(shape))
        self._used[id(array.buffer)] = (whole, wanted)
        self._peak = max(self._peak, self.track_memory_usage().allocated_bytes)
        return array

    def release(self, array: Array) -> None:
        """Give an array back; what reads it afterwards reads what the next one writes.

        Raises:
            GeometryError: it is not of this manager, or was given back before.
        """
        whole, _ = self._used.pop(id(array.buffer), (None, 0))
        if whole is None:
            raise GeometryError(f"an array of {array.shape} that is not lent", hint="give back each array once")
        self._idle.setdefault(4 * whole.shape[0], []).append(whole)

    def track_memory_usage(self) -> MemoryUse:
        """As it is now; what lies idle, or beyond the end of an array, is fragmentation."""
        lent, idle = sum(4 * whole.shape[0] for whole, _ in self._used.values()), self._idle_bytes()
        allocated, reserved = sum(wanted for _, wanted in self._used.values()), lent + idle
        lost = 1 - allocated / reserved if reserved else 0.0
        return MemoryUse(self.device.name, allocated, reserved, max(self._peak, allocated), lost)

    def reset_peak(self) -> None:
        """Count the peak from what is lent now."""
        self._peak = 0

    def optimize_transfers(self, tensor: Tensor) -> Array:
        """`tensor` of float32 on the device, in a buffer that may have been used before; the host goes on at once."""
        values = np.ascontiguousarray(tensor.detach().cpu().numpy(), np.float32)
        array = self.allocate_tensor(values.shape)
        self.device.write(array, values)
        return array

    def manage_fragmentation(self) -> MemoryUse:
        """Give what lies idle back to the driver."""
        self._idle.clear()
        self.device.let_go()
        return self.track_memory_usage()

    def _idle_bytes(self) -> int:
        return sum(size * len(arrays) for size, arrays in self._idle.items())
