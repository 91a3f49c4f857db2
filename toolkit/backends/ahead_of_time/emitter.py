"""The C around the kernels: a header, one function that calls them in order, the constants, a command line, a Makefile.

No allocation, no dependency but memcpy and what kernels take of libm. Our part is C99 without a warning.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from importlib.resources import files

import numpy as np

from targets.errors import InvalidInput
from toolkit.backends.ahead_of_time.plan import Plan, scratch_name
from toolkit.backends.ahead_of_time.trace import Kernel, Tensor, Trace

__all__ = ["has_integers", "kernel_source", "makefile", "our_sources", "sources"]

_COMMAND = "main.c"
_ALWAYS = ("model.c", "support.c")

_INTEGERS = (
    "integers_dense.c", "integers_depthwise.c", "integers_edges.c", "integers_elementwise.c", "integers_pooling.c",
)  # fmt: skip
"""The kernels of integers, in a network that has any."""

_CALLS = "integers.c"
"""Written for each network: the same kernels, each with what is known about one call."""

_TYPES = {
    "bool": "bool", "float32": "float", "float64": "double",
    "int8": "int8_t", "int16": "int16_t", "int32": "int32_t", "int64": "int64_t",
    "uint8": "uint8_t", "uint16": "uint16_t", "uint32": "uint32_t", "uint64": "uint64_t",
}  # fmt: skip


def sources(plan: Plan, name: str) -> dict[str, bytes]:
    """Every file but the kernels, by its name. `name` is what comments call the network."""
    copied = (*_FIXED, *((*_INTEGERS, "integers.h", "vectors.h") if has_integers(plan.trace) else ()))
    fixed = {file: (files(__package__) / "c" / file).read_bytes() for file in copied}
    written = {"model.h": _header(plan.trace, name), "model.c": _model(plan)}
    if has_integers(plan.trace):
        written[_CALLS] = _calls(plan.trace)
    return fixed | {file: text.encode() for file, text in written.items()} | {"weights.bin": plan.weights}


_FIXED = (_COMMAND, "support.c", "support.h", "weights.S")


def has_integers(trace: Trace) -> bool:
    """Whether some kernels are ours."""
    return any(kernel.source for kernel in trace.kernels.values())


def our_sources(trace: Trace, *, command: bool = True) -> tuple[str, ...]:
    """The C files that are not TVM's; without the one that makes a command of the network unless `command`."""
    return (*((_COMMAND,) if command else ()), *_ALWAYS, *((*_INTEGERS, _CALLS) if has_integers(trace) else ()))


def _calls(trace: Trace) -> str:
    written = [kernel.source for kernel in _ours(trace)]
    return "\n".join(['#include "integers.h"\n#include "support.h"\n', *map(_prototype, _ours(trace)), "", *written])


def _ours(trace: Trace) -> Iterator[Kernel]:
    return (kernel for kernel in trace.kernels.values() if kernel.source)


_ENTRY = "// CodegenC: NOTE: Auto-generated entry function"
_TVM_ALONE = ('#include "tvm/', "void* __tvm_ffi__", "#define TVM_EXPORTS")


def kernel_source(code: bytes) -> bytes:
    """TVM's C with our header in the place of TVM's own, of which it needs a few names.

    Where there is one kernel, TVM adds a function that calls it by its own convention; that is left out.
    """
    lines = code.decode().partition(_ENTRY)[0].splitlines()
    kept = [line for line in lines if not line.startswith(_TVM_ALONE)]
    return "\n".join(['#include "support.h"', "#include <string.h>", *kept, ""]).encode()


def _type(dtype: str) -> str:
    if dtype not in _TYPES:
        raise InvalidInput(
            f"C has no type for {dtype}, which a kernel of this network takes",
            hint=f"compile with --recipe float32; C has {', '.join(_TYPES)}",
        )
    return _TYPES[dtype]


def _header(trace: Trace, name: str) -> str:
    return f"""/* {_comment(name)}: made by a compiler, not to be edited. */
#ifndef MODEL_H
#define MODEL_H

#include <stdbool.h>
#include <stdint.h>

enum {{ MODEL_OK = 0, MODEL_KERNEL_FAILED = 1 }};

#define MODEL_INPUT_BYTES {sum(t.bytes for t in trace.inputs)}
#define MODEL_OUTPUT_BYTES {sum(t.bytes for t in trace.outputs)}
#define MODEL_INPUTS "{_described(trace.inputs)}"
#define MODEL_OUTPUTS "{_described(trace.outputs)}"

/* Row-major arrays, aligned as C aligns their type: {_described(trace.inputs)} -> {_described(trace.outputs)}.
   Returns MODEL_OK or MODEL_KERNEL_FAILED. Not to be called by two threads at once: there is one arena. */
int model_run({_parameters(trace)});

/* The same, with the inputs one after another in one block of bytes, and the outputs in another. */
int model_run_packed(const void *inputs, void *outputs);

/* Whether the constants are those that the compiler wrote; no single changed byte escapes. */
int model_weights_intact(void);

#endif
"""


def _comment(text: str) -> str:
    return re.sub(r"[^\w .,:;()\[\]-]", "_", text)


def _described(tensors: Sequence[Tensor]) -> str:
    return ", ".join(f"{_comment(t.name)} {t.dtype}[{'x'.join(map(str, t.shape))}]" for t in tensors)


def _arguments(trace: Trace) -> tuple[list[str], list[str]]:
    return [f"in{i}" for i in range(len(trace.inputs))], [f"out{i}" for i in range(len(trace.outputs))]


def _parameters(trace: Trace) -> str:
    names_in, names_out = _arguments(trace)
    given = [f"const {_type(t.dtype)} *{name}" for name, t in zip(names_in, trace.inputs, strict=True)]
    return ", ".join([*given, *(f"{_type(t.dtype)} *{n}" for n, t in zip(names_out, trace.outputs, strict=True))])


def _model(plan: Plan) -> str:
    trace = plan.trace
    names_in, names_out = _arguments(trace)
    sums = _checksum(plan.weights)
    return f"""#include <string.h>

#include "model.h"
#include "support.h"

#if !defined(__GNUC__)
#error "tell this compiler how to align an array to 64 bytes"
#endif

enum {{ WEIGHT_BYTES = {len(plan.weights)} }};
extern const unsigned char model_weights[];
static unsigned char arena[{max(plan.memory.arena_bytes, 1)}] __attribute__((aligned(64)));

#define ARENA(offset) ((void *)(arena + (offset)))
#define WEIGHT(offset) ((void *)(uintptr_t)(model_weights + (offset)))

{_lines(map(_prototype, trace.kernels.values()), 0)}

int model_weights_intact(void) {{
  uint64_t sum = 0, sum_of_sums = 0;
  size_t i;
  for (i = 0; i < WEIGHT_BYTES; i += 4) {{
    uint32_t word;
    memcpy(&word, model_weights + i, 4);
    sum += word;
    sum_of_sums += sum;
  }}
  return sum == UINT64_C({sums[0]}) && sum_of_sums == UINT64_C({sums[1]});
}}

static int run(const void *const *inputs, void *const *outputs) {{
{_lines(_statements(plan), 2)}
  return MODEL_OK;
}}

int model_run({_parameters(trace)}) {{
  const void *const inputs[] = {{{", ".join(names_in)}}};
  void *const outputs[] = {{{", ".join(names_out)}}};
  return run(inputs, outputs);
}}

int model_run_packed(const void *packed_inputs, void *packed_outputs) {{
  const unsigned char *from = packed_inputs;
  unsigned char *to = packed_outputs;
  const void *const inputs[] = {{{", ".join(_within("from", trace.inputs))}}};
  void *const outputs[] = {{{", ".join(_within("to", trace.outputs))}}};
  return run(inputs, outputs);
}}
"""


def _checksum(weights: bytes) -> tuple[int, int]:
    """The sum of all 32-bit words, and the sum of its partial sums, modulo 2^64 (Fletcher 1982, without the -1)."""
    words = np.frombuffer(weights, "<u4").astype(np.uint64)
    left = np.arange(len(words), 0, -1, dtype=np.uint64)
    return int(words.sum(dtype=np.uint64)), int((words * left).sum(dtype=np.uint64))


def _lines(lines: Iterable[str], indent: int) -> str:
    return "\n".join(" " * indent + line for line in lines)


def _within(pointer: str, tensors: Sequence[Tensor]) -> Iterator[str]:
    """Where each of `tensors` begins when they lie one after another."""
    offset = 0
    for tensor in tensors:
        yield f"{pointer} + {offset}"
        offset += tensor.bytes


def _prototype(kernel: Kernel) -> str:
    return f"int32_t {kernel.name}({', '.join(f'{_type(p)} *' for p in kernel.parameters)});"


def _statements(plan: Plan) -> Iterator[str]:
    """Copy in, call, copy out."""
    trace = plan.trace
    for index, tensor in enumerate(trace.inputs):
        yield f"memcpy({_place(plan, tensor.name)}, inputs[{index}], {tensor.bytes});"
    for index, call in enumerate(trace.calls):
        if (scratch := scratch_name(index)) in plan.offsets:
            yield f"model_scratch(arena + {plan.offsets[scratch]}, {trace.kernels[call.kernel].scratch_bytes});"
        yield f"if ({call.kernel}({', '.join(_place(plan, name) for name in call.arguments)}) != 0)"
        yield "  return MODEL_KERNEL_FAILED;"
    for index, (name, tensor) in enumerate(zip(trace.results, trace.outputs, strict=True)):
        yield f"memcpy(outputs[{index}], {_place(plan, name)}, {tensor.bytes});"


def _place(plan: Plan, name: str) -> str:
    return f"WEIGHT({plan.constants[name]})" if name in plan.constants else f"ARENA({plan.offsets[name]})"


def makefile(trace: Trace) -> bytes:
    """Builds the command line program and leaves the objects; CC and CFLAGS choose the processor."""
    ours = [file.replace(".c", ".o") for file in our_sources(trace)]
    headers = ["model.h", "support.h", *(["integers.h", "vectors.h"] if has_integers(trace) else [])]
    theirs = " kernels.o" if len(list(_ours(trace))) < len(trace.kernels) else ""
    return f"""# CC=aarch64-linux-gnu-gcc CFLAGS="-O3 -mcpu=cortex-a72" make
CC ?= cc
CFLAGS ?= -O3
OURS = {" ".join(ours)}

program: $(OURS){theirs} weights.o
\t$(CC) $(CFLAGS) -o $@ $^ -lm

$(OURS): %.o: %.c {" ".join(headers)}
\t$(CC) $(CFLAGS) -std=c99 -Wall -Wextra -c $< -o $@

kernels.o: kernels.c support.h
\t$(CC) $(CFLAGS) -std=c99 -c $< -o $@

weights.o: weights.S weights.bin
\t$(CC) -c $< -o $@

clean:
\trm -f program *.o

.PHONY: clean
""".encode()
