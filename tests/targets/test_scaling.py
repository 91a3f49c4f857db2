"""Stacks at other clocks, modes and thread counts: slower is never faster, and every figure has a source."""

import copy
import tomllib
from dataclasses import replace
from importlib.resources import files
from math import exp, log
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from targets.cost import estimate
from targets.errors import InvalidInput, ToolkitError, UnknownName, UsageError
from targets.latency import CAUSES
from targets.modes import Mode, Setting, Threading
from targets.operators import MAC_CLASSES, NOTHING, Product
from targets.scaling import KIND_OF_CAUSE, beside, clock_factors, scaled, thread_factors
from targets.stack import Stack
from targets.target import load_stack, load_target, parse_target, target_names
from targets.workload import Operator, Workload

TARGETS = [load_target(name) for name in target_names()]
STACKS = [stack for target in TARGETS for stack in target.stacks.values()]
MOVABLE = [stack for stack in STACKS if load_target(stack.target).settings.modes]
THREADED = [
    stack
    for stack in STACKS
    if (found := load_target(stack.target).settings.threading)
    and not (stack.rules or stack.machine)
    and (stack.threads or found.unstated)
]
clocks = st.floats(1e8, 5e9)
counts = st.integers(1, 16)


def network(macs: int = 10**8, size: int = 10**5) -> Workload:
    classes = ("conv3x3", "depthwise", "pointwise", "elementwise", "matmul")
    operators = tuple(
        Operator(
            name=f"op{i}", op_type="Conv", op_class=op_class, dtype="float32", input_bytes=size, output_bytes=size,
            weight_bytes=size, product=Product(macs, 1, 1) if op_class in MAC_CLASSES else NOTHING,
            reads=(f"t{i}",), writes=(f"t{i + 1}",), rank=4,
        )
        for i, op_class in enumerate(classes)
    )  # fmt: skip
    tensors = {f"t{i}": size for i in range(len(classes) + 1)}
    return Workload(name="net", operators=operators, tensor_bytes=tensors, inputs=("t0",), outputs=("t5",))


def latency_s(stack: Stack) -> float:
    return estimate(network(), stack).latency_s


# ---- what bounds a cause


def test_every_cause_is_bound_by_something() -> None:
    assert set(KIND_OF_CAUSE) == set(CAUSES)
    assert set(KIND_OF_CAUSE.values()) == {"core", "bytes", "host"}


@given(clocks, clocks, clocks, clocks)
def test_a_slower_clock_never_makes_anything_faster(
    core: float, memory: float, slower: float, memory_then: float
) -> None:
    before = Mode(core_hz=max(core, slower), memory_hz=max(memory, memory_then), source="here")
    after = Mode(core_hz=min(core, slower), memory_hz=min(memory, memory_then), source="here")
    factors = clock_factors(before, after)
    assert min(factors.values()) >= 1
    assert factors["core"] == pytest.approx(before.core_hz / after.core_hz)
    assert factors["host"] == factors["core"], "without a clock of its own, dispatch runs at the core's"


@given(clocks, clocks, clocks, clocks, clocks, clocks)
def test_there_and_back_arithmetic_and_dispatch_take_as_long(
    a: float, b: float, c: float, d: float, e: float, f: float
) -> None:
    one = Mode(core_hz=a, memory_hz=b, host_hz=c, source="here")
    other = Mode(core_hz=d, memory_hz=e, host_hz=f, source="here")
    there, back = clock_factors(one, other), clock_factors(other, one)
    for kind in ("core", "host"):
        assert there[kind] * back[kind] == pytest.approx(1)
    assert there["bytes"] * back["bytes"] >= 1 - 1e-9


def test_traffic_lies_between_the_core_and_the_memory() -> None:
    before = Mode(core_hz=1e9, memory_hz=1.6e9, source="here")
    after = Mode(core_hz=0.5e9, memory_hz=1.6e9, source="here")
    assert clock_factors(before, after) == {"core": 2.0, "bytes": 1.5, "host": 2.0}


@given(counts, counts, st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_threads_help_by_at_most_their_number(few: int, many: int, core: float, traffic: float, host: float) -> None:
    few, many = sorted((few, many))
    threading = Threading(cores=16, core=core, bytes=traffic, host=host, scatter=0.1, source="here")
    for kind, factor in thread_factors(threading, few, many).items():
        assert few / many - 1e-12 <= factor <= 1, kind
    back = thread_factors(threading, many, few)
    assert all(back[kind] == pytest.approx(1 / factor) for kind, factor in thread_factors(threading, few, many).items())


def test_a_share_that_threads_divide_follows_amdahl() -> None:
    threading = Threading(cores=4, core=0.8, bytes=0.0, host=1.0, scatter=0.1, source="here")
    assert thread_factors(threading, 1, 4) == pytest.approx({"core": 0.4, "bytes": 1.0, "host": 0.25})


# ---- stacks


@pytest.mark.parametrize("stack", STACKS, ids=lambda s: s.id)
def test_a_stack_as_it_stands_is_not_scaled(stack: Stack) -> None:
    assert scaled(stack) is stack
    if stack in MOVABLE:
        assert scaled(stack, mode=stack.power_mode) is stack
    if stack in THREADED and stack.threads:
        assert scaled(stack, threads=stack.threads) is stack


@pytest.mark.parametrize("stack", MOVABLE, ids=lambda s: s.id)
def test_modes_are_as_fast_as_their_clocks(stack: Stack) -> None:
    modes = load_target(stack.target).settings.modes
    now = modes[stack.power_mode]
    for name, mode in modes.items():
        there = scaled(stack, mode=name)
        if name == stack.power_mode:
            continue
        if mode.core_hz and now.core_hz:
            slower = mode.core_hz < now.core_hz
            assert (latency_s(there) > latency_s(stack)) is slower, name
        if mode.slower > 1:
            assert latency_s(there) == pytest.approx(mode.slower * latency_s(stack))
        for shares in ({"convolution": 1.0}, {"activations": 0.5, "launch": 0.5}):
            assert there.latency.deviation(shares) > stack.latency.deviation(shares), "it is less well known"
        assert there.power_mode == name
        assert f"scaled from {stack.power_mode} to {name}" in there.provenance
        assert stack.latency.provenance in there.provenance
        assert there.latency.calibrated is stack.latency.calibrated
        assert there.measured_as == {}, "it stands for no published rows"
        assert there.digest() != stack.digest()
        assert name in there.describe()
        assert there.power.source
        assert 0 < there.power.idle_w <= there.power.active_w
        assert 0 <= there.power.uncertainty < 1


@pytest.mark.parametrize("stack", THREADED, ids=lambda s: s.id)
def test_more_threads_are_never_slower_nor_save_watts(stack: Stack) -> None:
    cores = load_target(stack.target).settings.threading
    assert cores is not None
    found = [scaled(stack, threads=count) for count in range(1, cores.cores + 1)]
    times = [latency_s(one) for one in found]
    assert times == sorted(times, reverse=True)
    assert times[0] <= cores.cores * times[-1]
    watts = [one.power.active_w for one in found]
    assert watts == sorted(watts)
    assert [one.threads or cores.unstated for one in found] == list(range(1, cores.cores + 1))


@pytest.mark.parametrize("stack", THREADED, ids=lambda s: s.id)
def test_no_setting_draws_more_than_the_device_is_made_for(stack: Stack) -> None:
    target = load_target(stack.target)
    threading = target.settings.threading
    assert threading is not None
    most = scaled(stack, threads=threading.cores).power
    assert most.active_w <= max(target.power_budget_w, stack.power.active_w)
    assert most.idle_w == stack.power.idle_w


def test_the_interval_is_widened_by_the_scatter_of_threads() -> None:
    stack = load_stack("raspberry_pi_4/ncnn-fp32")
    threading = load_target("raspberry_pi_4").settings.threading
    assert threading is not None
    one = scaled(stack, threads=1)
    extra = threading.scatter * log(4)
    assert one.latency.scatter == pytest.approx((stack.latency.scatter**2 + extra**2) ** 0.5)
    assert one.latency.interval({})[1] == pytest.approx(exp(stack.latency.quantile * one.latency.scatter))


def test_the_five_watt_mode_of_the_nano() -> None:
    stack = load_stack("jetson_nano/tensorrt-fp16")
    slow = scaled(stack, mode="5W")
    ratio = 921.6 / 640
    assert slow.latency.costs["convolution"] / stack.latency.costs["convolution"] == pytest.approx(ratio)
    assert slow.latency.costs["activations"] / stack.latency.costs["activations"] == pytest.approx((1 + ratio) / 2)
    assert slow.latency.costs["launch"] / stack.latency.costs["launch"] == pytest.approx(1479 / 918)
    assert slow.power.active_w < 5 < stack.power.active_w


@pytest.mark.parametrize("spelling", ["5W", "5w", "5 W", " 5-w "])
def test_a_mode_may_be_spelled_as_people_do(spelling: str) -> None:
    assert scaled(load_stack("jetson_nano/tensorrt-fp16"), mode=spelling).power_mode == "5W"


def test_heat_takes_the_clock_of_a_raspberry_pi_3_to_its_soft_limit() -> None:
    stack = load_stack("raspberry_pi_3/ncnn-fp32")
    hot, slow = scaled(stack, sustained=True), scaled(stack, mode="1.2GHz")
    assert latency_s(hot) == pytest.approx(latency_s(slow))
    assert latency_s(scaled(stack, mode="1.2GHz", sustained=True)) == pytest.approx(latency_s(slow))
    assert "lasting load" in hot.provenance
    assert "lasting load" in hot.describe()


def test_what_takes_over_a_part_of_the_work_is_at_the_same_setting() -> None:
    stack = load_stack("raspberry_pi_4/tflite-int8")
    slow = scaled(stack, mode="1.5GHz", threads=1)
    floats = beside(slow, stack.float_stack)
    assert floats.latency == scaled(load_stack(stack.float_stack), mode="1.5GHz", threads=1).latency
    assert beside(slow, stack.float_stack) is floats, "an interval tells fits apart by identity"
    assert beside(stack, stack.float_stack) is load_stack(stack.float_stack)


def test_what_takes_over_is_calibrated_too() -> None:
    """A calibration of the stack in float, in the same process, is read anew."""
    stack = load_stack("raspberry_pi_4/tflite-int8")
    old = beside(scaled(stack, threads=1), stack.float_stack)
    load_target.cache_clear()
    assert beside(stack, stack.float_stack) is load_stack(stack.float_stack)
    assert beside(scaled(stack, threads=1), stack.float_stack) is not old


def test_a_host_on_another_device_stays_as_it_is() -> None:
    stick = replace(load_stack("coral_tpu/usb3-raspberry-pi-4"), setting=Setting(mode="slow"))
    assert beside(stick, stick.host) is load_stack(stick.host)


@pytest.mark.parametrize(
    ("name", "setting", "kind", "says"),
    [
        ("jetson_nano/tensorrt-fp16", {"mode": "7W"}, UnknownName, "7W"),
        ("jetson_nano/tensorrt-fp16", {"mode": "MAXM"}, UnknownName, "MAXM"),
        ("desktop_gpu/rtx3090-pytorch-amp", {"mode": "5W"}, UsageError, "no power modes"),
        ("jetson_nano/tensorrt-fp16", {"threads": 2}, UsageError, "accelerator"),
        ("coral_tpu/usb3-desktop", {"threads": 2}, UsageError, "accelerator"),
        ("raspberry_pi_4/tflite-int8", {"threads": 0}, UsageError, "0 threads"),
        ("raspberry_pi_4/tflite-int8", {"threads": -1}, UsageError, "-1 threads"),
        ("raspberry_pi_4/tflite-int8", {"threads": 5}, UsageError, "4 cores"),
        ("raspberry_pi_4/program-int8", {"threads": 2}, UsageError, "one thread"),
        ("desktop_cpu/i7-12700h-pytorch-fp32", {"threads": 2}, UsageError, "do not say"),
        ("jetson_nano/tensorrt-fp16", {"sustained": True}, UsageError, "hot"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(name: str, setting: dict[str, Any], kind: type, says: str) -> None:
    with pytest.raises(kind, match=says) as refusal:
        scaled(load_stack(name), **setting)
    assert isinstance(refusal.value, ToolkitError)
    assert refusal.value.hint
    assert refusal.value.exit_code == 2


# ---- facts


def profile(name: str) -> dict[str, Any]:
    return tomllib.loads(files("targets").joinpath("profiles", f"{name}.toml").read_text("utf-8"))


THREADING = {"cores": 4, "core": 0.9, "bytes": 0.5, "host": 0.1, "scatter": 0.1, "source": "here"}


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda d: d["modes"]["5W"].update(colour="red"), "colour"),
        (lambda d: d["modes"]["5W"].pop("source"), "source"),
        (lambda d: d["modes"]["5W"].update(source=" "), "no source"),
        (lambda d: d["modes"]["5W"].update(core_hz=-1.0), "below zero"),
        (lambda d: d["modes"]["5W"].update(slower=0.0), "slower"),
        (lambda d: d["modes"]["5W"].pop("core_hz"), "core_hz"),
        (lambda d: d["modes"]["5W"]["power"].pop("source"), "source"),
        (lambda d: d["modes"]["5W"]["power"].update(idle_w=9.0), "idle power"),
        (lambda d: d["modes"].pop("MAXN"), "MAXN"),
        (lambda d: d.update(threading={"cores": 4}), "core"),
        (lambda d: d.update(threading={**THREADING, "core": 1.5}), "between zero and one"),
        (lambda d: d.update(threading={**THREADING, "bytes": -0.1}), "between zero and one"),
        (lambda d: d.update(threading={**THREADING, "cores": 0}), "cores"),
        (lambda d: d.update(threading={**THREADING, "unstated": 5}), "unstated"),
        (lambda d: d.update(threading={**THREADING, "scatter": -1}), "scatter"),
        (lambda d: d.update(sustained={"core_hz": 5e8}), "source"),
    ],
)
def test_a_fact_that_is_wrong_or_without_a_source_is_refused(spoil: Any, named: str) -> None:
    data = copy.deepcopy(profile("jetson_nano"))
    spoil(data)
    with pytest.raises(InvalidInput, match=named) as refusal:
        parse_target(data, {})
    assert refusal.value.hint
    assert "jetson_nano" in refusal.value.problem


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
def test_modes_of_a_device_are_told_apart_by_what_people_type(target: Any) -> None:
    plain = [name.lower().replace(" ", "").replace("-", "").replace("_", "") for name in target.settings.modes]
    assert len(plain) == len(set(plain))
    if target.settings.modes:
        assert {stack.power_mode for stack in target.stacks.values()} <= set(target.settings.modes)
