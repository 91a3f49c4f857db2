"""A layer as two thin ones: the best product of two matrices of low rank, where that is predicted to be faster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from passes.context import Context
from passes.contract import Kind, PassFailed
from passes.dataset import Dataset
from passes.program import Program
from passes.proof import Proof
from passes.torch_level.layer_work import LayerWork, layers_of, seconds
from passes.torch_level.retraining import (
    Reshapes,
    batches_of,
    example_of,
    freeze_like,
    prepared,
    same_outputs,
    teacher_for,
)
from targets.stack import Stack
from targets.target import vector_width

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["Factorise", "FactoriseAndTrain"]

_SAMPLES = 256
_NARROWING = 0.25
_RIDGE = 1e-6  # of the mean second moment, so that inputs that are always zero can be divided by


@dataclass(frozen=True)
class Factorise(Reshapes):
    """Replace linear layers and 1x1 convolutions by two thin ones, where the stack is predicted to gain by it.

    W (outputs x inputs) becomes A B with A (outputs x rank) and B (rank x inputs), of all such products the one with
    the least mean squared error of the layer's outputs: with M the second moments of its inputs over the data and
    M = L Lᵀ, W L is cut after its largest singular values, and B multiplied by the inverse of L. Without data M is the
    identity.
    Source: the plain form Eckart and Young 1936; weighted by inputs ASVD (Yuan et al. 2023, arXiv:2312.05821), and by
    this whitening SVD-LLM (Wang et al. 2024, arXiv:2403.07378).

    Two thin matrices have less arithmetic below a rank of inputs x outputs / (inputs + outputs), and are faster only
    well below it: every rank is priced on the stack, and layers without a faster one stay.

    Settings:
        error: Share of the energy of a layer's outputs that it may lose.
        ranks: `error`: the lowest rank within that share. `latency`: those that lose least for the seconds gained,
            until `gain` of the predicted time of all layers is saved; each still within `error`.
        gain: See there.
        weighted: By the inputs that the layers have on the data, where there are any.
        exclude: Names of layers that stay.
    """

    error: float = 0.01
    ranks: Literal["error", "latency"] = "error"
    gain: float = 0.2
    weighted: bool = True
    exclude: tuple[str, ...] = ()
    kind = Kind.APPROXIMATE
    needs = frozenset({"module_clean"})

    def requires(self, program: Program, ctx: Context) -> None:
        super().requires(program, ctx)
        if not 0 < self.error < 1 or not 0 < self.gain < 1:
            raise PassFailed(
                f"an error of {self.error} and a gain of {self.gain} make no sense",
                hint="both are shares between 0 and 1",
            )
        if not _candidates(prepared(program), example_of(program)):
            raise PassFailed(
                "it has no linear layer or 1x1 convolution to factorise", hint="prune its channels instead"
            )

    def apply(self, program: Program, ctx: Context) -> Program:
        ranks = self._chosen(program, ctx)
        if not ranks:
            return program
        model = prepared(program)
        for name, rank in ranks.items():
            _replace(model, name, *self._spectra(program, ctx)[name].factors(rank))
        freeze_like(model, program.model)
        return program.with_model(model)

    def ensures(self, before: Program, after: Program, ctx: Context) -> None:
        if problem := same_outputs(after.model, before):
            raise PassFailed(f"the factorised module answers otherwise: {problem}", hint="exclude some of its layers")

    def narrower(self, before: Program, ctx: Context, proof: Proof) -> Factorise | None:
        """Without the quarter of the layers that lose most; of the last one, with a quarter of the error."""
        chosen, spectra = self._chosen(before, ctx), self._spectra(before, ctx)
        worst = sorted(chosen, key=lambda name: -spectra[name].lost(chosen[name]))
        let_off = worst[: max(1, int(_NARROWING * len(worst)))]
        if len(let_off) < len(worst):
            return replace(self, exclude=(*self.exclude, *let_off))
        stricter = replace(self, error=self.error * _NARROWING)
        return stricter if worst and stricter._chosen(before, ctx) else None

    def notes(self, before: Program, after: Program, ctx: Context) -> tuple[str, ...]:
        spectra, chosen = self._spectra(before, ctx), self._chosen(before, ctx)
        lines = []
        for name, spectrum in spectra.items():
            if name in chosen:
                rank = chosen[name]
                lines.append(
                    f"{name}: rank {rank} of {spectrum.full}, {spectrum.lost(rank):.2%} of its outputs' energy lost"
                )
            elif name not in self.exclude:
                lines.append(
                    f"{name} stays: no rank within {self.error:.1%} error is predicted faster on {ctx.stack.id}"
                )
        if self.weighted and ctx.data is None:
            lines.append("without data the weights alone decided, as if inputs were all alike")
        return tuple(lines)

    # ---- which ranks

    def _spectra(self, program: Program, ctx: Context) -> Mapping[str, Spectrum]:
        data = ctx.data.take(_SAMPLES) if self.weighted and ctx.data is not None else None
        key = f"spectra {data.digest if data else ''}"
        return program.kept(key, lambda: _spectra(program, data))

    def _chosen(self, program: Program, ctx: Context) -> dict[str, int]:
        spectra = {n: s for n, s in self._spectra(program, ctx).items() if n not in self.exclude}
        options = {name: self._faster(spectrum, ctx.stack) for name, spectrum in spectra.items()}
        if self.ranks == "error":
            return {name: ranks[-1] for name, ranks in options.items() if ranks}
        return _least_loss(spectra, options, program, ctx.stack, self.gain)

    def _faster(self, spectrum: Spectrum, stack: Stack) -> list[int]:
        """Ranks within the error that are predicted faster, in the stack's precision and in float32; largest first."""
        step = vector_width(stack)
        within = [r for r in range(step, spectrum.full, step) if spectrum.lost(r) <= self.error]
        whole = {as_is: seconds([spectrum.work], stack, as_is=as_is) for as_is in (True, False)}
        fast = [r for r in within if all(seconds(spectrum.thin(r), stack, as_is=a) < s for a, s in whole.items())]
        return fast[::-1]


@dataclass(frozen=True)
class FactoriseAndTrain(Factorise):
    """The same, then `epochs` of training against the answers of the original and the labels: for larger errors.

    Settings:
        epochs, rate: Of the training.
    """

    epochs: int = 5
    rate: float = 1e-3
    kind = Kind.RETRAINED

    def apply(self, program: Program, ctx: Context) -> Program:
        thin = super().apply(program, ctx)
        if thin.model is program.model or not self.epochs:
            return thin
        assert ctx.fit is not None
        teacher = teacher_for(program, ctx)
        return program.with_model(ctx.fit(thin.model, teacher, step=self.name, epochs=self.epochs, rate=self.rate))

    def ensures(self, before: Program, after: Program, ctx: Context) -> None:
        super().ensures(before, after, ctx)
        self._check_answers(before, after, ctx)


@dataclass(frozen=True, eq=False)
class Spectrum:
    """A layer's weights, whitened and taken apart.

    Args:
        work: The layer as it is priced.
        left: (outputs, full) singular vectors; `values` (full,) singular values, largest first.
        right: (full, inputs) singular vectors, with the whitening undone.
    """

    work: LayerWork
    left: torch.Tensor
    values: torch.Tensor
    right: torch.Tensor

    @property
    def full(self) -> int:
        return len(self.values)

    def lost(self, rank: int) -> float:
        """Share of the energy of the layer's outputs, without its bias, that a rank loses."""
        energy = self.values.square()
        return float(energy[rank:].sum() / energy.sum().clamp_min(1e-300))

    def factors(self, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(outputs, rank) and (rank, inputs), equally large."""
        root = self.values[:rank].sqrt()
        return self.left[:, :rank] * root, self.right[:rank] * root[:, None]

    def thin(self, rank: int) -> tuple[LayerWork, LayerWork]:
        """The two layers as they are priced."""
        first = replace(self.work, name=f"{self.work.name}.0", outputs=rank)
        return first, replace(self.work, name=f"{self.work.name}.1", inputs=rank)


def _least_loss(
    spectra: Mapping[str, Spectrum], options: Mapping[str, list[int]], program: Program, stack: Stack, gain: float
) -> dict[str, int]:
    """Step after step to the rank that loses least energy for each second gained, until enough of them are."""
    times = {
        n: [seconds([s.work], stack), *(seconds(s.thin(r), stack) for r in options[n])] for n, s in spectra.items()
    }
    lost = {n: [0.0, *(s.lost(r) for r in options[n])] for n, s in spectra.items()}
    at = dict.fromkeys(spectra, 0)
    total = seconds(layers_of(prepared(program), example_of(program)).values(), stack)
    needed = gain * total

    def price(name: str) -> float:
        i = at[name]
        return (lost[name][i + 1] - lost[name][i]) / max(times[name][i] - times[name][i + 1], 1e-15)

    while needed > 0:
        open_ = [name for name, i in at.items() if i + 1 < len(times[name])]
        if not open_:
            break
        name = min(open_, key=price)
        needed -= times[name][at[name]] - times[name][at[name] + 1]
        at[name] += 1
    return {name: options[name][i - 1] for name, i in at.items() if i}


# ---- layers


def _candidates(model: nn.Module, args: list[torch.Tensor]) -> dict[str, LayerWork]:
    """Layers that run and that two may stand for."""
    from torch import nn

    held = [id(p) for module in model.modules() for p in module.parameters(recurse=False)]
    found = {}
    for name, work in layers_of(model, args).items():
        layer = model.get_submodule(name)
        plain = type(layer) is nn.Linear or (
            type(layer) is nn.Conv2d
            and layer.groups == 1
            and layer.kernel_size == (1, 1)
            and layer.padding in ((0, 0), "valid", "same")
        )
        if plain and name and held.count(id(layer.weight)) == 1:
            found[name] = work
    return found


def _spectra(program: Program, data: Dataset | None) -> dict[str, Spectrum]:
    import torch

    model, args = prepared(program), example_of(program)
    works = _candidates(model, args)
    moments = _moments(program, model, list(works), data) if data else {}
    found = {}
    for name, work in works.items():
        weight = model.get_submodule(name).weight.detach().flatten(1).double()  # type: ignore[union-attr, operator]
        if name not in moments:
            found[name] = Spectrum(work, *torch.linalg.svd(weight, full_matrices=False))
            continue
        moment = moments[name]
        ridge = _RIDGE * moment.diagonal().mean().clamp_min(1e-30) * torch.eye(len(moment), dtype=moment.dtype)
        root = torch.linalg.cholesky(moment + ridge)
        left, values, right = torch.linalg.svd(weight @ root, full_matrices=False)
        right = torch.linalg.solve_triangular(root, right, upper=False, left=False)
        found[name] = Spectrum(work, left, values, right)
    return found


def _moments(program: Program, model: nn.Module, names: list[str], data: Dataset) -> dict[str, torch.Tensor]:
    """Mean of x xᵀ over everything that enters each layer, (inputs, inputs) in float64."""
    import torch
    from torch import nn

    sums: dict[str, torch.Tensor] = {}
    counts = dict.fromkeys(names, 0)

    def add(name: str, layer: nn.Module, taken: tuple[torch.Tensor, ...]) -> None:
        x = taken[0].detach()
        if isinstance(layer, nn.Conv2d):
            rows, columns = layer.stride
            x = x[..., ::rows, ::columns].movedim(-3, -1)
        flat = x.reshape(-1, x.shape[-1]).double()
        sums[name] = sums.get(name, 0) + flat.T @ flat
        counts[name] += len(flat)

    hooks = [
        model.get_submodule(name).register_forward_pre_hook(lambda layer, taken, name=name: add(name, layer, taken))
        for name in names
    ]
    with torch.no_grad():
        for inputs, _ in batches_of(program, data):
            model(*inputs)
    for hook in hooks:
        hook.remove()
    return {name: total / counts[name] for name, total in sums.items()}


def _replace(model: nn.Module, name: str, out: torch.Tensor, into: torch.Tensor) -> None:
    """Put two layers where one was; the first takes the stride, the second the bias."""
    from torch import nn

    layer = model.get_submodule(name)
    rank, bias = out.shape[1], layer.bias is not None
    first: nn.Linear | nn.Conv2d
    second: nn.Linear | nn.Conv2d
    if isinstance(layer, nn.Conv2d):
        rows, columns = layer.stride
        first = nn.Conv2d(layer.in_channels, rank, 1, (rows, columns), bias=False, device="meta")
        second = nn.Conv2d(rank, layer.out_channels, 1, bias=bias, device="meta")
        out, into = out[..., None, None], into[..., None, None]
    else:
        assert isinstance(layer, nn.Linear)
        first = nn.Linear(layer.in_features, rank, bias=False, device="meta")  # draws no numbers
        second = nn.Linear(rank, layer.out_features, bias=bias, device="meta")
    first.weight = nn.Parameter(into.to(layer.weight.dtype).contiguous())
    second.weight = nn.Parameter(out.to(layer.weight.dtype).contiguous())
    second.bias = layer.bias
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, nn.Sequential(first, second).train(layer.training))
