"""Scaled latencies and profiles' watts beside published rows: three networks on nine boards, and every power log."""

from collections import Counter
from statistics import mean

import pytest

from targets.modes import Threading
from targets.target import load_target, target_names
from toolkit.bench.energy import LOGS, Log, summary
from toolkit.bench.power import logged
from toolkit.bench.scaling.clocks import mode_checks
from toolkit.bench.scaling.threads import Pair, fitted_shares, pairs, taken_stacks, thread_table

pytestmark = pytest.mark.slow

NETWORKS = frozenset({"googlenet_caffe", "mobilenet_v2_caffe"})


@pytest.fixture(scope="module")
def rows() -> list[Pair]:
    return list(pairs(NETWORKS))


def test_the_rows_say_what_threads_do(rows: list[Pair]) -> None:
    boards = Counter(row.board for row in rows)
    assert len(boards) == 9
    assert min(boards.values()) >= 4
    assert all(sum(row.parts) == pytest.approx(1) for row in rows)


def test_threads_are_predicted_on_boards_that_were_not_fitted(rows: list[Pair]) -> None:
    table = [line for line in thread_table(rows) if "TX2" not in line.board]  # its six cores are of two kinds
    error = mean(line.mape for line in table)
    assert error < 0.25
    assert error < 0.5 * mean(line.mape_unchanged for line in table)
    assert error < 0.5 * mean(line.mape_divided for line in table)


def test_the_profiles_hold_about_what_these_networks_say(rows: list[Pair]) -> None:
    shares = fitted_shares(rows)
    stated = load_target("raspberry_pi_4").settings.threading
    assert stated is not None
    assert stated.core == pytest.approx(shares.core, abs=0.1)
    assert shares.narrow_bytes < shares.wide_bytes, "two cores take all that a narrow memory delivers"


def test_stacks_taken_to_other_threads_are_as_right_as_their_interval_says() -> None:
    """The stack of one thread on the Raspberry Pi 4 predicts four, and the other way round; two networks."""
    found = [line for line in taken_stacks(NETWORKS) if line.stack.startswith("raspberry_pi_4/ncnn")]
    assert len(found) == 2
    assert all(line.networks == 2 for line in found)
    assert max(line.mape for line in found) < 0.3
    assert min(line.covered for line in found) >= 0.5


def test_every_board_of_the_same_memory_states_the_same_shares() -> None:
    found = [load_target(name).settings.threading for name in target_names() if name.startswith("raspberry")]
    assert all(isinstance(threads, Threading) for threads in found)
    assert len({(threads.core, threads.bytes, threads.host) for threads in found if threads}) == 1


def test_ratios_that_profiles_state_are_those_of_the_rows() -> None:
    checks = mode_checks()
    assert len(checks) >= 20
    by_device = {name: [c for c in checks if c.what.startswith(name)] for name in
                 ("Jetson AGX Xavier", "Jetson Xavier NX", "Jetson AGX Orin", "Raspberry Pi 4")}  # fmt: skip
    assert all(by_device.values())
    bounds = {"Jetson AGX Xavier": 0.12, "Jetson Xavier NX": 0.12, "Jetson AGX Orin": 0.45, "Raspberry Pi 4": 0.03}
    for device, bound in bounds.items():
        assert max(abs(check.error) for check in by_device[device]) < bound, device


@pytest.mark.parametrize("log", LOGS, ids=lambda log: f"{log.stack}{log.mode}")
def test_the_active_power_of_a_profile_is_that_of_its_logs(log: Log) -> None:
    """Over every logged network, whether or not it is defined here."""
    from targets.scaling import scaled
    from targets.target import load_stack

    power = scaled(load_stack(log.stack), mode=log.mode).power
    rows = [r for r in logged() if r.system == log.system and r.round in log.rounds
            and log.precision in ("", r.precision)]  # fmt: skip
    inside = [abs(row.watts / power.active_w - 1) <= power.uncertainty for row in rows]
    least = {"": 0.4}.get(log.precision, 0.8)  # a MaxQ log holds networks of other kinds: speech, BERT, volumes
    assert len(rows) >= 14
    assert mean(inside) >= least
    if log.precision:
        assert power.active_w == pytest.approx(mean(row.watts for row in rows), rel=0.02)
        assert power.idle_w == pytest.approx(min(row.least_watts for row in rows), rel=0.05)


def test_joules_of_a_few_networks_lie_in_their_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    few = {"mobilenet-v1-1.0-224-non-quantized", "mobilenet-v1-0.25-128-non-quantized"}
    import toolkit.bench.energy as bench

    monkeypatch.setattr(bench, "logged", lambda: [row for row in logged() if row.model in few])
    line, found = summary(LOGS[0])
    assert (line.networks, line.not_built) == (2, 0)
    assert line.covered == 1
    assert line.power_error < 0.06
    assert all(network.predicted_j > 0 for network in found)
