"""Bytes of the file that is shipped: the built-in example, and a student of it with packed weights of four bits."""

from __future__ import annotations

import numpy as np
import torch

from passes.context import Context
from passes.dataset import Array, Dataset
from passes.metric import TOP1
from passes.onnxruntime import Session
from passes.program import Program
from toolkit.bench import compression
from toolkit.bench.steps import FLOAT, SEEN_AS_IT_IS, STACK, ladder
from toolkit.bench.training_cost.ablation import Ablation, Arm
from toolkit.bench.training_cost.fitting import cross_entropy
from toolkit.bench.training_cost.metering import Meter
from toolkit.bench.training_cost.tasks import Task, digits, seeded
from toolkit.sources import load_source
from toolkit.training.trainer import Settings, Trainer

_JUDGES, _EPOCHS, _RATE = 143, 12, 3e-3


def _lost(_model: torch.nn.Module) -> float:
    """Only the file counts, at the end."""
    return float("-inf")


def _arm(smaller: bool) -> Arm:
    def run(seed: int, meter: Meter) -> None:
        subject = compression.NETWORKS["digits"]()
        assert subject is not None
        task = digits(seed)
        judges, known = (
            Dataset.of_arrays("digits", {"image": task.x[part].numpy()}, task.y[part].numpy())
            for part in (slice(0, _JUDGES), slice(_JUDGES, None))
        )
        fit = Trainer(data=known, validation=judges, metric=TOP1, settings=Settings(patience=0), seed=seed,
                      watcher=meter.watching(_lost))  # fmt: skip
        network = fit(seeded(subject.network, seed), cross_entropy, step="float", epochs=_EPOCHS, rate=_RATE)
        program = load_source((network, (task.x[:1],))).program
        ctx = Context(stack=STACK, data=known, validation=judges, metric=TOP1, seed=seed, fit=fit, budget=SEEN_AS_IT_IS)
        made = ladder(subject.steps if smaller else {}, program, ctx)
        _weigh(made[list(subject.steps)[-1] if smaller else FLOAT].program, task, meter)

    return run


def _weigh(program: Program, task: Task, meter: Meter) -> None:
    meter.gauge("size_bytes", len(program.onnx_bytes))
    answers = _answers(program, task.asked_x.numpy())
    meter.judge(float((answers.argmax(axis=1) == task.asked_y.numpy()).mean()))


def _answers(program: Program, images: Array) -> Array:
    session = Session(program.onnx_bytes)
    (name,) = session.inputs()
    return np.concatenate([next(iter(session({name: images[i : i + 1]}).values())) for i in range(len(images))])


ABLATION = Ablation(
    name="compression",
    factor="compression",
    claimed=100.0,
    task="digits, 1,437 images, accuracy of the file on 360",
    arms={"float32": _arm(False), "4 bits, packed": _arm(True)},
    headline="4 bits, packed",
    cost="size_bytes",
    costs=("size_bytes", "time_s", "flops"),
    margin=0.01,
    devices=("cpu",),
    note="a point is what a compile may lose; `python -m toolkit.bench.compression` has MNIST, 198x, and text, 17x",
)
