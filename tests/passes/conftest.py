"""Programs from onnx's text form or from a torch module, contexts for stacks, and a comparison without optimisers."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_ir
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from passes.context import Context
from passes.contract import Pass
from passes.dataset import Array, Dataset
from passes.onnxruntime import Session
from passes.program import Level, Program, onnx_program
from passes.proof import Decision
from passes.signature import Signature, TensorSpec
from passes.torch_level.capture import signature_of
from targets.target import load_stack

NAMES = {"FLOAT": "float32", "DOUBLE": "float64"}
READY = frozenset({"exported", "constants_folded", "batch_norm_folded"})


def _spec(value: onnx_ir.Value) -> TensorSpec:
    assert value.name is not None
    assert value.dtype is not None
    assert value.shape is not None
    dims = tuple(d if isinstance(d, int) else str(d.value) for d in value.shape.dims)
    return TensorSpec(value.name, NAMES.get(value.dtype.name, value.dtype.name.lower()), dims)


def _program(
    text: str, *, opset: int = 18, domains: str = "", facts: frozenset[str] = READY, **weights: Any
) -> Program:
    """A graph in text form; arrays become initializers, a tuple a random float32 one of that shape."""
    rng = np.random.default_rng(0)
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}{domains}]>\n{text}')
    for name, value in weights.items():
        array = rng.standard_normal(value).astype(np.float32) if isinstance(value, tuple) else np.asarray(value)
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    onnx.checker.check_model(proto)
    model = onnx_ir.from_proto(proto)
    signature = Signature(tuple(map(_spec, model.graph.inputs)), tuple(map(_spec, model.graph.outputs)))
    example = {
        s.name: np.zeros(tuple(d if isinstance(d, int) else 2 for d in s.shape), s.dtype) for s in signature.inputs
    }
    return replace(onnx_program("net", model, signature, example), facts=facts)


def _torch_program(
    module: nn.Module, dynamic: Mapping[str, Mapping[int, str]] | None = None, seed: int = 0, **example: Array
) -> Program:
    """A module in eval mode with random weights and norm statistics that do not vanish."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in (*module.parameters(), *module.buffers()):
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    module.eval()
    return Program(
        name="net",
        level=Level.TORCH,
        model=module,
        signature=signature_of(module, example, dynamic or {}),
        example=example,
    )


def _noise(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _as_they_stand(program: Program, samples: Dataset) -> list[dict[str, Array]]:
    """The answers of the graph with onnxruntime's optimiser off, so that what is compared is the graph itself."""
    session = Session(program.onnx_bytes, optimize=False)
    return [session(sample) for sample in samples]


def _context(stack: str = "desktop_cpu/onnxruntime-fp32", **fields: Any) -> Context:
    return Context(stack=load_stack(stack), **fields)


@pytest.fixture
def program() -> Callable[..., Program]:
    return _program


@pytest.fixture
def torch_program() -> Callable[..., Program]:
    return _torch_program


@pytest.fixture
def noise() -> Callable[..., Array]:
    return _noise


@pytest.fixture
def context() -> Callable[..., Context]:
    return _context


@pytest.fixture
def same_answers() -> Callable[..., None]:
    def draw(rng: np.random.Generator, like: Array) -> Array:
        drawn = rng.standard_normal(like.shape) * 3 if like.dtype.kind == "f" else rng.integers(0, 2, like.shape)
        return np.asarray(drawn, like.dtype)

    def check(before: Program, after: Program, rtol: float = 2e-5, atol: float = 2e-5) -> None:
        """Defaults: a few hundred float32 roundings of values near one."""
        rng = np.random.default_rng(5)
        samples = [{name: draw(rng, a) for name, a in before.example.items()} for _ in range(3)]
        data = Dataset("noise", lambda: samples, 3)
        truths = _as_they_stand(before, data) if before.level is Level.ONNX else list(before.answers(data))
        for truth, answer in zip(truths, _as_they_stand(after, data), strict=True):
            assert truth.keys() == answer.keys()
            for name, want in truth.items():
                assert want.dtype == answer[name].dtype
                np.testing.assert_allclose(answer[name], want, rtol=rtol, atol=atol)

    return check


@pytest.fixture
def op_types() -> Callable[[Program], list[str]]:
    return lambda program: [node.op_type for node in program.graph]


@pytest.fixture
def fuse(context: Callable[..., Context], same_answers: Callable[..., None]) -> Callable[[Pass, Program], Program]:
    """The program after a pass; its answers are those before, and a second application changes nothing."""

    def fused(step: Pass, start: Program) -> Program:
        after, proof = step(start, context())
        assert (proof.decision, proof.reason) == (Decision.KEPT, "")
        same_answers(start, after)
        assert step.apply(after, context()).onnx_bytes == after.onnx_bytes
        return after

    return fused
