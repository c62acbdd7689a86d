"""The map of a sweep: blank where nothing can change, a cross where a placebo does as much."""

import numpy as np
import pytest

from faithprobe.plots.patching import patching_map

EFFECTS = [[0.0, 2.0, -0.5], [0.0, 0.25, 0.0]]
COMPUTED = [[False, True, True], [False, True, True]]
NAN = float("nan")


def test_cells_that_were_not_run_are_blank_and_the_scale_is_even():
    fig = patching_map(EFFECTS, layers=[3, 7], tokens=["a", "<b>", "c"], positions=[5, 6, 7], computed=COMPUTED)
    (cells,) = fig.data
    assert np.isnan(np.asarray(cells.z)[:, 0]).all()
    assert np.asarray(cells.z)[0, 1] == 2.0
    assert (cells.zmin, cells.zmax) == (-2.0, 2.0)
    assert list(cells.y) == [3, 7]
    assert cells.x[1] == "&lt;b&gt; 6"


def test_a_cell_that_does_not_exceed_its_placebo_is_crossed():
    fig = patching_map(EFFECTS, layers=[3, 7], tokens="abc", placebos=[[NAN, 0.5, NAN], [NAN, -0.3, NAN]])
    cells, crosses = fig.data
    assert list(zip(crosses.x, crosses.y)) == [("b 1", 7)]
    assert cells.customdata[0][1] == 0.5
    assert cells.customdata[0][0] == "not run"


def test_what_cannot_be_drawn_is_said():
    assert patching_map([], layers=[], tokens=[]).layout.meta["missing"] == "no cell was patched"
    with pytest.raises(ValueError, match="2 layers and 2 positions"):
        patching_map(EFFECTS, layers=[0, 1], tokens="ab")


def test_tokens_that_are_numbers_stay_names():
    """`9 15` and `5 1` are a token and its place; left to itself, plotly reads them as numbers and scatters them."""
    fig = patching_map(EFFECTS, layers=[0, 1], tokens=["9", "5", "2"], positions=[15, 19, 23], computed=COMPUTED)
    axis = fig.layout.xaxis
    assert (axis.type, list(axis.categoryarray)) == ("category", ["9 15", "5 19", "2 23"])
    assert set(fig.data[0].x) == set(axis.categoryarray)
