"""Calibration and validation data: from arrays, .npz, .npy, folders of .npy, or `module:factory`.

Nothing is read as a pickle. A sample keeps a batch dimension of the size that the model wants; data with a varying or
unit batch is cut along its first axis.
"""

from __future__ import annotations

import inspect
import traceback
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from passes.dataset import Array, Dataset, Sample
from passes.signature import Signature
from targets.errors import InvalidInput, ToolkitError, UsageError
from toolkit.names import IN_MEMORY

__all__ = ["LABELS", "first_sample", "load_data", "load_factory"]

LABELS = "labels"
"""Name of the array that holds the class of each sample."""


def load_data(spec: Any, signature: Signature, *, name: str = "") -> Dataset:
    """A Dataset whose samples fit `signature`.

    Args:
        spec: A Dataset; an array or a mapping of arrays with samples along the first axis, `labels` among them where
            there are any; a path to .npz, .npy or a folder of .npy files (one sample a file); or `module:factory`,
            a callable that returns any of these.

    Raises:
        InvalidInput: it cannot be read, or does not fit the model's inputs.
    """
    if isinstance(spec, str) and spec == IN_MEMORY:
        raise UsageError("this recipe was made with data in memory", hint="name the data: --data")
    if isinstance(spec, Dataset):
        data = spec
    elif isinstance(spec, Mapping):
        data = _from_arrays(name or "arrays", {str(k): np.asarray(v) for k, v in spec.items()}, signature)
    elif isinstance(spec, (str, Path)):
        data = _from_path(str(spec), signature)
    else:
        data = _from_arrays(name or "arrays", {signature.inputs[0].name: np.asarray(spec)}, signature)
    first = next(iter(data), None)
    if first is None:
        raise InvalidInput(f"data {data.name!r} has no samples", hint="give at least one sample")
    signature.check_inputs(first)
    return data


def first_sample(spec: Any) -> Any:
    """One sample of data given before the model's signature is known, to take its shapes from; None where unclear."""
    if isinstance(spec, Dataset):
        return next(iter(spec), None)
    if isinstance(spec, (str, Path)):
        path = Path(spec)
        if path.suffix != ".npz" or not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as stored:
                spec = {key: stored[key] for key in stored.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):
            return None  # load_data says what is wrong with it
    if isinstance(spec, Mapping):
        return {str(key): np.atleast_1d(value)[:1] for key, value in spec.items() if key != LABELS}
    return None if spec is None else np.atleast_1d(spec)[:1]


def load_factory(spec: str) -> Any:
    """Call `module:factory`, found from the current folder like `python -m` finds modules.

    Raises:
        InvalidInput: there is no such module or function.
    """
    import importlib
    import sys

    module_name, _, attribute = spec.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), *attribute.split("."))):
        raise InvalidInput(f"{spec!r} does not name a file, and is no module:function", hint="check how it is spelled")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    with _user_code(f"importing {module_name}"):
        try:
            target: Any = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            own = error.name is not None and module_name.startswith(error.name)
            hint = f"run from the folder that holds {module_name}.py, or install it" if own else f"install {error.name}"
            raise InvalidInput(f"no module {error.name!r}", hint=hint) from error
    for part in attribute.split("."):
        if not hasattr(target, part):
            raise InvalidInput(f"{module_name} has no {attribute!r}", hint="write it as module:function")
        target = getattr(target, part)
    if not (inspect.isroutine(target) or inspect.isclass(target)):
        return target
    with _user_code(f"calling {spec}"):
        return target()


@contextmanager
def _user_code(doing: str) -> Iterator[None]:
    """Whatever the user's own code raises is the user's to see, with the line it came from."""
    try:
        yield
    except (ToolkitError, KeyboardInterrupt, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
        text = " ".join(str(error).split())[:200]
        raise InvalidInput(
            f"{doing} raised {type(error).__name__}: {text}{where}", hint="correct your code; -vv shows the whole trace"
        ) from error


def _from_path(spec: str, signature: Signature) -> Dataset:
    path = Path(spec)
    if not path.exists() and ":" in spec:
        made = load_factory(spec)
        if isinstance(made, tuple) and len(made) == 2:
            images, labels = made
            arrays = dict(images) if isinstance(images, Mapping) else {signature.inputs[0].name: np.asarray(images)}
            made = {**arrays, LABELS: np.asarray(labels)}
        return load_data(made, signature, name=spec)
    if path.is_dir():
        return _from_folder(path, signature)
    try:
        loaded = np.load(path, allow_pickle=False)
        arrays = {k: loaded[k] for k in loaded.files} if hasattr(loaded, "files") else {"arr_0": loaded}
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InvalidInput(
            f"cannot read data {spec}: {reason}", hint="give .npz, .npy, a folder of .npy, or module:factory"
        ) from error
    return _from_arrays(path.name, arrays, signature)


def _from_arrays(name: str, arrays: dict[str, Array], signature: Signature) -> Dataset:
    labels = _classes(name, arrays.pop(LABELS, None))
    if not arrays:
        raise InvalidInput(
            f"data {name!r} holds no samples", hint=f"name the arrays {', '.join(i.name for i in signature.inputs)}"
        )
    if any(a.ndim == 0 or a.dtype == object for a in arrays.values()):
        raise InvalidInput(
            f"data {name!r} holds something that is no array of samples", hint="give numeric arrays, samples first"
        )
    if len(arrays) == 1 and len(signature.inputs) == 1:
        arrays = {signature.inputs[0].name: next(iter(arrays.values()))}
    sizes = {len(a) if a.ndim else 0 for a in arrays.values()} | ({len(labels)} if labels is not None else set())
    if len(sizes) != 1:
        raise InvalidInput(
            f"data {name!r}: arrays of different length: {sorted(sizes)}", hint="give every array one row a sample"
        )
    _check_batch(signature)
    for key, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise InvalidInput(f"data {name!r}: {key} holds NaN or infinity", hint="remove the samples that do")
    return Dataset.of_arrays(name, arrays, labels)


def _classes(name: str, labels: Array | None) -> Array | None:
    if labels is not None and (labels.ndim != 1 or labels.dtype.kind not in "iu" or (labels < 0).any()):
        raise InvalidInput(
            f"data {name!r}: labels must be one class number a sample, got {labels.dtype} {list(labels.shape)}",
            hint="store integers from 0 up",
        )
    return labels


def _check_batch(signature: Signature) -> None:
    for spec in signature.inputs:
        if spec.shape and isinstance(spec.shape[0], int) and spec.shape[0] != 1:
            raise InvalidInput(
                f"{spec.name} has a fixed batch of {spec.shape[0]}: data cannot be cut into samples of one",
                hint="export the model with batch 1 or a varying batch, or give data as a Dataset",
            )


def _from_folder(path: Path, signature: Signature) -> Dataset:
    found = sorted(path.glob("*.npy"))
    if not found:
        raise InvalidInput(f"no .npy files in {path}", hint="save one sample a file with numpy.save")
    spec = signature.inputs[0]
    if len(signature.inputs) > 1:
        raise InvalidInput("a folder of .npy holds one input, the model takes several", hint="give an .npz")

    def read() -> Iterator[Sample]:
        for file in found:
            try:
                array = np.load(file, allow_pickle=False)
            except (OSError, ValueError, EOFError) as error:
                raise InvalidInput(f"cannot read {file.name}: {error}", hint="save it again with numpy.save") from error
            sample = array if array.ndim == len(spec.shape) else array[None]
            if problem := spec.accepts(sample):
                raise InvalidInput(f"{file.name}: {problem}", hint="make every file one sample of the same kind")
            yield {spec.name: sample}

    return Dataset(path.name, read, len(found))
