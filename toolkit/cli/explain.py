"""toolkit explain"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from toolkit.cli.app import app
from toolkit.cli.options import JsonOpt, QuietOpt, TrustOpt, VerboseOpt
from toolkit.cli.output import progress, say, show_json, table

if TYPE_CHECKING:
    from toolkit.explaining import Explained

__all__: list[str] = []

_MOST = 0.3  # of the noise: worth a sentence, whatever the cause


@app.command("explain")
def explain_(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The folder that `toolkit compile` wrote.")],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Where the model is now, if it was moved since the compile.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Where the calibration samples are now; images are prepared as they were then.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Samples to look at; each runs once for every layer.")] = 16,
    rows: Annotated[int, typer.Option(min=0, help="Layers to list, the most harmful first.")] = 12,
    save: Annotated[
        Path | None, typer.Option(help="Folder that gets the worst layer alone, as ONNX with its inputs.")
    ] = None,
    trust: TrustOpt = False,
    json: JsonOpt = False,
    verbose: VerboseOpt = 0,
    quiet: QuietOpt = False,
) -> int:
    """Which layer moved the answers of a bundle, and why.

    Each layer is quantized alone, and the worst are left out of all, on the bundle's own graph; --model and --data say
    where source and samples are now, if they were moved since the compile.
    """
    from toolkit.explaining import explain_bundle

    with progress(quiet or json) as report:
        found = explain_bundle(bundle, model=model, data=data, samples=samples, save=save, trust=trust, progress=report)
    show_json(found.to_json()) if json else _show(found, rows, save)
    return 0


def _show(found: Explained, rows: int, save: Path | None) -> None:
    from toolkit import units

    effects = found.effects
    say(f"{found.bundle} on {found.stack.id}: {units.decibels(found.sqnr_db)} against the float model "
        f"on {effects.samples} samples of {found.data}")  # fmt: skip
    if found.unexplained:
        say(f"the layers below come to {units.decibels(effects.all_db)} together: what else differs (half precision, "
            "the runtime's own kernels) is not taken apart")  # fmt: skip
    say()
    worst = effects.worst_first[:rows]
    table(
        ["layer", "operator", "alone", "of the noise", "left in float", "that costs", "source"],
        [
            [
                effect.unit.name,
                effect.unit.op_type,
                units.decibels(effect.alone_db),
                f"{effect.share:.0%}",
                units.decibels(effect.without_db) if effect.without_db is not None else "-",
                _cost(found, effect.unit.name),
                effect.unit.source or effect.unit.node,
            ]
            for effect in worst
        ],
        right=(2, 3, 4, 5),
    )
    if len(effects.effects) > len(worst):
        rest = sum(e.share for e in effects.worst_first[rows:])
        say(f"and {len(effects.effects) - len(worst)} more, {rest:.0%} of the noise together")
    say()
    if jump := effects.first_jump:
        say(f"the error jumps at {jump.unit.name}: {units.decibels(jump.tensor_db)} behind it, "
            f"{units.decibels(jump.inherited_db)} before it")  # fmt: skip
    said = [(e.unit.name, cause) for e in effects.worst_first for cause in found.causes[e.unit.name]]
    for name, cause in said:
        say(f"{name}: {cause.text}")
        say(f"  instead: {cause.remedy}")
    worst = effects.worst_first[:1]
    if worst and worst[0].share > _MOST and (remedy := found.remedies.get(worst[0].unit.name)):
        say(f"{worst[0].unit.name} alone makes {worst[0].share:.0%} of the noise: in float it would leave "
            f"{units.decibels(remedy.sqnr_db)}, for {_cost(found, worst[0].unit.name)} predicted")  # fmt: skip
    elif not said and not effects.first_jump:
        say("nothing stands out: the noise is what rounding costs, spread over the layers")
    if save is not None:
        say(f"the worst layer alone: {save / 'layer.onnx'}, its inputs: {save / 'inputs.npz'}")


def _cost(found: Explained, name: str) -> str:
    from toolkit import units

    remedy = found.remedies.get(name)
    if remedy is None:
        return "-"
    sign = "+" if remedy.costs_s >= 0 else "-"
    return f"{sign}{units.seconds(abs(remedy.costs_s))}"
