"""README tells the truth: its script runs, its commands exist, its example paths are real."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from toolkit.cli.app import app
from toolkit.cli.main import main

README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")


def block(language: str, mark: str) -> str:
    found = re.search(rf"<!-- {mark} -->\n```{language}\n(.*?)```", README, re.DOTALL)
    assert found, f"README has no {language} block after <!-- {mark} -->"
    return found.group(1)


@pytest.mark.slow
def test_the_script_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(block("python", "test: script"), "README.md", "exec"), {})  # noqa: S102
    assert (tmp_path / "build").is_dir()


def test_the_transcript_is_what_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = block("text", "test: transcript").splitlines()
    commands = [line.removeprefix("$ toolkit ") for line in lines if line.startswith("$ toolkit ")]
    assert commands
    printed = ""
    for command in commands:
        assert main(command.split()) == 0
        printed += f"$ toolkit {command}\n" + capsys.readouterr().out
    # drift in decibels depends on how a processor rounds; every other word does not
    blurred = [re.sub(r"\d+\.\d dB", "x dB", text) for text in (printed.strip(), "\n".join(lines).strip())]
    assert [line.split() for line in blurred[0].splitlines()] == [line.split() for line in blurred[1].splitlines()]


def test_every_verb_is_named() -> None:
    for command in app.registered_commands:
        assert f"`toolkit {command.name}" in README or f"toolkit {command.name} " in README, command.name


def test_files_it_shows_are_there() -> None:
    for path in re.findall(r"\]\(((?!http|#)[^)]+)\)", README):
        assert (Path(__file__).parents[2] / path).exists(), path
