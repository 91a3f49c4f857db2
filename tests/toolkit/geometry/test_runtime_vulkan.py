"""The pool of a Vulkan device, on whatever driver there is."""

from __future__ import annotations

import pytest
import torch

from kernels import vulkan
from kernels.dispatch import KernelUnavailable
from targets.errors import MissingDependency
from toolkit.errors import BudgetExceeded, GeometryError
from toolkit.geometry.runtime.vulkan import VulkanMemoryManager
from toolkit.rng import torch_generator

pytest.importorskip("wgpu", reason="README's install brings wgpu with the extra `test`")


@pytest.fixture(scope="module")
def device() -> vulkan.Device:
    return vulkan.open_device()


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch_generator(0, *shape))


def test_bytes_are_counted_and_buffers_come_again(device: vulkan.Device) -> None:
    pool = VulkanMemoryManager(device)
    assert pool.track_memory_usage().fragmentation == 0
    first, second = pool.allocate_tensor((100,)), pool.allocate_tensor((3, 5))
    use = pool.track_memory_usage()
    assert (use.allocated_bytes, use.reserved_bytes, use.peak_bytes) == (460, 512 + 256, 460)
    assert use.fragmentation == pytest.approx(1 - 460 / 768)
    pool.release(first)
    assert pool.track_memory_usage().allocated_bytes == 60
    again = pool.allocate_tensor((8, 16))  # 512 bytes, the same size class
    assert again.buffer is first.buffer
    assert pool.track_memory_usage().reserved_bytes == 768
    for array in (second, again):
        pool.release(array)
    assert pool.track_memory_usage().fragmentation == 1
    pool.reset_peak()
    use = pool.manage_fragmentation()
    assert (use.reserved_bytes, use.peak_bytes, use.device) == (0, 0, device.name)
    del first, second, again, array
    pool.manage_fragmentation()
    assert device._buffers.idle_bytes == 0


def test_values_come_back_as_they_went_also_through_a_buffer_that_is_used_again(device: vulkan.Device) -> None:
    pool = VulkanMemoryManager(device)
    for shape in ((7, 9), (5,), (8, 8)):  # all in 256 bytes
        x = drawn(*shape)
        array = pool.optimize_transfers(x)
        assert torch.equal(torch.from_numpy(device.get(array).copy()), x)
        pool.release(array)
    assert pool.track_memory_usage().reserved_bytes == 256
    assert torch.equal(torch.from_numpy(device.get(pool.optimize_transfers(drawn(6, 4).t())).copy()), drawn(6, 4).t())


def test_shaders_work_on_arrays_of_the_pool(device: vulkan.Device) -> None:
    pool, (a, b) = VulkanMemoryManager(device), (drawn(1, 33, 20), drawn(1, 20, 17))
    found = device.get(vulkan.matmul(device, pool.optimize_transfers(a), pool.optimize_transfers(b)))
    torch.testing.assert_close(torch.from_numpy(found.copy()), (a @ b).reshape(found.shape), rtol=1e-5, atol=1e-5)


def test_what_makes_no_sense_is_refused(device: vulkan.Device) -> None:
    pool = VulkanMemoryManager(device)
    with pytest.raises(GeometryError, match=r"an array of \(2, 0\) on a device"):
        pool.allocate_tensor((2, 0))
    array = pool.allocate_tensor((2,))
    pool.release(array)
    with pytest.raises(GeometryError, match="not lent") as caught:
        pool.release(array)
    assert caught.value.hint
    with pytest.raises(BudgetExceeded, match="bytes in one array"):
        pool.allocate_tensor((2**33,))
    with pytest.raises(ValueError, match="over an array of float32"):
        device.write(pool.allocate_tensor((2,)), drawn(3).numpy())


def test_no_device_is_a_missing_dependency(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> None:
        raise KernelUnavailable("no Vulkan driver: apt-get install mesa-vulkan-drivers")

    monkeypatch.setattr(vulkan, "open_device", none)
    with pytest.raises(MissingDependency, match="mesa-vulkan-drivers") as caught:
        VulkanMemoryManager()
    assert caught.value.exit_code == 3
