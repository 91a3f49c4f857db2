"""A model of any form is read and exported: nested answers, recurrences, control flow; what cannot be is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
import torch
from torch import nn

from passes.context import synthetic_data
from targets.errors import InvalidInput
from tests.toolkit.small_models import Branches
from toolkit.driver import estimate_model, export_program
from toolkit.inspection import inspect_model
from toolkit.sources import load_source

# ---- modules


class Sums(nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> dict[str, object]:
        return {"sum": a + b, "nested": (a * b, [a - b])}


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return torch.where(mask.unsqueeze(-1), self.embed(ids), 0.0)


class Totals(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None, torch.Tensor, torch.Tensor]:
        return x.sum(), None, x > 0, x


class Scaled(nn.Module):
    def forward(self, x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        return x * factor


class Joined(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.cat([x, y], 1), x.reshape(x.shape[0], -1)


class Repeats(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        start = torch.tensor(0)
        return torch._higher_order_ops.while_loop(lambda i, a: i < 3, lambda i, a: (i + 1, a.sin()), (start, x))[1]


class Resized(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.interpolate(x, scale_factor=2)


def recurrent(kind: type[nn.RNNBase], *, bidirectional: bool, batch_first: bool) -> nn.Module:
    return kind(4, 5, num_layers=2, bidirectional=bidirectional, batch_first=batch_first)


ROW, PAIR = torch.linspace(-1, 1, 4)[None], (torch.ones(1, 4), torch.full((1, 4), 2.0))
IDS, MASK = torch.arange(12).reshape(2, 6) % 10, torch.arange(12).reshape(2, 6) % 2 == 0
FORMS: dict[str, tuple[nn.Module, object, list[str], list[list[int | str]]]] = {
    "tuple": (Sums(), PAIR, [], [[1, 4]] * 3),
    "dict in another order": (Sums(), {"b": PAIR[1], "a": PAIR[0]}, [], [[1, 4]] * 3),
    "integers and booleans": (Masked(), (IDS, MASK), [], [[2, 6, 4]]),
    "batch and length vary": (
        Masked(), (IDS, MASK), ["ids=batch,max_length:int64", "mask=batch,max_length:bool"],
        [["batch", "max_length", 4]],
    ),
    "no dimensions, nothing, booleans, the input": (Totals(), (ROW,), [], [[], [1, 4], [1, 4]]),
    "an input without dimensions": (Scaled(), (ROW, torch.tensor(3.0)), [], [[1, 4]]),
    "sizes that add up": (
        Joined(), (torch.ones(2, 6, 4), torch.ones(2, 3, 4)), ["x=b,n,4", "y=b,m,4"],
        [["b", "output_0_1", 4], ["b", "output_1_1"]],
    ),
    "sizes that double": (Resized(), (torch.ones(1, 3, 8, 8),), ["1,3,height,width"], [[1, 3, "output_2", "output_3"]]),
    "a branch": (Branches(2.0), (torch.ones(3),), [], [[3]]),
    "a loop": (Repeats(), (ROW,), [], [[1, 4]]),
    "float64": (nn.Linear(4, 3).double(), (ROW.double(),), [], [[1, 3]]),
    "float16": (nn.Linear(4, 3).half(), (ROW.half(),), [], [[1, 3]]),
    **{
        f"{kind.__name__} {two=} {first=}": (
            recurrent(kind, bidirectional=two, batch_first=first), (torch.ones(3, 2, 4),), [],
            [[3, 2, 5 + 5 * two], *[[2 + 2 * two, 3 if first else 2, 5]] * (2 if kind is nn.LSTM else 1)],
        )
        for kind, two, first in ((nn.LSTM, True, True), (nn.LSTM, False, False), (nn.GRU, True, False),
                                 (nn.GRU, False, True), (nn.RNN, True, True))
    },
}  # fmt: skip

QUICK = ("dict in another order", "batch and length vary")


@pytest.mark.parametrize("form", [pytest.param(f, marks=[] if f in QUICK else pytest.mark.slow) for f in FORMS])
def test_a_module_of_any_shape_is_read_and_exported(form: str) -> None:
    module, example, inputs, outputs = FORMS[form]
    source = (module, example)
    program = load_source(source, inputs=inputs).program
    assert [list(s.shape) for s in program.signature.outputs] == outputs
    exported = export_program(source, inputs=inputs, cache=False)
    sample = next(iter(synthetic_data(program.signature, 3, example=program.example)))
    want, have = program.run(sample), exported.run(sample)
    rtol = 5e-3 if form == "float16" else 1e-5  # five roundings of half precision, a hundred of single
    for name, value in want.items():
        assert have[name].dtype == value.dtype
        np.testing.assert_allclose(have[name], value, rtol=rtol, atol=rtol)


@pytest.mark.parametrize(
    ("module", "example", "word"),
    [
        (Scaled(), (torch.zeros(1, 4, dtype=torch.complex64), torch.tensor(1.0)), "complex64"),
        (Scaled(), (ROW.bfloat16(), torch.tensor(1.0)), "BFloat16"),
        (Scaled(), ([ROW, ROW], torch.tensor(1.0)), "list of tensors"),
        (Scaled(), ({"x": ROW}, torch.tensor(1.0)), "dict"),
    ],
    ids=["complex", "bfloat16", "list", "dict"],
)
def test_what_cannot_be_deployed_is_said(module: nn.Module, example: object, word: str) -> None:
    with pytest.raises(InvalidInput, match=word):
        load_source((module, example))


class Fixed(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(2, 12)


@pytest.mark.parametrize("module", [Fixed(), nn.LSTM(4, 5, batch_first=True)], ids=["reshape", "lstm"])
@pytest.mark.slow
def test_a_size_that_the_model_fixes_is_named(module: nn.Module) -> None:
    with pytest.raises(
        InvalidInput, match=r"length = 4.*test_forms_of_models\.py:|length as dynamic.*constant"
    ) as caught:
        export_program((module, (torch.zeros(2, 3, 4),)), inputs=["2,length,4"], cache=False)
    assert "--input" in caught.value.hint


# ---- control flow in ONNX

BODY = "(float[4] s, float[4] e) => (float[4] t, float[4] o) { t = Add(s, e) o = Identity(t) }"
CONTROL = {
    "If": "g (bool c, float[4] x) => (float[4] y) { y = If(c) <then_branch = a () => (float[4] p) { p = Abs(x) }, "
    "else_branch = b () => (float[4] q) { q = Neg(x) }> }",
    "Loop": "g (float[4] x) => (float[4] y) { n = Constant<value_int=3>() t = Constant<value = bool {1}>() "
    "y = Loop(n, t, x) <body = b (int64 i, bool go, float[4] a) => (bool on, float[4] z) "
    "{ on = Identity(go) z = Tanh(a) }> }",
    "Scan": f"g (float[4] x, float[5,4] many) => (float[4] y, float[5,4] z) "
    f"{{ y, z = Scan<num_scan_inputs = 1, body = b {BODY}>(x, many) }}",
}


@pytest.mark.parametrize("operator", CONTROL)
def test_control_flow_in_onnx_is_inspected_and_estimated(operator: str, tmp_path: Path) -> None:
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]> {CONTROL[operator]}')
    onnx.save(model, tmp_path / "m.onnx")
    found = inspect_model(tmp_path / "m.onnx", cache=False)
    assert operator in [row["op_type"] for row in found["operators"]]
    estimate = estimate_model(tmp_path / "m.onnx", target="raspberry_pi_4", cache=False)
    assert operator in [row.op_type for row in estimate.operators]
    low, high = estimate.latency_interval_s
    assert 0 < low <= estimate.latency_s <= high
