"""The published networks as ONNX graphs without weights, kept in the cache folder.

A network is built on torch's meta device and exported, which takes seconds; its graph is stored with the large
constants left out (a cost model reads shapes alone), so that every later reading takes a fraction of one.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib.metadata import version
from inspect import getsourcefile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from toolkit.bench.networks import build, canonical
from toolkit.cache import cache_folder

if TYPE_CHECKING:
    import onnx_ir as ir
    from torch import nn

__all__ = ["graph_of"]

_KEPT_BYTES = 16_384  # constants above this are weights; the small ones say what shapes are


@lru_cache(maxsize=4)
def graph_of(model: str, input_shape: str) -> ir.Model | None:
    """The graph, with static and inferred shapes at batch 1, of the network that a published row names.

    Args:
        model: The row's `model`, or a key of `NETWORKS`.
        input_shape: The row's `input_shape`, for example `1x224x224x3`.

    Returns:
        None where the network is not defined here.
    """
    import onnx_ir as ir
    import torch

    with torch.device("meta"):
        built = build(model, input_shape)
    if built is None:
        return None
    network, shape = built
    path = cache_folder() / "graphs" / f"{canonical(model) or model}-{_digest(network, shape)}.onnx"
    if not path.is_file():
        graph = _export(network, shape)
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=path.parent) as scratch:
            part = Path(scratch, path.name)
            ir.save(graph, part, external_data="weights", size_threshold_bytes=_KEPT_BYTES)
            part.rename(path)
    return ir.load(path)


def _digest(network: nn.Module, shape: tuple[int, ...]) -> str:
    """Of what decides the graph: the modules and their hyperparameters, the code of their classes, the exporter."""
    classes = {getsourcefile(type(module)) for module in network.modules()}
    own = sorted(name for name in classes if name and Path(name).parent.name == "networks")
    state = hashlib.sha256(f"{version('torch')} {shape[1:]} {network}".encode())
    for name in (*own, __file__):
        state.update(Path(name).read_bytes())
    return state.hexdigest()[:16]


def _export(network: nn.Module, shape: tuple[int, ...]) -> ir.Model:
    import torch

    from passes.onnx_level.fold_constants import fold
    from passes.quiet import quiet_libraries
    from passes.torch_level.operator_library import operators_read_once

    network.to_empty(device="cpu")
    rng = torch.Generator().manual_seed(0)
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.is_floating_point():
            tensor.data.uniform_(0.5, 1.5, generator=rng)  # constants that are equal would be merged
    with quiet_libraries(), operators_read_once(), torch.no_grad():
        program = torch.export.export(network, (torch.zeros(1, *shape[1:]),), strict=False)
        result = torch.onnx.export(program, (), dynamo=True, opset_version=18, optimize=False, verbose=False)
        assert result is not None
        fold(result.model, max_elements=4096)
    return result.model
