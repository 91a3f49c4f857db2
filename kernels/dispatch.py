"""Which form of an operator runs for a call, why the others do not, and how a user decides otherwise.

KERNELS_FORM=torch                              every operator in plain torch
KERNELS_FORM=attention=triton,bk_core=cuda      these in the forms named, the others as they are chosen
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from typing import Any, Generic, TypeVar, cast

import torch

from kernels.machine import Machine

__all__ = ["VARIABLE", "Call", "Choice", "Form", "KernelUnavailable", "Operator", "needs_triton"]

VARIABLE = "KERNELS_FORM"

Result = TypeVar("Result")


class KernelUnavailable(RuntimeError):
    """No form of an operator, or not the one that was asked for, runs on this device with what is installed."""


@dataclass(frozen=True)
class Call:
    """What forms are chosen by: where a call runs, on which numbers, and how large it is."""

    machine: Machine
    dtype: torch.dtype
    sizes: Mapping[str, int] = field(default_factory=dict)  # by the names of the operator's docstring

    def __str__(self) -> str:
        sizes = ", ".join(f"{name} {size}" for name, size in self.sizes.items())
        return f"{sizes}; {str(self.dtype).removeprefix('torch.')} on {self.machine}"


@dataclass(frozen=True, eq=False)
class Form:
    """One way to compute an operator: "package.module:function", imported when it first runs."""

    name: str
    function: str
    refusal: Callable[[Call], str | None] = lambda call: None
    """Why it does not take a call; None where it does."""

    def load(self) -> Callable[..., Any]:
        module, name = self.function.split(":")
        return cast(Callable[..., Any], getattr(import_module(module), name))


@dataclass(frozen=True)
class Choice:
    """The form that runs, and why each form before it does not."""

    form: Form
    call: Call
    refused: Mapping[str, str]
    named: bool = False

    @property
    def because(self) -> str:
        return f"{VARIABLE} names it" if self.named else f"takes {self.call}"

    def __str__(self) -> str:
        return "\n".join([f"{self.form.name}: {self.because}", *(f"not {n}: {why}" for n, why in self.refused.items())])


@dataclass(frozen=True, eq=False)
class Operator(Generic[Result]):
    """An operator by its forms, which give the same kind of result: the fastest first, the last takes every call."""

    name: str
    forms: tuple[Form, ...]

    def choose(self, call: Call) -> Choice:
        """The first form that takes the call, or the one that the environment names.

        Raises:
            KernelUnavailable: the form that the environment names does not take it, or there is none of that name.
        """
        named = _named_in_environment(self.name)
        if named is not None:
            return self._as_named(named, call)
        refused: dict[str, str] = {}
        for form in self.forms:
            why = form.refusal(call) or _only_when_named(form, call)
            if why is None:
                return Choice(form, call, refused)
            refused[form.name] = why
        raise KernelUnavailable(f"{self.name} has no form for {call}: {_listed(refused)}")

    def run(self, call: Call, *arguments: Any) -> Result:
        sizes = tuple(call.sizes.items())
        form = _loaded(self, call.machine, call.dtype, sizes, os.environ.get(VARIABLE, ""))
        return cast(Result, form(*arguments))

    def _as_named(self, name: str, call: Call) -> Choice:
        found = {form.name: form for form in self.forms}
        if name not in found:
            raise KernelUnavailable(f"{VARIABLE}: {self.name} has no form {name!r}; it has {', '.join(found)}")
        why = found[name].refusal(call)
        if why is not None:
            raise KernelUnavailable(f"{VARIABLE} asks for {self.name} in {name}, which does not take {call}: {why}")
        return Choice(found[name], call, {}, named=True)


@lru_cache(maxsize=4096)
def _loaded(
    operator: Operator[Any], machine: Machine, dtype: torch.dtype, sizes: tuple[tuple[str, int], ...], variable: str
) -> Callable[..., Any]:
    """The function of the form that is chosen; asked once, since choosing takes longer than a small kernel.

    Refusals see a plain `Call`: what a subclass would add is no part of the choice.
    """
    return operator.choose(Call(machine, dtype, dict(sizes))).form.load()


def needs_triton(call: Call) -> str | None:
    """A refusal for forms in Triton: what is missing, or None."""
    if not call.machine.has_triton:
        return "Triton is not installed: pip install 'edge-toolkit[gpu]'"
    if call.machine.kind == "cuda":
        return _older_than_ampere(call)
    return None if call.machine.interprets else f"Triton compiles for CUDA, not for {call.machine.kind}"


def _older_than_ampere(call: Call) -> str | None:
    if call.machine.capability < (7, 0):
        return f"Triton needs compute capability 7.0, {call.machine} has less"
    if call.dtype == torch.bfloat16 and call.machine.capability < (8, 0):
        return f"bfloat16 needs compute capability 8.0, {call.machine} has less"
    return None


def _only_when_named(form: Form, call: Call) -> str | None:
    interpreted = form.name == "triton" and call.machine.kind != "cuda"
    return f"Triton's interpreter is slow, and runs only when {VARIABLE} names triton" if interpreted else None


def _named_in_environment(operator: str) -> str | None:
    """The form asked for: of this operator, or of all that are not named."""
    of_all = None
    for part in filter(None, os.environ.get(VARIABLE, "").split(",")):
        name, equals, form = part.strip().partition("=")
        if equals and name == operator:
            return form
        if not equals:
            of_all = name
    return of_all


def _listed(refused: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {why}" for name, why in refused.items())
