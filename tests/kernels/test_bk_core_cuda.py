"""The CUDA C++ form without a GPU: its source compiled for the host, its launches made there, against the reference."""

from __future__ import annotations

import ctypes
import struct
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from kernels import nvrtc
from kernels.bk_core import cuda, reference
from kernels.bk_core.chain import Chain

pytestmark = pytest.mark.slow

KERNELS = ("diagonal", "compose", "carry", "carry_sums", "totals", "gradient")
SOURCE = Path(cuda.__file__).with_name("chain.cu")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """As `nvrtc.compiled`: what launches the kernel of that name, here on the host."""
    folder = tmp_path_factory.mktemp("cuda")

    @cache
    def library(options: tuple[str, ...]) -> ctypes.CDLL:
        made = folder / f"{len(list(folder.iterdir()))}.so"
        shim = Path(__file__).with_name("cuda_on_host.cpp")
        names = "".join(f"X({name})" for name in KERNELS)
        more = (f'-DSOURCE="{SOURCE}"', f"-DKERNELS={names}", *options)
        gcc = ["g++", "-std=c++20", "-O0", "-w", "-shared", "-fPIC", "-pthread", "-ffp-contract=fast"]
        subprocess.run([*gcc, *more, str(shim), "-o", str(made)], check=True, capture_output=True, text=True)
        return ctypes.CDLL(str(made))

    def kernel(source: Path, name: str, options: tuple[str, ...], device: int | None) -> Callable[..., None]:
        def launch(grid: int, threads: int, arguments: tuple[Any, ...]) -> None:
            held = [_argument(value) for value in arguments]
            addresses = (ctypes.c_void_p * len(held))(*(ctypes.addressof(value) for value in held))
            library(options).run(name.encode(), grid, threads, addresses)

        return launch

    return kernel


@pytest.mark.parametrize("layout", [*cuda._VALUES.items(), *cuda._GRADIENT.items()])
def test_every_block_fits_the_shared_memory_that_all_gpus_have(layout: tuple[torch.dtype, cuda._Layout]) -> None:
    for n in [1, *(2**k + 1 for k in range(14))]:
        shape = cuda._shape(layout[1], n, layout[0], True, True, True)
        values = dict(option.removeprefix("-D").split("=") for option in shape.options)
        sites, chunks, rows = (int(values[name]) for name in ("SITES", "CHUNKS", "ROWS"))
        assert shape.threads == chunks * rows <= 1024
        assert shape.segments * sites * chunks >= n
        groups = shape.threads // min(chunks, 8)
        reals = shape.threads * (2 * (sites + 1) + 2 + 8 + 1) + groups * (4 + 8 + 8)  # as shared_t in chain.cu
        assert reals * layout[0].itemsize <= 48 * 1024


def test_arguments_lie_in_memory_as_a_kernel_reads_them() -> None:
    values = torch.ones(3)
    address, one, number, last = struct.unpack("=Qi4xdi", nvrtc._packed((values, 7, 0.5, 9)))
    assert (address, one, number, last) == (values.data_ptr(), 7, 0.5, 9)


def test_structures_among_the_arguments_are_bytes_as_they_are() -> None:
    values = torch.ones(3)
    packed = nvrtc._packed((bytes(range(128)), values, 3))
    assert packed[:128] == bytes(range(128))
    assert struct.unpack("=Qi", packed[128:]) == (values.data_ptr(), 3)


def _argument(value: Any) -> Any:
    """As torch hands them to a kernel."""
    if isinstance(value, torch.Tensor):
        return ctypes.c_void_p(value.data_ptr())
    return ctypes.c_int(value) if isinstance(value, int) else ctypes.c_double(value)


@pytest.mark.parametrize(
    ("dtype", "batch", "n", "threads", "sites", "whole", "links", "energies"),
    [
        (torch.float64, 2, 16, 4, 4, None, None, None),  # one segment, nothing masked
        (torch.float64, 3, 13, 8, 4, None, None, 3),  # two rows a block, the last block half empty
        (torch.float64, 1, 1, 4, 4, None, None, None),
        (torch.float64, 2, 75, 4, 4, None, 2, 2),  # segments, the last not full; each row its links and its energy
        (torch.float64, 2, 64, 16, 2, None, None, 1),  # segments of two groups of chunks
        (torch.float64, 2, 60, 4, 4, 64, None, 2),  # a row that gets a larger block of its own
        (torch.float32, 2, 75, 4, 4, None, None, None),
        (torch.float32, 2, 70, 4, 16, None, 1, None),  # minors are normalised on the way; one row's links for all
    ],
)
def test_the_source_computes_what_the_reference_does(
    dtype: torch.dtype,
    batch: int,
    n: int,
    threads: int,
    sites: int,
    whole: int | None,
    links: int | None,
    energies: int | None,
    compiled: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cuda, "compiled", compiled)
    for layouts in ("_VALUES", "_GRADIENT"):
        monkeypatch.setattr(cuda, layouts, {dtype: cuda._Layout(sites, threads, 1, whole or threads * sites)})
    rng = torch.Generator().manual_seed(n)
    v = torch.randn(batch, n, dtype=dtype, generator=rng)
    w = 0.7 if links is None else torch.rand(links, n - 1, dtype=dtype, generator=rng)
    z = 0.25 + 0.75j if energies is None else _upper_half(energies, dtype, rng)
    grad = torch.randn(batch, n, dtype=dtype.to_complex(), generator=rng)
    chain, wide = Chain(v, w, z), Chain(v.double(), _wide(w), _wide(z))
    truths = (reference.bk_core(wide), *reference.bk_core_backward(grad.to(torch.complex128), wide))
    founds = (cuda.bk_core(chain), *cuda.bk_core_backward(grad, chain))
    for found, truth in zip(founds, truths, strict=True):
        assert found.shape == truth.shape
        assert (found - truth).norm() <= 100 * torch.finfo(dtype).eps * truth.norm()
    assert [values.numel() for values in cuda.bk_core_backward(grad, chain, False, False)] == [batch * n, 0, 0]


def test_what_is_no_number_stays_in_its_row(compiled: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "compiled", compiled)
    for layouts in ("_VALUES", "_GRADIENT"):
        monkeypatch.setattr(cuda, layouts, {torch.float32: cuda._Layout(4, 8, 1, 32)})
    v = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    v[1, 7], v[2, 7] = float("nan"), float("inf")
    z = torch.tensor([1j, 1j, 1j, 1.0, 1j])
    chain = Chain(v, 1.0, z)
    for found in (cuda.bk_core(chain), cuda.bk_core_backward(torch.ones_like(v, dtype=torch.complex64), chain)[0]):
        assert found[1:4].isnan().all()
        assert found[0::4].isfinite().all()


def _upper_half(count: int, dtype: torch.dtype, rng: torch.Generator) -> torch.Tensor:
    real, imag = torch.rand(2, count, dtype=dtype, generator=rng)
    return torch.complex(real, imag + 0.3)


def _wide(values: Any) -> Any:
    if not isinstance(values, torch.Tensor):
        return values
    return values.to(torch.complex128 if values.is_complex() else torch.float64)
