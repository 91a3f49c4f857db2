"""Every case that onnx has for its operators is inspected or refused in our words, and no pass changes its answers.

The cases come with inputs and expected outputs. Where onnxruntime runs a case as it stands, it must answer the same
after the float32 passes, optimiser off, and to half precision after the cast; where it cannot, nothing is compared.
"""

from __future__ import annotations

import importlib
import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from passes.context import Context
from passes.dataset import Array, Sample
from passes.onnx_level.cast_float16 import CastFloat16
from passes.onnxruntime import Session
from passes.program import Level, Program
from passes.proof import Decision
from passes.recipe import RECIPES, Recipe
from passes.running import run
from targets.errors import ToolkitError
from targets.target import load_stack
from toolkit.inspection import inspect_model
from toolkit.sources import load_source

NODE = "onnx.backend.test.case.node"
SAMPLED = {
    "Attention": "attention", "BatchNormalization": "batch_normalization", "Cast": "cast", "Conv": "conv",
    "ConvTranspose": "convtranspose", "DequantizeLinear": "dequantizelinear", "Dropout": "dropout", "GRU": "gru",
    "DynamicQuantizeLinear": "dynamicquantizelinear", "Einsum": "einsum", "FlexAttention": "flexattention",
    "Gemm": "gemm", "If": "if_", "LSTM": "lstm", "LayerNormalization": "layernormalization", "Loop": "loop",
    "MatMul": "matmul", "Momentum": "momentum", "NonZero": "nonzero", "OptionalHasElement": "optionalhaselement",
    "Reshape": "reshape", "Resize": "resize", "Scan": "scan", "SequenceMap": "sequence_map", "Split": "split",
    "StringConcat": "string_concat", "TopK": "topk", "TreeEnsemble": "ai_onnx_ml.tree_ensemble",
}  # fmt: skip
"""Operator and the module of its cases, for each kind of trouble: control flow, text, sequences, foreign domains,
shapes that are computed, several outputs, types that numpy lacks."""

NOT_COMPARED = {"Cast", "DequantizeLinear", "FlexAttention", "Momentum", "OptionalHasElement", "SequenceMap"}
"""The chosen cases of these are beyond onnxruntime 1.32, or take more than tensors."""

QUICK = ("Conv", "DynamicQuantizeLinear", "GRU", "If", "OptionalHasElement", "StringConcat")
"""One of each kind of trouble; the rest runs with the slow tests."""

PARTS = 4
COMPARED, REFUSED, UNSAID = "compared", "refused", "refused without a word"
STACK = load_stack("desktop_cpu/onnxruntime-fp32")


@dataclass(frozen=True)
class Case:
    name: str
    model: bytes
    inputs: Sequence[Array]
    outputs: Sequence[Array]
    rtol: float
    atol: float


@pytest.fixture(autouse=True)
def _nothing_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Libraries log tracebacks where they go on regardless; none of that may reach the user."""
    caplog.set_level(logging.WARNING)
    yield
    assert [record.getMessage() for record in caplog.records] == []


@pytest.mark.parametrize(
    "operator", [pytest.param(op, marks=[] if op in QUICK else pytest.mark.slow) for op in SAMPLED]
)
def test_a_few_cases_of_each_kind(operator: str, tmp_path: Path) -> None:
    seen = Counter(judge(case, tmp_path) for case in few(operator))
    assert (seen[COMPARED] > 0) is (operator not in NOT_COMPARED), seen
    assert not seen[UNSAID], seen


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_every_operator_case(part: int, tmp_path: Path) -> None:
    cases = generated()
    assert len(cases) > 1700
    mine = cases[part::PARTS]
    seen = Counter(judge(case, tmp_path) for case in mine)
    assert seen[COMPARED] > 0.65 * len(mine), seen
    assert seen[REFUSED] < 0.03 * len(mine), seen
    assert not seen[UNSAID], seen


@pytest.mark.slow
def test_every_model_in_the_wheel_of_onnx(tmp_path: Path) -> None:
    cases = stored()
    assert len(cases) > 130
    seen = Counter(judge(case, tmp_path) for case in cases)
    assert seen[COMPARED] > 0.65 * len(cases), seen  # the rest is older than onnxruntime remembers
    assert not seen[UNSAID], seen


# ---- what is looked at


def judge(case: Case, folder: Path) -> str:
    """Send one case down the road. What came of it: compared, refused, or a word on why nothing was compared."""
    path = folder / "case.onnx"
    path.write_bytes(case.model)
    try:
        inspect_model(path, cache=False)
        program = load_source(path).program
    except ToolkitError as refusal:
        return REFUSED if refusal.exit_code in (3, 5) and refusal.problem and refusal.hint else UNSAID
    feed = {spec.name: np.asarray(value) for spec, value in zip(program.signature.inputs, case.inputs, strict=True)}
    names = [spec.name for spec in program.signature.outputs]
    rewritten = run(RECIPES["float32"](STACK, Level.ONNX), program, Context(stack=STACK)).program
    cast = run(Recipe("cast", (CastFloat16(),), rewritten.facts | CastFloat16.needs), rewritten, Context(stack=STACK))
    try:
        before = as_it_stands(program, feed)
    except ToolkitError:
        return "onnxruntime cannot run it"
    want = dict(zip(names, case.outputs, strict=True))
    if not all(same(before[name], want[name], case.rtol, case.atol) for name in names):
        return "onnxruntime answers otherwise"  # random draws, and edges where the standard moved
    after = as_it_stands(rewritten, feed)
    for name in names:
        assert same(after[name], want[name], case.rtol, case.atol), f"{case.name}: {name} after the float32 passes"
    if cast.proofs[0].decision is Decision.KEPT:
        feed = {name: _in_half(value) for name, value in feed.items()}
        full, half = as_it_stands(rewritten, feed), cast.program.run(feed)  # which rounds as a device does
        for name in names:  # 2e-2 is 20 float16 roundings; thresholds of the cases lie further apart
            want_half = _in_half(full[name])
            assert same(half[name], want_half, 2e-2, 2e-2), f"{case.name}: {name} after the cast"
    return COMPARED


def _in_half(value: Array) -> Array:
    """What half precision can hold of a tensor: neither 10,001 nor anything beyond 65,504."""
    with np.errstate(over="ignore"):
        return value.astype(np.float16).astype(np.float32) if value.dtype == np.float32 else value


def as_it_stands(program: Program, feed: Sample) -> dict[str, Array]:
    return Session(program.onnx_bytes, optimize=False)(feed)


def same(have: Array, want: Array, rtol: float, atol: float) -> bool:
    have, want = np.asarray(have), np.asarray(want)
    if have.shape != want.shape or have.dtype != want.dtype:
        return False
    if want.dtype.kind in "OSUb":
        return bool((have == want).all())
    wide = np.complex128 if want.dtype.kind == "c" else np.float64
    return np.allclose(have.astype(wide), want.astype(wide), rtol=rtol, atol=max(atol, 1e-5), equal_nan=True)


# ---- where the cases come from


def few(operator: str) -> list[Case]:
    """The first, the middle and the last case of an operator, and the same spelled out in simpler operators."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the expected values are made with overflows on purpose
        importlib.import_module(f"{NODE}.{SAMPLED[operator]}")  # which makes its cases
    made = {case.name: case for case in importlib.import_module(NODE)._NodeTestCases}
    plain = sorted(name for name, case in made.items() if [n.op_type for n in case.model.graph.node] == [operator])
    chosen = dict.fromkeys((plain[0], plain[len(plain) // 2], plain[-1]))
    return [_case(made[name]) for first in chosen for name in (first, f"{first}_expanded") if name in made]


@cache
def generated() -> list[Case]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the expected values are made with overflows on purpose
        return [_case(case) for case in importlib.import_module(NODE).collect_testcases(None)]


def _case(made: Any) -> Case:
    inputs, outputs = made.data_sets[0]
    return Case(made.name, made.model.SerializeToString(), inputs, outputs, made.rtol, made.atol)


def stored() -> list[Case]:
    """The models that lie in the wheel as files: small networks, and operators as torch once exported them."""
    root = Path(onnx.__file__).parent / "backend" / "test" / "data"
    files = [*root.glob("pytorch-*/*/model.onnx"), *root.glob("simple/*/model.onnx")]
    return [_stored(file.parent) for file in sorted(files)]


def _stored(folder: Path) -> Case:
    def arrays(kind: str) -> list[Array]:
        count = len(list(folder.glob(f"test_data_set_0/{kind}_*.pb")))
        return [_array(folder / "test_data_set_0" / f"{kind}_{i}.pb") for i in range(count)]

    return Case(folder.name, (folder / "model.onnx").read_bytes(), arrays("input"), arrays("output"), 1e-3, 1e-7)


def _array(path: Path) -> Array:
    return numpy_helper.to_array(onnx.load_tensor(path))
