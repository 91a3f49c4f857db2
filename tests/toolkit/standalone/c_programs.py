"""What the tests of the C runner share: programs compiled with sanitizers, and small bundles made by hand."""

from __future__ import annotations

import io
import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import onnx
import onnx.helper as oh
import onnxruntime

from passes.dataset import Array
from passes.onnxruntime import Session
from toolkit.bundle.golden import write_golden
from toolkit.bundle.hashes import hashes_of
from toolkit.bundle.layout import MANIFEST
from toolkit.runner.__main__ import main

SOURCES = Path(str(files("toolkit.standalone") / "c_runner"))
ENVIRONMENT = {
    "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",  # memory is the process's, and that is the plan
    "LANG": "C.UTF-8",
}
_STRICT = ("-std=c11", "-D_GNU_SOURCE", "-O1", "-g", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Wpedantic")
_SANITIZERS = ("-Werror", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


@dataclass(frozen=True)
class Ended:
    """Exit code, standard output and standard error of a program."""

    code: int
    out: str
    err: str


def sanitized(program: Path, *, without: str = "", beside: Sequence[Path] = ()) -> Path:
    """The runner's sources, and those `beside` them, compiled with the compiler's checks of memory and arithmetic."""
    sources = [str(path) for path in sorted(SOURCES.glob("*.c")) if path.name != without]
    words = [
        "gcc",
        *_STRICT,
        *_SANITIZERS,
        f"-I{SOURCES}",
        *sources,
        *map(str, beside),
        "-o",
        str(program),
        "-ldl",
        "-lm",
    ]
    subprocess.run(words, check=True)
    return program


def with_library(program: Path) -> Path:
    """`program` with this environment's onnxruntime beside it."""
    library = next((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"))
    (program.parent / "libonnxruntime.so").symlink_to(library)
    return program


def ran(program: Path, *words: str | Path, before: Sequence[str] = ()) -> Ended:
    """What the program says when it is given `words`, in an environment without anything of this one's."""
    command = [*before, str(program), *map(str, words)]
    done = subprocess.run(command, capture_output=True, check=False, env=ENVIRONMENT, timeout=300)
    return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())


def model_of(
    node: str | Sequence[onnx.NodeProto],
    inputs: Mapping[str, tuple[str, Sequence[int | str]]],
    outputs: Mapping[str, tuple[str, Sequence[int | str]]],
) -> bytes:
    """A network of these nodes, or of one that takes all inputs and gives all outputs."""
    nodes = [oh.make_node(node, list(inputs), list(outputs))] if isinstance(node, str) else list(node)
    graph = oh.make_graph(nodes, "g", *([_value(*item) for item in part.items()] for part in (inputs, outputs)))
    return oh.make_model(graph, opset_imports=[oh.make_opsetid("", 17)], ir_version=8).SerializeToString()


def _value(name: str, spec: tuple[str, Sequence[int | str]]) -> onnx.ValueInfoProto:
    return oh.make_tensor_value_info(name, oh.np_dtype_to_tensor_dtype(np.dtype(spec[0])), list(spec[1]))


def bundle_of(
    folder: Path,
    model: bytes,
    samples: Sequence[Mapping[str, Array]],
    *,
    preprocessing: str = "",
    answered: Callable[[Mapping[str, Array]], Mapping[str, Array]] | None = None,
) -> Path:
    """A bundle with what runners read of one. `answered`: what golden.npz says of it."""
    session = Session(model)
    folder.mkdir()
    (folder / "model.onnx").write_bytes(model)
    write_golden(folder / "golden.npz", [dict(s) for s in samples], answered or session, answered or session)
    graph = onnx.load_from_string(model).graph
    write_manifest(
        folder,
        {
            "schema": "toolkit.bundle/1",
            "name": "small",
            "target": "desktop_cpu",
            "stack": "desktop_cpu/onnxruntime-int8",
            "artifact": {"file": "model.onnx"},
            "model": {"preprocessing": preprocessing},
            "signature": {"inputs": [_spec(v) for v in graph.input], "outputs": [_spec(v) for v in graph.output]},
        },
    )
    return folder


def write_manifest(folder: Path, facts: Mapping[str, object]) -> None:
    """manifest.json with the hashes of what lies there now."""
    (folder / MANIFEST).write_text(json.dumps({**facts, "sha256": hashes_of(folder)}, indent=1, ensure_ascii=False))


def read_manifest(folder: Path) -> dict[str, object]:
    manifest: dict[str, object] = json.loads((folder / MANIFEST).read_text("utf-8"))
    return manifest


def _spec(value: onnx.ValueInfoProto) -> dict[str, object]:
    tensor = value.type.tensor_type
    dtype = oh.tensor_dtype_to_np_dtype(tensor.elem_type).name
    return {"name": value.name, "dtype": dtype, "shape": [d.dim_param or d.dim_value for d in tensor.shape.dim]}


def run_by_python(*words: str | Path) -> Ended:
    """What the runner in Python says."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([str(word) for word in words])
    return Ended(code, out.getvalue(), err.getvalue())
