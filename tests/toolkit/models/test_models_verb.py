"""`toolkit models`: the list, one network in full, and names that nothing answers to."""

from __future__ import annotations

import json

import pytest

from toolkit.cli.main import main
from toolkit.models import entries, entry
from toolkit.models.blueprints.sliding_conv import Config
from toolkit.sources import load_source


def test_the_list_names_every_network_and_what_it_is_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    printed = capsys.readouterr().out
    assert all(f"  {e.name} " in printed and e.use_case in printed for e in entries())
    families = [line.split()[0] for line in printed.splitlines()[1:] if line][: len(entries())]
    assert families == sorted(families, key=["example", "blueprint", "language"].index)


def test_the_list_as_a_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "toolkit.models/1"
    assert {m["name"]: m["family"] for m in document["models"]} == {e.name: e.family for e in entries()}


@pytest.mark.slow
def test_one_network_is_shown_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "sliding_conv", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["inputs"] == [{"name": "signal", "dtype": "float32", "shape": [1, 256, 1]}]
    assert document["parameters"] == sum(p.numel() for p in entry("sliding_conv").build().parameters())
    assert document["macs"] > 100_000
    fields = {field["name"]: field for field in document["config"]}
    assert fields["stride"]["allowed"] == "integer, from 1 to 16"
    assert fields["kernels"]["default"] == [3, 5, 9]
    assert any(paragraph.startswith("Sources: Bai") for paragraph in document["description"])
    assert main(["models", "digits"]) == 0
    printed = capsys.readouterr().out
    assert "digits (example, trained)" in printed
    assert "input  image: float32[1, 1, 8, 8]" in printed


def test_a_name_that_is_not_there_is_told_what_was_meant(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "keyword_spoting"]) == 2
    told = capsys.readouterr().err
    assert "unknown model 'keyword_spoting'" in told
    assert "did you mean 'keyword_spotting'?" in told


# ---- other settings


def test_a_name_with_settings_is_built_with_them() -> None:
    source = load_source("sliding_conv@width=8,kernels=[3,5],dilations=[1,2],length=64")
    assert source.program.name == "sliding_conv"
    assert source.program.model.config == Config(width=8, kernels=(3, 5), dilations=(1, 2), length=64)
    assert source.program.example["signal"].shape == (1, 64, 1)
    assert source.data is not None
    assert next(iter(source.data))["signal"].shape == (1, 64, 1)
    assert source.spec.endswith("length=64")  # a recipe replays it


@pytest.mark.parametrize(
    ("spec", "code", "words", "hint"),
    [
        ("sliding_conv@widht=8", 5, "sliding_conv has no field 'widht'", "did you mean 'width'?"),
        ("sliding_conv@width=8ms", 5, "width = '8ms' is not allowed", "width is integer, from 1 to 512"),
        ("sliding_conv@width", 2, "", "NAME@width=16"),
        ("sliding_conv@", 2, "'' are no fields", "NAME@width=16"),
        ("sliding_conv@width=[", 2, "are no fields", "NAME@width=16"),
        ("digits@width=8", 2, "digits comes in one size", "leave the config out"),
        ("sliding_cnv@width=8", 2, "unknown model 'sliding_cnv'", "did you mean 'sliding_conv'?"),
    ],
)
def test_settings_that_mean_nothing_are_refused(
    spec: str, code: int, words: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (["models", spec], ["inspect", spec, "-q"]):
        assert main(command) == code
        told = capsys.readouterr().err
        assert words in told
        assert hint in told
