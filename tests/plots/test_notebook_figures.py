"""Figures in a notebook: data for a page that has plotly, a picture for one that has not, and never plotly itself."""

from __future__ import annotations

import base64
import json
import struct

import plotly.graph_objects as go
import plotly.io as pio
import pytest

from faithprobe.plots import notebook as module
from faithprobe.plots import notebook_figures
from faithprobe.plots.notebook import NAME, WIDTH, NotebookRenderer, can_draw
from faithprobe.plots.theme import figure

PLOTLY = "application/vnd.plotly.v1+json"


@pytest.fixture(autouse=True)
def renderers_as_before():
    before = pio.renderers.default
    yield
    pio.renderers.default = before


def drawn() -> go.Figure:
    return figure(240).add_bar(x=["a", "b"], y=[1, 2])


def test_a_figure_goes_out_as_data_on_white_paper():
    notebook_figures(pictures=False)
    assert pio.renderers.default == NAME
    fig = drawn()
    bundle = fig._repr_mimebundle_()
    assert set(bundle) == {"text/plain", PLOTLY}
    layout = bundle[PLOTLY]["layout"]
    assert layout["paper_bgcolor"] == layout["plot_bgcolor"] == "#FFFFFF"
    assert bundle[PLOTLY]["data"][0]["y"] == [1, 2]
    assert len(json.dumps(bundle)) < 20_000  # plotly.js alone has four million
    assert fig.layout.paper_bgcolor is None  # the figure itself is as it was


def test_a_paper_of_its_own_stays():
    bundle = NotebookRenderer(pictures=False).to_mimebundle(drawn().update_layout(paper_bgcolor="#123456").to_dict())
    assert bundle[PLOTLY]["layout"]["paper_bgcolor"] == "#123456"


def test_hosted_notebooks_keep_their_own_way():
    pio.renderers.default = "colab"
    notebook_figures()
    assert pio.renderers.default == "colab"


def test_a_browser_that_fails_costs_the_picture_and_not_the_figure(monkeypatch):
    def broken(figure):
        raise RuntimeError("the browser closed unexpectedly")

    monkeypatch.setattr(module, "png", broken)
    renderer = NotebookRenderer(pictures=True)
    with pytest.warns(UserWarning, match="without a picture.*the browser closed"):
        bundle = renderer.to_mimebundle(drawn().to_dict())
    assert PLOTLY in bundle
    assert "image/png" not in bundle
    assert PLOTLY in renderer.to_mimebundle(drawn().to_dict())  # and is not tried again


def test_without_kaleido_there_is_no_picture(monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert not can_draw()


@pytest.mark.browser
@pytest.mark.skipif(not can_draw(), reason="kaleido or a Chromium is missing; no picture can be drawn")
def test_the_picture_has_the_size_of_the_figure():
    bundle = NotebookRenderer(pictures=True).to_mimebundle(drawn().to_dict())
    data = base64.b64decode(bundle["image/png"])
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", data[16:24]) == (WIDTH * module.SCALE, 240 * module.SCALE)
