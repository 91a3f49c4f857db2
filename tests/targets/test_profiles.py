"""Profiles are complete, sourced, and do not claim arithmetic that the silicon lacks."""

import copy
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from targets.errors import InvalidInput, UnknownName
from targets.latency import CAUSES, Lowering
from targets.stack import Stack
from targets.support import load_rules, rule_names
from targets.target import load_stack, load_target, parse_target, prior_of, target_names

REQUIRED = {
    "raspberry_pi_3",
    "raspberry_pi_4",
    "raspberry_pi_5",
    "raspberry_pi_zero_2w",
    "jetson_nano",
    "jetson_tx2",
    "jetson_xavier_nx",
    "jetson_agx_xavier",
    "jetson_orin_nano",
    "jetson_agx_orin",
    "coral_tpu",
    "coral_dev_board",
    "desktop_gpu",
    "desktop_cpu",
}
COLUMNS = {"device", "device_variant", "runtime", "precision", "threads", "batch"}
NUMBERS = "memory_bytes usable_memory_bytes peak_flop_s dram_bytes_s power_budget_w latency_target_s parameters".split()
STACKS = [stack for name in target_names() for stack in load_target(name).stacks.values()]
each_target = pytest.mark.parametrize("name", target_names())
each_stack = pytest.mark.parametrize("stack", STACKS, ids=lambda s: s.id)


def profile(name: str) -> dict[str, Any]:
    return tomllib.loads(files("targets").joinpath("profiles", f"{name}.toml").read_text("utf-8"))


def test_the_promised_targets_are_there() -> None:
    assert set(target_names()) >= REQUIRED


@each_target
def test_a_profile_loads_under_its_own_name(name: str) -> None:
    target = load_target(name)
    assert target.name == name
    assert target.stack() is target.stacks[target.default_stack]
    assert target.stack(f"{name}/{target.default_stack}") is target.stack()
    assert 0 < target.usable_memory_bytes <= target.memory_bytes
    assert all(peak > 0 for peak in target.peak_flop_s.values())
    assert all(text.strip() for text in target.source.values())


@each_target
@pytest.mark.parametrize("number", NUMBERS)
def test_a_number_without_a_source_is_refused(name: str, number: str) -> None:
    data = copy.deepcopy(profile(name))
    del data["source"][number]
    with pytest.raises(InvalidInput, match=number) as refusal:
        parse_target(data, {})
    assert "[source]" in refusal.value.hint


@each_target
@pytest.mark.parametrize("number", ["runtime_bytes", "parameter_cache_bytes", "link_bytes_s", "prior"])
def test_a_number_of_a_stack_without_a_source_is_refused(name: str, number: str) -> None:
    data = copy.deepcopy(profile(name))
    tables = [{**data.get("defaults", {}), **table} for table in data["stacks"].values()]
    used = any(table.get(number) for table in tables)
    data["source"].pop(number, None)
    if used:
        with pytest.raises(InvalidInput, match=number) as refusal:
            parse_target(data, {})
        assert refusal.value.hint
    else:
        assert parse_target(data, {}).name == name


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda d: d.pop("dram_bytes_s"), "dram_bytes_s"),
        (lambda d: d.update(colour="red"), "colour"),
        (lambda d: d.pop("stacks"), "stacks"),
        (lambda d: d["stacks"]["tensorrt-fp16"].pop("power"), "power"),
        (lambda d: d["stacks"]["tensorrt-fp16"].update(turbo=1), "turbo"),
        (lambda d: d["stacks"]["tensorrt-fp16"]["power"].pop("source"), "source"),
    ],
)
def test_a_profile_with_a_field_missing_or_unknown_is_refused_by_name(spoil: Any, named: str) -> None:
    data = copy.deepcopy(profile("jetson_nano"))
    spoil(data)
    with pytest.raises(InvalidInput, match=named) as refusal:
        parse_target(data, {})
    assert refusal.value.hint


def test_a_default_stack_that_is_not_there_is_refused_when_the_profile_is_read() -> None:
    data = copy.deepcopy(profile("jetson_nano"))
    data["default_stack"] = "tensorrt-fp61"
    with pytest.raises((InvalidInput, UnknownName), match="tensorrt-fp61"):
        parse_target(data, {})


@each_stack
def test_stacks_that_a_stack_names_exist(stack: Stack) -> None:
    assert load_stack(stack.id) is load_target(stack.target).stack(stack.name)
    for other in filter(None, (stack.host, stack.float_stack)):
        found = load_stack(other)
        assert found.id == other
        assert not found.rules, "what runs the rest must run everything"
    if stack.float_stack:
        assert load_stack(stack.float_stack).precision == "fp32"
    if stack.rules:
        assert stack.rules in rule_names()
        assert stack.host
        assert stack.link_bytes_s > 0


@each_stack
def test_measured_rows_are_named_by_every_column(stack: Stack) -> None:
    assert set(stack.measured_as) in (set(), COLUMNS)
    assert all(isinstance(value, str) for value in stack.measured_as.values())
    if stack.measured_as and stack.batch != 1:
        assert stack.measured_as["batch"] == str(stack.batch)
    if stack.measured_as.get("threads"):
        assert stack.measured_as["threads"] == str(stack.threads)


def test_no_two_stacks_stand_for_the_same_rows() -> None:
    rows = [tuple(sorted(stack.measured_as.items())) for stack in STACKS if stack.measured_as]
    assert len(rows) == len(set(rows))


@each_stack
def test_a_stack_is_sane(stack: Stack) -> None:
    fit = stack.latency
    assert set(fit.costs) == set(CAUSES)
    assert min(fit.costs.values()) > 0
    assert np.linalg.eigvalsh(np.array(fit.covariance)).min() > 0
    assert min(fit.scatter, fit.quantile) > 0
    assert fit.lowering == Lowering(batch=stack.batch, winograd=stack.winograd, multiprocessors=stack.multiprocessors)
    assert stack.provenance.startswith("uncalibrated: ") is not fit.calibrated
    assert 0 < stack.power.idle_w <= stack.power.active_w
    assert 0 <= stack.power.uncertainty < 1
    assert stack.power.source
    assert (stack.precision == "int8") is (stack.quantization is not None)
    assert stack.runtime_version in stack.describe()
    assert stack.opset >= 13, "QuantizeInt8 and ConvertOpset know no lower opset"


@each_stack
def test_the_precision_of_a_stack_is_arithmetic_that_its_device_has(stack: Stack) -> None:
    target = load_target(stack.target)
    stated = profile(stack.target)
    table = {**stated.get("defaults", {}), **stated["stacks"][stack.name]}
    peaks = table.get("prior", {}).get("peak_flop_s", target.peak_flop_s)
    assert stack.precision in peaks


def test_the_default_stack_has_published_rows_where_the_target_has_any() -> None:
    for name in REQUIRED:
        target = load_target(name)
        if any(stack.measured_as for stack in target.stacks.values()):
            assert target.stack().measured_as, name


@pytest.mark.parametrize("name", ["jetson_nano", "jetson_tx2"])
def test_maxwell_and_pascal_have_no_int8(name: str) -> None:
    target = load_target(name)
    assert "int8" not in target.peak_flop_s
    assert not [s.id for s in target.stacks.values() if s.precision == "int8"]


@pytest.mark.parametrize("name", ["raspberry_pi_3", "raspberry_pi_4", "raspberry_pi_zero_2w"])
def test_cores_before_armv82_have_no_fp16(name: str) -> None:
    target = load_target(name)
    assert "fp16" not in target.peak_flop_s
    assert not [s.id for s in target.stacks.values() if s.precision == "fp16"]


@pytest.mark.parametrize("name", ["coral_tpu", "coral_dev_board"])
def test_the_edge_tpu_has_only_int8(name: str) -> None:
    assert set(load_target(name).peak_flop_s) == {"int8"}


@pytest.mark.parametrize(
    ("call", "guess"),
    [
        (lambda: load_target("jetson_nanoo"), "jetson_nano"),
        (lambda: load_target("raspbery_pi_4"), "raspberry_pi_4"),
        (lambda: load_target("jetson_nano").stack("tensorrt-fp61"), "tensorrt-fp16"),
        (lambda: load_stack("jetson_nano/tensorrt-fp61"), "tensorrt-fp16"),
        (lambda: load_stack("desktop_gpu/h100-tensort-fp16"), "h100-tensorrt-fp16"),
        (lambda: load_rules("edgetpuu"), "edgetpu"),
    ],
)
def test_a_misspelt_name_gets_a_guess(call: Any, guess: str) -> None:
    with pytest.raises(UnknownName) as refusal:
        call()
    assert refusal.value.hint == f"did you mean {guess!r}?"
    assert refusal.value.exit_code == 2


def test_a_name_like_none_is_answered_with_all() -> None:
    with pytest.raises(UnknownName) as refusal:
        load_target("zzz")
    assert all(name in refusal.value.hint for name in REQUIRED)


def test_a_stack_name_that_several_targets_have_is_not_guessed() -> None:
    owners = [stack.id for stack in STACKS if stack.name == "tensorrt-fp32"]
    assert len(owners) > 1
    with pytest.raises(UnknownName) as refusal:
        load_stack("tensorrt-fp32")
    assert any(owner in refusal.value.hint for owner in owners)


def test_a_stack_name_that_one_target_has_needs_no_target() -> None:
    assert load_stack("rtx4090-pytorch-amp").id == "desktop_gpu/rtx4090-pytorch-amp"


def test_digests_tell_stacks_apart_and_stay() -> None:
    digests = {stack.digest() for stack in STACKS}
    assert len(digests) == len(STACKS)
    name = STACKS[0].target
    again = parse_target(profile(name), {})
    assert again.stack(STACKS[0].name).digest() == parse_target(profile(name), {}).stack(STACKS[0].name).digest()


def test_a_prior_does_not_depend_on_what_was_fitted_since() -> None:
    for stack in STACKS:
        prior = prior_of(load_target(stack.target), stack.name)
        assert not prior.calibrated
        if not stack.latency.calibrated:
            assert prior == stack.latency


def test_no_profile_is_left_without_a_file_beside_the_code() -> None:
    folder = Path(str(files("targets"))) / "profiles"
    assert {p.stem for p in folder.iterdir()} == set(target_names())
