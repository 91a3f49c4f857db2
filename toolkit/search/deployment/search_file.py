"""A search as a file: of what model and targets, judged on which data, for how long, within which limits, and where."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from targets.errors import InvalidInput, UnknownName
from targets.target import target_names
from toolkit.config import PROJECT_FILE, Config, WorkFields
from toolkit.fields import checked
from toolkit.overrides import layered
from toolkit.yaml_file import Document, read_yaml

__all__ = ["ExecutorFields", "LimitFields", "SearchConfig", "load_search"]

_Positive = Annotated[float, Field(gt=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=(),
                              use_attribute_docstrings=True)  # fmt: skip


class LimitFields(_Strict):
    """The most that a measure may be: a deployment beyond one is kept only while its cell holds no better."""

    latency_s: _Positive | None = None
    peak_memory_bytes: _Positive | None = None
    energy_j: _Positive | None = None
    model_bytes: _Positive | None = None

    def stated(self) -> dict[str, float]:
        """Those that there are, by measure."""
        found: dict[str, float] = self.model_dump(exclude_none=True)
        return found


class ExecutorFields(_Strict):
    """Where candidates are evaluated; see `toolkit.search.executors.executor`."""

    kind: Literal["here", "threads", "processes", "ray"] | None = None
    """Here, or in processes where there are several workers or a limit of time, if left out."""
    workers: Annotated[int, Field(ge=1, le=65_536)] = 1
    address: str | None = None
    """Of a Ray cluster; one on this machine if left out."""
    trial_s: _Positive | None = None
    """Seconds that one evaluation may take; it has failed after them."""

    @property
    def name(self) -> str:
        """The kind that is meant."""
        return self.kind or ("processes" if self.workers > 1 or self.trial_s is not None else "here")


class SearchConfig(_Strict, WorkFields):
    """Every field may be left out; a flag beats the file. `--trust` is a flag only."""

    target: Annotated[list[str], BeforeValidator(lambda given: [given] if isinstance(given, str) else given)] = Field(
        default_factory=list
    )
    """A device, or a list of them."""
    evaluations: Annotated[int, Field(ge=1)] | None = None
    """Candidates for each target; 500 where `seconds` is left out too."""
    seconds: _Positive | None = None
    """For each target; what has begun is finished."""
    limits: LimitFields = Field(default_factory=LimitFields)
    executor: ExecutorFields = Field(default_factory=ExecutorFields)
    fine_tune: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Epochs of training for what may be best after channels were removed."""
    baselines: bool = True
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0

    def to_data(self) -> dict[str, Any]:
        """As a file holds it, without what is left out."""
        return self.model_dump(exclude_none=True)


_PROJECT_ONLY = frozenset(Config.model_fields) - frozenset(SearchConfig.model_fields)
_SEARCH_ONLY = frozenset(SearchConfig.model_fields) - frozenset(Config.model_fields)


def load_search(
    path: Path | None, environ: Mapping[str, str] | None = None, settings: Iterable[str] = ()
) -> SearchConfig:
    """What a file says of a search; of a project file, or a recipe, the fields that a search has.

    Args:
        path: None is ./toolkit.yaml where there is one.
        environ, settings: What stands above the file; see `toolkit.overrides.layered`.

    Raises:
        InvalidInput: it cannot be read, is not YAML, or has fields that do not exist or are wrong: all are named, with
            their lines.
    """
    here = Path(PROJECT_FILE)
    if path is None and not here.is_file():
        document = Document("the command line", {}, {})
    else:
        document = _fields(read_yaml(path or here), is_project=path is None or path.name == PROJECT_FILE)
    document = layered(document, environ or {}, settings)
    config = checked(SearchConfig, document)
    known = target_names()
    for k, name in enumerate(config.target):
        if name not in known:
            error = UnknownName("target", name, known)
            raise InvalidInput(f"{document.origin(['target', k])}: {error.problem}", hint=error.hint)
    return config


def _fields(document: Document, *, is_project: bool) -> Document:
    """The fields of a search; `output` of a project is where its bundle goes."""
    named = frozenset(document.data) if isinstance(document.data, dict) else frozenset()
    if not is_project and (named & _SEARCH_ONLY or not named & _PROJECT_ONLY):
        return document
    project = checked(Config, document)
    shared = {name: getattr(project, name) for name in document.data if name in SearchConfig.model_fields}
    shared.pop("output", None)
    return Document(document.name, shared, document.origins)
