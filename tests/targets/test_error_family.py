"""Every failure says what happened and what to do next, and has one of the exit codes that DESIGN.md names."""

import importlib
import inspect
import pkgutil
from collections.abc import Iterator

import pytest

import passes
import targets
from targets.errors import InvalidInput, MissingDependency, ToolkitError, UnknownName, UsageError


def family() -> list[type[ToolkitError]]:
    for package in (targets, passes):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)

    def below(cls: type[ToolkitError]) -> Iterator[type[ToolkitError]]:
        yield cls
        for child in cls.__subclasses__():
            yield from below(child)

    return [c for c in dict.fromkeys(below(ToolkitError)) if c.__module__.split(".")[0] in ("targets", "passes")]


@pytest.mark.parametrize("error", family(), ids=lambda e: e.__name__)
def test_each_error_has_a_way_out_and_a_code(error: type[ToolkitError]) -> None:
    assert error.exit_code in {2, 3, 5, 70}
    assert error.__doc__
    if error is UnknownName:
        raised: ToolkitError = UnknownName("pass", "FoldBatchNrom", ["FoldBatchNorm"])
        assert raised.hint == "did you mean 'FoldBatchNorm'?"
        return
    hint = inspect.signature(error.__init__).parameters["hint"]
    assert hint.kind is inspect.Parameter.KEYWORD_ONLY
    assert hint.default is inspect.Parameter.empty
    raised = error("it broke", hint="mend it")
    assert (str(raised), raised.problem, raised.hint) == ("it broke", "it broke", "mend it")
    with pytest.raises(TypeError):
        error("it broke")  # type: ignore[call-arg]


def test_the_codes_are_those_of_the_handbook() -> None:
    codes = {ToolkitError: 70, UsageError: 2, UnknownName: 2, MissingDependency: 3, InvalidInput: 5}
    assert {error: error.exit_code for error in codes} == codes


@pytest.mark.parametrize(("known", "hint"), [([], "known: none"), (["b", "a"], "known: a, b")])
def test_an_unknown_name_without_a_neighbour_lists_what_there_is(known: list[str], hint: str) -> None:
    assert UnknownName("pass", "zzzzzz", known).hint == hint
