"""The figure of a guarded run against a history that was made by hand."""

from __future__ import annotations

import pytest

from faithprobe.plots.palette import VERMILLION
from faithprobe.plots.training import goodhart_figure

NAMES = ("trained_on_score", "held_out_score", "accuracy", "goodhart_gap")


def record(step, trained, held, accuracy, *, stop=""):
    """A check whose intervals reach .1 down and .05 up."""
    values = dict(zip(NAMES, (trained, held, accuracy, None if held is None else trained - held), strict=True))
    bounds = {
        f"{name}_{side}": None if value is None else value + off
        for name, value in values.items()
        for side, off in (("low", -0.1), ("high", 0.05))
    }
    return {"step": step, **values, **bounds, "stop": stop, "seconds": 1.0}


HISTORY = [record(0, 0.2, 0.2, 0.9), record(100, 0.6, 0.5, 0.9), record(200, 0.9, 0.45, 0.88, stop="too <far>")]


def named(fig, name):
    (found,) = [trace for trace in fig.data if trace.name == name]
    return found


def test_scores_stand_above_and_the_gap_below_each_with_its_interval():
    fig = goodhart_figure(HISTORY, max_gap=0.3)
    lines = {trace.name: trace for trace in fig.data if trace.showlegend is None}
    assert [list(trace.y) for trace in lines.values()] == [
        pytest.approx(values) for values in ([0.2, 0.6, 0.9], [0.2, 0.5, 0.45], [0.9, 0.9, 0.88], [0, 0.1, 0.45])
    ]
    assert [trace.yaxis for trace in lines.values()] == ["y", "y", "y", "y2"]
    for name, line in lines.items():
        assert list(line.x) == [0, 100, 200]
        band = named(fig, f"{name}, 95% interval")
        assert list(band.x) == [0, 100, 200, 200, 100, 0]
        assert list(band.y) == pytest.approx([v + 0.05 for v in line.y] + [v - 0.1 for v in reversed(line.y)])
        assert band.legendgroup == line.legendgroup
    limits = [shape for shape in fig.layout.shapes if shape.line.color == VERMILLION]
    assert [(shape.y0, shape.yref) for shape in limits] == [(0.3, "y2")]
    low, high = fig.layout.yaxis2.range
    assert low < -0.1
    assert high > 0.5


def test_a_stop_is_marked_where_it_was_with_its_reason():
    fig = goodhart_figure(HISTORY)
    (mark,) = [note for note in fig.layout.annotations if note.text == "stopped"]
    assert (mark.x, mark.hovertext) == (200, "too &lt;far&gt;")
    assert [shape.x0 for shape in fig.layout.shapes if shape.x0 == shape.x1] == [200, 200]
    assert not [note for note in goodhart_figure(HISTORY[:2]).layout.annotations if note.text == "stopped"]


def test_what_was_not_measured_is_a_gap_in_line_and_band():
    fig = goodhart_figure([HISTORY[0], record(50, 0.5, None, 0.9), *HISTORY[1:]])
    held = [trace for trace in fig.data if trace.name.startswith("held out")]
    line = held[-1]
    assert list(line.y) == [0.2, None, 0.5, 0.45]
    assert line.connectgaps is False
    alone, band = held[:-1]
    assert (list(alone.x), list(alone.y), alone.fill) == ([0, 0], pytest.approx([0.25, 0.1]), "none")
    assert (list(band.x), band.fill) == ([100, 200, 200, 100], "toself")


def test_a_trainers_log_history_is_read_as_well():
    logs = [{"loss": 2.0, "step": 10}, {k: v for k, v in HISTORY[1].items() if v is not None and k != "stop"}]
    logs += [{"goodhart_stop": "enough", "step": 100}, {"eval_loss": 1.0, "step": 100}]
    fig = goodhart_figure(logs)
    assert list(named(fig, "accuracy").x) == [100]
    assert [note.x for note in fig.layout.annotations if note.text == "stopped"] == [100]


@pytest.mark.parametrize("history", [[], [{"loss": 1.0, "step": 3}], [{"step": 1, "goodhart_gap": None}]])
def test_a_run_without_a_check_says_so(history):
    assert goodhart_figure(history).layout.meta["missing"] == "no check was made in this run"
