"""Vector bundles over graphs: a fibre at each node and a linear map along each edge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from toolkit.errors import GeometryError
from toolkit.geometry.checking import require_finite, require_square

__all__ = ["GraphBundle"]


@dataclass(frozen=True)
class GraphBundle:
    """Fibres R^k or C^k over the nodes of a graph.

    Source: Singer & Wu 2012, "Vector diffusion maps"; Bodnar et al. 2022, arXiv:2202.04579.

    Args:
        nodes: N.
        edges: [E, 2] int64, pairs (i, j), i != j, each pair once in one direction.
        maps: [E, k, k], O_ij from the fibre at j to the fibre at i, invertible. O_ji is the inverse.
    """

    nodes: int
    edges: Tensor
    maps: Tensor

    def __post_init__(self) -> None:
        require_square(self.maps, "an edge map")
        if self.edges.shape != (len(self.maps), 2) or self.nodes < 1:
            raise GeometryError(
                f"edges {tuple(self.edges.shape)} with maps {tuple(self.maps.shape)} on {self.nodes} nodes",
                hint="edges are [E, 2] and maps [E, k, k]",
            )
        pairs = [tuple(sorted(pair)) for pair in self.edges.tolist()]
        bad = [p for p in pairs if p[0] == p[1] or p[0] < 0 or p[1] >= self.nodes]
        if bad or len(set(pairs)) < len(pairs):
            repeated = bad or [p for p in pairs if pairs.count(p) > 1]
            raise GeometryError(f"the edge {repeated[0]} is repeated or joins no two nodes", hint="each pair once")
        smallest = torch.linalg.svdvals(self.maps).amin(-1)
        if not float(smallest.min()) > 1e-12 * float(self.maps.abs().max()):
            worst = int(smallest.argmin())
            raise GeometryError(
                f"the map of the edge {pairs[worst]} is singular: its smallest singular value is {smallest[worst]:.3g}",
                hint="edge maps must be invertible",
            )

    def edge_map(self, target: int, source: int) -> Tensor:
        """O_ij [k, k] with i = `target`, j = `source`.

        Raises:
            GeometryError: the nodes are not joined.
        """
        for index, pair in enumerate(self.edges.tolist()):
            if pair == [target, source]:
                return self.maps[index]
            if pair == [source, target]:
                inverse: Tensor = torch.linalg.inv(self.maps[index])
                return inverse
        raise GeometryError(f"no edge joins {target} and {source}", hint="walk along edges of the graph")

    def parallel_transport(self, section: Tensor, path: Sequence[int]) -> Tensor:
        """A vector [*B, k] at the first node of a walk, carried to its last node: [*B, k]."""
        require_finite(section, "a section")
        for source, target in pairwise(path):
            section = section @ self.edge_map(target, source).mT
        return section

    def holonomy(self, loop: Sequence[int]) -> Tensor:
        """The map [k, k] of a closed walk, its first node equal to its last.

        Raises:
            GeometryError: the walk is not closed.
        """
        if len(loop) < 2 or loop[0] != loop[-1]:
            raise GeometryError(f"the walk {list(loop)} is not closed", hint="repeat the first node at the end")
        return self.parallel_transport(torch.eye(self.maps.shape[-1], dtype=self.maps.dtype), loop).mT

    def dense(self) -> Tensor:
        """O as [N, N, k, k]: the identity on the diagonal, zero where there is no edge."""
        k = self.maps.shape[-1]
        table = self.maps.new_zeros(self.nodes, self.nodes, k, k)
        i, j = self.edges.unbind(1)
        table[i, j], table[j, i] = self.maps, torch.linalg.inv(self.maps)
        every = torch.arange(self.nodes)
        table[every, every] = torch.eye(k, dtype=self.maps.dtype)
        return table

    def transport_attention(self, attention: Tensor, values: Tensor) -> Tensor:
        """sum_j P_ij O_ij v_j: attention whose values are carried to the frame of the query; differentiable.

        Args:
            attention: P, [*B, N, N].
            values: [*B, N, k].

        Returns:
            [*B, N, k].

        Raises:
            GeometryError: P has weight where there is no edge.
        """
        require_finite(values, "a value")
        table = self.dense()
        joined = table.abs().sum((-2, -1)) > 0
        stray = attention.masked_fill(joined, 0).abs().amax() if attention.shape[-2:] == joined.shape else torch.inf
        if not float(stray) == 0:
            raise GeometryError(
                f"attention {tuple(attention.shape)} puts {float(stray):.3g} where {self.nodes} nodes have no edge",
                hint="mask the attention to the edges of the graph and its diagonal",
            )
        return torch.einsum("...ij,ijab,...jb->...ia", attention.to(table.dtype), table, values.to(table.dtype))
