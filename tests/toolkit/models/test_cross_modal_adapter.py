"""Any number of modalities, each sample by itself, and what is missing changes nothing."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from targets.errors import InvalidInput
from targets.target import load_stack
from toolkit.driver import Options, float_program
from toolkit.models import entry
from toolkit.models.blueprints.config import parse
from toolkit.models.blueprints.cross_modal_adapter import (
    Config,
    CrossModalAdapter,
    build,
    calibration,
    example,
    training,
)
from toolkit.sources import load_source

SIZES = {"modalities": ["ear", "eye", "skin"], "tokens": [7, 4, 1], "features": [2, 5, 3], "width": 16}


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def adapter(**fields: object) -> CrossModalAdapter:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return CrossModalAdapter(parse(Config, {**SIZES, **fields})).eval()


def inputs(batch: int = 3) -> list[Tensor]:
    return [noise(batch, 7, 2), noise(batch, 4, 5, seed=1), noise(batch, 1, 3, seed=2)]


def by_torchs_attention(module: CrossModalAdapter, some: list[Tensor | None]) -> Tensor:
    """nn.MultiheadAttention with the same weights, over the tokens of what is given and the one that always is."""
    c = module.config
    parts = [module.embed[i](x) + module.kinds[i] for i, x in enumerate(some) if x is not None]
    tokens = torch.cat([*parts, module.always.expand(len(parts[0]), -1, -1)], dim=1)
    attention = nn.MultiheadAttention(c.width, c.heads, batch_first=True)
    attention.in_proj_weight.data = torch.cat([module.query.weight, module.key_value.weight])
    attention.in_proj_bias.data = torch.cat([module.query.bias, module.key_value.bias])
    attention.out_proj.load_state_dict(module.out.state_dict())

    def normed(x: Tensor, norm: nn.LayerNorm) -> Tensor:
        return nn.functional.layer_norm(x, (c.width,), norm.weight, norm.bias)

    latents = module.latents.expand(len(tokens), -1, -1)
    keys = normed(tokens, module.token_norm)
    latents = latents + attention(normed(latents, module.latent_norm), keys, keys)[0]
    return latents + module.think(normed(latents, module.norm))


@torch.no_grad()
def test_it_is_torchs_attention_over_all_modalities() -> None:
    module = adapter()
    torch.testing.assert_close(module(inputs()), by_torchs_attention(module, inputs()), rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("missing", [(0,), (1,), (2,), (0, 2), (1, 2)])
@pytest.mark.parametrize("filling", [0.0, 1e30, float("nan"), float("inf")])
def test_a_missing_modality_is_as_if_it_had_never_been(missing: tuple[int, ...], filling: float) -> None:
    module, some = adapter(), inputs()
    left: list[Tensor | None] = [None if i in missing else x for i, x in enumerate(some)]
    present = torch.ones(3, 3)
    present[:, list(missing)] = 0
    filled = [torch.full_like(x, filling) if i in missing else x for i, x in enumerate(some)]
    wanted = module(left)
    assert torch.equal(
        module(filled, present), module([x * 7 if i in missing else x for i, x in enumerate(some)], present)
    )
    torch.testing.assert_close(module(filled, present), wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(wanted, by_torchs_attention(module, left), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(wanted, module(some), atol=1e-3)


@torch.no_grad()
def test_each_sample_has_its_own_modalities() -> None:
    module, some = adapter(), inputs()
    present = torch.tensor([[1.0, 0, 1], [1, 1, 1], [0, 0, 0]])
    together = module(some, present)
    for i in range(3):
        alone = module([x[i : i + 1] for x in some], present[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-5, atol=1e-6)
    assert together.isfinite().all(), "a sample without any modality has the token that always is"


def test_no_gradient_crosses_samples_or_comes_from_what_is_missing() -> None:
    module, some = adapter(), [x.requires_grad_() for x in inputs()]
    present = torch.tensor([[1.0, 1, 1], [1, 0, 1], [1, 1, 1]])
    module(some, present)[1].square().sum().backward()
    gradients = [[bool(g.any()) for g in x.grad] for x in some if x.grad is not None]
    assert gradients == [[False, True, False], [False, False, False], [False, True, False]]


@torch.no_grad()
@pytest.mark.parametrize("count", [1, 2, 5, 16])
def test_any_number_of_modalities(count: int) -> None:
    config = parse(
        Config,
        {
            "modalities": [f"m{i}" for i in range(count)],
            "tokens": [1 + i % 4 for i in range(count)],
            "features": [1 + i % 7 for i in range(count)],
        },
    )
    model = build(config)
    sample = {n: torch.from_numpy(a) for n, a in example(config).items()}
    assert list(inspect.signature(model.forward).parameters) == [*config.modalities, "present"] == list(sample)
    wanted = model(*sample.values())
    assert wanted.shape == (1, 4)
    assert torch.equal(model(**sample), wanted)
    assert {n: a.shape for n, a in next(iter(training(config))).items()} == {
        n: tuple(t.shape) for n, t in sample.items()
    }


@torch.no_grad()
def test_one_token_may_come_without_its_axis() -> None:
    module, some = adapter(), inputs()
    assert torch.equal(module([*some[:2], some[2][:, 0]]), module(some))


def test_gradients_reach_every_parameter() -> None:
    model = build().train()
    some = list(training().take(8))
    model(*(torch.from_numpy(np.concatenate([s[n] for s in some])) for n in example())).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_the_data_lack_each_modality_in_turn() -> None:
    present = np.concatenate([s["present"] for s in calibration()])
    assert (present.sum(1) < 3).mean() == 0.25
    assert (present.mean(0) < 1).all()


@pytest.mark.slow
def test_in_onnxruntime_a_missing_modality_may_hold_nan() -> None:
    program = float_program(
        load_source("cross_modal_adapter"), load_stack("raspberry_pi_4/tflite-fp32"), Options(cache=False)
    )
    assert [spec.name for spec in program.signature.inputs] == list(example())
    sample = dict(next(iter(training().take(1))))
    assert sample["present"].min() == 0
    (gone,) = (n for n, there in zip(Config().modalities, sample["present"][0], strict=True) if not there)
    (wanted,) = program.run(sample).values()
    (found,) = program.run({**sample, gone: np.full_like(sample[gone], np.nan)}).values()
    assert np.array_equal(found, wanted)
    assert np.isfinite(found).all()


def test_what_does_not_fit_is_refused() -> None:
    module = adapter()
    with pytest.raises(InvalidInput, match="2 inputs for 3 modalities: ear, eye, skin"):
        module(inputs()[:2])
    with pytest.raises(InvalidInput, match=r"eye is \(batch, tokens, 5\), this one is \(3, 4, 2\)"):
        module([inputs()[0], noise(3, 4, 2), None])
    with pytest.raises(InvalidInput, match="no modality is there at all"):
        module([None, None, None])
    with pytest.raises(InvalidInput, match="1 inputs without a name and present with one are not acceleration"):
        build()(noise(1, 2, 3), present=noise(1, 3))
    with pytest.raises(InvalidInput, match="3 modalities, 1 numbers of tokens and 3 numbers of features"):
        parse(Config, {**SIZES, "tokens": [1]})
    with pytest.raises(InvalidInput, match="modalities are ear, ear, skin"):
        parse(Config, {**SIZES, "modalities": ["ear", "ear", "skin"]})
    with pytest.raises(InvalidInput, match="modalities are ear, eye, present"):
        parse(Config, {**SIZES, "modalities": ["ear", "eye", "present"]})
    with pytest.raises(InvalidInput, match=r"modalities\[0\] = 'Ear 1' is not allowed"):
        parse(Config, {**SIZES, "modalities": ["Ear 1", "eye", "skin"]})
    with pytest.raises(InvalidInput, match="3 heads do not divide a width of 16"):
        parse(Config, {**SIZES, "heads": 3})
    assert entry("cross_modal_adapter").config_type() is Config
