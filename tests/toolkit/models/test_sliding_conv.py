"""Causal to the bit, streamed as in a batch, and good at what it is for: ECG and motion."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from passes.dataset import Dataset
from targets.cost import estimate
from targets.errors import InvalidInput
from targets.target import load_stack, load_target, target_names
from toolkit.bench.steps import measured_s
from toolkit.driver import Options, float_program
from toolkit.models.blueprints import sliding_conv
from toolkit.models.blueprints.config import parse
from toolkit.models.blueprints.running_norm import RunningNorm
from toolkit.models.blueprints.sliding_conv import Config, SlidingConv, build
from toolkit.sources import load_source
from toolkit.training.trainer import Settings, Trainer

SHAPES = [
    Config(answer="each", length=64, width=8),
    Config(answer="each", length=61, width=8, stride=1, channels=3, blocks=2),
    Config(answer="each", length=60, width=16, stride=4, stem_kernel=4, kernels=(2, 7), dilations=(3, 5), window=1),
    Config(
        answer="each", length=50, width=16, stride=3, stem_kernel=9, kernels=(1,), dilations=(1,), window=9, blocks=1
    ),
]


def noise(config: Config, seed: int = 0, batch: int = 2) -> Tensor:
    values = np.random.default_rng(seed).normal(0, 1, (batch, config.length, config.channels))
    return torch.from_numpy(values.astype(np.float32))


def seasoned(config: Config) -> SlidingConv:
    """A network whose norms are not the identity."""
    model = build(config)
    rng = np.random.default_rng(1)
    for layer in model.modules():
        if isinstance(layer, RunningNorm):
            for value, low, high in ((layer.running_mean, -1, 1), (layer.running_var, 0.5, 2), (layer.weight, 0.5, 2)):
                value.data.copy_(torch.from_numpy(rng.uniform(low, high, len(value))))
    return model


@pytest.mark.parametrize("config", SHAPES, ids=lambda c: f"stride {c.stride}, {c.kernels}")
@pytest.mark.parametrize("training", [False, True])
def test_no_answer_sees_a_later_sample(config: Config, training: bool) -> None:
    signal = noise(config)
    model = seasoned(config).train(training)
    state = {n: v.clone() for n, v in model.state_dict().items()}
    with torch.no_grad():
        before = model(signal)
        for moment in range(0, config.length, 7):
            model.load_state_dict(state)
            changed = signal.clone()
            changed[:, moment:] += 100
            after = model(changed)
            seen = moment // config.stride  # the first step that the changed sample belongs to
            assert torch.equal(before[:, :seen], after[:, :seen])
            assert seen == before.shape[1] or not torch.equal(before[:, seen], after[:, seen])


@pytest.mark.parametrize("config", SHAPES, ids=lambda c: f"stride {c.stride}, {c.kernels}")
def test_step_by_step_is_what_the_batch_gives(config: Config) -> None:
    model, signal = seasoned(config), noise(config)
    state, found = model.initial_state(2), []
    with torch.no_grad():
        whole = model(signal)
        for start in range(0, config.length - config.stride + 1, config.stride):
            logits, state = model.step(signal[:, start : start + config.stride], state)
            found.append(logits)
    assert whole.shape == (2, config.length // config.stride, config.classes)
    assert float((torch.stack(found, 1) - whole).abs().max()) <= 1e-6 * max(1.0, float(whole.abs().max()))


def test_the_last_answer_is_the_last_of_each() -> None:
    config = Config(width=8, length=100)
    signal = noise(config)
    with torch.no_grad():
        last, each = seasoned(config)(signal), seasoned(config.model_copy(update={"answer": "each"}))(signal)
    assert torch.allclose(last, each[:, -1], atol=1e-6)


def test_one_sample_of_each_is_a_signal_of_length_one() -> None:
    config = Config(stride=1, stem_kernel=3, channels=3, width=8)
    model = seasoned(config)
    one = noise(config)[:, 0]
    with torch.no_grad():
        assert torch.equal(model(one), model(one[:, None]))
        assert torch.equal(
            model.step(one, model.initial_state(2))[0], model.step(one[:, None], model.initial_state(2))[0]
        )


def test_a_step_looks_back_as_far_as_kernels_dilations_and_window_say() -> None:
    config = Config(answer="each", length=200, width=16, stride=2, stem_kernel=5, kernels=(3, 4), dilations=(2, 3),
                    blocks=2, window=8)  # fmt: skip
    signal = noise(config, batch=8).requires_grad_()
    seasoned(config)(signal)[:, -1].sum().backward()
    reached = torch.nonzero(signal.grad.abs().sum((0, 2))).min()
    steps_back = 2 * (4 - 1) * 3 + 8 - 1
    assert 200 - int(reached) == steps_back * 2 + 5


def test_running_norm_is_batch_norm_in_eval_mode_and_counts_what_it_saw() -> None:
    norm, peer = RunningNorm(3), nn.BatchNorm1d(3, momentum=None)
    batches = torch.from_numpy(np.random.default_rng(0).normal(2, 3, (5, 4, 3, 9)).astype(np.float32))
    for batch in batches:
        norm(batch), peer(batch)
    assert torch.allclose(norm.running_mean, peer.running_mean, atol=1e-6)
    assert torch.allclose(norm.running_var, peer.running_var, atol=1e-5)
    assert torch.equal(norm.eval()(batches[0]), peer.eval()(batches[0]))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"kernels": [3, 5]}, "2 kernels and 3 dilations make no scales"),
        ({"stride": 9}, "a stem of 7 samples misses some of a stride of 9"),
        ({"length": 1}, "1 samples are less than one step of 2"),
        ({"signal": "motion"}, "motion has 6 channels, not 1"),
        ({"signal": "heartbeat"}, "signal = 'heartbeat' is not allowed"),
        ({"kernels": [3, 0, 5]}, r"kernels\[1\] = 0 is not allowed"),
        ({"window": 1.5}, "window = 1.5 is not allowed"),
        ({"dilation": 2}, "no field 'dilation'"),
    ],
)
def test_a_config_that_means_nothing_is_refused(fields: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        parse(Config, fields)


def test_a_signal_shorter_than_a_step_is_refused() -> None:
    with pytest.raises(InvalidInput, match="1 samples are less than one step of 2"):
        build()(torch.zeros(1, 1, 1))


# ---- what it is for


def loss(model: nn.Module, batch: tuple[dict[str, Tensor], Tensor | None]) -> Tensor:
    inputs, labels = batch
    return nn.functional.cross_entropy(model(*inputs.values()), labels)


def accuracy(model: nn.Module, values: np.ndarray, labels: np.ndarray) -> float:
    with torch.no_grad():
        return float((model(torch.from_numpy(values)).argmax(-1).numpy() == labels).mean())


@pytest.fixture(scope="module")
def taught() -> SlidingConv:
    """Taught on 600 synthesised beats of three kinds."""
    config = Config(length=128, width=16, blocks=2)
    trainer = Trainer(data=sliding_conv.training(config), settings=Settings(batch=50, held_out=0))
    model = trainer(build(config), loss, step="beats", epochs=8, rate=5e-3)
    assert isinstance(model, SlidingConv)
    return model


@pytest.mark.slow
def test_it_tells_synthesised_beats_apart(taught: SlidingConv) -> None:
    data = sliding_conv.validation(taught.config)
    values = np.concatenate([sample["signal"] for sample in data])
    assert accuracy(taught, values, data.labels) >= 0.98


@pytest.mark.slow
@pytest.mark.skipif(find_spec("pywt") is None, reason="README, block real-networks, installs pywavelets")
def test_it_follows_a_recorded_ecg_step_by_step(taught: SlidingConv) -> None:
    import pywt

    recorded = pywt.data.ecg().astype(np.float32)
    trace = torch.from_numpy((recorded - np.median(recorded)) / np.ptp(recorded))[None, :, None]
    each = SlidingConv(taught.config.model_copy(update={"answer": "each"})).eval()
    each.load_state_dict(taught.state_dict())
    state, found = taught.initial_state(), []
    with torch.no_grad():
        whole = each(trace)[0]
        for start in range(0, trace.shape[1], 2):
            logits, state = taught.step(trace[:, start : start + 2], state)
            found.append(logits[0])
    assert torch.isfinite(whole).all()
    assert float((torch.stack(found) - whole).abs().max()) <= 1e-6 * max(1.0, float(whole.abs().max()))


def basic_motions(part: str) -> tuple[np.ndarray, np.ndarray]:
    """(40, 100, 6) recorded acceleration and rate of turn, ten a second, and their four kinds; UEA archive."""
    path = Path(find_spec("aeon").origin).parent / "datasets" / "data" / "BasicMotions" / f"BasicMotions_{part}.ts"
    rows = [line.split(":") for line in path.read_text().splitlines() if line and line[0] not in "#@"]
    values = np.array([[[float(v) for v in axis.split(",")] for axis in row[:-1]] for row in rows], np.float32)
    return values.transpose(0, 2, 1).copy(), np.unique([row[-1] for row in rows], return_inverse=True)[1]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("aeon") is None, reason="README, block real-networks, installs it")
def test_it_reads_six_axes_of_recorded_motion() -> None:
    values, labels = basic_motions("TRAIN")
    config = Config(signal="motion", channels=6, length=100, classes=4, width=24, blocks=2, window=50)
    data = Dataset.of_arrays("BasicMotions", {"signal": values}, labels)
    trainer = Trainer(data=data, settings=Settings(batch=10, held_out=0))
    model = trainer(build(config), loss, step="motion", epochs=60, rate=5e-3)
    assert accuracy(model, *basic_motions("TEST")) >= 0.97


# ---- in real time


@pytest.mark.slow
def test_a_step_takes_less_than_5_ms_on_every_target_and_here() -> None:
    plain = float_program(load_source(sliding_conv.streaming()), load_stack("desktop_cpu/onnxruntime-fp32"), Options())
    estimates = {
        stack.id: estimate(plain.static_model, stack, as_is=True).latency_s
        for target in map(load_target, target_names())
        for stack in target.stacks.values()
        if stack.batch == 1
    }
    assert len(estimates) >= len(target_names()) - 1
    slowest = max(estimates, key=lambda name: estimates[name])
    assert estimates[slowest] < 5e-3, (slowest, estimates[slowest])
    sample = next(iter(sliding_conv.streaming_calibration()))
    assert measured_s({"step": plain}, sample)["step"] < 5e-3


def test_streaming_is_a_network_of_its_own_with_states_that_occur() -> None:
    network, example = sliding_conv.streaming()
    data = sliding_conv.streaming_calibration()
    assert len(data) == 128
    sample = next(iter(data))
    assert {n: a.shape for n, a in sample.items()} == {n: a.shape for n, a in example.items()}
    with torch.no_grad():
        logits, state = network(*(torch.from_numpy(a) for a in example.values()))
    assert logits.shape == (1, 3)
    assert state.shape == example["state"].shape
