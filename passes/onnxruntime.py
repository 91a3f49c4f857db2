"""The one door to onnxruntime: telemetry off, errors turned into ours, sessions that run on one thread count.

onnxruntime 1.29 and later report usage from the Linux wheel unless ORT_DISABLE_TELEMETRY is set before the import.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from types import MappingProxyType
from typing import Any

from passes import webgpu
from passes.dataset import Array
from targets.errors import InvalidInput, MissingDependency, ToolkitError

__all__ = ["LONGEST_RUN_S", "PROVIDERS", "Session", "import_onnxruntime", "mapped_errors"]

LONGEST_RUN_S = 600.0
"""Seconds for one sample of a model with a loop, on this machine."""


PROVIDERS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "cpu": ("CPUExecutionProvider", "onnxruntime"),
        "cuda": ("CUDAExecutionProvider", "onnxruntime-gpu"),
        "tensorrt": ("TensorrtExecutionProvider", "onnxruntime-gpu"),
        "webgpu": ("WebGpuExecutionProvider", webgpu.DISTRIBUTION),
    }
)
"""What a graph can run on, by our name: onnxruntime's name, and the distribution that holds it."""


def import_onnxruntime() -> Any:
    """The onnxruntime module, with its telemetry switched off.

    Raises:
        MissingDependency: it is not installed.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependency(f"onnxruntime: {error}", hint="pip install onnxruntime") from error
    return onnxruntime


_INPUT_ERRORS = {"InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoSuchFile", "NoModel", "NotFound"}
_RUNTIME_ERRORS = {
    "DeviceReset", "EPFail", "EngineError", "Fail", "ModelLoadCanceled", "ModelLoaded", "ModelRequiresCompilation",
    "NotImplemented", "RuntimeException",
}  # fmt: skip

_PLAIN_ERRORS = (IndexError, MemoryError, RuntimeError, TypeError, ValueError)
"""What its C++ exceptions become: a type that numpy lacks, an allocation that failed, a size out of range."""

_UNKNOWN_OPERATOR = re.compile(r"([\w.:]+)\(-?\d+\) is not a registered function/op")


@contextmanager
def mapped_errors(doing: str) -> Iterator[None]:
    """Turn onnxruntime's exceptions into ours while `doing` something.

    Raises:
        InvalidInput: the model or its inputs are at fault.
        MissingDependency: this build of onnxruntime cannot run the model.
    """
    try:
        yield
    except ToolkitError:
        raise
    except Exception as error:
        name = type(error).__name__
        text = " ".join(str(error).split())[:300]
        if isinstance(error, _PLAIN_ERRORS):
            raise MissingDependency(
                f"onnxruntime cannot take this, {doing}: {text or name}",
                hint="use element types that numpy has, and sizes that fit this machine",
            ) from error
        if not type(error).__module__.startswith("onnxruntime"):
            raise
        if name in _INPUT_ERRORS or "Type Error" in text:
            raise InvalidInput(f"onnxruntime, {doing}: {text}", hint="check the file with `toolkit inspect`") from error
        if unknown := _UNKNOWN_OPERATOR.search(text):
            raise MissingDependency(
                f"onnxruntime does not know the operator {unknown[1]}",
                hint="write it with standard operators in the model, or give it a body in the file (an ONNX function)",
            ) from error
        if name in _RUNTIME_ERRORS:
            raise MissingDependency(
                f"onnxruntime cannot run this, {doing}: {text}",
                hint="replace the operator it names, or export the model with another opset",
            ) from error
        raise


class Session:
    """A loaded ONNX model: arrays in by name, arrays out by name.

    Args:
        model: The serialized ModelProto.
        optimize: Let onnxruntime rewrite the graph, as a device would; off to compare graphs as they stand.
        threads: Threads inside one operator.
        without: Names of onnxruntime's optimisers that are left out.
        provider: One of `PROVIDERS`; operators that it does not take run on the processor.

    Raises:
        MissingDependency: this onnxruntime does not have that provider, or it finds no device.
        InvalidInput: the model is at fault.
    """

    def __init__(
        self,
        model: bytes,
        *,
        optimize: bool = True,
        threads: int = 1,
        without: Sequence[str] = (),
        provider: str = "cpu",
    ) -> None:
        ort = import_onnxruntime()
        options = ort.SessionOptions()
        providers = _providers(provider, ort, options)
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # fatal only: everything else is raised, and said once
        options.use_deterministic_compute = True
        level = ort.GraphOptimizationLevel
        options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
        with mapped_errors("loading the model"), _device_there(provider):
            self._session = ort.InferenceSession(
                model, options, providers=providers, disabled_optimizers=list(without) or None, enable_fallback=0
            )
        self._may_loop = b"Loop" in model  # a timer costs a thread, which short runs would feel
        self.output_names = [o.name for o in self._session.get_outputs()]

    def inputs(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of each input; a dimension that varies counts one."""
        return {i.name: tuple(d if isinstance(d, int) else 1 for d in i.shape) for i in self._session.get_inputs()}

    def __call__(self, inputs: Mapping[str, Array], only: Sequence[str] | None = None) -> dict[str, Array]:
        """Every output, or those of `only`: nothing else is then computed."""
        if set(inputs) != set(wanted := [i.name for i in self._session.get_inputs()]):
            raise InvalidInput(
                f"the graph takes {', '.join(wanted)}; got {', '.join(sorted(inputs)) or 'nothing'}",
                hint="name the arrays as the graph names its inputs",
            )
        watched = _at_most(LONGEST_RUN_S) if self._may_loop else nullcontext()
        with mapped_errors("running the model"), watched as options:
            names = self.output_names if only is None else list(only)
            return dict(zip(names, self._session.run(names, dict(inputs), options), strict=True))


@contextmanager
def _device_there(provider: str) -> Iterator[None]:
    """Tell a device that is not there from a model that cannot be loaded."""
    try:
        yield
    except Exception as error:
        name = type(error).__name__
        if provider == "cpu" or not (isinstance(error, _PLAIN_ERRORS) or name in _RUNTIME_ERRORS):
            raise
        driver = f" ({webgpu.DRIVER})" if provider == "webgpu" else ""
        raise MissingDependency(
            f"{provider} cannot run this here: {webgpu.last_words(error)}",
            hint=f"install the driver of the device{driver}, or run on cpu",
        ) from error


def _providers(name: str, ort: Any, options: Any) -> list[str] | None:
    """What a session is to run on, by onnxruntime's names; None where `options` say it."""
    wanted, distribution = PROVIDERS[name]
    present = ort.get_available_providers()
    if wanted not in present and distribution == webgpu.DISTRIBUTION:
        options.add_provider_for_devices(webgpu.webgpu_devices(ort), {})
        return None
    if wanted not in present:
        have = ", ".join(ours for ours, (theirs, _) in PROVIDERS.items() if theirs in present)
        raise MissingDependency(
            f"this onnxruntime runs graphs on {have}, not on {name}",
            hint=f"pip uninstall onnxruntime, then pip install {distribution}: they cannot stand side by side",
        )
    return list(dict.fromkeys([wanted, PROVIDERS["cpu"][0]]))


@contextmanager
def _at_most(seconds: float) -> Iterator[Any]:
    """Options for one run that is stopped after `seconds`: a damaged loop may count to 2^63.

    Raises:
        InvalidInput: it was stopped.
    """
    options = import_onnxruntime().RunOptions()
    stopped = threading.Event()

    def stop() -> None:
        stopped.set()
        options.terminate = True

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    try:
        yield options
    except Exception as error:
        if not stopped.is_set():
            raise
        raise InvalidInput(
            f"the model gave no answer within {seconds:g} s",
            hint="check its loops with `toolkit inspect`, or state a smaller input with --input",
        ) from error
    finally:
        timer.cancel()
