"""A model of organisms as a folder: JSON and safetensors, each file with its digest; no code is in it.

organism.json holds the config and who lives; weights.safetensors the weights; examples.safetensors, where there are
any, samples to calibrate with ("x", and "labels" or none); archive/ what an archive wrote.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from passes.dataset import Dataset
from targets.errors import InvalidInput, ToolkitError
from toolkit.digests import canonical_digest
from toolkit.models.blueprints.config import parse
from toolkit.models.trained_folder import ORGANISM, sha256
from toolkit.organism.errors import first_line
from toolkit.organism.native import SlimeModel
from toolkit.organism.pseudopod import count_parameters
from toolkit.organism.settings import SlimeConfig

__all__ = ["Opened", "read_folder", "write_folder"]

WEIGHTS, EXAMPLES, ARCHIVE = "weights.safetensors", "examples.safetensors", "archive"
_SCHEMA = "toolkit.organism/1"
_EXTRA = "_extra_state"
_AGAIN = "train it again, toolkit train RECIPE -o FOLDER --force, or write it again: model.save(folder, force=True)"


@dataclass(frozen=True)
class Opened:
    """A folder's model, in eval mode, and the samples that lie beside it."""

    model: SlimeModel
    examples: Mapping[str, NDArray[Any]]

    @property
    def example(self) -> dict[str, NDArray[Any]]:
        """One input: the first of the examples, or zeros of the longest sequence."""
        if "x" in self.examples:
            return {"x": self.examples["x"][:1]}
        config = self.model.config
        shape = (1, config.length) if config.ids else (1, config.length, config.inputs)
        return {"x": np.zeros(shape, np.int64 if config.ids else np.float32)}

    def dataset(self, name: str) -> Dataset | None:
        """The examples; None where there are none."""
        if "x" not in self.examples:
            return None
        return Dataset.of_arrays(name, {"x": self.examples["x"]}, self.examples.get("labels"))


def write_folder(
    model: SlimeModel, folder: Path, *, examples: Mapping[str, NDArray[Any]] | None = None, force: bool = False,
    write_archive: Callable[[Path], Any] | None = None,
) -> Path:  # fmt: skip
    """Write `model` to `folder`, whole or not at all.

    Args:
        examples: "x" (k, L) or (k, L, inputs), and "labels" or none: what an int8 compile calibrates with.
        force: Replace a folder of an organism that is there.
        write_archive: Called with the path that an archive is to be saved to.

    Raises:
        InvalidInput: something else is there, an organism has a memory, which is not kept here, or the examples are
            not what the model reads.
    """
    from safetensors.numpy import save_file
    from safetensors.torch import save_file as save_tensors

    _check_free(folder, force)
    _check_no_memory(model)
    kept = _checked_examples(model, examples or {})
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        state = model.state_dict()
        weights = {name: value.contiguous().cpu() for name, value in state.items() if isinstance(value, Tensor)}
        save_tensors(weights, scratch / WEIGHTS)
        if kept:
            save_file(kept, scratch / EXAMPLES)
        if write_archive is not None:
            write_archive(scratch / ARCHIVE)
        told = {
            "schema": _SCHEMA, "config": model.config.model_dump(mode="json"),
            "organisms": {name: value for name, value in state.items() if name.endswith(_EXTRA)},
            "files": {name: sha256(scratch / name) for name in (WEIGHTS, EXAMPLES) if (scratch / name).is_file()},
        }  # fmt: skip
        told["digest"] = canonical_digest(told)
        (scratch / ORGANISM).write_text(json.dumps(told, indent=1, allow_nan=False) + "\n", "utf-8")
        scratch.chmod(0o755)
        _put(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def read_folder(folder: Path) -> Opened:
    """What `write_folder` wrote, held against its digests.

    Raises:
        InvalidInput: a file is missing, damaged or changed, or was written by another version.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file
    from safetensors.torch import load_file as load_tensors

    told = _told(folder)
    for name, digest in told["files"].items():
        if sha256(folder / name) != digest:
            raise InvalidInput(f"{folder / name} is not what was saved", hint=_AGAIN)
    try:
        weights: dict[str, Any] = dict(load_tensors(folder / WEIGHTS))
        examples = load_file(folder / EXAMPLES) if EXAMPLES in told["files"] else {}
    except (OSError, SafetensorError, TypeError) as error:  # TypeError: numpy has no such numbers
        raise InvalidInput(f"cannot read the tensors in {folder}: {error}", hint=_AGAIN) from error
    config = parse(SlimeConfig, told["config"])
    most = sum(value.numel() for value in weights.values())
    _check_config(config, most, folder)
    _check_sizes(told["organisms"], most, folder)
    try:
        model = SlimeModel(config)
        model.load_state_dict({**weights, **told["organisms"]})
        examples = _checked_examples(model, examples)
    except InvalidInput:
        raise
    except (ToolkitError, RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidInput(f"{folder} does not fit together: {first_line(error)}", hint=_AGAIN) from error
    return Opened(model.eval(), examples)


def _told(folder: Path) -> dict[str, Any]:
    path = folder / ORGANISM
    try:
        found = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}", hint=_AGAIN) from error
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{path} is cut short or damaged", hint=_AGAIN) from error
    schema = found.get("schema") if isinstance(found, dict) else None
    if schema != _SCHEMA:
        raise InvalidInput(
            f"{path} is of {schema!r}, this version reads {_SCHEMA!r}", hint="open it with the version that wrote it"
        )
    parts = [found.get(name) for name in ("config", "organisms", "files")]
    if not all(isinstance(part, dict) for part in parts) or not {WEIGHTS} <= set(parts[2]) <= {WEIGHTS, EXAMPLES}:  # type: ignore[arg-type]
        raise InvalidInput(f"{path} is damaged", hint=_AGAIN)
    if not _is_unchanged(found):
        raise InvalidInput(f"{path} was changed after it was saved, or is damaged", hint=_AGAIN)
    told: dict[str, Any] = found
    return told


def _is_unchanged(found: dict[str, Any]) -> bool:
    """Whether the digest, which is taken out, is that of the rest; what has none, as NaN, was not written here."""
    digest = found.pop("digest", None)
    try:
        return bool(digest == canonical_digest(found))
    except (ValueError, RecursionError):
        return False


def _check_config(config: SlimeConfig, most: int, folder: Path) -> None:
    """Refuse a config of which the file holds a fraction: the model is made before weights are filled in.

    Layers besides the components are in the file. Founders may have gone, so more of those may be made than it holds.
    """
    around = config.d_model * max(config.layers * config.hidden, config.inputs, config.outputs, config.length)
    each = count_parameters(config.d_model, config.head_dim, config.rank, bias=True)
    if around > most or each * config.founders * config.layers > max(64 * most, 2**26):
        raise InvalidInput(f"{folder / ORGANISM} speaks of a larger model than {WEIGHTS} holds", hint=_AGAIN)


def _check_sizes(organisms: dict[str, Any], most: int, folder: Path) -> None:
    """Refuse components that would be larger together than all weights in the file, before they are made."""
    total = 0
    try:
        for extra in organisms.values():
            for header in extra["components"].values():
                rank, width = header["rank"], int(header["n_heads"]) * int(header["head_dim"])
                each = count_parameters(int(header["d_model"]), width, None if rank is None else int(rank), bias=False)
                total += each
                if each < 1 or total > most or width > most:
                    raise ValueError("its components are larger than its weights")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidInput(f"{folder / ORGANISM} is damaged: {first_line(error)}", hint=_AGAIN) from error


def _checked_examples(model: SlimeModel, examples: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    if not examples:
        return {}
    if "x" not in examples or not set(examples) <= {"x", "labels"}:
        raise InvalidInput(f"examples called {sorted(examples)}", hint='give "x", and "labels" or none')
    x = np.ascontiguousarray(examples["x"], np.int64 if model.config.ids else np.float32)
    if not len(x) or not np.isfinite(x).all():
        raise InvalidInput("no examples, or numbers among them that are not finite", hint="give one or more, or None")
    model.predict(x[:1])
    labels = {name: np.ascontiguousarray(value) for name, value in examples.items() if name == "labels"}
    if labels and len(labels["labels"]) != len(x):
        raise InvalidInput(f"{len(x)} examples and {len(labels['labels'])} labels", hint="give one for each")
    return {"x": x, **labels}


def _check_no_memory(model: SlimeModel) -> None:
    for name, organism in model.organisms.items():
        if organism.memory is not None:
            raise InvalidInput(
                f"{name} has a memory, which a folder does not keep",
                hint="export what freeze() gives, where it is kept; or set organism.memory = None before",
            )


def _check_free(folder: Path, force: bool) -> None:
    if not folder.exists():
        return
    is_empty = folder.is_dir() and not any(folder.iterdir())
    if not is_empty and not (force and (folder / ORGANISM).is_file()):
        raise InvalidInput(
            f"{folder} is there already", hint="choose another folder; force=True replaces that of an organism"
        )


def _put(scratch: Path, folder: Path) -> None:
    """Move `scratch` to `folder`; what was there is moved away first, and put back if the second move fails."""
    if not folder.exists():
        os.replace(scratch, folder)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
    os.replace(folder, old)
    try:
        os.replace(scratch, folder)
    except OSError:
        os.replace(old, folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
