"""Convert a network with litert-torch, which lives in an interpreter of its own: a script, which imports nothing of
ours.

    python -I foreign_litert.py SETTING model.pt2 calibration.npz made.tflite

`model.pt2` is a saved torch.export program with its example inputs; `calibration.npz` holds an array for each input,
in their order, with samples along a new first axis.
"""

from __future__ import annotations

import sys
from typing import Any

SETTINGS = ("float32", "int8", "int8, channels last")
"""Int8 as its documentation quantizes after training, by PT2E with a scale per channel; as is, or images as NHWC."""


def convert(setting: str, model: Any, example: tuple[Any, ...], samples: list[tuple[Any, ...]]) -> Any:
    import litert_torch
    import torch

    if setting == "float32":
        return litert_torch.convert(model, example)
    from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config
    from litert_torch.quantize.quant_config import QuantConfig
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    if setting == "int8, channels last":
        model = litert_torch.to_channel_last_io(model, args=[0])
        example = tuple(value.movedim(1, -1) for value in example)
        samples = [tuple(value.movedim(1, -1) for value in sample) for sample in samples]
    quantizer = PT2EQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    prepared = prepare_pt2e(torch.export.export(model, example).module(), quantizer)
    for sample in samples:
        prepared(*sample)
    quantized = convert_pt2e(prepared, fold_quantize=False)
    return litert_torch.convert(quantized, example, quant_config=QuantConfig(pt2e_quantizer=quantizer))


def main(setting: str, model: str, calibration: str, made: str) -> None:
    import numpy as np
    import torch

    program = torch.export.load(model)
    arrays = [torch.from_numpy(array) for array in np.load(calibration).values()]
    samples = list(zip(*arrays))  # noqa: B905 - the interpreter may be older
    example = program.example_inputs
    assert example is not None
    with torch.no_grad():
        convert(setting, program.module(), example[0], samples).export(made)


if __name__ == "__main__":
    main(*sys.argv[1:])
