"""How small a network gets at equal quality, and what each step of the way bought: prune, distil, QAT, pack.

    python -m toolkit.bench.compression [--json] [--repeats N] [NETWORK ...]

Every image is judged by networks that never saw it: the data are cut into five parts, and for each of them the network
is trained and compressed on the other four; N times over, with other cuts. Accuracies are compared image by image.
Bytes are those of the ONNX file that would be shipped, times are measured here with one thread, side by side, or
predicted for the default stack of each target. Training is checkpointed in the cache folder: a run that was cut off
goes on, and the next one only measures.

Source of the interval: Bayle, Bayle, Janson and Mackey 2020, arXiv:2007.12671 (one holds over cross-validation).
"""

from __future__ import annotations

import argparse
import inspect
import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from passes.context import Batch, Context
from passes.contract import Pass
from passes.dataset import Array, Dataset
from passes.metric import TOP1
from passes.onnx_level.pack_weights import PackWeights
from passes.onnx_level.shorten_names import ShortenNames
from passes.onnxruntime import Session
from passes.program import Program
from passes.torch_level.distil import Distil
from passes.torch_level.prune_channels import PruneChannels
from passes.torch_level.qat import TrainQuantized
from toolkit import units
from toolkit.bench.steps import FLOAT, SEEN_AS_IT_IS, STACK, Made, ladder, measured_s, predicted_s
from toolkit.bench.trained import mnist
from toolkit.cache import cache_folder
from toolkit.models.digits import DigitsNet
from toolkit.rng import generator
from toolkit.sources import load_source
from toolkit.training.trainer import Settings, Trainer

__all__ = ["NETWORKS", "Row", "Subject", "compress"]

PARTS = 5
_Z_95 = 1.96
_JUDGES = 0.1  # of the images to learn from: they choose among epochs


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A network, what it learns from, and the way down.

    Args:
        images, labels: (n, 1, height, width) float32 and (n,) classes; both None where what they come from is absent.
        epochs, rate: Of the first training.
        shift: Pixels by which copies of the images are moved about, to learn from those as well.
        steps: Passes by the name of the step, each on top of those before.
    """

    images: Array
    labels: Array
    network: Callable[[], nn.Module]
    epochs: int
    rate: float
    shift: int
    steps: Mapping[str, tuple[Pass, ...]]


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a network is after a step.

    Args:
        difference, interval: Of the share of right answers to that of the float network, and its 95 % interval.
        latency_s: Median on this machine with one thread, all steps in turns.
        predicted_s: By target, on its default stack in the precision of the file.
        notes: What a pass of the step did not do, or only in part.
    """

    network: str
    step: str
    images: int = 0
    repeats: int = 0
    size_bytes: int = 0
    smaller: float = 1.0
    accuracy: float = 0.0
    difference: float = 0.0
    interval: tuple[float, float] = (0.0, 0.0)
    latency_s: float = 0.0
    predicted_s: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def compress(name: str, repeats: int) -> Iterator[Row]:
    """The rows of one network; one with a note where its data are not installed."""
    subject = NETWORKS[name]()
    if subject is None:
        yield Row(network=name, step="", notes=("what it needs is not installed: see README",))
        return
    right = {step: np.zeros((repeats, len(subject.images))) for step in (FLOAT, *subject.steps)}
    sizes: dict[str, list[int]] = {step: [] for step in right}
    for repeat in range(repeats):
        for part, (learnt, asked) in enumerate(_cuts(len(subject.images), repeat)):
            made = _on_one_cut(name, subject, learnt, seed=repeat * PARTS + part)
            for step, result in made.items():
                found = _answers(result.program, subject.images[asked]).argmax(axis=1)
                right[step][repeat, asked] = found == subject.labels[asked]
                sizes[step].append(len(result.program.onnx_bytes))
            print(f"{name}: {repeat * PARTS + part + 1} of {repeats * PARTS} cuts", file=sys.stderr)
    programs = {step: result.program for step, result in made.items()}
    times = measured_s(programs, {programs[FLOAT].signature.inputs[0].name: subject.images[:1]})
    for step, result in made.items():
        difference, interval = _compared(right[step], right[FLOAT])
        yield Row(
            network=name,
            step=step,
            images=len(subject.images),
            repeats=repeats,
            size_bytes=int(median(sizes[step])),
            smaller=median(sizes[FLOAT]) / median(sizes[step]),
            accuracy=float(right[step].mean()),
            difference=difference,
            interval=interval,
            latency_s=times[step],
            predicted_s=predicted_s(result.program),
            notes=result.notes,
        )


def _cuts(images: int, repeat: int) -> Iterator[tuple[Array, Array]]:
    """(numbers of images to learn from, to be asked about); each image is asked about once."""
    order = generator(0, "compression", "cut", str(repeat)).permutation(images)
    for part in range(PARTS):
        yield np.concatenate([order[i::PARTS] for i in range(PARTS) if i != part]), order[part::PARTS]


def _on_one_cut(name: str, subject: Subject, learnt: Array, *, seed: int) -> dict[str, Made]:
    """Train, then go down step by step."""
    judges, learnt = learnt[: int(_JUDGES * len(learnt))], learnt[int(_JUDGES * len(learnt)) :]
    start = _seeded(subject.network, seed)
    key = next(iter(inspect.signature(start.forward).parameters))
    trainer = _trainer(subject, key, learnt, judges, seed)
    network = trainer(start, _smooth_cross_entropy, step=name, epochs=subject.epochs, rate=subject.rate)
    program = load_source((network.eval(), (torch.from_numpy(subject.images[:1]),))).program
    known, held = (
        Dataset.of_arrays(name, {key: subject.images[which]}, subject.labels[which]) for which in (learnt, judges)
    )
    ctx = Context(stack=STACK, data=known, validation=held, metric=TOP1, seed=seed, fit=trainer, budget=SEEN_AS_IT_IS)
    return ladder(subject.steps, program, ctx)


def _trainer(subject: Subject, key: str, learnt: Array, judges: Array, seed: int) -> Trainer:
    images, labels = _moved(subject.images[learnt], subject.labels[learnt], subject.shift)
    return Trainer(
        data=Dataset.of_arrays("to learn from", {key: images}, labels),
        validation=Dataset.of_arrays("to judge by", {key: subject.images[judges]}, subject.labels[judges]),
        metric=TOP1,
        settings=Settings(patience=0),
        seed=seed,
        folder=cache_folder(),
    )


def _moved(images: Array, labels: Array, shift: int) -> tuple[Array, Array]:
    """Each image where it is and moved by up to `shift` pixels, zeros moving in."""
    offsets = [(i, j) for i in range(2 * shift + 1) for j in range(2 * shift + 1)]
    height, width = images.shape[2:]
    padded = np.pad(images, ((0, 0), (0, 0), (shift, shift), (shift, shift)))
    copies = [padded[:, :, i : i + height, j : j + width] for i, j in offsets]
    return np.concatenate(copies), np.tile(labels, len(offsets))


def _smooth_cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    inputs, labels = batch
    assert labels is not None
    return nn.functional.cross_entropy(model(next(iter(inputs.values()))), labels, label_smoothing=0.05)


def _answers(program: Program, images: Array) -> Array:
    session, name = Session(program.onnx_bytes), program.signature.inputs[0].name
    return np.concatenate([next(iter(session({name: image[None]}).values())) for image in images])


def _compared(after: Array, before: Array) -> tuple[float, tuple[float, float]]:
    """Mean of after - before over images, and its 95 % interval; an image's repeats are averaged first."""
    each = (after - before).mean(axis=0)
    mean, half = float(each.mean()), float(_Z_95 * each.std(ddof=1) / np.sqrt(len(each)))
    return mean, (mean - half, mean + half)


# ---- the networks


def _digits() -> Subject:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return Subject(
        images=(pixels / 16).astype(np.float32).reshape(-1, 1, 8, 8),
        labels=labels,
        network=DigitsNet,
        epochs=8,
        rate=3e-3,
        shift=1,
        steps={
            "distil": (Distil(student="toolkit.models.digits:Small", epochs=20, rate=1e-2, alpha=0.8),),
            "4-bit QAT": (TrainQuantized(activation="uint8", weight_bits=4, epochs=10, rate=1e-3),),
            "pack": (PackWeights(), ShortenNames()),
        },
    )


def _mnist() -> Subject | None:
    found = mnist()
    if found is None:
        return None
    images, labels = found
    return Subject(
        images=images,
        labels=labels,
        network=_wide_network,
        epochs=10,
        rate=1e-3,
        shift=0,
        steps={
            "prune": (PruneChannels(ratio=0.95, round_to=8, epochs=4, iterations=3),),
            "distil": (Distil(epochs=30),),
            "4-bit QAT": (TrainQuantized(activation="uint8", weight_bits=4, epochs=16, rate=1e-3),),
            "pack": (PackWeights(), ShortenNames()),
        },
    )


def _wide_network() -> nn.Module:
    """1.1 M parameters for 28x28 pixels."""
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Conv2d(32, 64, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU()),
        *(nn.Conv2d(64, 128, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(128), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(6272, 160), nn.ReLU(), nn.Linear(160, 10)),
    )


def _seeded(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


NETWORKS: Mapping[str, Callable[[], Subject | None]] = {"digits": cache(_digits), "mnist-5k": cache(_mnist)}
"""None where what it needs is not installed."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=f"of {', '.join(NETWORKS)}; all by default")
    parser.add_argument("--repeats", type=int, default=1, help="times that the data are cut anew (1)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    given = parser.parse_args()
    if unknown := set(given.networks) - set(NETWORKS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(NETWORKS)}")
    logging.disable(logging.WARNING)
    rows = (row for name in given.networks or NETWORKS for row in compress(name, given.repeats))
    if given.json:
        document: Mapping[str, Any] = {"schema": "toolkit.bench.compression/1", "rows": [asdict(row) for row in rows]}
        print(json.dumps(document, indent=1))
        return
    for row in rows:
        print(_line(row), flush=True)


def _line(row: Row) -> str:
    if not row.step:
        return f"{row.network:10} {'; '.join(row.notes)}"
    points = [f"{100 * share:+.2f}" for share in (row.difference, *row.interval)]
    there = "  ".join(f"{name} {units.seconds(seconds)}" for name, seconds in row.predicted_s.items())
    size = f"{row.network:10} {row.step:10} {units.bytes_(row.size_bytes):>8} {row.smaller:>5.1f}x"
    right = f"{row.accuracy:.4f} {points[0]} [{points[1]}, {points[2]}] points"
    return " | ".join((size, right, f"here {units.seconds(row.latency_s)}", there, *row.notes))


if __name__ == "__main__":
    main()
