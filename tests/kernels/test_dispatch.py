"""Forms are chosen by what a machine has; nobody needs that machine to ask."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kernels import KernelUnavailable, registry
from kernels.correlation import row_correlation
from kernels.correlation.rows.operators import ROWS
from kernels.dispatch import Call, Form, Operator
from kernels.machine import Machine
from kernels.memory import require

CPU = Machine("cpu", has_triton=True)
H100 = Machine("cuda", "NVIDIA H100", (9, 0), 227 * 1024, True)
T4 = Machine("cuda", "Tesla T4", (7, 5), 64 * 1024, True)


def _call(machine: Machine, dtype: torch.dtype = torch.float32, n: int = 100) -> Call:
    return Call(machine, dtype, {"rows": 8, "n": n})


@pytest.mark.parametrize(
    ("machine", "dtype", "form", "why"),
    [
        (H100, torch.bfloat16, "triton", ""),
        (T4, torch.float16, "triton", ""),
        (T4, torch.bfloat16, "torch", "bfloat16 needs compute capability 8.0"),
        (Machine("cuda", "Quadro M6000", (5, 2), 48 * 1024, True), torch.float32, "torch", "capability 7.0"),
        (Machine("cuda", "NVIDIA H100", (9, 0), 227 * 1024), torch.float32, "torch", r"edge-toolkit\[gpu\]"),
        (CPU, torch.float32, "torch", "compiles for CUDA"),
        (Machine("cpu", has_triton=True, interprets=True), torch.float32, "torch", "interpreter is slow"),
    ],
)
def test_the_fastest_form_that_the_machine_takes_is_chosen(
    machine: Machine, dtype: torch.dtype, form: str, why: str
) -> None:
    choice = ROWS.choose(_call(machine, dtype))
    assert choice.form.name == form
    assert bool(why) == bool(choice.refused)
    if why:
        with pytest.raises(AssertionError, match=why):  # what is refused can be read
            raise AssertionError(str(choice))


def test_sizes_decide_as_well() -> None:
    assert "registers" in ROWS.choose(_call(H100, n=20_000)).refused["triton"]


def test_the_environment_decides_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERNELS_FORM", "torch")
    assert ROWS.choose(_call(H100)).form.name == "torch"
    monkeypatch.setenv("KERNELS_FORM", "attention=torch")
    assert ROWS.choose(_call(H100)).form.name == "triton"
    for variable in ("torch, row_correlation=triton", "row_correlation=triton,torch"):
        monkeypatch.setenv("KERNELS_FORM", variable)
        assert ROWS.choose(_call(H100)).form.name == "triton"


def test_the_environment_and_the_sizes_decide_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A choice is remembered with all that it depends on."""
    by_size = Form("small", "operator:neg", lambda call: "too large" if call.sizes["n"] > 10 else None)
    negated = Operator[int]("negated", (by_size, Form("large", "operator:pos")))
    assert [negated.run(_call(CPU, n=n), 3) for n in (5, 50, 5)] == [-3, 3, -3]
    monkeypatch.setenv("KERNELS_FORM", "large")
    assert negated.run(_call(CPU, n=5), 3) == 3
    monkeypatch.delenv("KERNELS_FORM")
    assert negated.run(_call(CPU, n=5), 3) == -3


@pytest.mark.parametrize(
    ("variable", "machine", "words"),
    [
        ("cuda", H100, "no form 'cuda'; it has triton, torch"),
        ("triton", CPU, "row_correlation in triton, which does not take .*compiles for CUDA"),
        ("row_correlation=triton", Machine("cuda", "NVIDIA H100", (9, 0)), "not installed"),
    ],
)
def test_a_form_that_cannot_run_is_an_error(
    variable: str, machine: Machine, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERNELS_FORM", variable)
    with pytest.raises(KernelUnavailable, match=words):
        ROWS.choose(_call(machine))


def test_an_operator_without_a_form_says_why_each_refused() -> None:
    with pytest.raises(KernelUnavailable, match=r"has no form for .*triton: Triton compiles for CUDA"):
        Operator("row_correlation", ROWS.forms[:1]).choose(_call(CPU))


def test_every_operator_of_the_registry_is_there_and_no_other() -> None:
    root = Path(registry.__file__).parent
    here = {".".join(path.relative_to(root.parent).with_suffix("").parts) for path in root.rglob("operators.py")}
    assert {entry.module for entry in registry.OPERATORS.values()} == here
    assert "torch: takes rows 2, n 3; float32 on cpu" in registry.why("row_correlation", *torch.ones(2, 2, 3))
    with pytest.raises(ValueError, match=r"known: .*row_correlation"):
        registry.why("rowcorrelation")


def test_memory_is_asked_for_before_it_is_missed() -> None:
    require("attention", 10, torch.device("cpu"), free=10)
    with pytest.raises(MemoryError, match="attention needs"):
        require("attention", 11, torch.device("cpu"), free=10)
    with pytest.raises(MemoryError, match=r"attention needs 5\.00 GB on cpu and 1\.00 GB are free"):
        require("attention", 5 * 10**9, torch.device("cpu"), free=10**9)
    with pytest.raises(MemoryError, match="needs"):
        require("attention", 2**60, torch.device("cpu"))


def test_a_model_is_exported_in_plain_torch_and_compiled_whole() -> None:
    class Correlated(torch.nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return row_correlation(x, y) * 2

    x, y = torch.randn(2, 3, 9, generator=torch.Generator().manual_seed(0))
    exported = torch.export.export(Correlated(), (x, y))
    assert not any("kernels" in str(node.target) for node in exported.graph.nodes)
    torch.testing.assert_close(exported.module()(x, y), Correlated()(x, y))
    whole = torch.compile(Correlated(), backend="eager", fullgraph=True)
    torch.testing.assert_close(whole(x, y), Correlated()(x, y))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_traced_model_holds_plain_torch() -> None:
    """Also where a gradient is wanted, for which the operator is called whole otherwise."""
    x, y = torch.randn(2, 3, 9, generator=torch.Generator().manual_seed(0))
    x.requires_grad_()
    traced = torch.jit.trace(lambda x, y: row_correlation(x, y) * 2, (x, y))  # type: ignore[no-untyped-call]
    assert "kernels::" not in str(traced.graph)
    torch.testing.assert_close(traced(y, x), row_correlation(y, x) * 2)


def test_what_listens_to_torch_hears_the_whole_operator() -> None:
    heard = []

    class Listening(TorchDispatchMode):
        def __torch_dispatch__(self, operator, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            heard.append(str(operator))
            return operator(*args, **(kwargs or {}))

    x, y = torch.randn(2, 3, 9, generator=torch.Generator().manual_seed(0))
    with Listening():
        row_correlation(x, y)
    assert "kernels.row_correlation.default" in heard
