"""The pool: which components live, since when, and who has to go when there is no room.

One thread writes; any number read. What readers see is one tuple, replaced as a whole, so a reader never meets a pool
in the middle of a birth.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeVar

from toolkit.errors import BudgetExceeded
from toolkit.organism.comonad import SpatialContext
from toolkit.organism.errors import LifecycleError
from toolkit.organism.protocols import Component, Fading
from toolkit.organism.records import check_id

__all__ = ["Event", "Member", "Pool", "Register"]

C = TypeVar("C", bound=Component)


class Event(NamedTuple):
    """One birth or death."""

    kind: Literal["birth", "death"]
    component_id: str
    step: int
    reason: str


@dataclass(frozen=True)
class Member(Generic[C]):
    """A component with the step of its birth, and whether it is on its way out."""

    component: C
    born: int
    is_fading: bool = False


class Register(Protocol):
    """Who keeps components beside the pool."""

    def adopt(self, component: Any) -> None: ...
    def release(self, component: Any) -> None: ...


class Pool(Generic[C]):
    """Components by id: at most `max_size` within `budget_bytes`, of whom `min_size` stay once there were so many.

    Args:
        budget_bytes: Of the `nbytes` of all components.
        grace_steps: So long after its birth nobody is culled.
        root_seed: Of ids of newborns.

    Raises:
        LifecycleError: these limits admit no pool.
    """

    on_birth: list[Callable[[C], Any]]
    """Called with each component that came, after it did; an optimizer adds its parameters here."""
    on_death: list[Callable[[C], Any]]
    """Called with each component that went, after it did."""
    register: Register | None
    """Who else has to know them all: the organism's list of modules."""

    def __init__(
        self, *, budget_bytes: int, max_size: int = 64, min_size: int = 1, grace_steps: int = 200, root_seed: int = 0
    ) -> None:
        if not 0 <= min_size <= max_size or max_size < 1 or budget_bytes < 0 or grace_steps < 0:
            raise LifecycleError(
                f"a pool of {min_size} to {max_size} components in {budget_bytes} bytes, grace {grace_steps} steps",
                hint="0 <= min_size <= max_size, and nothing negative",
            )
        self.max_size, self.min_size, self.budget_bytes = max_size, min_size, budget_bytes
        self.grace_steps, self.root_seed = grace_steps, root_seed
        self.on_birth, self.on_death, self.register = [], [], None
        self._members: tuple[Member[C], ...] = ()
        self._log: list[Event] = []
        self._named = 0
        self._writing = threading.RLock()

    # ---- what is asked

    @property
    def members(self) -> tuple[Member[C], ...]:
        """By id; a snapshot that no birth or death changes."""
        return self._members

    @property
    def log(self) -> tuple[Event, ...]:
        """Every birth and death, in order."""
        with self._writing:
            return tuple(self._log)

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[C]:
        """Components by id."""
        return iter([member.component for member in self._members])

    def __contains__(self, component_id: object) -> bool:
        return any(member.component.component_id == component_id for member in self._members)

    def __getitem__(self, component_id: str) -> C:
        return self.member(component_id).component

    def member(self, component_id: str) -> Member[C]:
        """A component with what the pool knows of it.

        Raises:
            LifecycleError: there is none of this id.
        """
        for member in self._members:
            if member.component.component_id == component_id:
                return member
        raise LifecycleError(f"no component {component_id!r} lives here", hint=f"{len(self)} do: list(pool)")

    @property
    def ids(self) -> tuple[str, ...]:
        """Sorted."""
        return tuple(member.component.component_id for member in self._members)

    @property
    def nbytes(self) -> int:
        """Of all components."""
        return sum(member.component.nbytes for member in self._members)

    def context(self, component_id: str) -> SpatialContext[C]:
        """All components with one in focus.

        Raises:
            LifecycleError: there is none of this id.
        """
        members = self._members
        for index, member in enumerate(members):
            if member.component.component_id == component_id:
                return SpatialContext(tuple(m.component for m in members), index)
        raise LifecycleError(f"no component {component_id!r} lives here", hint=f"{len(members)} do: list(pool)")

    def admit(self, nbytes: int) -> bool:
        """Whether a component of `nbytes` may be made: asked before it is."""
        return len(self) < self.max_size and self.nbytes + nbytes <= self.budget_bytes

    # ---- births and deaths

    def next_id(self) -> str:
        """An id that none here had before."""
        with self._writing:
            while True:
                self._named += 1
                found = f"pod-{self._named:06d}"
                if found not in self:
                    return found

    def add(self, component: C, *, step: int, reason: str = "founder") -> None:
        """Take a component in.

        Raises:
            LifecycleError: it is no component, or one of its id lives here.
            BudgetExceeded: the pool is full; nothing was changed.
        """
        if not isinstance(component, Component):
            raise LifecycleError(
                f"a {type(component).__name__} is no component", hint="see toolkit.organism.protocols.Component"
            )
        check_id(component.component_id)
        with self._writing:
            if component.component_id in self:
                raise LifecycleError(f"{component.component_id!r} lives here already", hint="take pool.next_id()")
            if not self.admit(component.nbytes):
                raise BudgetExceeded(
                    f"no room for {component.component_id}: {len(self)} of {self.max_size} components,"
                    f" {self.nbytes} + {component.nbytes} of {self.budget_bytes} bytes",
                    hint="ask pool.admit(nbytes) before making it, or raise max_size or budget_bytes",
                )
            self._replace((*self._members, Member(component, step)))
            self._log.append(Event("birth", component.component_id, step, reason))
            if self.register is not None:
                self.register.adopt(component)
            for told in self.on_birth:
                told(component)

    def remove(self, component_id: str, *, step: int, reason: str) -> C:
        """Let a component go at once. Where it still answers, the answer of the whole jumps: `fade` does not.

        Raises:
            LifecycleError: there is none of this id, or none may go.
        """
        with self._writing:
            gone = self.member(component_id)
            self._check_spared(gone)
            self._let_go((gone,), step, reason)
        return gone.component

    def fade(self, component_id: str, *, steps: int = 50) -> None:
        """Let a component answer less and less; `advance` takes it out when it answers nothing. Twice is once.

        Raises:
            LifecycleError: there is none of this id, it cannot fade, or too few would be left.
        """
        with self._writing:
            member = self.member(component_id)
            if member.is_fading:
                return
            if not isinstance(member.component, Fading):
                raise LifecycleError(f"{component_id} cannot fade", hint="remove it, and let the answer jump")
            self._check_spared(member)
            member.component.begin_fade(steps)
            others = tuple(m for m in self._members if m is not member)
            self._replace((*others, replace(member, is_fading=True)))

    def advance(self, *, step: int) -> list[str]:
        """One step of all who fade; ids of those that answer nothing now, and went."""
        with self._writing:
            done = [m for m in self._members if m.is_fading and m.component.advance_fade()]  # type: ignore[attr-defined]
            self._let_go(done, step, "faded")
        return [m.component.component_id for m in done]

    # ---- who has to go

    def cull_worst(self, fraction: float = 0.2, *, step: int) -> list[str]:
        """Let the least fit go at once: that share of the pool, of those past their grace who are not fading.

        The lower fitness goes first, NaN before all; of equals, the older, then the lower id. Ids of those that went.

        Raises:
            LifecycleError: `fraction` is not from 0 to 1.
        """
        if not 0 <= fraction <= 1:
            raise LifecycleError(f"a share of {fraction} of the pool", hint="0 to 1")
        with self._writing:
            victims = self._victims(self._members, int(fraction * len(self)), step)
            self._let_go(victims, step, "culled")
        return [m.component.component_id for m in victims]

    def enforce_budget(self, measured_bytes: int, *, step: int) -> list[str]:
        """Cull, a fifth of the pool or one at a time, until `measured_bytes` less what went fits into the budget.

        Raises:
            BudgetExceeded: it would not, though all went who may; nothing was changed.
        """
        with self._writing:
            gone: list[Member[C]] = []
            left, over = self._members, measured_bytes - self.budget_bytes
            while over > 0:
                victims = self._victims(left, max(1, len(left) // 5), step)
                if not victims:
                    raise BudgetExceeded(
                        f"{measured_bytes} bytes are used, {self.budget_bytes} may be, and no more than {len(gone)} of"
                        f" {len(self)} components may go",
                        hint="raise budget_bytes, or lower min_size or grace_steps",
                    )
                gone += victims
                over -= sum(m.component.nbytes for m in victims)
                left = tuple(m for m in left if m not in victims)
            self._let_go(gone, step, "over budget")
        return [m.component.component_id for m in gone]

    def _victims(self, members: tuple[Member[C], ...], most: int, step: int) -> list[Member[C]]:
        old = [m for m in members if step - m.born > self.grace_steps and not m.is_fading]
        old.sort(key=lambda m: (_worth(m.component), m.born, m.component.component_id))
        return old[: max(0, min(most, _staying(members) - self.min_size))]

    def _check_spared(self, member: Member[C]) -> None:
        """Those who fade count as gone already."""
        if not member.is_fading and _staying(self._members) <= self.min_size:
            raise LifecycleError(
                f"{member.component.component_id} cannot go: {self.min_size} components have to stay",
                hint="add another first",
            )

    # ---- how it is kept

    def _let_go(self, gone: Any, step: int, reason: str) -> None:
        if not gone:
            return
        self._replace(tuple(m for m in self._members if not any(m is other for other in gone)))
        self._log += [Event("death", m.component.component_id, step, reason) for m in gone]
        for member in gone:
            if self.register is not None:
                self.register.release(member.component)
            for told in self.on_death:
                told(member.component)

    def _replace(self, members: tuple[Member[C], ...]) -> None:
        self._members = tuple(sorted(members, key=lambda m: m.component.component_id))

    def topology(self) -> dict[str, Any]:
        """What `restore` needs beside the components, as JSON."""
        members = {m.component.component_id: {"born": m.born, "is_fading": m.is_fading} for m in self._members}
        return {"members": members, "named": self._named, "log": [list(event) for event in self.log]}

    def restore(self, topology: dict[str, Any], components: dict[str, C]) -> None:
        """Become the pool that `topology` was made of; its events are known, so nobody is told of them again."""
        with self._writing:
            known = topology["members"]
            self._replace(
                tuple(Member(components[i], int(known[i]["born"]), bool(known[i]["is_fading"])) for i in known)
            )
            self._named = int(topology["named"])
            self._log = [Event(kind, name, step, reason) for kind, name, step, reason in topology["log"]]

    def __getstate__(self) -> dict[str, Any]:
        """For copies: all but the lock, and those who asked to be told, who know the first pool alone."""
        return {name: value for name, value in self.__dict__.items() if name not in _NOT_COPIED}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.on_birth, self.on_death, self._writing = [], [], threading.RLock()


def _staying(members: Sequence[Member[Any]]) -> int:
    return sum(not member.is_fading for member in members)


def _worth(component: Component) -> float:
    """Its fitness; what is not a number has diverged, and would leave the order to chance."""
    return -math.inf if math.isnan(component.fitness) else component.fitness


_NOT_COPIED = frozenset({"_writing", "on_birth", "on_death"})
