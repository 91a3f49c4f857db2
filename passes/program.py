"""A model at one level of the road, with what is known about it and what its answers are compared with."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar

from passes.dataset import Array, Dataset, Sample
from passes.onnxruntime import Session
from passes.quiet import quiet_libraries
from passes.signature import Signature
from targets.errors import InvalidInput

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Level", "Program"]

_ANSWERS_KEPT_BYTES = 64 * 2**20

_Value = TypeVar("_Value")


class Level(StrEnum):
    TORCH = "torch"
    ONNX = "onnx"


@dataclass(frozen=True, eq=False, kw_only=True)
class Program:
    """A model on the road from source to artefact. A pass maps one to the next and changes none.

    Args:
        name: What the user calls the model; names files and reports.
        level: `torch` (model is an nn.Module or ScriptModule) or `onnx` (model is an onnx_ir Model).
        signature: Inputs and outputs; the same at every level.
        example: One sample that the model accepts; shapes only, its values mean nothing.
        assumed: Dimensions, by input, of which nobody stated a size: that of `example` is a guess.
        facts: What earlier passes established, for instance "batchnorm_folded".
        reference: The program whose answers count as right; None means this one.
        floating: The float graph that was quantized into this one, where it was: what repairs compare layers with.
        named: This graph with the names that it had, where they were taken away: what people are shown.
    """

    name: str
    level: Level
    model: Any
    signature: Signature
    example: Sample
    assumed: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    facts: frozenset[str] = frozenset()
    reference: Program | None = None
    floating: Program | None = None
    named: Program | None = None
    _answers: dict[str, list[dict[str, Array]]] = field(default_factory=dict, repr=False)
    _kept: dict[str, Any] = field(default_factory=dict, repr=False)

    def with_model(self, model: Any, *, level: Level | None = None) -> Program:
        """The next program: `model` in place of this one, compared with the same reference."""
        return replace(self, model=model, level=level or self.level, reference=self.reference or self,
                       named=None, _answers={}, _kept={})  # fmt: skip

    def with_facts(self, facts: frozenset[str], reference: Program | None) -> Program:
        """The same model, of which more or less is known; what was found out about it stays."""
        return replace(self, facts=facts, reference=reference)

    def kept(self, key: str, make: Callable[[], _Value]) -> _Value:
        """What `make` finds out about this model, found out once."""
        if key not in self._kept:
            self._kept[key] = make()
        value: _Value = self._kept[key]
        return value

    @property
    def truth(self) -> Program:
        return self.reference or self

    @property
    def graph(self) -> ir.Graph:
        """The ONNX graph."""
        assert self.level is Level.ONNX
        graph: ir.Graph = self.model.graph
        return graph

    @property
    def opset(self) -> int:
        """Version of the standard operator set that the graph imports; 0 for a torch program."""
        if self.level is Level.TORCH:
            return 0
        version: int = self.model.opset_imports.get("", 0)
        return version

    def clone(self) -> ir.Model:
        """A copy of the ONNX model that a pass may change; tensors are shared."""
        copy: ir.Model = self.model.clone()
        return copy

    @property
    def onnx_bytes(self) -> bytes:
        """The serialized ModelProto; equal graphs give equal bytes."""
        return self.kept("onnx bytes", lambda: _serialized(self.model))

    @property
    def static_model(self) -> ir.Model:
        """The ONNX graph with static, inferred shapes, as cost models read it; not to be changed."""
        from passes.structure import inferred

        return self.kept("static model", lambda: inferred(self))

    @property
    def exported(self) -> Any:
        """The `torch.export` graph of a torch-level program."""
        from passes.torch_level.capture import capture

        return self.kept("exported", lambda: capture(self))

    @property
    def digest(self) -> str:
        """SHA-256 of the graph and every weight: the identity of the model, whatever file or factory it came from."""
        return self.kept("digest", self._digest)

    def _digest(self) -> str:
        if self.level is Level.ONNX:
            return hashlib.sha256(self.onnx_bytes).hexdigest()
        from passes.torch_level.capture import torch_digest

        return torch_digest(self)

    def run(self, sample: Sample) -> dict[str, Array]:
        """The answers to one sample, by output name."""
        return self.kept("runner", self._runner)(sample)

    def answers(self, data: Dataset) -> Iterator[dict[str, Array]]:
        """The answers to each sample of `data`; the first are kept, up to 64 MiB, and given again."""
        kept = self._answers.setdefault(data.digest, [])
        if len(kept) == len(data):
            yield from kept
            return
        size = sum(_bytes(answer) for answer in kept)
        for position, sample in enumerate(data):
            if position < len(kept):  # found by another who walks the same data: a reference beside its own copy
                yield kept[position]
                continue
            answer = self.run(sample)
            size += _bytes(answer)
            if position == len(kept) and size <= _ANSWERS_KEPT_BYTES:
                kept.append(answer)
            yield answer

    def _runner(self) -> Callable[[Sample], dict[str, Array]]:
        if self.level is Level.ONNX:
            return self._session()
        from passes.torch_level.capture import torch_runner

        return torch_runner(self)

    def _session(self) -> Session:
        """The graph in onnxruntime; one in float16 so that it rounds as the device will."""
        from passes.onnx_level.half import holds_float16, rounding

        rounded = rounding(self.model) if holds_float16(self.model) else None
        return Session(self.onnx_bytes if rounded is None else _serialized(rounded))


def _bytes(answer: Mapping[str, Array]) -> int:
    return sum(array.nbytes for array in answer.values())


def _serialized(model: ir.Model) -> bytes:
    import onnx_ir

    try:
        with quiet_libraries():
            content: bytes = onnx_ir.to_proto(model).SerializeToString(deterministic=True)
    except onnx_ir.serde.SerdeError as error:
        cause = " ".join(str(error.__cause__ or error).split())[:200]
        raise InvalidInput(f"the graph cannot be written: {cause}", hint="export the model again") from error
    return content


def onnx_program(
    name: str,
    model: ir.Model,
    signature: Signature,
    example: Mapping[str, Array],
    assumed: Mapping[str, tuple[int, ...]] | None = None,
) -> Program:
    """A program that starts at the ONNX level."""
    return Program(
        name=name,
        level=Level.ONNX,
        model=model,
        signature=signature,
        example=example,
        assumed=assumed or {},
        facts=frozenset({"exported"}),
    )
