"""Energy by work and by the clock: it adds up, waiting costs idle power, batteries drain faster the more is asked."""

from math import exp, isclose

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from targets.cost import estimate
from targets.energy import Duty, WorkEnergy, duty_of, energy_interval, work_energy
from targets.errors import UsageError
from targets.estimate import Estimate
from targets.operators import NOTHING, Product
from targets.stack import Stack
from targets.target import load_stack, load_target, target_names
from targets.workload import Operator, Workload
from toolkit import units

STACKS = [stack for name in target_names() for stack in load_target(name).stacks.values()]
any_stack = st.sampled_from(STACKS)
rates = st.floats(0, 1e5)
batteries = st.floats(1e-3, 1e8)


def operator(name: str, macs: int, size: int, dtype: str = "float32", repeats: int = 1) -> Operator:
    return Operator(
        name=name, op_type="Conv", op_class="pointwise" if macs else "elementwise", dtype=dtype, input_bytes=size,
        output_bytes=size, weight_bytes=size if macs else 0, product=Product(macs, 1, 1) if macs else NOTHING,
        reads=("a",), writes=("b",), rank=4, repeats=repeats,
    )  # fmt: skip


def work(*operators: Operator) -> Workload:
    return Workload(name="n", operators=operators, tensor_bytes={"a": 10**5, "b": 10**5}, inputs=("a",), outputs=("b",))


NETWORK = work(operator("one", 10**8, 10**5), operator("two", 0, 10**5))


def guess(stack: Stack) -> Estimate:
    return estimate(NETWORK, stack)


# ---- by work


@given(st.integers(0, 10**10), st.integers(0, 10**8), st.sampled_from(["float32", "float16", "int8", "uint8", "int64"]))
def test_shares_of_work_add_up(macs: int, size: int, dtype: str) -> None:
    (found,) = work_energy(work(operator("op", macs, size, dtype))).values()
    assert sum(found.shares.values()) == pytest.approx(1 if macs or size else 0)
    assert min(found.arithmetic_pj, found.on_chip_pj, found.dram_pj) >= 0
    assert found.total_pj == found.arithmetic_pj + found.on_chip_pj + found.dram_pj


def test_hand_counts() -> None:
    """One multiply-accumulate is 4.6 pJ in float32 and 3.2 in int8; a byte 160 pJ to memory; 1.25 on the chip."""
    for dtype, per_mac, item in (("float32", 4.6, 4), ("int8", 3.2, 1), ("uint8", 3.2, 1)):
        (found,) = work_energy(work(operator("op", 1000, 100, dtype))).values()
        assert found.arithmetic_pj == pytest.approx(1000 * per_mac)
        assert found.dram_pj == pytest.approx(300 * 160)
        assert found.on_chip_pj == pytest.approx((300 + 1000 / 4 * item) * 1.25)


def test_operators_add_up_even_under_one_name() -> None:
    apart = work_energy(work(operator("a", 1000, 100), operator("b", 0, 50)))
    together = work_energy(work(operator("a", 1000, 100), operator("a", 0, 50)))
    assert WorkEnergy.total(apart.values()) == together["a"]
    assert WorkEnergy.total([]).total_pj == 0
    (twice,) = work_energy(work(operator("a", 1000, 100, repeats=2))).values()
    assert twice.total_pj == pytest.approx(2 * apart["a"].total_pj)


def test_lower_precision_never_costs_more_work() -> None:
    wide = WorkEnergy.total(work_energy(NETWORK).values())
    narrow = WorkEnergy.total(work_energy(NETWORK.at_precision("int8")).values())
    assert narrow.total_pj <= wide.total_pj


# ---- watts times seconds


@given(st.floats(1e-6, 1e3), st.floats(0, 5), st.floats(0, 5), st.floats(0, 0.9))
def test_independent_errors_lie_within_those_that_come_together(
    latency_s: float, below: float, above: float, uncertainty: float
) -> None:
    interval = latency_s * exp(-below), latency_s * exp(above)
    low, high = energy_interval(1.0, latency_s, interval, uncertainty)
    slack = 1 + 1e-9
    assert exp(-below) / (1 + uncertainty) <= low * slack
    assert low <= exp(-below) * slack, "power adds to what latency leaves open"
    assert exp(above) <= high * slack
    assert high <= exp(above) * (1 + uncertainty) * slack


# ---- duty


def duty(stack: Stack, rate: float | None, battery_j: float | None = None) -> Duty:
    return duty_of(guess(stack), stack.power, per_second=rate, battery_j=battery_j)


@given(any_stack, batteries)
def test_a_device_that_only_waits_draws_idle_power(stack: Stack, battery_j: float) -> None:
    found = duty(stack, 0.0, battery_j)
    assert found.average_w == stack.power.idle_w
    assert (found.utilisation, found.outcome) == (0, "fits")
    assert found.hours == pytest.approx(battery_j / 3600 / stack.power.idle_w)


@given(any_stack)
def test_a_device_that_never_waits_draws_the_power_of_the_estimate(stack: Stack) -> None:
    found, one = duty(stack, None), guess(stack)
    assert found.utilisation == 1
    assert found.average_w == pytest.approx(one.energy_j / one.latency_s)
    assert found.per_second == found.most_per_second == pytest.approx(1 / one.latency_s)


@given(any_stack, rates, rates, batteries)
def test_hours_fall_with_the_rate(stack: Stack, one: float, other: float, battery_j: float) -> None:
    few, many = sorted((one, other))
    rare, often = duty(stack, few, battery_j), duty(stack, many, battery_j)
    one_guess = guess(stack)
    assume(one_guess.energy_j >= stack.power.idle_w * one_guess.latency_s)  # a host may draw less than its stick idles
    assert rare.average_w <= often.average_w
    assert rare.hours is not None
    assert often.hours is not None
    assert rare.hours >= often.hours


@given(any_stack, rates, batteries)
def test_every_interval_holds_its_figure(stack: Stack, rate: float, battery_j: float) -> None:
    found = duty(stack, rate, battery_j)
    assert found.hours is not None
    assert found.hours_interval is not None
    for value, (low, high) in (
        (found.average_w, found.average_interval_w),
        (found.utilisation, found.utilisation_interval),
        (found.most_per_second, found.most_per_second_interval),
        (found.hours, found.hours_interval),
    ):
        assert low <= value * (1 + 1e-12)
        assert value <= high * (1 + 1e-12)
    assert isclose(found.hours * 3600 * found.average_w, battery_j, rel_tol=1e-9)


def test_energy_of_an_hour_is_that_of_its_inferences_and_of_waiting() -> None:
    stack = load_stack("raspberry_pi_4/tflite-int8")
    one = guess(stack)
    found = duty_of(one, stack.power, per_second=3)
    waiting_s = 3600 * (1 - 3 * one.latency_s)
    joules = 3600 * 3 * one.energy_j + waiting_s * stack.power.idle_w
    assert found.average_w == pytest.approx(joules / 3600)


def test_a_rate_is_held_against_what_the_device_can_do() -> None:
    stack = load_stack("raspberry_pi_4/tflite-int8")
    least, most = duty(stack, None).most_per_second_interval
    outcomes = [duty(stack, rate).outcome for rate in (0.9 * least, 1.1 * least, 0.9 * most, 1.1 * most)]
    assert outcomes == ["fits", "uncertain", "uncertain", "does not fit"]
    beyond = duty(stack, 100 * most, 3600.0)
    assert beyond.average_w == pytest.approx(duty(stack, None).average_w), "it cannot draw more than it can"


@pytest.mark.parametrize(("rate", "battery_j"), [
    (-1.0, None), (float("nan"), None), (float("inf"), None), (1.0, 0.0), (1.0, -5.0), (1.0, float("nan")),
])  # fmt: skip
def test_what_cannot_be_is_refused(rate: float, battery_j: float | None) -> None:
    with pytest.raises(UsageError) as refusal:
        duty(load_stack("raspberry_pi_4/tflite-int8"), rate, battery_j)
    assert refusal.value.hint


# ---- units


@pytest.mark.parametrize(
    ("text", "joules"),
    [("37Wh", 133_200), ("37 Wh", 133_200), ("500mWh", 1800), ("0.5kWh", 1.8e6), ("20kJ", 20_000), ("1MJ", 1e6)],
)
def test_batteries_are_read_in_their_units(text: str, joules: float) -> None:
    assert units.parse_quantity("battery_j", text) == pytest.approx(joules)


@pytest.mark.parametrize(
    "text", ["37", "37W", "37wH", "37 MB", "5 s", "3.7V", "-1Wh", "0Wh", "Wh", "", "1e400Wh", "mWh 5"]
)
def test_a_battery_in_other_units_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as refusal:
        units.parse_quantity("battery_j", text, what="--battery")
    assert "--battery" in refusal.value.problem
    assert "Wh" in refusal.value.hint


def test_watt_hours_are_no_limit_of_an_inference() -> None:
    with pytest.raises(UsageError):
        units.parse_quantity("energy_j", "1Wh")


def test_hours_are_shown_as_people_count_them() -> None:
    assert [units.hours(value) for value in (0.5, 1.0, 18.53, 47.9, 48.0, 1000.0)] == [
        "30 min", "1 h", "18.5 h", "47.9 h", "2 days", "41.7 days",
    ]  # fmt: skip
