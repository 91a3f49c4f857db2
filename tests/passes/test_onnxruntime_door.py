"""Nothing of onnxruntime's leaves the adapter: no exception, no telemetry."""

import inspect
import os
import subprocess
import sys

import numpy as np
import onnx
import onnx.parser
import pytest

from passes import webgpu
from passes.onnxruntime import PROVIDERS, Session, import_onnxruntime, mapped_errors
from targets.errors import InvalidInput, MissingDependency, ToolkitError


def exceptions() -> list[type[Exception]]:
    import_onnxruntime()
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return [c for _, c in inspect.getmembers(state, inspect.isclass) if issubclass(c, Exception)]


@pytest.mark.parametrize("error", exceptions(), ids=lambda e: e.__name__)
def test_every_exception_of_the_library_is_one_of_ours(error: type[Exception]) -> None:
    with pytest.raises((InvalidInput, MissingDependency)) as raised, mapped_errors("doing this"):
        raise error("the library's words")
    assert "doing this" in raised.value.problem
    assert "the library's words" in raised.value.problem
    assert raised.value.hint
    assert isinstance(raised.value.__cause__, error)


def test_the_library_has_exceptions_to_walk() -> None:
    assert len(exceptions()) >= 8


@pytest.mark.parametrize("error", [ZeroDivisionError("mine"), InvalidInput("ours", hint="do")])
def test_other_exceptions_pass_through(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, mapped_errors("x"):
        raise error
    assert raised.value is error


def test_telemetry_is_off_before_the_library_is_imported() -> None:
    code = (
        "import os, sys\n"
        "from passes.onnxruntime import import_onnxruntime\n"
        "assert 'onnxruntime' not in sys.modules\n"
        "class Watch:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'onnxruntime':\n"
        "            assert os.environ.get('ORT_DISABLE_TELEMETRY') == '1'\n"
        "            print('watched')\n"
        "sys.meta_path.insert(0, Watch())\n"
        "import_onnxruntime()\n"
    )
    clean = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"} | {"PYTHONPATH": os.getcwd()}
    done = subprocess.run([sys.executable, "-c", code], env=clean, capture_output=True, text=True, check=True)
    assert "watched" in done.stdout


def test_the_variable_is_set_here_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    import_onnxruntime()
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"


def model(body: str, domains: str = "") -> bytes:
    text = f'<ir_version: 8, opset_import: ["" : 18{domains}]> g (float[1,2] x) => (float[1,2] y) {{ {body} }}'
    return onnx.parser.parse_model(text).SerializeToString()


def test_a_session_answers_by_name() -> None:
    for optimize in (True, False):
        session = Session(model("y = Neg(x)"), optimize=optimize)
        answer = session({"x": np.array([[1, 2]], np.float32)})
        assert session.output_names == ["y"]
        assert answer["y"].tolist() == [[-1, -2]]


@pytest.mark.parametrize(
    "content", [b"", b"not a model", model("y = Neg(nothing)"), model("y = acme.Swirl(x)", ', "acme" : 1')]
)
def test_a_model_that_cannot_be_loaded_is_a_failure_of_ours(content: bytes) -> None:
    with pytest.raises(ToolkitError) as raised:
        Session(content)
    assert raised.value.hint


@pytest.mark.parametrize(
    "inputs",
    [
        {"x": np.ones((1, 3), np.float32)},
        {"x": np.ones((1, 2), np.float64)},
        {"x": np.ones(2, np.float32)},
        {"z": np.ones((1, 2), np.float32)},
        {},
    ],
    ids=["shape", "dtype", "rank", "name", "none"],
)
def test_inputs_that_the_model_cannot_take_are_a_failure_of_ours(inputs: dict[str, np.ndarray]) -> None:
    with pytest.raises(InvalidInput) as raised:
        Session(model("y = Neg(x)"))(inputs)
    assert raised.value.hint


_DOUBLED = '<ir_version: 8, opset_import: ["": 17]> g (float[2] x) => (float[2] y) { y = Add(x, x) }'


def test_a_graph_runs_on_the_provider_that_is_named() -> None:
    session = Session(onnx.parser.parse_model(_DOUBLED).SerializeToString(), provider="cpu")
    assert session({"x": np.float32([1, 2])})["y"].tolist() == [2, 4]


@pytest.mark.parametrize("provider", sorted(set(PROVIDERS) - {"cpu"}))
def test_a_provider_that_is_not_here_says_what_to_install(provider: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if there were none: a GPU's build has some, and what a test registers stays."""
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_webgpu", None)
    monkeypatch.setattr(webgpu, "_registered", lambda ort: [])
    monkeypatch.setattr(import_onnxruntime(), "get_available_providers", lambda: [PROVIDERS["cpu"][0]])
    _, distribution = PROVIDERS[provider]
    with pytest.raises(MissingDependency, match=f"runs graphs on cpu.*, not on {provider}") as raised:
        Session(onnx.parser.parse_model(_DOUBLED).SerializeToString(), provider=provider)
    assert distribution in raised.value.hint


def test_a_provider_without_a_device_does_not_fall_back(monkeypatch: pytest.MonkeyPatch) -> None:
    library = import_onnxruntime()

    def refused(*given: object, **options: object) -> None:
        assert options["enable_fallback"] == 0
        raise RuntimeError("No supported adapters")

    monkeypatch.setattr(library, "get_available_providers", lambda: [theirs for theirs, _ in PROVIDERS.values()])
    monkeypatch.setattr(library, "InferenceSession", refused)
    with pytest.raises(MissingDependency, match="webgpu cannot run this here: No supported adapters") as raised:
        Session(b"", provider="webgpu")
    assert "driver" in raised.value.hint
