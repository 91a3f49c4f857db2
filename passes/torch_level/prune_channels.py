"""Remove channels, attention heads and hidden units for real, those that matter least, and train what is left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from passes.compare import errors, sqnr_db
from passes.context import Context, synthetic_data
from passes.contract import EXACT_SQNR_DB, Kind, PassFailed
from passes.program import Program
from passes.proof import Proof
from passes.torch_level.capture import flatten, to_tensor
from passes.torch_level.layer_work import layers_of, seconds
from passes.torch_level.narrowing import Kept, Plan, everywhere, where_least
from passes.torch_level.retraining import (
    Reshapes,
    batches_of,
    example_of,
    freeze_like,
    prepared,
    same_outputs,
    teacher_for,
)
from passes.torch_level.tied_channels import Tied, check_installed, emptied, remove, tied_channels, unit_sums
from targets.target import vector_width

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["PruneChannels"]

_TAYLOR_SAMPLES = 256
_LEAST_RATIO = 0.1  # less is not worth a training
_LEAST_STEP = 4


@dataclass(frozen=True)
class PruneChannels(Reshapes):
    """Take away `ratio` of the work of the layers with weights, as whole channels, and train the rest.

    Layers that add up or read each other's channels lose them together (DepGraph, Fang et al. 2023). Attention loses
    whole heads, group norms whole groups; the width that a layer norm runs over stays, and so do outputs.

    Settings:
        ratio: Share of the work to remove, between 0 and 1: of the multiply-accumulates, and with importance
            `latency` of the seconds that linear and convolution layers are predicted to take on the stack.
        importance: What a channel is worth. `magnitude`: the norm of its weights, in units of its layer's mean (Li et
            al. 2017, arXiv:1608.08710). `taylor`: the squared change of the loss without it, to first order, over the
            data (Molchanov et al. 2019, arXiv:1906.10771); without labels of the answers in any direction. `latency`:
            the latter (without data the former) for each second that the stack is predicted to gain, step by step.
        global_: Take channels wherever they are worth least, not the same share of each layer.
        round_to: Layers keep a multiple of so many channels; 0: of what the stack's processor takes at once, or, where
            layers are too narrow to lose `ratio` that way, of half of that, and so on down to four.
        iterations: Prune in so many equal steps, and train after each.
        epochs, rate: Of each training; 0 epochs: none.
        protect: Names or globs of modules whose outputs stay as they are.
    """

    ratio: float = 0.3
    importance: Literal["magnitude", "taylor", "latency"] = "magnitude"
    global_: bool = True
    round_to: int = 0
    iterations: int = 1
    epochs: int = 5
    rate: float = 1e-3
    protect: tuple[str, ...] = ()
    kind = Kind.RETRAINED
    needs = frozenset({"module_clean"})

    def requires(self, program: Program, ctx: Context) -> None:
        check_installed()
        super().requires(program, ctx)
        if not 0 < self.ratio < 1:
            raise PassFailed(f"ratio is {self.ratio}", hint="choose a share between 0 and 1, such as 0.3")
        if self.iterations < 1 or self.round_to < 0:
            raise PassFailed(
                f"{self.iterations} iterations and steps of {self.round_to} channels make no sense",
                hint="at least one iteration; round_to is a number of channels, 0 for the stack's own",
            )
        if self.importance == "taylor" and ctx.data is None:
            raise PassFailed("taylor needs data", hint="give some with --data, or choose importance magnitude")
        self._try(program, ctx)

    def apply(self, program: Program, ctx: Context) -> Program:
        model, args = _prepared(program), example_of(program)
        whole = self._plan(model, args, ctx)
        budget = whole.work(whole.all)
        teacher = teacher_for(program, ctx)
        for step in range(1, self.iterations + 1):
            plan = self._plan(model, args, ctx, whole.round_to)
            left = budget * (1 - self.ratio * step / self.iterations)
            remove(model, args, self._gone(plan, model, args, left, program, ctx))
            if self.epochs:
                assert ctx.fit is not None
                name = self.name if self.iterations == 1 else f"{self.name}-{step}"
                model = ctx.fit(model, teacher, step=name, epochs=self.epochs, rate=self.rate)
                _wants_gradients(model)
        freeze_like(model, program.model)
        return program.with_model(model.eval())

    def ensures(self, before: Program, after: Program, ctx: Context) -> None:
        if problem := same_outputs(after.model, before):
            raise PassFailed(f"the pruned module answers otherwise: {problem}", hint="protect its last layers")
        self._check_answers(before, after, ctx)

    def narrower(self, before: Program, ctx: Context, proof: Proof) -> PruneChannels | None:
        """Half as much, where the metric fell too far; that is trained anew."""
        fell = proof.metric is not None and proof.metric.drop > ctx.budget.max_metric_drop
        return replace(self, ratio=self.ratio / 2) if fell and self.ratio >= 2 * _LEAST_RATIO else None

    def notes(self, before: Program, after: Program, ctx: Context) -> tuple[str, ...]:
        args = example_of(before)
        model = _prepared(before)
        plan, held = self._plan(model, args, ctx), self._held(model, args)
        was, now = plan.layers, layers_of(after.model, args)
        macs = [sum(layer.macs for layer in layers.values()) for layers in (was, now)]
        weights = [sum(p.numel() for p in m.parameters()) for m in (before.model, after.model)]
        widths = [
            f"{n} {w.outputs} to {now[n].outputs}" for n, w in was.items() if n in now and now[n].outputs < w.outputs
        ]
        times = [1e3 * seconds(layers.values(), ctx.stack) for layers in (was, now)]
        return (
            f"{macs[0]:,} multiply-accumulates became {macs[1]:,} ({1 - macs[1] / macs[0]:.1%} less), "
            f"{weights[0]:,} parameters {weights[1]:,}",
            f"layers with weights are predicted to take {times[1]:.4g} ms on {ctx.stack.id}, {times[0]:.4g} ms before "
            f"({1 - times[1] / times[0]:.1%} less)",
            f"outputs of layers: {', '.join(widths)}",
            *(f"{root} kept its width: {why}" for root, why in held.items()),
        )

    def _plan(self, model: nn.Module, args: Sequence[torch.Tensor], ctx: Context, round_to: int = 0) -> Plan:
        """What may go, in steps of `round_to`; where that is open, in the widest of `_steps` that reaches the ratio."""
        groups = tied_channels(model, args, self.protect)
        free = [tied for tied in groups if not tied.held and tied.units > 1]
        stack = ctx.stack if self.importance == "latency" else None
        layers = layers_of(model, args)
        plans = [Plan(tuple(free), layers, step, stack) for step in ([round_to] if round_to else self._steps(ctx))]
        return next((plan for plan in plans if self._reaches(plan)), plans[-1])

    def _steps(self, ctx: Context) -> list[int]:
        if self.round_to:
            return [self.round_to]
        width = vector_width(ctx.stack)
        return [width >> i for i in range(width.bit_length()) if width >> i >= min(width, _LEAST_STEP)]

    def _reaches(self, plan: Plan) -> bool:
        return plan.work(plan.least) <= plan.work(plan.all) * (1 - self.ratio)

    def _held(self, model: nn.Module, args: Sequence[torch.Tensor]) -> dict[str, str]:
        return {tied.root: tied.held for tied in tied_channels(model, args, self.protect) if tied.held}

    # ---- before time is spent

    def _try(self, program: Program, ctx: Context) -> None:
        """Prune a copy by magnitude, and see that it answers like the whole network with the same channels empty."""
        model, args = _prepared(program), example_of(program)
        plan = self._plan(model, args, ctx)
        self._check_reach(plan, model, args)
        gone = self._by_magnitude(plan, model, args, plan.work(plan.all) * (1 - self.ratio))
        if not (problem := _unlike(program, ctx, gone)):
            return
        for tied in plan.groups:
            fewer = {tied: range(tied.units - plan.steps(tied)[-1])}
            if fewer[tied] and (problem := _unlike(program, ctx, fewer)):
                raise PassFailed(
                    f"cannot follow what is tied to the channels of {tied.root}: {problem}",
                    hint=f"protect it: protect={[name for name, _ in tied.rows]}; "
                    "or let its forward read widths and heads from attributes",
                )
        raise PassFailed(f"cannot follow how its channels are tied: {problem}", hint="protect some of its layers")

    def _check_reach(self, plan: Plan, model: nn.Module, args: Sequence[torch.Tensor]) -> None:
        held = self._held(model, args)
        if not any(len(plan.steps(tied)) > 1 for tied in plan.groups):
            reasons = [f"{root}: {why}" for root, why in held.items()]
            narrow = [f"{t.root}: {t.units * t.width} channels are one step of {plan.round_to}" for t in plan.groups]
            raise PassFailed(
                f"no layer can lose a channel ({'; '.join((*reasons, *narrow)) or 'there are none with weights'})",
                hint="protect less, or set a smaller round_to",
            )
        if not self._reaches(plan):
            whole, least = plan.work(plan.all), plan.work(plan.least)
            raise PassFailed(
                f"a ratio of {self.ratio} would empty a layer: with {plan.round_to} channels left in each that may "
                f"lose some, {1 - least / whole:.1%} of the {_unit(plan)} go",
                hint="choose a smaller ratio or a smaller round_to, or protect less",
            )

    # ---- which channels

    def _gone(
        self, plan: Plan, model: nn.Module, args: Sequence[torch.Tensor], budget: float, program: Program, ctx: Context
    ) -> dict[Tied, list[int]]:
        if self.importance == "magnitude" or ctx.data is None:
            scores = _magnitudes(plan, model, args)
        else:
            scores = _taylor(plan, model, args, program, ctx)
        return self._lowest(plan, scores, budget, ctx if self.importance == "latency" else None)

    def _by_magnitude(
        self, plan: Plan, model: nn.Module, args: Sequence[torch.Tensor], budget: float
    ) -> dict[Tied, list[int]]:
        return self._lowest(plan, _magnitudes(plan, model, args), budget, None)

    def _lowest(
        self, plan: Plan, scores: Mapping[str, torch.Tensor], budget: float, ctx: Context | None
    ) -> dict[Tied, list[int]]:
        """The units of each set that go; with a context, worth is counted for each second that the stack gains."""
        order = {root: score.argsort(stable=True) for root, score in scores.items()}

        def loss(tied: Tied, now: int, then: int, kept: Kept) -> float:
            units = order[tied.root][tied.units - now : tied.units - then]
            worth = scores[tied.root][units]
            if ctx is None:
                return float(worth.mean())
            return float(worth.sum()) / max(_gained(plan, tied, then, kept, ctx), 1e-12)

        kept = where_least(plan, budget, loss) if self.global_ else everywhere(plan, budget)
        return {t: sorted(order[t.root][: t.units - kept[t.root]].tolist()) for t in plan.groups}


def _unit(plan: Plan) -> str:
    return "multiply-accumulates" if plan.stack is None else f"predicted seconds on {plan.stack.id}"


def _gained(plan: Plan, tied: Tied, then: int, kept: Kept, ctx: Context) -> float:
    """Seconds that the layers of a set are predicted to gain by it keeping `then` units."""
    names = dict.fromkeys(name for name, _ in (*tied.rows, *tied.columns))
    before, after = plan.narrowed(kept), plan.narrowed({**kept, tied.root: then})
    was, now = (seconds([layers[n] for n in names if n in layers], ctx.stack) for layers in (before, after))
    return was - now


def _magnitudes(plan: Plan, model: nn.Module, args: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Norm of all weights of a unit, in units of the mean of its set."""
    sums = unit_sums(model, args, plan.groups, lambda weights: weights.square())
    return {t.root: s.sqrt() / s.sqrt().mean().clamp_min(1e-30) for t, s in zip(plan.groups, sums, strict=True)}


def _taylor(
    plan: Plan, model: nn.Module, args: Sequence[torch.Tensor], program: Program, ctx: Context
) -> dict[str, torch.Tensor]:
    """Squared first-order change of the loss without a unit, over the data.

    Where there are no labels, the loss is the distance to the reference's answers with noise of their own size: its
    squared gradient is how far the answers move, in any direction (the Fisher information of a Gaussian).
    """
    import torch

    assert ctx.data is not None
    totals = {tied.root: torch.zeros(tied.units, dtype=torch.float64) for tied in plan.groups}
    draw = torch.Generator().manual_seed(ctx.seed)
    for inputs, labels in batches_of(program, ctx.data.take(_TAYLOR_SAMPLES)):
        model.zero_grad(set_to_none=True)
        with torch.enable_grad():
            _sensitivity(model, inputs, labels, draw).backward()  # type: ignore[no-untyped-call]
        sums = unit_sums(model, args, plan.groups, lambda w: None if w.grad is None else w * w.grad)
        for tied, found in zip(plan.groups, sums, strict=True):
            totals[tied.root] += found.square()
    model.zero_grad(set_to_none=True)
    return totals


def _sensitivity(
    model: nn.Module, inputs: Sequence[torch.Tensor], labels: torch.Tensor | None, draw: torch.Generator
) -> torch.Tensor:
    import torch

    from passes.torch_level.losses import label_loss

    outputs = [out for out in flatten(model(*inputs)) if out.is_floating_point()]
    if labels is not None:
        return label_loss(outputs[0], labels)
    noise = [torch.randn(out.shape, generator=draw) / out.detach().std().clamp_min(1e-12) for out in outputs]
    return torch.stack([(n * out).mean() for n, out in zip(noise, outputs, strict=True)]).sum()


# ---- copies


def _prepared(program: Program) -> nn.Module:
    """A copy whose weights all want gradients: the ties are read off those."""
    model = prepared(program)
    _wants_gradients(model)
    return model


def _wants_gradients(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())


def _unlike(program: Program, ctx: Context, gone: Mapping[Tied, Sequence[int]]) -> str:
    """How a copy without units differs from one in which they are zeros; empty where it answers the same."""
    import torch

    args = example_of(program)
    without, hollow = _prepared(program), _prepared(program)
    try:
        remove(without, args, gone)
        emptied(hollow, args, gone)
        if problem := same_outputs(without, program):
            return problem
        data = (ctx.data or synthetic_data(program.signature, ctx.seed, example=program.example)).take(2)
        signal = noise = 0.0
        for sample in data:
            inputs = [to_tensor(sample[spec.name]) for spec in program.signature.inputs]
            with torch.no_grad():
                answers = [flatten(m(*inputs)) for m in (hollow, without)]
            for want, have in zip(*answers, strict=True):
                power, error, _ = errors(want.numpy(), have.numpy())
                signal, noise = signal + power, noise + error
    except Exception as error:  # the library and the user's forward raise anything
        return f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
    found = sqnr_db(signal, noise)
    floor = EXACT_SQNR_DB["float32"]
    return "" if found >= floor else f"without them it answers otherwise than with zeros in them ({found:.0f} dB)"
