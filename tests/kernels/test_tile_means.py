"""Means of tiles: one softmax over what was seen and the means of the rest, in both forms, and what is refused."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from kernels.dispatch import Call
from kernels.machine import Machine
from kernels.tile_means import TILE, add_tile_means, fused, operators, reference, tile_priority

over_causal = pytest.mark.parametrize("causal", [False, True])
SHAPES = [(3, 16, 24), (2, 64, 64), (17, 16, 16)]  # tiles, d, dv; more tiles than a block of 16
QUICK = [(SHAPES[0], True, torch.float16), (SHAPES[1], False, torch.float16)]
CASES = [
    pytest.param(*case, marks=[] if case in QUICK else pytest.mark.slow)
    for case in product(SHAPES, [False, True], [torch.float32, torch.float16])
]


def _inputs(tiles: int, d: int, dv: int, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    draw = torch.Generator().manual_seed(tiles * d)
    heads = 1 if tiles > 3 else 2
    made = [torch.randn(heads, heads, tiles * TILE, width, generator=draw) for width in (d, d, dv, dv)]
    lse = torch.randn(heads, heads, tiles * TILE, generator=draw) + 3
    return [*(x.to(device, dtype) for x in made), lse.to(device)]


def _seen(tiles: int, causal: bool, device: torch.device) -> Tensor:
    """The own tile and the first one."""
    seen = torch.eye(tiles, dtype=torch.bool, device=device)
    seen[:, 0] = True
    return seen.tril() if causal else seen


@over_causal
def test_priority_is_the_mass_that_a_tile_may_hold(causal: bool) -> None:
    """Written down query by query."""
    q, k, *_ = (x.double() for x in _inputs(3, 16, 16, torch.float32, torch.device("cpu")))
    keys = k.unflatten(2, (3, TILE))
    centres = keys.mean(3)
    radii = (keys - centres[:, :, :, None]).norm(dim=-1).amax(-1)
    wanted = torch.full((3, 3), -torch.inf, dtype=torch.float64)
    for a in range(3):
        seen = range(a + 1) if causal else range(3)
        of_a = q[:, :, a * TILE : (a + 1) * TILE]
        logits = torch.stack([0.25 * (of_a * centres[:, :, b, None]).sum(-1) for b in seen], -1)
        z = 0.25 * torch.stack([of_a.norm(dim=-1) * radii[:, :, b, None] for b in seen], -1)
        most = torch.log_softmax(logits, -1) + torch.minimum(z, z**2 / 2)
        wanted[a, : len(seen)] = most.exp().sum((0, 1, 2)).log()
    torch.testing.assert_close(tile_priority(q, k, causal=causal), wanted)


@pytest.mark.parametrize(("shape", "causal", "dtype"), CASES)
def test_fused_is_as_close_to_the_truth_as_torch(
    shape: tuple[int, int, int], causal: bool, dtype: torch.dtype, device: torch.device
) -> None:
    q, k, v, out, lse = _inputs(*shape, dtype, device)
    seen = _seen(shape[0], causal, device)
    truth = reference.tile_priority(q.double(), k.double(), causal, 0.2)
    shown = truth.isfinite()
    for found, plain, wanted in (
        (fused.tile_priority(q, k, causal, 0.2)[shown], reference.tile_priority(q, k, causal, 0.2)[shown],
         truth[shown]),
        (fused.add_tile_means(out, lse, q, k, v, seen, causal, 0.2),
         reference.add_tile_means(out, lse, q, k, v, seen, causal, 0.2),
         reference.add_tile_means(*(x.double() for x in (out, lse, q, k, v)), seen, causal, 0.2)),
    ):  # fmt: skip
        allowed = 2 * (plain.double() - wanted).abs().max() + 4 * torch.finfo(torch.float32).eps * wanted.abs().max()
        assert (found.double() - wanted).abs().max() <= allowed
    assert (fused.tile_priority(q, k, causal, 0.2)[~shown] == -torch.inf).all()


@pytest.mark.usefixtures("triton_form")
def test_what_sees_no_mean_stays_as_it_was(device: torch.device) -> None:
    q, k, v, out, lse = _inputs(2, 16, 16, torch.float32, device)
    everything = torch.ones(2, 2, dtype=torch.bool, device=device)
    assert torch.equal(add_tile_means(out, lse, q, k, v, everything), out)
    own = torch.eye(2, dtype=torch.bool, device=device)
    first = add_tile_means(out, lse, q, k, v, own, causal=True)[:, :, :TILE]
    assert torch.equal(first, out[:, :, :TILE])


@pytest.mark.usefixtures("triton_form")
def test_rows_may_lie_apart(device: torch.device) -> None:
    """(B, N, H, d) turned round, as networks have them."""
    q, k, v, out, lse = _inputs(2, 16, 16, torch.float32, device)
    turned = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)]
    own = torch.eye(2, dtype=torch.bool, device=device)
    assert torch.equal(tile_priority(*turned[:2]), tile_priority(q, k))
    assert torch.equal(add_tile_means(out, lse, *turned, own), add_tile_means(out, lse, q, k, v, own))


def test_what_is_added_has_a_gradient_and_which_are_wanted_has_none() -> None:
    q, k, v, out, lse = (x[:1, :1].double() for x in _inputs(2, 16, 16, torch.float32, torch.device("cpu")))
    own = torch.eye(2, dtype=torch.bool)
    inputs = [x.requires_grad_() for x in (out, lse, q, k, v)]
    assert torch.autograd.gradcheck(lambda *x: add_tile_means(*x, own), inputs, fast_mode=True)
    assert not tile_priority(q, k).requires_grad


def test_tiles_that_do_not_fit_go_to_plain_torch() -> None:
    small = Machine("cuda", "small", (8, 6), shared_bytes=101_376, has_triton=True)
    call = operators.means_call(*torch.zeros(2, 1, 1, TILE, 128, dtype=torch.bfloat16))
    assert operators.PRIORITY.choose(Call(small, torch.bfloat16, call.sizes)).form.name == "triton"
    wide = Call(small, torch.bfloat16, {**call.sizes, "d": 129})
    assert "163,840 bytes of shared memory" in operators.PRIORITY.choose(wide).refused["triton"]
    assert operators.MEANS.choose(Call(small, torch.float64, call.sizes)).form.name == "torch"


def test_what_does_not_match_is_refused_by_its_shape() -> None:
    q, k, v, out, lse = _inputs(2, 16, 16, torch.float32, torch.device("cpu"))
    own = torch.eye(2, dtype=torch.bool)
    with pytest.raises(ValueError, match="multiple of 128, got 200"):
        tile_priority(q[:, :, :200], k[:, :, :200])
    with pytest.raises(ValueError, match="one dtype on one device"):
        tile_priority(q, k.double())
    with pytest.raises(ValueError, match=r"must both be \(B, H, N, d\)"):
        tile_priority(q, k[..., :8])
    with pytest.raises(ValueError, match="out, lse and seen must be"):
        add_tile_means(out, lse, q, k, v, own[:1])
    with pytest.raises(ValueError, match=r"seen of torch\.float32"):
        add_tile_means(out, lse, q, k, v, own.float())
