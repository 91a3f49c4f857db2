"""Memory of a device behind one interface: torch's caching allocator of a GPU, an arena on the CPU.

`GPUPerformanceTests` compares a device with the CPU: equal answers, bytes that survive the way there and back, and
times with what they were taken on. Nothing runs when this is imported.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median, quantiles
from time import perf_counter

import torch
from torch import Tensor

from targets.errors import MissingDependency
from toolkit.errors import GeometryError
from toolkit.geometry.runtime.memory import MemoryManager
from toolkit.rng import torch_generator

__all__ = ["Benchmark", "GPUMemoryManager", "GPUPerformanceTests", "MemoryUse"]

_DRAWS = 1000
_PARITY = 1e-4
"""Of float32 on two devices, relative to the largest value: sums run in other orders."""


@dataclass(frozen=True)
class MemoryUse:
    """Bytes of a device, and how much of what is held for reuse lies in pieces."""

    device: str
    allocated_bytes: int
    reserved_bytes: int
    peak_bytes: int
    fragmentation: float

    def to_json(self) -> dict[str, object]:
        """Plain values."""
        return asdict(self)


class GPUMemoryManager:
    """Tensors on a device, and what they take.

    Args:
        device: "cuda" or "cpu"; arrays of shaders are `toolkit.geometry.runtime.vulkan.VulkanMemoryManager`'s.
        capacity_bytes: Of the arena on the CPU.

    Raises:
        MissingDependency: there is no such device here.
        GeometryError: another kind of device.
    """

    def __init__(self, device: str = "cuda", *, capacity_bytes: int = 2**26) -> None:
        self.device = torch.device(device)
        if self.device.type not in ("cuda", "cpu"):
            raise GeometryError(
                f"no memory manager for {device!r}", hint="choose cuda or cpu; for shaders VulkanMemoryManager"
            )
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise MissingDependency(
                "torch finds no GPU here", hint="choose cpu, or install torch for CUDA and a driver"
            )
        self._arena = MemoryManager(capacity_bytes) if self.device.type == "cpu" else None

    def allocate_tensor(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """A tensor on the device, its numbers undefined."""
        if self._arena is not None:
            return self._arena.allocate_tensor(shape, dtype)
        return torch.empty(tuple(shape), dtype=dtype, device=self.device)  # pragma: no cover (needs a GPU)

    def track_memory_usage(self) -> MemoryUse:
        """As it is now; the peak since the last `reset_peak`."""
        if self._arena is not None:
            arena = self._arena
            return MemoryUse(
                str(self.device), arena.get_allocated_memory(), arena.capacity_bytes, arena.get_peak_memory(),
                arena.get_fragmentation_ratio(),
            )  # fmt: skip
        return _cuda_use(str(self.device), torch.cuda.memory_stats(self.device))  # pragma: no cover (needs a GPU)

    def reset_peak(self) -> None:
        """Count the peak from what is alive now."""
        if self._arena is not None:
            self._arena.reset_peak()
        else:  # pragma: no cover (needs a GPU)
            torch.cuda.reset_peak_memory_stats(self.device)

    def optimize_transfers(self, tensor: Tensor) -> Tensor:
        """`tensor` on the device; on its way to a GPU by pinned memory, while the host goes on."""
        if self._arena is None and tensor.device.type == "cpu":  # pragma: no cover (needs a GPU)
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)

    def manage_fragmentation(self) -> MemoryUse:
        """Give back what is held for reuse and not in use; an arena joins its free blocks by itself."""
        if self._arena is None:  # pragma: no cover (needs a GPU)
            torch.cuda.empty_cache()
        return self.track_memory_usage()


def _cuda_use(device: str, stats: dict[str, int]) -> MemoryUse:
    """From torch's statistics: blocks that were split and lie idle can serve no large request."""
    reserved = stats.get("reserved_bytes.all.current", 0)
    idle = stats.get("inactive_split_bytes.all.current", 0)
    return MemoryUse(
        device, stats.get("allocated_bytes.all.current", 0), reserved, stats.get("allocated_bytes.all.peak", 0),
        idle / reserved if reserved else 0.0,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What a device took: the median with 95 % of the bootstrap, quartiles, and what the times were taken on.

    Args:
        adapter: "discrete", "integrated" or "cpu".
    """

    device: str
    adapter: str
    torch: str
    seconds: float
    interval_s: tuple[float, float]
    quartiles_s: tuple[float, float]
    runs: int

    def to_json(self) -> dict[str, object]:
        """Plain values."""
        return asdict(self)


class GPUPerformanceTests:
    """Checks of a device against the CPU."""

    def __init__(self, manager: GPUMemoryManager) -> None:
        self.manager = manager

    def operations_agree(self, operation: Callable[[Tensor], Tensor], x: Tensor) -> bool:
        """Whether the device answers like the CPU, to the rounding of float32."""
        wanted = operation(x)
        found = operation(self.manager.optimize_transfers(x)).cpu()
        scale = max(float(wanted.abs().max()), 1.0)
        return bool((wanted - found).abs().max() <= _PARITY * scale)

    def transfers_are_exact(self, x: Tensor) -> bool:
        """Whether bytes come back as they went."""
        return torch.equal(self.manager.optimize_transfers(x).cpu(), x)

    def memory_comes_back(self, shape: Sequence[int]) -> bool:
        """Whether a tensor that was released leaves no byte behind."""
        before = self.manager.track_memory_usage().allocated_bytes
        tensor = self.manager.allocate_tensor(shape)
        taken = self.manager.track_memory_usage().allocated_bytes - before
        del tensor
        return taken > 0 and self.manager.track_memory_usage().allocated_bytes == before

    def benchmark(self, operation: Callable[[], object], *, runs: int = 30, warm_ups: int = 5) -> Benchmark:
        """The median of some runs; each waits until the device is done.

        Raises:
            GeometryError: fewer than two runs.
        """
        if runs < 2:
            raise GeometryError(f"{runs} runs have no spread", hint="take two or more")
        taken = []
        for number in range(warm_ups + runs):
            started = perf_counter()
            operation()
            self._wait()
            if number >= warm_ups:
                taken.append(perf_counter() - started)
        lower, _, upper = quantiles(taken, n=4)
        drawn = torch.randint(runs, (_DRAWS, runs), generator=torch_generator(0, "median"))
        medians = torch.tensor(taken, dtype=torch.float64)[drawn].quantile(0.5, 1)
        low, high = medians.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
        return Benchmark(device=self._name(), adapter=self._adapter(), torch=torch.__version__, seconds=median(taken),
                         interval_s=(low, high), quartiles_s=(lower, upper), runs=runs)  # fmt: skip

    def _wait(self) -> None:
        if self.manager.device.type == "cuda":  # pragma: no cover (needs a GPU)
            torch.cuda.synchronize(self.manager.device)

    def _adapter(self) -> str:
        if self.manager.device.type == "cuda":  # pragma: no cover (needs a GPU)
            shares = torch.cuda.get_device_properties(self.manager.device).is_integrated
            return "integrated" if shares else "discrete"
        return "cpu"

    def _name(self) -> str:
        if self.manager.device.type == "cuda":  # pragma: no cover (needs a GPU)
            return torch.cuda.get_device_name(self.manager.device)
        return f"CPU ({platform.machine()}), {torch.get_num_threads()} threads"
