"""atlas.html: one self-contained page of an atlas. Names are data, not markup; nothing is fetched."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from targets.errors import InvalidInput, UnknownName
from targets.target import load_target
from toolkit.search.atlas.points import MEASURES, Atlas, Point, read_atlas
from toolkit.search.atlas.selecting import device_limits

__all__ = ["PAGE", "render", "replace_text", "write_page"]

PAGE = "atlas.html"
_COLUMNS = (*MEASURES, "quality")
_SHOWN = ("pass", "passes", "model", "target", "stack", "data", "validation")
"""Fields of a recipe that the page shows elsewhere, or that say nothing of the deployment."""


def render(atlas: Atlas, folder: str) -> str:
    """The page.

    Args:
        folder: What the commands on the page call the atlas: a name that holds where it will be read.
    """
    text: str = _template().render(name=atlas.model.name, document=_script_json(_document(atlas, folder)))
    return text


def write_page(folder: Path, path: Path | None = None) -> Path:
    """Write the page of the atlas in `folder`, to atlas.html in it unless `path` says another place.

    Raises:
        InvalidInput: there is no atlas, it is damaged, or the page cannot be written.
    """
    page = path or folder / PAGE
    replace_text(page, render(read_atlas(folder), _from_here(folder)))
    return page


def _from_here(folder: Path) -> str:
    """A path without the machine it lies on: relative to here where it lies below, else the bare name."""
    path, here = folder.resolve(), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else path.name


def replace_text(path: Path, text: str) -> None:
    """Write `path`, whole or not at all.

    Raises:
        InvalidInput: it cannot be written.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        scratch.write_text(text, "utf-8")
        scratch.replace(path)
    except OSError as error:
        raise InvalidInput(f"cannot write {path}: {error.strerror}", hint="choose a folder you may write") from error
    finally:
        scratch.unlink(missing_ok=True)


def _document(atlas: Atlas, folder: str) -> dict[str, Any]:
    """What the script of the page reads. Texts that points share are told once and numbered."""
    texts: dict[str, int] = {}
    ordered = sorted(atlas.points, key=lambda p: (p.target, p.stack, p.id))
    return {
        "model": atlas.model.name,
        "digest": atlas.model.digest,
        "samples": max((point.judged.n for point in ordered), default=0),
        "metric": atlas.metric,
        "floor": atlas.quality_floor,
        "seed": atlas.seed,
        "command": f"toolkit compile {shlex.quote(atlas.model.source)} --from {shlex.quote(folder)}",
        "targets": {name: {"title": _title(name), "limits": device_limits(name)} for name in atlas.targets},
        "points": [_row(atlas, point, texts) for point in ordered],
        "texts": list(texts),
    }


def _row(atlas: Atlas, point: Point, texts: dict[str, int]) -> dict[str, Any]:
    """Columns are in the order of the measures, then quality: values, and both ends of their intervals."""
    number = _numbering(texts)
    return {
        "id": point.id,
        "target": point.target,
        "stack": point.stack,
        "v": [point.value(name) for name in _COLUMNS],
        "low": [point.interval(name)[0] for name in _COLUMNS],
        "high": [point.interval(name)[1] for name in _COLUMNS],
        "n": point.judged.n,
        "searched": [point.quality, point.n] if point.held_out else None,
        "cell": point.cell,
        "constant": not atlas.is_better_than_constant(point),
        "provenance": number(point.provenance),
        "passes": [[number(name), number(said)] for name, said in _passes(point.recipe)],
        "settings": [[number(name), number(said)] for name, said in _settings(point.recipe)],
        "config": [[number(name), number(_plain(value))] for name, value in point.config.items()],
    }


def _numbering(texts: dict[str, int]) -> Any:
    return lambda text: texts.setdefault(text, len(texts))


def _passes(recipe: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    for entry in recipe.get("passes") or ():
        settings = {key: value for key, value in entry.items() if key != "pass"}
        yield str(entry.get("pass", "")), ", ".join(f"{key} {_plain(value)}" for key, value in settings.items())


def _settings(recipe: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    for key, value in recipe.items():
        if key not in _SHOWN and value not in (None, [], {}):
            yield key, _plain(value)


def _plain(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(inner)}" for key, inner in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value)) or "none"
    return str(value)


def _title(target: str) -> str:
    try:
        return load_target(target).title
    except UnknownName:
        return target


def _script_json(document: Mapping[str, Any]) -> str:
    """JSON that may stand in a script element: no `<` in it, so nothing ends the element or begins another."""
    text = json.dumps(document, allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@cache
def _template() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, loader=PackageLoader("toolkit.search.atlas", "."),
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("page.html.j2")
