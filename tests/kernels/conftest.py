"""Without a GPU, Triton's kernels run in its interpreter; memory that nobody wrote holds NaN."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before any kernel is defined


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture
def triton_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """Operators run in Triton, also where that means the interpreter."""
    monkeypatch.setenv("KERNELS_FORM", "triton")


@pytest.fixture(autouse=True)
def _unwritten_memory_is_nan() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)  # fills what torch.empty gives
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(before[0])
    torch.utils.deterministic.fill_uninitialized_memory = before[1]
