"""Effects of single patches over layers and positions, as a map."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from faithprobe.plots.palette import BLUE, ORANGE
from faithprobe.plots.theme import figure, label, placeholder


def patching_map(
    effects: Sequence[Sequence[float]],
    *,
    layers: Sequence[int],
    tokens: Sequence[str],
    positions: Sequence[int] | None = None,
    placebos: Sequence[Sequence[float]] | None = None,
    computed: Sequence[Sequence[bool]] | None = None,
    unit: str = "effect",
) -> go.Figure:
    """One row a layer, one column a position; orange is against the source, blue towards it.

    Args:
        effects: (layer, position), such as `Sweep.effects`.
        tokens: what stands at each position, as text.
        positions: their numbers; default: 0, 1, ...
        placebos: effects of placebos, NaN where none was run: cells that do not exceed theirs are marked with a cross.
        computed: cells that were run; the others are zero because nothing can change there, and are left blank.
        unit: what is measured, for the scale.
    """
    z = np.asarray(effects, dtype=float)
    if z.size == 0 or not np.isfinite(z).any():
        return placeholder("no cell was patched")
    if z.shape != (len(layers), len(tokens)):
        raise ValueError(f"effects are {z.shape}, but there are {len(layers)} layers and {len(tokens)} positions")
    where = list(range(len(tokens)) if positions is None else positions)
    shown = np.where(np.asarray(computed, dtype=bool), z, np.nan) if computed is not None else z
    beside = np.full(z.shape, np.nan) if placebos is None else np.asarray(placebos, dtype=float)
    reach = float(np.nanmax(np.abs(shown))) if np.isfinite(shown).any() else 1.0
    names = [f"{label(token, 10)} {position}" for token, position in zip(tokens, where, strict=True)]
    fig = figure(max(300, 90 + 16 * len(layers)), margin={"l": 56, "r": 16, "t": 30, "b": 76})
    fig.add_heatmap(
        x=names,
        y=list(layers),
        z=shown,
        customdata=np.where(np.isfinite(beside), np.round(beside, 3).astype(object), "not run"),
        zmin=-reach or -1,
        zmax=reach or 1,
        colorscale=[[0, ORANGE], [0.5, "rgba(138,143,152,0.08)"], [1, BLUE]],
        colorbar={"title": {"text": label(unit), "side": "right"}, "thickness": 12, "outlinewidth": 0},
        hovertemplate="layer %{y}, %{x}: %{z:.3f}<br>placebo %{customdata}<extra></extra>",
        hoverongaps=False,
        xgap=1,
        ygap=1,
    )
    doubted = np.argwhere(np.isfinite(beside) & (np.abs(z) <= np.abs(beside)))
    if len(doubted):
        fig.add_scatter(
            x=[names[column] for _, column in doubted],
            y=[layers[row] for row, _ in doubted],
            mode="markers",
            marker={"symbol": "x-thin", "size": 7, "line": {"width": 1.5, "color": "#565E69"}},
            name="no more than its placebo",
            hoverinfo="skip",
            showlegend=True,
        )
    # Else plotly takes tokens that are numbers for dates or numbers, and puts them wherever those would be.
    category = {"type": "category", "categoryorder": "array", "categoryarray": names}
    fig.update_xaxes(showgrid=False, tickangle=-60, title_text="token and position", **category)
    fig.update_yaxes(showgrid=False, title_text="layer", tickformat="d")
    return fig
