"""The look that all figures share, in a light and a dark version, and the figure that says why there is none."""

from __future__ import annotations

import textwrap
from html import escape
from unicodedata import bidirectional

import plotly.graph_objects as go

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', Helvetica, Arial, sans-serif"


def _template(ink: str, soft: str, grid: str, paper: str) -> go.layout.Template:
    axis = {
        "gridcolor": grid,
        "zerolinecolor": grid,
        "linecolor": grid,
        "showline": True,
        "zeroline": False,
        "ticks": "",
        "automargin": True,
        "tickfont": {"color": soft, "size": 12},
        "title": {"font": {"color": soft, "size": 13}, "standoff": 10},
    }
    return go.layout.Template(
        layout={
            "font": {"family": FONT, "size": 13, "color": ink},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "xaxis": axis,
            "yaxis": axis,
            "hoverlabel": {"bgcolor": paper, "bordercolor": grid, "font": {"family": FONT, "color": ink, "size": 13}},
            "legend": {
                "orientation": "h",
                "x": 0,
                "xanchor": "left",
                "y": 1,
                "yref": "container",
                "yanchor": "top",
                "font": {"color": ink, "size": 12.5},
            },
            "annotationdefaults": {"font": {"color": soft, "size": 12.5}},
            "margin": {"l": 56, "r": 16, "t": 44, "b": 56},
            "dragmode": False,
            "barcornerradius": 2,
        }
    )


LIGHT = _template(ink="#1B1F24", soft="#565E69", grid="#DFE2E7", paper="#FFFFFF")
DARK = _template(ink="#E8EAED", soft="#A3ABB6", grid="#343A43", paper="#1B1F25")


def figure(height: int, **layout: object) -> go.Figure:
    """An empty figure in the shared look; `height` in pixels, the width is the page's."""
    return go.Figure(layout={"template": LIGHT, "height": height, **layout})


def label(text: object, width: int | None = None) -> str:
    """Text from a model, a task or a user as plotly must get it: its pseudo-HTML is turned off, and its direction of
    writing does not reach what stands beside it."""
    shown = str(text)
    if width is not None and len(shown) > width:
        shown = shown[: width - 1] + "\N{HORIZONTAL ELLIPSIS}"
    shown = escape(shown.replace("\n", "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}"))
    turned = any(bidirectional(c) in ("R", "AL", "RLE", "RLO", "RLI", "LRO") for c in shown)
    return f"\N{FIRST STRONG ISOLATE}{shown}\N{POP DIRECTIONAL ISOLATE}" if turned else shown


def placeholder(reason: str, height: int = 180) -> go.Figure:
    """A figure-shaped "not measured": the gap is shown where the result would stand, with its reason."""
    fig = figure(height, margin={"l": 16, "r": 16, "t": 16, "b": 16}, meta={"missing": reason})
    fig.update_xaxes(visible=False, range=[0, 1]).update_yaxes(visible=False, range=[0, 1])
    fig.add_shape(
        type="rect",
        x0=0,
        x1=1,
        y0=0,
        y1=1,
        xref="paper",
        yref="paper",
        line={"dash": "dot", "width": 1, "color": "#8A8F98"},
    )
    text = "<br>".join(label(line) for line in textwrap.wrap(reason, 44))
    fig.add_annotation(x=0.5, y=0.5, text=f"<b>not measured</b><br>{text}", showarrow=False)
    return fig
