"""Nodes keep the module and the line they come from, also in files that torch's exporter wrote elsewhere."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import helper

from passes.origins import inherit_origin, keep_origins
from targets.graph import MODULE_KEY, SOURCE_KEY
from toolkit.sources import load_source


def _noted(trace: str, scopes: str = "") -> ir.Node:
    """A node with the notes that torch's exporter leaves, after they were read."""
    node = helper.make_node("Relu", ["x"], ["y"], "relu", doc_string='File "/home/somebody/net.py", line 3')
    values = {"pkg.torch.onnx.stack_trace": trace, "pkg.torch.onnx.name_scopes": scopes, "namespace": ": Net",
              "pkg.torch.onnx.fx_node": "%relu", "mine": "kept"}  # fmt: skip
    for key, value in values.items():
        node.metadata_props.append(onnx.StringStringEntryProto(key=key, value=value))
    sides = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    model = ir.from_proto(helper.make_model(helper.make_graph([node], "g", sides[:1], sides[1:])))
    keep_origins(model)
    return model.graph.node(0)


@pytest.mark.parametrize(
    ("trace", "line"),
    [
        ('File "/home/somebody/net.py", line 7, in forward\n    return x', "net.py:7"),
        ('File "/home/somebody/net.py", line 7, in forward\n'
         'File "/opt/lib/python3.10/site-packages/torch/nn/modules/conv.py", line 553, in forward', "net.py:7"),
        (f'File "/a.py", line 1, in f\nFile "{Path(torch.__file__).parent}/nn/functional.py", line 9, in g', "a.py:1"),
        ('File "a.py", line 1, in f\nFile "/usr/lib/python3/dist-packages/torch/nn/functional.py", line 9', "a.py:1"),
        ('File "C:\\net\\body.py", line 3, in forward', "body.py:3"),
        ("", ""),
        ('File "cut.py"', ""),
        ("no frame at all", ""),
    ],
)  # fmt: skip
def test_the_innermost_frame_outside_torch_is_the_line(trace: str, line: str) -> None:
    assert _noted(trace).metadata_props.get(SOURCE_KEY, "") == line


@pytest.mark.parametrize(
    ("scopes", "module"), [("['', 'body.0', 'conv2d']", "body.0"), ("['', 'relu']", ""), ("['relu']", ""), ("", "")]
)
def test_the_innermost_scope_but_the_operators_own_is_the_module(scopes: str, module: str) -> None:
    assert _noted("", scopes).metadata_props.get(MODULE_KEY, "") == module


def test_nothing_else_stays_of_the_exporters_notes() -> None:
    node = _noted('File "/home/somebody/net.py", line 7, in forward', "['', 'body.0', 'relu']")
    assert dict(node.metadata_props) == {"mine": "kept", SOURCE_KEY: "net.py:7", MODULE_KEY: "body.0"}
    assert not node.doc_string


def test_functions_keep_no_path_either() -> None:
    body = helper.make_function("own", "F", ["x"], ["y"], [helper.make_node("Relu", ["x"], ["y"])],
                                [helper.make_opsetid("", 18)])  # fmt: skip
    body.node[0].metadata_props.append(
        onnx.StringStringEntryProto(key="pkg.torch.onnx.stack_trace", value='File "/home/somebody/net.py", line 7')
    )
    graph = helper.make_graph([helper.make_node("F", ["x"], ["y"], domain="own")], "g", [], [])
    model = ir.from_proto(helper.make_model(graph, functions=[body]))
    keep_origins(model)
    (function,) = model.functions.values()
    assert dict(function[0].metadata_props) == {SOURCE_KEY: "net.py:7"}


def test_what_stands_in_for_a_node_has_its_origin_and_keeps_its_own() -> None:
    origin = {SOURCE_KEY: "net.py:7", MODULE_KEY: "norm", "mine": "not passed on"}
    bare, own = ir.node("Relu", []), ir.node("Relu", [], metadata_props={MODULE_KEY: "act"})
    inherit_origin(bare, origin)
    inherit_origin(own, origin)
    assert dict(bare.metadata_props) == {SOURCE_KEY: "net.py:7", MODULE_KEY: "norm"}
    assert dict(own.metadata_props) == {SOURCE_KEY: "net.py:7", MODULE_KEY: "act"}


def test_a_file_of_torchs_exporter_keeps_its_modules_and_no_path(tmp_path: Path) -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Flatten()))
    file = tmp_path / "net.onnx"
    torch.onnx.export(network.eval(), (torch.zeros(1, 1, 8, 8),), file, dynamo=True, verbose=False)
    assert str(Path(torch.__file__).parent).encode() in file.read_bytes()
    program = load_source(str(file)).program
    assert [node.metadata_props.get(MODULE_KEY) for node in program.graph] == ["0", "1.0", "1.1"]
    assert b"site-packages" not in program.onnx_bytes
    assert b"stack_trace" not in program.onnx_bytes
