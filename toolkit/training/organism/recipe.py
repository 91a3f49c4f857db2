"""A training of an organism as a file: its task, its sizes, and how its components live."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from toolkit.fields import checked
from toolkit.overrides import layered
from toolkit.training.recipe import in_its_folder
from toolkit.yaml_file import Document, read_yaml

__all__ = ["LifecycleFields", "OrganismRecipe", "SizeFields", "as_organism_recipe", "load_organism_recipe"]

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1, le=2**20)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=(),
                              use_attribute_docstrings=True)  # fmt: skip


class SizeFields(_Strict):
    """Of the network; see `toolkit.organism.settings.SlimeConfig`."""

    d_model: Count = 32
    """Features of a token within."""
    founders: Annotated[int, Field(ge=1, le=4096)] = 4
    """Components that each layer begins with."""
    head_dim: Annotated[int, Field(ge=1, le=256)] = 8
    layers: Annotated[int, Field(ge=1, le=256)] = 2
    hidden: Count = 64
    """Hidden features at a position."""
    max_components: Annotated[int, Field(ge=1, le=4096)] = 8
    min_components: Annotated[int, Field(ge=1, le=4096)] = 1
    grace_steps: Annotated[int, Field(ge=0)] = 20
    """Steps in which a newborn cannot die."""


class LifecycleFields(_Strict):
    """See `toolkit.training.organism.rules.LifecycleRules`; what is left out follows the number of steps."""

    births: Literal["archive", "fresh", "copy", "none"] = "fresh"
    """Whom newborns take their weights from; by default from nobody: see `python -m toolkit.bench.ablation A2`."""
    deaths: bool = True
    medium_steps: Count | None = None
    """Between two measurements of fitness; deaths are decided at every second one."""
    fade_steps: Count | None = None
    cooldown_steps: Count | None = None
    warm_up: Share = 0.1
    """Share of the steps before anybody is born."""
    gentle: Share = 0.4
    """Share of the steps after that in which nobody dies."""
    sigma: Annotated[float, Field(ge=0, le=10)] = 0.1
    """Noise on the weights that a newborn takes over, relative to theirs."""
    stack: str | None = None
    """Where latency is predicted, as `toolkit targets` lists it: jetson_nano/tensorrt-fp16."""
    price_nats_per_s: Annotated[float, Field(ge=0)] = 0.0
    """What a second of that costs a component."""
    wanted_latency_s: Annotated[float, Field(gt=0)] | None = None
    """Of all attention layers: the price follows it."""
    cells: Annotated[int, Field(ge=1, le=100_000)] = 16
    """Of the archive of each layer."""


class OrganismRecipe(_Strict):
    """Every field but `organism` may be left out; a flag beats the file."""

    organism: Literal["sine", "xor", "parity", "characters"]
    """What is learnt."""
    sizes: SizeFields = Field(default_factory=SizeFields)
    lifecycle: LifecycleFields = Field(default_factory=LifecycleFields)
    epochs: Annotated[int, Field(ge=1, le=1_000_000)] = 12
    rate: Annotated[float, Field(gt=0, le=100)] = 3e-3
    batch: Count = 64
    weight_decay: Annotated[float, Field(ge=0, le=100)] = 1e-2
    warm_up: Share = 0.05
    patience: Annotated[int, Field(ge=0)] = 0
    longest_s: Annotated[float, Field(gt=0)] | None = None
    """Seconds after which the training ends early."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    device: Literal["cpu", "cuda"] = "cpu"
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    output: str | None = None

    def to_data(self) -> dict[str, Any]:
        """As recipe.yaml holds it; where it went is left out."""
        return self.model_dump(exclude={"output"}, exclude_none=True)


def load_organism_recipe(
    named: str, environ: Mapping[str, str] | None = None, settings: Iterable[str] = ()
) -> OrganismRecipe | None:
    """The recipe in a file, or in the folder of a training, which goes on there; None where it is of another kind.

    Args:
        environ, settings: What stands above the file; see `toolkit.overrides.layered`.

    Raises:
        InvalidInput: the file cannot be read, or a field is unknown, of another type, or out of range.
    """
    folder = Path(named)
    path = folder / "recipe.yaml" if folder.is_dir() else folder
    if not path.is_file() or path.suffix not in (".yaml", ".yml"):
        return None
    document = read_yaml(path)
    if not isinstance(document.data, dict) or "organism" not in document.data:
        return None
    if path is not folder:
        document = in_its_folder(document, folder)
    return as_organism_recipe(layered(document, environ or {}, settings))


def as_organism_recipe(document: Document) -> OrganismRecipe:
    """A recipe from what a file, or a command line, says.

    Raises:
        InvalidInput: see `load_organism_recipe`.
    """
    return checked(OrganismRecipe, document)
