"""A language model goes through the passes: labels of positions, tables of embeddings, masks, and no look ahead."""

import inspect
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from passes.context import Context
from passes.contract import Pass
from passes.dataset import Array, Dataset
from passes.onnx_level.pack_weights import PackWeights
from passes.onnx_level.shorten_names import ShortenNames
from passes.program import Level, Program
from passes.proof import Decision
from passes.recipe import Recipe, float32
from passes.running import run
from passes.torch_level.distil import Distil
from passes.torch_level.low_rank import FactoriseAndTrain
from passes.torch_level.prune_channels import PruneChannels
from passes.torch_level.qat import TrainQuantized
from toolkit.bench import characters
from toolkit.bench.steps import SEEN_AS_IT_IS, STACK, in_order
from toolkit.sources import load_source
from toolkit.training.trainer import Settings, Trainer

pytestmark = pytest.mark.slow

SMALL = 24
PRUNE = PruneChannels(ratio=0.3, importance="taylor", global_=False, round_to=8, epochs=0)
ROUND = TrainQuantized(activation="uint8", weight_bits=4, epochs=1, rate=1e-3)


def windows(count: int) -> Dataset:
    """Of a text that is at hand: the source of what is tested."""
    numbers = np.array([max(characters.ALPHABET.find(c), 0) for c in inspect.getsource(characters)], np.int64)
    held = np.stack([numbers[i : i + SMALL + 1] for i in range(0, count * SMALL, SMALL)])
    return Dataset.of_arrays("source", {"characters": held[:, :-1]}, held[:, 1:])


def small_network(context: int = SMALL) -> characters.CharacterModel:
    return characters.network(context=context, width=32, heads=4, blocks=2)


@pytest.fixture(scope="module")
def trained() -> tuple[Program, Context]:
    """A small network that has read a little, and what its passes may use."""
    fit = Trainer(
        data=windows(96), validation=windows(8), inputs=("characters",), settings=Settings(batch=16, patience=0)
    )
    model = fit(small_network(), characters.next_character, step="small", epochs=2, rate=5e-3).eval()
    program = load_source((model, (torch.zeros(1, SMALL, dtype=torch.int64),))).program
    ctx = Context(stack=STACK, data=windows(16), fit=fit, budget=SEEN_AS_IT_IS)
    return program, ctx


def after(steps: Sequence[Pass], trained: tuple[Program, Context]) -> Program:
    """The graph that comes of the network by `steps`; every one of them must have been kept."""
    program, ctx = trained
    outcome = run(Recipe("steps", in_order(steps)), program, ctx)
    names = {step.name for step in steps}
    said = {p.name: (p.decision, p.reason) for p in outcome.proofs if p.name in names}
    assert {decision for decision, _ in said.values()} <= {Decision.KEPT}, said
    assert set(said) == names
    return outcome.program


def logits(program: Program, text: Array) -> Array:
    return program.run({program.signature.inputs[0].name: text})["output"]


WAYS: dict[str, tuple[Pass, ...]] = {
    "factorise": (FactoriseAndTrain(epochs=1),),
    "all": (PRUNE, Distil(epochs=1), ROUND, PackWeights(), ShortenNames()),
}


@pytest.mark.parametrize("way", list(WAYS))
def test_a_language_model_keeps_its_shape_and_never_looks_ahead(way: str, trained: tuple[Program, Context]) -> None:
    small = after(WAYS[way], trained)
    text = next(iter(windows(1)))["characters"]
    answer = logits(small, text)
    assert answer.shape == (1, SMALL, len(characters.ALPHABET))
    changed = text.copy()
    changed[0, 15] = (text[0, 15] + 1) % len(characters.ALPHABET)
    other = logits(small, changed)
    np.testing.assert_array_equal(answer[:, :15], other[:, :15])
    assert not np.array_equal(answer[:, 15:], other[:, 15:])


def test_every_matrix_is_stored_in_four_bits_tables_of_embeddings_too(trained: tuple[Program, Context]) -> None:
    whole, small = after((), trained), after((ROUND, PackWeights(), ShortenNames()), trained)
    matrices = [v.const_value for v in small.graph.initializers.values() if len(v.const_value.shape) > 1]
    kinds = [tensor.dtype.name for tensor in matrices if tuple(tensor.shape) != (SMALL, SMALL)]  # a mask
    assert sorted(kinds) == ["FLOAT"] + ["INT4"] * (2 + 2 * 6 + 1)  # a column: scales of the rows that are looked up
    tables = [n.inputs[0] for n in small.graph if n.op_type == "Gather" and n.inputs[1] is small.graph.inputs[0]]
    assert sorted(t.producer().op_type if t.producer() else "" for t in tables) == ["", "Cast"]  # at load, not in a run
    parameters = sum(p.numel() for p in trained[0].model.parameters())
    assert len(whole.onnx_bytes) > 4 * parameters
    assert len(small.onnx_bytes) < parameters / 2 + 12_000  # nodes and scales of a small network outweigh it


def test_a_causal_mask_costs_no_bytes() -> None:
    program = load_source((small_network(128).eval(), (torch.zeros(1, 128, dtype=torch.int64),))).program
    graph = run(float32(STACK, Level.TORCH), program, Context(stack=STACK)).program
    largest = max(v.const_value.size for v in graph.graph.initializers.values())
    assert largest == 128 * 32  # the table of places: a mask would be 128 x 128


def test_the_parts_of_the_text_have_no_paragraph_in_common() -> None:
    said = ["one paragraph\n\nand another", "and  another\n\nmore", "more", "last"]
    seen: set[str] = set()
    found = [list(characters._new(document.split("\n\n"), seen)) for document in said]
    assert found == [["one paragraph\n\nand another"], ["more"], [], ["last"]]


def test_perplexity_of_a_network_that_knows_nothing_is_the_size_of_the_alphabet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(characters, "windows", lambda part: windows(4))
    blank = small_network()
    torch.nn.init.zeros_(blank.classify.weight)
    assert characters.perplexity(blank.eval()) == pytest.approx(len(characters.ALPHABET), rel=1e-6)


def test_perplexity_counts_every_character_of_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    data = windows(4)
    monkeypatch.setattr(characters, "windows", lambda part: data)
    model = small_network().eval()
    assert data.labels is not None
    with torch.no_grad():
        answers = torch.cat([model(torch.from_numpy(s["characters"])) for s in data]).double()
    nats = torch.nn.functional.cross_entropy(answers.flatten(0, 1), torch.from_numpy(data.labels).flatten())
    assert characters.perplexity(model) == pytest.approx(float(nats.exp()), rel=1e-5)
