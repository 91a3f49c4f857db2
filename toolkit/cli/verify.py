"""toolkit verify"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from targets.errors import UnknownName, UsageError
from toolkit.cli.app import app
from toolkit.cli.emulation import EmulateOpt, verify_emulated
from toolkit.cli.numerics import NumericsDataOpt, NumericsOpt, verify_numerics
from toolkit.cli.options import JsonOpt, QuietOpt, VerboseOpt
from toolkit.cli.output import say, show_json

__all__: list[str] = []

BundleArg = Annotated[Path, typer.Argument(metavar="BUNDLE", help="The folder that `toolkit compile` wrote.")]


@app.command("verify")
def verify_(
    bundle: BundleArg,
    emulate: EmulateOpt = False,
    numerics: NumericsOpt = None,
    data: NumericsDataOpt = None,
    provider: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Run model.onnx on this of onnxruntime's: cpu, cuda, tensorrt, webgpu."),
    ] = None,
    signed_by: Annotated[
        Path | None, typer.Option(metavar="PUBLIC.pem", help="Refuse a bundle that this Ed25519 key did not sign.")
    ] = None,
    json: JsonOpt = False,
    verbose: VerboseOpt = 0,
    quiet: QuietOpt = False,
) -> int:
    """Check a bundle: its hashes and its signature, then its golden inputs here, or on an emulated core of its target.

    Exits with 1 when the answers are not those recorded; with --numerics, when an answer on that kind
    of device is another one than here.
    """
    from passes.onnxruntime import PROVIDERS
    from toolkit import units
    from toolkit.bundle.bundle import open_bundle
    from toolkit.bundle.layout import GRAPH
    from toolkit.bundle.signing import check_signature
    from toolkit.verify.golden import verify_bundle

    if data is not None and numerics is None:
        raise UsageError("--data is for --numerics", hint="add --numerics, or leave --data out")
    if emulate and numerics is not None:
        raise UsageError("--emulate and --numerics are two different checks", hint="give one of them")
    if provider is not None and (emulate or numerics is not None):
        raise UsageError("--provider is for what runs here", hint="leave out --emulate and --numerics")
    if provider is not None and provider not in PROVIDERS:
        raise UnknownName("provider", provider, PROVIDERS)
    opened = open_bundle(bundle)
    signed = check_signature(bundle, signed_by)
    if emulate:
        return verify_emulated(opened, json=json, quiet=quiet)
    if numerics is not None:
        return verify_numerics(opened, numerics, data, json=json, quiet=quiet)
    result = verify_bundle(opened, provider=provider)
    if json:
        show_json(result.to_json() | {"signed_with": signed.key if signed else None})
        return 0 if result.passed else 1
    through = opened.artifact.file if provider is None else f"{GRAPH} on {provider}"
    say(f"{len(opened.manifest['sha256'])} files match their hashes")
    if signed is not None:
        whose = "the key you named" if signed.expected else "--signed-by tells whether that is who you think"
        say(f"signed with {signed.key}: {whose}")
    say(
        f"{result.samples} golden samples through {through} here: {units.decibels(result.sqnr_db)}"
        f" against the answers recorded (needed: {units.decibels(result.floor_db)}); those are"
        f" {units.decibels(result.reference_sqnr_db)} from the float model"
    )
    say("verified" if result.passed else "NOT verified: the answers on this machine are not those recorded")
    if opened.artifact.checked:
        say(f"when it was compiled: {opened.artifact.checked}")
    if not opened.artifact.complete:
        say(f"not run here: the device's own runtime; next: {opened.artifact.remaining}")
    return 0 if result.passed else 1
