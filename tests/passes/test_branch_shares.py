"""How often branches are taken, counted on samples and priced."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from passes.dataset import Dataset
from passes.onnx_level.branch_shares import has_branches, note_branch_shares
from targets.control_flow import SHARE_KEY
from targets.graph import read_workload

BRANCHING = """<ir_version: 9, opset_import: ["" : 18]>
g (float[2,4] x, bool other) => (float[2,8] y, float[2,4] z)
<float[4,8] wide = {0}, float[4,4] small = {0}, float zero = {0}> {
    total = ReduceSum <keepdims = 0> (x)
    positive = Greater (total, zero)
    y = If (positive) <
        then_branch = t () => (float[2,8] a) { a = MatMul (x, wide) },
        else_branch = e () => (float[2,8] b) {
            narrow = If (other) <
                then_branch = tt () => (float[2,4] c) { c = MatMul (x, small) },
                else_branch = ee () => (float[2,4] d) { d = Neg (x) }>
            b = Concat <axis = 1> (narrow, narrow)
        }>
    z = If (other) <
        else_branch = q () => (float[2,4] f) { f = MatMul (x, small) },
        then_branch = p () => (float[2,4] g) { g = Relu (x) }>
}"""
WIDE, SMALL = 2 * 4 * 8, 2 * 4 * 4


def branching() -> ir.Model:
    proto = onnx.parser.parse_model(BRANCHING)
    for initializer in proto.graph.initializer:
        if initializer.name in ("wide", "small"):
            del initializer.float_data[:]
            initializer.raw_data = np.ones(tuple(initializer.dims), np.float32).tobytes()
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto))


def samples(signs: list[int], others: list[bool]) -> Dataset:
    def read() -> list[dict[str, np.ndarray]]:
        return [
            {"x": np.full((2, 4), sign, np.float32), "other": np.array(other)}
            for sign, other in zip(signs, others, strict=True)
        ]

    return Dataset("signs", read, len(signs))


def test_the_share_of_the_samples_is_noted_at_each_branch() -> None:
    model = branching()
    before = [node.name for node in model.graph], [v.name for v in model.graph.outputs]
    note_branch_shares(model, samples([1, -1, -1, -1], [True, True, False, True]))
    noted = [n.metadata_props.get(SHARE_KEY) for n in model.graph.all_nodes() if n.op_type == "If"]
    assert sorted(noted, key=str) == ["0.25 of 4 samples", "0.75 of 4 samples", None], "the inner one is not counted"
    assert before == ([node.name for node in model.graph], [v.name for v in model.graph.outputs])


@pytest.mark.parametrize(("signs", "others"), [([1, 1], [False, True]), ([1, -1, -1, -1], [True, True, False, True])])
def test_operators_in_branches_are_priced_by_their_share(signs: list[int], others: list[bool]) -> None:
    model = branching()
    whole = read_workload(model)
    assert whole.macs == WIDE + SMALL, "without a count the dearer branch of each"
    assert whole.branches == ""
    note_branch_shares(model, samples(signs, others))
    work = read_workload(model)
    positive, other = np.mean(np.array(signs) > 0), np.mean(others)
    assert work.macs == round(positive * WIDE + (1 - positive) * SMALL + (1 - other) * SMALL)
    assert work.branches == f"branches by how often {len(signs)} samples took them"
    assert work.weight_bytes == whole.weight_bytes, "all branches are stored"


def test_graphs_without_branches_and_data_without_samples_stay_as_they_are() -> None:
    straight = ir.from_proto(onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 18]> g (float[4] x) => (float[4] y) { y = Relu (x) }'))  # fmt: skip
    assert not has_branches(straight.graph)
    note_branch_shares(straight, samples([1], [True]))
    model = branching()
    assert has_branches(model.graph)
    note_branch_shares(model, samples([], []))
    assert not any(SHARE_KEY in node.metadata_props for node in model.graph.all_nodes())
