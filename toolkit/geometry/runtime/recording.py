"""A function of tensors as the list of operators that one run of it makes, for the runs after it.

`torch.func` nests its transforms anew at every call, which for some dozens of points takes longer than the arithmetic,
and what comes out is the same list of plain operators each time. So it is taken down once for each shape: what depends
on no value of the input is computed then and there, and equal operators become one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import frexp
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from toolkit.errors import GeometryError

__all__ = ["Recorded"]

_OF_SHAPES = frozenset({"_efficientzerotensor", "full_like", "new_full", "new_ones", "new_zeros", "ones_like",
                        "zeros_like"})  # fmt: skip
"""Operators that look at no value of their input."""

_VIEWS = frozenset({"_unsafe_view", "alias", "detach", "expand", "view"})
"""Operators that change nothing where the shape stays: nothing is written in place any more when they are looked at."""

_FOLDED = "folded_"


class Recorded:
    """`function` of tensors to one tensor, by the operators of its first call with tensors of such shapes.

    The operators must follow from shapes alone: no branch on values, no random numbers. Tensors that the function holds
    besides its arguments are read once. Where an argument wants a gradient or belongs to a transform of `torch.func`,
    the function itself runs.

    Raises:
        GeometryError: when called, if the function draws random numbers, or holds a tensor that wants a gradient.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function = function
        self._replayed: dict[tuple[object, ...], Callable[..., Tensor]] = {}

    def __call__(self, *tensors: Tensor) -> Tensor:
        if any(x.requires_grad or torch._C._functorch.is_functorch_wrapped_tensor(x) for x in tensors):
            return self.function(*tensors)
        key = tuple((x.shape, x.dtype, x.device) for x in tensors)
        if key not in self._replayed:
            self._replayed[key] = _recorded(self.function, tensors).forward
        return self._replayed[key](*tensors)


def _recorded(function: Callable[..., Tensor], tensors: tuple[Tensor, ...]) -> GraphModule:
    from torch.fx.experimental.proxy_tensor import make_fx  # these two take a second to import
    from torch.fx.passes.dialect.common.cse_pass import CSEPass

    module: GraphModule = make_fx(torch.func.functionalize(function))(*tensors)
    module.graph.eliminate_dead_code()  # functionalize leaves operators on the device "meta" behind
    for node in module.graph.nodes:
        if _changes_nothing(node):
            node.replace_all_uses_with(node.args[0])
    _fold(module)
    CSEPass()(module)
    module.graph.eliminate_dead_code()
    module.recompile()
    folded = [held for name, held in module.named_buffers() if name.startswith(_FOLDED)]
    places = {x.untyped_storage().data_ptr() for x in (*tensors, *folded)}
    if module(*tensors).untyped_storage().data_ptr() in places:
        answer = next(iter(reversed(module.graph.nodes)))
        with module.graph.inserting_before(answer):  # the caller may write over what it gets
            answer.args = (module.graph.call_function(torch.ops.aten.clone.default, answer.args),)
        module.recompile()
    return module


def _changes_nothing(node: Any) -> bool:
    if _name(node) == "permute":
        return list(node.args[1]) == list(range(len(node.args[1])))
    if _name(node) == "pow":
        return bool(node.args[1] == 1 and _held(node).dtype == _held(node.args[0]).dtype)
    return _name(node) in _VIEWS and _held(node).shape == _held(node.args[0]).shape


def _fold(module: GraphModule) -> None:
    """Compute what depends on no value of an input, now."""
    known: dict[Node, Any] = {}
    for node in list(module.graph.nodes):
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
            raise GeometryError(f"{_name(node)} would draw the same numbers at every call", hint="draw them before")
        if node.op == "get_attr":
            held = getattr(module, str(node.target))
            if held.requires_grad:
                raise GeometryError(
                    f"the function holds a {tuple(held.shape)} that wants a gradient, and would not see it change",
                    hint="record it after training, with what it holds detached",
                )
            known[node] = (
                torch.zeros(held.shape, dtype=held.dtype, device=held.device) if held._is_zerotensor() else held
            )
        elif _name(node) == "_efficientzerotensor":
            known[node] = torch.zeros_like(_held(node))
        elif node.op == "call_function" and all(x in known or _name(node) in _OF_SHAPES for x in node.all_input_nodes):
            args, kwargs = torch.fx.map_arg((node.args, node.kwargs), lambda x: known[x] if x in known else _held(x))
            known[node] = node.target(*args, **kwargs)
    _multiply_once(module, known)
    for number, (node, value) in enumerate(known.items()):
        if isinstance(value, Tensor):
            module.register_buffer(f"{_FOLDED}{number}", value)
            with module.graph.inserting_before(node):
                node.replace_all_uses_with(module.graph.get_attr(f"{_FOLDED}{number}"))


def _multiply_once(module: GraphModule, known: Mapping[Node, Any]) -> None:
    """Products with numbers one after another become one, where a power of two is among them: that rounds alike."""
    found: dict[Node, tuple[float, Node]] = {}
    for node in list(module.graph.nodes):
        scaled = _scaled(node, known)
        if scaled is None:
            continue
        number, of = scaled
        if of in found and (_is_power(number) or _is_power(found[of][0])):
            number, of = number * found[of][0], found[of][1]
        made = of
        if number != 1:
            operator, factors = (
                (torch.ops.aten.neg.default, ()) if number == -1 else (torch.ops.aten.mul.Scalar, (number,))
            )
            with module.graph.inserting_before(node):
                made = module.graph.call_function(operator, (of, *factors))
            made.meta.update(node.meta)
            found[made] = number, of
        node.replace_all_uses_with(made)


def _scaled(node: Node, known: Mapping[Node, Any]) -> tuple[float, Node] | None:
    """A number and the node whose values the operator multiplies by it."""
    if node in known or _name(node) not in ("mul", "neg"):
        return None
    if _name(node) == "neg":
        return -1.0, node.args[0]  # type: ignore[return-value]
    for of, by in (node.args[:2], node.args[1::-1]):
        if isinstance(of, Node) and of not in known and _held(of).shape == _held(node).shape:
            value = known.get(by, None) if isinstance(by, Node) else by
            if isinstance(value, Tensor) and value.numel() and bool((value == value.flatten()[0]).all()):
                value = value.flatten()[0].item()
            if isinstance(value, (int, float)) and _held(of).dtype == _held(node).dtype:
                return float(value), of
    return None


def _is_power(number: float) -> bool:
    return abs(frexp(number)[0]) == 0.5


def _name(node: Node) -> str:
    return str(getattr(getattr(node.target, "overloadpacket", None), "__name__", ""))


def _held(node: Any) -> Tensor:
    """A tensor like the one that the operator made, its values undefined."""
    like = node.meta["val"]
    return torch.empty(like.shape, dtype=like.dtype, device=like.device)
