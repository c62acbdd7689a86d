"""The curve and the number are computed in two ways that must agree."""

import numpy as np
import pytest

from faithprobe.scores.auroc import auroc
from faithprobe.scores.roc import roc_curve


def test_the_area_below_a_curve_is_the_auroc_within_strata():
    random = np.random.default_rng(0)
    for _ in range(100):
        n = int(random.integers(5, 60))
        scores, labels = random.integers(0, 6, n) / 6, random.integers(0, 2, n).astype(float)
        scores[random.random(n) < 0.1] = np.nan
        strata = random.integers(0, 4, n).tolist()
        expected = auroc(scores, labels, strata=strata).value
        x, y = roc_curve(scores, labels, strata=strata)
        if expected is None:
            assert not len(x)
            continue
        assert (x[0], y[0], x[-1], y[-1]) == pytest.approx((0, 0, 1, 1))
        assert (np.diff(x) >= 0).all()
        assert (np.diff(y) >= -1e-12).all()
        assert ((y[1:] + y[:-1]) / 2 * np.diff(x)).sum() == pytest.approx(expected, abs=1e-12)
