"""The area over hand-made curves."""

from __future__ import annotations

import pytest

from faithprobe.scores.area import area_over_curve


@pytest.mark.parametrize(
    ("x", "y", "area"),
    [
        ([0, 1], [1, 1], 0.0),
        ([0, 1], [0, 0], 1.0),
        ([0, 1], [0, 1], 0.5),
        ([0, 1 / 3, 2 / 3, 1], [0, 0, 0, 1], 5 / 6),  # the answer comes with the last of three steps
        ([0, 1 / 3, 2 / 3, 1], [0, 1, 1, 1], 1 / 6),
        ([0, 0.1, 1], [0, 0, 1], 0.55),
        ([0, 0.5, 1], [0.2, 0.6, 1.0], 0.4),
        ([2, 3, 4], [0, 1, 1], 0.25),  # over the width of the curve
        ([0, 0.5, 0.5, 1], [0, 0, 1, 1], 0.5),  # a jump
    ],
)
def test_known_areas(x, y, area):
    assert area_over_curve(x, y) == pytest.approx(area)


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        ([0], [1], "two points"),
        ([0, 1], [1], "two points"),
        ([0, 1, 0.5], [1, 1, 1], "left to right"),
        ([1, 1], [0, 1], "left to right"),
        ([0, 1], [0, 1.5], "shares"),
    ],
)
def test_no_curve(x, y, words):
    with pytest.raises(ValueError, match=words):
        area_over_curve(x, y)
