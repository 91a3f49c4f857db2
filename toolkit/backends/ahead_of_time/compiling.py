"""The road of this backend: prepare the graph, lower it, compile its kernels, plan its memory, write C, link."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from passes.dataset import Array, Sample
from passes.program import Program
from targets.errors import InvalidInput
from toolkit.backends.ahead_of_time.building import link
from toolkit.backends.ahead_of_time.emitter import kernel_source, makefile, our_sources, sources
from toolkit.backends.ahead_of_time.executing import execute
from toolkit.backends.ahead_of_time.machines import Machine
from toolkit.backends.ahead_of_time.networks import network_of
from toolkit.backends.ahead_of_time.plan import Memory, Plan, planned
from toolkit.backends.ahead_of_time.trace import Tensor

__all__ = ["Built", "compile_executable", "compile_source", "write_linkable"]


@dataclass(frozen=True, kw_only=True)
class Built:
    """A static executable for `machine` that maps samples on standard input to answers on standard output.

    Its kernels have TVM's default schedules: the answers and the memory are those of the device, the time is not.
    """

    path: Path
    machine: Machine
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    memory: Memory

    def __call__(self, inputs: Sample, *, emulate: bool = False) -> dict[str, Array]:
        """The answers to one sample, from this machine's processor where it can, else from QEMU's."""
        return self.many([inputs], emulate=emulate)[0]

    def many(self, samples: list[Sample], *, emulate: bool = False) -> list[dict[str, Array]]:
        """The answers to each sample, from one run of the program.

        Raises:
            InvalidInput: a sample has another type or shape, or the program failed.
            MissingDependency: there is no emulator for the machine.
        """
        given = b"".join(map(self.packed, samples))
        said = execute(self.path, self.machine, given, emulate=emulate)
        size = sum(t.bytes for t in self.outputs)
        assert len(said) == size * len(samples)
        return [_unpacked(self.outputs, said[i : i + size]) for i in range(0, len(said), size)]

    def packed(self, sample: Sample) -> bytes:
        """The sample as the program reads it.

        Raises:
            InvalidInput: it has another type or shape.
        """
        return _packed(self.inputs, sample)


def compile_executable(program: Program, machine: Machine, path: Path) -> Built:
    """Write the network as a static executable of `machine`.

    Raises:
        InvalidInput: sizes vary, or TVM lacks an operator.
        MissingDependency: TVM or a C compiler for the machine is not installed.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plan, given = write_linkable(program, machine, folder)
        made = link(folder, given, machine, "program")
        path.write_bytes(made.read_bytes())
    path.chmod(0o755)
    return Built(
        path=path,
        machine=machine,
        inputs=_named(program, plan),
        outputs=plan.trace.outputs,
        memory=plan.memory,
    )


def write_linkable(program: Program, machine: Machine, folder: Path, *, command: bool = True) -> tuple[Plan, list[str]]:
    """Write the network as C and objects of `machine` into `folder`; the plan, and what the compiler is to be given.

    Args:
        command: With the file that makes a command of it, which whoever has a `main` of their own leaves out.

    Raises:
        InvalidInput: sizes vary, or TVM lacks an operator.
        MissingDependency: TVM is not installed.
    """
    compiled = network_of(program).compiled(machine)
    plan = planned(compiled.trace)
    theirs = {"kernels.o": compiled.code} if compiled.code else {}
    _write(folder, sources(plan, program.name) | theirs)
    return plan, [*our_sources(plan.trace, command=command), "weights.S", *theirs]


def compile_source(program: Program, folder: Path) -> Memory:
    """Write the network as C99 with a Makefile into `folder`: `make`, or add the files to a project of your own.

    Raises:
        InvalidInput: sizes vary, or TVM lacks an operator.
        MissingDependency: TVM is not installed.
    """
    compiled = network_of(program).written()
    plan = planned(compiled.trace)
    folder.mkdir(parents=True, exist_ok=True)
    theirs = {"kernels.c": kernel_source(compiled.code)} if compiled.code else {}
    _write(folder, sources(plan, program.name) | theirs | {"Makefile": makefile(plan.trace)})
    return plan.memory


def _named(program: Program, plan: Plan) -> tuple[Tensor, ...]:
    """The inputs of the plan under the names of the signature."""
    specs = program.signature.inputs
    return tuple(Tensor(s.name, t.dtype, t.shape) for s, t in zip(specs, plan.trace.inputs, strict=True))


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).write_bytes(content)


def _packed(tensors: tuple[Tensor, ...], sample: Sample) -> bytes:
    for tensor in tensors:
        array = sample.get(tensor.name)
        if array is None or array.dtype.name != tensor.dtype or array.shape != tensor.shape:
            have = "nothing" if array is None else f"{array.dtype.name}{list(array.shape)}"
            raise InvalidInput(
                f"{tensor.name} wants {tensor.dtype}{list(tensor.shape)}, got {have}",
                hint="`toolkit inspect` of the model lists its inputs",
            )
    return b"".join(np.ascontiguousarray(sample[t.name]).tobytes() for t in tensors)


def _unpacked(tensors: tuple[Tensor, ...], said: bytes) -> dict[str, Array]:
    answers: dict[str, Array] = {}
    offset = 0
    for tensor in tensors:
        part = said[offset : offset + tensor.bytes]
        answers[tensor.name] = np.frombuffer(part, tensor.dtype).reshape(tensor.shape)
        offset += tensor.bytes
    return answers
