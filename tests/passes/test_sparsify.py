"""Zeros stay zeros through training, and the proof says plainly where they buy nothing."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from passes.context import Context
from passes.contract import Kind, PassFailed
from passes.dataset import Array, Dataset
from passes.metric import TOP1
from passes.program import Level, Program
from passes.proof import Decision
from passes.torch_level.capture import signature_of
from passes.torch_level.sparsify import Sparsify, mask_of
from targets.target import load_stack, load_target, target_names
from toolkit.models import digits
from toolkit.training.trainer import Trainer

PI = load_stack("raspberry_pi_4/onnxruntime-fp32")
ORIN = load_stack("jetson_orin_nano/tensorrt-fp16")


def program_of(module: nn.Module, **example: Array) -> Program:
    return Program(name="net", level=Level.TORCH, model=module.eval(), signature=signature_of(module, example, {}),
                   example=example, facts=frozenset({"module_clean"}))  # fmt: skip


def digits_program() -> Program:
    return program_of(digits.build(), image=np.zeros((1, 1, 8, 8), np.float32))


def context(stack: Any = PI) -> Context:
    (images, labels), _ = digits.split()
    data = Dataset.of_arrays("digits", {"image": images}, labels)
    fit = Trainer(data=data, metric=TOP1)
    return Context(stack=stack, data=data, validation=digits.validation(), metric=TOP1, fit=fit)


def noise(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def fours(weight: torch.Tensor) -> torch.Tensor:
    return weight.movedim(1, -1).unflatten(-1, (-1, 4))


@pytest.mark.slow
def test_two_of_four_stay_zero_and_the_accuracy_is_kept() -> None:
    start = digits_program()
    before = {name: value.clone() for name, value in start.model.state_dict().items()}
    after, proof = Sparsify(epochs=2)(start, context())
    assert proof.decision is Decision.KEPT
    assert proof.kind == Kind.RETRAINED
    for name in ("block1.0", "down.1.0", "block2.0", "classify"):
        weight = after.model.get_submodule(name).weight
        assert bool(((fours(weight) == 0).sum(-1) == 2).all())
        assert not torch.equal(weight, start.model.get_submodule(name).weight * (weight != 0)), "the others learned"
    assert bool((after.model.stem[0].weight != 0).all()), "one input is no multiple of four"
    assert bool((after.model.down[0][0].weight != 0).all()), "nor is that of a depthwise convolution"
    assert proof.metric is not None
    assert proof.metric.drop_interval[1] < 0.025
    assert after.model.state_dict().keys() == start.model.state_dict().keys()
    assert not [m for m in after.model.modules() if "Parametrized" in type(m).__name__]
    assert proof.cost_s is not None
    assert proof.cost_s[0] == proof.cost_s[1]
    assert proof.size_bytes is not None
    assert proof.size_bytes[0] == proof.size_bytes[1]
    assert f"{PI.id} has no kernels for 2:4 zeros: they buy no time there" in proof.notes
    assert all(torch.equal(start.model.state_dict()[name], value) for name, value in before.items())


@pytest.mark.slow
def test_zeros_anywhere_pack_smaller_and_say_that_they_buy_no_time() -> None:
    after, proof = Sparsify(pattern="unstructured", share=0.5, epochs=4)(digits_program(), context(ORIN))
    assert proof.decision is Decision.KEPT
    weights = after.model.block2[0].weight
    assert int((weights == 0).sum()) == int(0.5 * weights.numel())
    assert any("buy no time on any stack" in note for note in proof.notes)
    (packed,) = (note for note in proof.notes if "deflate" in note)
    now, was = (int(part.split(" bytes")[0].split()[-1].replace(",", "")) for part in
                (packed, packed.split("bytes, ")[1].replace(" before", " bytes")))  # fmt: skip
    assert now < 0.75 * was


def test_a_stack_with_sparse_kernels_says_how_they_are_used() -> None:
    start = program_of(nn.Sequential(nn.Linear(16, 16)), x=noise(1, 16))
    notes = Sparsify(epochs=0).notes(start, start, Context(stack=ORIN))
    assert any("--sparsity=enable" in note for note in notes)


def test_only_gpus_of_ampere_and_later_have_the_capability() -> None:
    able = {stack.id for name in target_names() for stack in load_target(name).stacks.values() if stack.sparsity}
    assert able == {
        "jetson_orin_nano/tensorrt-int8", "jetson_orin_nano/tensorrt-fp16", "jetson_agx_orin/tensorrt-int8",
        "jetson_agx_orin/tensorrt-fp16", "desktop_gpu/a100-tensorrt-int8", "desktop_gpu/h100-tensorrt-fp16",
    }  # fmt: skip


@settings(deadline=None)
@given(outputs=st.integers(1, 6), blocks=st.integers(1, 5), kernel=st.integers(1, 3), share=st.floats(0.01, 0.99),
       seed=st.integers(0, 99), equal=st.booleans())  # fmt: skip
def test_masks_keep_the_largest(outputs: int, blocks: int, kernel: int, share: float, seed: int, equal: bool) -> None:
    drawn = np.random.default_rng(seed).standard_normal((outputs, 4 * blocks, kernel, kernel)).astype(np.float32)
    weight = torch.ones_like(torch.from_numpy(drawn)) if equal else torch.from_numpy(drawn)
    mask = mask_of(weight, "2:4")
    assert mask.shape == weight.shape
    assert bool((fours(mask).sum(-1) == 2).all())
    size = fours(weight.abs())
    kept, gone = size.masked_fill(fours(mask) == 0, torch.inf), size.masked_fill(fours(mask) == 1, -torch.inf)
    assert bool((kept.amin(-1) >= gone.amax(-1)).all())
    anywhere = mask_of(weight, "unstructured", share)
    assert int((anywhere == 0).sum()) == int(share * weight.numel())
    if 0 < anywhere.sum() < weight.numel():
        assert weight.abs()[anywhere == 1].min() >= weight.abs()[anywhere == 0].max()


def test_protected_layers_stay_dense() -> None:
    net = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))
    after = Sparsify(epochs=0, protect=("2",)).apply(program_of(net, x=noise(1, 16)), Context(stack=ORIN))
    assert int((after.model[0].weight == 0).sum()) == 128
    assert torch.equal(after.model[2].weight, net[2].weight)


def test_attention_of_torch_itself_gets_zeros_too() -> None:
    net = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    after = Sparsify(epochs=0).apply(program_of(net, src=noise(1, 5, 16)), Context(stack=ORIN))
    assert all(int((getattr(after.model.self_attn, name).weight == 0).sum()) == 128 for name in ("q", "k", "v", "out"))


@pytest.mark.parametrize(
    ("make", "fields", "words"),
    [
        (lambda: nn.Linear(6, 6), {}, "no layer can have 2:4 zeros"),
        (lambda: nn.Linear(8, 8), {"protect": ("*",)}, "no layer"),
        (lambda: nn.Linear(8, 8), {"share": 1.0}, "share of 1.0"),
        (lambda: nn.Linear(8, 8), {"share": float("nan")}, "share of nan"),
        (lambda: nn.Linear(8, 8), {"epochs": 1}, "nothing here does"),
    ],
)
def test_what_makes_no_sense_is_refused(make: Callable[[], nn.Module], fields: dict[str, Any], words: str) -> None:
    module = make()
    start = program_of(module, x=noise(1, module.in_features))  # type: ignore[arg-type]
    with pytest.raises(PassFailed, match=words) as refusal:
        Sparsify(**{"epochs": 0, **fields})(start, Context(stack=ORIN))
    assert refusal.value.hint
