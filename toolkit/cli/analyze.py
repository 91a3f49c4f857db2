"""toolkit analyze"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from toolkit.cli.app import app
from toolkit.cli.options import (
    DataOpt,
    FixOpt,
    InputOpt,
    JsonOpt,
    ModelArg,
    ModelOpt,
    PreprocessOpt,
    QuietOpt,
    StackOpt,
    TargetOpt,
    TrustOpt,
    VerboseOpt,
    one_model,
    place,
    project,
    samples_of,
)
from toolkit.cli.output import progress, say, show_json, table

if TYPE_CHECKING:
    from toolkit.analyzing import Analysis, LayerReport

__all__: list[str] = []


@app.command("analyze")
def analyze_(
    model: ModelArg = None,
    model_option: ModelOpt = None,
    data: DataOpt = None,
    calibration: Annotated[
        str | None, typer.Option(help="With --target: samples that its integers are found on. [those of --data]")
    ] = None,
    preprocess: PreprocessOpt = None,
    before: Annotated[
        str | None, typer.Option(metavar="MODEL", help="The network that MODEL was pruned from, to set beside it.")
    ] = None,
    target: TargetOpt = None,
    stack: StackOpt = None,
    samples: Annotated[int, typer.Option(min=2, help="Samples to look at.")] = 16,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write a page with plots there.")
    ] = None,
    inputs: InputOpt = None,
    fix: FixOpt = None,
    trust: TrustOpt = False,
    json: JsonOpt = False,
    verbose: VerboseOpt = 0,
    quiet: QuietOpt = False,
) -> int:
    """What geometry says of a network on real samples, and what in it is broken.

    Effective dimension and curvature of its layers, whether they treat every place of an image alike, what its
    attention heads do; with --target, how far that target's integers move each layer, and whether its range holds it.

    Exits with 0 for a healthy network, and with 1 where something is broken: a layer that depends on the place or
    answers the same to everything, a head that collapsed, an activation that left its range.
    """
    from toolkit.analyzing import analyze_model

    file = project(None)
    device, stack_name = place(target, stack, file) if target or stack else (None, None)
    with progress(quiet or json) as report:
        found = analyze_model(
            one_model(model, model_option) or file.model,
            before=before,
            target=device,
            stack=stack_name,
            calibration=calibration,
            samples=samples,
            trust=trust,
            progress=report,
            **samples_of(file, data=data, preprocess=preprocess, inputs=inputs, fix=fix),
        )
    if output is not None:
        from toolkit.geometry.analysis.page import render
        from toolkit.search.atlas.page import replace_text

        replace_text(output, render(found.to_json()))
    show_json(found.to_json()) if json else _show(found, output)
    return 1 if found.findings else 0


def _show(found: Analysis, output: Path | None) -> None:
    rounded = f", rounded as {found.stack} does" if found.stack else ""
    say(f"{found.model}: {found.samples} samples of {found.data}{rounded}")
    say()
    table(
        ["layer", "operator", "dimension", "turning", "symmetry defect", "displaced", "clipped"],
        [_row(layer) for layer in found.layers],
        right=(2, 3, 4, 5, 6),
    )
    for name, heads in found.heads.items():
        say()
        table(
            [name, "entropy", "from even", "one key", "rank"],
            [[f"head {h.head}", f"{h.entropy_share:.0%}", f"{h.from_even:.1%}", f"{h.one_key_share:.0%}",
              f"{h.rank:.1f}"] for h in heads],
            right=(1, 2, 3, 4),
        )  # fmt: skip
    say()
    earlier = found.before.moved if found.before else {}
    for by, share in found.moved.items():
        was = f", {earlier[by]:.0%} before" if by in earlier else ""
        say(f"same answer where the image moves by {by} pixel{'s' if by > 1 else ''}: {share:.0%}{was}")
    for note in found.notes:
        say(f"note: {note}")
    for finding in found.findings:
        say(f"broken: {finding.layer} {finding.text}")
        say(f"  instead: {finding.remedy}")
    if not found.findings:
        say("nothing is broken")
    if output is not None:
        say(f"the page: {output}")


def _row(layer: LayerReport) -> list[str]:
    from math import isnan

    use = layer.range_use
    return [
        layer.name,
        layer.operator,
        "-" if isnan(layer.dimension) else f"{layer.dimension:.1f} of {layer.width}",
        "-" if layer.turning is None else f"{layer.turning:.2f} rad",
        "-" if layer.defect is None else f"{layer.defect:.1%}",
        "-" if layer.displacement is None else f"{layer.displacement:.2g} dev",
        "-" if use is None else f"{use.clipped_share:.2%}",
    ]
