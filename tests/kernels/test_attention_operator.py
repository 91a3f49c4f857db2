"""Attention as an operator: which form answers on which machine, exports, tiles, memory, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch

from kernels import KernelUnavailable, registry
from kernels.attention import TILE, attention, operators, workspace_bytes
from kernels.attention.operators import ATTENTION
from kernels.attention.tiles import tile_map
from kernels.dispatch import Call
from kernels.machine import Machine
from tests.kernels.attention_cases import Sizes, by_reference, inputs_of, options_of

pytestmark = pytest.mark.slow

_SIZES = {"B": 1, "H": 2, "K": 2, "M": 5, "N": 5, "causal": 0, "masks": 0, "statistics": 1}
H100 = Machine("cuda", "NVIDIA H100", (9, 0), 227 * 1024, True)
A10 = Machine("cuda", "NVIDIA A10", (8, 6), 99 * 1024, True)
T4 = Machine("cuda", "Tesla T4", (7, 5), 64 * 1024, True)

_Q, _K, _V = torch.zeros(2, 4, 5, 16), torch.zeros(2, 2, 7, 16), torch.zeros(2, 2, 7, 32)


# ---- which form answers


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_without_statistics_the_kernel_of_torch_runs_on_the_cpu(dtype: torch.dtype, causal: bool) -> None:
    inputs = inputs_of(Sizes(b=2, m=130, n=130, d=24, dv=24), dtype, torch.device("cpu"))
    assert registry.choose("attention", *inputs, causal=causal).form.name == "library"
    found, truth = attention(*inputs, causal=causal), by_reference(*(x.double() for x in inputs), causal=causal)
    plain = by_reference(*inputs, causal=causal)
    largest = truth.lse.abs().max() * inputs[2].double().abs().max()  # a logit's rounding, as the values show it
    for ours, true, other in zip(found[:2], truth[:2], plain[:2], strict=True):
        allowed = 2 * (other.double() - true).abs().max() + torch.finfo(ours.dtype).eps * largest
        assert (ours.double() - true).abs().max() <= allowed
        assert ours.is_contiguous()


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"statistics": 1}, "no statistics"),
        ({"masks": 1}, "as a matrix"),
        ({"causal": 1, "M": 4}, "at their beginning"),
        ({"K": 1}, "as many heads"),
        ({"dv": 32}, "one width"),
        ({"N": 0}, "divides by sizes"),
    ],
)
def test_the_kernel_of_torch_gets_only_what_it_takes(changed: dict[str, int], why: str) -> None:
    call = Call(Machine("cpu"), torch.float32, {**_SIZES, "d": 16, "dv": 16, "statistics": 0, **changed})
    choice = ATTENTION.choose(call)
    assert choice.form.name == "torch"
    assert why in choice.refused["library"]


@pytest.mark.parametrize(
    ("machine", "dtype", "d", "why"),
    [
        (H100, torch.bfloat16, 64, ""),
        (H100, torch.float32, 128, ""),
        (H100, torch.float64, 64, "no float64"),
        (H100, torch.bfloat16, 20, "multiples of 8"),
        (T4, torch.bfloat16, 64, "bfloat16 needs compute capability 8.0"),
        (H100, torch.bfloat16, 256, ""),
        (H100, torch.float32, 256, ""),
        (A10, torch.bfloat16, 64, ""),
        (A10, torch.bfloat16, 256, r"204,800 bytes of shared memory, NVIDIA A10 \(sm_86\) has 101,376"),
        (T4, torch.float16, 64, r"asynchronous copies .* Tesla T4 \(sm_75\) has less"),
        (Machine("cpu", has_triton=True, interprets=True), torch.bfloat16, 64, "for integers"),
    ],
)
def test_what_the_machine_lacks_decides(machine: Machine, dtype: torch.dtype, d: int, why: str) -> None:
    choice = ATTENTION.choose(Call(machine, dtype, {**_SIZES, "d": d, "dv": d}))
    assert choice.form.name == ("torch" if why else "triton")
    if why:
        with pytest.raises(AssertionError, match=why):
            raise AssertionError(choice.refused["triton"])


@pytest.mark.parametrize(
    ("machine", "dtype", "sizes", "why"),
    [
        (H100, torch.bfloat16, {}, ""),
        (H100, torch.float16, {"d": 72, "dv": 120, "causal": 1}, ""),
        (H100, torch.float32, {}, "bfloat16 or float16"),
        (H100, torch.bfloat16, {"statistics": 0}, "without statistics Triton's form is faster"),
        (H100, torch.bfloat16, {"masks": 1}, "the causal one"),
        (H100, torch.bfloat16, {"d": 64}, r"from 65 to 128, multiples of 8, not \[64, 128\]"),
        (H100, torch.bfloat16, {"dv": 136}, r"not \[128, 136\]"),
        (A10, torch.bfloat16, {}, r"capability 9, NVIDIA A10 \(sm_86\) has others"),
        (Machine("cuda", "NVIDIA B200", (10, 0), 227 * 1024, True), torch.bfloat16, {}, "capability 9"),
        (Machine("cpu"), torch.bfloat16, {}, "CUDA C.. compiles for NVIDIA's GPUs, not for cpu"),
    ],
)
def test_hopper_has_a_form_of_its_own(machine: Machine, dtype: torch.dtype, sizes: dict[str, int], why: str) -> None:
    choice = ATTENTION.choose(Call(machine, dtype, {**_SIZES, "d": 128, "dv": 128, **sizes}))
    assert (choice.form.name == "cuda") == (not why)
    assert re.search(why, choice.refused.get("cuda", ""))


def test_the_registry_knows_it(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (
        "torch: takes B 2, H 4, K 2, M 5, N 7, d 16, dv 32, causal 0, masks 0, statistics 0; float32 on cpu"
        in registry.why("attention", _Q, _K, _V)
    )
    monkeypatch.setenv("KERNELS_FORM", "attention=triton")
    with pytest.raises(KernelUnavailable, match="no float64"):
        attention(*(x.to(device, torch.float64) for x in (_Q, _K, _V)))


# ---- what torch makes of it


def test_torch_accepts_the_operator() -> None:
    q, k, v = (x.requires_grad_() for x in inputs_of(Sizes(m=4, n=5), torch.float64, torch.device("cpu")))
    torch.library.opcheck(operators.attention.whole, (q, k, v, None, None, True, None, 0.25, True))
    torch.library.opcheck(operators.attention.whole, (q, k, v, None, None, False, 2, 0.25, False))


class _Attending(torch.nn.Module):
    def forward(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, padding: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of all keys for the output, of a tile of them for the statistics."""
        out = attention(q, k, v, causal=True, key_padding=padding).out
        stats = attention(q, k, v, window=3, tiles=[(0, 0)], return_stats=True).stats
        assert stats is not None
        return out, stats.entropy, stats.span


def test_is_exported_in_plain_operators_and_runs_in_onnxruntime(tmp_path: Path) -> None:
    sizes = Sizes(b=2, h=4, m=6, n=9)
    inputs = inputs_of(sizes, torch.float32, torch.device("cpu"))
    inputs.append(options_of(sizes, {"padded": True}, torch.device("cpu"))["key_padding"])
    expected = _Attending()(*inputs)
    exported = torch.export.export(_Attending(), tuple(inputs))
    assert not any("kernels" in str(node.target) for node in exported.graph.nodes)
    program = torch.onnx.export(exported, (), dynamo=True, opset_version=18, verbose=False)
    assert program is not None
    program.save(tmp_path / "attention.onnx")
    session = ort.InferenceSession(tmp_path / "attention.onnx")
    found = session.run(None, {i.name: x.numpy() for i, x in zip(session.get_inputs(), inputs, strict=True)})
    for ours, theirs in zip(expected, found, strict=True):
        np.testing.assert_allclose(theirs, ours.numpy(), atol=1e-5)


def test_is_compiled_whole() -> None:
    inputs = inputs_of(Sizes(m=6, n=9), torch.float32, torch.device("cpu"))
    padding = torch.zeros(1, 9, dtype=torch.bool)
    whole = torch.compile(_Attending(), backend="eager", fullgraph=True)
    torch.testing.assert_close(whole(*inputs, padding), _Attending()(*inputs, padding))


# ---- tiles, refusals, memory


def test_a_map_of_tiles_is_a_list_of_tiles(device: torch.device) -> None:
    q, k, v = inputs_of(Sizes(m=TILE + 2, n=2 * TILE + 2), torch.float32, device)
    pairs = [(0, 2), (1, 0), (0, 2)]
    wanted = torch.tensor([[False, False, True], [True, False, False]])
    assert torch.equal(tile_map(pairs, TILE + 2, 2 * TILE + 2, torch.device("cpu")), wanted)
    by_map = attention(q, k, v, tiles=wanted).out
    assert torch.equal(by_map, attention(q, k, v, tiles=pairs).out)
    assert torch.equal(by_map, attention(q, k, v, tiles=torch.tensor(pairs)).out)
    assert (attention(q, k, v, tiles=[]).out == 0).all()


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"q": _Q[0]}, ValueError, r"four dimensions .*\(4, 5, 16\)"),
        ({"q": _Q[:1]}, ValueError, "do not match"),
        ({"k": _K[:, :, :6]}, ValueError, "do not match"),
        ({"q": torch.zeros(2, 4, 5, 24)}, ValueError, "do not match"),
        ({"q": torch.zeros(2, 3, 5, 16)}, ValueError, "a multiple of those of k and v, got 3 and 2"),
        ({"v": torch.zeros(2, 2, 7, 8)}, ValueError, "from 16 to 256, got 8"),
        ({"q": torch.zeros(2, 4, 5, 264), "k": torch.zeros(2, 2, 7, 264)}, ValueError, "from 16 to 256, got 264"),
        ({"q": _Q.double()}, ValueError, "one dtype on one device, got q torch.float64"),
        ({"q": _Q.int(), "k": _K.int(), "v": _V.int()}, TypeError, "got torch.int32"),
        ({"key_padding": torch.zeros(2, 7)}, TypeError, "True where nobody attends"),
        ({"key_padding": torch.zeros(2, 5, dtype=torch.bool)}, ValueError, r"\(B, N\) = \(2, 7\)"),
        ({"window": -1}, ValueError, "0 or more, got -1"),
        ({"scale": 0.0}, ValueError, "positive and finite, got 0"),
        ({"scale": float("nan")}, ValueError, "positive and finite"),
        ({"scale": -0.5}, ValueError, "positive and finite, got -0.5"),
        ({"tiles": torch.ones(2, 1, dtype=torch.bool)}, ValueError, r"must be \(1, 1\) .*got \(2, 1\)"),
        ({"tiles": [(0, 1)]}, ValueError, r"within \(1, 1\)"),
        ({"tiles": [(0, -1)]}, ValueError, r"within \(1, 1\)"),
        ({"tiles": [(0.0, 0.0)]}, TypeError, "pairs of integers"),
        ({"tiles": [0, 1]}, TypeError, "pairs of integers"),
    ],
)
def test_what_cannot_attend_is_refused(changed: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        attention(**{"q": _Q, "k": _K, "v": _V, **changed})


def test_memory_that_is_not_there_is_missed_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernels.memory.free_bytes", lambda device: 2**20)
    long = torch.zeros(1, 8, 2**16, 64)
    with pytest.raises(MemoryError, match=r"attention needs 0\.\d+ GB on cpu"):
        attention(long, long[:, :, :1], long[:, :, :1], return_stats=True)


def test_memory_grows_with_queries_and_not_with_keys() -> None:
    few, many = (torch.empty(1, 16, n, 64, device="meta").expand(4, -1, -1, -1) for n in (4096, 65536))
    q = torch.zeros(1)
    for return_stats in (False, True):
        asked = [_workspace(few, keys, return_stats) for keys in (few, many)]
        assert asked[0] == asked[1]
        assert asked[0] < 2 * 4 * 16 * 4096 * (64 + 8) * 4
    assert q.numel() == 1
    without, with_them = (_workspace(few, many, return_stats, window=9) for return_stats in (False, True))
    assert with_them - without >= 5 * 4 * 4 * 16 * 4096  # five float32 a query


def _workspace(q: torch.Tensor, k: torch.Tensor, return_stats: bool, **options: Any) -> int:
    on_cpu = [torch.zeros((), dtype=torch.float32).expand(x.shape) for x in (q, k, k)]
    return workspace_bytes(*on_cpu, return_stats=return_stats, **options)
