"""Remove from layers of experts those that are chosen least, and train what is left."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from passes.compare import errors, sqnr_db
from passes.context import Context
from passes.contract import EXACT_SQNR_DB, Kind, PassFailed
from passes.dataset import Dataset
from passes.program import Program
from passes.proof import Proof
from passes.torch_level.capture import flatten, to_tensor
from passes.torch_level.expert_layers import ExpertLayer, expert_layers, shrink
from passes.torch_level.retraining import (
    Reshapes,
    batches_of,
    example_of,
    freeze_like,
    prepared,
    same_outputs,
    teacher_for,
)

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["PruneExperts", "Usage"]

_SAMPLES = 1024
_CHECKED = 4  # samples on which a smaller layer is held against one whose router is overruled


@dataclass(frozen=True)
class Usage:
    """Of each expert over the data, the share of the choices and the mean probability; each sums to 1."""

    choices: tuple[float, ...]
    probability: tuple[float, ...]


@dataclass(frozen=True)
class PruneExperts(Reshapes):
    """Take the least used experts out of each mixture, with their rows of its router, and train the rest.

    A softmax over the rows that are left is the former one divided by what the others keep of it: what chose an expert
    that went now chooses among those that stay. As many answer at once as before. What an expert is worth is its share
    of the router's choices over the data, and of its probability among equals; where all experts answer at once, the
    latter alone (Chen et al. 2022, arXiv:2206.00277; Muzio et al. 2024, arXiv:2404.05089).

    The weights of the experts go in every case; time only where all experts are computed for every input.

    Settings:
        ratio: Share of the experts of each layer that go, rounded down; counts where `keep` is 0.
        keep: Experts that stay in each layer.
        min_share: Experts with at least this share stay, whatever else is asked; 1: all may go.
        epochs, rate: Of the training; 0 epochs: none.
        protect: Names or globs of layers that stay as they are.
    """

    ratio: float = 0.5
    keep: int = 0
    min_share: float = 1.0
    epochs: int = 5
    rate: float = 1e-3
    protect: tuple[str, ...] = ()
    kind = Kind.RETRAINED
    needs = frozenset({"module_clean"})

    def requires(self, program: Program, ctx: Context) -> None:
        super().requires(program, ctx)
        if self.keep < 0 or not 0 < self.ratio < 1:
            raise PassFailed(
                f"a ratio of {self.ratio:g} and {self.keep} experts to keep would leave a layer without experts",
                hint="choose a ratio between 0 and 1, such as 0.5, or keep at least one",
            )
        if not 0 < self.min_share <= 1:
            raise PassFailed(f"min_share is {self.min_share:g}", hint="choose a share above 0, at most 1")
        if ctx.data is None or not len(ctx.data):
            raise PassFailed(
                "which experts are used is not known without data", hint="give samples as the device will see: --data"
            )
        self._check_layers(program, ctx)

    def apply(self, program: Program, ctx: Context) -> Program:
        gone = self._gone(program, ctx)
        if not gone:
            return program
        layers = self._free(program, ctx)
        model = prepared(program)
        for layer in layers:
            if layer.router in gone:
                shrink(model, layer, [i for i in range(layer.count) if i not in gone[layer.router]])
        if problem := _unlike(program, ctx, model, gone):
            raise PassFailed(
                f"without these experts it answers otherwise than with them never chosen: {problem}",
                hint="protect some of its layers",
            )
        if self.epochs:
            assert ctx.fit is not None
            model = ctx.fit(model, teacher_for(program, ctx), step=self.name, epochs=self.epochs, rate=self.rate)
        freeze_like(model, program.model)
        return program.with_model(model.eval())

    def ensures(self, before: Program, after: Program, ctx: Context) -> None:
        if problem := same_outputs(after.model, before):
            raise PassFailed(f"the pruned module answers otherwise: {problem}", hint="protect some of its layers")
        self._check_answers(before, after, ctx)

    def narrower(self, before: Program, ctx: Context, proof: Proof) -> PruneExperts | None:
        """Half as many, where the metric fell too far; that is trained anew."""
        if proof.metric is None or proof.metric.drop <= ctx.budget.max_metric_drop:
            return None
        gone, layers = self._gone(before, ctx), self._free(before, ctx)
        share = max(len(gone.get(layer.router, ())) / layer.count for layer in layers)
        fewer = replace(self, keep=0, ratio=share / 2)
        return fewer if any(int(fewer.ratio * layer.count) for layer in layers) else None

    def notes(self, before: Program, after: Program, ctx: Context) -> tuple[str, ...]:
        gone, usage = self._gone(before, ctx), self._usage(before, ctx)
        lines = [_said(layer, usage[layer.router], gone.get(layer.router, ())) for layer in self._free(before, ctx)]
        was, now = (sum(p.numel() for p in m.parameters()) for m in (before.model, after.model))
        held = [
            f"{layer.name or 'the model'} kept its experts: {layer.held}"
            for layer in self._layers(before, ctx)
            if layer.held and "expert" in " ".join(layer.banks).lower()  # others are hardly experts
        ]
        return (f"{was:,} parameters became {now:,} ({1 - now / was:.1%} less)", *lines, *held)

    # ---- before time is spent

    def _check_layers(self, program: Program, ctx: Context) -> None:
        layers = self._free(program, ctx)
        if not layers:
            reasons = [f"{layer.name or 'the model'}: {layer.held}" for layer in self._layers(program, ctx)]
            raise PassFailed(
                f"no layer can lose an expert ({'; '.join(reasons) or 'there is none with a router and experts'})",
                hint="experts are modules of a ModuleList or parameters of three axes, their router an nn.Linear with "
                "an output for each; the forward reads their number from len() or an attribute",
            )
        if all(self._left(layer) == layer.count for layer in layers):
            raise PassFailed(
                f"nothing would go: layers have {', '.join(sorted({str(layer.count) for layer in layers}))} experts",
                hint="keep fewer, or choose a larger ratio",
            )
        for layer in layers:
            if layer.chosen is not None and self._left(layer) < layer.chosen < layer.count:
                raise PassFailed(
                    f"{layer.name or 'the model'} would keep {self._left(layer)} of {layer.count} experts, and chooses "
                    f"{layer.chosen} at once",
                    hint=f"keep at least {layer.chosen}, or protect it",
                )

    def _layers(self, program: Program, ctx: Context) -> list[ExpertLayer]:
        def find() -> list[ExpertLayer]:
            return expert_layers(
                _whole(program), example_of(program), self.protect, lambda m, gone: _unlike(program, ctx, m, gone)
            )

        return program.kept(f"expert layers but {self.protect}", find)

    def _free(self, program: Program, ctx: Context) -> list[ExpertLayer]:
        return [layer for layer in self._layers(program, ctx) if not layer.held]

    # ---- which experts

    def _left(self, layer: ExpertLayer) -> int:
        return min(self.keep, layer.count) or layer.count - int(self.ratio * layer.count)

    def _gone(self, program: Program, ctx: Context) -> dict[str, list[int]]:
        """The experts that go, by router; those without any are left out."""
        usage = self._usage(program, ctx)
        gone = {}
        for layer in self._free(program, ctx):
            worth = _worth(layer, usage[layer.router])
            order = sorted(range(layer.count), key=worth.__getitem__)[: layer.count - self._left(layer)]
            if lost := sorted(i for i in order if self.min_share == 1 or worth[i][0] < self.min_share):
                gone[layer.router] = lost
        return gone

    def _usage(self, program: Program, ctx: Context) -> dict[str, Usage]:
        assert ctx.data is not None
        layers, data = self._free(program, ctx), ctx.data.take(_SAMPLES)
        return program.kept(
            f"usage of experts of {[layer.router for layer in layers]} {data.digest}",
            lambda: _usage(program, layers, data),
        )


def _worth(layer: ExpertLayer, usage: Usage) -> list[tuple[float, float]]:
    if layer.chosen is None or layer.chosen == layer.count:
        return [(p, p) for p in usage.probability]
    return list(zip(usage.choices, usage.probability, strict=True))


def _usage(program: Program, layers: Sequence[ExpertLayer], data: Dataset) -> dict[str, Usage]:
    """How often the routers choose each expert, over everything that reaches them."""
    import torch

    from passes.torch_level.routing import Routing

    model = _whole(program)
    chosen = {layer.router: layer.chosen or 1 for layer in layers}
    choices = {layer.router: torch.zeros(layer.count, dtype=torch.float64) for layer in layers}
    probability = {layer.router: torch.zeros(layer.count, dtype=torch.float64) for layer in layers}

    def hear(name: str, logits: torch.Tensor) -> torch.Tensor:
        rows = logits.detach().reshape(-1, logits.shape[-1]).double()
        best = rows.topk(chosen[name], dim=-1).indices
        choices[name] += torch.bincount(best.flatten(), minlength=rows.shape[-1])
        probability[name] += rows.softmax(-1).sum(0)
        return logits

    with torch.no_grad():
        for inputs, _ in batches_of(program, data):
            with Routing(_weights(model, chosen), hear):
                model(*inputs)
    return {name: Usage(_shares(choices[name]), _shares(probability[name])) for name in choices}


def _shares(totals: torch.Tensor) -> tuple[float, ...]:
    return tuple((totals / totals.sum()).tolist())


def _weights(model: nn.Module, routers: Mapping[str, object]) -> dict[str, torch.Tensor]:
    return {name: model.get_submodule(name).weight for name in routers}  # type: ignore[misc]


def _whole(program: Program) -> nn.Module:
    """The module as it is, made ready to be watched; not to be changed."""
    make: Callable[[], nn.Module] = lambda: prepared(program)  # noqa: E731
    return program.kept("prepared to be watched", make)


def _unlike(program: Program, ctx: Context, smaller: nn.Module, gone: Mapping[str, Sequence[int]]) -> str:
    """How a module without experts differs from the whole one that never chooses them; empty where it does not."""
    import torch

    from passes.torch_level.routing import Routing, never

    assert ctx.data is not None
    whole = _whole(program)
    signal = noise = 0.0
    try:
        for sample in ctx.data.take(_CHECKED):
            inputs = [to_tensor(sample[spec.name]) for spec in program.signature.inputs]
            with torch.no_grad():
                with Routing(_weights(whole, gone), never(gone)):
                    wants = flatten(whole(*inputs))
                haves = flatten(smaller(*inputs))
            for want, have in zip(wants, haves, strict=True):
                power, error, _ = errors(want.numpy(), have.numpy())
                signal, noise = signal + power, noise + error
    except Exception as error:  # the user's forward raises anything
        return f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
    found = sqnr_db(signal, noise)
    floor = EXACT_SQNR_DB["float32"]
    return "" if found >= floor else f"{found:.0f} dB from one whose router is overruled"


def _said(layer: ExpertLayer, usage: Usage, gone: Sequence[int]) -> str:
    kept = [i for i in range(layer.count) if i not in gone]
    every = layer.chosen is None or layer.chosen == layer.count
    table = "; ".join(
        f"{i} {'goes' if i in gone else 'stays'}: {usage.choices[i]:.1%} of choices, {usage.probability[i]:.1%} of "
        "probability"
        for i in range(layer.count)
    )
    return (
        f"{layer.name or 'the model'}: {len(kept)} of {layer.count} experts stay, {_at_once(layer, every)}; they had "
        f"{sum(usage.choices[i] for i in kept):.1%} of the {'first ' if every else ''}choices and "
        f"{sum(usage.probability[i] for i in kept):.1%} of the probability ({table})"
    )


def _at_once(layer: ExpertLayer, every: bool) -> str:
    return "all answer at once" if every else f"{layer.chosen} at once answer"
