"""From whatever the user names to a Dataset that fits the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from passes.dataset import Array, Dataset
from passes.signature import Signature
from targets.errors import InvalidInput, UsageError
from toolkit.data.array_folder import from_array_folder
from toolkit.data.arrays import from_arrays
from toolkit.data.factory import call, find_factory, user_code
from toolkit.data.files import first_rows, from_file
from toolkit.data.fitting import as_array, fitting
from toolkit.data.image_folder import SUFFIXES, from_images
from toolkit.data.labels import LABELS, check_positions, with_labels
from toolkit.data.listing import holds
from toolkit.data.sound import from_sound
from toolkit.data.streams import from_stream
from toolkit.names import IN_MEMORY

__all__ = ["check_preprocess_used", "first_sample", "load_data"]


def load_data(spec: Any, signature: Signature, *, preprocess: str | None = None) -> Dataset:
    """A Dataset whose samples fit `signature`; each is checked as it is read, the first one here.

    Args:
        spec: A path: .npz, .npy, a folder of .npy files (one sample a file; for several inputs a subfolder each, files
            paired by name), a folder of images (with a subfolder for each class, or none), one image, a .wav recording.
            `module:factory`, a callable that returns any of what follows, or an iterator.
            A Dataset; an array, or a mapping of arrays, with samples along the first axis; a pair of those and
            labels; an iterable of samples, or a function that returns one. A sample is an array, a mapping of arrays
            by input name, or a pair of either and its class.
            Labels are an array called `labels` in a mapping or .npz, `labels.npy` in a folder: a class for each sample,
            or for each position of the model's first output.
        preprocess: How images become inputs, see `Preprocessing.parse`; arrays are taken as they are.

    Raises:
        InvalidInput: it cannot be read, does not fit the model's inputs, or holds images and `preprocess` is missing.
        MissingDependency: it holds images and Pillow is not installed.
    """
    if isinstance(spec, str) and spec == IN_MEMORY:
        raise UsageError("this recipe was made with data in memory", hint="name the data: --data")
    if isinstance(spec, (str, Path)):
        data = _from_name(str(spec), signature, preprocess)
    else:
        data = _from_object("arrays", spec, signature, preprocess)
    if next(iter(data), None) is None:
        raise InvalidInput(f"data {data.name!r} has no samples", hint="give at least one sample")
    check_positions(data, signature)
    return data


def check_preprocess_used(preprocess: str | None, *data: Dataset | None) -> None:
    """A preprocessing that touches nothing would be believed to have been applied.

    Raises:
        UsageError: one is stated, there is data, and none of it is images.
    """
    given = [part for part in data if part is not None]
    if preprocess and given and not any(part.preprocessing for part in given):
        raise UsageError(
            f"--preprocess is for images; data {given[0].name!r} is taken as it is",
            hint="leave it out (--preprocess '' where a file states it), or give a folder of images",
        )


def first_sample(spec: Any) -> Any:
    """One sample of data given before the model's signature is known, to take its shapes from; None where unclear.

    Of a file only the first row is read.
    """
    if isinstance(spec, Dataset):
        return next(iter(spec), None)
    if isinstance(spec, (str, Path)):
        path = Path(spec)
        return _unless_invalid(lambda: first_rows(path)) if path.suffix in (".npz", ".npy") and path.is_file() else None
    if isinstance(spec, tuple) and len(spec) == 2:
        spec = spec[0]
    if isinstance(spec, Mapping):
        return _unless_invalid(lambda: {str(key): _first(value) for key, value in spec.items() if key != LABELS})
    return _unless_invalid(lambda: _first(spec)) if hasattr(spec, "__array__") else None


def _first(values: Any) -> Array:
    return np.atleast_1d(as_array(values, ""))[:1]


def _unless_invalid(make: Callable[[], Any]) -> Any:
    """None where `make` refuses; `load_data` then says what is wrong."""
    try:
        return make()
    except InvalidInput:
        return None


def _from_name(spec: str, signature: Signature, preprocess: str | None) -> Dataset:
    path = Path(spec)
    if not path.exists() and ":" in spec:
        return _from_factory(spec, find_factory(spec), signature, preprocess)
    if path.suffix.lower() in SUFFIXES and path.is_file():
        return from_images(path, signature, preprocess)
    if path.suffix.lower() == ".wav":
        return from_sound(path, signature)
    if not path.is_dir():
        return from_file(path, signature)
    arrays, images = holds(path, {".npy"}), holds(path, SUFFIXES)
    if arrays and images:
        raise InvalidInput(f"{path} holds both arrays and images", hint="keep them in folders of their own")
    if images:
        return from_images(path, signature, preprocess)
    if arrays:
        return from_array_folder(path, signature)
    raise InvalidInput(
        f"no .npy files and no images in {path}",
        hint="save one sample a file with numpy.save, or name a folder of pictures",
    )


def _from_factory(name: str, factory: Any, signature: Signature, preprocess: str | None) -> Dataset:
    """What `factory` returns; called again for every walk over the data where that is an iterator."""
    made = call(name, factory)
    if hasattr(made, "__next__"):
        return from_stream(name, factory, None, signature)
    if isinstance(made, (str, Path)):
        if not Path(made).exists():
            raise InvalidInput(f"{name} returned {str(made)!r}, which is no file", hint="return a path that exists")
        return _from_name(str(made), signature, preprocess)
    return _from_object(name, made, signature, preprocess)


def _from_object(name: str, made: Any, signature: Signature, preprocess: str | None) -> Dataset:
    if isinstance(made, Dataset):
        return fitting(made, signature)
    if isinstance(made, tuple) and len(made) == 2:
        samples, labels = made
        return with_labels(_from_object(name, samples, signature, preprocess), labels)
    if isinstance(made, Mapping):
        return from_arrays(name, made, signature)
    if hasattr(made, "__array__"):
        return from_arrays(name, {signature.inputs[0].name: made}, signature)
    if hasattr(made, "__next__"):
        raise InvalidInput(
            f"data {name!r} is an iterator, which can be read once", hint="give the function that makes it"
        )
    if hasattr(made, "__iter__") or hasattr(made, "__getitem__"):
        return from_stream(name, *_walks(name, made), signature)
    if callable(made):
        return _from_factory(name, made, signature, preprocess)
    raise InvalidInput(
        f"data {name!r} is a {type(made).__name__}", hint="give arrays, an iterable of samples, or a Dataset"
    )


def _walks(name: str, made: Any) -> tuple[Any, int | None]:
    """A function that starts a walk over an iterable, and its length where that is known."""
    with user_code(f"len of {name}"):
        size = len(made) if hasattr(made, "__len__") else None
    if hasattr(made, "__iter__") or size is None:
        return (lambda: made), size
    return (lambda: (made[i] for i in range(size))), size
