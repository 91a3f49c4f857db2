"""From a PyTorch model to a verified artefact for a board that is not on the desk.

    import toolkit

    bundle = toolkit.compile(model, target="jetson_nano", data=samples)
    estimate = toolkit.estimate(model, target="raspberry_pi_4")
    answer = toolkit.check(model, target="coral_tpu", limits={"latency_s": 0.02})
    answers = toolkit.load("build/digits-jetson_nano")(image)
    folder = toolkit.train("separable_vision", epochs=10).folder

Importing this module loads neither torch nor onnx.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from toolkit.version import __version__

if TYPE_CHECKING:
    from targets.estimate import Estimate
    from toolkit.bundle.bundle import Bundle
    from toolkit.checking import Answer
    from toolkit.training.session import Outcome

__all__ = ["__version__", "check", "compile", "estimate", "load", "train"]


def compile(model: Any = None, target: str = "desktop_cpu", **options: Any) -> Bundle:
    """Make a bundle. See `toolkit.driver.compile_model` for `options`."""
    from toolkit.driver import compile_model

    return compile_model(model, target=target, **options)


def estimate(model: Any = None, target: str = "desktop_cpu", **options: Any) -> Estimate:
    """Seconds, bytes and joules of one inference. See `toolkit.driver.estimate_model` for `options`."""
    from toolkit.driver import estimate_model

    return estimate_model(model, target=target, **options)


def check(model: Any = None, target: str = "desktop_cpu", **options: Any) -> Answer:
    """Whether `model` fits, and what would make it fit. See `toolkit.checking.check_model` for `options`."""
    from toolkit.checking import check_model

    return check_model(model, target=target, **options)


def load(path: str) -> Bundle:
    """Open a bundle, its hashes checked; call it like a function."""
    from toolkit.bundle.bundle import open_bundle

    return open_bundle(path)


def train(recipe: str, *, force: bool = False, **fields: Any) -> Outcome:
    """Train a recipe's file, or a network of the zoo by its name. See `toolkit.training.recipe` for `fields`."""
    from toolkit.training.recipe import load_recipe, parse_recipe
    from toolkit.training.session import train as run

    loaded = load_recipe(recipe)
    return run(parse_recipe({**loaded.model_dump(), **fields}, "the call") if fields else loaded, force=force)
