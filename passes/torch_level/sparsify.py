"""Set weights to zero where they lie: in a pattern that some GPUs multiply faster, or anywhere, for size alone."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal

from passes.context import Context
from passes.contract import Kind, PassFailed
from passes.program import Program
from passes.torch_level.layer_work import layers_of
from passes.torch_level.retraining import Reshapes, example_of, freeze_like, prepared, same_outputs, teacher_for

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["Sparsify", "mask_of"]

_FOUR = 4


@dataclass(frozen=True)
class Sparsify(Reshapes):
    """Zero the smallest weights of linear and convolution layers, and train the others while those stay zero.

    `2:4` keeps the two largest of every four weights along the inputs (Mishra et al. 2021, arXiv:2104.08378), which
    sparse tensor cores multiply in up to half the time; layers whose inputs are no multiple of four stay dense.
    `unstructured` zeros `share` of each layer's weights (Han et al. 2015, arXiv:1506.02626): the file packs smaller,
    and nothing runs faster. The latency model prices zeros like any other weight: what was gained is to be measured.

    Settings:
        share: Of the weights to zero, for `unstructured`.
        epochs, rate: Of the training; 0 epochs: none.
        protect: Names or globs of layers that stay dense.
    """

    pattern: Literal["2:4", "unstructured"] = "2:4"
    share: float = 0.5
    epochs: int = 5
    rate: float = 1e-3
    protect: tuple[str, ...] = ()
    kind = Kind.RETRAINED
    needs = frozenset({"module_clean"})

    def requires(self, program: Program, ctx: Context) -> None:
        super().requires(program, ctx)
        if not 0 < self.share < 1:
            raise PassFailed(f"a share of {self.share} makes no sense", hint="choose one between 0 and 1, such as 0.5")
        if not self._masks(prepared(program), program):
            raise PassFailed(
                f"no layer can have {self.pattern} zeros",
                hint="2:4 wants layers with a multiple of four inputs; protect less",
            )

    def apply(self, program: Program, ctx: Context) -> Program:
        model = prepared(program)
        masks = self._masks(model, program)
        weights = {f"{name}.weight": _weight(model, name) * mask for name, mask in masks.items()}
        state = model.state_dict()
        if self.epochs:
            assert ctx.fit is not None
            learner = _masked(prepared(program), masks)
            for parameter in learner.parameters():
                parameter.requires_grad_(parameter.is_floating_point())
            learner = ctx.fit(learner, teacher_for(program, ctx), step=self.name, epochs=self.epochs, rate=self.rate)
            weights = {f"{name}.weight": _weight(learner, name) for name in masks}
            state = learner.state_dict()
        model.load_state_dict({key: weights[key] if key in weights else state[key] for key in model.state_dict()})
        freeze_like(model, program.model)
        return program.with_model(model)

    def ensures(self, before: Program, after: Program, ctx: Context) -> None:
        if problem := same_outputs(after.model, before):
            raise PassFailed(f"the sparse module answers otherwise: {problem}", hint="protect its last layers")
        for name, mask in self._masks(prepared(before), before).items():
            if bool((_weight(after.model, name) * (1 - mask)).any()):
                raise PassFailed(f"weights of {name} came back", hint="the trainer changed what it may not: report it")
        self._check_answers(before, after, ctx)

    def notes(self, before: Program, after: Program, ctx: Context) -> tuple[str, ...]:
        weights = [p.detach() for p in after.model.parameters()]
        total, zeros = sum(w.numel() for w in weights), sum(int((w == 0).sum()) for w in weights)
        was, now = _packed(before.model), _packed(after.model)
        return (
            f"{zeros:,} of {total:,} weights are zero ({zeros / total:.1%})",
            _worth(self.pattern, ctx),
            f"the file has the same size; packed (deflate) its weights take {now:,} bytes, {was:,} before",
        )

    def _masks(self, model: nn.Module, program: Program) -> Mapping[str, torch.Tensor]:
        """Ones where weights stay, for each layer that is to have zeros."""
        from torch import nn

        found = {}
        for name, work in layers_of(model, example_of(program)).items():
            layer, weight = model.get_submodule(name), _weight(model, name)
            ready = isinstance(layer, nn.Linear) or not getattr(layer, "transposed", False)
            fits = self.pattern != "2:4" or (weight.shape[1] % _FOUR == 0 and not work.depthwise)
            if ready and fits and not any(fnmatchcase(name, glob) for glob in self.protect):
                found[name] = mask_of(weight, self.pattern, self.share)
        return found


def mask_of(weight: torch.Tensor, pattern: str, share: float = 0.5) -> torch.Tensor:
    """Ones for the largest weights, in the shape and type of `weight` (outputs, inputs, ...).

    Of equal ones the first stay. `2:4` keeps two of every four along the inputs, `unstructured` all but `share`.
    """
    import torch

    size = weight.abs()
    mask = torch.zeros_like(weight)
    if pattern == "2:4":
        channels_last = size.movedim(1, -1)
        fours = channels_last.reshape(*channels_last.shape[:-1], -1, _FOUR)
        first = fours.argsort(dim=-1, descending=True, stable=True)[..., :2]
        kept = torch.zeros_like(fours).scatter_(-1, first, 1.0)
        return kept.flatten(-2).movedim(-1, 1).contiguous()
    order = size.flatten().argsort(descending=True, stable=True)
    mask.view(-1)[order[: weight.numel() - int(share * weight.numel())]] = 1.0
    return mask


def _weight(model: nn.Module, name: str) -> torch.Tensor:
    weight: torch.Tensor = model.get_submodule(name).weight  # type: ignore[assignment]
    return weight.detach()


def _masked(model: nn.Module, masks: Mapping[str, torch.Tensor]) -> nn.Module:
    from torch.nn.utils import parametrize

    from passes.torch_level.masks import Masked

    for name, mask in masks.items():
        parametrize.register_parametrization(model.get_submodule(name), "weight", Masked(mask))
    return model


def _worth(pattern: str, ctx: Context) -> str:
    if pattern != "2:4":
        return "zeros anywhere buy no time on any stack: no runtime here skips them"
    if ctx.stack.sparsity == "2:4":
        return (
            f"{ctx.stack.id} has kernels for 2:4 zeros: build the engine with trtexec --sparsity=enable, and measure "
            "it; the prediction counts zeros as any other weights"
        )
    return f"{ctx.stack.id} has no kernels for 2:4 zeros: they buy no time there"


def _packed(model: nn.Module) -> int:
    raw = b"".join(p.detach().numpy().tobytes() for p in model.parameters())
    return len(zlib.compress(raw, 6))
