"""Where the nodes of a graph come from: the module and the line of the user's network that each was exported from."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from itertools import chain
from typing import TYPE_CHECKING

from targets.graph import MODULE_KEY, SOURCE_KEY

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["inherit_origin", "keep_origins"]

_TRACE, _SCOPES = "pkg.torch.onnx.stack_trace", "pkg.torch.onnx.name_scopes"
_NOTES = ("pkg.torch.", "namespace")
"""What the keys of torch's exporter begin with."""

_INSTALLED = re.compile(r"[/\\](site|dist)-packages[/\\]torch[/\\]")
_FRAME = re.compile(r'^\s*File "([^"]+)", line (\d+)', re.MULTILINE)


def keep_origins(model: ir.Model) -> None:
    """Replace the notes of torch's exporters on each node by its module and its line; absolute paths do not stay.

    The older exporter keeps its traces in the nodes' doc strings, which go.
    """
    for node in chain(model.graph.all_nodes(), *(function.all_nodes() for function in model.functions.values())):
        notes, node.doc_string = node.metadata_props, None
        source, module = _line(notes.get(_TRACE, "")), _module(notes.get(_SCOPES, ""))
        for key in [key for key in notes if key.startswith(_NOTES)]:
            del notes[key]
        if source:
            notes[SOURCE_KEY] = source
        if module:
            notes[MODULE_KEY] = module


def inherit_origin(node: ir.Node, origin: Mapping[str, str]) -> None:
    """Give a node the module and the line of one in whose place it stands, where it has none of its own."""
    for key in (SOURCE_KEY, MODULE_KEY):
        if key in origin:
            node.metadata_props.setdefault(key, origin[key])


def _module(scopes: str) -> str:
    """The innermost module of "['', 'stem', 'conv2d']", whose last name is the operator's."""
    names = [name.strip(" '\"") for name in scopes.strip("[]").split(",")]
    return names[-2] if len(names) > 1 else ""


def _line(stack_trace: str) -> str:
    """`package/file.py:12` of the innermost frame outside torch, wherever torch was installed."""
    for file, number in reversed(_FRAME.findall(stack_trace)):
        if not _is_torchs(file):
            return f"{_module_path(file)}:{number}"
    return ""


def _is_torchs(file: str) -> bool:
    return _INSTALLED.search(file) is not None or file.startswith(_torchs_folder())


@cache
def _torchs_folder() -> str:
    """Found without importing it: a graph may be read that needs no torch."""
    spec = find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    return os.path.dirname(spec.origin) + os.sep


def _module_path(file: str) -> str:
    """The path under the folder that Python imports it from, so that it is the same on every machine."""
    roots = [os.path.abspath(root) + os.sep for root in sys.path]
    under = [root for root in roots if file.startswith(root)]
    return file.removeprefix(max(under, key=len)).replace(os.sep, "/") if under else re.split(r"[/\\]", file)[-1]
