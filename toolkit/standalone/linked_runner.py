"""The runner of a network that needs no runtime: the C runner's command line, and the network, in one static file."""

from __future__ import annotations

import json
import tempfile
from hashlib import sha256
from pathlib import Path

from passes.program import Program
from toolkit.backends.ahead_of_time.building import link
from toolkit.backends.ahead_of_time.compiling import write_linkable
from toolkit.backends.ahead_of_time.machines import Machine
from toolkit.standalone.c_runner import PROGRAM, SESSION, linked_session, sources

__all__ = ["linked_runner"]

_NETWORK = "network"
_FLAGS = ("-std=c11", "-D_GNU_SOURCE", "-I.", f"-I{_NETWORK}")


def linked_runner(program: Program, machine: Machine, folder: Path, *, runtime: str) -> Path:
    """Put the runner for cores of `machine` into `folder`, which is made where it is not there.

    Args:
        runtime: What rows of measurements say that the network ran in.

    Raises:
        InvalidInput: sizes vary, or TVM lacks an operator.
        MissingDependency: TVM or a compiler is not installed.
        ToolkitError: the compiler refuses.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="toolkit-runner-") as name:
        scratch = Path(name)
        (scratch / _NETWORK).mkdir()
        _, network = write_linkable(program, machine, scratch / _NETWORK, command=False)
        ours = sources() | {SESSION: linked_session(), "linked.h": _facts(program, runtime)}
        for file, text in ours.items():
            (scratch / file).write_bytes(text)
        given = [*sorted(file for file in ours if file.endswith(".c")), *(f"{_NETWORK}/{file}" for file in network)]
        made = link(scratch, given, machine, PROGRAM, flags=_FLAGS)
        (folder / PROGRAM).write_bytes(made.read_bytes())
    (folder / PROGRAM).chmod(0o755)
    return folder / PROGRAM


def _facts(program: Program, runtime: str) -> bytes:
    """What the runner is told of the network that is linked to it."""
    digest = sha256(program.onnx_bytes).hexdigest()
    return f'#define LINKED_RUNTIME {json.dumps(runtime)}\n#define LINKED_GRAPH_SHA256 "{digest}"\n'.encode()
