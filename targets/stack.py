"""A stack: device and power mode, runtime and version, precision, threads. A latency belongs to a stack."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from targets.latency import LatencyFit
from targets.modes import Setting

__all__ = ["DTYPE_OF_PRECISION", "Power", "QuantFormat", "Stack"]

Precision = Literal["fp32", "fp16", "int8"]
DTYPE_OF_PRECISION: Mapping[str, str] = {"fp32": "float32", "fp16": "float16", "int8": "int8"}


@dataclass(frozen=True, kw_only=True)
class QuantFormat:
    """How a stack wants its integers: the numbers that QuantizeLinear will carry.

    `activation` is "uint8" or "int8"; weights are int8 and symmetric, per output channel or per tensor. `dynamic` is
    set where the runtime also multiplies integers whose scales are found at run time. Dense convolutions of fewer than
    `least_channels` input channels are faster in float there.
    """

    activation: Literal["uint8", "int8"]
    activation_symmetric: bool
    per_channel: bool = True
    dynamic: bool = False
    least_channels: int = 1


@dataclass(frozen=True, kw_only=True)
class Power:
    """Watts at the supply while the stack infers back to back, and while it waits."""

    active_w: float
    idle_w: float
    uncertainty: float  # relative half-width of active_w
    source: str


@dataclass(frozen=True, kw_only=True)
class Stack:
    """One way of running networks on a target. Units are SI.

    `measured_as` holds, verbatim, the columns of the published measurements that this stack stands for.
    `rules` names the operator rules of an accelerator that cannot run everything; `host` is then the stack that
    runs the rest. `float_stack` prices the operators that stay in float32 when the graph is of lower precision.
    `loads_float32` is set where the runtime converts a float32 file by itself; `batch` inferences are made at once,
    and every latency is then that of one of them. `winograd` and `multiprocessors` are those of
    targets.latency.Lowering. `sparsity` is the pattern of zeros in weights that it has faster kernels for; the latency
    model does not know them. `machine` is the processor that programs are compiled for, where the stack's artefact is
    one: see toolkit.backends.ahead_of_time. `parser` reads the artefact on the device: see targets.parser.
    `superseded_by` names the stack to take instead: a newer version, or more threads. `setting` says how the stack was
    scaled (targets.scaling).
    `own_calibration` says what became of a calibration by the user: "used", or "outdated" and left aside.
    """

    name: str
    target: str
    runtime: str
    runtime_version: str
    precision: Precision
    artifact: Literal["onnx", "tflite", "executable"]
    backend: str
    opset: int
    latency: LatencyFit
    power: Power
    runtime_bytes: int
    threads: int | None = None
    power_mode: str = ""
    fuses: frozenset[str] = frozenset()
    quantization: QuantFormat | None = None
    rules: str = ""
    host: str = ""
    float_stack: str = ""
    parameter_cache_bytes: int = 0
    link_bytes_s: float = 0.0
    device_instance: str = ""
    batch: int = 1
    winograd: bool = False
    multiprocessors: int = 0
    loads_float32: bool = False
    sparsity: Literal["", "2:4"] = ""
    next_step: str = ""
    machine: str = ""
    superseded_by: str = ""
    parser: str = ""
    measured_as: Mapping[str, str] = field(default_factory=dict)
    own_calibration: Literal["", "used", "outdated"] = ""
    setting: Setting = field(default_factory=Setting)

    @property
    def id(self) -> str:
        """`target/stack`: the name a user types after --stack, with or without the target."""
        return f"{self.target}/{self.name}"

    @property
    def dtype(self) -> str:
        """The numpy name of the element type that this stack computes in."""
        return DTYPE_OF_PRECISION[self.precision]

    @property
    def provenance(self) -> str:
        """Where a latency of this stack comes from, in one line."""
        text = self.latency.provenance if self.latency.calibrated else f"uncalibrated: {self.latency.provenance}"
        if self.machine:
            text += "; its loops follow rules and are not tuned on the device: no measure of what the device can do"
        if self.own_calibration == "used":
            return f"your own calibration: {text}"
        if self.own_calibration == "outdated":
            return f"{text}; your own calibration is of another version of the latency model and is not used: repeat it"
        return text

    def describe(self) -> str:
        """Runtime, version, precision and threads in one short phrase; the power mode where it was asked for."""
        threads = f", {self.threads} thread{'s' if self.threads != 1 else ''}" if self.threads else ""
        batch = f", batch {self.batch}" if self.batch > 1 else ""
        device = f"{self.device_instance}, " if self.device_instance else ""
        mode = f", {self.power_mode}" if self.setting.mode else ""
        hot = ", lasting load" if self.setting.sustained else ""
        return f"{device}{self.runtime} {self.runtime_version}, {self.precision}{threads}{batch}{mode}{hot}"

    def digest(self) -> str:
        """SHA-256 of everything that decides a compile or an estimate for this stack."""
        text = json.dumps(_plain(asdict(self)), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value
