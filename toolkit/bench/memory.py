"""Predicted memory beside what onnxruntime and TVM really take on this machine, and arenas beside their lower bound.

    python -m toolkit.bench.memory [--json] [--without-tvm]

onnxruntime runs each network in a process of its own, with random weights and one thread:

- first run: the arena's peak above the weights while every tensor is allocated by itself. The arena is told to hand out
  chunks of the size asked for, so that its statistics count bytes and not the halves of chunks that it keeps.
- later runs: the same with onnxruntime's memory pattern, which puts the activations into one block from the second run.
- process: the most resident memory of a Python process that loads the file and runs it twice with default settings.

TVM's plan is read from the function it makes of the same ONNX file: the storages of `StaticPlanBlockMemory`, results of
the network left out, as they lie in none. Beside it stand the same rule on our reading of the ONNX graph, and the arena
with offsets that we plan instead.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from targets.arena import pack
from targets.buffers import POINTWISE, buffers_of
from targets.graph import read_workload
from targets.memory import peak_memory
from targets.memory_plan import plan_memory
from targets.onnxruntime_memory import arena_use
from targets.storages import storages
from targets.target import load_target
from toolkit.bench.graphs import graph_of
from toolkit.cache import cache_folder
from toolkit.rng import generator

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = [
    "HELD_OUT",
    "NETWORKS",
    "Gap",
    "Measured",
    "Planned",
    "arena_bytes",
    "measured",
    "planned",
    "process_bytes",
    "with_random_weights",
    "zoo_gaps",
]

NETWORKS = (
    ("mobilenet_v1_1.0", "1x3x224x224"),
    ("torchvision:mobilenet_v2", "1x3x224x224"),
    ("torchvision:mobilenet_v3_large", "1x3x224x224"),
    ("torchvision:resnet18", "1x3x224x224"),
    ("torchvision:resnet50", "1x3x224x224"),
    ("torchvision:squeezenet1_0", "1x3x224x224"),
    ("torchvision:densenet121", "1x3x224x224"),
    ("torchvision:googlenet", "1x3x224x224"),
    ("mlperf:efficientnet-lite0-quantized", "1x224x224x3"),
    ("ncnn:shufflenet_v2", "1x3x224x224"),
    ("ncnn:yolo-fastest-1.1", "1x3x320x320"),
    ("coral:Unet Mv2", "1x3x256x256"),
    ("timm:vit_tiny_patch16_224", "1x3x224x224"),
    ("timm:swin_tiny_patch4_window7_224", "1x3x224x224"),
)
HELD_OUT = (
    ("torchvision:vgg11", "1x3x224x224"),
    ("torchvision:regnet_y_400mf", "1x3x224x224"),
    ("torchvision:inception_v3", "1x3x299x299"),
    ("timm:ghostnet_100", "1x3x224x224"),
    ("timm:mixer_b16_224", "1x3x224x224"),
    ("timm:cspdarknet53", "1x3x256x256"),
    ("timm:lcnet_100", "1x3x224x224"),
    ("ncnn:blazeface", "1x3x128x128"),
    ("ncnn:mobilenet_ssd", "1x3x300x300"),
)
"""Networks on which no rule was found and no coefficient fitted; the interval's lower end is theirs."""

INTEGER_NETWORKS = frozenset(
    {"mobilenet_v1_1.0", "torchvision:mobilenet_v2", "torchvision:resnet50", "torchvision:squeezenet1_0"}
)
"""Measured in int8 too, quantized by onnxruntime."""

_ALIGNED = 0.001  # what rounding to 64 bytes may add
_SMALLEST = 8  # elements; shorter constants say scales and shapes
_TVM_FUSES = ("batch_norm", "activation", "residual_add")

# Run in a process of its own: the allocator and resident memory belong to the process.
_RUN = """
import json, os, sys
import numpy as np
import onnxruntime as ort

def resident(key):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(key))

path, pattern, exact = sys.argv[1], sys.argv[2] == "pattern", sys.argv[3] == "exact"
options = ort.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
options.log_severity_level = 3
options.enable_mem_pattern = pattern
options.enable_profiling = exact
options.profile_file_prefix = path + "-profile"
if exact:
    info = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(info, ort.OrtArenaCfg({
        "max_mem": 0, "arena_extend_strategy": 1, "initial_chunk_size_bytes": 1024, "max_dead_bytes_per_chunk": 256,
    }))
    options.add_session_config_entry("session.use_env_allocators", "1")
session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
feeds = {i.name: np.ones(i.shape, np.float32) for i in session.get_inputs()}
for _ in range(2):
    session.run(None, feeds)
found = {"process_bytes": resident("VmHWM")}
if exact:
    profile = session.end_profiling()
    events = [e["args"] for e in json.load(open(profile)) if e["cat"] == "Node" and "mem_in_use_peak" in e["args"]]
    os.remove(profile)
    weights = int(events[0]["mem_bytes_in_use"]) - int(events[0]["mem_in_use_delta"])
    found["arena_bytes"] = max(int(e["mem_in_use_peak"]) for e in events) - weights
print(json.dumps(found))
"""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Bytes that onnxruntime took for a network and that were predicted, and the interval of the process."""

    network: str
    precision: str
    first_run_bytes: int
    first_run_predicted_bytes: int
    later_runs_bytes: int
    later_runs_predicted_bytes: int
    process_bytes: int
    process_predicted_bytes: int
    process_interval_bytes: tuple[int, int]
    lower_bound_bytes: int
    planned_bytes: int

    @property
    def covered(self) -> bool:
        low, high = self.process_interval_bytes
        return low <= self.process_bytes <= high


def measured(network: str, shape: str, *, precision: str = "fp32") -> Measured:
    """Measure a network of `toolkit.bench.networks` in onnxruntime, and predict the same.

    Args:
        precision: "fp32", or "int8" for the network as onnxruntime quantizes it.
    """
    import onnx_ir as ir

    from passes.structure import infer_shapes

    stack = load_target("desktop_cpu").stack(f"onnxruntime-{precision}")
    with tempfile.TemporaryDirectory() as folder:
        path = _saved(network, shape, Path(folder))
        if precision == "int8":
            path = _quantized(path)
        work = read_workload(infer_shapes(ir.load(path)), fuses=stack.fuses)
        first, later, process = arena_bytes(path, pattern=False), arena_bytes(path, pattern=True), process_bytes(path)
    use, peak, plan = arena_use(work), peak_memory(work, stack), plan_memory(work, outside=work.inputs)
    return Measured(
        network=network,
        precision=precision,
        first_run_bytes=first,
        first_run_predicted_bytes=use.first_run_bytes,
        later_runs_bytes=later,
        later_runs_predicted_bytes=use.later_runs_bytes,
        process_bytes=process,
        process_predicted_bytes=peak.peak_bytes,
        process_interval_bytes=peak.interval_bytes,
        lower_bound_bytes=plan.lower_bound_bytes,
        planned_bytes=plan.arena_bytes,
    )


def with_random_weights(model: ir.Model) -> ir.Model:
    """`model` with weights in place of those that were not stored: their values decide no size."""
    import onnx_ir as ir

    rng = generator(0, "memory")
    for value in model.graph.initializers.values():
        stored = value.const_value
        size = tuple(stored.shape.numpy()) if stored is not None else ()
        if stored is None or prod(size) <= _SMALLEST:
            continue
        if stored.dtype.is_floating_point():
            drawn = rng.standard_normal(size) / sqrt(prod(size[1:]) or 1) if len(size) > 1 else np.ones(size)
        elif isinstance(stored, ir.ExternalTensor):
            drawn = np.zeros(size)  # positions in a table
        else:
            continue
        value.const_value = ir.tensor(drawn.astype(stored.dtype.numpy()), name=value.name)
    return model


def _saved(network: str, shape: str, folder: Path) -> Path:
    import onnx_ir as ir

    graph = graph_of(network, shape)
    if graph is None:
        raise LookupError(f"{network} is not defined in toolkit.bench.networks")
    path = folder / "model.onnx"
    ir.save(with_random_weights(graph.clone()), path)
    return path


def _quantized(path: Path) -> Path:
    """The network in QDQ form with two random images, uint8 activations and a scale for each channel."""
    from onnxruntime import quantization

    from passes.quiet import quiet_libraries

    basic, result = path.with_name("basic.onnx"), path.with_name("int8.onnx")
    _optimize(path, basic)
    images = iter([generator(i, "memory").standard_normal(_input_shape(path)).astype(np.float32) for i in range(2)])
    name = _input_name(path)

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> Mapping[str, Any] | None:
            image = next(images, None)
            return None if image is None else {name: image}

    with quiet_libraries():
        quantization.quantize_static(
            basic, result, Reader(), per_channel=True, activation_type=quantization.QuantType.QUInt8
        )
    return result


def _optimize(path: Path, result: Path) -> None:
    """What onnxruntime makes of a file without knowing the machine: constants and batch normalization folded."""
    from passes.onnxruntime import import_onnxruntime

    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(result)
    ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _input_name(path: Path) -> str:
    import onnx_ir as ir

    return str(ir.load(path).graph.inputs[0].name)


def _input_shape(path: Path) -> tuple[int, ...]:
    import onnx_ir as ir

    shape = ir.load(path).graph.inputs[0].shape
    assert shape is not None
    return tuple(int(d) for d in shape.numpy())


def arena_bytes(path: Path, *, pattern: bool) -> int:
    """The peak of onnxruntime's arena above the weights, over two runs with or without its memory pattern."""
    return _ran(path, "pattern" if pattern else "", "exact")["arena_bytes"]


def process_bytes(path: Path) -> int:
    """The most resident memory of a process that loads a file into onnxruntime and runs it twice."""
    return _ran(path, "pattern", "")["process_bytes"]


def _ran(path: Path, *how: str) -> dict[str, int]:
    environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-c", _RUN, str(path), *how]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    found: dict[str, int] = json.loads(done.stdout)
    return found


# ---- TVM


@dataclass(frozen=True, kw_only=True)
class Planned:
    """Bytes of activations between operators: TVM's storages, its rule on our reading of the graph, and our arenas."""

    network: str
    tvm_bytes: int
    same_rule_bytes: int
    same_rule_from_onnx_bytes: int
    arena_bytes: int
    arena_from_onnx_bytes: int


def planned(network: str, shape: str) -> Planned:
    """TVM's static plan of a network, our simulation of it, and the arena with offsets that we plan instead.

    Both rules see the same tensors: those of the function that TVM has fused, and those of the ONNX graph as we group
    it for a runtime that fuses residual additions. Results of the network lie in neither plan, nothing is overwritten.
    """
    import onnx_ir as ir

    from toolkit.bench.tvm_memory import planned_by_tvm

    with tempfile.TemporaryDirectory() as folder:
        path = _saved(network, shape, Path(folder))
        work = read_workload(ir.load(path), fuses=_TVM_FUSES)
        basic = path.with_name("basic.onnx")
        _optimize(path, basic)
        fused, storage_bytes = planned_by_tvm(basic)
    own, _ = buffers_of(work, in_place=(), outside={*work.inputs, *work.outputs})
    return Planned(
        network=network,
        tvm_bytes=sum(storage_bytes),
        same_rule_bytes=sum(storages(fused)),
        same_rule_from_onnx_bytes=sum(storages(own)),
        arena_bytes=pack(fused).arena_bytes,
        arena_from_onnx_bytes=pack(own).arena_bytes,
    )


# ---- the zoo


@dataclass(frozen=True, kw_only=True)
class Gap:
    """A graph's arena above its lower bound, as a share, the time the plan took, and the heuristic that found it."""

    graph: str
    operators: int
    gap: float
    plan_s: float
    heuristic: str


def zoo_gaps() -> Iterator[Gap]:
    """Every exported graph that the cache holds, grouped as onnxruntime and as TensorRT fuse, in place and not."""
    import onnx_ir as ir

    for path in sorted((cache_folder() / "graphs").glob("*.onnx")):
        graph = ir.load(path)
        for fuses in (("batch_norm", "activation"), _TVM_FUSES):
            work = read_workload(graph, fuses=fuses)
            for in_place in (POINTWISE, frozenset[str]()):
                started = time.perf_counter()
                plan = plan_memory(work, in_place=in_place)
                yield Gap(
                    graph=path.stem,
                    operators=len(work.operators),
                    gap=plan.gap,
                    plan_s=time.perf_counter() - started,
                    heuristic=plan.heuristic,
                )


# ---- printing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--without-tvm", action="store_true", help="leave TVM's plans out")
    arguments = parser.parse_args()
    runs, plans = [], []
    for network, shape in (*NETWORKS, *HELD_OUT):
        for precision in ("fp32", "int8") if network in INTEGER_NETWORKS else ("fp32",):
            runs.append(measured(network, shape, precision=precision))
            print(f"{network} {precision} in onnxruntime", file=sys.stderr)
        if not arguments.without_tvm and (network, shape) in NETWORKS:
            plans.append(planned(network, shape))
            print(f"{network} in TVM", file=sys.stderr)
    gaps = list(zoo_gaps())
    if arguments.json:
        document = {
            "schema": "toolkit.bench.memory/1",
            "onnxruntime": [{**asdict(run), "covered": run.covered} for run in runs],
            "tvm": [asdict(plan) for plan in plans],
            "zoo": [asdict(gap) for gap in gaps],
        }
        print(json.dumps(document))
        return
    _print_runs(runs)
    _print_plans(plans)
    _print_gaps(gaps)


def _print_runs(runs: Sequence[Measured]) -> None:
    print("onnxruntime, MB: measured, predicted and error")
    print(f"{'network':38} {'':5} {'first run':>22} {'later runs':>22} {'process':>24}   {'our arena':>9} {'bound':>7}")
    held_out = {network for network, _ in HELD_OUT}
    for run in runs:
        if run.network == HELD_OUT[0][0]:
            print("held out:")
        print(
            f"{run.network:38} {run.precision:5} {_pair(run.first_run_bytes, run.first_run_predicted_bytes)} "
            f"{_pair(run.later_runs_bytes, run.later_runs_predicted_bytes)} "
            f"{_pair(run.process_bytes, run.process_predicted_bytes)} {'' if run.covered else '!':1} "
            f"{run.planned_bytes / 1e6:9.3f} {run.lower_bound_bytes / 1e6:7.3f}"
        )
    covered = sum(run.covered for run in runs)
    unseen = sum(run.covered for run in runs if run.network in held_out)
    print(
        f"the interval of the process holds {covered} of {len(runs)}, of those held out {unseen}; ! marks the others\n"
    )


def _print_plans(plans: Sequence[Planned]) -> None:
    if not plans:
        return
    print("TVM's static plan, MB; its rule on its own graph, and on ours; arenas with offsets for both graphs")
    for plan in plans:
        print(
            f"{plan.network:38} {_pair(plan.tvm_bytes, plan.same_rule_bytes)} "
            f"{_pair(plan.tvm_bytes, plan.same_rule_from_onnx_bytes)} "
            f"{plan.arena_bytes / 1e6:8.3f} {plan.arena_from_onnx_bytes / 1e6:8.3f}"
        )
    print()


def _print_gaps(gaps: Sequence[Gap]) -> None:
    exact = sum(gap.gap < _ALIGNED for gap in gaps)
    print(f"{len(gaps)} plans of {len({gap.graph for gap in gaps})} graphs: {exact} within 0.1 % of the lower bound")
    for gap in sorted(gaps, key=lambda g: -g.gap)[:5]:
        print(f"{gap.graph:50} {gap.operators:5} operators {gap.gap:7.2%} {gap.plan_s * 1e3:6.0f} ms  {gap.heuristic}")


def _pair(truth: int, predicted: int) -> str:
    return f"{truth / 1e6:7.2f} {predicted / 1e6:7.2f} {predicted / truth - 1:+6.1%}"


if __name__ == "__main__":
    main()
