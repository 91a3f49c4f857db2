"""Write a first project file: commented, validated, and ready to compile."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from targets.errors import InvalidInput, UnknownName, UsageError
from targets.target import load_target
from toolkit.config import PROJECT_FILE, load_config
from toolkit.yaml_file import write_yaml

__all__ = ["write_project"]

_TEXT = """\
# What `toolkit compile`, `check` and `estimate` read in this folder. A flag beats the file; every field may go.

# A factory that returns (nn.Module, example_inputs), a .pt2, TorchScript or .onnx file, or `digits`, the example.
model: {model}

# {title}. `toolkit targets` lists the others.
target: {target}

# How the target runs it: {stacks}.
{stack}

# Calibration samples for int8: .npz, .npy, a folder of .npy or of images, or module:factory. The example brings some.
# data: calibration.npz

# How images become inputs: imagenet, unit, signed, raw, or settings such as resize=256,crop=center,mean=127,std=128.
# preprocess: imagenet

# Labelled samples that every pass is proved on; the forms of data, with an array `labels`.
# validation: validation.npz

# Input shapes where the model does not say them; a letter is a dimension that varies.
# input: ["1x3x224x224"]

# Inputs that always have one value, and become constants.
# fix: ["sr=16000"]

# Where the bundle goes; build/<model>-<target> if left out.
# output: build/first

# What trains, for recipes that do; the toolkit's own if left out.
# trainer: module:factory

# How far answers may move before a pass is narrowed or reverted.
budget:
  min_sqnr_db: 10.0
  max_metric_drop: 0.01

# Seed of every random choice: the same file gives the same bytes.
seed: 0
"""


def write_project(
    folder: Path, *, model: str | None = None, target: str | None = None, stack: str | None = None, force: bool = False
) -> Path:
    """Write `toolkit.yaml` into `folder`.

    Args:
        model: As `toolkit.sources.load_source` takes it; the built-in example where None.
        target: The desktop CPU where None, or the target of a stack that is written target/stack.
        stack: The target's default where None.
        force: Replace a file that is there.

    Raises:
        UnknownName: there is no such target, stack or model.
        InvalidInput: the file is there, or cannot be written.
    """
    path = folder / PROJECT_FILE
    if path.exists() and not force:
        raise InvalidInput(f"{PROJECT_FILE} exists", hint="edit it, or replace it with --force")
    named, _, bare = (stack or "").rpartition("/")
    if named and target and named != target:
        raise UsageError(f"--target {target} and --stack {stack} name different devices", hint="leave one of them out")
    device = load_target(target or named or "desktop_cpu")
    chosen = device.stack(bare or None)
    _check_model(model, folder)
    text = _TEXT.format(
        model=_scalar(model or "digits"),
        title=device.title,
        target=device.name,
        stacks=", ".join(device.stacks),
        stack=f"stack: {chosen.name}" if bare else f"# stack: {chosen.name}",
    )
    scratch = folder / f".{PROJECT_FILE}.{os.getpid()}"
    try:
        scratch.write_text(text, "utf-8")
        load_config(scratch)
        os.replace(scratch, path)
    except OSError as error:
        raise InvalidInput(
            f"cannot write {path.name}: {error.strerror}", hint="choose a folder you may write"
        ) from error
    finally:
        scratch.unlink(missing_ok=True)
    return path


def _check_model(model: str | None, folder: Path) -> None:
    """A name that nothing answers to is refused now; whether the model loads is seen when it is compiled."""
    from toolkit import models

    if model is None or models.is_name(model) or (folder / model).is_file():
        return
    module, colon, _ = model.partition(":")
    if colon and (_in_folder(folder, module) or _importable(module)):
        return
    if colon:
        raise InvalidInput(f"there is no module {module!r}", hint="name one that `python -m` finds from this folder")
    if Path(model).suffix or "/" in model:
        raise InvalidInput(f"there is no file {model}", hint="check the path")
    raise UnknownName("model", model.partition("@")[0], models.names())


def _in_folder(folder: Path, module: str) -> bool:
    place = folder.joinpath(*module.split("."))
    return place.with_suffix(".py").is_file() or place.is_dir()


def _importable(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _scalar(text: str) -> str:
    """`text` as a YAML scalar, quoted where it must be."""
    return write_yaml(text, width=10_000).removesuffix("\n").removesuffix("\n...")
