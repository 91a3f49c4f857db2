"""Rows made from known coefficients give those coefficients' predictions back."""

from dataclasses import replace

import numpy as np
import pytest

from targets.cost import estimate
from targets.fitting import HeldOut, Measured, fit_stack, held_out, predict
from targets.latency import ARITHMETIC, CAUSES, LatencyFit
from targets.operators import MAC_CLASSES, Product
from targets.stack import Stack
from targets.target import load_stack, load_target, prior_of
from targets.workload import Operator, Workload


@pytest.fixture(scope="module")
def stack() -> Stack:
    return load_stack("raspberry_pi_4/tflite-fp32")


@pytest.fixture(scope="module")
def prior(stack: Stack) -> LatencyFit:
    return prior_of(load_target(stack.target), stack.name)


@pytest.fixture(scope="module")
def truth(prior: LatencyFit) -> LatencyFit:
    """Every coefficient off by its own factor, up to two either way."""
    factors = (1.7, 0.6, 0.5, 1.0, 2.0, 0.7, 1.4, 1.1, 0.8, 1.2, 1.0, 1.6, 0.7, 1.3)
    return replace(
        prior,
        costs={cause: prior.costs[cause] * factor for cause, factor in zip(CAUSES, factors, strict=True)},
        scatter=0.01,
    )


def shape(op_class: str, macs: int) -> Product:
    """A product of 64 channels to 64, over as many positions as make up the arithmetic."""
    taps = {"conv3x3": 9, "conv": 9, "depthwise": 9}.get(op_class, 1)
    depth = taps if op_class == "depthwise" else 64 * taps
    return Product(max(macs // (depth * 64), 2), depth, 1 if op_class == "depthwise" else 64, taps=taps)


def network(rng: np.random.Generator, name: str) -> Workload:
    mix = rng.dirichlet(np.ones(len(MAC_CLASSES)) * 0.6)
    macs = 10 ** rng.uniform(7.5, 9.5)
    operators = tuple(
        Operator(
            name=f"{op_class}{i}", op_type="Conv", op_class=op_class, dtype="float32",
            product=shape(op_class, int(macs * share / 8)),
            input_bytes=int(10 ** rng.uniform(3, 6)), output_bytes=int(10 ** rng.uniform(3, 6)),
            weight_bytes=int(10 ** rng.uniform(3, 6)), rank=4,
        )
        for op_class, share in zip(MAC_CLASSES, mix, strict=True)
        for i in range(int(rng.integers(2, 14)))
    )  # fmt: skip
    return Workload(name=name, operators=operators, tensor_bytes={}, inputs=(), outputs=())


def rows(truth: LatencyFit, seed: int, count: int, noise: float = 0.0) -> list[Measured]:
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        row = Measured(f"net{i}", "family", network(rng, f"net{i}"), latency_s=1.0)
        made.append(replace(row, latency_s=predict(row, truth) * float(np.exp(noise * rng.standard_normal()))))
    return made


@pytest.fixture(scope="module")
def fitted(truth: LatencyFit, prior: LatencyFit) -> LatencyFit:
    """60 rows: the ridge's pull on a prediction falls with their number, and is 1-2 % of a prior off by two here."""
    return fit_stack(rows(truth, 0, 60), prior, "synthetic")


def test_held_out_networks_are_predicted(fitted: LatencyFit, truth: LatencyFit, prior: LatencyFit) -> None:
    others = rows(truth, 1, 20)
    errors = [abs(predict(row, fitted) / row.latency_s - 1) for row in others]
    before = [abs(predict(row, prior) / row.latency_s - 1) for row in others]
    assert max(errors) < 0.02
    assert np.median(before) > 0.1, "the prior alone must not come near"


def test_what_was_fitted_is_recorded(fitted: LatencyFit, truth: LatencyFit) -> None:
    made = rows(truth, 0, 60)
    assert fitted.calibrated
    assert (fitted.rows, fitted.networks) == (60, 60)
    assert fitted.seen_causes == ARITHMETIC - {"winograd"}
    assert fitted.seen_macs == (min(r.workload.macs for r in made), max(r.workload.macs for r in made))
    assert "synthetic" in fitted.provenance
    assert "60 rows of 60 networks" in fitted.provenance


def test_the_interval_is_narrow_without_noise(stack: Stack, fitted: LatencyFit, truth: LatencyFit) -> None:
    found = estimate(rows(truth, 1, 1)[0].workload, replace(stack, latency=fitted))
    low, high = (bound / found.latency_s for bound in found.latency_interval_s)
    assert 0.97 < low <= 1 <= high < 1.03


@pytest.mark.slow
def test_the_interval_holds_four_fifths_of_new_noisy_networks(
    stack: Stack, truth: LatencyFit, prior: LatencyFit
) -> None:
    fit = fit_stack(rows(truth, 2, 40, noise=0.15), prior, "synthetic")
    others = rows(truth, 3, 400, noise=0.15)
    found = [estimate(row.workload, replace(stack, latency=fit)).latency_interval_s for row in others]
    inside = np.mean([low <= row.latency_s <= high for row, (low, high) in zip(others, found, strict=True)])
    # 40 rows: the covered share has a standard deviation of sqrt(0.8 * 0.2 / 40) = 0.063; three of them
    assert inside == pytest.approx(0.8, abs=0.19)


def test_the_estimate_asks_the_same_model(stack: Stack, fitted: LatencyFit, truth: LatencyFit) -> None:
    for row in rows(truth, 4, 5):
        found = estimate(row.workload, replace(stack, latency=fitted))
        assert found.latency_s == pytest.approx(predict(row, fitted), rel=1e-9)
        assert not any(op.extrapolated for op in found.operators)


def test_the_same_rows_give_the_same_fit(truth: LatencyFit, prior: LatencyFit) -> None:
    made = rows(truth, 5, 12, noise=0.1)
    assert fit_stack(made, prior, "s") == fit_stack(made, prior, "s")


def test_an_odd_row_does_not_move_the_rest(truth: LatencyFit, prior: LatencyFit) -> None:
    made = rows(truth, 6, 40)
    made[0] = replace(made[0], latency_s=made[0].latency_s * 5)
    fit = fit_stack(made, prior, "s")
    assert np.median([abs(predict(row, fit) / row.latency_s - 1) for row in rows(truth, 7, 20)]) < 0.05


def test_time_outside_the_model_is_set_aside(truth: LatencyFit, prior: LatencyFit) -> None:
    made = [replace(row, latency_s=row.latency_s + 0.1, extra_s=0.1) for row in rows(truth, 8, 40)]
    fit = fit_stack(made, prior, "s")
    assert max(abs(predict(row, fit) / row.latency_s - 1) for row in rows(truth, 9, 10)) < 0.05


def test_a_class_that_was_not_measured_keeps_its_prior(truth: LatencyFit, prior: LatencyFit) -> None:
    made = []
    for row in rows(truth, 10, 30):
        ops = tuple(op for op in row.workload.operators if op.op_class != "recurrent")
        cut = replace(row, workload=replace(row.workload, operators=ops))
        made.append(replace(cut, latency_s=predict(cut, truth)))
    fit = fit_stack(made, prior, "s")
    assert fit.costs["recurrent"] == pytest.approx(prior.costs["recurrent"], rel=1e-6)
    assert "recurrent" not in fit.seen_causes


def test_networks_are_left_out_whole(truth: LatencyFit, prior: LatencyFit) -> None:
    """Rows of one network at two sizes must not vouch for each other."""
    one = rows(truth, 11, 1)[0]
    quality = held_out([one, replace(one, latency_s=one.latency_s)], prior, lambda row: row.network)
    alone = one.latency_s / predict(one, prior)
    assert quality.factors == pytest.approx((alone, alone))


def test_what_was_held_out_speaks_of_the_measured_latency() -> None:
    left_out = HeldOut((0.5, 1.0, 2.0), (0.1, 0.1, 0.1))
    assert left_out.mape == pytest.approx((1.0 + 0.0 + 0.5) / 3)
    assert left_out.scores == pytest.approx((np.log(2) / 0.1, 0.0, np.log(2) / 0.1))


def test_the_quantile_leaves_out_one_in_five() -> None:
    left_out = HeldOut(tuple(np.exp(np.arange(1, 20) / 100)), (0.01,) * 19)
    assert left_out.quantile == pytest.approx(16)
    assert left_out.coverage == pytest.approx(15 / 19, abs=0.06)
