"""Run a .tflite here, with LiteRT, under the signature of the model that it was written from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import numpy as np

from passes.dataset import Array, Sample
from passes.quiet import silent_output
from targets.errors import InvalidInput, MissingDependency
from toolkit.backends.litert.writing import EDGES_KEY, SIGNATURE_KEY

__all__ = ["Interpreter", "has_runtime", "runtime_version"]


def has_runtime() -> bool:
    """Whether the extra `litert` is installed."""
    return find_spec("ai_edge_litert") is not None


class Interpreter:
    """A loaded .tflite: arrays in by name, arrays out by name, as the model's signature has them.

    Args:
        content: The file.
        threads: Threads inside one operator.
        xnnpack: Let XNNPACK compute what it can, as LiteRT does by itself; off for LiteRT's own kernels.

    Raises:
        MissingDependency: the extra `litert` is not installed.
        InvalidInput: the file is damaged.
    """

    def __init__(self, content: bytes, *, threads: int = 1, xnnpack: bool = True) -> None:
        library = _library()
        kinds = library.OpResolverType
        try:
            with silent_output(2):  # it tells of its delegates
                self._interpreter = library.Interpreter(
                    model_content=content,
                    num_threads=threads,
                    experimental_op_resolver_type=kinds.BUILTIN if xnnpack else kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
                )
                self._interpreter.allocate_tensors()
                self._runner = self._interpreter.get_signature_runner(SIGNATURE_KEY)
        except (ValueError, RuntimeError) as error:
            text = " ".join(str(error).split())[:300]
            raise InvalidInput(f"LiteRT cannot load this: {text}", hint="compile again") from error
        self._edges = _edges(content)
        self._inputs: Mapping[str, Any] = self._runner.get_input_details()
        self._outputs: Mapping[str, Any] = self._runner.get_output_details()

    def __call__(self, inputs: Sample) -> dict[str, Array]:
        """Every output. Where the batch varies, its samples are taken one after the other."""
        return self.taken([self._runner(**given) for given in self.given(inputs)])

    def given(self, inputs: Sample) -> list[dict[str, Array]]:
        """What the file itself takes for `inputs`, one mapping for each time that it is run."""
        rows = [inputs]
        if self._edges["by_sample"]:
            count = len(next(iter(inputs.values())))
            rows = [{name: array[i : i + 1] for name, array in inputs.items()} for i in range(count)]
        return [{name: self._given(name, row[name]) for name in self._inputs} for row in rows]

    def taken(self, answers: Sequence[Sample]) -> dict[str, Array]:
        """The outputs from what the file itself gave, each time that it was run."""
        rows = [{name: self._taken(name, row[name]) for name in self._outputs} for row in answers]
        return {name: np.concatenate([row[name] for row in rows]) for name in self._outputs} if rows[1:] else rows[0]

    def _given(self, name: str, array: Array) -> Array:
        if array.dtype == np.float16:
            array = array.astype(np.float32)
        detail = self._inputs[name]
        if detail["dtype"] == np.int8 and array.dtype == np.float32:
            scale, zero = detail["quantization"]
            array = np.clip(np.rint(array / np.float32(scale)) + zero, -128, 127).astype(np.int8)
        order = self._edges["orders"].get(name)
        if order is not None:
            array = array.transpose(order)
        if array.shape != tuple(detail["shape"]):
            raise InvalidInput(
                f"this .tflite takes {name} in one size, {list(detail['shape'])}; got {list(array.shape)}",
                hint="compile again with the size that you need: --input",
            )
        return np.ascontiguousarray(array)

    def _taken(self, name: str, array: Array) -> Array:
        order = self._edges["orders"].get(name)
        if order is not None:
            array = array.transpose(np.argsort(order))
        wanted = self._edges["types"][name]
        if array.dtype == np.int8 and wanted.startswith("float"):
            scale, zero = self._outputs[name]["quantization"]
            array = (array.astype(np.int32) - zero).astype(np.float32) * np.float32(scale)
        return np.ascontiguousarray(array).astype(wanted, copy=False)


def runtime_version() -> str:
    """Of LiteRT.

    Raises:
        MissingDependency: the extra `litert` is not installed.
    """
    _library()
    return version("ai-edge-litert")


def _library() -> Any:
    try:
        from ai_edge_litert import interpreter
    except ImportError as error:
        raise MissingDependency(
            "a .tflite runs in LiteRT, which is not installed here",
            hint="pip install 'edge-toolkit[litert]', or choose a stack that runs ONNX",
        ) from error
    return interpreter


def _edges(content: bytes) -> Mapping[str, Any]:
    """What the writer says of the file's inputs and outputs.

    Raises:
        InvalidInput: it was not written by this toolkit.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(content, 0)
    entries = [model.Metadata(i) for i in range(model.MetadataLength())]
    for entry in entries:
        if entry.Name().decode() == EDGES_KEY:
            edges: Mapping[str, Any] = json.loads(bytes(model.Buffers(entry.Buffer()).DataAsNumpy()))
            return edges
    raise InvalidInput("the .tflite does not say what it was written from", hint="compile again")
