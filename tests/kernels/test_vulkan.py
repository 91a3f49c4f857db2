"""WGSL kernels on a Vulkan device (lavapipe in CI), against float64; and what order, loss and bad input come to."""

from __future__ import annotations

import multiprocessing
import re
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from kernels import vulkan
from kernels.bk_core import bk_core as torch_bk_core
from kernels.dispatch import KernelUnavailable
from kernels.vulkan import Array, Device, DeviceLost, open_device, streamed
from kernels.vulkan import device as vulkan_device
from kernels.vulkan.buffers import Buffers

wgpu = pytest.importorskip("wgpu", reason="README's install brings wgpu with the extra `test`")


@pytest.fixture(scope="module")
def device() -> Device:
    made = open_device()
    assert made._info["backend_type"] == "Vulkan"
    return made


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(("batch", "m", "k", "n"), [
    (1, 1, 1, 1), (1, 64, 16, 64), (3, 65, 17, 63), (2, 1, 100, 130), (1, 129, 1, 2), (5, 31, 33, 35),
])  # fmt: skip
def test_matmul(device: Device, batch: int, m: int, k: int, n: int) -> None:
    a, b = noise(batch, m, k), noise(batch, k, n, seed=1)
    found = device.get(vulkan.matmul(device, device.put(a), device.put(b)))
    truth, plain = a.astype(np.float64) @ b.astype(np.float64), a @ b
    allowed = 2 * np.abs(plain - truth).max() + k * np.finfo(np.float32).eps  # any order of k additions
    assert np.abs(found - truth).max() <= allowed
    shared = device.get(vulkan.matmul(device, device.put(a), device.put(b[0])))
    assert np.abs(shared - a.astype(np.float64) @ b[0].astype(np.float64)).max() <= allowed


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("heads", "m", "n", "d"), [
    (1, 1, 1, 1), (2, 16, 16, 16), (3, 17, 33, 20), (1, 40, 7, 128), (2, 5, 64, 64), (1, 33, 31, 127),
])  # fmt: skip
def test_attention(device: Device, heads: int, m: int, n: int, d: int, causal: bool) -> None:
    q, k, v = noise(heads, m, d), noise(heads, n, d, seed=1), noise(heads, n, d, seed=2)
    found = device.get(vulkan.attention(device, *map(device.put, (q, k, v)), causal=causal))
    truth = by_hand(*(x.astype(np.float64) for x in (q, k, v)), causal)
    plain = by_hand(q, k, v, causal)
    assert np.abs(found - truth).max() <= 2 * np.abs(plain - truth).max() + 16 * np.finfo(np.float32).eps


def by_hand(q: np.ndarray, k: np.ndarray, v: np.ndarray, causal: bool) -> np.ndarray:
    s = q @ k.swapaxes(1, 2) * q.dtype.type(q.shape[2] ** -0.5)
    if causal:
        m, n = s.shape[1:]
        s = np.where(np.arange(n)[None] <= np.arange(m)[:, None] + n - m, s, -np.inf).astype(q.dtype)
    with np.errstate(invalid="ignore"):
        p = np.exp(s - s.max(-1, keepdims=True))
        return np.nan_to_num(p / p.sum(-1, keepdims=True)) @ v


def test_attention_of_large_scores_is_finite(device: Device) -> None:
    q = noise(1, 20, 32) * 1e3
    k, v = noise(1, 50, 32, seed=1) * 1e3, noise(1, 50, 32, seed=2)
    found = device.get(vulkan.attention(device, *map(device.put, (q, k, v))))
    assert np.isfinite(found).all()
    assert np.abs(found).max() <= np.abs(v).max()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_attention_hides_nothing_that_is_no_number(device: Device, bad: float, causal: bool) -> None:
    for spoilt in range(3):
        qkv = [np.abs(noise(1, 20, 8, seed=i)) for i in range(3)]
        qkv[spoilt][0, 17, 3] = bad
        found = device.get(vulkan.attention(device, *map(device.put, qkv), causal=causal))[0]
        kept = np.isfinite(found).all(-1)
        if spoilt == 0:  # one query; all scores of it are alike then
            assert not kept[17]
            assert kept[:17].all()
            assert kept[18:].all()
        elif spoilt == 2 or bad != -np.inf:  # a key or a value: whoever sees it, and nobody else
            np.testing.assert_array_equal(kept, np.arange(20) < (17 if causal else 0))
        else:  # a score of -inf weighs nothing
            assert kept.all()


def test_products_keep_what_is_no_number_to_its_row(device: Device) -> None:
    a, b = noise(70, 20), noise(20, 70, seed=1)
    a[65, 3], b[3, 66] = np.nan, np.inf
    found, truth = device.get(vulkan.matmul(device, device.put(a), device.put(b))), a @ b
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(truth))


def test_bk_core_of_what_is_no_number(device: Device) -> None:
    v = noise(9, 3)
    v[4, 1], v[8, 2] = np.inf, np.nan
    found = device.get(vulkan.bk_core(device, device.put(v), z=1j))
    np.testing.assert_array_equal(np.isnan(found), [[False, True, True]] * 9)


def gray_scott_by_hand(state: np.ndarray, steps: int, feed: float, kill: float, dt: float) -> np.ndarray:
    def laplacian(x: np.ndarray) -> np.ndarray:
        return sum(np.roll(x, s, a) for s in (1, -1) for a in (-1, -2)) - 4 * x

    u, v = state[..., 0, :, :], state[..., 1, :, :]
    for _ in range(steps):
        made = u * v * v
        u, v = (u + dt * (0.16 * laplacian(u) - made + feed * (1 - u)),
                v + dt * (0.08 * laplacian(v) + made - (feed + kill) * v))  # fmt: skip
    return np.stack([u, v], -3)


@pytest.mark.parametrize(("shape", "steps"), [((2, 16, 16), 1), ((3, 2, 17, 33), 2), ((2, 40, 24), 130)])
def test_gray_scott(device: Device, shape: tuple[int, ...], steps: int) -> None:
    state = np.abs(noise(*shape)) / 4
    put = device.put(state)
    found = device.get(
        vulkan.gray_scott(device, put, steps=steps, diffusion=(0.16, 0.08), feed=0.04, kill=0.06, dt=1.0)
    )
    truth = gray_scott_by_hand(state.astype(np.float64), steps, 0.04, 0.06, 1.0)
    plain = gray_scott_by_hand(state, steps, np.float32(0.04), np.float32(0.06), np.float32(1.0))
    assert np.abs(found - truth).max() <= 4 * np.abs(plain - truth).max() + 4 * np.finfo(np.float32).eps
    np.testing.assert_array_equal(device.get(put), state)


@pytest.mark.parametrize(("sites", "chains"), [(1, 1), (2, 3), (100, 65), (1000, 2)])
@pytest.mark.parametrize("z", [1j, 0.3 + 0.05j])
def test_bk_core(device: Device, sites: int, chains: int, z: complex) -> None:
    v = noise(sites, chains) * 3
    found = device.get(vulkan.bk_core(device, device.put(v), z=z))
    truth = torch_bk_core(torch.from_numpy(v.T.astype(np.float64)), z=z).numpy().T
    bound = 4 * np.finfo(np.float32).eps * (1 + (np.abs(v).max() + 4 + abs(z)) / z.imag)  # of kernels.bk_core
    assert (np.abs(found - truth) / np.abs(truth)).max() <= bound


def test_bk_core_of_huge_potentials_is_finite(device: Device) -> None:
    v = noise(4096, 3) * 1e3
    assert np.isfinite(device.get(vulkan.bk_core(device, device.put(v), z=1e-3j))).all()


# ---- order


def test_shaders_are_compiled_once(device: Device) -> None:
    a = device.put(noise(4, 4))
    vulkan.matmul(device, a, a)
    before, ran = device.pipelines, device.dispatched
    for _ in range(5):
        vulkan.matmul(device, a, a)
    assert (device.pipelines, device.dispatched) == (before, ran + 5)


@pytest.mark.slow
def test_the_clock_of_the_device_counts_every_submission(device: Device) -> None:
    a = device.put(noise(256, 256))
    before = device.get(vulkan.matmul(device, a, a))
    once = min(device.clocked_s(lambda: vulkan.matmul(device, a, a)) for _ in range(3))
    ten = max(device.clocked_s(lambda: [vulkan.matmul(device, a, a) for _ in range(10)]) for _ in range(3))
    assert 0 < once < ten
    assert device.clocked_s(lambda: None) == 0
    np.testing.assert_array_equal(device.get(vulkan.matmul(device, a, a)), before)


def test_a_device_without_a_clock() -> None:
    blind = Device(SimpleNamespace(features=set()), {"device": "sundial"})
    with pytest.raises(KernelUnavailable, match="sundial has no clock"):
        blind.clocked_s(lambda: None)


def test_many_submissions_in_flight_are_read_in_order(device: Device) -> None:
    grown = np.eye(8, dtype=np.float32) * 2
    factor, now = device.put(grown), device.put(np.eye(8, dtype=np.float32))
    pending = []
    for _ in range(60):
        now = vulkan.matmul(device, now, factor)
        pending.append(device.fetch(now))
    for power in reversed(range(60)):
        np.testing.assert_array_equal(pending[power].wait(), np.eye(8) * 2.0 ** (power + 1))
    np.testing.assert_array_equal(pending[3].wait(), pending[3].wait())


def test_a_fetch_holds_what_was_there_then(device: Device) -> None:
    array = device.put(np.ones((64, 64), np.float32))
    early = device.fetch(array)
    device._handle.queue.write_buffer(array.buffer.handle, 0, np.zeros((64, 64), np.float32))
    late = device.fetch(array)
    assert early.wait().all()
    assert not late.wait().any()


@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_batches_are_answered_in_order(device: Device, ahead: int) -> None:
    shared = noise(16, 16, seed=9)
    batches = [(noise(3, 16, 16, seed=i), shared) for i in range(7)]
    found = list(streamed(device, vulkan.matmul, iter(batches), ahead=ahead))
    assert len(found) == 7
    for (a, b), c in zip(batches, found, strict=True):
        np.testing.assert_allclose(c, a @ b, atol=1e-5)  # 16 sums of float32


def test_no_more_batches_are_on_the_device_than_asked_for(device: Device) -> None:
    drawn: list[int] = []

    def batches():  # type: ignore[no-untyped-def]
        for i in range(6):
            drawn.append(i)
            yield (noise(4, 4, seed=i), noise(4, 4))

    results = streamed(device, vulkan.matmul, batches(), ahead=2)
    for taken in range(4):
        next(results)
        assert len(drawn) == taken + 2
    with pytest.raises(ValueError, match="0 batches"):
        next(streamed(device, vulkan.matmul, [], ahead=0))


def test_bytes_that_move_are_counted(device: Device) -> None:
    before = device.moved_bytes
    a = device.put(noise(8, 8))
    device.get(vulkan.matmul(device, a, a))
    assert device.moved_bytes - before == 2 * 256  # one matrix there, one back


# ---- buffers


@pytest.mark.parametrize(
    "run",
    [
        lambda d: vulkan.matmul(d, d.put(noise(70, 33)), d.put(noise(33, 65))),
        lambda d: vulkan.attention(d, *(d.put(noise(2, 40, 20, seed=i)) for i in range(3)), causal=True),
        lambda d: vulkan.gray_scott(
            d, d.put(noise(2, 19, 23)), steps=3, diffusion=(0.1, 0.1), feed=0.1, kill=0.1, dt=1
        ),
        lambda d: vulkan.bk_core(d, d.put(noise(31, 70)), z=1j),
    ],
)
def test_what_is_left_in_a_buffer_is_in_no_answer(device: Device, run: Callable[[Device], Array]) -> None:
    before = device.get(run(device))
    for _ in range(4):
        dirty = [device.put(np.full(n, np.nan, np.float32)) for n in (70 * 65, 2 * 40 * 20, 2 * 19 * 23, 2 * 31 * 70)]
    del dirty
    np.testing.assert_array_equal(device.get(run(device)), before)


def test_what_runs_again_asks_for_no_more_memory(device: Device) -> None:
    def run() -> np.ndarray:
        return device.get(vulkan.matmul(device, *(device.put(noise(37, 37)) for _ in range(2))))

    wanted = run()
    made = device._buffers.made, device._staging.made
    for _ in range(5):
        np.testing.assert_array_equal(run(), wanted)
    assert (device._buffers.made, device._staging.made) == made


def test_an_array_keeps_its_buffer_as_long_as_anything_reads_it(device: Device) -> None:
    x = noise(9, 9)
    array = device.put(x)
    other = array._replace(shape=(81,))
    waiting = device.fetch(array)
    del array
    for _ in range(3):
        device.put(np.zeros((9, 9), np.float32))
    np.testing.assert_array_equal(device.get(other), x.reshape(-1))
    np.testing.assert_array_equal(waiting.wait(), x)


def test_no_more_lies_idle_than_may_and_the_oldest_size_goes_first() -> None:
    buffers = Buffers(lambda nbytes: object(), idle_bytes=100)
    lent = [buffers.lend(nbytes) for nbytes in (40, 30, 30, 20)]
    handles = [one.handle for one in lent]
    for _ in range(4):
        lent.pop(0)
    assert buffers.idle_bytes == 80  # without the 40
    assert buffers.lend(20).handle is handles[3]
    assert buffers.lend(30).handle in handles[1:3]
    assert buffers.lend(40).handle not in handles
    assert buffers.made == 5


def test_a_full_memory_is_asked_again_without_what_lies_idle() -> None:
    def make(nbytes: int) -> object:
        if nbytes + held.idle_bytes > 100:
            raise MemoryError
        return object()

    held = Buffers(make)
    held.lend(80)  # and given back at once
    assert held.idle_bytes == 80
    assert held.lend(50).handle
    with pytest.raises(MemoryError):
        held.lend(101)


def test_a_buffer_may_come_back_in_the_midst_of_another() -> None:
    """As where Python collects garbage while one is put away."""

    class Handle:
        def __init__(self, nbytes: int) -> None:
            self.nbytes, self.holds = nbytes, None

    buffers = Buffers(Handle, idle_bytes=5)
    lent = [buffers.lend(5), buffers.lend(4), buffers.lend(3)]
    lent[0].handle.holds = lent.pop()
    del lent[0]
    assert buffers.idle_bytes == 5

    thread = Thread(target=lent.clear, daemon=True)  # 4 bytes come back, 5 are let go, and give 3 back
    thread.start()
    thread.join(timeout=10)
    assert not thread.is_alive()
    assert buffers.idle_bytes == 3
    assert buffers.lend(3).handle.nbytes == 3
    assert buffers.made == 3


# ---- what goes wrong


@pytest.mark.parametrize(
    "shader", sorted(Path(vulkan_device.__file__).parents[1].rglob("*.wgsl")), ids=lambda p: p.stem
)
def test_shaders_fit_the_least_device(shader: Path) -> None:
    text = shader.read_text("utf-8")
    rooms = re.findall(r"var<workgroup> \w+: array<array<(f32|vec4<f32>), (\d+)>, (\d+)>;", text)
    assert len(rooms) == text.count("var<workgroup>")
    takes = {"f32": 4, "vec4<f32>": 16}
    assert (
        sum(takes[kind] * int(wide) * int(high) for kind, wide, high in rooms) <= 16384
    )  # WebGPU's limits that every device keeps
    sides = re.findall(r"@workgroup_size\(([\d, ]+)\)", text)
    assert len(sides) == 1
    assert np.prod([int(side) for side in sides[0].split(",")]) <= 256


def test_an_array_of_another_device(device: Device) -> None:
    mine = open_device()
    theirs = device.put(noise(4, 4))
    for use in (lambda: mine.get(theirs), lambda: vulkan.matmul(mine, theirs, theirs)):
        with pytest.raises(ValueError, match="lies on another device"):
            use()
    mine.close()


def _in_a_fork(device: Device, array: vulkan.Array, said: multiprocessing.SimpleQueue) -> None:  # type: ignore[type-arg]
    for use in (lambda: device.get(array), lambda: vulkan.matmul(device, array, array)):
        try:
            use()
        except RuntimeError as error:
            said.put((type(error).__name__, str(error)))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_is_told_instead_of_hanging(device: Device) -> None:
    array = device.put(noise(4, 4))
    forked = multiprocessing.get_context("fork")
    said = forked.SimpleQueue()
    child = forked.Process(target=_in_a_fork, args=(device, array, said))
    child.start()
    child.join(30)
    is_hung = child.is_alive()
    child.kill()
    assert not is_hung
    for _ in range(2):
        kind, problem = said.get()
        assert kind == "RuntimeError"
        assert "start processes with spawn" in problem
    assert device.get(array).any()


def test_no_array_is_longer_than_shaders_can_count(device: Device) -> None:
    limits = {"max-storage-buffer-binding-size": 2**40}
    huge = Device(SimpleNamespace(limits=limits), device._info)
    assert huge.limit_bytes == 2**32 - 4
    with pytest.raises(MemoryError, match="takes 4294967292 at most"):
        huge.empty((2**30,))
    with pytest.raises(MemoryError, match="at most"):
        huge.empty((2**40, 2**40))


def test_a_device_that_cannot_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**options: object) -> None:
        raise RuntimeError("limits exceeded")

    info = {"backend_type": "Vulkan", "device": "odd", "adapter_type": "CPU"}
    limits = dict.fromkeys(
        ("max-storage-buffer-binding-size", "max-buffer-size", "max-compute-workgroups-per-dimension"), 1
    )
    odd = SimpleNamespace(info=info, limits=limits, features=set(), request_device_sync=refuse)
    monkeypatch.setattr(wgpu.gpu, "enumerate_adapters_sync", lambda: [odd])
    with pytest.raises(KernelUnavailable, match="odd cannot be opened: limits exceeded"):
        open_device()


def test_a_device_that_is_gone_says_so() -> None:
    mine = open_device()
    array = mine.put(noise(4, 4))
    waiting = mine.fetch(array)
    mine.close()
    for use in (lambda: mine.put(noise(2, 2)), lambda: mine.get(array), waiting.wait,
                lambda: vulkan.matmul(mine, array, array)):  # fmt: skip
        with pytest.raises(DeviceLost, match="was closed, or is gone"):
            use()


def test_a_device_that_is_lost_under_us() -> None:
    mine = open_device()
    array = mine.put(noise(4, 4))
    mine._handle.destroy()  # as a driver that resets
    with pytest.raises(DeviceLost, match="is gone"):
        mine.get(array)
    with pytest.raises(DeviceLost):
        mine.put(noise(2, 2))


def test_bad_input(device: Device) -> None:
    a = device.put(noise(4, 5))
    with pytest.raises(ValueError, match="is no product of matrices"):
        vulkan.matmul(device, a, a)
    with pytest.raises(TypeError, match="float32 or complex64, not float64"):
        device.put(np.ones(3))
    with pytest.raises(ValueError, match="holds nothing"):
        device.put(np.ones((0, 3), np.float32))
    with pytest.raises(MemoryError, match=r"takes .* at most"):
        device.empty((device.limit_bytes,))
    wide = device.put(noise(1, 2, 129))
    with pytest.raises(ValueError, match="d <= 128"):
        vulkan.attention(device, wide, wide, wide)
    with pytest.raises(ValueError, match="holds nothing"):
        device.empty((-1, -1))
    for z in (1 + 0j, 1e-50j, complex(0, np.nan)):
        with pytest.raises(ValueError, match="Im z must be above 0"):
            vulkan.bk_core(device, a, z=z)
    state = device.put(noise(2, 4, 4))
    with pytest.raises(ValueError, match=r"of 1\.25 at most"):
        vulkan.gray_scott(device, state, steps=1, diffusion=(0.2, 0.1), feed=0.0, kill=0.0, dt=2.0)
    for wrong in ({"spacing": 0.0}, {"feed": np.nan}, {"diffusion": (-0.1, 0.1)}):
        settings: dict[str, Any] = {"diffusion": (0.2, 0.1), "feed": 0.0, "kill": 0.0, "dt": 1.0, **wrong}
        with pytest.raises(ValueError, match="no diffusion of"):
            vulkan.gray_scott(device, state, steps=1, **settings)
    heads = device.put(noise(device.most_groups + 1, 1, 1))
    with pytest.raises(ValueError, match="workgroups"):
        vulkan.attention(device, heads, heads, heads)


def test_nothing_to_run_on(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = SimpleNamespace(info={"backend_type": "OpenGL", "device": "llvmpipe", "adapter_type": "CPU"})
    monkeypatch.setattr(wgpu.gpu, "enumerate_adapters_sync", lambda: [adapter])
    with pytest.raises(KernelUnavailable, match="mesa-vulkan-drivers"):
        open_device()
    adapter.info["backend_type"] = "Vulkan"
    with pytest.raises(KernelUnavailable, match="no Vulkan GPU, only llvmpipe"):
        open_device(software=False)
    monkeypatch.setattr(vulkan_device, "find_spec", lambda name: None)
    with pytest.raises(KernelUnavailable, match="pip install wgpu"):
        open_device()
