"""Train with the rounding that the device will do: what comes out is stored as integers, and rounds as it did then."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from passes.context import Context, Fit
from passes.contract import Kind, Pass, PassFailed
from passes.program import Level, Program
from passes.proof import Proof
from passes.torch_level.batched_graph import batched_graph, of_any_batch
from passes.torch_level.capture import is_script
from passes.torch_level.integer_places import Places, find_places
from passes.torch_level.retraining import origin
from targets.errors import InvalidInput

if TYPE_CHECKING:
    from torch import fx, nn

__all__ = ["TrainQuantized"]

_SLOWER = 0.1
_RATE = "rate of training"


@dataclass(frozen=True)
class TrainQuantized(Pass):
    """Fake quantizers where the device has integers, ranges from calibration data, then training through them.

    Weights and tables of embeddings become int8 (4 bits: int8 from -7 to 7), biases int32 of scale input times weight,
    activations 8 bits.

    Args:
        activation, activation_symmetric, per_channel, least_channels: See `QuantizeInt8`.
        weight_bits: 8, or 4 with scales that leave the least squared error.
        learned: Train the scales too (LSQ); else they stay as they were calibrated.
        aim: What it is trained towards; see `passes.torch_level.objectives`.
        epochs, rate: See `passes.context.Fit`. Four bits want about ten times the rate of eight. Where training leaves
            the calibrated weights as they were, since it found none better, it begins once more at a tenth of the rate:
            a network of fifty layers that sees few samples wants that.
        samples: Calibration samples to read at most.
        exclude: Modules whose layers stay in float.

    Source: Jacob et al. 2018, arXiv:1712.05877; Esser et al. 2020, arXiv:1902.08153 (learned).
    """

    activation: Literal["uint8", "int8"] = "int8"
    activation_symmetric: bool = False
    per_channel: bool = True
    least_channels: int = 1
    weight_bits: Literal[4, 8] = 8
    learned: bool = False
    aim: Literal["auto", "labels", "reference", "both"] = "auto"
    epochs: int = 10
    rate: float = 1e-4
    samples: int = 128
    exclude: tuple[str, ...] = ()
    kind = Kind.RETRAINED
    level = Level.TORCH
    needs = frozenset({"module_batch_norm_folded"})
    gives = frozenset({"fake_quantized"})
    prepares = True  # its time is shown, but what was asked for and trained is not thrown away for a prediction

    def requires(self, program: Program, ctx: Context) -> None:
        if is_script(program.model):
            raise PassFailed("a TorchScript module cannot be trained", hint="give the nn.Module that it was made from")
        if ctx.fit is None:
            raise PassFailed("nothing here trains a module", hint="set `fit` of the context: toolkit.training has one")
        if ctx.data is None or not len(ctx.data):
            raise PassFailed(
                "no calibration data was given, and random data is not used in its place",
                hint="give samples with --data",
            )
        program.signature.check_inputs(next(iter(ctx.data)))
        nodes = program.exported.graph.nodes
        if any(str(node.target).startswith("edge_toolkit.") for node in nodes):
            raise PassFailed("the graph is quantized already", hint="nothing to do")
        if not self._places(batched_graph(program)[0], ctx).weights:
            raise PassFailed("the graph has no convolution or linear layer to quantize", hint="nothing to do")

    def apply(self, program: Program, ctx: Context) -> Program:
        import torch

        from passes.torch_level.objectives import Objective
        from passes.torch_level.quantizers import freeze

        assert ctx.fit is not None
        module, takes_batches = self._prepared(program, ctx)
        reference = of_any_batch(*batched_graph(origin(program)))  # pruned or distilled before, it knew less
        batched = of_any_batch(module, takes_batches)
        objective = Objective(self.aim, reference)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # torch's own, where it copies its own graphs
                trained, rate = self._trained(batched, objective, ctx.fit)
        except InvalidInput as refusal:
            raise PassFailed(refusal.problem, hint=refusal.hint) from refusal
        graph_module = trained if takes_batches else trained.get_submodule("inner")
        assert isinstance(graph_module, torch.fx.GraphModule)
        made = program.with_model(freeze(graph_module).eval())
        made.kept(_RATE, lambda: rate)
        return made

    def _trained(self, module: nn.Module, objective: nn.Module, fit: Fit) -> tuple[nn.Module, float]:
        """The trained module and the rate that it was trained at; 0 where no rate found anything better."""
        for rate, step in ((self.rate, self.name), (self.rate * _SLOWER, f"{self.name}, slower")):
            trained = fit(module, objective, step=step, epochs=self.epochs, rate=rate)
            if not self.epochs or not _alike(trained, module):
                return trained, rate
        return trained, 0.0

    def notes(self, before: Program, after: Program, ctx: Context) -> tuple[str, ...]:
        rate = after.kept(_RATE, lambda: self.rate)
        if rate == self.rate:
            return ()
        if rate:
            return (f"at a rate of {self.rate:g} training found nothing better than calibration, at {rate:g} it did",)
        return ("training found nothing better than calibration: give more samples, or set another rate",)

    def _prepared(self, program: Program, ctx: Context) -> tuple[fx.GraphModule, bool]:
        """The graph with calibrated fake quantizers, and whether it takes batches."""
        from passes.fake_quant import Grid
        from passes.torch_level.quantizers import insert_quantizers, observe

        assert ctx.data is not None
        module, takes_batches = batched_graph(program)
        places = self._places(module, ctx)
        inputs = [spec.name for spec in program.signature.inputs]
        observe(module, places, ctx.data.take(self.samples), inputs)
        grid = Grid(8, self.activation == "int8", self.activation_symmetric)
        insert_quantizers(
            module,
            places,
            grid,
            Grid(self.weight_bits, narrow=True),
            per_channel=self.per_channel,
            learned=self.learned,
        )
        return module, takes_batches

    def _places(self, module: fx.GraphModule, ctx: Context) -> Places:
        return find_places(
            module.graph,
            least_channels=self.least_channels,
            integers_only=bool(ctx.stack.rules),
            exclude=self.exclude,
        )

    def priced(self, program: Program, ctx: Context) -> Program:
        from passes.torch_level.export import Export

        return program.kept("exported to be priced", lambda: Export().apply(program, ctx))

    def narrower(self, before: Program, ctx: Context, proof: Proof) -> Pass | None:
        """Eight bits; then without the first and the last layer."""
        if self.weight_bits < 8:
            return replace(self, weight_bits=8)
        layers = [weight.layer for weight in self._places(batched_graph(before)[0], ctx).weights]
        if self.exclude or len(layers) < 3:
            return None
        return replace(self, exclude=(layers[0], layers[-1]))


def _alike(one: nn.Module, other: nn.Module) -> bool:
    """Whether two modules built alike hold the same values."""
    import torch

    theirs = other.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in one.state_dict().items())
