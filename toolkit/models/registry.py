"""One registry for every network of the zoo. Looking a name up imports nothing; building it does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from targets.errors import UnknownName

if TYPE_CHECKING:
    from torch import nn

    from passes.dataset import Array, Dataset

__all__ = ["Entry", "entry", "names"]


@dataclass(frozen=True)
class Entry:
    """A network that the toolkit ships. `module` holds `build`, `example`, `calibration`,
    `training` and `validation`."""

    name: str
    summary: str
    module: str

    def build(self) -> nn.Module:
        """The network with its shipped weights, in eval mode."""
        model: nn.Module = self._function("build")()
        return model

    def example(self) -> Mapping[str, Array]:
        """One input sample."""
        sample: Mapping[str, Array] = self._function("example")()
        return sample

    def calibration(self) -> Dataset:
        """Samples of the training split."""
        data: Dataset = self._function("calibration")()
        return data

    def training(self) -> Dataset:
        """All labelled samples of the training split."""
        data: Dataset = self._function("training")()
        return data

    def validation(self) -> Dataset:
        """Labelled samples that training never saw."""
        data: Dataset = self._function("validation")()
        return data

    def _function(self, name: str) -> Callable[[], Any]:
        function: Callable[[], Any] = getattr(import_module(self.module), name)
        return function


_ENTRIES = {
    "digits": Entry("digits", "residual network for 8x8 handwritten digits, 10 classes", "toolkit.models.digits"),
}


def names() -> list[str]:
    """Every network, sorted."""
    return sorted(_ENTRIES)


def entry(name: str) -> Entry:
    """The network called `name`.

    Raises:
        UnknownName: there is none.
    """
    if name not in _ENTRIES:
        raise UnknownName("model", name, _ENTRIES)
    return _ENTRIES[name]
