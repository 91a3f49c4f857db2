"""The user's own code: found like `python -m` finds modules, called, and its errors told as the user's."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from targets.errors import InvalidInput, ToolkitError

__all__ = ["call", "find_factory", "load_factory", "user_code"]


def load_factory(spec: str) -> Any:
    """Call `module:factory`, found from the current folder; what is not callable is given as it is.

    Raises:
        InvalidInput: there is no such module or function, or it raised.
    """
    target = find_factory(spec)
    return call(spec, target) if inspect.isroutine(target) or inspect.isclass(target) else target


def call(name: str, factory: Any) -> Any:
    """What `factory` returns; itself where it cannot be called.

    Raises:
        InvalidInput: it raised.
    """
    if not callable(factory):
        return factory
    with user_code(f"calling {name}"):
        return factory()


def find_factory(spec: str) -> Any:
    """What `module:attribute` names, not called.

    Raises:
        InvalidInput: there is no such module or attribute.
    """
    import importlib
    import sys

    module_name, _, attribute = spec.partition(":")
    if module_name.endswith(".py"):
        meant = module_name.removesuffix(".py").replace("/", ".")
        raise InvalidInput(f"{spec!r} names a file where a module belongs", hint=f"write {meant}:{attribute}")
    if not all(part.isidentifier() for part in (*module_name.split("."), *attribute.split("."))):
        raise InvalidInput(f"{spec!r} does not name a file, and is no module:function", hint="check how it is spelled")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    with user_code(f"importing {module_name}"):
        try:
            target: Any = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            own = error.name is not None and module_name.startswith(error.name)
            hint = f"run from the folder that holds {module_name}.py, or install it" if own else f"install {error.name}"
            raise InvalidInput(f"no module {error.name!r}", hint=hint) from error
    for part in attribute.split("."):
        if not hasattr(target, part):
            near = get_close_matches(part, [name for name in dir(target) if not name.startswith("_")], n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"see what {module_name} defines"
            raise InvalidInput(f"{module_name} has no {attribute!r}", hint=hint)
        target = getattr(target, part)
    return target


@contextmanager
def user_code(doing: str) -> Iterator[None]:
    """Whatever the user's own code raises is the user's to see, with the line it came from."""
    try:
        yield
    except (ToolkitError, KeyboardInterrupt, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
        text = " ".join(str(error).split())[:200]
        raise InvalidInput(
            f"{doing} raised {type(error).__name__}: {text}{where}", hint="correct your code; -vv shows the whole trace"
        ) from error
