"""The program that runs on the emulated board: it loads a network, answers samples, and says when it may be looked at.

It is started with one argument, a JSON file of `runtime`, `model`, `given`, `answers` and `samples`. `given` is an .npz
of `NUMBER/NAME`; so is `answers`. It writes one JSON object a line on standard output, and waits for a line after each.
The last sample is answered twice, and `os.getppid` is called before and after that second time: a counter of
instructions finds one inference between these two. It uses the standard library, numpy and the runtime alone.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Prepared = tuple[Callable[[], None], Callable[[], Mapping[str, Any]]]
"""What computes, and what gives the answers afterwards."""


def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as file:
        asked = json.load(file)
    start, version = RUNTIMES[asked["runtime"]]()
    _say({"ready": version})
    answers = {}
    with np.load(asked["given"], allow_pickle=False) as given:
        prepare = start(asked["model"])
        for number in range(asked["samples"]):
            mark = f"{number}/"
            compute, answer = prepare({key[len(mark) :]: given[key] for key in given.files if key.startswith(mark)})
            compute()
            answers.update({mark + name: np.asarray(value) for name, value in answer().items()})
    os.getppid()
    compute()
    os.getppid()
    np.savez(asked["answers"], **answers)  # type: ignore[arg-type]
    _say({"answered": asked["samples"]})


def _say(line: Mapping[str, Any]) -> None:
    print(json.dumps(line), flush=True)
    sys.stdin.readline()


def _onnxruntime() -> tuple[Callable[[str], Callable[[Mapping[str, Any]], Prepared]], str]:
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    def start(model: str) -> Callable[[Mapping[str, Any]], Prepared]:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        options.use_deterministic_compute = True
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]

        def prepare(sample: Mapping[str, Any]) -> Prepared:
            binding = session.io_binding()
            for name, array in sample.items():
                binding.bind_cpu_input(name, array)
            for name in names:
                binding.bind_output(name)
            return (
                lambda: session.run_with_iobinding(binding),
                lambda: dict(zip(names, binding.copy_outputs_to_cpu())),  # noqa: B905  # Python 3.9 has no strict
            )

        return prepare

    return start, f"onnxruntime {onnxruntime.__version__}"


def _litert() -> tuple[Callable[[str], Callable[[Mapping[str, Any]], Prepared]], str]:
    from importlib.metadata import version

    from ai_edge_litert.interpreter import Interpreter

    def start(model: str) -> Callable[[Mapping[str, Any]], Prepared]:
        interpreter = Interpreter(model_path=model, num_threads=1)
        interpreter.allocate_tensors()
        runner = interpreter.get_signature_runner()
        inputs, outputs = runner.get_input_details(), runner.get_output_details()

        def prepare(sample: Mapping[str, Any]) -> Prepared:
            for name, array in sample.items():
                interpreter.set_tensor(inputs[name]["index"], array)
            return (
                interpreter.invoke,
                lambda: {name: interpreter.get_tensor(detail["index"]) for name, detail in outputs.items()},
            )

        return prepare

    return start, f"LiteRT {version('ai-edge-litert')}"


RUNTIMES = {"onnxruntime": _onnxruntime, "litert": _litert}

if __name__ == "__main__":
    try:
        main()
    except Exception as error:
        print(json.dumps({"failed": f"{type(error).__name__}: {error}"}), flush=True)
        sys.exit(1)
