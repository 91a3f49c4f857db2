"""The plain-data files of a bundle: what it was made of, in a form that others read and that replays it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from passes.context import Budget
from passes.dataset import Dataset
from passes.program import Program
from passes.recipe import Recipe
from targets.stack import Stack
from toolkit.backends.ahead_of_time.building import compiler_version
from toolkit.backends.ahead_of_time.machines import MACHINES
from toolkit.bundle.hashes import hashes_of
from toolkit.bundle.layout import MANIFEST, SCHEMA
from toolkit.names import IN_MEMORY
from toolkit.version import __version__
from toolkit.yaml_file import write_yaml

__all__ = ["dump_json", "library_versions", "model_facts", "portable", "recipe_data", "write_manifest", "write_recipe"]

_LIBRARIES = ("flatbuffers", "numpy", "onnx", "onnx-ir", "onnxruntime", "onnxscript", "torch")
_RUNTIMES = ("ai-edge-litert",)
"""Extras whose answers golden.npz holds, where they are installed."""


def library_versions(machine: str = "") -> dict[str, str]:
    """The versions that decide a bundle's bytes.

    Args:
        machine: That a program is compiled for; see `toolkit.backends.ahead_of_time.machines`.

    Raises:
        MissingDependency: there is no compiler for it.
    """
    found = {"edge-toolkit": __version__, **{name: version(name) for name in _LIBRARIES}}
    found |= {name: version(name) for name in _RUNTIMES if find_spec(name.replace("-", "_")) is not None}
    if machine:
        found |= {"apache-tvm": version("apache-tvm"), "C compiler": compiler_version(MACHINES[machine])}
    return found


def model_facts(program: Program, spec: str, data: Dataset | None, validation: Dataset | None) -> dict[str, Any]:
    """Identity of the model and of the data it was calibrated and proved on."""
    return {
        "name": program.name,
        "source": portable(spec),
        "digest": program.digest,
        "inputs": [str(s) for s in program.signature.inputs],
        "outputs": [str(s) for s in program.signature.outputs],
        "data": data.name if data else "",
        "data_digest": data.digest if data else "",
        "validation": validation.name if validation else "",
        "validation_digest": validation.digest if validation else "",
        "preprocessing": next((part.preprocessing for part in (data, validation) if part and part.preprocessing), ""),
    }


def recipe_data(
    *,
    spec: str,
    stack: Stack,
    recipe: Recipe,
    seed: int,
    budget: Budget,
    data: Any,
    validation: Any,
    preprocess: str | None,
    trainer: Any,
    inputs: list[str],
    fixed: list[str],
) -> dict[str, Any]:
    """A Config that makes the same bundle again; what lives in memory only is left out and must be given again."""
    fields = {
        "model": portable(spec),
        "target": stack.target,
        "stack": stack.name,
        "data": _named(data),
        "validation": _named(validation),
        "preprocess": preprocess or None,
        "input": inputs or None,
        "fix": fixed or None,
        "seed": seed,
        "budget": asdict(budget),
        "recipe": recipe.name,
        "trainer": _named(trainer),
        "passes": recipe.to_data(),
    }
    return {key: value for key, value in fields.items() if value is not None}


def _named(data: Any) -> str | None:
    if data is None:
        return None
    return portable(data) if isinstance(data, (str, Path)) else IN_MEMORY


def portable(spec: str | Path) -> str:
    """A path without the machine it was typed on: relative to here where it lies below, else the bare name."""
    path = Path(spec)
    if not path.is_absolute():
        return str(spec)
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else path.name


def write_recipe(folder: Path, data: Mapping[str, Any]) -> None:
    """recipe.yaml"""
    (folder / "recipe.yaml").write_text(write_yaml(dict(data)), "utf-8")


def write_manifest(folder: Path, report: Mapping[str, Any], program: Program, stack: Stack) -> None:
    """manifest.json, last of all files: it holds the hash of every other one."""
    manifest = {
        "schema": SCHEMA,
        "name": program.name,
        "signature": program.signature.to_json(),
        "target": report["target"]["name"],
        "stack": stack.id,
        "backend": stack.backend,
        **{key: report[key] for key in ("artifact", "model", "recipe", "verdict", "proofs", "versions")},
        "sha256": hashes_of(folder),
    }
    dump_json(folder / MANIFEST, manifest)


def dump_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write JSON that is the same for the same content."""
    path.write_text(json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n", "utf-8")
