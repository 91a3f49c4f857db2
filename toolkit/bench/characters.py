"""A language model over characters, trained here: a decoder-only transformer on the text of Python's own documentation.

    python -m toolkit.bench.characters [--json]

The text is that of the help topics and of the standard library's docstrings, which every Python has (PSF licence),
1.9 million characters without what is said twice. Whole documents are kept apart: some judge each epoch, others are
only asked about at the end. Training is checkpointed in the cache folder, and done once.
"""

from __future__ import annotations

import argparse
import ast
import json
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from sysconfig import get_path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu, scaled_dot_product_attention

from passes.context import Batch
from passes.dataset import Array, Dataset
from passes.onnxruntime import Session
from passes.program import Program
from toolkit import units
from toolkit.bench.trained import Task
from toolkit.cache import cache_folder
from toolkit.rng import generator
from toolkit.sources import load_source
from toolkit.training.trainer import Settings, Trainer

__all__ = [
    "ALPHABET", "CONTEXT", "CharacterModel", "Text", "calibration", "named", "network", "next_character", "perplexity",
    "program", "task", "text", "trained", "trainer", "windows",
]  # fmt: skip

CONTEXT = 128
"""Characters that the network reads at once."""

ALPHABET = "?\n" + "".join(chr(code) for code in range(32, 127) if chr(code) != "?")
"""A question mark stands for every other character as well."""

_EPOCHS, _BATCH, _RATE = 5, 8, 1.5e-3
_CALIBRATION = 64
_SHARES = {"asked": 0.04, "validation": 0.02, "training": 1.0}
_LEFT_OUT = frozenset({"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "pydoc_data"})


# ---- the text


@dataclass(frozen=True)
class Text:
    """Documents as numbers of characters, by what they are for; nothing is in two parts."""

    parts: Mapping[str, tuple[Array, ...]]

    def __len__(self) -> int:
        return sum(len(document) for documents in self.parts.values() for document in documents)


@cache
def text() -> Text:
    """The documents, drawn in an order that seed 0 decides until each part has its share of the characters."""
    documents = list(_documents())
    total = sum(map(len, documents))
    order = iter([documents[i] for i in generator(0, "characters", "split").permutation(len(documents))])
    return Text({part: tuple(_until(order, share * total)) for part, share in _SHARES.items()})


def _until(order: Iterator[str], characters: float) -> Iterator[Array]:
    drawn = 0
    while drawn < characters and (document := next(order, None)) is not None:
        yield np.array([max(ALPHABET.find(c), 0) for c in document], np.int64)
        drawn += len(document)


def _documents() -> Iterator[str]:
    """The help topics, then what each module of the standard library says of itself, without paragraphs seen before."""
    seen: set[str] = set()
    topics: Mapping[str, str] = import_module("pydoc_data.topics").topics
    for topic in sorted(topics, key=lambda name: len(topics[name])):  # the long ones repeat the short ones
        yield from _new(topics[topic].split("\n\n"), seen)
    root = Path(get_path("stdlib"))
    for file in sorted(root.rglob("*.py")):
        if not _LEFT_OUT & set(file.relative_to(root).parts):
            yield from _new(_said_by(file), seen)


def _new(paragraphs: Iterable[str], seen: set[str]) -> Iterator[str]:
    kept = []
    for paragraph in paragraphs:
        words = " ".join(paragraph.split())
        if words and words not in seen:
            seen.add(words)
            kept.append(paragraph)
    if kept:
        yield "\n\n".join(kept)


def _said_by(file: Path) -> Iterator[str]:
    """The paragraphs of a module's docstrings; none of one that this Python cannot read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(file.read_text("utf-8"))
    except (SyntaxError, UnicodeDecodeError):
        return
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from (ast.get_docstring(node) or "").split("\n\n")


def windows(part: str, *, context: int = CONTEXT) -> Dataset:
    """`context` characters each, and for every one of them the character behind it as its label: (n, context) both."""
    held = np.stack([
        document[at : at + context + 1]
        for document in text().parts[part]
        for at in range(0, len(document) - context, context)
    ])  # fmt: skip
    return Dataset.of_arrays(f"Python's documentation, {part}", {"characters": held[:, :-1]}, held[:, 1:])


def calibration(context: int = CONTEXT) -> Dataset:
    """Windows of the training text, from all over it."""
    data = windows("training", context=context)
    chosen = np.sort(generator(0, "characters", "calibration").permutation(len(data))[:_CALIBRATION])
    assert data.labels is not None
    samples = list(data)
    held = np.concatenate([samples[i]["characters"] for i in chosen])
    return Dataset.of_arrays("Python's documentation, calibration", {"characters": held}, data.labels[chosen])


# ---- the network


class _Attention(nn.Module):
    """Causal self-attention (Vaswani et al. 2017, arXiv:1706.03762)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self._split(layer(x)) for layer in (self.query, self.key, self.value))
        mixed = scaled_dot_product_attention(q, k, v, is_causal=True)
        answer: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return answer

    def _split(self, x: Tensor) -> Tensor:
        """(B, T, heads x width) as (B, heads, T, width)."""
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)


class _Block(nn.Module):
    """Attention, then two layers at each position, each added to what it read (pre-norm)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention_norm, self.attention = nn.LayerNorm(width), _Attention(width, heads)
        self.hidden_norm, self.up = nn.LayerNorm(width), nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        y: Tensor = x + self.down(gelu(self.up(self.hidden_norm(x))))
        return y


class CharacterModel(nn.Module):
    """Embeddings of characters and positions, blocks, norm, linear."""

    def __init__(
        self, characters: int, *, context: int = CONTEXT, width: int = 128, heads: int = 4, blocks: int = 5
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(characters, width)
        self.place = nn.Embedding(context, width)
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.classify = nn.Linear(width, characters, bias=False)
        self.register_buffer("positions", torch.arange(context), persistent=False)

    def forward(self, characters: Tensor) -> Tensor:
        """Logits (B, T, alphabet) of the character behind each of (B, T) int64 ones, from those up to it."""
        x = self.embed(characters) + self.place(self.positions[: characters.shape[1]])  # type: ignore[index]
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.classify(self.norm(x))
        return logits


def network(**sizes: int) -> CharacterModel:
    """An untrained network, its weights from seed 0; `sizes` are those of CharacterModel."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = CharacterModel(len(ALPHABET), **sizes)
        for table in (made.embed, made.place):
            nn.init.normal_(table.weight, std=0.02)
    return made


def next_character(model: nn.Module, batch: Batch) -> Tensor:
    """The mean cross entropy of every position, in nats."""
    inputs, labels = batch
    assert labels is not None
    return cross_entropy(model(*inputs.values()).flatten(0, 1), labels.flatten())


def trainer(settings: Settings | None = None) -> Trainer:
    """What trains the network, and what is made of it: the training text, judged on the topics kept for that."""
    return Trainer(
        data=windows("training"),
        validation=windows("validation"),
        inputs=("characters",),
        settings=settings or Settings(batch=_BATCH, weight_decay=0.1, patience=0),
        folder=cache_folder(),
        progress=_say,
    )


def _say(step: str, done: float) -> None:
    print(f"{step}: {done:.0%}", file=sys.stderr, flush=True)


def trained() -> nn.Module:
    """The network in eval mode, trained the first time that it is asked for; see the module's first lines."""
    return trainer()(network(), next_character, step="characters", epochs=_EPOCHS, rate=_RATE).eval()


def program(model: nn.Module) -> Program:
    """`model` as it enters the road: one window at a time."""
    zeros = torch.zeros(1, CONTEXT, dtype=torch.int64)
    return load_source((model, (zeros,))).program


# ---- what it is worth


def perplexity(model: nn.Module | bytes, part: str = "asked") -> float:
    """exp of the mean cross entropy of every character in the windows of `part`, given those before it in its window.

    Args:
        model: A module, or a serialized ONNX graph with one input and one output.
    """
    data = windows(part)
    assert data.labels is not None
    nats = [_nats(logits, labels) for logits, labels in zip(_answers(model, data), data.labels, strict=True)]
    return float(np.exp(np.mean(nats)))


def _answers(model: nn.Module | bytes, data: Dataset) -> Iterator[Array]:
    """(CONTEXT, alphabet) logits of each window."""
    if isinstance(model, bytes):
        session = Session(model)
        for sample in data:
            inputs = dict(zip(session.inputs(), sample.values(), strict=True))
            yield next(iter(session(inputs).values()))[0]
        return
    with torch.no_grad():
        for sample in data:
            yield model(torch.from_numpy(sample["characters"]))[0].numpy()


def _nats(logits: Array, labels: Array) -> float:
    """Mean cross entropy of (T, alphabet) logits."""
    top = logits.max(axis=1, keepdims=True).astype(np.float64)
    shifted = logits - top
    chosen = np.take_along_axis(shifted, labels[:, None], axis=1)[:, 0]
    return float((np.log(np.exp(shifted).sum(axis=1)) - chosen).mean())


def task() -> Task:
    """The trained network among those that quantization is judged on: windows of it to calibrate with, others to ask.

    Labels are (n, CONTEXT): the character behind each.
    """
    made = program(trained())
    name = made.signature.inputs[0].name
    return Task("characters", made, named(calibration(), name), named(windows("asked"), name))


def named(data: Dataset, name: str) -> Dataset:
    """The same samples, their input called `name`."""
    return Dataset.of_arrays(data.name, {name: np.concatenate([s["characters"] for s in data])}, data.labels)


def main() -> None:
    from toolkit.bench.character_steps import WAYS, steps

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ways", nargs="*", metavar="WAY", help=f"of {', '.join(WAYS)}; all where none is named")
    parser.add_argument("--as-long", action="store_true", help="set the float network beside it, trained as long")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    given = parser.parse_args()
    if unknown := set(given.ways) - set(WAYS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(WAYS)}")
    rows = list(steps(given.ways or tuple(WAYS), as_long=given.as_long))
    if given.json:
        print(json.dumps({"schema": "toolkit.bench.characters/1", "rows": [asdict(row) for row in rows]}, indent=1))
        return
    targets = list(rows[0].predicted_s)
    print(f"{'way':4} {'step':10} {'size':>9} {'smaller':>7} {'perplexity':>10} {'worse':>7} {'here':>8} {'ratio':>6}")
    for row in rows:
        ratio = row.latency_s / rows[0].latency_s
        print(f"{row.way:4} {row.step:10} {units.bytes_(row.size_bytes):>9} {row.smaller:>6.1f}x "
              f"{row.perplexity:>10.3f} {row.worse:>+7.1%} {units.seconds(row.latency_s):>8} {ratio:>6.2f} "
              f"{'; '.join(row.notes)}")  # fmt: skip
    print("\npredicted for each target")
    for target in targets:
        times = (f"{units.seconds(row.predicted_s[target]):>9}" for row in rows)
        print(f"{target:20} {' '.join(times)}")


if __name__ == "__main__":
    main()
