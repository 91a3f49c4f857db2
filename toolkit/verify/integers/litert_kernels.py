"""LiteRT's own kernels on this machine, for operators whose arithmetic is not known here."""

from __future__ import annotations

from typing import Any

from passes.quiet import silent_output
from targets.errors import MissingDependency

__all__ = ["loaded"]


def loaded(content: bytes, *, reference: bool) -> Any:
    """A file in LiteRT, ready to run.

    Args:
        reference: With the kernels that are written to be read; else with XNNPACK, as boards run it.

    Raises:
        MissingDependency: the extra `litert` is not installed.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType
    except ImportError as error:
        raise MissingDependency(
            "an operator of this .tflite is known to LiteRT alone, which is not installed here",
            hint="pip install 'edge-toolkit[litert]'",
        ) from error
    kernels = OpResolverType.BUILTIN_REF if reference else OpResolverType.BUILTIN
    with silent_output(2):  # it tells of its delegates
        interpreter = Interpreter(model_content=content, num_threads=1, experimental_op_resolver_type=kernels)
        interpreter.allocate_tensors()
    return interpreter
