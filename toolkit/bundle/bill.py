"""The bill of materials of a bundle, sbom.cdx.json: the model's files, what is shipped with them, what made them.

CycloneDX 1.6 (ECMA-424). The serial number is derived from the files, and no time is stated: equal bundles have equal
bills.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from toolkit.bundle.hashes import hashes_of
from toolkit.bundle.licences import Part, parts
from toolkit.version import __version__

__all__ = ["BILL", "bill_of_materials"]

BILL = "sbom.cdx.json"

_MODELS = (".onnx", ".tflite")
_PROGRAMS = ("program", "runner", "runner.exe")
_SPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://cyclonedx.org/schema/bom-1.6")


def bill_of_materials(folder: Path, report: Mapping[str, Any], shipped: Sequence[Part]) -> dict[str, Any]:
    """The document for the files that lie in `folder`.

    Args:
        report: The content of report.json.
        shipped: Distributions inside the programs of the bundle.
    """
    hashes = hashes_of(folder)
    artifact = report["artifact"]["file"]
    model = report["model"]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(_SPACE, ' '.join(f'{n}={h}' for n, h in sorted(hashes.items())))}",
        "version": 1,
        "metadata": {
            "tools": {"components": [_made_by(name, version) for name, version in sorted(report["versions"].items())]},
            "component": {
                "type": "machine-learning-model",
                "bom-ref": "model",
                "name": model["name"],
                "version": model["digest"],
                "description": f"{model['name']} for {report['target']['title']}, {report['stack']['runtime']}",
                "hashes": _sha256(hashes[artifact]),
            },
        },
        "components": [*(_file(name, sha) for name, sha in sorted(hashes.items())), *map(_library, shipped)],
        "dependencies": [
            {"ref": "model", "dependsOn": [f"file:{artifact}"]},
            *({"ref": f"file:{name}", "dependsOn": sorted(map(_url, shipped))} for name in hashes if _is_program(name)),
        ],
    }


def _made_by(name: str, version: str) -> dict[str, Any]:
    """A library that decided the bundle's bytes, and is not in it."""
    if name == "edge-toolkit":
        return {"type": "application", "name": name, "version": __version__, "licenses": _licences("Apache-2.0")}
    installed = parts(name, texts=False)
    described = _described(installed[0]) if installed else {"type": "library", "name": name}
    return {**described, "version": version}


def _file(name: str, sha256: str) -> dict[str, Any]:
    return {"type": _kind(name), "bom-ref": f"file:{name}", "name": name, "hashes": _sha256(sha256)}


def _kind(name: str) -> str:
    if name.endswith(_MODELS):
        return "machine-learning-model"
    return "application" if _is_program(name) else "library" if name.endswith(".so") else "file"


def _is_program(name: str) -> bool:
    return name.rpartition("/")[2] in _PROGRAMS


def _library(part: Part) -> dict[str, Any]:
    return {**_described(part), "bom-ref": _url(part)}


def _described(part: Part) -> dict[str, Any]:
    known = {"licenses": _licences(part.licence)} if part.licence else {}
    return {"type": "library", "name": part.name, "version": part.version, "purl": _url(part), **known}


def _url(part: Part) -> str:
    """Package URL; a local version such as +cpu is written as %2B says."""
    kind = "generic" if part.name == "python" else "pypi"
    return f"pkg:{kind}/{part.name}@{part.version.replace('+', '%2B')}"


def _licences(expression: str) -> list[dict[str, Any]]:
    return [{"expression": expression}]


def _sha256(content: str) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": content}]
