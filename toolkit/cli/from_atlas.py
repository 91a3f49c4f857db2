"""`toolkit compile --from ATLAS`: which point is taken, why, and what of its recipe may be used."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isfinite, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from targets.errors import InvalidInput, UnknownName, UsageError
from toolkit import units
from toolkit.cli.output import say, table

if TYPE_CHECKING:
    from targets.verdict import Check
    from toolkit.config import Config
    from toolkit.search.atlas.points import Atlas, Point
    from toolkit.search.atlas.selecting import Miss, Selection
    from toolkit.sources import Source

__all__ = ["Chosen", "choose", "load_model_of", "parse_accuracy", "show_chosen", "show_kept"]

_PARTS = re.compile(r"; (?=\w+: )")
"""Between what a provenance says of latency, of memory and of energy."""
_WORDS = {"latency_s": "latency", "memory_bytes": "memory", "energy_j": "energy", "size_bytes": "size"}


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A point of an atlas, or that none fits. `found` is None where the point was named."""

    atlas: Atlas
    target: str
    limits: Mapping[str, float]
    found: Selection | Miss | None
    point: Point

    @property
    def fits(self) -> bool:
        from toolkit.search.atlas.selecting import Miss

        return not isinstance(self.found, Miss)

    def config(self, given: Mapping[str, str | None], project: Config, *, trust: bool) -> Config:
        """The recipe, as a file that the user had written; what it leaves open is the project's.

        Args:
            given: What the user named on the command line; it is not looked at in the recipe.
            trust: Take factories that the recipe names.

        Raises:
            UsageError: it names a factory, which is code, and the user neither named it nor trusts it.
        """
        from toolkit.config import Config

        recipe = Config.model_validate(dict(self.point.recipe))
        places = {"model": self.atlas.model.source, "target": self.point.target, "stack": self.point.stack}
        for name in ("model", "data", "validation", "trainer"):
            value = places.get(name) or getattr(recipe, name)
            if value is not None and not given[name] and not trust and _is_code(value):
                flag = "MODEL" if name == "model" else f"--{name}"
                raise UsageError(
                    f"the atlas names code to run: {name} {value}",
                    hint=f"give {flag} yourself, or repeat with --trust if you know who made the atlas",
                )
        for name in ("data", "validation", "trainer", "output"):
            places[name] = (None if name == "output" else getattr(recipe, name)) or getattr(project, name)
        return recipe.model_copy(update=places)

    def to_json(self) -> dict[str, Any]:
        """A plain document; units are in the keys."""
        from toolkit.search.atlas.selecting import Selection, judge_point

        document: dict[str, Any] = {
            "point": self.point.model_dump(mode="json"),
            "limits": dict(self.limits),
            "fits": self.fits,
            "checks": [{**asdict(c), "outcome": str(c.outcome)} for c in judge_point(self.point, self.limits)],
        }
        if isinstance(self.found, Selection):
            document |= {
                "fitting": self.found.fitting,
                "uncertain": self.found.uncertain,
                "ties": [point.id for point in self.found.ties],
                "bolder": self.found.bolder.id if self.found.bolder else None,
            }
        return document


def choose(
    folder: Path, *, target: str | None, stack: str | None, limits: Mapping[str, float], point: str | None,
    strict: bool, usual: str | None,
) -> Chosen:  # fmt: skip
    """The named point, else the best within `limits`; where they are silent those of the target's profile hold.

    Args:
        usual: The project's target, for an atlas of several where none is named.

    Raises:
        InvalidInput: the atlas cannot be read, or is empty.
        UsageError: it is not clear for which target, or which point.
    """
    from toolkit.search.atlas.points import read_atlas
    from toolkit.search.atlas.selecting import device_limits, select

    atlas = read_atlas(folder)
    named, _, bare = (stack or "").rpartition("/")
    if named and target and named != target:
        raise UsageError(f"--target {target} and --stack {stack} name different devices", hint="leave one of them out")
    device = target or named or None
    if not atlas.points:
        raise InvalidInput(f"the atlas {folder} holds no point", hint="search again, with more evaluations")
    if device and device not in atlas.targets:
        raise UnknownName("target in this atlas", device, atlas.targets)
    if point is not None:
        if limits or strict:
            raise UsageError("--point and limits both choose", hint="give the point, or the limits")
        taken = atlas.point(point, device)
        return Chosen(atlas=atlas, target=taken.target, limits=device_limits(taken.target), found=None, point=taken)
    device = device or (usual if usual in atlas.targets else None)
    if device is None and len(atlas.targets) > 1:
        raise UsageError(f"the atlas is for {', '.join(atlas.targets)}", hint="say which: --target NAME")
    device = device or atlas.targets[0]
    points = [p for p in atlas.points if p.target == device and bare in ("", p.stack)]
    if not points:
        raise UnknownName("stack in this atlas", bare, {p.stack for p in atlas.points if p.target == device})
    held = {**device_limits(device), **limits}
    found = select(points, held, strict=strict)
    return Chosen(atlas=atlas, target=device, limits=held, found=found, point=found.point)


def parse_accuracy(text: str | None) -> dict[str, float]:
    """`97%` or `0.97` as a limit on quality.

    Raises:
        UsageError: it is neither.
    """
    if text is None:
        return {}
    try:
        number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        number = nan
    if not isfinite(number):
        raise UsageError(f"--min-accuracy {text!r} is no number", hint="write it like 97% or 0.97")
    return {"quality": number}


def load_model_of(atlas: Atlas, model: str | None, **options: Any) -> Source:
    """`model`, loaded, if it is the one that the atlas was made of: of another neither accuracy nor cost would hold.

    Raises:
        InvalidInput: its digest is another one.
    """
    from toolkit.driver import load_model

    source = load_model(model, **options)
    program = source.program
    if program.digest != atlas.model.digest:
        raise InvalidInput(
            f"this atlas is of {atlas.model.name} ({atlas.model.digest[:12]}), not of {program.name} "
            f"({program.digest[:12]}): another model, or other weights",
            hint=f"name the model that was searched, {atlas.model.source}, or search this one: toolkit search MODEL",
        )
    return source


def _is_code(spec: str) -> bool:
    """`module:factory`, but the toolkit's own trainer."""
    from toolkit.trainers import TRAINER

    return ":" in spec and spec != TRAINER and not Path(spec).exists()


# ---- what is said


def show_chosen(chosen: Chosen) -> None:
    """Which point, and why; or the nearest miss, and by how much."""
    from toolkit.search.atlas.selecting import Miss

    metric, point, found = chosen.atlas.metric, chosen.point, chosen.found
    if isinstance(found, Miss):
        reach = f"; the intervals of {found.uncertain} reach there" if found.uncertain else ""
        say(f"none of {found.among} points on {chosen.target} is within the limits{reach}")
        say(f"the nearest: {point.id} on {point.target}/{point.stack}")
    elif found is None:
        say(f"point {point.id} on {point.target}/{point.stack}, as named")
    else:
        how = "the best that fits" if found.outcome == "fits" else "the best by its estimate; uncertain, see below"
        say(f"point {point.id} on {point.target}/{point.stack}: {how}")
    _show_numbers(chosen)
    unseen = " that the search never saw" if point.held_out else ""
    say(f"{metric}: on {point.judged.n} samples{unseen}")
    if not chosen.atlas.is_better_than_constant(point):
        say(f"no better than one constant answer, which has {chosen.atlas.quality_floor:.4f} where it was searched")
    for line in _PARTS.split(point.provenance):
        say(line)
    if isinstance(found, Miss):
        for check in found.checks:
            if check.outcome != "fits":
                say(f"{_WORDS.get(check.quantity, metric)} {_missed(check)}")
        say("the limits are the device's where you gave none; `toolkit report ATLAS` shows what remains as they move")
    elif found is not None:
        _show_others(chosen, found)
    say()


def _show_numbers(chosen: Chosen) -> None:
    from toolkit.search.atlas.selecting import LIMITS, judge_point

    outcomes = {check.quantity: check for check in judge_point(chosen.point, chosen.limits)}
    rows = []
    for name in ("quality", *_WORDS):
        value, (low, high) = chosen.point.value(LIMITS[name]), chosen.point.interval(LIMITS[name])
        check = outcomes.get(name)
        spread = "exact" if low == high else f"[{_text(name, low)}, {_text(name, high)}]"
        label = _WORDS.get(name, chosen.atlas.metric)
        limit = _text(name, check.limit) if check else "-"
        rows.append([label, _text(name, value), spread, limit, str(check.outcome) if check else "no limit"])
    table(["", "value", "interval", "limit", ""], rows, right=(1, 3))


def _show_others(chosen: Chosen, found: Selection) -> None:
    metric = chosen.atlas.metric
    say(f"of the points on {chosen.target}, {found.fitting} fit for certain and {found.uncertain} are uncertain")
    if found.runner_up:
        fastest = min(found.ties, key=lambda p: p.measures.latency_s)
        text = f"not significantly worse: {len(found.ties)}, the next {_brief(found.runner_up, metric)}"
        if fastest is not found.runner_up and fastest.measures.latency_s < found.point.measures.latency_s:
            text += f", the fastest {_brief(fastest, metric)}"
        say(text)
    if found.bolder:
        say(f"better, but uncertain: {_brief(found.bolder, metric)}")


def show_kept(chosen: Chosen, report: Mapping[str, Any]) -> None:
    """What the atlas said of the point, beside what the bundle that came of it has."""
    after, metric = report["after"], report["accuracy"]["metric"]
    measures = chosen.point.measures
    rows = [
        [_WORDS[name], _text(name, said), _text(name, after[name])]
        for name, said in (
            ("latency_s", measures.latency_s),
            ("memory_bytes", measures.peak_memory_bytes),
            ("energy_j", measures.energy_j),
            ("size_bytes", measures.model_bytes),
        )
    ]
    if metric and metric["name"] == chosen.atlas.metric:
        text = f"{metric['after']:.4f} on {metric['samples']} samples"
        rows.insert(0, [metric["name"], _judged(chosen.point), text])
    say()
    table([f"point {chosen.point.id[:12]}", "in the atlas", "in the bundle"], rows, right=(1, 2))


def _judged(point: Point) -> str:
    return f"{point.judged.quality:.4f} on {point.judged.n} samples"


def _brief(point: Point, metric: str) -> str:
    return f"{point.id} ({metric} {point.judged.quality:.4f}, {units.seconds(point.measures.latency_s)})"


def _missed(check: Check) -> str:
    """`is 24.1 ms, 4.10 ms or 20.5% above the limit of 20.0 ms`; from tenfold on how many times it."""
    from toolkit.search.atlas.selecting import excess

    value, limit = _text(check.quantity, check.value), _text(check.quantity, check.limit)
    beyond = excess(check)
    if beyond <= 0:
        return f"is {value}, but its interval reaches beyond the limit of {limit}"
    if beyond > 9:
        return f"is {value}, {beyond + 1:,.0f} times the limit of {limit}"
    side = "below" if check.quantity == "quality" else "above"
    by = _text(check.quantity, abs(check.value - check.limit))
    return f"is {value}, {by} or {beyond:.1%} {side} the limit of {limit}"


def _text(name: str, value: float) -> str:
    return f"{value:.4f}" if name == "quality" else units.quantity(name, value)
