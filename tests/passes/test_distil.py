"""A smaller network learns the answers of the larger one, and what it may not learn from is refused before."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from passes.compare import compare_metric
from passes.context import Context
from passes.contract import Kind, PassFailed
from passes.dataset import Array, Dataset
from passes.metric import TOP1
from passes.program import Level, Program
from passes.proof import Decision
from passes.torch_level.capture import signature_of
from passes.torch_level.distil import Distil
from passes.torch_level.feature_pairs import captured, matching_pairs, named_pairs
from passes.torch_level.losses import attention_distance, feature_distance, teacher_of
from passes.torch_level.prune_channels import PruneChannels
from passes.torch_level.retraining import origin
from targets.target import load_stack
from toolkit.models import digits
from toolkit.training.trainer import Trainer

PI = load_stack("raspberry_pi_4/onnxruntime-fp32")


def program_of(module: nn.Module, batch: str = "", **example: Array) -> Program:
    dynamic = {name: {0: batch} for name in example} if batch else {}
    return Program(name="net", level=Level.TORCH, model=module.eval(), signature=signature_of(module, example, dynamic),
                   example=example, facts=frozenset({"module_clean"}))  # fmt: skip


def noise(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().eval()


@pytest.fixture(scope="module")
def pruned() -> Program:
    """The digits network with a quarter of its arithmetic left and untrained: right a quarter of the time."""
    start = program_of(digits.build(), "n", image=np.zeros((1, 1, 8, 8), np.float32))
    after = PruneChannels(ratio=0.75, epochs=0, round_to=4).apply(start, Context(stack=PI))
    return after.with_facts(after.facts, after)


def context(count: int = 0, *, labels: bool = True, **fields: Any) -> Context:
    (images, known), _ = digits.split()
    count = count or len(images)
    data = Dataset.of_arrays("digits", {"image": images[:count]}, known[:count] if labels else None)
    given = {"validation": digits.validation(), "metric": TOP1, **fields}
    return Context(stack=PI, data=data, fit=Trainer(data=data, metric=TOP1 if labels else None), **given)


@pytest.mark.slow
def test_a_pruned_network_learns_what_the_original_knew(pruned: Program) -> None:
    before = {name: value.clone() for name, value in pruned.model.state_dict().items()}
    torch.manual_seed(3)
    drawn = torch.get_rng_state()
    after, proof = Distil(epochs=4, rate=5e-3)(pruned, context())
    assert torch.equal(torch.get_rng_state(), drawn)
    assert proof.decision is Decision.KEPT
    assert proof.kind == Kind.RETRAINED
    change = compare_metric(origin(pruned), after, digits.validation(), TOP1)
    assert change is not None
    assert change.samples == 360
    assert change.before > 0.98
    assert change.drop_interval[1] < 0.05, "the paired interval of the drop against the original"
    assert proof.cost_s is not None
    assert proof.cost_s[1] == proof.cost_s[0]
    assert "5,714 parameters learned from 28,330" in proof.notes[0]
    assert all(torch.equal(pruned.model.state_dict()[name], value) for name, value in before.items())


@pytest.mark.slow
def test_answers_alone_teach_where_there_are_no_labels(pruned: Program) -> None:
    ctx = replace(context(labels=False), validation=digits.validation().take(100), metric=None)
    start = PruneChannels(ratio=0.5, epochs=0, round_to=4).apply(origin(pruned), Context(stack=PI))
    after, proof = Distil(epochs=6, rate=5e-3)(start, ctx)
    assert proof.decision is Decision.KEPT
    assert proof.notes[0].endswith("whose answers count as values")
    change = compare_metric(origin(pruned), after, digits.validation(), TOP1)
    assert change is not None
    assert change.drop_interval[1] < 0.05


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [{"features": ("stem", "down=down.1", "block2")}, {"features": ("auto",), "attention": 0.5}],
    ids=["named", "auto, and attention"],
)  # fmt: skip
def test_inner_values_teach_too(pruned: Program, fields: dict[str, Any]) -> None:
    step = Distil(epochs=3, rate=5e-3, **fields)
    after, proof = step(pruned, context())
    assert proof.decision is Decision.KEPT
    assert proof.metric is not None
    assert proof.metric.after > 0.9
    assert "compared inside" in proof.notes[1]
    assert {name: value.shape for name, value in after.model.state_dict().items()} == {
        name: value.shape for name, value in pruned.model.state_dict().items()
    }, "the maps between widths stay behind"


def test_the_maps_of_features_learn_with_the_student(pruned: Program) -> None:
    seen: list[Any] = []

    def fit(model: nn.Module, loss: Any, *, step: str, epochs: int, rate: float) -> nn.Module:
        trained = Trainer(data=data)(model, loss, step=step, epochs=epochs, rate=rate)
        seen.append((model, trained, loss))
        return trained

    data = context(32, labels=False).data
    assert data is not None
    ctx = replace(context(32, labels=False), fit=fit)  # type: ignore[arg-type]
    Distil(features=("auto",), epochs=1).apply(pruned, ctx)
    ((before, after, lesson),) = seen
    assert len(before.maps) == len(lesson.pairs) == 2
    for old, new, pair in zip(before.maps, after.maps, lesson.pairs, strict=True):
        assert old.weight.shape == pair.widths[::-1]
        assert not torch.equal(old.weight, new.weight)


class Student(nn.Module):
    """Other sizes and names, the same answers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.out = nn.Linear(16, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.out(self.second(self.first(image)).mean((2, 3)))


STUDENTS = """
import torch
from torch import nn
def conv(outputs, classes=10, shape=None):
    return nn.Sequential(nn.Conv2d(1, outputs, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(9 * outputs, classes))
def small(): return conv(8)
def large(): return conv(20000)
def nine_classes(): return conv(8, 9)
def two_outputs():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = conv(8)
        def forward(self, image):
            y = self.net(image)
            return y, y
    return Two()
def doubles(): return nn.Sequential(conv(8), Doubled())
class Doubled(nn.Module):
    def forward(self, x): return x.double()
class Merged(nn.Module):
    def forward(self, x): return x.mean(0, keepdim=True)
def one_answer_a_batch(): return nn.Sequential(conv(8), Merged())
def other_inputs(): return nn.Linear(5, 10)
def script(): return torch.jit.script(conv(8))
def not_a_module(): return 3
def raises(): raise ValueError("no weights here")
"""


@pytest.fixture
def students(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = "students_of_a_test"
    (tmp_path / f"{name}.py").write_text(STUDENTS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, name, raising=False)
    return name


@pytest.mark.slow
def test_a_student_of_another_make_learns(students: str) -> None:
    start = program_of(digits.build(), "n", image=np.zeros((1, 1, 8, 8), np.float32))
    step = Distil(student=f"{students}:small", epochs=1)
    ctx = context(64, validation=None, metric=None)
    step.requires(start, ctx)
    first, second = step.apply(start, ctx), step.apply(start, ctx)
    assert first.model[0].out_channels == 8
    assert first.signature == start.signature
    for name, value in first.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[name], value), "its first weights come from the seed"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nine_classes", r"gives float32\['\?', 9\] instead of float32\['\?', 10\]"),
        ("two_outputs", "instead of"),
        ("doubles", "float64"),
        ("one_answer_a_batch", r"float32\[1, 10\]"),
        ("other_inputs", "cannot be run"),
        ("large", "predicted to be slower"),
        ("script", "no torch module that can be trained"),
        ("not_a_module", "is int"),
        ("raises", "no weights here"),
        ("nobody", "no attribute"),
    ],
)
def test_a_student_that_cannot_stand_in_is_refused_before_it_is_trained(students: str, name: str, words: str) -> None:
    def fit(*_: Any, **__: Any) -> nn.Module:
        raise AssertionError("nothing is trained")

    start = program_of(digits.build(), "n", image=np.zeros((1, 1, 8, 8), np.float32))
    with pytest.raises(PassFailed, match=words) as refusal:
        Distil(student=f"{students}:{name}")(start, replace(context(8), fit=fit))  # type: ignore[arg-type]
    assert refusal.value.hint


@pytest.mark.parametrize("spec", ["no_such_module_here:make", "nonsense", ":x"])
def test_a_student_that_is_not_there_is_refused(spec: str) -> None:
    start = program_of(digits.build(), image=np.zeros((1, 1, 8, 8), np.float32))
    with pytest.raises(PassFailed, match="cannot be made") as refusal:
        Distil(student=spec)(start, context(8))
    assert "module:factory" in refusal.value.hint


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"alpha": 1.5}, "cannot go by"),
        ({"alpha": float("nan")}, "cannot go by"),
        ({"temperature": 0.0}, "temperature is 0"),
        ({"temperature": -1.0}, "cannot go by"),
        ({"epochs": 0}, "cannot go by"),
        ({"rate": 0.0}, "rate of 0.0"),
        ({"feature_weight": float("inf")}, "cannot go by"),
        ({"features": ("stem", "nowhere")}, "no module 'nowhere'"),
        ({"features": ("stem=down",)}, "other positions"),
    ],
)
def test_settings_that_make_no_sense_are_refused(pruned: Program, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(PassFailed, match=words) as refusal:
        Distil(**fields)(pruned, context(8))
    assert refusal.value.hint


def test_a_network_does_not_learn_from_itself(pruned: Program) -> None:
    start = origin(pruned)
    with pytest.raises(PassFailed, match="the student is the teacher"):
        Distil()(start, context(8))


@pytest.mark.parametrize("label", [-1, 10])
def test_labels_out_of_range_are_refused(pruned: Program, label: int) -> None:
    data = Dataset.of_arrays("d", {"image": noise(4, 1, 8, 8)}, np.array([0, 1, label, 3]))
    with pytest.raises(PassFailed, match="out of range"):
        Distil()(pruned, replace(context(8), data=data))


@pytest.mark.parametrize("missing", ["fit", "data"])
def test_what_it_needs_it_asks_for(pruned: Program, missing: str) -> None:
    with pytest.raises(PassFailed, match="nothing here does" if missing == "fit" else "no data"):
        Distil()(pruned, replace(context(8), **{missing: None}))


# ---- losses


@settings(max_examples=40, deadline=None)
@given(temperature=st.floats(0.5, 8), alpha=st.floats(0, 1), seed=st.integers(0, 99))
def test_the_softened_loss_is_hintons(temperature: float, alpha: float, seed: int) -> None:
    a, b = (torch.from_numpy(noise(6, 5, seed=s)) for s in (seed, seed + 1))
    labels = torch.from_numpy(np.random.default_rng(seed).integers(0, 5, 6))
    teacher = teacher_of(nn.Identity(), program_of(nn.Identity(), x=noise(1, 5)).signature, [b], logits=True,
                         temperature=temperature, alpha=alpha)  # fmt: skip
    p, q = (torch.softmax(x.double() / temperature, 1) for x in (b, a))
    soft = temperature**2 * (p * (p.log() - q.log())).sum(1).mean()
    hard = -torch.log_softmax(a.double(), 1)[torch.arange(6), labels].mean()
    found = teacher.compare([a], [b], labels)
    assert float(found) == pytest.approx(float(alpha * soft + (1 - alpha) * hard), rel=1e-4, abs=1e-5)
    assert float(teacher.compare([b], [b], None)) == pytest.approx(0, abs=1e-5)
    assert float(teacher.compare([a], [b], None)) == pytest.approx(float(soft), rel=1e-4, abs=1e-5)


def test_probabilities_count_as_what_they_are() -> None:
    """A network that ends in a softmax gives the same loss as one that leaves it out."""
    signature = program_of(nn.Identity(), x=noise(1, 5)).signature
    a, b = torch.from_numpy(noise(6, 5)), torch.from_numpy(noise(6, 5, seed=1))
    labels = torch.arange(6) % 5
    plain = teacher_of(nn.Identity(), signature, [b], logits=True)
    ended = teacher_of(nn.Softmax(1), signature, [b], logits=True)
    assert (plain.probabilities, ended.probabilities) == (False, True)
    torch.testing.assert_close(ended.compare([a.softmax(1)], [b.softmax(1)], labels), plain.compare([a], [b], labels))


def test_attention_is_where_a_network_looks_not_how_strongly() -> None:
    x = torch.from_numpy(noise(2, 3, 4, 4))
    assert float(attention_distance(x, 7 * x, 1)) == pytest.approx(0, abs=1e-6)
    wide = torch.cat([x, x], 1)
    assert float(attention_distance(x, wide, 1)) == pytest.approx(0, abs=1e-6), "other widths can be compared"
    assert float(attention_distance(x, x.flip(-1), 1)) > 0.1
    left, right = torch.zeros(1, 1, 2), torch.zeros(1, 1, 2)
    left[..., 0], right[..., 1] = 3, 5
    assert float(attention_distance(left, right, 1)) == pytest.approx(2)


def test_a_distance_of_features_has_no_unit() -> None:
    a, b = torch.from_numpy(noise(8, 3)), torch.from_numpy(noise(8, 3, seed=1))
    torch.testing.assert_close(feature_distance(1000 * a, 1000 * b), feature_distance(a, b))
    assert float(feature_distance(a, torch.ones(8, 3))) > 0, "a constant teacher divides nothing by zero"


# ---- pairs


def test_networks_of_other_makes_are_compared_at_the_positions_they_share() -> None:
    args = [torch.zeros(1, 1, 8, 8)]
    pairs = matching_pairs(seeded(Student), digits.build(), args)
    assert [(p.student, p.teacher, p.axis, p.widths) for p in pairs] == [
        ("first", "block1", 1, (8, 24)),
        ("second", "block2", 1, (16, 48)),
    ]


def test_tokens_have_their_channels_last_and_answers_are_no_features() -> None:
    net = seeded(lambda: nn.Sequential(nn.Embedding(9, 6), nn.LayerNorm(6), nn.Linear(6, 9)))
    (pair,) = matching_pairs(net, net, [torch.zeros(1, 4, dtype=torch.long)])
    assert (pair.student, pair.axis, pair.widths) == ("1", 2, (6, 6))


def test_a_pair_may_have_two_names() -> None:
    args = [torch.zeros(1, 1, 8, 8)]
    (pair,) = named_pairs(seeded(Student), digits.build(), args, ("first.0=stem.0",))
    assert (pair.student, pair.teacher, pair.widths) == ("first.0", "stem.0", (8, 24))


def test_nothing_stays_hooked() -> None:
    net = digits.build()
    with captured(net, ["stem"]) as made:
        net(torch.zeros(1, 1, 8, 8))
    assert made["stem"].shape == (1, 24, 8, 8)
    assert not net.stem._forward_hooks
