"""The application that every verb registers with."""

from __future__ import annotations

import typer

from toolkit.version import __version__

__all__ = ["app"]

app = typer.Typer(
    name="toolkit",
    help="From a PyTorch model to a verified artefact for a board that is not on the desk.",
    epilog="Exit codes: 0 ok, 1 negative verdict, 2 usage, 3 missing dependency or device, 5 invalid input, "
    "70 internal error, 130 interrupted.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"toolkit {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    pass
