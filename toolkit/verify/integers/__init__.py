"""What a device's integer kernels compute, bit for bit, without the device.

    from pathlib import Path
    from toolkit.verify.integers import NUMERICS, interpreter

    device = interpreter(Path("build/bundle/model.onnx").read_bytes(), NUMERICS["avx2"])
    run = device({"image": image})      # run.outputs, run.integers by tensor, run.elsewhere

The arithmetic of each kind of device is a `Numerics` value; the network is the one that its runtime makes of the graph.
"""

from toolkit.verify.integers.calls import Run
from toolkit.verify.integers.comparison import Comparison, compare_numerics
from toolkit.verify.integers.interpreting import interpreter
from toolkit.verify.integers.numerics import NUMERICS, Numerics

__all__ = ["NUMERICS", "Comparison", "Numerics", "Run", "compare_numerics", "interpreter"]
