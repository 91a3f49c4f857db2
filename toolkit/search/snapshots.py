"""A whole archive as a folder of plain files: no pickle, every byte checked.

manifest.json says which generation counts and holds a digest of each of its files but those of genomes, whose ids are
digests of what is in them. It is replaced last and in one step, so a folder is always the old archive or the new one.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.errors import ArchiveFormatError
from toolkit.search.archive import CVTArchive
from toolkit.search.behavior import BehaviorSpace
from toolkit.search.elites import Candidate
from toolkit.search.genomes import Genome
from toolkit.search.shards import Shard, has_tensors, write_shards
from toolkit.version import __version__

__all__ = ["FORMAT", "MANIFEST", "manifest_of", "read_snapshot", "write_snapshot"]

FORMAT = "edge-toolkit archive 1"
MANIFEST = "manifest.json"
_NUMBERS = ("measures", "quality", "n", "m2", "violation")


def write_snapshot(archive: CVTArchive, folder: Path, generation: int) -> None:
    """Write `archive` as one generation of `folder`, and make it the one that counts.

    Raises:
        OSError: the disk is full, or not to be written to; the generation before still counts.
    """
    place = folder / _name(generation)
    place.mkdir(parents=True)
    elites = list(archive)
    candidates, ids = [elite.candidate() for elite in elites], [elite.id for elite in elites]
    tensors = ((i, c.genome) for i, c in zip(ids, candidates, strict=True) if has_tensors(c.genome))
    shards = dict(write_shards(place, tensors))
    lines = [json.dumps({"id": i, "meta": dict(c.meta), "parents": list(c.parents),
                         **({"shard": shards[i]} if i in shards else {"genome": dict(_configuration(c.genome))})})
             for i, c in zip(ids, candidates, strict=True)]  # fmt: skip
    (place / "elites.jsonl").write_text("".join(line + "\n" for line in lines), "utf-8")
    (place / "space.json").write_text(json.dumps(archive.space.to_dict()), "utf-8")
    np.save(place / "centroids.npy", archive.cells.centroids)
    columns: dict[str, Any] = {name: np.array([getattr(c, name) for c in candidates]) for name in _NUMBERS}
    columns |= {name: np.array([getattr(elite, name) for elite in elites]) for name in ("birth", "curiosity")}
    columns |= {f"examples-{k}": c.examples for k, c in enumerate(candidates) if c.examples is not None}
    np.savez(place / "index.npz", **columns)
    checked = sorted(p for p in place.iterdir() if p.suffix != ".safetensors")
    manifest = {
        "format": FORMAT, "toolkit": __version__, "generation": generation, "elites": len(ids), "seen": archive.seen,
        "space": archive.space.digest, "centroids": archive.cells.digest, "rules": archive.rules,
        "files": {path.name: _digest(path) for path in checked}, "shards": sorted(set(shards.values())),
    }  # fmt: skip
    for path in [*place.iterdir(), place]:
        _to_disk(path)
    scratch = folder / (MANIFEST + ".new")
    scratch.write_text(json.dumps(manifest, indent=1, sort_keys=True), "utf-8")
    _to_disk(scratch)
    os.replace(scratch, folder / MANIFEST)
    _to_disk(folder)


def manifest_of(folder: Path) -> Mapping[str, Any]:
    """What `folder` says of itself.

    Raises:
        ArchiveFormatError: it is no archive, or one of another version.
    """
    try:
        manifest: Any = json.loads((folder / MANIFEST).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ArchiveFormatError(f"{folder} is no archive: {error}", hint="name the folder of a search") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else manifest
        raise ArchiveFormatError(
            f"{folder} is an archive of the format {found!r}, this is {FORMAT!r}", hint="open it with its own version"
        )
    return manifest


def read_snapshot(folder: Path) -> CVTArchive:
    """The archive that the manifest names. Genomes of arrays are mapped, and checked when they are looked at.

    Raises:
        ArchiveFormatError: it is no archive, of another version, cut off, or a byte was changed.
    """
    manifest = manifest_of(folder)
    try:
        place = folder / _name(int(manifest["generation"]))
        for name, digest in manifest["files"].items():
            if Path(name).name != name or _digest(place / name) != digest:
                raise ArchiveFormatError(f"{name} of {folder} was changed", hint="take the archive from a copy")
        archive = CVTArchive(
            BehaviorSpace.from_dict(json.loads((place / "space.json").read_text("utf-8"))),
            np.load(place / "centroids.npy", allow_pickle=False), **manifest["rules"],
        )  # fmt: skip
        columns = _columns(place)
        candidates = _candidates(place, manifest, columns)
        archive.restore(zip(candidates, columns["birth"].tolist(), strict=True), seen=int(manifest["seen"]))
        archive.set_curiosity(columns["curiosity"].tolist())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArchiveFormatError(f"{folder} cannot be read: {error}", hint="take the archive from a copy") from error
    if archive.space.digest != manifest["space"] or archive.cells.digest != manifest["centroids"]:
        raise ArchiveFormatError(f"the space of {folder} is not the one it names", hint="take it from a copy")
    return archive


def _columns(place: Path) -> dict[str, Any]:
    with np.load(place / "index.npz", allow_pickle=False) as index:
        return {name: index[name] for name in index.files}


def _candidates(place: Path, manifest: Mapping[str, Any], columns: Mapping[str, Any]) -> list[Candidate]:
    shards = {name: Shard(place / Path(name).name) for name in manifest["shards"]}
    entries = [json.loads(line) for line in (place / "elites.jsonl").read_text("utf-8").splitlines()]
    return [
        Candidate(
            shards[entry["shard"]].genome(entry["id"]) if "shard" in entry else entry["genome"],
            columns["measures"][k], float(columns["quality"][k]), int(columns["n"][k]), float(columns["m2"][k]),
            float(columns["violation"][k]), columns.get(f"examples-{k}"), entry["meta"], tuple(entry["parents"]),
        ) for k, entry in enumerate(entries)
    ]  # fmt: skip


def _configuration(genome: Genome) -> Mapping[str, Any]:
    assert isinstance(genome, Mapping)
    return genome


def _name(generation: int) -> str:
    return f"generation-{generation:04d}"


def _digest(path: Path) -> str:
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
