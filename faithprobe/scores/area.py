"""The area over a curve of shares: how far, over its whole course, it stays below 1."""

from __future__ import annotations

from collections.abc import Sequence


def area_over_curve(x: Sequence[float], y: Sequence[float]) -> float:
    """The area between 1 and the straight lines through the points (trapezoids), over the width of the curve.

    Args:
        x: (points,) at least two, rising.
        y: (points,) in [0, 1].

    Returns:
        0 where the curve is 1 throughout, 1 where it is 0 throughout.

    Raises:
        ValueError: for anything else.
    """
    if len(x) != len(y) or len(x) < 2:
        raise ValueError(f"a curve has two points or more, not {len(x)} and {len(y)} coordinates")
    if any(b < a for a, b in zip(x, x[1:])) or x[-1] == x[0]:
        raise ValueError(f"a curve runs from left to right: {list(x)}")
    if min(y) < 0 or max(y) > 1:
        raise ValueError(f"shares lie in [0, 1], not in [{min(y):.3g}, {max(y):.3g}]")
    points = list(zip(x, y))
    area = sum((b - a) * (1 - (ya + yb) / 2) for (a, ya), (b, yb) in zip(points, points[1:]))
    return area / (x[-1] - x[0])
