"""One contract for all passes and all recipes, over all stacks of all targets."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest

from passes.contract import Kind, Pass
from passes.onnx_level.convert_opset import ConvertOpset
from passes.onnx_level.fold_constants import FoldConstants
from passes.onnx_level.fuse_batch_norm import FuseBatchNorm
from passes.onnx_level.quantize_int8 import QuantizeInt8
from passes.program import Level, Program
from passes.proof import Decision
from passes.recipe import PASSES, RECIPES, Recipe, recipe_for
from passes.running import run
from passes.torch_level.export import Export
from targets.errors import InvalidInput, UnknownName
from targets.stack import Stack
from targets.target import load_stack, load_target, target_names

STACKS = [stack for name in target_names() for stack in load_target(name).stacks.values()]
FIRST = {(s.runtime, s.precision, s.opset, s.loads_float32, s.quantization): s.id for s in reversed(STACKS)}
"""One stack for each set of what recipes ask a stack for."""
each_stack = pytest.mark.parametrize(
    "stack", [pytest.param(s, id=s.id, marks=[] if s.id in FIRST.values() else pytest.mark.slow) for s in STACKS]
)
each_level = pytest.mark.parametrize("level", list(Level))
each_pass = pytest.mark.parametrize("name", PASSES)
BUILD: dict[str, Callable[[Stack, Level], Recipe]] = {**RECIPES, "recipe_for": recipe_for}
GIVEN = {Level.TORCH: frozenset[str](), Level.ONNX: frozenset({"exported"})}


def made(name: str) -> Pass:
    return PASSES[name](**({"opset": 18} if name == "ConvertOpset" else {}))


@each_pass
def test_a_pass_is_a_value(name: str) -> None:
    step = made(name)
    assert is_dataclass(step)
    assert step.name == name
    assert step == made(name)
    assert hash(step) == hash(made(name))
    assert step.__doc__
    assert isinstance(step.kind, Kind)
    assert (step.becomes is not None) is (name == "Export")
    assert not step.gives & step.breaks
    for field in fields(step):
        with pytest.raises(AttributeError):
            setattr(step, field.name, None)


@each_pass
def test_the_settings_of_a_pass_are_data(name: str) -> None:
    step = made(name)
    entry = {"pass": name, **json.loads(json.dumps(step.settings))}
    given = frozenset().union(*(p.gives for p in PASSES.values()))
    assert Recipe.from_data("r", [entry], given).passes == (step,)


@each_pass
def test_what_a_pass_needs_some_pass_gives(name: str) -> None:
    gives = frozenset().union(*(p.gives for p in PASSES.values()))
    assert PASSES[name].needs <= gives


@each_pass
def test_a_pass_without_its_needs_does_not_make_a_recipe(name: str) -> None:
    step = made(name)
    if step.needs:
        with pytest.raises(InvalidInput, match=f"{name} needs") as refusal:
            Recipe("r", (step,))
        assert all(fact in refusal.value.problem for fact in step.needs)
        assert refusal.value.hint
    else:
        assert Recipe("r", (step,)).passes == (step,)


@each_stack
@each_level
@pytest.mark.parametrize("name", BUILD)
def test_a_recipe(name: str, stack: Stack, level: Level) -> None:
    unfit = "no integer format" if name in ("compress", "int8", "mixed", "qat") and stack.quantization is None else ""
    if unfit := unfit or ("cannot be trained" if name in ("compress", "qat") and level is Level.ONNX else ""):
        with pytest.raises(InvalidInput, match=unfit) as refusal:
            BUILD[name](stack, level)
        assert refusal.value.hint
        return
    recipe = BUILD[name](stack, level)
    steps = recipe.passes
    assert len(set(steps)) == len(steps), "no pass runs twice"

    here, facts = level, set(GIVEN[level])
    for step in steps:
        assert step.level is here, f"{step.name} comes at the wrong level"
        assert step.needs <= facts
        here, facts = step.becomes or here, (facts - step.breaks) | step.gives
    assert here is Level.ONNX
    assert {"exported", "constants_folded", "batch_norm_folded"} <= facts

    data = json.loads(json.dumps(recipe.to_data()))
    again = Recipe.from_data(recipe.name, data, recipe.given)
    assert again == recipe
    assert again.to_data() == recipe.to_data()
    assert recipe.given == GIVEN[level]


@each_stack
@each_level
def test_the_recipe_of_a_stack_is_what_the_stack_wants(stack: Stack, level: Level) -> None:
    recipe = recipe_for(stack, level)
    wanted = {"fp32": "float32", "fp16": "float32" if stack.loads_float32 else "float16", "int8": "int8"}
    assert recipe.name == wanted[stack.precision]
    opsets = [p.opset for p in recipe.passes if isinstance(p, (Export, ConvertOpset))]
    assert opsets[-1] == stack.opset
    quantize = [p for p in recipe.passes if isinstance(p, QuantizeInt8)]
    if stack.precision == "int8":
        assert stack.quantization is not None
        (step,) = quantize
        assert step.activation == stack.quantization.activation
        assert step.activation_symmetric == stack.quantization.activation_symmetric
        assert step.per_channel == stack.quantization.per_channel


@each_stack
@each_level
def test_the_order_of_a_recipe_is_checked(stack: Stack, level: Level) -> None:
    """Any pass put first, ahead of what gives its needs, is refused; so is the whole recipe turned round."""
    recipe = recipe_for(stack, level)
    for step in recipe.passes:
        if step.needs - recipe.given:
            rest = tuple(p for p in recipe.passes if p != step)
            with pytest.raises(InvalidInput):
                Recipe("r", (step, *rest), recipe.given)
    with pytest.raises(InvalidInput):
        Recipe("r", recipe.passes[::-1], recipe.given)


def test_a_fact_that_is_broken_is_missing() -> None:
    class Breaker(FoldConstants):
        breaks = frozenset({"batch_norm_folded"})

    given = frozenset({"exported"})
    Recipe("r", (FoldConstants(), FuseBatchNorm(), QuantizeInt8()), given)
    with pytest.raises(InvalidInput, match="QuantizeInt8 needs batch_norm_folded"):
        Recipe("r", (FoldConstants(), FuseBatchNorm(), Breaker(), QuantizeInt8()), given)


@pytest.mark.parametrize(
    ("entry", "error", "words"),
    [
        ({"pass": "FoldConstant"}, UnknownName, "did you mean 'FoldConstants'?"),
        ({}, UnknownName, "known:"),
        ({"pass": "FoldConstants", "max_element": 3}, UnknownName, "did you mean 'max_elements'?"),
        ({"pass": "ConvertOpset"}, InvalidInput, "settings of ConvertOpset: opset"),
    ],
)
def test_a_recipe_file_with_a_slip_is_refused(
    entry: dict[str, Any], error: type[InvalidInput | UnknownName], words: str
) -> None:
    with pytest.raises(error) as refusal:
        Recipe.from_data("r", [entry], frozenset({"exported", "constants_folded"}))
    assert words in refusal.value.hint


@pytest.mark.parametrize(
    "entry",
    [
        {"pass": "Export", "opset": "18"},
        {"pass": "ConvertOpset", "opset": None},
        {"pass": "QuantizeInt8", "activation": "int4"},
        {"pass": "QuantizeInt8", "samples": "all"},
        {"pass": "QuantizeInt8", "exclude": "conv"},
    ],
    ids=lambda e: f"{e['pass']}-{list(e)[1]}",
)
def test_a_setting_of_the_wrong_kind_is_refused_when_the_recipe_is_read(entry: dict[str, Any]) -> None:
    """recipe.yaml is a file that people edit; a slip in it is exit 5, not a traceback from inside a pass."""
    with pytest.raises((InvalidInput, UnknownName)):
        Recipe.from_data("r", [entry], frozenset({"exported", "constants_folded", "batch_norm_folded"}))


NET = """g (float[1,3,8,8] x) => (float[1,5] y) {
    c = Conv<pads=[1,1,1,1]>(x, w)  n = BatchNormalization(c, gamma, beta, mean, var)  r = Relu(n)
    h = Add(r, three)  i = Clip(h, zero, six)  j = Mul(r, i)  k = Div(j, six)
    p = ReduceMean<keepdims=0>(k, axes)  y = Gemm<transB=1>(p, v, b) }"""


def weights() -> dict[str, Any]:
    import numpy as np

    return {
        "w": (8, 3, 3, 3), "gamma": (8,), "beta": (8,), "mean": (8,), "var": np.full(8, 2, np.float32),
        "three": np.float32(3), "zero": np.float32(0), "six": np.float32(6), "axes": np.array([2, 3]),
        "v": (5, 8), "b": (5,),
    }  # fmt: skip


ATTENTION = """g (float[1,2,8,4] q, float[1,2,8,4] k, float[1,2,8,4] v) => (float[1,2,8,4] y) {
    kt = Transpose<perm=[0,1,3,2]>(k)  s = MatMul(q, kt)  t = Mul(s, half)  p = Softmax<axis=-1>(t)
    y = MatMul(p, v) }"""
GELU = """g (float[1,8] x) => (float[1,8] y) {
    a = Div(x, root)  e = Erf(a)  f = Add(e, one)  h = Mul(x, f)  y = Mul(h, half) }"""
NORM = """g (float[1,8] x) => (float[1,8] y) {
    m = ReduceMean(x, last)  d = Sub(x, m)  q = Mul(d, d)  v = ReduceMean(q, last)  e = Add(v, eps)  r = Sqrt(e)
    n = Div(d, r)  s = Mul(n, scale)  y = Add(s, bias) }"""
TRANSPOSED = """g (float[1,2,3,4] x) => (float[1,2,3,4] y) {
    a = Transpose<perm=[0,2,3,1]>(x)  r = Relu(a)  y = Transpose<perm=[0,3,1,2]>(r) }"""
BETWEEN = """g (float[1,3,8,8] x) => (float[1,5,8,8] y) {
    n = LayerNormalization(x, s, c)  m = MatMul(n, w)  a = Conv(m, u, b)  r = Relu(a)  y = Conv(r, v) }"""
STORED = "net (float[8,64] x) => (float[8,64] y) { w = DequantizeLinear(q, s)  y = MatMul(x, w) }"
LINEAR = "g (float[4,64] x) => (float[4,64] y) { y = MatMul(x, w) }"


RESCALING = ("EqualiseChannels", "SmoothActivations")


def something_to_do(name: str, program: Callable[..., Program]) -> Program:
    """A graph that the pass called `name` changes."""
    import numpy as np

    number = np.float32
    if name == "FoldConstants":
        return program("g (float[1,8] x) => (float[1,8] y) { n = Neg(c) y = Add(x, n) }", c=(8,))
    if name == "FuseAttention":
        return program(ATTENTION, opset=23, half=number(0.5))
    if name == "FuseGelu":
        return program(GELU, opset=20, root=number(2**0.5), one=number(1), half=number(0.5))
    if name == "FuseLayerNorm":
        return program(NORM, last=np.array([-1]), eps=number(1e-5), scale=(8,), bias=(8,))
    if name == "CancelTransposes":
        return program(TRANSPOSED)
    if name in RESCALING:
        return program(BETWEEN, s=(8,), c=(8,), w=(8, 8), u=(16, 3, 1, 1), b=(16,), v=(5, 16, 1, 1))
    if name in ("QuantizeWeights", "QuantizeDynamic"):
        return program(LINEAR, opset=21, w=(64, 64))
    if name == "PackWeights":
        return program(STORED, opset=21, q=np.ones((64, 64), np.int8), s=number(0.5))
    return program(NET, opset=20 if name == "ConvertOpset" else 18, **weights())


@pytest.mark.slow
@each_pass
def test_a_second_application_changes_nothing(
    name: str, program: Callable[..., Program], torch_program: Callable[..., Program], context: Callable[..., Any],
    noise: Callable[..., Any],
) -> None:  # fmt: skip
    from torch import nn

    from passes.dataset import Dataset

    step = made(name)
    if name == "Export" or step.kind is Kind.RETRAINED or "int8" in step.needs:
        return  # the first leaves a program that it cannot take, the others train again, or go on while it helps
    stacks = {
        "CastFloat16": "jetson_nano/tensorrt-fp16",
        "FuseActivation": "desktop_cpu/onnxruntime-fp32",
        "QuantizeInt8": "desktop_cpu/onnxruntime-int8",
        "QuantizeDynamic": "desktop_cpu/onnxruntime-int8",
        "Factorise": "raspberry_pi_4/onnxruntime-fp32",
    }
    ctx = context(stacks.get(name, STACKS[0].id), data=Dataset.of_arrays("d", {"x": noise(8, 3, 8, 8)}))
    if step.level is Level.TORCH:
        normed = nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 1))
        module: nn.Module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), normed, nn.ReLU())
        if name == "Factorise":
            module, step = nn.Sequential(nn.Flatten(), nn.Linear(192, 192)), replace(step, error=0.5)  # type: ignore
        start = torch_program(module, x=noise(1, 3, 8, 8))
        once = step.apply(start, ctx)
        assert once.model is not start.model
        assert step.apply(once, ctx).digest == once.digest
        return
    start = something_to_do(name, program)
    once = step.apply(start, ctx)
    assert once.onnx_bytes != start.onnx_bytes, "the pass has something to do here"
    if name not in ("ConvertOpset", "ShortenNames", *RESCALING):
        assert Counter(n.op_type for n in once.graph) != Counter(n.op_type for n in start.graph)
    if step.kind is Kind.EXACT:
        assert step.apply(once, ctx).onnx_bytes == once.onnx_bytes
    facts = start.facts | step.gives
    again = run(Recipe("r", (step,), facts), replace(once, facts=facts), ctx)  # these two may also say: already done
    assert again.program.onnx_bytes == once.onnx_bytes


def test_a_stack_that_reads_an_old_opset_gets_hard_swish_in_it(
    program: Callable[..., Program], context: Callable[..., Any]
) -> None:
    """FuseActivation writes HardSwish (opset 14), then ConvertOpset must still reach the 13 of the Jetson Nano."""
    stack = load_stack("jetson_nano/tensorrt-fp32")
    assert stack.opset == 13
    start = program(NET, facts=frozenset({"exported"}), **weights())
    outcome = run(recipe_for(stack, Level.ONNX), start, context(stack.id))
    assert [p.reason for p in outcome.proofs if p.decision is not Decision.KEPT] == []
    assert outcome.program.opset == 13
