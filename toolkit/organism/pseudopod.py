"""A pseudopod: a few attention heads that are born, judged and let go as one.

    y = g W_o attention(W_q latent, W_k stimulus, W_v stimulus)

Newborns have g = 0: they change no bit of what the organism says, and the gradient of g is not 0, though that of all
else is until g moves. Who goes fades: g falls to 0 in a line, and then the component can be taken out unnoticed. The
layer norm in front is the organism's, one for all, so that matrices of components can be laid side by side.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit.errors import ArchiveFormatError, DescriptorError, ToolkitError
from toolkit.organism.attending import Matrices, Sight, check_inputs, combined_heads
from toolkit.organism.errors import LifecycleError, ShapeError, first_line
from toolkit.organism.kernel import select_kernel
from toolkit.organism.projection import Projection
from toolkit.organism.protocols import Kernel
from toolkit.organism.records import ComponentRecord, check_id
from toolkit.rng import torch_generator

__all__ = ["KIND", "Pseudopod", "Stage", "count_parameters"]

KIND, _SCHEMA = "pseudopod", 1
_SIZES = ("d_model", "head_dim", "n_heads", "rank", "bias")
_DTYPES = frozenset({"bfloat16", "float16", "float32", "float64"})


def count_parameters(d_model: int, width: int, rank: int | None, *, bias: bool) -> int:
    """Numbers in a component whose heads are `width` wide together, the gate among them."""
    each = d_model * width if rank is None else rank * (d_model + width)
    return 4 * each + (3 * width if bias else 0) + 1


class Stage(StrEnum):
    """Where a component stands in its life. Only the settled are computed in one call with others."""

    NEWBORN = "newborn"
    SETTLED = "settled"
    FADING = "fading"


class Pseudopod(nn.Module):
    """Attention heads behind one gate.

    Args:
        d_model: Width D of what it reads and writes.
        head_dim: Width d of a head, 1 to 256.
        n_heads: Heads h.
        kernel: Operators; those for its device where None.
        rank: Of its matrices, kept as factors; None keeps them whole.
        bias: Whether queries, keys and values have biases.
        gate_init: g; 1 for founders, 0 for newborns.
        component_id: For life: 1 to 64 of a-z, 0-9 and -.
        seed: Of the weights, together with the id.

    Raises:
        ShapeError: a size is not positive, or a head wider than kernels take.
        DescriptorError: this is no id.
    """

    gate: nn.Parameter
    fade_from: Tensor | None
    """The gate when the fade began."""
    component_id: str

    def __init__(
        self, d_model: int, head_dim: int, n_heads: int = 1, *, component_id: str, kernel: Kernel | None = None,
        rank: int | None = None, bias: bool = False, gate_init: float = 1.0, seed: int = 0,
        device: torch.device | str = "cpu", dtype: torch.dtype | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if min(d_model, head_dim, n_heads, 1 if rank is None else rank) < 1:
            raise ShapeError(
                f"a pseudopod of width {d_model}, {n_heads} heads of {head_dim}, rank {rank}", hint="sizes are from 1"
            )
        self.component_id = check_id(component_id)
        self.d_model, self.head_dim, self.n_heads, self.rank, self.bias = d_model, head_dim, n_heads, rank, bias
        self.kernel = kernel or select_kernel(device, dtype or torch.get_default_dtype(), head_dim)
        self.stage = Stage.SETTLED if gate_init else Stage.NEWBORN
        self.fitness, self.optimizer_bytes = 0.0, 0
        self._fade_step = self._fade_steps = 0
        self.register_buffer("fade_from", None)
        self._measures: NDArray[np.float64] | None = None
        self._outputs: Tensor | None = None
        width, generator = n_heads * head_dim, torch_generator(seed, KIND, component_id)
        near = math.sqrt(1.5 / d_model)  # of the joint matrix of queries, keys and values of nn.MultiheadAttention
        options: dict[str, Any] = {"rank": rank, "generator": generator}
        self.query, self.key, self.value = (
            Projection(width, d_model, bound=near, bias=bias, **options) for _ in range(3)
        )
        self.out = Projection(d_model, width, bound=1 / math.sqrt(d_model), bias=False, **options)
        self.gate = nn.Parameter(torch.tensor(float(gate_init)))
        self.to(device=device, dtype=dtype)

    # ---- what it answers

    def forward(
        self, latent: Tensor, stimulus: Tensor, *, causal: bool = False, key_padding: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """(B, M, D) of `latent` (B, M, D) attending to `stimulus` (B, N, D); see `attending.Sight` for the masks.

        Raises:
            ShapeError: the inputs are of other shapes.
        """
        check_inputs(latent, stimulus, self.d_model)
        w = self.matrices()
        heads, _ = combined_heads(latent, stimulus, w, self.kernel, Sight(causal, key_padding, mask))
        return self.gate * F.linear(heads, w.out)

    def matrices(self) -> Matrices:
        """Its matrices in full, the gate left out."""
        biases: list[Tensor] = [part.bias for part in self.inward if part.bias is not None]
        return Matrices(
            torch.cat([part.matrix() for part in self.inward]), self.out.matrix(),
            biases=torch.cat(biases) if biases else None, head_dim=self.head_dim,
        )  # fmt: skip

    @property
    def inward(self) -> tuple[Projection, Projection, Projection]:
        """Query, key and value."""
        return self.query, self.key, self.value

    # ---- its life

    @property
    def nbytes(self) -> int:
        """Of its parameters, and `optimizer_bytes`, which whoever owns the optimizer declares."""
        return sum(p.numel() * p.element_size() for p in self.parameters()) + self.optimizer_bytes

    def settle(self) -> None:
        """Compute it with the others from now on. Answers change by rounding alone.

        Raises:
            LifecycleError: it is fading.
        """
        if self.stage is Stage.FADING:
            raise LifecycleError(f"{self.component_id} is fading", hint="settle it before it fades, or let it go")
        self.stage = Stage.SETTLED

    def begin_fade(self, steps: int) -> None:
        """Let the gate fall to 0 in `steps` calls of `advance_fade`; it is trained no more. Beginning twice is once.

        Raises:
            LifecycleError: `steps` is below 1.
        """
        if steps < 1:
            raise LifecycleError(f"a fade of {steps} steps", hint="fade over 1 step or more")
        if self.stage is Stage.FADING:
            return
        self.stage, self._fade_step, self._fade_steps = Stage.FADING, 0, steps
        self.fade_from = self.gate.detach().clone()
        self.gate.requires_grad_(False)

    def advance_fade(self) -> bool:
        """One step; whether the gate is 0 now. Nothing is read back from the device."""
        if self.fade_from is None:
            raise LifecycleError(f"{self.component_id} is not fading", hint="call begin_fade first")
        self._fade_step = min(self._fade_step + 1, self._fade_steps)
        with torch.no_grad():
            if self._fade_step == self._fade_steps:
                self.gate.zero_()
            else:
                self.gate.copy_(self.fade_from * (1 - self._fade_step / self._fade_steps))
        return self._fade_step == self._fade_steps

    def reset(self) -> None:
        """Forget what was measured; weights stay."""
        self.fitness, self._measures, self._outputs = 0.0, None, None

    # ---- what was measured on the probe

    def remember(self, measures: NDArray[np.float64], outputs: Tensor | None = None) -> None:
        """Keep raw `measures` (m,), and the `outputs` (T, dv) that `correlation` is of."""
        kept = np.array(measures, np.float64)
        kept.flags.writeable = False
        self._measures, self._outputs = kept, outputs

    def behavior(self) -> NDArray[np.float64]:
        """(m,) as last measured; see `behaviors.AXES`.

        Raises:
            DescriptorError: it has not been measured yet.
        """
        if self._measures is None:
            raise DescriptorError(
                f"{self.component_id} was never measured", hint="measure_behaviors(organism, probe) first"
            )
        return self._measures

    @property
    def correlation(self) -> Tensor:
        """(dv, dv), Pearson, of the outputs of its heads on the probe; NaN while those were not measured."""
        if self._outputs is None:
            return self.gate.new_full((self.n_heads * self.head_dim,) * 2, math.nan)
        return self.kernel.correlation(self._outputs)

    def coherence(self) -> Tensor:
        """Mean absolute correlation of two different outputs; 0 where there is one alone."""
        r = self.correlation.abs()
        count = r.shape[0]
        return (r.sum() - r.diagonal().sum()) / (count * (count - 1)) if count > 1 else r.new_zeros(())

    def effective_rank(self) -> Tensor:
        """Participation ratio of W_o W_v: in how many directions it writes."""
        with torch.no_grad():
            return self.kernel.effective_rank(self.out.matrix() @ self.value.matrix())

    # ---- as data

    @property
    def header(self) -> dict[str, Any]:
        """All but the weights, as JSON."""
        return {
            "component_id": self.component_id, **{name: getattr(self, name) for name in _SIZES},
            "stage": str(self.stage), "fade_step": self._fade_step, "fade_steps": self._fade_steps,
            "dtype": str(self.gate.dtype).removeprefix("torch."), "fitness": _finite(self.fitness),
        }  # fmt: skip

    def to_record(self) -> ComponentRecord:
        """A frozen copy. Numbers of bfloat16 are kept as float32, which holds them all."""
        tensors = {}
        for name, value in self.state_dict().items():
            wide = value.float() if value.dtype == torch.bfloat16 else value
            tensors[name] = wide.detach().cpu().numpy()
        return ComponentRecord(KIND, _SCHEMA, self.header, tensors)

    @classmethod
    def from_record(
        cls, record: ComponentRecord, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None,
        kernel: Kernel | None = None,
    ) -> Self:  # fmt: skip
        """The recorded component.

        Raises:
            ArchiveFormatError: the record is of another kind or a newer version, or its header is damaged.
            ShapeError: its tensors do not have the sizes of its header; asked before memory is taken for them.
        """
        record.expect(KIND, _SCHEMA)
        try:
            _check_amount(record)
            made = cls.of_header(record.header, device=device, dtype=dtype, kernel=kernel)
            made.load_arrays(record.tensors)
        except ToolkitError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise ArchiveFormatError(
                f"the record of a component is damaged: {first_line(error)}", hint="leave this record out"
            ) from error
        return made

    @classmethod
    def of_header(
        cls, header: Mapping[str, Any], *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None,
        kernel: Kernel | None = None,
    ) -> Self:  # fmt: skip
        """A component of a header's sizes, stage and fitness, its weights still to be filled in.

        Raises:
            ArchiveFormatError: the header is of numbers that components do not have.
        """
        if header["dtype"] not in _DTYPES:
            raise ArchiveFormatError(f"a component of {header['dtype']!r}", hint=f"one of {', '.join(sorted(_DTYPES))}")
        made = cls(
            **{name: header[name] for name in _SIZES}, component_id=header["component_id"], kernel=kernel,
            device=device, dtype=dtype or getattr(torch, header["dtype"]),
        )  # fmt: skip
        made.stage, made.fitness = Stage(header["stage"]), float(header["fitness"])
        made._fade_step, made._fade_steps = int(header["fade_step"]), int(header["fade_steps"])
        if made.stage is Stage.FADING:
            made.fade_from = torch.zeros_like(made.gate.detach())
            made.gate.requires_grad_(False)
        return made

    def load_arrays(self, tensors: Mapping[str, NDArray[Any]]) -> None:
        """Fill in weights; each must be there, in its shape.

        Raises:
            ShapeError: one is missing, too many, or of another shape.
        """
        wanted = {name: tuple(value.shape) for name, value in self.state_dict().items()}
        given = {name: tuple(value.shape) for name, value in tensors.items()}
        if given != wanted:
            odd = sorted(name for name in set(given) | set(wanted) if given.get(name) != wanted.get(name))
            raise ShapeError(
                f"weights of {self.component_id} do not fit: {odd[0]} is {given.get(odd[0])}"
                f" instead of {wanted.get(odd[0])}", hint="take weights of a component of the same sizes",
            )  # fmt: skip
        self.load_state_dict({name: torch.from_numpy(np.array(tensors[name])) for name in wanted})

    def extra_repr(self) -> str:
        return f"{self.component_id}, {self.n_heads} heads of {self.head_dim}, {self.stage}"


def _check_amount(record: ComponentRecord) -> None:
    """A header may speak of more than was recorded."""
    d_model, head_dim, n_heads, rank, bias = (record.header[name] for name in _SIZES)
    wanted = count_parameters(d_model, n_heads * head_dim, rank, bias=bias)
    given = sum(array.size for name, array in record.tensors.items() if name != "fade_from")
    if given != wanted:
        raise ShapeError(
            f"a record of {given} numbers for a component of {wanted}",
            hint="take weights of a component of the same sizes",
        )


def _finite(x: float) -> float:
    return float(x) if math.isfinite(x) else 0.0
