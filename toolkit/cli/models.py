"""toolkit models"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from toolkit.cli.app import app
from toolkit.cli.options import JsonOpt, QuietOpt, VerboseOpt
from toolkit.cli.output import progress, say, show_json, table
from toolkit.zoo import describe_model, list_models

__all__: list[str] = []


@app.command("models")
def models_(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="Show one: inputs, size, what its config may say, sources; NAME@width=16,kernels=[3,5] has other "
            "settings.",
        ),
    ] = None,
    json: JsonOpt = False,
    verbose: VerboseOpt = 0,
    quiet: QuietOpt = False,
) -> int:
    """The networks that come with the toolkit, and what each is for."""
    if name is None:
        found = list_models()
        if json:
            show_json({"schema": "toolkit.models/1", "models": found})
            return 0
        table(["family", "name", "for"], [[m["family"], m["name"], m["use_case"]] for m in found])
        say("\n`toolkit models NAME` shows one; `toolkit compile NAME --target T` takes any of them,")
        say("with other settings than its own as NAME@width=16,kernels=[3,5]")
        return 0
    with progress(quiet or json) as report:
        model = describe_model(name, progress=report)
    if json:
        show_json({"schema": "toolkit.model/1", **model})
        return 0
    _show(model)
    return 0


def _show(model: Mapping[str, Any]) -> None:
    from toolkit import units

    state = "trained" if model["trained"] else "untrained"
    say(f"{model['name']} ({model['family']}, {state}): {model['summary']}")
    say(f"for: {model['use_case']}")
    say(
        f"{units.count(model['parameters'], '')} parameters, {units.count(model['macs'], 'MAC')} an inference, "
        f"weights {units.bytes_(model['weight_bytes'])} in float32"
    )
    for kind in ("inputs", "outputs"):
        for spec in model[kind]:
            say(f"  {kind[:-1]:6} {spec['name']}: {spec['dtype']}[{', '.join(map(str, spec['shape']))}]")
    targets = [target for target in model["targets"] if target not in model["refused"]]
    say(f"compiles for {', '.join(targets)}")
    for target, reason in model["refused"].items():
        say(f"  not for {target}: {reason}")
    if model["config"]:
        say()
        rows = [[s["name"], _plain(s["value"]), s["allowed"], s["meaning"]] for s in model["config"]]
        table(["field", "value", "allowed", "meaning"], rows)
    say()
    for paragraph in model["description"]:
        say(paragraph)


def _plain(value: Any) -> str:
    return "[" + ", ".join(map(str, value)) + "]" if isinstance(value, tuple) else str(value)
