"""One training of an arm on text, and what can be asked of it afterwards. Equal arms of one seed are trained once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from passes.context import Batch
from passes.dataset import Dataset
from targets.errors import InvalidInput
from toolkit.bench import characters
from toolkit.bench.ablations.presets import Preset
from toolkit.bench.ablations.spending import Spent, spending
from toolkit.models import help_text, transformer
from toolkit.organism.native import SlimeModel
from toolkit.rng import derive_seed, numpy_generator
from toolkit.search.component_archive import component_archive
from toolkit.training.batches import Batches
from toolkit.training.judging import on
from toolkit.training.organism.archiving import Elites
from toolkit.training.organism.keeping import Keeper, Keeping
from toolkit.training.organism.optimizing import pool_adamw
from toolkit.training.organism.probing import Probe
from toolkit.training.organism.rules import LifecycleRules
from toolkit.training.organism.tasks import Task, config_of, of_text
from toolkit.training.organism.timescales import Timescales
from toolkit.training.settings import Settings
from toolkit.training.trainer import Trainer

__all__ = [
    "ARCHIVES", "Learnt", "MakeElites", "Organic", "Text", "judged_loss", "keeper_of", "learn", "learn_transformer",
    "living", "organic", "still", "text_for", "trained",
]  # fmt: skip

_PROBED = 16
"""Windows that components are judged by."""

MakeElites = Callable[[int, str], Elites]


@dataclass(frozen=True, kw_only=True)
class Text:
    """What is learnt, what decides on births and deaths, and what is asked once at the end."""

    task: Task
    probe: tuple[Batch, ...]
    asked: tuple[Batch, ...]


@dataclass(frozen=True, kw_only=True)
class Organic:
    """An arm made of organisms: its founders a layer, most of them, and the rules that they live by."""

    founders: int
    most: int
    rules: LifecycleRules
    archive: str = "plain"
    """Which of `_ARCHIVES` keeps elites."""
    extra: int = 0
    """One more founder in this many of the first layers: a mean size need not be whole."""


@dataclass(frozen=True, kw_only=True)
class Learnt:
    """A trained arm: `seconds` that training took, its lifecycle included, and the most memory that it held."""

    model: nn.Module
    loss: float
    seconds: float
    memory_bytes: float
    tokens: int
    keeping: Keeping | None = None
    overhead: float = 0.0
    elites: Mapping[str, Elites] = field(default_factory=dict)

    @property
    def tokens_per_s(self) -> float:
        """Of training."""
        return self.tokens / self.seconds

    @property
    def mean_components(self) -> float:
        """Of a layer, over the measurements."""
        assert self.keeping is not None
        return float(np.mean([row["components"] for row in self.keeping.history])) / len(self.keeping.layers)


# ---- data


@lru_cache(maxsize=4)
def text_for(preset: Preset, seed: int) -> Text:
    """Windows of Python's documentation, or of the preset's own text, in an order that `seed` decides."""
    parts = _parts(preset.text, preset.context, preset.name == "smoke")
    rng = numpy_generator(seed, "ablation", "windows")
    wanted, there = preset.steps * preset.batch, min(preset.windows, len(parts["training"]))
    epochs = -(-wanted // there)  # whole ones, of as many windows as make up the steps
    learnt = _some(parts["training"], rng.permutation(len(parts["training"]))[: wanted // epochs])
    judged = _some(parts["validation"], np.arange(min(_PROBED, len(parts["validation"]))))
    asked = _some(parts["asked"], np.arange(min(preset.judged, len(parts["asked"]))))
    vocabulary = help_text.ALPHABET_SIZE if preset.name == "smoke" or preset.text else len(characters.ALPHABET)
    device = torch.device(preset.device)
    return Text(
        task=of_text(learnt, judged, vocabulary=vocabulary, length=preset.context),
        probe=_batches(judged, _PROBED, device), asked=_batches(asked, preset.batch, device),
    )  # fmt: skip


@cache
def _parts(text: str | None, context: int, is_smoke: bool) -> Mapping[str, Dataset]:
    if text is not None:
        return _of_file(Path(text), context)
    if not is_smoke:
        return {part: characters.windows(part, context=context) for part in ("training", "validation", "asked")}
    kept = help_text.windows("validation", context)  # read in no time
    return {"training": help_text.windows("training", context), "validation": _some(kept, np.arange(len(kept) // 2)),
            "asked": _some(kept, np.arange(len(kept) // 2, len(kept)))}  # fmt: skip


def _of_file(path: Path, context: int) -> Mapping[str, Dataset]:
    """The first nine tenths of a text's windows teach; of the rest one half decides and the other is asked."""
    try:
        ids = np.frombuffer(path.read_text("utf-8").encode("ascii", "replace"), np.uint8).astype(np.int64)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"cannot read {path}: {error}", hint="give a text file in UTF-8") from error
    count = (len(ids) - 1) // context
    if count < 40:
        raise InvalidInput(f"{path} has {count} windows of {context} characters", hint="give a longer text")
    x, y = (ids[shift : shift + count * context].reshape(count, context) for shift in (0, 1))
    ends = {"training": (0, count * 18 // 20), "validation": (count * 18 // 20, count * 19 // 20),
            "asked": (count * 19 // 20, count)}  # fmt: skip
    return {part: Dataset.of_arrays(f"{path.name}, {part}", {"characters": x[a:b]}, y[a:b])
            for part, (a, b) in ends.items()}  # fmt: skip


def _some(data: Dataset, rows: np.ndarray) -> Dataset:  # type: ignore[type-arg]
    held = np.concatenate([next(iter(sample.values())) for sample in data])
    return Dataset.of_arrays(data.name, {"characters": held[rows]}, np.asarray(data.labels)[rows])


def _batches(data: Dataset, size: int, device: torch.device) -> tuple[Batch, ...]:
    renamed = Dataset.of_arrays(data.name, {"x": np.concatenate([s["characters"] for s in data])}, data.labels)
    return tuple(on(batch, device) for batch in Batches(data=renamed, size=size, seed=0).in_order())


# ---- trainings


@lru_cache(maxsize=32)
def learn(arm: Organic, preset: Preset, seed: int) -> Learnt:
    """Train `arm` on the text of `seed`; the same founders' weights for equal founders."""
    text = text_for(preset, seed)
    model = organic(arm, preset, text.task, seed)
    keeper = keeper_of(arm, text, preset, seed)
    made, spent = trained(model, text, preset, seed, keeper)
    kept = keeper.kept
    assert kept is not None
    return Learnt(model=made, loss=judged_loss(made, text), seconds=spent.seconds, memory_bytes=spent.memory_bytes,
                  tokens=_tokens(text, preset), keeping=kept, overhead=sum(kept.seconds.values()),
                  elites=kept.elites)  # fmt: skip


def learn_transformer(config: transformer.Config, preset: Preset, seed: int) -> Learnt:
    """Train the baseline in the same way on the same windows."""
    text = text_for(preset, seed)
    made, spent = trained(transformer.build(config), text, preset, seed, None)
    return Learnt(model=made, loss=judged_loss(made, text), seconds=spent.seconds, memory_bytes=spent.memory_bytes,
                  tokens=_tokens(text, preset))  # fmt: skip


def organic(arm: Organic, preset: Preset, task: Task, seed: int) -> SlimeModel:
    """The untrained network of an arm."""
    model = SlimeModel(config_of(
        task, seed=derive_seed(seed, "ablation", "weights") >> 1, d_model=preset.width, founders=arm.founders,
        head_dim=preset.width // preset.heads, layers=preset.layers, hidden=preset.hidden, max_components=arm.most,
        grace_steps=arm.rules.clocks.medium,
    ))  # fmt: skip
    for organism in list(model.organisms.values())[: arm.extra]:
        born = organism.spawn(step=0, reason="founder")
        with torch.no_grad():
            born.gate.fill_(1.0)
        born.settle()
    return model


def keeper_of(
    arm: Organic, text: Text, preset: Preset, seed: int,
    noted: Callable[[str, str, int, nn.Module], None] | None = None,
) -> Keeper:  # fmt: skip
    """Who cares for the components of an arm."""
    return Keeper(
        rules=arm.rules, probe=Probe(text.probe, text.task.loss), digest="", length=preset.context, causal=True,
        seed=seed, elites=partial(ARCHIVES[arm.archive], seed), noted=noted,
    )  # fmt: skip


def trained(model: nn.Module, text: Text, preset: Preset, seed: int, keeper: Keeper | None) -> tuple[nn.Module, Spent]:
    """A trained copy of `model`, and what that took. Every arm has the same optimizer."""
    with spending(torch.device(preset.device)) as spent:
        trainer = Trainer(
            data=text.task.learnt, seed=seed, optimizer=pool_adamw, tender=keeper, watcher=spent,
            settings=Settings(batch=preset.batch, held_out=0.0, patience=0, device=preset.device),
        )  # fmt: skip
        made = trainer(model, text.task.loss, step="ablation", epochs=_epochs(text, preset), rate=preset.rate)
    return made.to(preset.device).eval(), spent


def _epochs(text: Text, preset: Preset) -> int:
    return max(1, round(preset.steps * preset.batch / len(text.task.learnt)))


def _tokens(text: Text, preset: Preset) -> int:
    """That were learnt from, which may be a few less than those of the preset's steps: epochs are whole."""
    return _epochs(text, preset) * len(text.task.learnt) * preset.context


def judged_loss(model: nn.Module, text: Text) -> float:
    """Mean nats per character on the windows that nothing was decided by."""
    return Probe(text.asked, text.task.loss)(model)


def living(preset: Preset, **given: object) -> LifecycleRules:
    """The lifecycle of an arm, at the clocks of the preset."""
    clocks = Timescales(1, preset.medium, 2 * preset.medium)
    few: dict[str, object] = {"clocks": clocks, "fade_steps": max(1, min(50, preset.medium)),
                              "cooldown": 2 * preset.medium, **given}  # fmt: skip
    return LifecycleRules(**few)  # type: ignore[arg-type]


def still(preset: Preset) -> LifecycleRules:
    """Nobody is born or dies; all is measured as in a lifecycle."""
    return replace(living(preset), births="none", deaths=False)


ARCHIVES: dict[str, MakeElites] = {"plain": component_archive}
"""How an arm's archives are made, by name: names can be told apart where functions cannot."""
