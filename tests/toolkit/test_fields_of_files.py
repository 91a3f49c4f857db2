"""Files of settings: where a mistake stands, what beats what, and what is never read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from targets.errors import InvalidInput, UsageError
from toolkit.config import Config, load_config
from toolkit.fields import checked
from toolkit.overrides import layered
from toolkit.training.recipe import load_recipe
from toolkit.yaml_file import parse_yaml, read_yaml, write_yaml

texts = st.text(st.characters(exclude_characters="\x85\u2028\u2029", exclude_categories=["Cs"]), max_size=6)
"""PyYAML takes the characters left out for ends of lines."""

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(texts, plain, max_size=4))
def test_what_yaml_writes_is_read_back(data: dict[str, Any]) -> None:
    assert parse_yaml(write_yaml(data), "t").data == data


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "+1e-3", "1.e-3", "0.001", ".001", "001e-3"])
def test_numbers_as_people_write_them(text: str) -> None:
    found = parse_yaml(f"rate: {text}", "t").data["rate"]
    assert isinstance(found, float)
    assert found == 0.001


@pytest.mark.parametrize(
    ("text", "value"), [("1", 1), ("-7", -7), ("1-2", "1-2"), ("e3", "e3"), (".", "."), ("-", None)]
)
def test_what_is_no_float_stays_what_it_is(text: str, value: Any) -> None:
    found = parse_yaml(f"x: {text}" if value is not None else "x:", "t").data["x"]
    assert found == value
    assert type(found) is type(value)


def test_a_field_given_twice_is_refused_with_both_lines() -> None:
    with pytest.raises(InvalidInput, match=r"t:3: rate was given before, in line 1") as caught:
        parse_yaml("rate: 1\nother: 2\nrate: 3\n", "t")
    assert caught.value.hint == "leave one of the two"
    with pytest.raises(InvalidInput, match="t:2: b was given before"):
        parse_yaml("a: {b: 1,\n b: 2}", "t")


@pytest.mark.parametrize("text", [
    "x: !!python/object/apply:os.getcwd []", "x: !!python/name:os.system", "x: !made {a: 1}", "a: [", "\t- a",
    "a: 1\n---\nb: 2", "[" * 1000, "a: \x08",
])  # fmt: skip
def test_only_plain_data_is_read(text: str) -> None:
    with pytest.raises(InvalidInput, match="t is not YAML"):
        parse_yaml(text, "t")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot read"):
        read_yaml(tmp_path / "none.yaml")
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidInput, match="no text in UTF-8"):
        read_yaml(tmp_path / "a.yaml")
    (tmp_path / "a.yaml").write_bytes(b"# nothing\n")
    assert read_yaml(tmp_path / "a.yaml").data == {}


class _Inner(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    size: Annotated[int, Field(ge=1)] = 1


class _Outer(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    name: str
    inner: _Inner | None = None
    many: list[_Inner] = Field(default_factory=list)


def test_every_mistake_is_named_with_its_line() -> None:
    text = "nam: x\ninner:\n  size: 0\nmany:\n  - size: 2\n  - size: 3\n    sise: 3\n"
    with pytest.raises(InvalidInput) as caught:
        checked(_Outer, parse_yaml(text, "f.yaml"))
    assert str(caught.value).splitlines() == [
        "f.yaml has 4 mistakes:",
        "  f.yaml: name is missing (fields: name, inner, many)",
        "  f.yaml:3: inner.size = 0 is not allowed: input should be greater than or equal to 1 "
        "(give a value of that type and range)",
        "  f.yaml:7: there is no field many.1.sise (did you mean 'size'?)",
        "  f.yaml:1: there is no field nam (did you mean 'name'?)",
    ]


def test_what_is_missing_inside_is_named_where_its_mapping_stands() -> None:
    class Holder(BaseModel):
        inner: _Outer

    with pytest.raises(InvalidInput, match=r"f:2: inner\.name is missing") as caught:
        checked(Holder, parse_yaml("\ninner: {}", "f"))
    assert caught.value.hint == "fields: name, inner, many"


def test_settings_beat_variables_and_these_the_file() -> None:
    document = parse_yaml("model: digits\nepochs: 1\nrate: 0.1\nmethods: {recompute: true}", "r")
    made = layered(
        document, {"TOOLKIT__EPOCHS": "2", "TOOLKIT__RATE": "0.2", "TOOLKIT_CACHE": "x"},
        ["rate=3e-1", "methods.curriculum.epochs=4"],
    )  # fmt: skip
    assert made.data == {
        "model": "digits", "epochs": 2, "rate": 0.3, "methods": {"recompute": True, "curriculum": {"epochs": 4}},
    }  # fmt: skip
    assert [made.origin([name]) for name in ("model", "epochs", "rate")] == ["r:1", "TOOLKIT__EPOCHS", "--set rate"]
    assert document.data["rate"] == 0.1
    assert layered(document, {"PATH": "/"}) is document


@pytest.mark.parametrize("text", ["rate", "=3", "a..b=1", "rate=[", "rate=!!python/name:os.system"])
def test_settings_that_set_nothing(text: str) -> None:
    with pytest.raises(UsageError, match="--set"):
        layered(parse_yaml("rate: 1", "r"), {}, [text])


def test_a_setting_changes_its_field_alone() -> None:
    document = parse_yaml("a: &x {b: 1}\nc: *x\nd: 4", "r")
    assert layered(document, {}, ["a.b=2", "d=null"]).data == {"a": {"b": 2}, "c": {"b": 1}, "d": None}
    assert document.data == {"a": {"b": 1}, "c": {"b": 1}, "d": 4}


def test_a_setting_into_a_number() -> None:
    with pytest.raises(InvalidInput, match=r"--set rate.x: rate is 1, which has no fields"):
        layered(parse_yaml("rate: 1", "r"), {}, ["rate.x=2"])


def test_a_recipe_of_training_takes_them(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("model: digits\nepochs: 3\n")
    made = load_recipe(str(file), {"TOOLKIT__METHODS__RECOMPUTE": "true"}, ["rate=1e-2"])
    assert (made.epochs, made.rate, made.methods.recompute) == (3, 0.01, True)
    with pytest.raises(InvalidInput, match="TOOLKIT__EPOCHS: epochs = 'many' is not allowed"):
        load_recipe(str(file), {"TOOLKIT__EPOCHS": "many"})
    assert load_recipe("digits", {}, ["epochs=1"]).epochs == 1


def test_a_project_file_names_its_lines(tmp_path: Path) -> None:
    file = tmp_path / "toolkit.yaml"
    file.write_text("target: jetson_nano\n\ntarjet: x\nseed: many\n")
    with pytest.raises(InvalidInput, match=r"toolkit.yaml has 2 mistakes:\n  .*:4: seed = 'many'.*\n  .*:3: .*tarjet"):
        load_config(file)
    file.write_text("")
    assert load_config(file) == Config()
