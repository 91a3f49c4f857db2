"""A frozen organism as a file for another runtime, and how far that one's answers lie from torch's."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from passes.onnxruntime import import_onnxruntime
from toolkit.organism.errors import ExportError, first_line
from toolkit.organism.organism import Organism

__all__ = ["to_onnx", "to_torchscript"]

TOLERANCE = 1e-5
"""Of answers of about 1, in float32: the order of a few sums is all that may differ."""


def to_onnx(frozen: nn.Module, example: Tensor, path: Path, *, batches: Sequence[int] = (1, 2, 5)) -> float:
    """Write ONNX with a varying batch; the greatest difference over `batches`, in what onnxruntime answers.

    Raises:
        ExportError: an organism in it is alive, torch cannot write it down, or the answers differ.
    """
    _check_frozen(frozen)
    sample = example[:1].repeat(2, *[1] * (example.ndim - 1))  # a batch of 1 would be taken for a constant
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                frozen, (sample,), dynamo=True, dynamic_shapes=({0: torch.export.Dim("batch")},), verbose=False,
                input_names=["x"], output_names=["y"],
            )  # fmt: skip
    except Exception as error:  # torch raises what it likes
        raise ExportError(
            f"torch cannot export it: {type(error).__name__}: {first_line(error)}",
            hint="see whether a layer of your own around the organism can be exported",
        ) from error
    if program is None:
        raise ExportError("torch exported nothing", hint="install onnxscript")
    program.save(path)
    session = import_onnxruntime().InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def answer(x: Tensor) -> Any:
        return session.run(None, {name: x.numpy()})[0]

    return _checked(frozen, answer, example, batches)


def to_torchscript(frozen: nn.Module, example: Tensor, path: Path, *, batches: Sequence[int] = (1, 2, 5)) -> float:
    """Write TorchScript, traced for the length of `example`; the greatest difference over `batches`.

    Raises:
        ExportError: an organism in it is alive, or the answers differ.
    """
    _check_frozen(frozen)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        traced: Any = torch.jit.trace(frozen, (example,), check_trace=False)  # type: ignore[no-untyped-call]
        traced.save(str(path))
        read: Any = torch.jit.load(str(path))  # type: ignore[no-untyped-call]
    return _checked(frozen, lambda x: read(x).detach().numpy(), example, batches)


def _check_frozen(module: nn.Module) -> None:
    if any(isinstance(part, Organism) for part in module.modules()):
        raise ExportError("this organism is alive", hint="export what freeze() gives")


@torch.no_grad()
def _checked(frozen: nn.Module, answer: Any, example: Tensor, batches: Sequence[int]) -> float:
    worst = 0.0
    for batch in batches:
        x = example[torch.arange(batch) % len(example)]
        wanted = frozen(x).numpy()
        gap = float(np.abs(answer(x) - wanted).max(initial=0.0))
        worst = max(worst, gap / max(1.0, float(np.abs(wanted).max(initial=0.0))))
    if not worst <= TOLERANCE:
        raise ExportError(
            f"what was exported answers otherwise: by {worst:.1e} where {TOLERANCE:.0e} is allowed",
            hint="export it in float32, and tell us if it was",
        )
    return worst
