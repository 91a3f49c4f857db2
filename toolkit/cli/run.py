"""toolkit run"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolkit.cli.app import app
from toolkit.cli.options import JsonOpt, PreprocessOpt, QuietOpt, VerboseOpt
from toolkit.cli.output import progress, say, show_json
from toolkit.cli.verify import BundleArg

__all__: list[str] = []


@app.command("run")
def run_(
    bundle: BundleArg,
    inputs: Annotated[
        str,
        typer.Argument(
            metavar="INPUT",
            help="Samples: .npz, .npy, an image, a folder of .npy or of images (prepared as the calibration "
            "images were, unless --preprocess says otherwise), module:factory.",
        ),
    ],
    preprocess: PreprocessOpt = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the answers to this .npz.")] = None,
    json: JsonOpt = False,
    verbose: VerboseOpt = 0,
    quiet: QuietOpt = False,
) -> int:
    """Run a bundle on samples, on this machine."""
    import numpy as np

    from targets.errors import InvalidInput
    from toolkit.answers import lines, plain, stacked
    from toolkit.bundle.bundle import open_bundle
    from toolkit.config import load_config
    from toolkit.data import check_preprocess_used, load_data

    opened = open_bundle(bundle)
    recorded = load_config(opened.path / "recipe.yaml").preprocess
    data = load_data(inputs, opened.signature, preprocess=recorded if preprocess is None else preprocess)
    check_preprocess_used(preprocess, data)
    answers = []
    with progress(quiet or json) as report:
        for done, sample in enumerate(data, start=1):
            answers.append(opened(sample))
            report("running", done / len(data))
    outputs = stacked(answers)
    if output is not None:
        output = output if output.suffix == ".npz" else output.with_name(output.name + ".npz")
        try:
            np.savez(output, **outputs)  # type: ignore[arg-type]
        except OSError as error:
            raise InvalidInput(f"cannot write {output}: {error.strerror}", hint="choose another --output") from error
    if json:
        show_json({"schema": "toolkit.run/1", "outputs": {k: plain(v) for k, v in outputs.items()}})
        return 0
    for line in lines(outputs):
        say(line)
    if output is not None:
        say(f"written to {output}")
    return 0
