"""How others quantize the same graphs with the same samples: onnxruntime here, NNCF and AIMET where they live."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from passes.dataset import Dataset
from passes.onnxruntime import import_onnxruntime
from passes.program import Level, Program
from passes.quiet import quiet_libraries
from targets.errors import MissingDependency
from toolkit.bench import foreign

__all__ = ["Peer", "peers", "plain_dynamic", "plain_export", "plain_static"]

_LONGEST_S = 1800  # for a quantizer that trains what it rounds
_DISTRIBUTIONS = {"nncf": "nncf", "aimet_onnx": "aimet-onnx"}


@dataclass(frozen=True)
class Peer:
    """`quantize` takes a float graph and the samples to calibrate with."""

    name: str
    quantize: Callable[[bytes, Dataset], bytes]


def peers(pythons: Sequence[Path] = ()) -> Iterator[Peer]:
    """All of them; one whose library no interpreter has raises MissingDependency when it is asked.

    Args:
        pythons: Interpreters to look for the libraries in, before this one.
    """
    yield Peer("onnxruntime static", plain_static)
    yield Peer("onnxruntime static, u8s8 per channel", partial(plain_static, tuned=True))
    yield Peer("onnxruntime dynamic", lambda model, data: plain_dynamic(model))
    for library, settings in foreign.SETTINGS.items():
        python = _interpreter(library, (*pythons, Path(sys.executable)))
        for setting in settings:
            yield Peer(f"{_DISTRIBUTIONS[library]}, {setting}", partial(_elsewhere, python, library, setting))


def _interpreter(library: str, pythons: Sequence[Path]) -> Path | None:
    """The first that has the library; it is not imported."""
    look = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({library!r}) is None)"
    return next((p for p in pythons if not subprocess.run([p, "-I", "-c", look], check=False).returncode), None)


def _elsewhere(python: Path | None, library: str, setting: str, model: bytes, data: Dataset) -> bytes:
    """
    Raises:
        MissingDependency: no interpreter has the library, or it failed on this graph.
    """
    name = _DISTRIBUTIONS[library]
    if python is None:
        raise MissingDependency(
            f"{name} is not installed",
            hint=f"python -m venv peers; peers/bin/pip install {name} onnxruntime; then --peer-python peers/bin/python",
        )
    with tempfile.TemporaryDirectory() as folder:
        source, samples, made = (Path(folder, file) for file in ("model.onnx", "calibration.npz", "quantized.onnx"))
        source.write_bytes(model)
        np.savez(samples, **_columns(data))
        # -I: a script's own folder is on its path otherwise, and ours has modules with common names
        command = [str(part) for part in (python, "-I", foreign.__file__, library, setting, source, samples, made)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", check=False, timeout=_LONGEST_S
            )
        except subprocess.TimeoutExpired as error:
            raise MissingDependency(f"{name} was not done after {_LONGEST_S} s", hint=f"run by {python}") from error
        if done.returncode or not made.is_file():
            last = (done.stderr.strip() or "nothing was said").splitlines()[-1]
            raise MissingDependency(f"{name} failed: {last[:120]}", hint=f"run by {python}")
        return made.read_bytes()


def _columns(data: Dataset) -> Mapping[str, Any]:
    """Input by input, samples along a new first axis; keys are positions, since graphs name inputs differently."""
    return {f"{i:03}": np.stack(values) for i, values in enumerate(zip(*(s.values() for s in data), strict=True))}


# ---- in this process


def plain_export(program: Program) -> bytes:
    """What PyTorch's exporter gives to who asks for nothing else; a graph that came as ONNX as it came."""
    if program.level is Level.ONNX:
        return program.onnx_bytes
    import torch

    with quiet_libraries():
        result = torch.onnx.export(program.exported, (), dynamo=True, verbose=False)
    assert result is not None
    proto: bytes = result.model_proto.SerializeToString()
    return proto


class _Reader:
    """Samples in the form that onnxruntime's calibrators read."""

    def __init__(self, data: Dataset, names: Sequence[str]) -> None:
        self._samples = (dict(zip(names, sample.values(), strict=True)) for sample in data)

    def get_next(self) -> Any:
        return next(self._samples, None)

    def __iter__(self) -> Any:
        return self._samples


def plain_static(model: bytes, data: Dataset, *, tuned: bool = False) -> bytes:
    """onnxruntime's static quantization as it comes; `tuned`: with what its documentation advises for x86."""
    import onnx

    import_onnxruntime()
    from onnxruntime.quantization import QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    settings = {"per_channel": True, "activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    with tempfile.TemporaryDirectory() as folder:
        source, path = Path(folder, "f.onnx"), Path(folder, "q.onnx")
        graph = onnx.load_model_from_string(model)
        if tuned:
            quant_pre_process(graph, source)
            graph = onnx.load(source)
        names = [value.name for value in graph.graph.input]
        quantize_static(graph, path, _Reader(data, names), **(settings if tuned else {}))
        return path.read_bytes()


def plain_dynamic(model: bytes) -> bytes:
    """onnxruntime's dynamic quantization, without the shapes of weights, over which it stumbles (its issue 25890)."""
    import onnx

    import_onnxruntime()
    from onnxruntime.quantization import quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "q.onnx")
        graph = onnx.load_model_from_string(model)
        weights = {tensor.name for tensor in graph.graph.initializer}
        for value in [value for value in graph.graph.value_info if value.name in weights]:
            graph.graph.value_info.remove(value)
        quantize_dynamic(graph, path)
        return path.read_bytes()
