"""One registry for every network of the zoo. Looking a name up imports nothing; building it does."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from targets.errors import UnknownName, UsageError

if TYPE_CHECKING:
    from torch import nn

    from passes.dataset import Array, Dataset
    from toolkit.models.blueprints.config import BlueprintConfig

__all__ = ["BOARDS", "CONVOLUTIONAL", "Entry", "Family", "configured", "entries", "entry", "is_name", "names"]

Family = Literal["example", "blueprint", "language"]

BOARDS = ("desktop_cpu", "jetson_nano", "raspberry_pi_4")
"""Targets that every network is compiled for."""

CONVOLUTIONAL = (*BOARDS, "coral_tpu")
"""Targets of a network that is made of convolutions."""


@dataclass(frozen=True)
class Entry:
    """A network that the toolkit ships.

    Args:
        name: What the user types.
        summary: What it is, in one line.
        module: Holds `build`, `example` and `calibration`; `training` and `validation` where there are labelled data;
            `Config` where it can be set up in more than one way.
        use_case: What it is for, in one line.
        family: "example" is trained and shipped with its weights; a "blueprint" is made from its Config, untrained.
        targets: What it is compiled for.
        refused: Targets among them that it cannot be compiled for, and why.
    """

    name: str
    summary: str
    module: str
    use_case: str = ""
    family: Family = "example"
    targets: tuple[str, ...] = BOARDS
    refused: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_trained(self) -> bool:
        """Whether it comes with weights that were trained: only then does its accuracy say anything."""
        return self.family == "example"

    def config_type(self) -> type[BlueprintConfig] | None:
        """What sets it up; None for a network of one size."""
        found: type[BlueprintConfig] | None = getattr(import_module(self.module), "Config", None)
        return found

    def build(self, config: BlueprintConfig | None = None) -> nn.Module:
        """The network in eval mode: with its shipped weights, or seeded ones from the config."""
        model: nn.Module = self._call("build", config)
        return model

    def example(self, config: BlueprintConfig | None = None) -> Mapping[str, Array]:
        """One input sample."""
        sample: Mapping[str, Array] = self._call("example", config)
        return sample

    def calibration(self, config: BlueprintConfig | None = None) -> Dataset:
        """Samples like those that it is for."""
        data: Dataset = self._call("calibration", config)
        return data

    def training(self, config: BlueprintConfig | None = None) -> Dataset | None:
        """All labelled samples to train on; None where there are none."""
        data: Dataset | None = self._call("training", config, optional=True)
        return data

    def validation(self, config: BlueprintConfig | None = None) -> Dataset | None:
        """Labelled samples that training never sees; None where there are none."""
        data: Dataset | None = self._call("validation", config, optional=True)
        return data

    def _call(self, name: str, config: BlueprintConfig | None, *, optional: bool = False) -> Any:
        module = import_module(self.module)
        if optional and not hasattr(module, name):
            return None
        if config is None:
            return getattr(module, name)()
        if not hasattr(module, "Config"):
            raise _one_size(self)
        return getattr(module, name)(config)


_ENTRIES = {
    entry.name: entry
    for entry in (
        Entry(
            "digits",
            "residual network for 8x8 handwritten digits, 10 classes",
            "toolkit.models.digits",
            use_case="the built-in example: trained, with one of each operator that edge networks are made of",
            targets=CONVOLUTIONAL,
        ),
        Entry(
            "sliding_conv",
            "causal convolutions of several scales with attention between them, whole or sample by sample",
            "toolkit.models.blueprints.sliding_conv",
            use_case="ECG and motion sensors in real time: one answer a step, in constant time",
            family="blueprint",
            targets=CONVOLUTIONAL,
        ),
        Entry(
            "sparse_activation",
            "feed-forward block of whose hidden features exactly k are active at each position",
            "toolkit.models.blueprints.sparse_activation",
            use_case="sensors in which little happens; what a layer needs",
            family="blueprint",
        ),
        Entry(
            "quant_adapter",
            "adapter on integer grids of 2 to 8 bits, alike in training and evaluation",
            "toolkit.models.blueprints.quant_adapter",
            use_case="devices with integer arithmetic; few bits without surprises",
            family="blueprint",
        ),
        Entry(
            "pruning_adapter",
            "adapter with masks on features or weights, which can be baked out",
            "toolkit.models.blueprints.pruning_adapter",
            use_case="networks that are to shrink while they train",
            family="blueprint",
        ),
        Entry(
            "multi_scale_attention",
            "self-attention in windows, at strides and over means, linear in the length",
            "toolkit.models.blueprints.multi_scale_attention",
            use_case="long signals on small devices",
            family="blueprint",
        ),
        Entry(
            "cross_modal_adapter",
            "cross-attention from any number of modalities, any of which may be missing",
            "toolkit.models.blueprints.cross_modal_adapter",
            use_case="devices whose sensors fail, or are switched on by turns",
            family="blueprint",
        ),
        Entry(
            "dynamic_computation",
            "a cheap and a dear way, chosen for each sample",
            "toolkit.models.blueprints.dynamic_computation",
            use_case="signals most of which are easy",
            family="blueprint",
        ),
        Entry(
            "memory_efficient",
            "feed-forward stages that are computed anew on the way back",
            "toolkit.models.blueprints.memory_efficient",
            use_case="training where memory is short",
            family="blueprint",
        ),
        Entry(
            "fused_linear",
            "linear layers that end in their activation, in float for training and in int8 for serving",
            "toolkit.models.blueprints.fused_linear",
            use_case="wide layers on a GPU, where the epilogue is time spent on memory",
            family="blueprint",
        ),
        Entry(
            "separable_vision",
            "image classifier of depthwise-separable convolutions",
            "toolkit.models.blueprints.separable_vision",
            use_case="image classification on boards and the Edge TPU",
            family="blueprint",
            targets=CONVOLUTIONAL,
        ),
        Entry(
            "resnet_bk",
            "language model: mixtures of experts and the resolvent of a chain, linear in the length",
            "toolkit.models.resnet_bk",
            use_case="text of any length in time and memory that grow as its length",
            family="language",
        ),
        Entry(
            "geometric",
            "language model: causal attention over adaptive tiles, with a choice of scores",
            "toolkit.models.geometric",
            use_case="long contexts on a CPU: trained dense, deployed with as few tiles as the answers allow",
            family="language",
        ),
        Entry(
            "transformer",
            "language model: causal self-attention, of as many parameters as resnet_bk",
            "toolkit.models.transformer",
            use_case="what resnet_bk is compared with",
            family="language",
        ),
        Entry(
            "inverted_residual",
            "image classifier of inverted residuals, narrow between its blocks",
            "toolkit.models.blueprints.inverted_residual",
            use_case="image classification and backbones where memory is short, the Edge TPU included",
            family="blueprint",
            targets=CONVOLUTIONAL,
        ),
        Entry(
            "vision_transformer",
            "small transformer over patches of a picture",
            "toolkit.models.blueprints.vision_transformer",
            use_case="image classification on the GPUs of boards",
            family="blueprint",
        ),
        Entry(
            "keyword_spotting",
            "convolutions and a GRU or LSTM over mel bands",
            "toolkit.models.blueprints.keyword_spotting",
            use_case="wake words and other short sounds",
            family="blueprint",
        ),
    )
}


def names() -> list[str]:
    """Every network, sorted."""
    return sorted(_ENTRIES)


def entries(family: Family | None = None) -> list[Entry]:
    """Every network, or those of one family, by name."""
    return [_ENTRIES[name] for name in names() if family in (None, _ENTRIES[name].family)]


def entry(name: str) -> Entry:
    """The network called `name`.

    Raises:
        UnknownName: there is none.
    """
    if name not in _ENTRIES:
        raise UnknownName("model", name, _ENTRIES)
    return _ENTRIES[name]


def is_name(spec: str) -> bool:
    """Whether `spec` is NAME or NAME@FIELDS with the name of a network."""
    return spec.partition("@")[0] in _ENTRIES


def configured(spec: str) -> tuple[Entry, BlueprintConfig | None]:
    """The network and the config of `NAME`, or of `NAME@width=16,kernels=[3,5]`; without fields there is no config.

    Raises:
        UnknownName: there is no such network.
        UsageError: it comes in one size, or the fields are not of that form.
        InvalidInput: a field does not exist, has another type, or is out of its range.
    """
    name, at, text = spec.partition("@")
    made = entry(name)
    if not at:
        return made, None
    fields = _fields(text)
    kind = made.config_type()
    if kind is None:
        raise _one_size(made)
    from toolkit.models.blueprints.config import parse

    return made, parse(kind, fields)


def _fields(text: str) -> Mapping[str, Any]:
    """`width=16,kernels=[3,5]` as a mapping; values are YAML."""
    import yaml

    try:
        found = yaml.safe_load("{" + re.sub(r"(^|,)\s*(\w+)\s*=", r"\1 \2: ", text) + "}")
    except yaml.YAMLError:
        found = None
    if (
        not isinstance(found, dict)
        or not found
        or None in found.values()
        or any(type(name) is not str for name in found)
    ):
        raise UsageError(f"{text!r} are no fields of a config", hint="write them like NAME@width=16,kernels=[3,5]")
    return found


def _one_size(made: Entry) -> UsageError:
    return UsageError(f"{made.name} comes in one size and takes no config", hint="leave the config out")
