"""The operators as one object: narrow heads, memory that is asked for first, batches that are halved."""

from __future__ import annotations

import pytest
import torch

from kernels.attention import workspace_bytes
from toolkit.errors import BudgetExceeded, MissingDependency
from toolkit.organism.kernel import Kernels, select_kernel


def qkv(batch: int, width: int, values: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.randn(batch, 2, 7, width), torch.randn(batch, 2, 9, width), torch.randn(batch, 2, 9, values)


@pytest.mark.parametrize(("width", "values"), [(1, 1), (3, 20), (8, 8), (16, 5), (40, 40)])
def test_heads_of_any_width_attend_as_defined(width: int, values: int) -> None:
    q, k, v = qkv(2, width, values)
    found = Kernels().attention(q, k, v, return_stats=True)
    p = (q @ k.mT * width**-0.5).softmax(-1)
    assert (found.out - p @ v).abs().max() < 1e-5
    assert found.out.shape == (*v.shape[:2], 7, values)
    entropy = -(p * p.log()).sum(-1).mean(2)
    assert (found.stats.entropy - entropy).abs().max() < 1e-5


def test_a_batch_that_does_not_fit_is_halved_once_or_refused_before_anything_runs() -> None:
    q, k, v = qkv(4, 16, 16)
    whole, half = workspace_bytes(q, k, v), workspace_bytes(q[:2], k[:2], v[:2])
    plain = Kernels().attention(q, k, v)
    split = Kernels(free_bytes=lambda: half, allow_split=True).attention(q, k, v)
    assert torch.equal(split.out, plain.out)
    assert torch.equal(split.lse, plain.lse)
    for kernel in (Kernels(free_bytes=lambda: half), Kernels(free_bytes=lambda: half - 1, allow_split=True)):
        with pytest.raises(BudgetExceeded, match=f"needs {whole} bytes"):
            kernel.attention(q, k, v)


def test_statistics_of_halves_are_those_of_the_whole() -> None:
    q, k, v = qkv(5, 16, 16)
    padding = torch.rand(5, 9) < 0.3
    halved = Kernels(free_bytes=lambda: workspace_bytes(q[:3], k[:3], v[:3]), allow_split=True)
    plain = Kernels().attention(q, k, v, key_padding=padding, return_stats=True)
    split = halved.attention(q, k, v, key_padding=padding, return_stats=True)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(split.stats, plain.stats, strict=True))


def test_workspaces_are_those_of_the_operators() -> None:
    q, k, v = qkv(2, 16, 16)
    shapes = {"q": tuple(q.shape), "k": tuple(k.shape), "v": tuple(v.shape)}
    assert Kernels().workspace_bytes("attention", shapes, torch.float32) == workspace_bytes(q, k, v)
    assert Kernels().workspace_bytes("correlation", {"x": (50, 8)}, torch.float32) >= 8 * 8 * 4
    assert Kernels().workspace_bytes("effective_rank", {"w": (50, 8)}, torch.float32) > 0
    with pytest.raises(KeyError):
        Kernels().workspace_bytes("convolution", {"x": (50, 8)}, torch.float32)


def test_a_kernel_is_chosen_by_its_arguments_alone() -> None:
    assert select_kernel("cpu", torch.float32, 64) == select_kernel("cpu", torch.float32, 64)
    assert select_kernel("cpu", torch.float32, 64).caps().max_head_dim == 256
    for dtype, width in ((torch.int8, 64), (torch.float32, 257), (torch.float32, 0)):
        with pytest.raises(MissingDependency, match="no kernel"):
            select_kernel("cpu", dtype, width)
