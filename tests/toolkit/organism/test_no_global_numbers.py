"""Nobody draws from a generator that all share, or seeds one without putting it back: read from the sources."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
OURS = {"torch.manual_seed", "torch.cuda.manual_seed"}
"""Allowed where `fork_rng` stands around them: it puts the generators back."""
AROUND = {("toolkit/training/repeatable.py", "reseed")}
"""Called within `repeatable`, whose block is a fork_rng."""
LEGACY = {"choice", "normal", "permutation", "rand", "randint", "randn", "random", "seed", "shuffle", "uniform"}


def named(node: ast.expr) -> str:
    return ast.unparse(node) if isinstance(node, ast.Attribute | ast.Name) else ""


def is_global(call: str, imports: set[str]) -> bool:
    head, _, last = call.rpartition(".")
    if head in ("np.random", "numpy.random"):
        return last in LEGACY
    return head == "random" and "random" in imports and last not in ("Random", "SystemRandom")


def offences(source: str, file: str) -> Iterator[str]:
    tree = ast.parse(source)
    imports = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}

    def walk(node: ast.AST, forked: bool, function: str) -> Iterator[str]:
        if isinstance(node, ast.With):
            forked = forked or any("fork_rng" in ast.unparse(item.context_expr) for item in node.items)
        if isinstance(node, ast.FunctionDef):
            function = node.name
        if isinstance(node, ast.Call):
            call = named(node.func)
            if call in OURS and not forked and (file, function) not in AROUND:
                yield f"{file}:{node.lineno}: {call} without fork_rng"
            if is_global(call, imports):
                yield f"{file}:{node.lineno}: {call}"
        for child in ast.iter_child_nodes(node):
            yield from walk(child, forked, function)

    yield from walk(tree, False, "")


def test_no_source_of_ours_does() -> None:
    found = []
    for package in ("toolkit", "passes", "targets", "kernels"):
        for path in sorted((ROOT / package).rglob("*.py")):
            source = path.read_text("utf-8")
            if "manual_seed" in source or "random" in source:
                found += offences(source, path.relative_to(ROOT).as_posix())
    assert found == []


@pytest.mark.parametrize(
    ("source", "caught"),
    [
        ("import random\nrandom.shuffle(x)", True),
        ("import random\nrandom.Random(0).shuffle(x)", False),
        ("import numpy as np\nnp.random.rand(3)", True),
        ("import numpy as np\nnp.random.Generator(bits)", False),
        ("import torch\ntorch.manual_seed(0)", True),
        ("import torch\nwith torch.random.fork_rng():\n    torch.manual_seed(0)", False),
        ("def move(random):\n    return random.choice([1])", False),
    ],
)
def test_what_is_caught(source: str, caught: bool) -> None:
    assert bool(list(offences(source, "some.py"))) is caught
