"""The language model: what a token may know, what is refused, and that it needs nothing but torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from passes.context import Context
from passes.dataset import UNASKED
from passes.program import Level, Program
from passes.torch_level.capture import signature_of
from passes.torch_level.prune_experts import PruneExperts
from targets.errors import InvalidInput, UsageError
from targets.target import load_stack
from toolkit.models import entry, resnet_bk
from toolkit.models.resnet_bk import Config, ResNetBK, operators
from toolkit.models.resnet_bk.memory import kept_bytes, training_memory
from toolkit.models.resnet_bk.objectives import hidden_ids, next_id
from toolkit.training.precision import kind_for

OPTIONS = {
    "plain": {},
    "learned links": {"links": "learned", "chosen": 2},
    "three scales": {"scales": 3},
    "sparse": {"kept_share": 0.4},
    "sparse at two scales": {"kept_share": 0.4, "scales": 2},
    "int8": {"storage": "int8"},
    "pondering": {"ponder_steps": 3},
    "no clamps": {"potential_clamp": None, "feature_clamp": None},
    "no places": {"positions": "none"},
}
over_options = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
SMALL = {"vocabulary": 23, "width": 16, "heads": 4, "hidden": 24, "context": 77}


def network(**fields: object) -> ResNetBK:
    model = resnet_bk.build(Config(**{**SMALL, **fields}))
    assert isinstance(model, ResNetBK)
    return model.double()


def ids(batch: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(23, (batch, length), generator=torch.Generator().manual_seed(seed))


# ---- what a token may know


@over_options
@pytest.mark.parametrize("length", [1, 2, 3, 64, 77])
def test_causal_tokens_know_nothing_of_later_ones(options, length):
    model, read = network(**options), ids(2, length)
    changed = read.clone()
    place = length // 2
    changed[:, place:] = (changed[:, place:] + 7) % 23
    with torch.no_grad():
        before, after = model(read), model(changed)
    torch.testing.assert_close(after[:, :place], before[:, :place], rtol=1e-11, atol=1e-11)
    assert (after[:, place] - before[:, place]).abs().max() > 1e-3


@over_options
def test_no_gradient_of_a_causal_answer_reaches_a_later_token(options):
    model, read = network(**options), ids(1, 40)
    embedded: list[Tensor] = []
    model.embed.register_forward_hook(lambda _m, _i, out: embedded.append(out.requires_grad_()) or out)
    answered = model(read)
    (grad,) = torch.autograd.grad(answered[0, 20].sum(), embedded[0])
    assert (grad[0, 21:] == 0).all()
    assert grad[0, 20].abs().max() > 0


@over_options
def test_with_both_sides_every_token_knows_the_others(options):
    model, read = network(mode="both_sides", **options), ids(1, 40)
    changed = read.clone()
    changed[0, 20] = (changed[0, 20] + 7) % 23
    with torch.no_grad():
        moved = (model(changed) - model(read)).abs().amax(-1)[0]
    assert moved[20] > 1e-3
    assert moved[:20].max() > 1e-6
    assert moved[21:].max() > 1e-6


def test_a_far_token_is_heard_where_the_broadening_is_small():
    read = ids(1, 77)
    changed = read.clone()
    changed[0, 10] = (changed[0, 10] + 7) % 23
    heard = {}
    for broadening in (0.03, 3.0):
        model = network(broadening_low=broadening, broadening_high=broadening, positions="none")
        with torch.no_grad():
            heard[broadening] = float((model(changed) - model(read))[0, 22:].abs().max())
    assert heard[0.03] > 1e-4 > 1e-6 > heard[3.0]


@over_options
def test_samples_of_a_batch_do_not_meet(options):
    model, read = network(**options), ids(3, 50)
    with torch.no_grad():
        together = model(read)
        alone = torch.cat([model(row[None]) for row in read])
    torch.testing.assert_close(together, alone, rtol=1e-11, atol=1e-11)


# ---- training


@over_options
@pytest.mark.parametrize("mode", ["causal", "both_sides"])
def test_every_parameter_learns(options, mode):
    model, read = network(mode=mode, **options).train(), ids(2, 60)
    if mode == "causal":
        next_id(model, read[:, :-1], read[:, 1:]).backward()
    else:
        hidden_ids(model, read, share=0.2, generator=torch.Generator().manual_seed(0)).backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not silent


def test_its_gradient_is_that_of_differences():
    model, read = network(links="learned", scales=2, storage="float32"), ids(1, 20)
    loss = next_id(model, read[:, :-1], read[:, 1:])
    chain = model.blocks[0].chains[0]
    for parameter in (chain.energy, chain.log_broadening, chain.hopping, chain.potential.bias, chain.gate.bias):
        (grad,) = torch.autograd.grad(loss, parameter, retain_graph=True)
        step = 1e-6
        with torch.no_grad():
            values = []
            for sign in (1, -1):
                parameter[0] += sign * step
                values.append(float(next_id(model, read[:, :-1], read[:, 1:])))
                parameter[0] -= sign * step
        assert float(grad[0]) == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-4, abs=1e-8)


@pytest.mark.slow
def test_a_few_steps_learn_a_cycle():
    config = Config(**{**SMALL, "context": 32, "ponder_weight": 0.0})
    model = resnet_bk.build(config).train()
    assert isinstance(model, ResNetBK)
    read = (torch.arange(33)[None] + torch.arange(8)[:, None]) % 5
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    first = last = 0.0
    for _ in range(40):
        loss = next_id(model, read[:, :-1], read[:, 1:])
        last = float(loss.detach())
        first = first or last
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert last < 0.2 < 2 < first


def test_each_mode_has_its_own_objective():
    with pytest.raises(UsageError, match="sees the next id"):
        next_id(network(mode="both_sides"), ids(1, 5), ids(1, 5))
    with pytest.raises(UsageError, match="no id for hidden ones"):
        hidden_ids(network(), ids(1, 5), share=0.5, generator=torch.Generator())


# ---- options of the config


def test_experts_are_pruned_and_the_rest_answers_as_if_they_were_never_chosen():
    config = Config(vocabulary=128, context=48)
    model, sample = resnet_bk.build(config), resnet_bk.example(config)
    program = Program(name="net", level=Level.TORCH, model=model, signature=signature_of(model, sample, {}),
                      example=sample, facts=frozenset({"module_clean"}))  # fmt: skip
    ctx = Context(stack=load_stack("raspberry_pi_4/onnxruntime-fp32"), data=resnet_bk.calibration(config).take(4))
    smaller = PruneExperts(ratio=0.5, epochs=0).apply(program, ctx).model
    assert [block.mixture.w_in.shape[0] for block in smaller.blocks] == [2, 2]
    assert [block.mixture.router.out_features for block in smaller.blocks] == [2, 2]
    assert sum(p.numel() for p in smaller.parameters()) < 0.7 * sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"chosen": 2, "experts": 1}, "2 experts cannot be chosen of 1"),
        ({"broadening_low": 2.0, "broadening_high": 1.0}, "broadening_low = 2 is above broadening_high = 1"),
        ({"storage": "int8", "potential_clamp": None}, "int8 need a range"),
        ({"width": "64"}, "width = '64' is not allowed"),
        ({"broadening_low": 0.0}, "broadening_low = 0.0 is not allowed"),
        ({"mode": "sideways"}, "mode = 'sideways' is not allowed"),
        ({"head": 3}, "has no field 'head'"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(fields, words):
    with pytest.raises(InvalidInput, match=words):
        Config(**fields)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (ids(1, 78), "78 ids, and the position table has 77 rows"),
        (torch.full((1, 5), 23), "ids from 23 to 23, and the vocabulary has 0 to 22"),
        (torch.tensor([[3, -1]]), "ids from -1 to 3"),
        (ids(1, 5)[0], r"must be int64 \(batch, length\), got torch.int64 \(5,\)"),
        (ids(1, 5).float(), "got torch.float32"),
        (ids(1, 0), "no ids to read"),
    ],
)
def test_ids_that_it_cannot_read_are_refused(given, words):
    with pytest.raises(InvalidInput, match=words):
        network()(given)


def test_without_places_any_length_will_do():
    assert network(positions="none")(ids(1, 300)).shape == (1, 300, 23)


def test_weights_follow_from_the_seed_alone():
    state = torch.random.get_rng_state()
    first, again, other = (resnet_bk.build(Config(**SMALL, seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.embed.weight, other.embed.weight)


def test_the_registry_has_it_with_text_to_calibrate_on():
    found = entry("resnet_bk")
    assert found.family == "language"
    sample = next(iter(found.calibration(Config(vocabulary=23, context=50))))["characters"]
    assert sample.shape == (1, 50)
    assert 0 <= sample.min() <= sample.max() < 23


def test_labels_are_what_the_mode_cannot_see():
    causal = entry("resnet_bk").validation(Config(context=50))
    assert causal is not None
    for sample, labels in zip(causal, causal.labels, strict=True):
        assert (sample["characters"][0, 1:] == labels[:-1]).all()
    filled = entry("resnet_bk").validation(Config(context=50, mode="both_sides"))
    assert filled is not None
    hidden = [(sample["characters"][0] == 128).mean() for sample in filled]
    assert 0.13 < sum(hidden) / len(hidden) < 0.17
    for sample, labels in zip(filled, filled.labels, strict=True):
        seen = sample["characters"][0] != 128
        assert not seen.all()
        assert (labels[seen] == UNASKED).all()
        assert 0 <= labels[~seen].min() <= labels[~seen].max() < 128


# ---- 16 bits


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
@pytest.mark.parametrize("mode", ["causal", "both_sides"])
def test_in_16_bits_products_are_short_and_chains_are_not(kind, mode):
    model, read = network(mode=mode).float(), ids(2, 60)
    chains: list[Tensor] = []
    model.blocks[0].chains[0].register_forward_hook(lambda _m, _i, out: chains.append(out[0]))
    with torch.no_grad():
        whole = model(read)
        with torch.autocast("cpu", getattr(torch, kind)):
            short = model(read)
    assert {found.dtype for found in chains} == {torch.float32}
    assert short.dtype == getattr(torch, kind)
    assert (short - whole).norm() / whole.norm() < 8 * torch.finfo(short.dtype).eps


def test_a_gpu_without_bfloat16_computes_in_float16(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: False)
    assert kind_for(torch.device("cuda"), "bfloat16") == "float16"
    assert kind_for(torch.device("cuda"), "float32") == "float32"


# ---- without kernels


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["causal", "both_sides"])
def test_it_answers_alike_where_kernels_is_another_distribution(tmp_path: Path, mode: str):
    stranger = tmp_path / "kernels"
    stranger.mkdir()
    (stranger / "__init__.py").write_text("def get_kernel(name): ...\n")
    config = Config(**{**SMALL, "mode": mode, "chosen": 2, "scales": 2})
    code = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(Path(__file__).parents[3])!r}]\n"
        "import torch; from toolkit.models import resnet_bk; from toolkit.models.resnet_bk import operators\n"
        "assert not operators.USES_KERNELS and 'environment of its own' in operators.HINT\n"
        f"model = resnet_bk.build(resnet_bk.Config(**{config.model_dump()!r}))\n"
        f"torch.save(model(torch.load({str(tmp_path / 'ids')!r}, weights_only=True)), {str(tmp_path / 'out')!r})\n"
    )
    read = ids(2, 60)
    torch.save(read, tmp_path / "ids")
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    assert operators.USES_KERNELS
    assert not operators.HINT
    theirs = torch.load(tmp_path / "out", weights_only=True)
    torch.testing.assert_close(theirs, resnet_bk.build(config)(read), rtol=1e-4, atol=1e-5)


# ---- memory


def test_what_a_step_keeps_is_linear_in_its_length():
    model = resnet_bk.build(Config(**{**SMALL, "context": 2048}))
    assert isinstance(model, ResNetBK)
    sizes = [kept_bytes(model, length) / length for length in (256, 512, 1024, 2048)]
    assert max(sizes) / min(sizes) < 1.05


def test_chains_in_bytes_keep_less_for_the_gradient():
    wide = {**SMALL, "heads": 16}
    whole, stored = (training_memory(Config(**wide, storage=how), half=False) for how in ("float32", "int8"))
    assert stored.token_bytes < whole.token_bytes - 2 * 16 * 16  # of two blocks of 16 heads at least 16 bytes a site


def test_a_token_keeps_less_in_16_bits():
    model = resnet_bk.build(Config())
    assert isinstance(model, ResNetBK)
    few, many = ([kept_bytes(model, length, half=half) for half in (True, False)] for length in (64, 128))
    assert many[0] - few[0] < many[1] - few[1]


def test_the_batch_that_fits_fits_and_one_more_does_not():
    memory = training_memory(Config(), half=True)
    batch = memory.batch_for(1024, 15_000_000_000)
    assert memory.bytes_for(batch * 1024) <= 15e9 < memory.bytes_for((batch + 1) * 1024)
    with pytest.raises(InvalidInput, match="a sequence of 1048576 ids takes"):
        memory.batch_for(2**20, 1_000_000_000)
