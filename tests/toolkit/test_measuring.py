"""--measure: this machine decides what is slower, the recipe remembers, and a replay measures nothing."""

from __future__ import annotations

import platform
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_ir
import pytest
import yaml
from onnx import numpy_helper

import toolkit
from passes.contract import PassFailed
from passes.program import Program, onnx_program
from passes.proof import Decision, Proof
from passes.signature import Signature, TensorSpec
from targets.errors import UsageError
from targets.target import load_target, target_names
from toolkit import measuring
from toolkit.bundle.bundle import Bundle
from toolkit.bundle.layout import TIMINGS
from toolkit.cli.main import main
from toolkit.measuring import NOT_SLOWER, SLOWER, Measured, Recorded, check_host, decisions

TEXT = """<ir_version: 8, opset_import: ["" : 21]> g (float[1,64] x) => (float[1,64] y) {
    [first] a = MatMul(x, w)  [norm] s = Mul(a, one)  [act] r = Relu(s)  [last] y = MatMul(r, v) }"""


def model(repeats: int = 0) -> onnx.ModelProto:
    """A small network; with `repeats` more functions that cost time."""
    rng = np.random.default_rng(0)
    proto = onnx.parser.parse_model(TEXT)
    for name, shape in (("w", (64, 64)), ("v", (64, 64)), ("one", ())):
        array = rng.standard_normal(shape).astype(np.float32) if shape else np.float32(1)
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    last = proto.graph.node[-1]
    for i in range(repeats):
        last.output[0] = f"y{i}"
        last = proto.graph.node.add(op_type="MatMul", input=[last.output[0], "v"], output=["y"])
    return proto


def program(repeats: int = 0) -> Program:
    spec = {name: (TensorSpec(name, "float32", (1, 64)),) for name in "xy"}
    return onnx_program(
        "net", onnx_ir.from_proto(model(repeats)), Signature(spec["x"], spec["y"]), {"x": np.ones((1, 64), np.float32)}
    )


@pytest.fixture
def no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was run to be timed")

    monkeypatch.setattr(measuring, "Session", refuse)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "_SECONDS", 0.0)
    monkeypatch.setattr(measuring, "_FEWEST_ROUNDS", 3)


# ---- measured


def test_what_takes_longer_is_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "_SECONDS", 0.05)
    pace = Measured(load_target("desktop_cpu").stack("onnxruntime-fp32"))
    small, large = program(), program(repeats=60)
    assert pace.slower("A", small, large)
    assert not pace.slower("A", large, small)
    assert list(pace.latency_s) == ["A"]
    assert [a < b for a, b in pace.latency_s["A"]] == [True, False]


def test_a_difference_within_what_repeats_differ_by_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    pace = Measured(load_target("desktop_cpu").stack("onnxruntime-fp32"))
    for ratio, slower in ((1.02, False), (1.04, True), (0.5, False)):
        monkeypatch.setattr(Measured, "_medians_s", lambda self, a, b, ratio=ratio: (1e-3, ratio * 1e-3))
        assert pace.slower("step", program(), program()) is slower


def test_programs_take_turns_with_the_threads_of_the_stack(monkeypatch: pytest.MonkeyPatch, short: None) -> None:
    """So that a machine that heats up, or another process, slows both alike."""
    ran: list[int] = []

    class Fake:
        def __init__(self, content: bytes, *, threads: int) -> None:
            assert threads == (load_target("desktop_cpu").stack("onnxruntime-fp32").threads or 1)
            self.number = Fake.made
            Fake.made += 1

        made = 0

        def __call__(self, sample: Any) -> dict[str, Any]:
            ran.append(self.number)
            return {}

    monkeypatch.setattr(measuring, "Session", Fake)
    Measured(load_target("desktop_cpu").stack("onnxruntime-fp32")).slower("step", program(), program())
    blocks = [number for number, _ in groupby(ran)]
    assert blocks == [0, 1, 0, 1], "another begins each round: 0 1, 1 0, 0 1"
    assert len(ran) >= 2 * 3 * 2, "each block has a run that counts behind one that does not"


def test_measurements_of_one_machine_are_not_those_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    pace = Measured(load_target("desktop_cpu").stack("onnxruntime-fp32"))
    here = pace.key
    monkeypatch.setattr(platform, "node", lambda: "elsewhere")
    assert pace.key != here


# ---- recorded


def test_recorded_answers_come_in_order_and_nothing_is_run(no_session: None) -> None:
    pace = Recorded({"A": [SLOWER, NOT_SLOWER], "B": [NOT_SLOWER]})
    assert pace.slower("A", program(), program()) is True
    assert pace.slower("B", program(), program()) is False
    assert pace.slower("A", program(), program()) is False


@pytest.mark.parametrize("recorded", [{}, {"B": [SLOWER]}, {"A": []}])
def test_what_was_not_recorded_is_refused(recorded: dict[str, list[str]], no_session: None) -> None:
    with pytest.raises(UsageError, match="does not say whether A was slower") as refusal:
        Recorded(recorded).slower("A", program(), program())
    assert "--measure" in refusal.value.hint
    assert refusal.value.exit_code == 2
    assert not isinstance(refusal.value, PassFailed), "a pass that fails is skipped; this stops the compile"


def test_other_decisions_have_another_key() -> None:
    assert Recorded({"A": [SLOWER]}).key != Recorded({"A": [NOT_SLOWER]}).key
    assert Recorded({"A": [SLOWER], "B": []}).key == Recorded({"B": [], "A": [SLOWER]}).key


def proof(name: str, *slower: bool) -> Proof:
    return Proof(name=name, settings={}, kind="exact", decision=Decision.KEPT, slower=slower)


def test_decisions_are_those_of_every_attempt() -> None:
    found = decisions([proof("A"), proof("B", True, False), proof("C", False)])
    assert found == {"B": [SLOWER, NOT_SLOWER], "C": [NOT_SLOWER]}


def test_a_pass_that_a_recipe_holds_twice_is_recorded_twice() -> None:
    found = decisions([proof("A", True), proof("B", False), proof("A", False, False)])
    assert found == {"A": [SLOWER, NOT_SLOWER, NOT_SLOWER], "B": [NOT_SLOWER]}
    pace = Recorded(found)
    assert [pace.slower("A", program(), program()) for _ in range(3)] == [True, False, False]


# ---- whose machine


@pytest.mark.parametrize("name", target_names())
def test_only_a_stack_of_this_kind_of_machine_is_measured(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    target = load_target(name)
    for stack in target.stacks.values():
        if name == "desktop_cpu" and stack.runtime == "onnxruntime":
            check_host(target, stack)
            continue
        with pytest.raises(UsageError, match=r"this machine \(x86_64\) cannot measure") as refusal:
            check_host(target, stack)
        assert "--measure" in refusal.value.hint


def test_the_desktop_is_not_measured_on_an_arm_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    target = load_target("desktop_cpu")
    with pytest.raises(UsageError, match="aarch64"):
        check_host(target, target.stack("onnxruntime-fp32"))


def test_measuring_for_a_board_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(model(), tmp_path / "net.onnx")
    out = tmp_path / "bundle"
    code = main(["compile", str(tmp_path / "net.onnx"), "--target", "raspberry_pi_4", "--measure", "-o", str(out)])
    said = capsys.readouterr().err
    assert code == 2
    assert "cannot measure for raspberry_pi_4" in said
    assert "leave --measure out" in " ".join(said.split())
    assert not out.exists()


# ---- the road


def content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.is_file() and p.name != TIMINGS}


@pytest.fixture(scope="module")
def quickly_measured(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Three turns, whose noise has no say."""
    folder = tmp_path_factory.mktemp("measured")
    onnx.save(model(), folder / "net.onnx")
    np.savez(folder / "data.npz", x=np.random.default_rng(1).standard_normal((8, 64)).astype(np.float32))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring, "_SECONDS", 0.0)
        patch.setattr(measuring, "_FEWEST_ROUNDS", 3)
        patch.setattr(measuring, "_MARGIN", 1000)
        patch.chdir(folder)
        patch.setattr(platform, "machine", lambda: "x86_64")
        made = toolkit.compile("net.onnx", target="desktop_cpu", data="data.npz", output="bundle", measure=True)
    return Bundle(folder / made.path, made.manifest)


@pytest.fixture
def measured_bundle(quickly_measured: Bundle, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """Seen from its folder, where its model and its data are."""
    monkeypatch.chdir(quickly_measured.path.parent)
    return quickly_measured


def recipe(bundle: Bundle) -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((bundle.path / "recipe.yaml").read_text("utf-8"))
    return read


def test_the_recipe_says_what_was_measured(measured_bundle: Bundle) -> None:
    measured = recipe(measured_bundle)["measured"]
    assert measured
    assert {word for words in measured.values() for word in words} <= {SLOWER, NOT_SLOWER}
    names = [entry["pass"] for entry in recipe(measured_bundle)["passes"]]
    assert set(measured) <= set(names)


def test_times_are_in_timings_alone(measured_bundle: Bundle) -> None:
    import json

    timings = json.loads((measured_bundle.path / TIMINGS).read_text("utf-8"))
    assert timings["measured_latency_s"]
    for name, file in content(measured_bundle.path).items():
        assert b"measured_latency_s" not in file, name


def test_a_replay_measures_nothing_and_gives_the_same_bytes(
    measured_bundle: Bundle, tmp_path: Path, no_session: None
) -> None:
    again = tmp_path / "again"
    config = str(measured_bundle.path / "recipe.yaml")
    assert main(["compile", "--config", config, "-o", str(again), "-q", "--no-cache"]) == 0
    assert content(again) == content(measured_bundle.path)


def test_a_replay_takes_the_recorded_word_against_its_own_eyes(measured_bundle: Bundle, tmp_path: Path) -> None:
    turned = recipe(measured_bundle)
    name = next(iter(turned["measured"]))
    turned["measured"] = {name: [SLOWER] * 9, "QuantizeInt8": [SLOWER] * 9}  # which is asked where the first is gone
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(turned), "utf-8")
    assert main(["compile", "--config", str(tmp_path / "recipe.yaml"), "-o", str(tmp_path / "b"), "-q"]) == 0
    proofs = {p["pass"]: p for p in toolkit.load(str(tmp_path / "b")).report["proofs"]}
    assert proofs[name]["decision"] == "reverted"
    assert "measured" in proofs[name]["reason"]


def test_a_recipe_that_lacks_a_decision_is_refused(
    measured_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    turned = recipe(measured_bundle)
    name = next(iter(turned["measured"]))
    turned["measured"] = {"QuantizeWeights": [SLOWER]}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(turned), "utf-8")
    code = main(["compile", "--config", str(tmp_path / "recipe.yaml"), "-o", str(tmp_path / "b"), "-q", "--no-cache"])
    said = " ".join(capsys.readouterr().err.split())
    assert code == 2
    assert f"does not say whether {name} was slower" in said
    assert "--measure" in said
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("measured", ["{FoldConstants: [faster]}", "{FoldConstants: slower}", "[slower]", "yes"])
def test_a_damaged_field_is_refused(measured: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "recipe.yaml").write_text(f"target: desktop_cpu\nmeasured: {measured}\n", "utf-8")
    assert main(["compile", "--config", str(tmp_path / "recipe.yaml"), "-o", str(tmp_path / "b")]) == 5
    assert "measured" in capsys.readouterr().err


@pytest.mark.slow
def test_the_example_measured_and_replayed(tmp_path: Path, short: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    one = tmp_path / "one"
    assert main(["compile", "--target", "desktop_cpu", "--measure", "-o", str(one), "-q"]) == 0
    assert yaml.safe_load((one / "recipe.yaml").read_text("utf-8"))["measured"]
    two = tmp_path / "two"
    assert main(["compile", "--config", str(one / "recipe.yaml"), "-o", str(two), "-q", "--no-cache"]) == 0
    assert content(one) == content(two)
