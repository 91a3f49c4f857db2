"""Layer normalisation, GELU and attention spelled out in elementary operators, as exporters write them.

Bodies in onnx's text form, each with the weights that it may read.
"""

from typing import Any

import numpy as np

number = np.float32


def mentioned(body: str, values: dict[str, Any]) -> dict[str, Any]:
    """The weights that a body reads."""
    words = "".join(c if c.isalnum() or c == "_" else " " for c in body).split()
    return {name: value for name, value in values.items() if name in words}


# ---- layer normalisation

_CENTRED = "m = ReduceMean(x, last)  d = Sub(x, m)"
_POWER = f"{_CENTRED}  p = Pow(d, two)  v = ReduceMean(p, last)"
_PRODUCT = f"{_CENTRED}  p = Mul(d, d)  v = ReduceMean(p, last)"
_ROOT = "e = Add(v, eps)  r = Sqrt(e)"

LAYER_NORMS = {
    "torch script": f"{_POWER}  {_ROOT}  n = Div(d, r)  s = Mul(n, scale)  y = Add(s, bias)",
    "constants first": f"{_POWER}  e = Add(eps, v)  r = Sqrt(e)  n = Div(d, r)  s = Mul(scale, n)  y = Add(bias, s)",
    "squared by a product": f"{_PRODUCT}  {_ROOT}  n = Div(d, r)  s = Mul(n, scale)  y = Add(s, bias)",
    "difference taken twice": f"{_POWER}  f = Sub(x, m)  {_ROOT}  n = Div(f, r)  s = Mul(scale, n)  y = Add(s, bias)",
    "mean taken twice": f"""{_PRODUCT}  m2 = ReduceMean(x, last)  d2 = Sub(x, m2)  {_ROOT}
        n = Div(d2, r)  s = Mul(n, scale)  y = Add(s, bias)""",
    "rsqrt of dynamo": f"{_PRODUCT}  {_ROOT}  i = Reciprocal(r)  n = Mul(d, i)  s = Mul(n, scale)  y = Add(s, bias)",
    "rsqrt of script": f"{_PRODUCT}  {_ROOT}  i = Div(one, r)  n = Mul(d, i)  s = Mul(n, scale)  y = Add(s, bias)",
    "rsqrt first": f"{_PRODUCT}  {_ROOT}  i = Reciprocal(r)  n = Mul(i, d)  s = Mul(n, scale)  y = Add(s, bias)",
    "tensorflow": f"""{_PRODUCT}  {_ROOT}  i = Reciprocal(r)  g = Mul(i, scale)
        a = Mul(x, g)  b = Mul(m, g)  c = Sub(bias, b)  y = Add(a, c)""",
    "tensorflow, turned": f"""{_PRODUCT}  {_ROOT}  i = Reciprocal(r)  g = Mul(scale, i)
        a = Mul(g, x)  b = Mul(g, m)  c = Sub(bias, b)  y = Add(c, a)""",
    "no bias": f"{_POWER}  {_ROOT}  n = Div(d, r)  y = Mul(n, scale)",
    "plain": f"{_POWER}  {_ROOT}  y = Div(d, r)",
}
NORM_WEIGHTS: dict[str, Any] = {
    "last": np.array([-1]), "two": number(2), "one": number(1), "eps": number(1e-5), "scale": (8,), "bias": (8,),
}  # fmt: skip
NORM = "g (float[2,5,8] x) => (float[2,5,8] y) { %s }"


# ---- GELU

_ERF = "e = Erf(a)  f = Add(e, one)"
_CUBE = "c = Mul(q, k)  s = Add(x, c)  t = Mul(s, root)  e = Tanh(t)  f = Add(e, one)"
GELUS = {
    "script": ("none", f"a = Div(x, two)  {_ERF}  h = Mul(x, f)  y = Mul(h, half)"),
    "dynamo": ("none", f"a = Div(x, two)  {_ERF}  h = Mul(half, f)  y = Mul(x, h)"),
    "hugging face": ("none", f"h = Mul(x, half)  a = Div(x, two)  {_ERF}  y = Mul(h, f)"),
    "tensorflow": ("none", "h = Mul(half, x)  a = Div(x, two)  e = Erf(a)  f = Add(one, e)  y = Mul(h, f)"),
    "multiplied by the inverse": ("none", f"a = Mul(x, inverse)  {_ERF}  h = Mul(half, f)  y = Mul(x, h)"),
    "inverse first": ("none", f"a = Mul(inverse, x)  {_ERF}  h = Mul(x, f)  y = Mul(half, h)"),
    "halved by a division": ("none", f"a = Div(x, two)  {_ERF}  h = Mul(x, f)  y = Div(h, whole)"),
    "x halved by a division": ("none", f"h = Div(x, whole)  a = Div(x, two)  {_ERF}  y = Mul(h, f)"),
    "tanh of dynamo": ("tanh", """q = Pow(x, three)  c = Mul(k, q)  s = Add(x, c)  t = Mul(root, s)  e = Tanh(t)
        f = Add(e, one)  h = Mul(half, f)  y = Mul(x, h)"""),
    "tanh of script": ("tanh", """w = Mul(x, x)  q = Mul(x, w)  c = Mul(k, q)  s = Add(x, c)  t = Mul(root, s)
        e = Tanh(t)  f = Add(one, e)  h = Mul(x, f)  y = Mul(half, h)"""),
    "tanh of hugging face": ("tanh", f"h = Mul(x, half)  q = Pow(x, three)  {_CUBE}  y = Mul(h, f)"),
    "tanh of gpt": ("tanh", f"w = Mul(x, x)  q = Mul(w, x)  {_CUBE}  h = Mul(x, f)  y = Mul(h, half)"),
    "fast": ("tanh", """h = Mul(x, half)  r = Mul(x, root)  u = Mul(x, k)  w = Mul(u, x)  s = Add(w, one)
        t = Mul(r, s)  e = Tanh(t)  f = Add(e, one)  y = Mul(h, f)"""),
}  # fmt: skip
GELU_WEIGHTS: dict[str, Any] = {
    "two": number(2**0.5), "inverse": number(0.5**0.5), "one": number(1), "half": number(0.5), "whole": number(2),
    "three": number(3), "k": number(0.044715), "root": number((2 / np.pi) ** 0.5),
}  # fmt: skip
GELU = "g (float[2,64] x) => (float[2,64] y) { %s }"


# ---- attention

TURN = "t = Transpose<perm=[0,1,3,2]>(k)"
SOFT = "p = Softmax<axis=-1>(s)  y = MatMul(p, v)"
ATTENTIONS = {
    "scores multiplied": f"{TURN}  a = MatMul(q, t)  s = Mul(a, scale)  {SOFT}",
    "scores multiplied, constant first": f"{TURN}  a = MatMul(q, t)  s = Mul(scale, a)  {SOFT}",
    "scores divided": f"{TURN}  a = MatMul(q, t)  s = Div(a, root)  {SOFT}",
    "q multiplied": f"{TURN}  r = Mul(q, scale)  s = MatMul(r, t)  {SOFT}",
    "q divided": f"{TURN}  r = Div(q, root)  s = MatMul(r, t)  {SOFT}",
    "turned k multiplied": f"{TURN}  r = Mul(t, scale)  s = MatMul(q, r)  {SOFT}",
    "k multiplied": f"r = Mul(k, scale)  t = Transpose<perm=[0,1,3,2]>(r)  s = MatMul(q, t)  {SOFT}",
    "both multiplied": f"{TURN}  r = Mul(q, part)  u = Mul(t, part)  s = MatMul(r, u)  {SOFT}",
    "not scaled": f"{TURN}  s = MatMul(q, t)  {SOFT}",
    "mask": f"{TURN}  a = MatMul(q, t)  b = Mul(a, scale)  s = Add(b, mask)  {SOFT}",
    "mask first": f"{TURN}  a = MatMul(q, t)  b = Div(a, root)  s = Add(mask, b)  {SOFT}",
    "mask on scaled q": f"{TURN}  r = Mul(q, scale)  a = MatMul(r, t)  s = Add(a, mask)  {SOFT}",
    "axis counted from the front": f"{TURN}  s = MatMul(q, t)  p = Softmax<axis=3>(s)  y = MatMul(p, v)",
}
CAUSAL = np.where(np.tril(np.ones((5, 7), bool), 2), 0, -np.inf).astype(np.float32)
ATTENTION_WEIGHTS: dict[str, Any] = {
    "scale": number(0.5), "root": number(2), "part": number(0.5**0.5), "mask": CAUSAL,
}  # fmt: skip
ATTENTION = "g (float[2,3,5,4] q, float[2,3,7,4] k, float[2,3,7,6] v) => (float[2,3,5,6] y) { %s }"
