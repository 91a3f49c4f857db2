"""`toolkit train` on an organism's recipe: the folder, what is refused, and that nothing is done twice."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from toolkit.cli.main import main
from toolkit.errors import InvalidInput
from toolkit.organism.native import SlimeModel
from toolkit.search.component_archive import component_archive
from toolkit.sources import load_source
from toolkit.training.organism import session
from toolkit.training.organism.recipe import OrganismRecipe, load_organism_recipe

Capture = pytest.CaptureFixture[str]

SMALL: dict[str, Any] = {
    "organism": "xor", "epochs": 2, "batch": 64,
    "sizes": {"d_model": 8, "head_dim": 4, "founders": 2, "hidden": 8, "layers": 1},
    "lifecycle": {"medium_steps": 8, "births": "archive", "warm_up": 0.0},
}  # fmt: skip


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def recipe(**fields: Any) -> str:
    Path("r.yaml").write_text(yaml.safe_dump({**SMALL, **fields}))
    return "r.yaml"


def content(folder: str) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


def refused(capsys: Capture, *arguments: str, code: int = 5) -> str:
    capsys.readouterr()
    assert main(["train", *arguments]) == code
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert "next: " in said
    return said


def test_a_recipe_becomes_a_folder_that_is_a_model(capsys: Capture) -> None:
    assert main(["train", recipe(), "-o", "o", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["schema"] == "toolkit.train.organism/1"
    assert not told["was_finished"]
    report = json.loads(Path("o/report.json").read_text())
    assert report == told["report"]
    born = [e for log in report["events"].values() for e in log if e[0] == "birth" and e[2] > 0]
    assert born, "a small training has births too"
    assert report["components"]["encoder.layers.0.organism"] == sorted(
        report["components"]["encoder.layers.0.organism"]
    )
    assert [row["step"] for row in report["lifecycle"]] == [8, 16, 24, 32]
    assert not Path("o.checkpoint.pt").exists()
    assert Path("o/archive/encoder-layers-0-organism/manifest.json").is_file()
    model = SlimeModel.load("o")
    x = np.array([[[-1.0], [1.0]], [[1.0], [1.0]]], np.float32)
    source = load_source("o")
    frozen = source.program.model
    assert isinstance(frozen, torch.nn.Module)
    with torch.no_grad():
        again = frozen(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(again, model.predict(x), atol=1e-5)
    assert source.data is not None, "samples to calibrate with travel along"


@pytest.mark.slow
def test_what_is_finished_is_not_done_again_and_another_recipe_is_refused(capsys: Capture) -> None:
    assert main(["train", recipe(), "-o", "o", "-q"]) == 0
    before = content("o")
    assert main(["train", recipe(), "-o", "o"]) == 0
    assert "finished before" in capsys.readouterr().out
    assert content("o") == before
    assert "rate is 0.01, was 0.003" in refused(capsys, recipe(rate=0.01), "-o", "o")
    assert content("o") == before
    assert main(["train", recipe(rate=0.01), "-o", "o", "-q", "--force"]) == 0
    assert json.loads(Path("o/report.json").read_text())["recipe"]["rate"] == 0.01


@pytest.mark.slow
def test_equal_recipes_give_equal_bytes_and_a_cut_one_goes_on_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["train", recipe(), "-o", "a", "-q"]) == 0
    written = session._write

    def killed(*_given: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(session, "_write", killed)
    with pytest.raises(KeyboardInterrupt):
        session.train_organism(OrganismRecipe.model_validate(SMALL), folder=Path("b"), elites=component_archive)
    assert Path("b.checkpoint.pt").is_file()
    monkeypatch.setattr(session, "_write", written)
    assert main(["train", recipe(), "-o", "b", "-q"]) == 0
    same = ("weights.safetensors", "recipe.yaml", "examples.safetensors", "organism.json")
    assert all(Path("a", name).read_bytes() == Path("b", name).read_bytes() for name in same)


@pytest.mark.slow
def test_a_finished_training_is_looked_at_where_it_lies(capsys: Capture) -> None:
    assert main(["train", recipe(), "-o", "o", "-q"]) == 0
    Path("r.yaml").unlink()
    capsys.readouterr()
    assert main(["train", "o", "-q"]) == 0, "a folder goes on in itself"
    assert "finished before" in capsys.readouterr().out
    assert not Path("trained").exists()
    damages: dict[str, Callable[[bytes], bytes]] = {
        "weights.safetensors": lambda had: had[:-100] + bytes([had[-100] ^ 4]) + had[-99:],
        "organism.json": lambda had: had[:400],
        "report.json": lambda had: b"[]",
        "recipe.yaml": lambda had: b"organism",
    }
    for name, damage in damages.items():
        shutil.copytree("o", name[:3])
        there = Path(name[:3], name)
        there.write_bytes(damage(there.read_bytes()))
        given = recipe() if name == "recipe.yaml" else name[:3]
        assert name in refused(capsys, given, "-o", name[:3])
        assert main(["train", recipe(), "-o", name[:3], "--force", "-q"]) == 0
        assert Path(name[:3], "weights.safetensors").read_bytes() == Path("o", "weights.safetensors").read_bytes()


def test_mistakes_are_told_with_their_lines(capsys: Capture) -> None:
    Path("r.yaml").write_text("organism: xor\nepochs: 0\nsizes:\n  d_model: wide\nlifecycle:\n  brths: fresh\n")
    said = refused(capsys, "r.yaml")
    for part in ("r.yaml:2: epochs = 0", "r.yaml:4: sizes.d_model = 'wide'", "r.yaml:6: there is no field", "'births'"):
        assert part in said
    assert "organism" in refused(capsys, recipe(organism="weather"))
    assert "brings its data" in refused(capsys, recipe(), "--data", "x.npz", code=2)
    assert "without a stack" in refused(capsys, recipe(lifecycle={"price_nats_per_s": 1.0}), "-o", "p")
    nowhere = recipe(lifecycle={"stack": "nowhere/fast", "wanted_latency_s": 1.0})
    assert "nowhere" in refused(capsys, nowhere, "-o", "p", code=2)
    assert not Path("p.checkpoint.pt").exists(), "before anything is trained"
    Path("notes").mkdir()
    Path("notes/mine.txt").write_text("kept")
    assert "no organism's" in refused(capsys, recipe(), "-o", "notes")
    assert not Path("notes.checkpoint.pt").exists()
    assert Path("notes/mine.txt").read_text() == "kept"


def outside(schema: dict[str, Any], parts: dict[str, Any], *path: str) -> Iterator[tuple[str, Any]]:
    """Of each field with a limit, values beyond it."""
    for name, said in schema["properties"].items():
        for one in said.get("anyOf", [said]):
            if "$ref" in one:
                yield from outside(parts[one["$ref"].split("/")[-1]], parts, *path, name)
            whole, where = one.get("type") == "integer", ".".join((*path, name))
            for limit, beyond in (("minimum", -1), ("exclusiveMinimum", 0), ("maximum", 1), ("exclusiveMaximum", 0)):
                if limit in one:
                    yield where, one[limit] + beyond * (1 if whole else 0.5)
            if "enum" in one:
                yield where, "nothing of the kind"


SCHEMA = OrganismRecipe.model_json_schema()
BEYOND = list(outside(SCHEMA, SCHEMA["$defs"]))


@pytest.mark.parametrize(("field", "value"), BEYOND, ids=[f"{field}={value}" for field, value in BEYOND])
def test_each_field_refuses_what_is_out_of_range(field: str, value: Any) -> None:
    first, _, second = field.partition(".")
    given = {first: {**SMALL[first], second: value}} if second else {first: value}
    with pytest.raises(InvalidInput, match=f"r.yaml:[0-9]+: {field}"):
        load_organism_recipe(recipe(**given))


def test_settings_and_flags_beat_the_file_and_a_dry_run_trains_nothing(capsys: Capture) -> None:
    given = ["train", recipe(), "--dry-run", "--json", "--epochs", "3", "--set", "lifecycle.deaths=false"]
    assert main(given) == 0
    told = json.loads(capsys.readouterr().out)["recipe"]
    assert (told["epochs"], told["lifecycle"]["deaths"], told["seed"]) == (3, False, 0)
    assert sorted(p.name for p in Path.cwd().iterdir()) == ["r.yaml"]


def test_other_recipes_are_left_to_the_other_reader() -> None:
    Path("zoo.yaml").write_text("model: digits\n")
    assert load_organism_recipe("zoo.yaml") is None
    assert load_organism_recipe("digits") is None
    with pytest.raises(InvalidInput):
        load_organism_recipe(recipe(rate=-1.0))
