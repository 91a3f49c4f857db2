"""NAS-Bench-201 cells: the published sizes of the extreme cells, and the fast graph against the exported one."""

import csv
from dataclasses import replace
from importlib.resources import files

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from passes.onnx_level.fold_constants import fold
from passes.quiet import quiet_libraries
from targets.graph import read_workload
from targets.workload import Workload
from toolkit.bench.networks.nasbench201 import build_cell, cell_edges
from toolkit.bench.networks.nasbench201_graph import cell_graph
from toolkit.bench.published import published_rows
from toolkit.errors import ToolkitError

pytestmark = pytest.mark.slow

FUSES = ("batch_norm", "relu")
CELLS = (
    "|skip_connect~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_3x3~0|skip_connect~1|avg_pool_3x3~2|",
    "|avg_pool_3x3~0|+|skip_connect~0|skip_connect~1|+|skip_connect~0|skip_connect~1|skip_connect~2|",
    "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_1x1~1|+|avg_pool_3x3~0|nor_conv_3x3~1|nor_conv_1x1~2|",
)


def of_one_operation(name: str) -> str:
    return "+".join("|" + "".join(f"{name}~{source}|" for source in range(node)) for node in (1, 2, 3))


def exported_workload(network: nn.Module) -> Workload:
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.5, 1)  # no two norms alike: equal constants would become one
    with quiet_libraries(), torch.no_grad():
        program = torch.export.export(network, (torch.zeros(1, 3, 32, 32),), strict=False)
        result = torch.onnx.export(program, (), dynamo=True, opset_version=18, optimize=False, verbose=False)
        assert result is not None
        fold(result.model, max_elements=4096)
    return read_workload(result.model, fuses=FUSES)


def unnamed(work: Workload) -> Workload:
    """Operators and tensors called by their place in the order."""
    names = {name: str(i) for i, name in enumerate(work.tensor_bytes)}
    return replace(
        work,
        name="",
        operators=tuple(
            replace(op, name=str(i), reads=tuple(names[n] for n in op.reads), writes=tuple(names[n] for n in op.writes))
            for i, op in enumerate(work.operators)
        ),
        tensor_bytes={names[n]: size for n, size in work.tensor_bytes.items()},
        float_tensors=frozenset(names[n] for n in work.float_tensors),
        inputs=tuple(names[n] for n in work.inputs),
        outputs=tuple(names[n] for n in work.outputs),
    )


@pytest.mark.parametrize(
    ("operation", "parameters", "mega_macs"),
    [("nor_conv_3x3", 1_531_546, 220.12), ("skip_connect", 73_306, 7.78)],  # the largest and smallest of the benchmark
)
def test_parameters_and_multiply_accumulates_are_the_published_ones(
    operation: str, parameters: int, mega_macs: float
) -> None:
    with torch.device("meta"):
        network, image = build_cell(of_one_operation(operation)), torch.empty(1, 3, 32, 32)
    with torch.no_grad(), FlopCounterMode(display=False) as flops:
        network(image)
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert round(flops.get_total_flops() / 2e6, 2) == mega_macs


@pytest.mark.parametrize("arch", CELLS)
def test_the_fast_graph_is_the_exported_one(arch: str) -> None:
    assert unnamed(read_workload(cell_graph(arch), fuses=FUSES)) == unnamed(exported_workload(build_cell(arch)))


def test_the_fast_graph_runs_in_onnxruntime() -> None:
    import numpy as np
    import onnx_ir as ir
    import onnxruntime

    session = onnxruntime.InferenceSession(ir.to_proto(cell_graph(CELLS[0])).SerializeToString())
    (result,) = session.run(None, {"input": np.zeros((1, 3, 32, 32), np.float32)})
    assert result.shape == (1, 10)


def test_every_published_cell_is_understood() -> None:
    rows = csv.DictReader(
        files("toolkit.bench").joinpath("rows", "nasbench201", "measured.csv").read_text("utf-8").splitlines()
    )
    cells = [cell_edges(row["arch"]) for row in rows]
    assert len(cells) == 1500
    assert all([len(node) for node in nodes] == [1, 2, 3] for nodes in cells)


def test_the_cells_are_no_published_rows_of_a_stack() -> None:
    assert all("arch" not in row for row in published_rows())


@pytest.mark.parametrize(
    ("arch", "reason"),
    [
        ("", "is no edge"),
        ("|none~0|+|skip_connect~0|skip_connect~1|+|skip_connect~0|skip_connect~1|skip_connect~2|", "is no edge"),
        ("|skip_connect~0|+|skip_connect~0|", "three nodes"),
        ("|skip_connect~1|+|skip_connect~0|+|skip_connect~0|", "reading earlier"),
    ],
)
def test_other_strings_are_refused(arch: str, reason: str) -> None:
    for take in (build_cell, cell_graph):
        with pytest.raises(ToolkitError, match=reason):
            take(arch)
