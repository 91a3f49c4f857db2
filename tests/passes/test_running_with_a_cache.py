"""A run that was cut off goes on where it stopped, and a second run of the same does nothing again."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir
import pytest

from passes.context import Budget, Context
from passes.contract import Kind, Pass
from passes.dataset import Dataset
from passes.program import Level, Program
from passes.proof import Decision, Proof
from passes.recipe import PASSES, Recipe
from passes.running import Outcome, run

COUNT: list[str] = []


class Cut(Exception):
    """Stands in for SIGKILL."""


@dataclass(frozen=True)
class Mark(Pass):
    """Adds a line to the graph's notes, and to COUNT."""

    label: str = "a"
    cut: bool = False
    kind = Kind.EXACT

    def apply(self, program: Program, ctx: Context) -> Program:
        COUNT.append(self.label)
        if self.cut and ctx.seed == 0:
            raise Cut
        model = program.clone()
        model.graph.doc_string = (model.graph.doc_string or "") + self.label
        return program.with_model(model)


class MemoryCache:
    """What toolkit.cache does, in a dict of bytes."""

    def __init__(self) -> None:
        self.entries: dict[str, tuple[dict[str, Any], bytes | None, frozenset[str]]] = {}
        self.damaged: set[str] = set()

    def proof(self, key: str) -> tuple[Proof, bool] | None:
        entry = self.entries.get(key)
        return (Proof.from_json(entry[0]), entry[1] is not None) if entry else None

    def program(self, key: str, like: Program) -> Program | None:
        _, content, facts = self.entries[key]
        if content is None or key in self.damaged:
            return None
        import onnx

        model = onnx_ir.from_proto(onnx.load_model_from_string(content))
        return replace(like.with_model(model, level=Level.ONNX), facts=facts)

    def store(self, key: str, program: Program, proof: Proof) -> None:
        content = program.onnx_bytes if program.level is Level.ONNX else None
        self.entries[key] = proof.to_json(), content, program.facts


@pytest.fixture(autouse=True)
def _counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    COUNT.clear()
    monkeypatch.setitem(PASSES, "Mark", Mark)  # type: ignore[arg-type]
    yield
    COUNT.clear()


@pytest.fixture
def start(program: Callable[..., Program]) -> Program:
    return program("g (float[1,4] x) => (float[1,4] y) { y = Mul(x, k) }", k=np.full(4, 2, np.float32))


RECIPE = Recipe("r", (Mark("a"), Mark("b"), Mark("c")))


def notes(outcome: Outcome) -> str:
    return outcome.program.graph.doc_string or ""


def documents(outcome: Outcome) -> list[dict[str, Any]]:
    return [proof.to_json() for proof in outcome.proofs]


def test_without_a_cache_everything_runs(start: Program, context: Callable[..., Context]) -> None:
    assert notes(run(RECIPE, start, context())) == "abc"
    run(RECIPE, start, context())
    assert list("abcabc") == COUNT


def test_a_second_run_applies_nothing(start: Program, context: Callable[..., Context]) -> None:
    cache = MemoryCache()
    first = run(RECIPE, start, context(), cache=cache)
    COUNT.clear()
    seen: list[Proof] = []
    second = run(RECIPE, start, context(), cache=cache, note=seen.append)
    assert COUNT == []
    assert notes(second) == "abc"
    assert second.program.onnx_bytes == first.program.onnx_bytes
    assert second.program.facts == first.program.facts
    assert documents(second) == documents(first)
    assert [p.name for p in seen] == ["Mark"] * 3
    assert second.exported.onnx_bytes == first.exported.onnx_bytes


def test_a_run_that_was_cut_off_goes_on(start: Program, context: Callable[..., Context]) -> None:
    cache = MemoryCache()
    recipe = Recipe("r", (Mark("a"), Mark("b"), Mark("c", cut=True), Mark("d")))
    with pytest.raises(Cut):
        run(recipe, start, context(), cache=cache)
    assert COUNT == ["a", "b", "c"]
    COUNT.clear()
    with pytest.raises(Cut):
        run(recipe, start, context(), cache=cache)
    assert COUNT == ["c"]
    whole = Recipe("r", (Mark("a"), Mark("b"), Mark("c"), Mark("d")))
    COUNT.clear()
    assert notes(run(whole, start, context(), cache=cache)) == "abcd"
    assert COUNT == ["c", "d"]


def test_a_longer_recipe_goes_on_from_a_shorter_one(start: Program, context: Callable[..., Context]) -> None:
    cache = MemoryCache()
    run(Recipe("r", RECIPE.passes[:2]), start, context(), cache=cache)
    COUNT.clear()
    assert notes(run(RECIPE, start, context(), cache=cache)) == "abc"
    assert COUNT == ["c"]


@pytest.mark.parametrize(
    ("damaged", "again"), [((2,), "c"), ((1, 2), "bc"), ((0, 1, 2), "abc"), ((1,), ""), ((0,), "")]
)
def test_a_damaged_entry_falls_back_to_an_earlier_one(
    start: Program, context: Callable[..., Context], damaged: tuple[int, ...], again: str
) -> None:
    cache = MemoryCache()
    first = run(RECIPE, start, context(), cache=cache)
    cache.damaged = {list(cache.entries)[i] for i in damaged}
    COUNT.clear()
    second = run(RECIPE, start, context(), cache=cache)
    assert "".join(COUNT) == again
    assert second.program.onnx_bytes == first.program.onnx_bytes
    assert documents(second) == documents(first)


def test_whatever_decides_a_result_is_in_the_key(
    start: Program, program: Callable[..., Program], context: Callable[..., Context], noise: Callable[..., Any]
) -> None:
    cache = MemoryCache()
    run(RECIPE, start, context(seed=1), cache=cache)
    other_model = program("g (float[1,4] x) => (float[1,4] y) { y = Mul(x, k) }", k=np.full(4, 3, np.float32))
    data = Dataset.of_arrays("d", {"x": noise(3, 4)})
    for changed in (
        {"ctx": context(seed=2)},
        {"ctx": context("raspberry_pi_4/ncnn-fp32", seed=1)},
        {"ctx": context(seed=1, data=data)},
        {"ctx": context(seed=1, validation=data)},
        {"ctx": context(seed=1, budget=Budget(min_sqnr_db=11))},
        {"start": other_model},
        {"fingerprint": "other code"},
        {"recipe": Recipe("r", (Mark("z"), *RECIPE.passes[1:]))},
    ):
        COUNT.clear()
        run(
            changed.get("recipe", RECIPE),
            changed.get("start", start),
            changed.get("ctx", context(seed=1)),
            cache=cache,
            fingerprint=changed.get("fingerprint", ""),
        )  # type: ignore[arg-type]
        assert len(COUNT) == 3, changed
    COUNT.clear()
    run(RECIPE, start, context(seed=1), cache=cache)
    assert COUNT == [], "and the first result is still known"


def test_a_reverted_pass_is_remembered_as_such(start: Program, context: Callable[..., Context]) -> None:
    @dataclass(frozen=True)
    class Wrong(Mark):
        def apply(self, program: Program, ctx: Context) -> Program:
            COUNT.append("wrong")
            model = program.clone()
            model.graph.initializers["k"].const_value = onnx_ir.tensor(np.ones(4, np.float32), name="k")
            return program.with_model(model)

    cache = MemoryCache()
    recipe = Recipe("r", (Mark("a"), Wrong()))
    first = run(recipe, start, context(), cache=cache)
    COUNT.clear()
    second = run(recipe, start, context(), cache=cache)
    assert COUNT == []
    assert [p.decision for p in second.proofs] == [Decision.KEPT, Decision.REVERTED]
    assert notes(second) == notes(first) == "a"


def test_the_road_from_torch_is_taken_up_behind_export(
    torch_program: Callable[..., Program], context: Callable[..., Context], noise: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from torch import nn

    from passes.recipe import recipe_for

    start = torch_program(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()), x=noise(1, 3, 6, 6))
    ctx, cache = context(), MemoryCache()
    recipe = recipe_for(ctx.stack, Level.TORCH)
    first = run(recipe, start, ctx, cache=cache)
    for step in PASSES.values():
        if step is not Mark:
            monkeypatch.setattr(step, "apply", lambda self, program, ctx: pytest.fail("applied again"))
    second = run(recipe, start, ctx, cache=cache)
    assert documents(second) == documents(first)
    assert second.program.onnx_bytes == first.program.onnx_bytes
    assert second.exported.onnx_bytes == first.exported.onnx_bytes
    assert second.program.truth.level is Level.TORCH


def test_each_graph_can_be_written_down(start: Program, context: Callable[..., Context], tmp_path: Path) -> None:
    outcome = run(RECIPE, start, context(), dump=tmp_path / "dump")
    names = sorted(p.name for p in (tmp_path / "dump").iterdir())
    assert names == ["01-Mark.onnx", "02-Mark.onnx", "03-Mark.onnx"]
    assert (tmp_path / "dump" / names[-1]).read_bytes() == outcome.program.onnx_bytes


def test_progress_is_told(start: Program, context: Callable[..., Context]) -> None:
    told: list[tuple[str, float]] = []
    run(RECIPE, start, context(progress=lambda step, done: told.append((step, done))))
    assert [step for step, _ in told] == ["Mark", "Mark", "Mark", "passes"]
    assert [done for _, done in told] == pytest.approx([0, 1 / 3, 2 / 3, 1])
