"""CancelTransposes on random graphs of transposes and elementwise work, and on what it must not touch."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from passes.onnx_level.cancel_transposes import CancelTransposes
from passes.proof import Decision

Make = Callable[..., Any]

SIZES = (2, 3, 4)
UNARY = ("Relu", "Neg", "Tanh", "Abs", "LeakyRelu", "Sigmoid")
BINARY = ("Add", "Mul", "Sub", "Max", "Min", "PRelu")


@st.composite
def graphs(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A graph in text form over tensors whose axes are permutations of (2, 3, 4), and its constants."""
    values: list[tuple[str, tuple[int, ...]]] = [("x", SIZES)]
    lines, constants = [], {}
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    for i in range(draw(st.integers(1, 9))):
        source, shape = draw(st.sampled_from(values[-3:]))
        kind = draw(st.sampled_from(["transpose", "transpose", "unary", "constant", "constant", "tensor"]))
        made = f"v{i}"
        if kind == "transpose":
            perm = draw(st.permutations(range(3)))
            lines.append(f"{made} = Transpose<perm=[{','.join(map(str, perm))}]>({source})")
            shape = tuple(shape[p] for p in perm)
        elif kind == "unary":
            lines.append(f"{made} = {draw(st.sampled_from(UNARY))}({source})")
        elif kind == "constant":
            rank = draw(st.integers(0, 3))
            full = shape[3 - rank :]
            kept = draw(st.lists(st.booleans(), min_size=rank, max_size=rank))
            constants[f"c{i}"] = rng.standard_normal([n if k else 1 for n, k in zip(full, kept, strict=True)]).astype(
                np.float32
            )
            op_type = draw(st.sampled_from(BINARY))
            swapped = draw(st.booleans()) and op_type != "PRelu"
            operands = f"c{i}, {source}" if swapped else f"{source}, c{i}"
            lines.append(f"{made} = {op_type}({operands})")
        else:
            other = draw(st.sampled_from([name for name, have in values if have == shape]))
            lines.append(f"{made} = {draw(st.sampled_from(BINARY[:5]))}({source}, {other})")
        values.append((made, shape))
    last = values[-1]
    outputs = [last]
    if len(values) > 2 and draw(st.booleans()):
        outputs.append(draw(st.sampled_from(values[1:-1])))
    used = "".join(lines)
    described = ", ".join(f"float[{','.join(map(str, shape))}] {name}" for name, shape in outputs)
    text = f"g (float[2,3,4] x) => ({described}) {{ {'  '.join(lines)} }}"
    return text, {name: value for name, value in constants.items() if name in used}


def transposes(op_types: list[str]) -> int:
    return op_types.count("Transpose")


@pytest.mark.slow
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(graph=graphs())
@example(graph=("g (float[2,3,4] x) => (float[2,3,4] v2) { v0 = Transpose<perm=[2,0,1]>(x)  v1 = Add(v0, c)"
                "  v2 = Transpose<perm=[1,2,0]>(v1) }", {"c": np.arange(3, dtype=np.float32)}))  # fmt: skip
def test_any_graph_keeps_its_answers_and_gains_no_transpose(
    graph: tuple[str, dict[str, Any]], program: Make, context: Make, same_answers: Make, op_types: Make
) -> None:
    text, constants = graph
    start = program(text, **constants)
    after, proof = CancelTransposes()(start, context())
    assert proof.decision is not Decision.REVERTED or "slower" in proof.reason
    applied = CancelTransposes().apply(start, context())
    assert transposes(op_types(applied)) <= transposes(op_types(start))
    assert len(op_types(applied)) <= len(op_types(start)), "nothing is added either"
    same_answers(start, applied)
    assert CancelTransposes().apply(applied, context()).onnx_bytes == applied.onnx_bytes
    assert after.signature == start.signature


BODIES = {
    "nothing between": ("a = Transpose<perm=[1,2,0]>(x)  y = Transpose<perm=[2,0,1]>(a)", 0),
    "two that are not inverse": ("a = Transpose<perm=[1,2,0]>(x)  y = Transpose<perm=[1,0,2]>(a)", 1),
    "one function": ("a = Transpose<perm=[1,2,0]>(x)  b = Relu(a)  y = Transpose<perm=[2,0,1]>(b)", 0),
    "bounds beside it": ("a = Transpose<perm=[1,2,0]>(x)  b = Clip(a, low, high)  y = Transpose<perm=[2,0,1]>(b)", 0),
    "a constant of lower rank": ("a = Transpose<perm=[1,2,0]>(x)  b = Add(a, row)  y = Transpose<perm=[2,0,1]>(b)", 0),
    "two branches": (
        """a = Transpose<perm=[1,2,0]>(x)  b = Relu(a)  c = Transpose<perm=[1,2,0]>(z)  d = Add(b, c)
        y = Transpose<perm=[2,0,1]>(d)""", 0),
    "branches that disagree": (
        """a = Transpose<perm=[1,2,0]>(x)  b = Transpose<perm=[2,1,0]>(w)  d = Add(a, b)
        y = Transpose<perm=[2,0,1]>(d)""", 3),
    "no permutation given": ("a = Transpose(x)  b = Relu(a)  y = Transpose(b)", 0),
    "read twice": ("a = Transpose<perm=[1,2,0]>(x)  b = Relu(a)  c = Transpose<perm=[2,0,1]>(b)  "
                   "d = Transpose<perm=[2,0,1]>(a)  y = Add(c, d)", 0),
    "a residual in the other layout": (
        """a = Transpose<perm=[1,2,0]>(x)  b = Relu(a)  c = Add(a, b)  y = Transpose<perm=[2,0,1]>(c)""", 0),
    "nothing to cancel": ("a = Transpose<perm=[1,2,0]>(x)  b = Relu(a)  y = Transpose<perm=[1,2,0]>(b)", 1),
    "softmax between": ("a = Transpose<perm=[1,2,0]>(x)  b = Softmax(a)  y = Transpose<perm=[2,0,1]>(b)", 2),
}  # fmt: skip
SHAPES = {"two that are not inverse": "4,3,2", "no permutation given": "2,3,4", "nothing to cancel": "4,2,3"}
VALUES: dict[str, Any] = {
    "low": np.float32(-1), "high": np.float32(1), "row": np.array([10, 20], np.float32), "w": (2, 4, 3),
}  # fmt: skip


@pytest.mark.parametrize("case", BODIES)
def test_known_graphs(case: str, program: Make, context: Make, same_answers: Make, op_types: Make) -> None:
    body, left = BODIES[case]
    inputs = "float[2,3,4] x" + (", float[2,3,4] z" if "(z)" in body else "")
    words = body.replace("(", " ").replace(")", " ").replace(",", " ").split()
    weights = {name: value for name, value in VALUES.items() if name in words}
    start = program(f"g ({inputs}) => (float[{SHAPES.get(case, '2,3,4')}] y) {{ {body} }}", **weights)
    after = CancelTransposes().apply(start, context())
    assert transposes(op_types(after)) == left
    same_answers(start, after)


def test_two_layers_that_share_a_constant(program: Make, context: Make, same_answers: Make, op_types: Make) -> None:
    """The constant is laid out anew for one of them; the other must go on reading it as it was."""
    body = """a = Transpose<perm=[0,2,1]>(x)  b = Mul(a, c)  d = Transpose<perm=[0,2,1]>(b)
        e = Transpose<perm=[0,2,1]>(x)  f = Add(e, c)  h = Transpose<perm=[0,2,1]>(f)  i = Add(d, h)  y = Mul(i, c)"""
    start = program(f"g (float[2,3,3] x) => (float[2,3,3] y) {{ {body} }}", c=(3,))
    after = CancelTransposes().apply(start, context())
    assert transposes(op_types(after)) == 0
    same_answers(start, after)


def test_names_that_look_like_those_that_the_pass_makes(program: Make, context: Make, same_answers: Make) -> None:
    body = """a = Transpose<perm=[0,2,1]>(x)  b = Mul(a, c)  y = Transpose<perm=[0,2,1]>(b)  z = Add(x, c_021)"""
    start = program(f"g (float[2,3,3] x) => (float[2,3,3] y, float[2,3,3] z) {{ {body} }}", c=(3,), c_021=(3,))
    same_answers(start, CancelTransposes().apply(start, context()))


def test_a_per_channel_vector_moves_with_its_channels(
    program: Make, context: Make, same_answers: Make, op_types: Make
) -> None:
    """Channel-last bias between channel-first convolutions: what converters from TensorFlow leave behind."""
    body = """a = Conv(x, w)  b = Transpose<perm=[0,2,3,1]>(a)  c = Add(b, bias)  d = Relu(c)
        e = Transpose<perm=[0,3,1,2]>(d)  y = Conv(e, v)"""
    weights = {"w": (8, 3, 1, 1), "bias": (8,), "v": (4, 8, 1, 1)}
    start = program(f"g (float[1,3,5,6] x) => (float[1,4,5,6] y) {{ {body} }}", **weights)
    after, proof = CancelTransposes()(start, context())
    assert proof.decision is Decision.KEPT
    assert op_types(after) == ["Conv", "Add", "Relu", "Conv"]
    same_answers(start, after)


def test_transposed_weights_are_folded_before_and_do_not_count(program: Make, context: Make, op_types: Make) -> None:
    start = program("g (float[2,3] x) => (float[2,4] y) { t = Transpose<perm=[1,0]>(x)  u = Transpose<perm=[1,0]>(t) "
                    "y = MatMul(u, w) }", w=(3, 4))  # fmt: skip
    assert op_types(CancelTransposes().apply(start, context())) == ["MatMul"]


def test_the_outputs_keep_their_names_and_types(program: Make, context: Make) -> None:
    body = "a = Transpose<perm=[1,0]>(x)  y = Relu(a)  z = Transpose<perm=[1,0]>(y)"
    start = program(f"g (float[2,3] x) => (float[3,2] y, float[2,3] z) {{ {body} }}")
    after, proof = CancelTransposes()(start, context())
    assert proof.decision is Decision.KEPT
    assert [v.name for v in after.graph.outputs] == ["y", "z"]


def test_a_cast_between_keeps_its_type(program: Make, context: Make, same_answers: Make, op_types: Make) -> None:
    body = "a = Transpose<perm=[1,0]>(x)  b = Cast<to=6>(a)  y = Transpose<perm=[1,0]>(b)"
    start = program(f"g (float[2,3] x) => (int32[2,3] y) {{ {body} }}")
    after = CancelTransposes().apply(start, context())
    assert op_types(after) == ["Cast"]
    same_answers(start, after)


def test_reshapes_and_unsqueezes_that_follow_each_other(
    program: Make, context: Make, same_answers: Make, op_types: Make
) -> None:
    """The docstring promises one for reshapes that follow each other."""
    body = "a = Reshape(x, s1)  b = Reshape(a, s2)  y = Reshape(b, s3)"
    start = program(f"g (float[2,3,4] x) => (float[6,4] y) {{ {body} }}",
                    s1=np.array([4, 6]), s2=np.array([24]), s3=np.array([6, 4]))  # fmt: skip
    after = CancelTransposes().apply(start, context())
    assert op_types(after) == ["Reshape"]
    same_answers(start, after)
    start = program("g (float[2,3] x) => (float[1,1,2,3] y) { a = Unsqueeze(x, z)  y = Unsqueeze(a, z) }",
                    z=np.array([0]))  # fmt: skip
    after = CancelTransposes().apply(start, context())
    assert op_types(after) == ["Unsqueeze"]
    same_answers(start, after)


def test_a_residual_network_from_a_channel_last_framework(
    program: Make, context: Make, same_answers: Make, op_types: Make
) -> None:
    """Each convolution between two transposes, everything else in the other layout: only the outermost stay."""
    lines = ["s = Transpose<perm=[0,3,1,2]>(x)  c = Conv(s, w)  z0 = Transpose<perm=[0,2,3,1]>(c)"]
    for i in range(3):
        lines.append(f"""t{i} = Transpose<perm=[0,3,1,2]>(z{i})  c{i} = Conv(t{i}, w)
            u{i} = Transpose<perm=[0,2,3,1]>(c{i})  b{i} = Add(u{i}, bias)
            r{i} = Clip(b{i}, low, high)  z{i + 1} = Add(r{i}, z{i})""")
    text = f"g (float[1,5,6,8] x) => (float[1,5,6,8] y) {{ {'  '.join(lines)}  y = Relu(z3) }}"
    start = program(text, w=(8, 8, 1, 1), bias=(8,), low=np.float32(0), high=np.float32(6))
    after = CancelTransposes().apply(start, context())
    assert (transposes(op_types(start)), transposes(op_types(after))) == (8, 2)
    same_answers(start, after, rtol=1e-4, atol=1e-4)  # four convolutions of eight products, values up to some hundreds
