"""The organism: what its components make of a stimulus together.

    out = latent + sum over components c of y_c(LN(latent), LN(stimulus + memory))

The latent is the stimulus, or what the organism answered before where it is given that state. The sum is not divided
by the number of components: that would make every birth change what the others say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from toolkit.errors import BudgetExceeded
from toolkit.models.norm import Norm
from toolkit.organism.attending import Sight, check_inputs
from toolkit.organism.errors import LifecycleError, ShapeError
from toolkit.organism.flow_state import FlowState
from toolkit.organism.grouping import contribution
from toolkit.organism.kernel import select_kernel
from toolkit.organism.placement import place
from toolkit.organism.pool import Pool
from toolkit.organism.protocols import ArchiveView, Chemotaxis, Kernel, Memory, Metrics
from toolkit.organism.pseudopod import Pseudopod
from toolkit.organism.records import ComponentRecord
from toolkit.organism.species import Species, founders, newborn
from toolkit.organism.statistics import statistics

__all__ = ["Members", "Organism"]


class Members(nn.ModuleDict):
    """The components as modules: state, devices and types follow the organism's.

    The mapping is replaced as a whole, as the pool's tuple is: another thread may be walking through it.
    """

    def adopt(self, component: Any) -> None:
        """List a component."""
        if isinstance(component, nn.Module):
            self.__dict__["_modules"] = {**self._modules, str(component.component_id): component}

    def release(self, component: Any) -> None:
        """List it no more."""
        kept = {name: module for name, module in self._modules.items() if name != component.component_id}
        self.__dict__["_modules"] = kept


class Organism(nn.Module):
    """An attention layer whose heads live in a pool.

    Args:
        d_model: Width D.
        pool: Its components; this organism owns them from now on.
        archive: To read and not to add to; the trainer adds. None where there is none.
        chemotaxis: Where parents are found; None where births start afresh.
        species: Sizes of newborns; those of the pool's first component where None.
        kernel: Operators; those for its device where None.
        memory: What is recalled is added to every stimulus; in training, the mean of each answer is stored.
        metrics: Where births and deaths are counted; None counts nothing.
        norm: Whether stimuli are normalized first. A layer that has its own norm goes without.
        bias: Whether a bias is added behind the sum.
        stop_gradient_every: So many calls with a state apart, no gradient flows into the calls before.

    Raises:
        ShapeError: a component is of another width.
        LifecycleError: there are no components, and no species to make them of.
    """

    def __init__(
        self, d_model: int, pool: Pool[Pseudopod], archive: ArchiveView | None = None,
        chemotaxis: Chemotaxis | None = None, *, species: Species | None = None, kernel: Kernel | None = None,
        memory: Memory | None = None, metrics: Metrics | None = None, norm: bool = True, bias: bool = False,
        stop_gradient_every: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        for pod in pool:
            _check_width(pod, d_model)
        if species is None and not len(pool):
            raise LifecycleError("an organism of nobody", hint="put components into the pool, or give a species")
        self.d_model, self.pool, self.archive, self.chemotaxis = d_model, pool, archive, chemotaxis
        self.species = species or Species.of(next(iter(pool)))
        self.kernel = kernel or select_kernel("cpu", torch.get_default_dtype(), self.species.head_dim)
        self.memory, self.metrics, self.stop_gradient_every = memory, metrics, stop_gradient_every
        self.phase = ""
        self.norm = Norm(d_model) if norm else None
        self.bias = nn.Parameter(torch.zeros(d_model)) if bias else None
        self.members = Members()
        self._own()

    @classmethod
    def of_founders(
        cls, d_model: int, species: Species, count: int, *, budget_bytes: int, seed: int = 0, max_size: int = 64,
        min_size: int = 1, grace_steps: int = 200, **options: Any,
    ) -> Organism:  # fmt: skip
        """`count` settled components of one species; `options` as for the organism itself.

        Raises:
            BudgetExceeded: so many are not admitted.
        """
        pool: Pool[Pseudopod] = Pool(
            budget_bytes=budget_bytes, max_size=max_size, min_size=min_size, grace_steps=grace_steps, root_seed=seed
        )
        founders(pool, d_model, species, count)
        return cls(d_model, pool, species=species, **options)

    # ---- what it answers

    def forward(
        self, stimulus: Tensor, state: FlowState | None = None, *, causal: bool = False,
        key_padding: Tensor | None = None, mask: Tensor | None = None,
    ) -> tuple[Tensor, FlowState]:  # fmt: skip
        """The answer (B, M, D) to a stimulus (B, M, D), and the state to go on from.

        Args:
            key_padding: (B, M) bool, True where nobody attends.
            mask: (M, M) or (B, heads or 1, M, M), as `attending.Sight` says.

        Raises:
            ShapeError: the stimulus is of another shape, or not of the state's.
        """
        check_inputs(stimulus, stimulus, self.d_model)
        latent = stimulus if state is None or state.hidden is None else self._carried(state, stimulus)
        steps = 1 if state is None else state.step + 1
        seen = self._remembering(stimulus)
        h = self._normal(seen)
        query = h if latent is seen else self._normal(latent)
        added = self.contribution(query, h, causal=causal, key_padding=key_padding, mask=mask)
        out = latent + added
        if self.memory is not None and self.training:
            self.memory.tick()
            self.memory.store(out.detach().mean((0, 1)))
        return out, FlowState(stimulus, out, added, steps)

    def contribution(
        self, latent: Tensor, stimulus: Tensor, *, causal: bool = False, key_padding: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """What all components add, (B, M, D), to normalized inputs: an attention layer by itself."""
        pods = tuple(member.component for member in self.pool.members)
        is_step = self.training and torch.is_grad_enabled()
        total = contribution(pods, latent, stimulus, self.kernel, Sight(causal, key_padding, mask), is_step=is_step)
        if total is None:
            total = torch.zeros_like(latent)
        return total if self.bias is None else total + self.bias

    def _carried(self, state: FlowState, stimulus: Tensor) -> Tensor:
        hidden = state.hidden
        if hidden is None or hidden.shape != stimulus.shape:
            raise ShapeError(
                f"a stimulus {tuple(stimulus.shape)} after one of {tuple(state.input.shape)}",
                hint="begin without a state where shapes change",
            )
        every = self.stop_gradient_every
        return hidden.detach() if every is not None and state.step % every == 0 else hidden

    def _remembering(self, stimulus: Tensor) -> Tensor:
        recalled = None if self.memory is None else self.memory.recall()
        return stimulus if recalled is None else stimulus + recalled.to(stimulus)

    def _normal(self, x: Tensor) -> Tensor:
        if self.norm is None:
            return x
        normal: Tensor = self.norm(x)
        return normal

    # ---- births and deaths

    def can_spawn(self) -> bool:
        """Whether the pool has room for one more of its species, its parameters alone counted."""
        return self.pool.admit(self._needed(None))

    def spawn(
        self, *, step: int, parent: ComponentRecord | None = None, sigma: float = 0.0, reason: str = "birth"
    ) -> Pseudopod:
        """A newborn with gate 0: no bit of any answer changes.

        Args:
            parent: Whose weights it begins with; fresh ones where None.
            sigma: Noise on those, relative to the root mean square of each matrix.

        Raises:
            BudgetExceeded: there is no room; asked before it is made.
            ShapeError: the parent is of another width.
        """
        if not self.pool.admit(self._needed(parent)):
            raise BudgetExceeded(
                f"no room for a newborn: {len(self.pool)} of {self.pool.max_size} components,"
                f" {self.pool.nbytes} of {self.pool.budget_bytes} bytes",
                hint="ask can_spawn() first; let a component fade, or raise max_size or budget_bytes",
            )
        made = newborn(
            self.pool.next_id(), self.d_model, self.species, parent, sigma=sigma, seed=self.pool.root_seed,
            kernel=self.kernel, device=self._device(), dtype=self._dtype(),
        )  # fmt: skip
        self.pool.add(made, step=step, reason=reason)
        self._count("organism_births_total")
        return made

    def _needed(self, parent: ComponentRecord | None) -> int:
        """Bytes of a child: a parent may be of another species."""
        if parent is None:
            return self.species.nbytes(self.d_model, self._dtype())
        return sum(a.size for name, a in parent.tensors.items() if name != "fade_from") * self._dtype().itemsize

    def advance(self, *, step: int) -> list[str]:
        """One step of all who fade; ids of those who went, which changed no bit of any answer."""
        gone = self.pool.advance(step=step)
        for _ in gone:
            self._count("organism_deaths_total")
        return gone

    def settle(self, *, step: int, after: int = 0) -> list[str]:
        """Settle newborns older than `after` steps; their ids."""
        ready = [m.component for m in self.pool.members if m.component.stage == "newborn" and step - m.born > after]
        for pod in ready:
            pod.settle()
        return [pod.component_id for pod in ready]

    def distribute(self, devices: Sequence[str], *, bound: float | None = 1.25) -> dict[str | int, str]:
        """Move each component to one of `devices` by its id (see `placement.place`); each then computes where it lives.

        Give an optimizer the parameters after this. Moving the organism as a whole brings all together again.
        """
        placed = place(self.pool.ids, devices, root=self.pool.root_seed, bound=bound)
        for pod in self.pool:
            pod.to(placed[pod.component_id])
        return placed

    def reset_state(self) -> None:
        """Forget what was remembered and measured; weights stay."""
        if self.memory is not None:
            self.memory.clear()
        for pod in self.pool:
            pod.reset()

    def stats(self) -> Mapping[str, Any]:
        """Size, fitness, budget and archive, from values on the host alone."""
        return statistics(self)

    def _count(self, name: str) -> None:
        if self.metrics is not None:
            self.metrics.counter(name).inc()
            self.metrics.gauge("organism_components", "1").set(len(self.pool))

    def _dtype(self) -> torch.dtype:
        return next((p.dtype for p in self.parameters()), torch.get_default_dtype())

    def _device(self) -> torch.device:
        return next((p.device for p in self.parameters()), torch.device("cpu"))

    # ---- as a module

    def _own(self) -> None:
        for pod in self.pool:
            self.members.adopt(pod)
        self.pool.register = self.members

    def get_extra_state(self) -> dict[str, Any]:
        """Who lives, and how: `load_state_dict` makes the same pool again before it fills in the weights."""
        headers = {pod.component_id: pod.header for pod in self.pool}
        return {"pool": self.pool.topology(), "components": headers, "species": asdict(self.species)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        made = {}
        for name, header in state["components"].items():
            made[name] = Pseudopod.of_header(header, device=self._device(), dtype=self._dtype(), kernel=self.kernel)
            _check_width(made[name], self.d_model)
        for pod in self.pool:
            self.members.release(pod)
        self.species = Species(**state["species"])
        self.pool.restore(state["pool"], made)
        self._own()


def _check_width(pod: Pseudopod, d_model: int) -> None:
    if pod.d_model != d_model:
        raise ShapeError(f"{pod.component_id} has width {pod.d_model}, the organism {d_model}", hint="give one width")
