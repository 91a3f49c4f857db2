"""The one door to TVM: an ONNX graph in, the calls it makes and their compiled kernels out. Its Python API moves.

Kernels are compiled as plain C functions of pointers. TVM's own convention packs every argument into a tagged union
and checks it at run time, for which a program would need TVM's runtime; here shapes are static and the caller is ours.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from passes.dataset import Array
from passes.quiet import quiet_libraries
from targets.errors import InvalidInput, MissingDependency, ToolkitError
from toolkit.backends.ahead_of_time.c_numbers import with_exact_numbers
from toolkit.backends.ahead_of_time.machines import Machine, Vectors
from toolkit.backends.ahead_of_time.schedules import scheduled
from toolkit.backends.ahead_of_time.trace import Call, Kernel, Tensor, Trace

__all__ = ["Compiled", "compiled_object", "compiled_source", "lowered", "unsupported"]

_ALLOCATE = "tirx.TVMBackendAllocWorkspace"
_PACKED = {"tirx.tvm_call_packed", "tirx.tvm_call_cpacked", "tirx.tvm_call_packed_lowered"}
_ALIGNMENT = 64
_PREFIX = "kernel_"


@dataclass(frozen=True)
class Lowered:
    """A graph as TVM holds it: its main function, and kernels that are not compiled yet."""

    module: Any


@dataclass(frozen=True, eq=False)
class Compiled:
    """What the network does, and its kernels: an object file, or C."""

    trace: Trace
    code: bytes


def unsupported(model: Any) -> list[tuple[str, str]]:
    """Nodes of an ONNX ModelProto that TVM's frontend has no converter for, as (operator, name)."""
    _import()
    from tvm.relax.frontend.onnx import onnx_frontend

    known = {"Constant", "If", *onnx_frontend._get_convert_map()}
    return [(n.op_type, n.name) for n in model.graph.node if n.op_type not in known or n.domain not in ("", "ai.onnx")]


def lowered(model: Any) -> Lowered:
    """A ModelProto of static shapes as one function that calls kernels on buffers.

    Raises:
        InvalidInput: TVM does not take the graph.
        MissingDependency: TVM is not installed.
    """
    tvm = _import()
    from tvm.relax import transform
    from tvm.relax.backend import DispatchSortScan
    from tvm.relax.frontend.onnx import from_onnx

    steps = [
        DispatchSortScan(),
        transform.DecomposeOpsForInference(),
        transform.CanonicalizeBindings(),
        transform.FoldConstant(),
        transform.LegalizeOps(),
        transform.FoldConstant(),
        transform.AnnotateTIROpPattern(),
        transform.FuseOps(),
        transform.FuseTIR(),
        transform.DeadCodeElimination(),
        transform.RewriteDataflowReshape(),
        transform.ToNonDataflow(),
        transform.RemovePurityChecking(),
        transform.CallTIRRewrite(),
    ]
    with _mapped("reading the graph"), tvm.target.Target("llvm"):
        return Lowered(tvm.transform.Sequential(steps)(from_onnx(model)))


def compiled_object(network: Lowered, machine: Machine, outputs: tuple[Tensor, ...]) -> Compiled:
    """The kernels as an object file of `machine`, through LLVM."""
    wanted: dict[str, Any] = {"kind": "llvm", "mtriple": machine.triple, "mcpu": machine.cpu}
    if machine.features:
        wanted["mattr"] = list(machine.features)
    if machine.float_abi:
        wanted["mfloat-abi"] = machine.float_abi
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernels.o"
        with _mapped(f"compiling for {machine.name}"):
            module, kernels = _finished(network, wanted, machine.vectors)
            _built(module, wanted).write_to_file(str(path), "o")
        return Compiled(_trace(network, kernels, outputs), path.read_bytes())


def compiled_source(network: Lowered, outputs: tuple[Tensor, ...]) -> Compiled:
    """The kernels as C99, which needs math.h and the functions of `support.h`."""
    with _mapped("writing C"):
        wanted = {"kind": "c"}
        module, kernels = _finished(network, wanted, Vectors(1))
        code = str(_built(module, wanted).inspect_source())
    return Compiled(_trace(network, kernels, outputs), with_exact_numbers(code, _numbers(module)).encode())


def _import() -> Any:
    try:
        with quiet_libraries():
            import tvm
    except ImportError as error:
        raise MissingDependency(
            f"TVM: {error}", hint="pip install 'apache-tvm==0.27.0.post1' 'apache-tvm-ffi>=0.1.14.post0,<0.1.15'"
        ) from error
    return tvm


@contextmanager
def _mapped(doing: str) -> Iterator[None]:
    """Turn whatever TVM raises into ours: it raises Python's own classes as well as a family of its own."""
    try:
        with quiet_libraries():
            yield
    except ToolkitError:
        raise
    except Exception as error:
        lines = [line for line in str(error).strip().splitlines() if line.strip()]
        raise InvalidInput(
            f"TVM, {doing}: {lines[-1].strip()[:300] if lines else type(error).__name__}",
            hint="compile for a stack with another runtime, or replace the operator it names",
        ) from error


# Kernels


def _finished(network: Lowered, wanted: Mapping[str, Any], vectors: Vectors) -> tuple[Any, dict[str, Kernel]]:
    """The kernels as code generation takes them, and what they are called with."""
    import tvm
    from tvm import tirx

    target = tvm.target.Target(dict(wanted))
    plain = {
        _PREFIX + v.name_hint: _of_pointers(scheduled(f, vectors))
        for v, f in network.module.functions.items()
        if _is_kernel(f)
    }
    module = tirx.transform.BindTarget(target.with_host(target))(tvm.IRModule(plain))
    lower, finish, _ = tirx.get_default_tir_pipeline(target)
    module = lower(module)
    _refuse_runtime(module)
    public = {v.name_hint: _public(f, v.name_hint) for v, f in module.functions.items()}
    module = finish()(tvm.IRModule(public))
    kernels = {
        v.name_hint: Kernel(v.name_hint, _parameters(plain[v.name_hint]), _scratch_bytes(f))
        for v, f in module.functions.items()
        if v.name_hint in plain
    }
    return module, kernels


def _built(module: Any, wanted: Mapping[str, Any]) -> Any:
    """TVM's module of machine code or C."""
    import tvm

    target = tvm.target.Target(dict(wanted))
    return tvm.get_global_func(f"target.build.{target.kind.name}")(module, target)


def _numbers(module: Any) -> list[tuple[str, float]]:
    """Every floating-point constant inside the kernels, as (numpy's name of its type, value)."""
    import tvm_ffi
    from tvm import tirx

    found: list[tuple[str, float]] = []

    def visit(number: Any) -> None:
        found.append((str(number.ty.dtype), float(number.value)))

    for function in module.functions.values():
        tvm_ffi.structural_walk(function.body, (tirx.FloatImm, visit), order="post")
    return found


def _refuse_runtime(module: Any) -> None:
    """A kernel may call functions that TVM's runtime looks up by name, sorting above all: no one is there to answer.

    Raises:
        InvalidInput: one does.
    """
    import tvm
    import tvm_ffi

    asked: set[str] = set()

    def visit(call: Any) -> None:
        if _operator(call) in _PACKED:
            asked.add(str(getattr(call.args[0], "value", call.args[0])))

    for function in module.functions.values():
        tvm_ffi.structural_walk(function.body, (tvm.ir.Call, visit), order="post")
    if asked:
        raise InvalidInput(
            f"TVM's runtime would have to compute {', '.join(sorted(asked))}, which a program does not have",
            hint="leave sorting and top-k to the code after the model, or compile for a stack with another runtime",
        )


def _is_kernel(function: Any) -> bool:
    from tvm import tirx

    return isinstance(function, tirx.PrimFunc)


def _of_pointers(function: Any) -> Any:
    """A function of buffers as one of pointers that returns 0; TVM's packing pass then leaves it alone."""
    import tvm
    from tvm import tirx

    pointers = [tvm.ir.Var(p.name, tvm.ir.PointerType(p.ty.dtype, "global")) for p in function.params]
    views = [tirx.DeclBuffer(p, data=pointer) for p, pointer in zip(function.params, pointers, strict=True)]
    origins = [
        tirx.stmt.Bind(p.ty.elem_offset, tirx.IntImm(str(p.ty.elem_offset.ty.dtype), 0))
        for p in function.params
        if isinstance(p.ty.elem_offset, tvm.ir.Var)
    ]
    body = tirx.SeqStmt([*origins, *views, function.body, tirx.stmt.Return(tirx.IntImm("int32", 0))])
    return tirx.PrimFunc(pointers, body, tvm.ir.PrimType("int32"), function.attrs)


def _public(function: Any, name: str) -> Any:
    """The function under its name, on the device that the packing pass would have said: the processor."""
    import tvm
    from tvm import tirx

    body = function.body
    for key, value in (("device_type", 1), ("device_id", 0)):
        body = tirx.AttrStmt(tvm.ir.StringImm("default"), key, tirx.IntImm("int32", value), body)
    return function.with_body(body).with_attr("global_symbol", name)


def _parameters(function: Any) -> tuple[str, ...]:
    return tuple(str(p.ty.element_type.dtype) for p in function.params)


def _scratch_bytes(function: Any) -> int:
    """The sum of what a kernel allocates, each rounded up to the alignment: it frees in the reverse order."""
    import tvm
    import tvm_ffi

    found: list[int] = []

    def visit(call: Any) -> None:
        if _operator(call) == _ALLOCATE:
            found.append(-(-int(call.args[2].value) // _ALIGNMENT) * _ALIGNMENT)

    tvm_ffi.structural_walk(function.body, (tvm.ir.Call, visit), order="post")
    return sum(found)


# The main function


def _trace(network: Lowered, kernels: Mapping[str, Kernel], outputs: tuple[Tensor, ...]) -> Trace:
    return _Walk(network.module["main"], kernels).trace(outputs)


class _Walk:
    """Follows the bindings of a relax function whose calls write into buffers that it allocates."""

    def __init__(self, function: Any, kernels: Mapping[str, Kernel]) -> None:
        self._function = function
        self._kernels = kernels
        self._names: dict[Any, Any] = {}  # a variable: the name of its buffer, or a tuple of such
        self._intermediates: list[Tensor] = []
        self._constants: dict[str, Array] = {}
        self._known: dict[bytes, str] = {}
        self._calls: list[Call] = []

    def trace(self, outputs: tuple[Tensor, ...]) -> Trace:
        inputs = tuple(self._input(i, p) for i, p in enumerate(self._function.params))
        for block in self._function.body.blocks:
            for binding in block.bindings:
                self._bind(binding.var, binding.value)
        result = self._name(self._function.body.body)
        results = result if isinstance(result, tuple) else (result,)
        assert len(results) == len(outputs)
        used = {name for call in self._calls for name in call.arguments} | set(results)
        return Trace(
            inputs=inputs,
            outputs=outputs,
            results=results,
            intermediates=tuple(t for t in self._intermediates if t.name in used),
            constants={name: array for name, array in self._constants.items() if name in used},
            kernels={call.kernel: self._kernels[call.kernel] for call in self._calls},
            calls=tuple(self._calls),
        )

    def _input(self, index: int, parameter: Any) -> Tensor:
        tensor = _tensor(f"input {index}", parameter.ty)
        self._names[parameter] = tensor.name
        return tensor

    def _bind(self, variable: Any, value: Any) -> None:
        from tvm import ir

        operator = _operator(value)
        if operator == "relax.builtin.alloc_tensor":
            self._intermediates.append(_tensor(f"tensor {len(self._intermediates)}", variable.ty))
            self._names[variable] = self._intermediates[-1].name
        elif operator in ("relax.reshape", "relax.memory.ensure_zero_offset"):
            self._names[variable] = self._name(value.args[0])
        elif isinstance(value, ir.Call) and isinstance(value.op, ir.GlobalVar):
            self._calls.append(Call(_PREFIX + value.op.name_hint, tuple(self._name(a) for a in value.args)))
        elif isinstance(value, ir.Call):
            raise InvalidInput(
                f"TVM computes {operator or value.op} in its runtime, which a standalone program does not have",
                hint="replace what the exporter wrote for it, or compile for a stack with another runtime",
            )
        else:
            self._names[variable] = self._name(value)

    def _name(self, value: Any) -> Any:
        """The buffer, or the tuple of buffers, that an expression stands for."""
        from tvm import ir

        if isinstance(value, ir.GenericConst):
            return self._constant(value.value.numpy())
        if isinstance(value, ir.Tuple):
            return tuple(self._name(field) for field in value.fields)
        if isinstance(value, ir.TupleGetItem):
            return self._name(value.tuple_value)[int(value.index)]
        if value in self._names:
            return self._names[value]
        raise InvalidInput(
            f"TVM passes a {type(value).__name__} to a kernel, which a standalone program cannot",
            hint="compile for a stack with another runtime",
        )

    def _constant(self, array: Array) -> str:
        """Equal constants are stored once."""
        key = f"{array.dtype} {array.shape} ".encode() + np.ascontiguousarray(array).tobytes()
        if key not in self._known:
            self._known[key] = f"constant {len(self._known)}"
            self._constants[self._known[key]] = array
        return self._known[key]


def _tensor(name: str, kind: Any) -> Tensor:
    return Tensor(name, str(kind.dtype), tuple(int(d) for d in kind.shape.values))


def _operator(value: Any) -> str:
    return str(getattr(getattr(value, "op", None), "name", ""))
