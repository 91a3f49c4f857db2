"""`check`: the verdict on the stack that was asked for, and changes that are real, priced alike and in order."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import onnx.parser
import pytest
import torch
from torch import nn

from targets.errors import UnknownName, UsageError
from targets.target import load_target
from targets.verdict import Limits, Outcome
from toolkit.alternatives import Candidate
from toolkit.checking import Answer, check_model
from toolkit.cli.main import main
from toolkit.driver import Options, compile_model, estimate_model
from toolkit.units import parse_quantity
from toolkit.ways import Way

NO_TIME = {"latency_s": 1e-7}


@pytest.fixture(scope="module")
def fitting() -> Answer:
    return check_model(target="raspberry_pi_4")


@pytest.fixture(scope="module")
def hopeless() -> Answer:
    """Every way there is, since none is fast enough."""
    return check_model(target="raspberry_pi_4", limits=NO_TIME)


# ---- quantities


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("latency_s", "20ms", 0.02), ("latency_s", "0.02 s", 0.02), ("latency_s", "500us", 5e-4),
        ("latency_s", "500µs", 5e-4), ("latency_s", ".5 min", 30.0), ("latency_s", "1e-3s", 1e-3),
        ("memory_bytes", "100MB", 1e8), ("memory_bytes", "64 MiB", 64 * 2**20), ("size_bytes", "4mb", 4e6),
        ("size_bytes", "512 KiB", 2**19), ("memory_bytes", "17 B", 17), ("energy_j", "5mJ", 5e-3),
        ("energy_j", "2 kJ", 2000.0),
    ],
)  # fmt: skip
def test_quantities_are_read_with_their_unit(name: str, text: str, value: float) -> None:
    assert parse_quantity(name, text) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("latency_s", "20", "no unit"), ("latency_s", "-3ms", "more than zero"), ("latency_s", "0 s", "more than zero"),
        ("latency_s", "fast", "not a time"), ("latency_s", "", "not a time"), ("latency_s", "nan s", "not a time"),
        ("latency_s", "20 MS", "no unit of it"), ("memory_bytes", "5 mJ", "no unit of it"),
        ("energy_j", "5 W", "no unit of it"), ("energy_j", "1e999 J", "too large"), ("size_bytes", "4 M B", "not a"),
    ],
)  # fmt: skip
def test_what_is_no_quantity_is_refused_with_an_example(name: str, text: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem) as caught:
        parse_quantity(name, text, what="--limit")
    assert str(caught.value).startswith("--limit ")
    assert caught.value.hint.startswith("write it like ")


# ---- the verdict


def test_a_model_that_fits_as_it_is_needs_no_change(fitting: Answer) -> None:
    assert fitting.outcome is Outcome.FITS
    assert fitting.change is fitting.way
    assert fitting.way.change == "none"
    assert [way.change for way in fitting.tried] == ["none", "precision"]
    assert fitting.limits == Limits.of(load_target("raspberry_pi_4"))


def test_lower_precision_is_the_change_where_only_it_fits(fitting: Answer) -> None:
    as_it_is, own = fitting.tried
    limit = own.estimate.latency_interval_s[1]
    assert limit < as_it_is.estimate.latency_interval_s[1]
    answer = check_model(target="raspberry_pi_4", limits={"latency_s": limit})
    assert answer.outcome is Outcome.FITS
    assert answer.change is not None
    assert (answer.change.change, answer.change.precision) == ("precision", "int8")
    assert len(answer.tried) == 2


def test_changes_come_in_order_and_end_at_the_first_that_fits(hopeless: Answer) -> None:
    order = ["none", "precision", "rewrite", "stack", "resolution", "activation", "prune", "width", "target"]
    changes = [way.change for way in hopeless.tried]
    assert changes == sorted(changes, key=order.index)
    assert {"none", "precision", "stack", "width", "target"} <= set(changes)
    assert hopeless.change is None
    assert hopeless.outcome is Outcome.DOES_NOT_FIT
    stacks = sorted(
        (way for way in hopeless.tried if way.change in ("precision", "stack")),
        key=lambda way: way.estimate.latency_interval_s[1],
    )
    quickest, slowest = stacks[0], stacks[-1]
    limits = {"latency_s": quickest.estimate.latency_interval_s[1]}
    answer = check_model(target="raspberry_pi_4", stack=slowest.stack.name, limits=limits)
    assert answer.change is not None
    assert answer.change is answer.tried[-1]
    assert all(way.outcome is not Outcome.FITS for way in answer.tried[:-1])
    assert answer.change.change == "stack"
    assert answer.change.stack.id == quickest.stack.id


def same_figures(way: Way, model: object = None) -> None:
    """A way that changes no network costs what `toolkit estimate` says on its own, from a fresh export."""
    as_is = way.change == "none" and way.precision == "fp32"
    alone = estimate_model(model, target=way.stack.target, stack=way.stack.name, as_is=as_is, inputs=list(way.inputs))
    assert way.estimate.latency_s == pytest.approx(alone.latency_s, rel=1e-9)
    assert way.estimate.latency_interval_s == pytest.approx(alone.latency_interval_s, rel=1e-9)
    assert way.estimate.peak_memory_bytes == alone.peak_memory_bytes
    assert way.estimate.energy_j == pytest.approx(alone.energy_j, rel=1e-9)


@pytest.mark.slow
def test_both_ways_on_the_stack_cost_what_an_estimate_of_their_own_says(hopeless: Answer) -> None:
    for way in hopeless.tried[:2]:
        same_figures(way)


@pytest.mark.slow
def test_ways_on_all_devices_cost_what_an_estimate_of_their_own_says(hopeless: Answer) -> None:
    low_opset = [way for way in hopeless.tried if way.stack.opset < 18]
    assert low_opset
    for way in (*hopeless.tried[::3], low_opset[0]):
        if way.graph is None:
            same_figures(way)


@pytest.mark.slow
def test_other_devices_are_held_to_their_own_memory_unless_the_user_said(hopeless: Answer) -> None:
    for way in hopeless.tried:
        limits = {check.quantity: check.limit for check in way.verdict.checks}
        assert limits["latency_s"] == NO_TIME["latency_s"]
        assert limits["memory_bytes"] == load_target(way.stack.target).usable_memory_bytes
    stated = check_model(target="raspberry_pi_4", limits={**NO_TIME, "memory_bytes": 10**8})
    held = [check.limit for way in stated.tried for check in way.verdict.checks if check.quantity == "memory_bytes"]
    assert set(held) == {10**8}
    assert any(way.change == "target" for way in stated.tried)


def test_stacks_that_answer_in_batches_are_not_offered(hopeless: Answer) -> None:
    assert all(way.stack.batch == 1 for way in hopeless.tried)


def test_every_command_is_one(hopeless: Answer, capsys: pytest.CaptureFixture[str]) -> None:
    assert {way.change for way in hopeless.tried if not way.command} == {"width"}
    for way in (way for way in hopeless.tried if way.command):
        program, *arguments = shlex.split(way.command)
        assert program == "toolkit"
        assert main([*arguments, "--dry-run", "--json"]) == 0, way.command
        document = json.loads(capsys.readouterr().out)
        assert document["stack"] == way.stack.id
        assert (document["name"] == "float32") == (way.precision == "fp32" or way.stack.loads_float32), way.command


def test_an_accelerator_that_gets_no_arithmetic_does_not_fit() -> None:
    as_it_is, own = check_model(target="coral_tpu").tried
    assert as_it_is.support.outcome is Outcome.DOES_NOT_FIT
    assert as_it_is.support.leaving_s == pytest.approx(sum(op.latency_s for op in as_it_is.support.leaving))
    assert as_it_is.support.leaving_s > 0
    assert all("--data" in row["rewrite"] for row in as_it_is.support.to_json()["leaving"][:1])
    assert own.support.outcome is Outcome.FITS
    assert own.support.leaving == ()


@pytest.mark.slow
def test_the_predicted_file_size_holds_the_real_one(fitting: Answer, tmp_path: Path) -> None:
    as_it_is, own = fitting.tried
    (exact, interval), predicted = as_it_is.size, own.size[1]
    assert interval == (exact, exact)
    bundle = compile_model(target="raspberry_pi_4", output=tmp_path / "bundle")
    assert predicted[0] <= bundle.report["after"]["size_bytes"] <= predicted[1] < exact
    assert check_model(target="raspberry_pi_4", limits={"size_bytes": int(exact) - 1}).way.precision == "int8"


def test_bad_names_are_refused() -> None:
    with pytest.raises(UnknownName, match="raspbery_pi_4"):
        check_model(target="raspbery_pi_4")
    with pytest.raises(UnknownName, match="tflite-int9"):
        check_model(target="raspberry_pi_4", stack="tflite-int9")


# ---- smaller images


class Pooled(nn.Module):
    """Takes images of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3, stride=2), nn.Linear(8, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.conv(image).relu().mean((2, 3)))


def candidate(model: object, *inputs: str) -> tuple[Candidate, Limits]:
    return Candidate(model, Options(inputs=list(inputs))), Limits(latency_s=10.0)


def graph(path: Path, height: str, width: str) -> str:
    """An ONNX classifier of images whose height and width are as given."""
    text = f"""<ir_version: 10, opset_import: ["" : 18]>
    g (float[1,3,{height},{width}] image) => (float[1,8,1,1] y) <float[8,3,3,3] w = {{{", ".join(["0.1"] * 216)}}}>
    {{ c = Conv(image, w)  r = Relu(c)  y = GlobalAveragePool(r) }}"""
    onnx.save(onnx.parser.parse_model(text), path)
    return str(path)


def test_a_graph_whose_sizes_vary_is_tried_on_smaller_images(tmp_path: Path) -> None:
    path = graph(tmp_path / "any.onnx", "h", "w")
    found, limits = candidate(path, "image=1x3x128x128")
    stack = load_target("raspberry_pi_4").stack()
    ways = list(found.at_smaller_resolution(stack, limits))
    assert [way.inputs for way in ways] == [("image=1x3x96x96",), ("image=1x3x64x64",)]
    assert ["--input image=1x3x96x96" in way.command for way in ways] == [True, False]
    for way in ways:
        same_figures(way, path)
    assert ways[0].estimate.macs > ways[1].estimate.macs
    (smallest,) = found.at_smaller_resolution(stack, Limits(**NO_TIME))  # the others would be too slow as well
    assert smallest.inputs == ("image=1x3x64x64",)


@pytest.mark.slow
def test_a_module_that_takes_any_size_is_tried_on_smaller_images() -> None:
    model = (Pooled().eval(), (torch.zeros(1, 3, 128, 128),))
    found, limits = candidate(model)
    ways = list(found.at_smaller_resolution(load_target("raspberry_pi_4").stack(), limits))
    assert [way.inputs for way in ways] == [("image=1x3x96x96",), ("image=1x3x64x64",)]
    assert all("inputs=['image=1x3x" in way.command for way in ways)
    for way in ways:
        same_figures(way, model)


def test_models_of_one_size_and_of_no_image_are_left_alone(tmp_path: Path) -> None:
    stack = load_target("raspberry_pi_4").stack()
    flat = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(2 * 126 * 126, 4)).eval()
    fixed, half = graph(tmp_path / "fixed.onnx", "128", "128"), graph(tmp_path / "half.onnx", "128", "w")
    for model, inputs in (
        ((flat, (torch.zeros(1, 3, 128, 128),)), []),
        ((nn.Linear(4, 2).eval(), (torch.zeros(1, 4),)), []),
        (None, []),
        (fixed, []),
        (half, ["image=1x3x128x128"]),
    ):
        found, limits = candidate(model, *inputs)
        assert list(found.at_smaller_resolution(stack, limits)) == []


# ---- the command line


@pytest.mark.parametrize(
    ("limit", "strict", "code", "outcome"),
    [(None, [], 0, "fits"), (1e-7, [], 1, "does not fit"), ("middle", [], 0, "uncertain"),
     pytest.param("middle", ["--strict"], 1, "uncertain", marks=pytest.mark.slow)],
)  # fmt: skip
def test_exit_codes(
    limit: object, strict: list[str], code: int, outcome: str, hopeless: Answer, capsys: pytest.CaptureFixture[str]
) -> None:
    if limit == "middle":
        limit = hopeless.tried[1].estimate.latency_s
    arguments = [] if limit is None else ["--max-latency", f"{limit}s"]
    assert main(["check", "-t", "raspberry_pi_4", *arguments, *strict, "--json"]) == code
    assert json.loads(capsys.readouterr().out)["outcome"] == outcome


def test_what_is_printed_names_limits_and_the_next_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "-t", "coral_tpu", "--max-energy", "1J", "--max-size", "4MB", "-q"]) == 0
    said = capsys.readouterr().out
    assert "toolkit compile digits --target coral_tpu" in said.splitlines()[-1]
    for word in ("latency", "memory", "energy", "size", "operators", "1.00 J", "4.00 MB", "int8: fits"):
        assert word in said


@pytest.mark.slow
def test_a_negative_verdict_lists_what_was_tried(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "-t", "raspberry_pi_4", "--max-latency", "100ns", "-q"]) == 1
    said = capsys.readouterr().out
    assert "does not fit (latency)" in said
    assert "nothing that was tried fits" in said


def test_the_command_states_how_images_become_inputs(tmp_path: Path) -> None:
    answer = check_model(target="raspberry_pi_4", data=str(tmp_path), preprocess="unit,color=gray")
    assert f"--data {tmp_path} --preprocess unit,color=gray" in answer.way.command


def test_of_two_that_do_not_fit_the_one_with_fewer_refusals_is_closest(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[1, 8, 32, 32] x, float[8, 8, 1, 1] w) => (float[1, 8, 32, 32] y) {
            a = Relu(x)
            b = Conv(a, w)
            y = Erf(b)
        }"""
    )
    onnx.save(model, tmp_path / "m.onnx")
    answer = check_model(tmp_path / "m.onnx", target="coral_tpu")
    as_it_is, own = answer.tried[:2]
    assert as_it_is.outcome == own.outcome == Outcome.DOES_NOT_FIT
    assert len(own.support.leaving) < len(as_it_is.support.leaving)
    assert answer.way is own


def test_what_the_devices_runtime_does_not_read_does_not_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """TensorRT 8.2 has no Mish; LiteRT of a Raspberry Pi is told nothing of parsers."""
    text = '<ir_version: 10, opset_import: ["" : 18]> g (float[1,4,5] x) => (float[1,4,5] y) { y = Mish(x) }'
    onnx.save(onnx.parser.parse_model(text), tmp_path / "mish.onnx")
    assert main(["check", str(tmp_path / "mish.onnx"), "--target", "jetson_nano", "-q"]) == 1
    said = capsys.readouterr().out
    assert "Mish node is not read on the device: it is not in the operator list of TensorRT 8.2" in said
    assert "does not fit (operators)" in said
    answer = check_model(tmp_path / "mish.onnx", target="raspberry_pi_4")
    assert answer.way.support.unread == ()
