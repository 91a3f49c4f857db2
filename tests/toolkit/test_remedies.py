"""Changed networks: what is offered was made, run and priced, and costs what its file costs when it is asked alone."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_ir
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from passes.contract import Kind
from passes.onnx_level.slim_channels import Slimmer, slim_channels
from passes.program import Program
from targets.cost import estimate
from targets.errors import UsageError
from targets.target import load_target, target_names, vector_width
from targets.verdict import Limits, Outcome, judge, support_of
from toolkit.checking import Answer, check_model
from toolkit.cli.main import main
from toolkit.driver import estimate_model, load_program
from toolkit.slimming import slimmest
from toolkit.ways import CHANGES, Training, Way

pytestmark = pytest.mark.slow

HARD = """x{i}a = Conv<pads=[1,1,1,1]>(x{i}, w{i}) x{i}b = HardSwish(x{i}a) x{j} = Conv<pads=[1,1,1,1]>(x{i}b, u{i})"""


def saved(path: Path, text: str, **shapes: Any) -> str:
    """An ONNX file from a text; shapes become random initializers."""
    rng = np.random.default_rng(0)
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]>\n{text}')
    for name, shape in shapes.items():
        array = rng.standard_normal(shape).astype(np.float32) / 10 if isinstance(shape, tuple) else np.asarray(shape)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return str(path)


def hard_swish_net(path: Path, batch: str = "1") -> str:
    """Three blocks with a hard-swish inside, wide enough that what is left on the host is felt."""
    blocks = " ".join(HARD.format(i=i, j=i + 1) for i in range(3))
    weights: dict[str, Any] = {}
    for i in range(3):
        weights |= {f"w{i}": (64, 3 if i == 0 else 32, 3, 3), f"u{i}": (32, 64, 3, 3)}
    text = f"""g (float[{batch},3,48,48] x0) => (float[{batch},10] y) {{
        {blocks} h = HardSigmoid(x3) p = GlobalAveragePool(h) f = Flatten(p) y = Gemm<transB=1>(f, head) }}"""
    return saved(path, text, **weights, head=(10, 32))


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Answer, Path]:
    """A network whose activations the accelerator does not have, under a limit that it misses."""
    folder = tmp_path_factory.mktemp("refused")
    path = hard_swish_net(folder / "net.onnx")
    (kept_on,) = [way for way in check_model(path, target="coral_tpu").tried if way.change == "rewrite"]
    limit = kept_on.estimate.latency_interval_s[1] * 0.97  # which the rewritten network just misses
    answer = check_model(path, target="coral_tpu", limits={"latency_s": limit}, save=folder / "changed")
    return path, answer, folder / "changed"


def priced_alone(way: Way, folder: Path) -> None:
    """The file costs what the way says, and fits where it says so; onnxruntime runs it."""
    path = folder / f"{way.slug}.onnx"
    alone = estimate_model(path, target=way.stack.target, stack=way.stack.name)
    assert alone.latency_s == pytest.approx(way.estimate.latency_s, rel=1e-9)
    assert alone.latency_interval_s == pytest.approx(way.estimate.latency_interval_s, rel=1e-9)
    assert alone.peak_memory_bytes == way.estimate.peak_memory_bytes
    held = Limits(**{c.quantity: c.limit for c in way.verdict.checks})
    support = support_of(alone, way.stack, onnx_ir.load(path))
    outcome = max(judge(alone, held, size=way.size).outcome, support.outcome, key=list(Outcome).index)
    assert outcome is way.outcome
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    shapes = {i.name: [d if isinstance(d, int) else 2 for d in i.shape] for i in session.get_inputs()}
    feeds = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    assert all(np.isfinite(answer).all() for answer in session.run(None, feeds))


# ---- fallback


def test_what_leaves_is_priced_and_kept_on(refused: tuple[str, Answer, Path]) -> None:
    _, answer, _ = refused
    first, second = answer.fallbacks
    assert (first.op_type, second.op_type) == ("HardSwish", "HardSigmoid")
    assert first.before_s == pytest.approx(answer.way.estimate.latency_s)
    for fallback in (first, second):
        price = fallback.price
        assert price["own_s"] + price["copies_s"] + price["dragged_s"] == pytest.approx(price["total_s"])
        assert price["copies_s"] > 0
        assert fallback.remedy is not None
        assert fallback.remedy.kind is Kind.EXACT
        assert fallback.remedy.sqnr_db > 80
    assert first.remedy is not None
    assert first.remedy.exchanges[0].count == 3
    assert second.before_s == first.after_s
    assert first.price["dragged_s"] > 0
    leaving = {op.name for op in answer.way.support.leaving}
    assert first.name in leaving
    assert first.followers == len(leaving) - 1


def test_the_price_of_what_leaves_is_its_share_of_the_estimate(refused: tuple[str, Answer, Path]) -> None:
    path, answer, _ = refused
    alone = estimate_model(path, target="coral_tpu")
    assert answer.fallbacks[0].price["total_s"] == pytest.approx(sum(op.latency_s for op in alone.fallbacks))


def test_every_changed_network_costs_what_its_file_costs(refused: tuple[str, Answer, Path]) -> None:
    _, answer, folder = refused
    changed = [way for way in answer.tried if way.graph is not None]
    assert {"rewrite", "activation", "prune"} <= {way.change for way in changed}
    assert sorted(answer.saved) == sorted(folder.iterdir())
    assert any(way.outcome is Outcome.FITS for way in changed)
    for way in changed:
        priced_alone(way, folder)


def test_an_exact_rewrite_answers_the_same_and_comes_with_commands(refused: tuple[str, Answer, Path]) -> None:
    path, answer, folder = refused
    (way,) = [way for way in answer.tried if way.change == "rewrite"]
    assert way.training is Training.NONE
    assert way.support.leaving == ()
    before = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    after = onnxruntime.InferenceSession(str(folder / f"{way.slug}.onnx"), providers=["CPUExecutionProvider"])
    x = {"x0": np.random.default_rng(3).standard_normal((1, 3, 48, 48)).astype(np.float32)}
    np.testing.assert_allclose(after.run(None, x)[0], before.run(None, x)[0], rtol=1e-4, atol=1e-6)
    write, compile_ = map(shlex.split, way.command.splitlines())
    assert write == ["toolkit", "check", path, "--target", "coral_tpu", "--save", str(folder)]
    assert compile_[:3] == ["toolkit", "compile", str(folder / f"{way.slug}.onnx")]
    assert main([*compile_[1:], "--dry-run", "-q"]) == 0


def test_networks_that_must_be_trained_come_without_a_command(refused: tuple[str, Answer, Path]) -> None:
    _, answer, _ = refused
    trained = [way for way in answer.tried if way.training in (Training.FINE_TUNE, Training.TRAIN)]
    assert {way.change for way in trained} >= {"activation", "prune"}
    assert all(way.command == "" for way in trained)


def test_ways_are_ranked_by_gain_and_listed_by_effort(refused: tuple[str, Answer, Path]) -> None:
    _, answer, _ = refused
    assert answer.critical == "latency_s"
    gains = [answer.gain(way) for way in answer.ranked]
    assert gains == sorted(gains, reverse=True)
    assert [way.effort for way in answer.tried] == sorted(way.effort for way in answer.tried)
    assert answer.change is next(way for way in answer.tried if way.outcome is Outcome.FITS)
    document = json.loads(json.dumps(answer.to_json(), allow_nan=False))
    assert [document["tried"][i]["gain"]["latency_s"] for i in document["ranked"]] == pytest.approx(gains)
    assert {way["change"] for way in document["tried"]} <= set(CHANGES)
    assert document["fallbacks"][0]["remedy"]["kind"] == "exact"
    rewritten = next(way for way in document["tried"] if way["change"] == "rewrite")
    assert set(rewritten["rewritten"]) == set("kind sqnr_db identical max_abs_error data samples exchanges".split())
    for fallback in document["fallbacks"]:
        assert set(fallback) == set(
            "name op_type module source reason own_s copies_s dragged_s total_s followers remedy before_s after_s "
            "after_interval_s gain_s failed".split()
        )
    assert rewritten["graph"] in {path.name for path in answer.saved}


def test_a_file_of_that_name_is_not_overwritten(refused: tuple[str, Answer, Path]) -> None:
    path, answer, folder = refused
    file = folder / f"{next(w for w in answer.tried if w.graph).slug}.onnx"
    content = file.read_bytes()
    check_model(path, target="coral_tpu", save=folder)  # the same again is no harm
    file.write_bytes(b"mine")
    try:
        with pytest.raises(UsageError, match="is there already"):
            check_model(path, target="coral_tpu", save=folder)
        assert file.read_bytes() == b"mine"
    finally:
        file.write_bytes(content)


def test_a_network_that_fits_is_told_what_leaves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = hard_swish_net(tmp_path / "net.onnx")
    assert main(["check", path, "-t", "coral_tpu", "-q", "--max-latency", "10s"]) == 0
    said = capsys.readouterr().out
    assert "leaves the accelerator: HardSwish" in said
    assert "of copies" in said
    assert "x · relu6(x + 3) / 6 in all 3 (exact: " in said
    assert "faster: int8, HardSwish and HardSigmoid rewritten" in said


def test_an_operator_without_a_remedy_ends_the_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(
        tmp_path / "net.onnx",
        """g (float[1,3,32,32] x) => (float[1,8,32,32] y) {
        c = Conv(x, w) h = HardSwish(c) e = Exp(h) s = HardSigmoid(e) y = Conv(s, u) }""",
        w=(8, 3, 1, 1), u=(8, 8, 1, 1),
    )  # fmt: skip
    answer = check_model(path, target="coral_tpu", limits={"latency_s": 10.0})
    assert [(f.op_type, f.remedy is not None) for f in answer.fallbacks] == [("HardSwish", True), ("Exp", False)]
    assert main(["check", path, "-t", "coral_tpu", "-q", "--max-latency", "10s"]) == 0
    assert "no remedy is known" in capsys.readouterr().out


def test_a_graph_that_cannot_be_run_here_still_gets_its_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A custom operator is nothing that onnxruntime knows: nothing is offered that was not run, and that is said."""
    text = """g (float[1,3,32,32] x) => (float[1,64,32,32] y) {
        c = Conv(x, w) h = HardSwish(c) d = Conv(h, v) y = mine.Swirl(d) }"""
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18, "mine" : 1]>\n{text}')
    for name, shape in {"w": (64, 3, 1, 1), "v": (64, 64, 1, 1)}.items():
        model.graph.initializer.append(numpy_helper.from_array(np.ones(shape, np.float32), name))
    onnx.save(model, tmp_path / "net.onnx")
    path = str(tmp_path / "net.onnx")
    answer = check_model(path, target="coral_tpu", limits={"latency_s": 1e-6}, save=tmp_path / "out")
    (fallback,) = answer.fallbacks
    assert fallback.remedy is None
    assert "Swirl" in fallback.failed
    assert not {"rewrite", "activation", "prune", "width"} & {way.change for way in answer.tried}
    assert any("Swirl" in note for note in answer.notes)
    arguments = ["check", path, "-t", "coral_tpu", "--max-latency", "1us", "-q", "--save", str(tmp_path / "out")]
    assert main(arguments) == 1
    said = capsys.readouterr().out
    assert "could not be tried" in said
    assert "nothing was written" in said


def test_a_folder_that_is_a_file_is_refused(refused: tuple[str, Answer, Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="cannot be written"):
        check_model(refused[0], target="coral_tpu", save=tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_stack_that_takes_everything_prices_no_fallback(tmp_path: Path) -> None:
    path = hard_swish_net(tmp_path / "net.onnx")
    assert check_model(path, target="raspberry_pi_4", limits={"latency_s": 10.0}).fallbacks == ()


# ---- fewer channels


def plain_net(path: Path, *, joined: bool = False, batch: str = "1") -> str:
    last = "j = Concat<axis=1>(a, b) p = GlobalAveragePool(j)" if joined else "p = GlobalAveragePool(b)"
    text = f"""g (float[{batch},3,32,32] x) => (float[{batch},{128 if joined else 10},1,1] y) {{
        c = Conv<pads=[1,1,1,1]>(x, w) a = Relu(c) d = Conv<pads=[1,1,1,1]>({"x" if joined else "a"}, v) b = Relu(d)
        {last} y = {"Relu(p)" if joined else "Conv(p, u)"} }}"""
    weights: dict[str, Any] = {"w": (64, 3, 3, 3), "v": (64, 3 if joined else 64, 3, 3)}
    return saved(path, text, **weights, **({} if joined else {"u": (10, 64, 1, 1)}))


def limit_between(path: str, share: float, **options: Any) -> float:
    """A latency that takes the model about `share` of its own to reach."""
    return estimate_model(path, target="raspberry_pi_4", **options).latency_interval_s[1] * share


def test_the_smallest_share_that_fits_is_found(tmp_path: Path) -> None:
    path = plain_net(tmp_path / "net.onnx")
    limit = limit_between(path, 0.6)
    answer = check_model(path, target="raspberry_pi_4", limits={"latency_s": limit}, save=tmp_path / "out")
    (way,) = [w for w in answer.tried if w.change == "prune"]
    assert way.outcome is Outcome.FITS
    assert way.estimate.latency_interval_s[1] <= limit
    assert way.share is not None
    priced_alone(way, tmp_path / "out")
    graph = onnx.load(tmp_path / "out" / f"{way.slug}.onnx").graph
    kept = {i.name: list(i.dims) for i in graph.initializer}
    widths = {dims[0] for dims in kept.values() if len(dims) == 4 and dims[0] != 10}
    assert all(width % vector_width(way.stack) == 0 and width < 64 for width in widths)
    less = Slimmer(share=way.share - 0.05, step=vector_width(way.stack))
    wider = slim_channels(load_program(path), less)
    priced = estimate(wider.static_model, way.stack)
    assert priced.latency_interval_s[1] > limit  # a smaller share is not enough


@pytest.mark.parametrize(("least", "most"), [(0.0, 0.99), (0.0, 0.5), (0.2, 0.5)])
def test_less_may_fit_where_more_does_not(least: float, most: float, tmp_path: Path) -> None:
    """An interval widens outside of what was measured: here networks of some sizes fit, and smaller ones do not."""
    program, stack = load_program(plain_net(tmp_path / "net.onnx")), load_target("raspberry_pi_4").stack("ncnn-fp32")
    whole = len(program.onnx_bytes)

    def fits(narrower: Program) -> bool:
        return least * whole <= len(narrower.onnx_bytes) <= most * whole

    found = slimmest(program, stack, fits, trunk=False)
    assert fits(found.program)
    wider = Slimmer(share=found.share - 0.05, step=4)
    assert wider.kept(64) == 64 or not fits(slim_channels(program, wider))
    none = slimmest(program, stack, lambda _: False, trunk=False)
    assert none.share == 0.75


def test_where_even_the_most_is_not_enough_it_says_so(tmp_path: Path) -> None:
    answer = check_model(plain_net(tmp_path / "net.onnx"), target="raspberry_pi_4", limits={"latency_s": 1e-6})
    (way,) = [w for w in answer.tried if w.change in ("prune", "width")]  # without additions both are one
    assert way.share == 0.75
    assert way.outcome is Outcome.DOES_NOT_FIT
    assert answer.change is None


def test_a_network_that_cannot_be_slimmed_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = plain_net(tmp_path / "net.onnx", joined=True)
    answer = check_model(path, target="raspberry_pi_4", limits={"latency_s": 1e-6})
    assert not {"prune", "width"} & {way.change for way in answer.tried}
    assert all("Concat binds it" in note for note in answer.notes)
    assert len(answer.notes) == 2
    assert main(["check", path, "-t", "raspberry_pi_4", "--max-latency", "1us", "-q"]) == 1
    assert "channels were not removed inside the blocks" in capsys.readouterr().out


def test_dimensions_that_vary(tmp_path: Path) -> None:
    path = plain_net(tmp_path / "net.onnx", batch="n")
    limit = limit_between(path, 0.6)
    answer = check_model(path, target="raspberry_pi_4", limits={"latency_s": limit}, save=tmp_path / "out")
    (way,) = [w for w in answer.tried if w.change == "prune"]
    priced_alone(way, tmp_path / "out")
    model = onnx.load(tmp_path / "out" / f"{way.slug}.onnx")
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param


def test_a_quantized_model_is_not_changed(tmp_path: Path) -> None:
    text = """g (float[1,8,16,16] x) => (float[1,8,16,16] y) {
        q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) k = DequantizeLinear(w, s)
        c = Conv(d, k) r = QuantizeLinear(c, s, z) e = DequantizeLinear(r, s, z) h = HardSwish(e)
        i = QuantizeLinear(h, s, z) y = DequantizeLinear(i, s, z) }"""
    path = saved(tmp_path / "q.onnx", text, s=np.float32(0.1), z=np.int8(0), w=np.ones((8, 8, 1, 1), np.int8))
    answer = check_model(path, target="coral_tpu", limits={"latency_s": 1e-6})
    assert [(f.op_type, f.remedy) for f in answer.fallbacks] == [("HardSwish", None)]
    assert not {"rewrite", "activation", "prune", "width"} & {way.change for way in answer.tried}
    assert any("quantized" in note for note in answer.notes)


class Silu(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 64, 3), nn.Conv2d(64, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(nn.functional.silu(self.one(x)))


def test_a_module_in_memory_gets_commands_of_python(tmp_path: Path) -> None:
    model = (Silu().eval(), (torch.zeros(1, 3, 32, 32),))
    answer = check_model(model, target="raspberry_pi_4", limits={"latency_s": 1e-6}, save=tmp_path)
    assert {w.description for w in answer.tried if w.change == "activation"} == {
        "int8, SiLU as HardSwish", "int8, SiLU as ReLU6"
    }  # fmt: skip
    assert all(way.command.startswith("toolkit.compile(") for way in answer.tried if way.command)


@pytest.mark.parametrize("name", target_names())
def test_every_stack_says_how_many_channels_it_computes_at_once(name: str) -> None:
    for stack in load_target(name).stacks.values():
        registers = {"desktop_cpu": 2}.get(stack.target, 1)  # AVX2's are twice as wide as NEON's
        assert vector_width(stack) == registers * {"fp32": 4, "fp16": 8, "int8": 16}[stack.precision]
