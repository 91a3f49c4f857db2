"""toolkit export"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from toolkit.cli.app import app
from toolkit.cli.options import (
    FixOpt,
    InputOpt,
    JsonOpt,
    ModelArg,
    ModelOpt,
    QuietOpt,
    TrustOpt,
    VerboseOpt,
    one_model,
    project,
)
from toolkit.cli.output import progress, say, show_json

__all__: list[str] = []


class Format(StrEnum):
    ONNX = "onnx"
    TORCHSCRIPT = "torchscript"
    PT2 = "pt2"
    LITERT = "litert"
    AOTINDUCTOR = "aotinductor"


@app.command("export")
def export_(
    model: ModelArg = None,
    model_option: ModelOpt = None,
    to: Annotated[Format, typer.Option("--to", help="Format of the file.")] = Format.ONNX,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file. [MODEL.onnx, .pt, .pt2, .tflite or .aot.pt2]")
    ] = None,
    opset: Annotated[int | None, typer.Option(help="ONNX operator set. [18, or the file's own]")] = None,
    device: Annotated[str, typer.Option(metavar="cpu|cuda", help="aotinductor: the kind of device.")] = "cpu",
    half: Annotated[bool, typer.Option("--half", help="aotinductor: compute in float16.")] = False,
    inputs: InputOpt = None,
    fix: FixOpt = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    trust: TrustOpt = False,
    json: JsonOpt = False,
    verbose: VerboseOpt = 0,
    quiet: QuietOpt = False,
) -> int:
    """Just the file: ONNX, TorchScript, pt2, .tflite, or torch's own compilation for this kind of machine.

    Its answers are compared with the model's on synthetic inputs.
    """
    from targets.errors import UnknownName
    from toolkit import units
    from toolkit.exporting import export_model
    from toolkit.inductor import DEVICES

    if device not in DEVICES:
        raise UnknownName("device", device, DEVICES)

    file = project(None)
    with progress(quiet or json) as report:
        written, drift = export_model(
            one_model(model, model_option) or file.model, to=str(to), output=output, opset=opset,
            device=device, half=half,
            inputs=inputs or file.input, fixed=fix or file.fix, data=file.data, force=force, trust=trust,
            progress=report,
        )  # fmt: skip
    if json:
        document = {
            "schema": "toolkit.export/1",
            "file": str(written),
            "format": str(to),
            "size_bytes": written.stat().st_size,
            "data": "synthetic",
            "drift": [d.to_json() for d in drift],
        }
        show_json(document)
        return 0
    worst = min((d.sqnr_db for d in drift), default=float("inf"))
    same = "identical answers" if worst == float("inf") else f"answers within {units.decibels(worst)} SQNR"
    say(f"{written}: {units.bytes_(written.stat().st_size)}, {same} on synthetic inputs")
    return 0
