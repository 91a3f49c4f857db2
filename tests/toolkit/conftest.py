"""What several files of tests look at, compiled once."""

from __future__ import annotations

import pytest

import toolkit
from toolkit.bundle.bundle import Bundle


@pytest.fixture(scope="session")
def float_and_integers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Bundle]:
    """The digits for this kind of desktop, in the folders `float` and `integers`; to be read alone."""
    folder = tmp_path_factory.mktemp("digits")
    stacks = {"float": "onnxruntime-fp32", "integers": "onnxruntime-int8"}
    first, second = (toolkit.compile(target="desktop_cpu", stack=s, output=folder / n) for n, s in stacks.items())
    return first, second
