"""Quantize a graph with a library that lives in an interpreter of its own: a script, which imports nothing of ours.

    python -I foreign.py LIBRARY SETTING model.onnx calibration.npz quantized.onnx

`calibration.npz` holds an array for each input of the graph, in their order, with samples along a new first axis.
"""

from __future__ import annotations

import os
import sys
from typing import Any

SETTINGS = {
    "nncf": ("default", "mixed", "accurate bias", "transformer"),
    "aimet_onnx": ("default", "equalised", "adaround"),
}
"""Of each library, as it comes first."""


def quantize_nncf(model: Any, samples: list[dict[str, Any]], setting: str) -> Any:
    os.environ["NNCF_CI"] = "1"  # sends no usage reports
    import nncf

    mixed = {"preset": nncf.QuantizationPreset.MIXED}
    settings: dict[str, dict[str, Any]] = {
        "default": {},
        "mixed": mixed,
        "accurate bias": {**mixed, "fast_bias_correction": False},
        "transformer": {"model_type": nncf.ModelType.TRANSFORMER},
    }
    return nncf.quantize(
        model,
        nncf.Dataset(samples),
        target_device=nncf.TargetDevice.CPU,
        subset_size=len(samples),
        **settings[setting],
    )


def quantize_aimet_onnx(model: Any, samples: list[dict[str, Any]], setting: str) -> Any:
    import aimet_onnx
    from aimet_onnx.batch_norm_fold import fold_all_batch_norms_to_weight
    from aimet_onnx.quantsim import QuantizationSimModel

    fold_all_batch_norms_to_weight(model)
    if setting == "equalised":
        from aimet_onnx.cross_layer_equalization import equalize_model

        equalize_model(model)
    simulated = QuantizationSimModel(
        model, param_type="int8", activation_type="int8", providers=["CPUExecutionProvider"]
    )
    if setting == "adaround":
        aimet_onnx.apply_adaround(simulated, samples, 1000)
    simulated.compute_encodings(samples)
    return simulated.to_onnx_qdq(export_int32_bias=True, prequantize_constants=True)


LIBRARIES = {"nncf": quantize_nncf, "aimet_onnx": quantize_aimet_onnx}


def main(library: str, setting: str, model: str, calibration: str, quantized: str) -> None:
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import numpy as np
    import onnx

    graph = onnx.load(model)
    arrays = list(np.load(calibration).values())
    names = [value.name for value in graph.graph.input]
    samples = [dict(zip(names, values)) for values in zip(*arrays)]  # noqa: B905 - the interpreter may be older
    onnx.save(LIBRARIES[library](graph, samples, setting), quantized)


if __name__ == "__main__":
    main(*sys.argv[1:])
