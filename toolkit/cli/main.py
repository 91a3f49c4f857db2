"""Entry point: run a verb, turn errors into one line, a next step and an exit code."""

from __future__ import annotations

import gc
import signal
import sys
from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import typer
from typer.main import get_command

from targets.errors import ToolkitError
from toolkit.cli.app import app
from toolkit.cli.output import show_json

# each import registers a verb, in the order of --help
# isort: off
from toolkit.cli import init as _init  # noqa: F401
from toolkit.cli import inspect as _inspect  # noqa: F401
from toolkit.cli import estimate as _estimate  # noqa: F401
from toolkit.cli import check as _check  # noqa: F401
from toolkit.cli import compile as _compile  # noqa: F401
from toolkit.cli import search as _search  # noqa: F401
from toolkit.cli import export as _export  # noqa: F401
from toolkit.cli import explain as _explain  # noqa: F401
from toolkit.cli import analyze as _analyze  # noqa: F401
from toolkit.cli import report as _report  # noqa: F401
from toolkit.cli import verify as _verify  # noqa: F401
from toolkit.cli import run as _run  # noqa: F401
from toolkit.cli import bench as _bench  # noqa: F401
from toolkit.cli import compare as _compare  # noqa: F401
from toolkit.cli import train as _train  # noqa: F401
from toolkit.cli import calibrate as _calibrate  # noqa: F401
from toolkit.cli import targets as _targets  # noqa: F401
from toolkit.cli import passes as _passes  # noqa: F401
from toolkit.cli import models as _models  # noqa: F401
from toolkit.cli import archive as _archive  # noqa: F401
from toolkit.cli import cache as _cache  # noqa: F401
from toolkit.cli import package as _package  # noqa: F401
from toolkit.cli import doctor as _doctor  # noqa: F401
# isort: on

__all__ = ["main"]

_INTERNAL, _INTERRUPTED, _MISSING = 70, 130, 3
_AGAIN = "run the same command again; what is compiled, searched or trained goes on from what was finished"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    A failure is told on stderr, and with --json as one document on stdout too.
    """
    argv = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    fail = partial(_fail, "--json" in argv)
    try:
        code = _command()(args=argv, prog_name="toolkit", standalone_mode=False)
        code = code if isinstance(code, int) else 0
        if code == _INTERRUPTED:
            return fail("interrupted", _AGAIN, code)
        return code
    except ToolkitError as error:
        _trace(argv)
        return fail(error.problem, error.hint, error.exit_code)
    except typer.TyperException as error:
        command = getattr(getattr(error, "ctx", None), "command_path", "toolkit")
        told = " ".join(error.format_message().split()).replace("Value error, ", "")  # pydantic's, by way of typer
        return fail(told, f"see `{command} --help`", error.exit_code)
    except typer.Abort:
        return fail("interrupted", _AGAIN, _INTERRUPTED)
    except ImportError as error:
        _trace(argv)
        name = error.name or str(error)
        return fail(f"a dependency is missing: {name}", "install the toolkit again, or see `toolkit doctor`", _MISSING)
    except MemoryError:
        _trace(argv)
        return fail(
            "this takes more memory than there is",
            "check the sizes in the model; --input states smaller ones",
            _MISSING,
        )
    except SystemExit as left:
        if isinstance(left.__context__, BrokenPipeError):  # the reader of our output has left: `toolkit targets | head`
            return 0
        raise
    except Exception as error:
        _trace(argv)
        text = " ".join(str(error).split())[:300]
        return fail(
            f"internal error: {type(error).__name__}: {text}",
            "this is a bug: please report it with the output of the same command and -vv",
            _INTERNAL,
        )


@cache
def _command() -> Any:
    """The verbs as one command; reading their options takes longer than many of them do."""
    return get_command(app)


def _fail(json: bool, problem: str, hint: str, code: int) -> int:
    print(f"error: {problem}\n  next: {hint}", file=sys.stderr)
    if json:
        show_json({"schema": "toolkit.error/1", "problem": problem, "hint": hint, "exit_code": code})
    return code


def _trace(argv: Sequence[str]) -> None:
    """Print the traceback where the user asked for it with -vv."""
    if "-vv" in argv or list(argv).count("-v") > 1:
        import traceback

        traceback.print_exc()


def run() -> None:
    """The console script. A polite kill is an interrupt: half-written folders are cleaned up."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    gc.set_threshold(100_000, 50, 1000)  # graphs are many objects that live to the end
    sys.exit(main())


if __name__ == "__main__":
    run()
