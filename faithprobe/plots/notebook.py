"""Figures in a notebook: interactive where the reader's page has plotly, a picture everywhere else.

A plotly figure alone is lost in a static view: GitHub and nbconvert run no scripts. So each output holds both, the
figure as data (a front end with plotly draws it) and a PNG of it (every other one shows that). Neither holds plotly.js.
The PNG is drawn by kaleido in a Chromium of this machine; where either is missing, the figure goes out without one.
"""

from __future__ import annotations

import base64
import warnings
from collections.abc import Mapping
from copy import deepcopy
from importlib.util import find_spec
from typing import Any

import plotly.io as pio
from plotly.io.base_renderers import MimetypeRenderer, PlotlyRenderer

from faithprobe.plots.theme import LIGHT

NAME = "faithprobe"
WIDTH, SCALE = 960, 1.5
"""Of the picture: pixels of the figure, and pixels of the picture for each."""
BRING_THEIR_OWN = {"azure", "cocalc", "colab", "databricks", "kaggle"}
"""Hosted notebooks whose pages get plotly.js in a way of their own, which plotly has found already."""
_CLEAR = {None, "rgba(0,0,0,0)"}


def notebook_figures(*, pictures: bool | None = None) -> None:
    """Lets every plotly figure of this notebook be seen in a static view as well. Call it once, at the top.

    Args:
        pictures: put a PNG beside each figure. Default: where kaleido (`pip install 'faithprobe[notebooks]'`) and a
            Chromium or Chrome are found; the variable `BROWSER_PATH` names one elsewhere.

    Figures get a white paper, so that they can be read in a dark notebook. In Colab and other hosted notebooks that
    bring plotly themselves, nothing changes.
    """
    if set(str(pio.renderers.default).split("+")) & BRING_THEIR_OWN:
        return
    pio.renderers[NAME] = NotebookRenderer(pictures=can_draw() if pictures is None else pictures)
    pio.renderers.default = NAME


def can_draw() -> bool:
    """A picture can be drawn here: kaleido is installed, and it finds a browser."""
    if find_spec("kaleido") is None or find_spec("choreographer") is None:
        return False
    from choreographer.browsers.chromium import Chromium

    return bool(Chromium.find_browser(skip_local=False))


class NotebookRenderer(MimetypeRenderer):
    """A plotly renderer: the figure as data, and as a PNG where `pictures` is true."""

    def __init__(self, *, pictures: bool) -> None:
        self.pictures = pictures

    def to_mimebundle(self, fig_dict: Mapping[str, Any]) -> dict[str, Any]:
        figure = on_paper(fig_dict)
        bundle = {"text/plain": "Figure", **PlotlyRenderer(config={"displaylogo": False}).to_mimebundle(figure)}
        if self.pictures:
            try:
                bundle["image/png"] = base64.b64encode(png(figure)).decode()
            except Exception as error:  # a browser can fail in many ways, and none of them may cost the figure
                self.pictures = False
                warnings.warn(f"figures go out without a picture from here on: {error}", stacklevel=2)
        return bundle


def on_paper(fig_dict: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the figure on white paper, where its own is transparent: our ink is dark."""
    figure = deepcopy(dict(fig_dict))
    layout = figure.setdefault("layout", {})
    template = (layout.get("template") or {}).get("layout") or {}
    for paper in ("paper_bgcolor", "plot_bgcolor"):
        if layout.get(paper, template.get(paper)) in _CLEAR:
            layout[paper] = LIGHT.layout.hoverlabel.bgcolor
    return figure


def png(figure: Mapping[str, Any]) -> bytes:
    """The figure drawn by kaleido; without MathJax, which it would fetch from a network. One browser serves all."""
    import kaleido

    kaleido.start_sync_server(silence_warnings=True, mathjax=False)
    layout = figure["layout"]
    opts = {"format": "png", "width": layout.get("width") or WIDTH, "height": layout.get("height"), "scale": SCALE}
    bare = {key: value for key, value in figure.items() if key != "config"}
    return bytes(kaleido.calc_fig_sync(bare, opts={key: value for key, value in opts.items() if value is not None}))
