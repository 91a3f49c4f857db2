"""Answer samples on an emulated core, and say what that took: memory and, where QEMU can count, instructions."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from passes.dataset import Array, Sample
from targets.errors import InvalidInput, MissingDependency
from toolkit.backends.ahead_of_time.counting import Counter, Instructions, counter
from toolkit.backends.ahead_of_time.executing import command
from toolkit.emulator.board import board
from toolkit.emulator.cores import Core
from toolkit.emulator.resident import resident_bytes
from toolkit.emulator.root import Root, installed_root

__all__ = ["Emulated", "answers_of", "emulator_version"]

_LONGEST_S = 1800.0
_GETPPID = {"aarch64": 173, "x86_64": 110}
"""Numbers of the system call that the guest marks an inference with. Source: Linux, unistd.h of each architecture."""


@dataclass(frozen=True, kw_only=True)
class Emulated:
    """What came out of one run on the emulated core.

    Args:
        answers: One mapping a sample, by output name, as the file itself gives them.
        runtime, cpu: What computed, by name and version, and on which core of QEMU's.
        memory_bytes: The most that the guest held in memory, without the emulator.
        network_bytes: How much of that came with the network.
        instructions: Of one inference after the first; None where QEMU cannot count here.
    """

    answers: Sequence[Mapping[str, Array]]
    runtime: str
    cpu: str
    memory_bytes: int
    network_bytes: int
    instructions: Instructions | None


def answers_of(
    runtime: str, model: bytes, samples: Sequence[Sample], core: Core, cores: int, *, root: Root | None = None
) -> Emulated:
    """Answers of `runtime` ("onnxruntime" or "litert") to `samples` from the file `model`, on one emulated core.

    Args:
        cores: How many the board shows; one computes.
        root: Where Python and the runtimes are, when it is being made; the installed one where it is left out.

    Raises:
        MissingDependency: there is no emulator, or no root.
        InvalidInput: the runtime refused the file or the samples, or used an instruction that the core lacks.
    """
    command(core.machine, emulate=True)
    with _python(core, cores, root) as (python, options, environment), tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        asked = _written(folder, runtime, model, samples)
        with _counting(core) as counting:
            before = counting.before if counting else command(core.machine, emulate=True)
            words = [*before, *options, str(python), str(folder / "guest.py"), str(asked)]
            said, memory = _conversation(words, {**environment, "HOME": name, "TMPDIR": name}, folder, core)
            counted = counting.read() if counting else None
        with np.load(folder / "answers.npz", allow_pickle=False) as stored:
            answers = [_part(stored, f"{i}/") for i in range(len(samples))]
    return Emulated(
        answers=answers,
        runtime=said[0]["ready"],
        cpu=core.machine.emulated_cpu,
        memory_bytes=memory[1],
        network_bytes=max(0, memory[1] - memory[0]),
        instructions=counted[-2] - counted[-3] if counted else None,
    )


def emulator_version(core: Core) -> str:
    """qemu-aarch64 version 7.2.22 and so on, in the words of the emulator.

    Raises:
        MissingDependency: there is none.
    """
    program = command(core.machine, emulate=True)[0]
    told = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    return told.splitlines()[0].partition(" (")[0] if told else program


@contextmanager
def _python(core: Core, cores: int, root: Root | None) -> Iterator[tuple[Path, list[str], dict[str, str]]]:
    """An interpreter of the core's architecture, options for QEMU, and its environment."""
    environment = {
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "ORT_DISABLE_TELEMETRY": "1",
        "PYTHONDONTWRITEBYTECODE": "" if root else "1",  # a root in the making keeps what Python compiles
        "PYTHONHASHSEED": "0",  # equal runs take equal numbers of instructions
        "PYTHONNOUSERSITE": "1",
    }
    if core.machine.architecture == os.uname().machine == "x86_64" and not getattr(sys, "frozen", False):
        yield Path(sys.executable), [], environment
        return
    if core.machine.architecture != "aarch64":
        raise MissingDependency(
            f"no Python for {core.machine.architecture} can be installed here",
            hint="choose a stack that makes a program, or another target",
        )
    root = root or installed_root()
    with board(root.system, core, cores) as prefix:
        yield root.python, ["-L", str(prefix)], {**environment, "PYTHONPATH": str(root.site)}


@contextmanager
def _counting(core: Core) -> Iterator[Counter | None]:
    """A counter of instructions, or None where something for it is missing."""
    with ExitStack() as stack:
        try:
            counting = stack.enter_context(counter(core.machine, mark=_GETPPID[core.machine.architecture]))
        except MissingDependency:
            counting = None  # the answers are what matters; the notes say that nothing was counted
        yield counting


def _written(folder: Path, runtime: str, model: bytes, samples: Sequence[Sample]) -> Path:
    (folder / "guest.py").write_bytes((files(__package__) / "guest.py").read_bytes())
    (folder / "model").write_bytes(model)
    given = {f"{i}/{name}": array for i, sample in enumerate(samples) for name, array in sample.items()}
    np.savez(folder / "given.npz", **given)  # type: ignore[arg-type]
    paths = {key: str(folder / name) for key, name in _FILES.items()}
    asked = folder / "asked.json"
    asked.write_text(json.dumps({"runtime": runtime, "samples": len(samples), **paths}))
    return asked


_FILES = {"model": "model", "given": "given.npz", "answers": "answers.npz"}


def _part(stored: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    return {key.removeprefix(prefix): stored[key] for key in stored if key.startswith(prefix)}


# ---- talking with the guest


def _conversation(
    words: Sequence[str], environment: Mapping[str, str], folder: Path, core: Core
) -> tuple[list[dict[str, Any]], list[int]]:
    """What the guest said, line by line, and its resident bytes at each line, when it waits."""
    said: list[dict[str, Any]] = []
    memory: list[int] = []
    with (folder / "errors.txt").open("w+b") as errors:
        process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=dict(environment), cwd=folder
        )
        with process, _stopped_after(process, _LONGEST_S) as late:
            assert process.stdout is not None
            for line in process.stdout:
                said.append(_line(line))
                if "failed" in said[-1]:
                    break
                memory.append(resident_bytes(process.pid))
                _go_on(process)
        errors.seek(0)
        _check(process.returncode, said, late(), errors.read().decode("utf-8", "replace"), core)
    return said, memory


def _go_on(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write(b"\n")
        process.stdin.flush()
    except BrokenPipeError:
        return  # it was stopped; its exit status says by what


@contextmanager
def _stopped_after(process: subprocess.Popen[bytes], seconds: float) -> Iterator[Callable[[], bool]]:
    """Stops the process after that time, and at the latest when the block ends early. Gives: was it late?"""
    late = threading.Event()

    def stop() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    try:
        yield late.is_set
    except BaseException:
        process.kill()
        raise
    finally:
        timer.cancel()


def _line(text: bytes) -> dict[str, Any]:
    try:
        said = json.loads(text)
    except ValueError:
        said = None
    return said if isinstance(said, dict) else {"failed": text.decode("utf-8", "replace").strip()[:300]}


def _check(status: int, said: Sequence[Mapping[str, Any]], late: bool, errors: str, core: Core) -> None:
    cpu = core.machine.emulated_cpu
    failed = next((str(line["failed"]) for line in said if "failed" in line), "")
    if failed:
        raise InvalidInput(
            f"on the emulated {cpu}: {' '.join(failed.split())[:300]}", hint="compile the model again for this target"
        )
    if late:
        raise InvalidInput(f"the emulated {cpu} took more than {_LONGEST_S:.0f} s", hint="give it a smaller network")
    if status in (-signal.SIGILL, 128 + signal.SIGILL):
        raise InvalidInput(
            f"the runtime used an instruction that {cpu} does not have", hint="install a newer QEMU, or report this"
        )
    if status or [*said][-1:] == [] or "answered" not in said[-1]:
        last = next((line for line in reversed(errors.splitlines()) if line.strip()), "no word")
        raise InvalidInput(
            f"the guest on the emulated {cpu} ended with {status}: {last[:300]}",
            hint="toolkit doctor --install-emulator  (it looks whether the root is whole, and makes it again)",
        )
