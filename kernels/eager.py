"""Operators of torch that cost nothing where nobody looks: called straight in eager code that wants no gradient.

Through torch's dispatcher a call costs tens of microseconds of the host, as long as a small kernel runs. It is needed
where something listens there: autograd, torch.compile, a mode that traces or fakes, a subclass of Tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, ParamSpec, TypeVar, cast

import torch
from torch import Tensor
from torch._library.custom_ops import CustomOpDef
from torch.library import custom_op as _custom_op
from torch.nn import Parameter
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

__all__ = ["EagerOperator", "custom_op"]

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class EagerOperator(Generic[Arguments, Result]):
    """What `torch.library.custom_op` makes, in `whole`, with a short cut to the function itself."""

    def __init__(self, function: Callable[Arguments, Result], whole: CustomOpDef) -> None:
        self._function = function
        self.whole = whole

    def __call__(self, *arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
        if torch.compiler.is_compiling() or _somebody_listens((*arguments, *named.values())):
            return cast(Result, self.whole(*arguments, **named))
        return self._function(*arguments, **named)

    def register_fake(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return self.whole.register_fake(function)

    def register_autograd(self, backward: Callable[..., Any], *, setup_context: Callable[..., None]) -> None:
        self.whole.register_autograd(backward, setup_context=setup_context)


def custom_op(
    name: str, *, mutates_args: Sequence[str] = ()
) -> Callable[[Callable[Arguments, Result]], EagerOperator[Arguments, Result]]:
    """`torch.library.custom_op` for functions of tensors and numbers."""

    def made(function: Callable[Arguments, Result]) -> EagerOperator[Arguments, Result]:
        return EagerOperator(function, _custom_op(name, function, mutates_args=mutates_args))

    return made


def _somebody_listens(arguments: Iterable[Any]) -> bool:
    differentiates = torch.is_grad_enabled()
    for each in arguments:
        if isinstance(each, Tensor):
            if type(each) is not Tensor and type(each) is not Parameter:
                return True
            if differentiates and each.requires_grad:
                return True
    return bool(is_in_torch_dispatch_mode())
