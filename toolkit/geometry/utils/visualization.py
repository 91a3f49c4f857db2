"""Plots. Each function returns a plotly Figure and shows nothing."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from math import inf
from typing import Any

from torch import Tensor

from toolkit.errors import GeometryError, MissingDependency
from toolkit.geometry.checking import require_finite
from toolkit.geometry.core.crystal.refraction.bands import Bands
from toolkit.geometry.core.crystal.scale.persistence import Bar
from toolkit.geometry.neural.attention.pattern_dynamics.bifurcation import Branch
from toolkit.geometry.neural.attention.pattern_dynamics.stability import Stability

__all__ = [
    "band_plot",
    "bifurcation_diagram",
    "curvature_histogram",
    "dispersion_plot",
    "persistence_barcode",
    "tile_map",
]


def band_plot(bands: Bands) -> Any:
    """Energies of a path of wave vectors [K, d] against the length along it, one line for each band."""
    if bands.k.ndim != 2:
        raise GeometryError(f"bands over wave vectors {tuple(bands.k.shape)}", hint="plot a path [K, d]")
    steps = bands.k.diff(dim=0).norm(dim=1).cumsum(0).tolist()
    figure = _figure("bands", "length along the path", "energy")
    for n, energies in enumerate(bands.energies.T):
        figure.add_scatter(x=[0.0, *steps], y=_numbers(energies), mode="lines", name=f"band {n}")
    return figure


def dispersion_plot(stability: Stability) -> Any:
    """Growth rates against wave numbers, with the fastest marked."""
    figure = _figure("growth of disturbances", "wave number", "growth rate")
    figure.add_scatter(x=_numbers(stability.wavenumbers), y=_numbers(stability.dispersion), mode="lines", name="rate")
    figure.add_scatter(
        x=[stability.critical_wavenumber], y=[stability.growth_rate], mode="markers", name="fastest"
    )  # fmt: skip
    return figure


def bifurcation_diagram(branch: Branch, *, component: int = 0) -> Any:
    """One component of the states of a branch against the parameter: stable parts solid, others dotted."""
    figure = _figure("branch of rest states", "parameter", f"u[{component}]")
    x, y, stable = _numbers(branch.parameters), _numbers(branch.states[:, component]), branch.stable.tolist()
    start = 0
    for k in range(1, len(x) + 1):
        if k == len(x) or stable[k] != stable[start]:
            last = min(k + 1, len(x))  # the next part begins where this one ends
            line = {"dash": "solid" if stable[start] else "dot"}
            name = "stable" if stable[start] else "unstable"
            figure.add_scatter(x=x[start:last], y=y[start:last], mode="lines", line=line, name=name)
            start = k
    for point in branch.points:
        height = float(point.state[component])
        figure.add_scatter(x=[point.parameter], y=[height], mode="markers", name=point.kind)
    return figure


def tile_map(refined: Tensor) -> Any:
    """Which pairs of tiles an attention refines: [queries, keys] of any real or bool values."""
    if refined.ndim != 2:
        raise GeometryError(f"a tile map of shape {tuple(refined.shape)}", hint="give [queries, keys]")
    figure = _figure("tiles", "key tile", "query tile")
    figure.add_heatmap(z=require_finite(refined.double(), "the tile map").tolist(), showscale=True)
    figure.update_yaxes(autorange="reversed")
    return figure


def persistence_barcode(bars: Sequence[Bar]) -> Any:
    """One horizontal line for each bar; bars that never end go to a tenth beyond the last event."""
    if not bars:
        raise GeometryError("an empty barcode", hint="there is nothing to draw: lower `least`")
    ends = [time for bar in bars for time in (bar.birth, bar.death) if time != inf]
    edge = max(ends) + 0.1 * max(max(ends) - min(ends), 1e-12)
    figure = _figure("barcode", "scale", "class")
    for row, bar in enumerate(bars):
        figure.add_scatter(
            x=[bar.birth, min(bar.death, edge)], y=[row, row], mode="lines", name=f"H{bar.dim}", showlegend=False
        )
    return figure


def curvature_histogram(curvatures: Tensor, *, bins: int = 40) -> Any:
    """How often each curvature occurs, [*B] flattened."""
    figure = _figure("curvature", "curvature", "count")
    figure.add_histogram(x=_numbers(curvatures), nbinsx=bins)
    return figure


def _numbers(values: Tensor) -> list[float]:
    numbers: list[float] = require_finite(values.detach(), "what is plotted").flatten().tolist()
    return numbers


def _figure(title: str, x: str, y: str) -> Any:
    try:
        graphs = import_module("plotly.graph_objects")
    except ImportError as error:
        raise MissingDependency(
            "plots need plotly, which is not installed", hint="pip install 'edge-toolkit[plots]'"
        ) from error
    return graphs.Figure(layout={"title": title, "xaxis": {"title": x}, "yaxis": {"title": y}})
