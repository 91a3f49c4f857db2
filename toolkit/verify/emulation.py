"""Run a bundle's golden inputs through its artefact on an emulated core of its target, and compare."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import isinf
from pathlib import Path
from typing import Any

from passes.compare import errors, sqnr_db
from passes.dataset import Array, Sample
from targets.errors import MissingDependency
from targets.stack import Stack
from targets.target import load_stack, load_target
from toolkit.backends import BACKENDS
from toolkit.backends.ahead_of_time.compiling import Built
from toolkit.backends.ahead_of_time.counting import Instructions
from toolkit.backends.ahead_of_time.machines import MACHINES
from toolkit.bundle.bundle import Bundle
from toolkit.emulator.cores import Core, core_of
from toolkit.emulator.programs import program_answers
from toolkit.emulator.running import Emulated, answers_of, emulator_version
from toolkit.verify.golden import Verification, judged
from toolkit.verify.shipped_runner import SelfTest, self_test

__all__ = ["Distance", "Emulation", "emulate_bundle", "emulated_answers", "runner_test"]

Tell = Callable[[str, float], None]

_EXECUTED = {"onnx": ("onnxruntime",), "tflite": ("TFLite", "LiteRT"), "executable": ("ahead-of-time", "TVM")}
"""The runtimes of stacks that the emulated one is, by the format of the artefact."""


@dataclass(frozen=True, kw_only=True)
class Distance:
    """How far answers are from others: of the output that fares worst.

    `classes` and `classes_agree` count the rows of an only output that is scores of classes, (batch, two or more).
    """

    sqnr_db: float
    max_abs_error: float
    classes: int
    classes_agree: int

    def to_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "sqnr_db": None if isinf(self.sqnr_db) else round(self.sqnr_db, 2),
            "max_abs_error": None if isinf(self.max_abs_error) else self.max_abs_error,
            "identical": self.max_abs_error == 0,
        }


@dataclass(frozen=True, kw_only=True)
class Emulation:
    """What an emulated core answered to the golden inputs. Instructions are counts: no time follows from them.

    Args:
        file: What was run.
        runtime, cpu, emulator: By what, on what, in what.
        recorded, reference: The distance from the answers of golden.npz, and from those of the float model.
        verification: The verdict on the first, by the rule of `toolkit verify`.
        memory_bytes, network_bytes: See `toolkit.emulator.running.Emulated`.
        instructions: Of one inference after the first; None where they cannot be counted here.
        runner: What the runner in run/ said of the golden samples there; None where the bundle ships none.
        not_executed: What of the device no emulator stands for; empty where the stack runs this file by this runtime.
        notes: What else a reader must know.
    """

    file: str
    runtime: str
    cpu: str
    emulator: str
    recorded: Distance
    reference: Distance
    verification: Verification
    memory_bytes: int
    network_bytes: int
    instructions: Instructions | None
    runner: SelfTest | None
    not_executed: str
    notes: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return self.verification.passed and (self.runner is None or self.runner.passed)

    def to_json(self) -> dict[str, Any]:
        counted = self.instructions
        return {
            "schema": "toolkit.emulation/1",
            "passed": self.passed,
            "file": self.file,
            "runtime": self.runtime,
            "cpu": self.cpu,
            "emulator": self.emulator,
            "samples": self.verification.samples,
            "floor_db": round(self.verification.floor_db, 2),
            "recorded": self.recorded.to_json(),
            "reference": self.reference.to_json(),
            "memory_bytes": self.memory_bytes,
            "network_bytes": self.network_bytes,
            "instructions": {"total": counted.total, **asdict(counted)} if counted else None,
            "runner": self.runner.to_json() if self.runner else None,
            "not_executed": self.not_executed,
            "notes": list(self.notes),
        }


def emulate_bundle(bundle: Bundle, tell: Tell = lambda step, done: None) -> Emulation:
    """Answer the golden inputs on the emulated core of the bundle's target, and compare.

    Raises:
        MissingDependency: the emulator or its root is not installed, or QEMU has no such core.
        InvalidInput: the bundle is damaged, or its artefact fails there.
    """
    stack = load_stack(bundle.manifest["stack"])
    core, cores = _emulable(stack, bundle)
    emulator = emulator_version(core)
    samples = bundle.golden
    tell(f"{bundle.artifact.file} on an emulated {core.name}", 0.2)
    file, made = emulated_answers(bundle, [golden.inputs for golden in samples])
    tell("the runner's self-test", 0.8)
    runner = self_test(bundle, core, cores)
    tell("comparing", 0.95)
    verification = judged(samples, made.answers)
    return Emulation(
        file=file,
        runtime=made.runtime,
        cpu=made.cpu,
        emulator=emulator,
        recorded=_distance([golden.outputs for golden in samples], made.answers),
        reference=_distance([golden.reference for golden in samples], made.answers),
        verification=verification,
        memory_bytes=made.memory_bytes,
        network_bytes=made.network_bytes,
        instructions=made.instructions,
        runner=runner,
        not_executed=_not_executed(stack, bundle, file, core),
        notes=tuple(_notes(bundle, made)),
    )


def emulated_answers(bundle: Bundle, samples: Sequence[Sample]) -> tuple[str, Emulated]:
    """The file that was run on the emulated core of the bundle's target, and what it answered to `samples`.

    Raises:
        MissingDependency: the emulator or its root is not installed, or QEMU has no such core.
        InvalidInput: a sample does not fit the signature, or the artefact fails there.
    """
    core, cores = _emulable(load_stack(bundle.manifest["stack"]), bundle)
    for sample in samples:
        bundle.signature.check_inputs(sample)
    return _run(bundle, samples, core, cores)


def runner_test(bundle: Bundle) -> SelfTest | None:
    """What the runner that the bundle ships says of the golden samples on that core; None where it ships none.

    Raises:
        MissingDependency: the emulator is not installed, or not what the runner's library needs there.
        InvalidInput: the runner fails.
    """
    core, cores = _core(load_stack(bundle.manifest["stack"]))
    return self_test(bundle, core, cores)


def _emulable(stack: Stack, bundle: Bundle) -> tuple[Core, int]:
    """The core, unless it computes these integers in another way than the stack's."""
    core, cores = _core(stack)
    if core.lacks and stack.precision == "int8" and bundle.artifact.format == "onnx":
        raise MissingDependency(
            f"{stack.id} multiplies integers with {core.lacks}, which QEMU does not have",
            hint="`toolkit verify` without --emulate runs it here; --numerics avx2 tells what it answers without",
        )
    return core, cores


def _core(stack: Stack) -> tuple[Core, int]:
    """The core of the target, or of the host that its accelerator is plugged into, and how many it has.

    Of a stack of programs, the one that they are compiled for: the profile's word, not the bundle's.
    """
    if stack.machine:
        return Core(name=stack.machine, machine=MACHINES[stack.machine]), 1
    target = load_target(stack.target)
    try:
        core = core_of(target)
    except MissingDependency:
        if not stack.host or stack.host.startswith(f"{stack.target}/"):
            raise
        return _core(load_stack(stack.host))
    return core, int(target.parameters.get("cores", target.parameters.get("cpu_cores", 1)))


def _run(bundle: Bundle, samples: Sequence[Sample], core: Core, cores: int) -> tuple[str, Emulated]:
    """The file that was run, and what came out."""
    artifact = bundle.path / bundle.artifact.file
    backend = BACKENDS[bundle.manifest["backend"]]
    if bundle.artifact.format == "executable":
        program = backend.load(artifact)
        assert isinstance(program, Built)
        return artifact.name, program_answers(replace(program, machine=core.machine), samples)
    if bundle.artifact.format == "tflite":
        return "model.tflite", _litert(artifact.with_name("model.tflite"), samples, core, cores)
    return artifact.name, answers_of("onnxruntime", artifact.read_bytes(), samples, core, cores)


def _litert(file: Path, samples: Sequence[Sample], core: Core, cores: int) -> Emulated:
    """LiteRT on the core takes what the file itself takes; its edges are the model's on this side."""
    from toolkit.backends.litert.runtime import Interpreter

    content = file.read_bytes()
    edges = Interpreter(content)
    given = [edges.given(sample) for sample in samples]
    made = answers_of("litert", content, [run for runs in given for run in runs], core, cores)
    raw = iter(made.answers)
    return replace(made, answers=[edges.taken([next(raw) for _ in runs]) for runs in given])


def _distance(wanted: Sequence[Mapping[str, Array]], given: Sequence[Mapping[str, Array]]) -> Distance:
    rows = []
    for name in wanted[0]:
        parts = [errors(want[name], have[name]) for want, have in zip(wanted, given, strict=True)]
        rows.append((sqnr_db(sum(p[0] for p in parts), sum(p[1] for p in parts)), max(p[2] for p in parts)))
    same = _same_classes(wanted, given)
    return Distance(
        sqnr_db=min(row[0] for row in rows),
        max_abs_error=max(row[1] for row in rows),
        classes=len(same),
        classes_agree=sum(same),
    )


def _same_classes(wanted: Sequence[Mapping[str, Array]], given: Sequence[Mapping[str, Array]]) -> list[bool]:
    """For each row whether the largest score is the same one; nothing where the outputs are no scores of classes."""
    name, *others = wanted[0]
    if others or wanted[0][name].ndim != 2 or wanted[0][name].shape[1] < 2:
        return []
    pairs = [(want[name].argmax(axis=1), have[name].argmax(axis=1)) for want, have in zip(wanted, given, strict=True)]
    return [bool(same) for want, have in pairs for same in want == have]


def _not_executed(stack: Stack, bundle: Bundle, file: str, core: Core) -> str:
    target = load_target(stack.target)
    if target.device_type != "cpu" and not stack.machine:
        part = {"gpu": "the GPU", "tpu": "the accelerator"}[target.device_type]
        cpu = core.machine.emulated_cpu
        return f"{part} of {target.title}: no emulator exists; {file} ran on an emulated {cpu} instead"
    if not stack.runtime.startswith(_EXECUTED[bundle.artifact.format]):
        step = f" (next: {bundle.artifact.remaining})" if bundle.artifact.remaining else ""
        return f"{stack.runtime} {stack.runtime_version}, the runtime of this stack{step}"
    return ""


def _notes(bundle: Bundle, made: Emulated) -> list[str]:
    notes = []
    if bundle.artifact.checked:
        notes.append(bundle.artifact.checked)
    name, _, version = made.runtime.rpartition(" ")
    recorded = bundle.manifest["versions"].get({"LiteRT": "ai-edge-litert"}.get(name, name))
    if recorded not in (None, version):
        notes.append(f"the answers recorded are of {name} {recorded}, those here of {version}")
    if made.instructions is None:
        notes.append("instructions were not counted: apt-get install qemu-user gcc (QEMU before 9)")
    return notes
