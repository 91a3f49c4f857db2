"""BERT's encoder on embedded tokens: Devlin et al. 2019, arXiv:1810.04805, section 3.

The input is the sum of the embeddings, (batch, tokens, width): their tables are looked up, not multiplied. The output
are the two scores of a token to start or end an answer, as in the published measurements on SQuAD.
"""

from functools import partial

from torch import nn

from .blocks import Make, Residual
from .vit import Attention, perceptron

_norm = partial(nn.LayerNorm, eps=1e-12)

WIDTHS = {"bert_base": 768, "bert_large": 1024}


def bert(width: int, depth: int) -> nn.Module:
    """`depth` layers with heads of 64 channels, each norm behind its sum."""
    layers = nn.Sequential(_norm(width))
    for _ in range(depth):
        layers.extend([Residual(Attention(width, width // 64)), _norm(width)])
        layers.extend([Residual(perceptron(width, 4 * width)), _norm(width)])
    return layers.append(nn.Linear(width, 2))


BERT: dict[str, Make] = {
    "bert_base": partial(bert, WIDTHS["bert_base"], 12),
    "bert_large": partial(bert, WIDTHS["bert_large"], 24),
}
