"""Batches in one call, buffers that are used again, threads; memory of devices."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from targets.errors import MissingDependency
from toolkit.errors import GeometryError
from toolkit.geometry.neural.attention import QuantumGeometricAttention
from toolkit.geometry.neural.attention.pattern_dynamics import reaction_diffusion, schnakenberg
from toolkit.geometry.runtime.gpu import GPUMemoryManager, GPUPerformanceTests, _cuda_use
from toolkit.geometry.runtime.memory import live_bytes
from toolkit.geometry.runtime.vectorization import Diffusion, VectorizationSystem, threads, tune_threads
from toolkit.models.seeded import seeded
from toolkit.rng import torch_generator


def rolled(u: Tensor, rate: float = 0.2) -> Tensor:
    return u + rate * (u.roll(1, -1) + u.roll(-1, -1) + u.roll(1, -2) + u.roll(-1, -2) - 4 * u)


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch_generator(0, *shape), dtype=torch.float64)


@pytest.mark.parametrize("chunk", [None, 3])
def test_batches_answer_like_a_loop_in_fewer_operators(chunk: int | None) -> None:
    system, states = VectorizationSystem(chunk), drawn(8, 2, 5, 7)
    for batched in (system.vectorize_pattern_dynamics, system.vectorize_geometric_flow):
        with live_bytes() as ours:
            found = batched(rolled, states)
        with live_bytes() as loop:
            wanted = torch.stack([rolled(state) for state in states])
        torch.testing.assert_close(found, wanted)
        assert 2 * ours.operators <= loop.operators


@pytest.mark.parametrize("score", ["dot", "metric", "fidelity", "hyperbolic", "born"])
def test_sequences_of_any_length_are_answered_like_one_by_one(score: str) -> None:
    with seeded(0):
        layer = QuantumGeometricAttention(16, 2, manifold_dim=4, tile_size=4, refine=2, score=score).double().eval()
    sequences = [drawn(length, 16) for length in (29, 5, 3, 16)]
    system = VectorizationSystem()
    with torch.no_grad():
        found = system.vectorize_attention(layer, sequences)
        for one, answer in zip(sequences, found, strict=True):
            torch.testing.assert_close(answer, layer(one[None])[0], rtol=1e-12, atol=1e-12)
        with live_bytes() as ours:
            system.vectorize_attention(layer, sequences)
        with live_bytes() as loop:
            for one in sequences:
                layer(one[None])
        alike = system.vectorize_attention(layer, [sequences[0], sequences[0]])
    assert 2 * ours.operators <= loop.operators
    torch.testing.assert_close(alike[0], alike[1], rtol=1e-12, atol=1e-12)


def test_a_buffer_is_used_again_for_the_same_shapes() -> None:
    product = VectorizationSystem().optimize_memory_access(torch.mm)
    x, y = drawn(6, 4).t(), drawn(6, 3)
    first = product(x, y)
    torch.testing.assert_close(first, x @ y)
    with live_bytes() as used:
        second = product(x.contiguous(), 2 * y)
    assert second.data_ptr() == first.data_ptr()
    torch.testing.assert_close(second, 2 * (x @ y))
    assert used.storages == 2  # the two inputs that were made here
    with live_bytes() as used:
        third = product(x, y)
    assert used.storages == 0  # `x` is copied to where it was copied before
    torch.testing.assert_close(third, x @ y)
    assert product(drawn(2, 2), drawn(2, 2)).data_ptr() != first.data_ptr()
    assert product(x.float(), y.float()).dtype == torch.float32
    assert not product(x.requires_grad_(), y).requires_grad


@pytest.mark.parametrize("shape", [(4, 5), (2, 3, 7, 4), (1, 1), (1, 6)])
def test_diffusion_is_the_rolled_form_without_new_memory(shape: tuple[int, ...]) -> None:
    state = drawn(*shape)
    diffusion, wanted = Diffusion(state, 0.2), state
    for _ in range(5):
        with live_bytes() as used:
            diffusion.step_()
        wanted = rolled(wanted)
        torch.testing.assert_close(diffusion.state, wanted, rtol=1e-13, atol=1e-13)
        assert (used.storages, used.operators) == (0, 9)
    torch.testing.assert_close(diffusion.state.sum(), state.sum(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rates", [0.2, (0.05, 0.2)])
def test_a_reaction_is_added_as_by_the_explicit_scheme(rates: float | tuple[float, float]) -> None:
    start, dt = drawn(2, 6, 8).abs(), 0.01
    moving = Diffusion(start, rates, schnakenberg(0.1, 0.9), dt=dt)
    each = torch.tensor([rates, rates] if isinstance(rates, float) else rates, dtype=torch.float64) / dt
    for _ in range(5):
        moving.step_()
    wanted = reaction_diffusion(start, each, schnakenberg(0.1, 0.9), dt, 5, "explicit").states[-1]
    torch.testing.assert_close(moving.state, wanted, rtol=1e-12, atol=1e-12)


def test_a_wave_decays_as_the_grid_says() -> None:
    """Mode k shrinks by 1 − 4 r sin²(k / 2) a step."""
    x = torch.arange(16, dtype=torch.float64)
    wave = torch.cos(2 * torch.pi * 3 * x / 16).expand(8, 16)
    diffusion = Diffusion(wave, 0.1)
    diffusion.step_()
    shrink = 1 - 4 * 0.1 * torch.sin(torch.tensor(torch.pi * 3 / 16, dtype=torch.float64)) ** 2
    torch.testing.assert_close(diffusion.state, shrink * wave, rtol=1e-12, atol=1e-12)


def test_the_fewest_threads_that_are_near_the_best_are_taken() -> None:
    slow_to_fast = {1: 1.0, 2: 0.6, 4: 0.59, 8: 0.9}
    report = tune_threads(lambda count: [slow_to_fast[count]] * 3, [8, 4, 2, 1, 2])
    assert report.best == 2
    assert report.to_json() == {"seconds": slow_to_fast, "best": 2}


def test_threads_are_as_before_behind_the_block() -> None:
    before = torch.get_num_threads()
    with threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with pytest.raises(KeyError), threads(before + 1):
        raise KeyError
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: VectorizationSystem(0), "0 items at a time"),
        (lambda: VectorizationSystem().vectorize_geometric_flow(rolled, torch.zeros(0, 3, 3)), "items come as"),
        (lambda: VectorizationSystem().vectorize_attention(torch.nn.Identity(), []), "no sequences"),
        (lambda: Diffusion(torch.zeros(3, 3), 0.3), "a rate of 0.3 is unstable"),
        (lambda: Diffusion(torch.zeros(3), 0.1), "a grid of"),
        (lambda: Diffusion(torch.zeros(2, 3, 3), (0.1, 0.3)), "a rate of 0.3 is unstable"),
        (lambda: Diffusion(torch.zeros(2, 3, 3), (0.1, 0.1, 0.1)), "3 rates for a grid of"),
        (lambda: Diffusion(torch.zeros(2, 3, 3), ()), "0 rates for a grid of"),
        (lambda: Diffusion(torch.zeros(2, 3, 3), 0.1, dt=0.0), "a step of 0.0"),
        (lambda: tune_threads(lambda _: [1.0], []), "threads to try"),
        (lambda: tune_threads(lambda _: [1.0], [0]), "threads to try"),
        (lambda: threads(0).__enter__(), "0 threads"),
        (lambda: GPUMemoryManager("meta"), "no memory manager for 'meta'"),
        (lambda: GPUPerformanceTests(GPUMemoryManager("cpu")).benchmark(lambda: None, runs=1), "1 runs have no spread"),
    ],
)
def test_what_makes_no_sense_is_refused_by_its_value(wrong: object, says: str) -> None:
    with pytest.raises(GeometryError, match=says):
        wrong()  # type: ignore[operator]


# ---- devices


def test_the_cpu_has_the_same_interface_as_a_gpu() -> None:
    manager = GPUMemoryManager("cpu", capacity_bytes=4096)
    held = [manager.allocate_tensor((16,)) for _ in range(3)]
    del held[1]
    use = manager.track_memory_usage()
    assert (use.allocated_bytes, use.reserved_bytes, use.peak_bytes) == (128, 4096, 192)
    assert use.fragmentation == pytest.approx(64 / (4096 - 128))
    manager.reset_peak()
    assert manager.manage_fragmentation().peak_bytes == 128
    assert json.loads(json.dumps(use.to_json()))["device"] == "cpu"


def test_a_gpu_that_is_not_here_is_a_missing_dependency(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MissingDependency, match="torch finds no GPU here") as caught:
        GPUMemoryManager("cuda")
    assert caught.value.exit_code == 3


def test_statistics_of_a_gpu_are_read_as_torch_names_them() -> None:
    stats = {"allocated_bytes.all.current": 30, "reserved_bytes.all.current": 100, "allocated_bytes.all.peak": 70,
             "inactive_split_bytes.all.current": 25}  # fmt: skip
    use = _cuda_use("cuda", stats)
    assert (use.allocated_bytes, use.reserved_bytes, use.peak_bytes, use.fragmentation) == (30, 100, 70, 0.25)
    assert _cuda_use("cuda", {}).fragmentation == 0


def test_the_checks_of_a_device_pass_and_fail() -> None:
    checks = GPUPerformanceTests(GPUMemoryManager("cpu", capacity_bytes=4096))
    x = torch.linspace(-1, 1, 64)
    assert checks.operations_agree(torch.sin, x)
    calls = iter((0.0, 1.0))
    assert not checks.operations_agree(lambda y: y + next(calls), x)
    assert checks.transfers_are_exact(x)
    assert not checks.transfers_are_exact(torch.full((2,), float("nan")))
    assert checks.memory_comes_back((8, 8))
    found = checks.benchmark(lambda: torch.mm(x[:, None], x[None]), runs=4, warm_ups=1)
    assert found.runs == 4
    assert 0 < found.quartiles_s[0] <= found.seconds <= found.quartiles_s[1]
    assert 0 < found.interval_s[0] <= found.seconds <= found.interval_s[1]
    assert found.adapter == "cpu"
    assert found.to_json()["device"] == found.device != ""
