"""The contract: what `Pass.__call__` and `run` do with results that break a promise. The passes are made to measure."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from passes.context import Budget, Context
from passes.contract import Kind, Pass, PassFailed
from passes.dataset import Dataset
from passes.metric import TOP1
from passes.program import Level, Program
from passes.proof import Decision, Drift, MetricChange, Proof
from passes.recipe import Recipe
from passes.running import run
from passes.signature import Signature, TensorSpec
from targets.errors import InvalidInput

TEXT = "g (float[1,4] x) => (float[1,4] y) { m = Mul(x, k) y = Add(m, b) }"
WEIGHTS = {"k": np.full(4, 2, np.float32), "b": np.arange(4, dtype=np.float32)}


@pytest.fixture
def start(program: Callable[..., Program]) -> Program:
    return program(TEXT, **WEIGHTS)


def scaled(program: Program, factor: float) -> Any:
    model = program.clone()
    value = model.graph.initializers["k"]
    value.const_value = onnx_ir.tensor((value.const_value.numpy() * factor).astype(np.float32), name="k")
    return model


@dataclass(frozen=True)
class Scale(Pass):
    """Multiply the answers, almost."""

    factor: float = 1.0
    kind = Kind.EXACT
    gives = frozenset({"scaled"})

    def apply(self, program: Program, ctx: Context) -> Program:
        return program.with_model(scaled(program, self.factor))


@dataclass(frozen=True)
class Approximate(Scale):
    kind = Kind.APPROXIMATE


@dataclass(frozen=True)
class Retrained(Scale):
    kind = Kind.RETRAINED


@dataclass(frozen=True)
class Gentle(Approximate):
    """Halves its distance from one when it is told to narrow."""

    def narrower(self, before: Program, ctx: Context, proof: Proof) -> Pass | None:
        assert proof.reason
        return replace(self, factor=1 + (self.factor - 1) / 2) if self.factor > 1.01 else None


@dataclass(frozen=True)
class Slow(Pass):
    """The same answers by way of twenty copies."""

    kind = Kind.EXACT

    def apply(self, program: Program, ctx: Context) -> Program:
        model = program.clone()
        last = model.graph.outputs[0].producer()
        value = last.inputs[0]
        for i in range(20):
            node = onnx_ir.node("Neg", [value])
            node.outputs[0].name = f"n{i}"
            node.outputs[0].shape, node.outputs[0].type = (
                onnx_ir.Shape([1, 4]),
                onnx_ir.TensorType(onnx_ir.DataType.FLOAT),
            )
            model.graph.insert_before(last, node)
            value = node.outputs[0]
        last.replace_input_with(0, value)
        return program.with_model(model)


@dataclass(frozen=True)
class Renames(Pass):
    kind = Kind.EXACT

    def apply(self, program: Program, ctx: Context) -> Program:
        outputs = (TensorSpec("z", "float32", (1, 4)),)
        return replace(program.with_model(program.model), signature=Signature(program.signature.inputs, outputs))


@dataclass(frozen=True)
class RenamesInTheGraph(Pass):
    kind = Kind.EXACT

    def apply(self, program: Program, ctx: Context) -> Program:
        model = program.clone()
        model.graph.outputs[0].name = "z"
        return program.with_model(model)


@dataclass(frozen=True)
class Breaks(Pass):
    """Leaves an operator that is not there."""

    kind = Kind.EXACT

    def apply(self, program: Program, ctx: Context) -> Program:
        model = program.clone()
        model.graph.node(0).op_type = "NoSuchOperator"
        return program.with_model(model)


@dataclass(frozen=True)
class ChangesLevel(Pass):
    kind = Kind.EXACT

    def apply(self, program: Program, ctx: Context) -> Program:
        return program.with_model(program.model, level=Level.TORCH)


@dataclass(frozen=True)
class Promises(Scale):
    def ensures(self, before: Program, after: Program, ctx: Context) -> None:
        raise PassFailed("the promise does not hold", hint="try another")


@dataclass(frozen=True)
class Refuses(Scale):
    gives = frozenset({"fact"})

    def requires(self, program: Program, ctx: Context) -> None:
        raise PassFailed("not this model", hint="try another")


@dataclass(frozen=True)
class Essential(Scale):
    essential = True
    needs = frozenset({"fact"})


@dataclass(frozen=True)
class Dependent(Scale):
    needs = frozenset({"fact"})
    gives = frozenset({"second"})


@dataclass(frozen=True)
class Last(Scale):
    needs = frozenset({"second"})


@dataclass(frozen=True)
class Forgets(Scale):
    breaks = frozenset({"fact"})


@dataclass(frozen=True)
class Knows(Scale):
    gives = frozenset({"fact"})


def test_a_faithful_pass_is_kept(start: Program, context: Callable[..., Context]) -> None:
    before = start.onnx_bytes
    after, proof = Scale(1.0)(start, context())
    assert (proof.decision, proof.reason, proof.name, proof.kind) == (Decision.KEPT, "", "Scale", "exact")
    assert proof.settings == {"factor": 1.0}
    assert proof.worst_sqnr_db == float("inf")
    assert proof.samples == 4
    assert proof.data == "synthetic"
    assert proof.nodes == (2, 2)
    assert proof.size_bytes == (len(before), len(after.onnx_bytes))
    assert proof.cost_s is not None
    assert after.facts == start.facts | {"scaled"}
    assert after.truth is start
    assert start.onnx_bytes == before, "the program given stays as it was"


@pytest.mark.parametrize("step", [Renames(), RenamesInTheGraph(), Breaks(), ChangesLevel(), Promises(), Refuses()])
def test_a_broken_promise_is_refused(step: Pass, start: Program, context: Callable[..., Context]) -> None:
    with pytest.raises(PassFailed) as refusal:
        step(start, context())
    assert refusal.value.hint
    outcome = run(Recipe("r", (step, Scale())), start, context())
    skipped, kept = outcome.proofs
    assert (skipped.decision, kept.decision) == (Decision.SKIPPED, Decision.KEPT)
    assert refusal.value.problem in skipped.reason
    assert "y" in [v.name for v in outcome.program.graph.outputs]


def test_a_pass_of_the_other_level_is_refused(start: Program, context: Callable[..., Context]) -> None:
    @dataclass(frozen=True)
    class Torch(Scale):
        level = Level.TORCH

    with pytest.raises(PassFailed, match="torch"):
        Torch()(start, context())


def test_an_exact_pass_that_moves_the_answers_is_reverted(start: Program, context: Callable[..., Context]) -> None:
    after, proof = Scale(1.001)(start, context())
    assert after is start
    assert proof.decision is Decision.REVERTED
    assert "answers moved by" in proof.reason
    assert "80 dB" in proof.reason


def test_an_exact_pass_is_compared_with_what_came_before_it(start: Program, context: Callable[..., Context]) -> None:
    moved, proof = Approximate(1.01)(start, context())
    assert proof.decision is Decision.KEPT
    after, proof = Scale(1.0)(moved, context())
    assert proof.decision is Decision.KEPT
    assert proof.worst_sqnr_db == float("inf")
    assert after.truth is start


def test_approximate_passes_are_compared_with_the_reference(start: Program, context: Callable[..., Context]) -> None:
    """Ten steps of two per cent are within budget each, and together are not."""
    ctx = context(budget=Budget(min_sqnr_db=20))
    outcome = run(Recipe("r", tuple(Approximate(1.02) for _ in range(10))), start, ctx)
    decisions = [proof.decision for proof in outcome.proofs]
    assert decisions[0] is Decision.KEPT
    assert decisions[-1] is Decision.REVERTED
    assert "under the budget of 20 dB" in outcome.proofs[-1].reason


def test_a_pass_is_narrowed_until_it_holds(start: Program, context: Callable[..., Context]) -> None:
    ctx = context(budget=Budget(min_sqnr_db=30))
    after, proof = Gentle(1.8)(start, ctx)
    assert proof.decision is Decision.NARROWED
    assert 1.0 < proof.settings["factor"] < 1.8
    assert str(proof.settings["factor"]) in proof.reason
    assert proof.worst_sqnr_db >= 30
    assert after is not start


def test_a_pass_that_cannot_be_narrowed_enough_is_reverted(start: Program, context: Callable[..., Context]) -> None:
    after, proof = Gentle(1.8)(start, context(budget=Budget(min_sqnr_db=200)))
    assert after is start
    assert proof.decision is Decision.REVERTED


def test_a_pass_that_is_predicted_to_be_slower_is_reverted(start: Program, context: Callable[..., Context]) -> None:
    after, proof = Slow()(start, context())
    assert after is start
    assert proof.decision is Decision.REVERTED
    assert "slower on desktop_cpu/onnxruntime-fp32" in proof.reason
    assert proof.cost_s is not None
    assert proof.cost_s[1] > proof.cost_s[0]


def test_a_retrained_result_is_the_new_reference(start: Program, context: Callable[..., Context]) -> None:
    after, proof = Retrained(3.0)(start, context())
    assert proof.decision is Decision.KEPT
    assert proof.worst_sqnr_db < 10, "and its distance is on record"
    assert after.truth.onnx_bytes == after.onnx_bytes
    again, proof = Approximate(1.0)(after, context())
    assert proof.worst_sqnr_db == float("inf")
    assert again.truth.onnx_bytes == after.onnx_bytes


def labelled(scale: float = 1.0) -> Dataset:
    """Every sample's answer 2 x + b is largest at its label."""
    rows = np.eye(4, dtype=np.float32).repeat(4, 0) * 3 * scale
    return Dataset.of_arrays("labelled", {"x": rows}, (2 * rows + np.arange(4)).argmax(1))


def test_a_metric_that_falls_too_far_reverts_even_a_retrained_pass(
    start: Program, context: Callable[..., Context]
) -> None:
    ctx = context(validation=labelled(), metric=TOP1)
    assert Retrained(1.0)(start, ctx)[1].decision is Decision.KEPT
    after, proof = Retrained(-1.0)(start, ctx)
    assert after is start
    assert proof.decision is Decision.REVERTED
    assert "top-1 accuracy fell by" in proof.reason
    assert proof.metric is not None
    assert proof.metric.samples == 16
    assert proof.metric.before == 1.0


def test_needs_of_a_skipped_pass_skip_what_follows(start: Program, context: Callable[..., Context]) -> None:
    outcome = run(Recipe("r", (Refuses(), Dependent(), Last(), Scale())), start, context())
    assert [p.decision for p in outcome.proofs] == [Decision.SKIPPED] * 3 + [Decision.KEPT]
    assert "needs fact" in outcome.proofs[1].reason
    assert "needs second" in outcome.proofs[2].reason


def test_needs_of_a_reverted_pass_skip_what_follows(start: Program, context: Callable[..., Context]) -> None:
    outcome = run(Recipe("r", (Knows(1.5), Dependent())), start, context())
    assert [p.decision for p in outcome.proofs] == [Decision.REVERTED, Decision.SKIPPED]


def test_an_essential_pass_without_its_needs_raises(start: Program, context: Callable[..., Context]) -> None:
    with pytest.raises(PassFailed, match="needs fact"):
        run(Recipe("r", (Refuses(), Essential())), start, context())


def test_an_essential_pass_that_breaks_its_promise_is_an_error(start: Program, context: Callable[..., Context]) -> None:
    """It cannot be reverted, since nothing after it works without it; and it must not be waved through."""
    with pytest.raises(PassFailed, match="dB SQNR"):
        Essential(1.5)(start, context())


def test_broken_facts_are_gone(start: Program, context: Callable[..., Context]) -> None:
    outcome = run(Recipe("r", (Knows(), Forgets())), start, context())
    assert "fact" not in outcome.program.facts
    with pytest.raises(InvalidInput, match="Dependent needs fact"):
        Recipe("r", (Knows(), Forgets(), Dependent()))


def test_a_bug_in_a_pass_is_not_dressed_up_as_a_refusal(start: Program, context: Callable[..., Context]) -> None:
    @dataclass(frozen=True)
    class Buggy(Scale):
        def apply(self, program: Program, ctx: Context) -> Program:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(Recipe("r", (Buggy(),)), start, context())


def test_a_result_that_runs_nowhere_is_refused(start: Program, context: Callable[..., Context]) -> None:
    @dataclass(frozen=True)
    class WrongShapes(Scale):
        def apply(self, program: Program, ctx: Context) -> Program:
            model = program.clone()
            model.graph.initializers["k"].const_value = onnx_ir.tensor(np.ones(3, np.float32), name="k")
            model.graph.initializers["k"].shape = onnx_ir.Shape([3])
            return program.with_model(model)

    with pytest.raises(PassFailed):
        WrongShapes()(start, context())


# ---- proofs as documents

proofs = st.builds(
    Proof,
    name=st.just("QuantizeInt8"),
    settings=st.just({"exclude": ["a"], "samples": 3}),
    kind=st.sampled_from(["exact", "approximate", "retrained"]),
    decision=st.sampled_from(Decision),
    reason=st.text(max_size=10),
    drift=st.lists(
        st.builds(
            Drift,
            output=st.just("y"),
            sqnr_db=st.floats(allow_nan=False),
            max_abs_error=st.floats(0, 1e300) | st.just(float("inf")),
        ),
        max_size=3,
    ).map(tuple),
    metric=st.none()
    | st.builds(
        MetricChange,
        name=st.just("top-1 accuracy"),
        before=st.floats(0, 1),
        after=st.floats(0, 1),
        drop_interval=st.tuples(st.floats(allow_nan=False), st.floats(allow_nan=False)),
        samples=st.integers(1, 100),
    ),
    data=st.just("digits"),
    samples=st.integers(0, 100),
    cost_s=st.none() | st.tuples(st.floats(0, 10), st.floats(0, 10)),
    size_bytes=st.none() | st.tuples(st.integers(0), st.integers(0)),
    nodes=st.none() | st.tuples(st.integers(0), st.integers(0)),
)


@given(proofs)
def test_a_proof_survives_its_document(proof: Proof) -> None:
    document = proof.to_json()
    again = Proof.from_json(json.loads(json.dumps(document)))
    assert again.to_json() == document
    assert (again.decision, again.reason, again.cost_s) == (proof.decision, proof.reason, proof.cost_s)
    assert len(again.drift) == len(proof.drift)


@given(proofs)
def test_a_document_holds_only_numbers_that_json_knows(proof: Proof) -> None:
    json.dumps(proof.to_json(), allow_nan=False)


@pytest.mark.parametrize("sqnr_db", [float("-inf"), float("inf"), 12.34])
def test_a_ruined_output_does_not_come_back_as_a_perfect_one(sqnr_db: float) -> None:
    proof = Proof(
        name="p", settings={}, kind="approximate", decision=Decision.REVERTED,
        drift=(Drift(output="y", sqnr_db=sqnr_db, max_abs_error=1.0),),
    )  # fmt: skip
    assert Proof.from_json(proof.to_json()).worst_sqnr_db == sqnr_db


def test_the_metric_of_one_sample_is_a_document_too(start: Program, context: Callable[..., Context]) -> None:
    data = labelled().take(1)
    proof = Approximate(1.0)(start, context(validation=data, metric=TOP1))[1]
    assert proof.metric is not None
    json.dumps(proof.to_json(), allow_nan=False)
