"""What goes wrong with organisms, beside what goes wrong with archives."""

from __future__ import annotations

from toolkit.errors import SlimeError

__all__ = ["ExportError", "LifecycleError", "ShapeError", "first_line"]


class ShapeError(SlimeError, ValueError):
    """Tensors of shapes that do not go together."""


class LifecycleError(SlimeError):
    """A birth, a death or a change that is not possible where the component or the organism stands."""


class ExportError(SlimeError):
    """An organism that is still alive, or that cannot be written down for another runtime."""


def first_line(error: BaseException) -> str:
    """What an error of another library says, as far as it fits into ours; its class where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
