"""toolkit verify --numerics"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from targets.errors import UnknownName
from toolkit.cli.output import progress, say, show_json, table

if TYPE_CHECKING:
    from toolkit.bundle.bundle import Bundle
    from toolkit.verify.integers import Comparison, Numerics

__all__ = ["NumericsDataOpt", "NumericsOpt", "verify_numerics"]

_SHOWN = 10

NumericsOpt = Annotated[
    str | None,
    typer.Option(
        "--numerics",
        metavar="KIND",
        help="Compare with the integers of a72, vnni, avx2, tflite, xnnpack or xnnpack-x86: what flips, and where.",
    ),
]
NumericsDataOpt = Annotated[
    str | None, typer.Option("--data", help="With --numerics: samples to compare on; the golden inputs if left out.")
]


def verify_numerics(bundle: Bundle, kind: str, data: str | None, *, json: bool, quiet: bool) -> int:
    """Print what flips; 1 where an answer does.

    Raises:
        UnknownName: `kind` is none of the numerics.
        InvalidInput: the bundle holds no integers, or the data do not fit it.
    """
    from toolkit.config import load_config
    from toolkit.data import load_data
    from toolkit.verify.integers import NUMERICS, compare_numerics

    if kind not in NUMERICS:
        raise UnknownName("numerics", kind, NUMERICS)
    samples = None
    if data is not None:
        samples = load_data(data, bundle.signature, preprocess=load_config(bundle.path / "recipe.yaml").preprocess)
    with progress(quiet or json) as report:
        made = compare_numerics(bundle, NUMERICS[kind], samples, report)
    show_json(made.to_json()) if json else _show(made, NUMERICS[kind])
    return 0 if made.agrees else 1


def _show(made: Comparison, numerics: Numerics) -> None:
    say(f"{numerics.name}: {numerics.title}; its integers were checked against {numerics.checked}")
    flipped = len({flip.sample for flip in made.flips})
    say(f"{flipped} of {made.samples} samples have another answer there than here")
    for flip in made.flips[:_SHOWN]:
        say(f"  sample {flip.sample}: {flip.output} is {flip.here:g} here, {flip.device:g} there")
    parted = [layer for layer in made.layers if layer.differing]
    if made.first is None:
        say(f"all 8-bit integers of {len(made.layers)} layers are the same")
        if made.flips:
            say("what differs: the runtime here computes some of these layers in floats, where the device has integers")
    else:
        say(f"8-bit integers differ in {len(parted)} of {len(made.layers)} layers, first in {made.first.name}:")
        rows = [[p.name, f"{p.differing}", f"{p.values}", f"{p.largest}"] for p in parted[:_SHOWN]]
        table(["layer", "differing", "of", "largest"], rows, right=(1, 2, 3))
        if len(parted) > _SHOWN:
            say(f"and {len(parted) - _SHOWN} more: --json lists all")
    owner = {"onnxruntime": "onnxruntime", "litert": "LiteRT"}[numerics.runtime]
    for name, why in list(made.elsewhere.items())[:_SHOWN]:
        say(f"not bit-true: {name} ({why}) was computed by {owner} on this machine")
    if len(made.elsewhere) > _SHOWN:
        say(f"not bit-true: {len(made.elsewhere) - _SHOWN} more, listed by --json")
