"""Options that several verbs share, and how a project file fills in what the user left out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from targets.errors import UsageError

if TYPE_CHECKING:
    from toolkit.config import Config
    from toolkit.search.deployment.search_file import SearchConfig

__all__ = [
    "ConfigOpt", "DataOpt", "FixOpt", "FromOpt", "InputOpt", "JsonOpt", "MaxEnergyOpt", "MaxLatencyOpt", "MaxMemoryOpt",
    "MaxSizeOpt", "MinAccuracyOpt", "ModeOpt", "ModelArg", "ModelOpt", "PointOpt", "PreprocessOpt", "QuietOpt",
    "SeedOpt", "StackOpt", "StrictOpt", "SustainedOpt", "TargetOpt", "ThreadsOpt", "TrustOpt", "VerboseOpt",
    "one_model", "place", "project", "samples_of", "stated_limits",
]  # fmt: skip

ModelArg = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        help="module:factory, .pt2, .pt (TorchScript), .onnx or a zoo name; "
        "the project file's model, else the built-in example `digits`, if left out.",
    ),
]
ModelOpt = Annotated[str | None, typer.Option("--model", "-m", help="The same as MODEL.")]
TargetOpt = Annotated[str | None, typer.Option("--target", "-t", help="Device; `toolkit targets` lists them.")]
StackOpt = Annotated[str | None, typer.Option("--stack", help="Stack of the target, or target/stack.")]
ModeOpt = Annotated[
    str, typer.Option("--mode", help="Power mode or clock of the device, as 5W; `toolkit targets TARGET` lists them.")
]
ThreadsOpt = Annotated[int | None, typer.Option("--threads", help="Threads on the processor.")]
SustainedOpt = Annotated[bool, typer.Option("--sustained", help="Under lasting load: what heat leaves of the clock.")]
InputOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="SHAPE",
        help="Input shape where the model does not say it: [name=]1x3x224x224[:dtype]; "
        "a name is a dimension that varies, and commas separate as well: ids=batch,max_length:int64. May be repeated.",
    ),
]
FixOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--fix",
        metavar="NAME=VALUE",
        help="Input that always has this value: sr=16000 makes it a constant. May be repeated.",
    ),
]
DataOpt = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="Calibration samples: .npz, .npy, a folder of .npy or of images (see --preprocess), module:factory.",
    ),
]
PreprocessOpt = Annotated[
    str | None,
    typer.Option(
        "--preprocess",
        metavar="TEXT",
        help="How images become inputs: imagenet, unit (0 to 1), signed (-1 to 1), raw (0 to 255), or settings such as "
        "resize=256,crop=center,mean=127,std=128,color=bgr; mean and std in units of 0 to 255.",
    ),
]
MaxLatencyOpt = Annotated[str | None, typer.Option(help="Limit of one inference: 20ms. [the target's]")]
MaxMemoryOpt = Annotated[str | None, typer.Option(help="Limit of peak memory: 100MB, 64MiB. [the target's]")]
MaxEnergyOpt = Annotated[str | None, typer.Option(help="Limit of one inference: 5mJ. [none]")]
MaxSizeOpt = Annotated[str | None, typer.Option(help="Limit of the model file: 4MB. [none]")]
MinAccuracyOpt = Annotated[str | None, typer.Option(help="Least accuracy of a point: 97% or 0.97. [none]")]
StrictOpt = Annotated[bool, typer.Option("--strict", help="Count uncertain as a failure.")]
FromOpt = Annotated[
    Path | None,
    typer.Option("--from", metavar="ATLAS", help="Take the best point within the limits of what a search found."),
]
PointOpt = Annotated[str | None, typer.Option("--point", metavar="ID", help="Take this point of the atlas.")]
ConfigOpt = Annotated[
    Path | None, typer.Option("--config", "-c", help="Project file or recipe.yaml; ./toolkit.yaml if it is there.")
]
SeedOpt = Annotated[int | None, typer.Option("--seed", help="Seed of every random choice. [0]")]
TrustOpt = Annotated[bool, typer.Option("--trust", help="Load files that could run code.")]
JsonOpt = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
QuietOpt = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no log.")]
VerboseOpt = Annotated[
    int, typer.Option("--verbose", "-v", count=True, show_default=False, help="More detail; -vv shows tracebacks.")
]


def project(path: Path | None) -> Config:
    """The named project file, else ./toolkit.yaml where there is one, else an empty one."""
    from toolkit.config import PROJECT_FILE, Config, load_config

    if path is not None:
        return load_config(path)
    here = Path(PROJECT_FILE)
    return load_config(here) if here.is_file() else Config()


def samples_of(
    file: Config | SearchConfig, *, data: str | None, preprocess: str | None, inputs: list[str] | None,
    fix: list[str] | None,
) -> dict[str, Any]:  # fmt: skip
    """Samples and inputs from flags, then from the file, by their names in `toolkit.driver.Options`."""
    return {"data": data or file.data, "preprocess": file.preprocess if preprocess is None else preprocess,
            "inputs": inputs or file.input, "fixed": fix or file.fix}  # fmt: skip


def stated_limits(latency: str | None, memory: str | None, energy: str | None, size: str | None) -> dict[str, float]:
    """What the flags say, in SI, under the names of `targets.verdict.Limits`.

    Raises:
        UsageError: one is no quantity of its kind.
    """
    from toolkit.units import parse_quantity

    said = {
        "latency_s": ("--max-latency", latency),
        "memory_bytes": ("--max-memory", memory),
        "energy_j": ("--max-energy", energy),
        "size_bytes": ("--max-size", size),
    }
    limits = {name: parse_quantity(name, text, what=flag) for name, (flag, text) in said.items() if text is not None}
    return {name: int(value) if name.endswith("_bytes") else value for name, value in limits.items()}


def one_model(argument: str | None, option: str | None) -> str | None:
    """MODEL may be given either way, but once.

    Raises:
        UsageError: both were given, and differ; or the name is empty, as that of an unset shell variable.
    """
    if "" in (argument, option):
        raise UsageError("MODEL is empty", hint="name a model, or leave it out for the project file's or the example")
    if argument and option and argument != option:
        raise UsageError(f"two models: {argument} and {option}", hint="give MODEL or --model, not both")
    return argument or option


def place(target: str | None, stack: str | None, config: Config) -> tuple[str, str | None]:
    """Target and stack from flags, then from the file; a stack written target/stack names both.

    Raises:
        UsageError: no target was named, or two different ones.
    """
    named, _, bare = (stack or "").rpartition("/")
    if named and target and named != target:
        raise UsageError(f"--target {target} and --stack {stack} name different devices", hint="leave one of them out")
    chosen = target or named or config.target
    if not chosen:
        raise UsageError("no target was named", hint="say --target NAME; `toolkit targets` lists them")
    same_device = chosen == config.target
    return chosen, bare or (config.stack if same_device else None) or None
