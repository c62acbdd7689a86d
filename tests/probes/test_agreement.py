"""Where stated and local differ, the planted one of the two is named."""

import numpy as np
import pytest

from faithprobe.errors import UnscoredError
from faithprobe.probes import agreement


def _setting(holds: str, *, classes: int = 3, seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    code = 4 * rng.normal(size=(classes, 16))
    y = rng.integers(0, classes, 400)
    local = rng.integers(0, classes, 60)
    stated = np.where(np.arange(60) < 20, local, (local + 1) % classes)
    held = {"local": local, "stated": stated, "neither": (local + 2) % classes}[holds]

    def state(values: np.ndarray) -> np.ndarray:
        return code[values] + rng.normal(size=(len(values), 16))

    return {
        "layers": {0: rng.normal(size=(400, 16)), 1: state(y)},
        "labels": y.astype(str),
        "eval_layers": {0: rng.normal(size=(60, 16)), 1: state(held)},
        "local": local.astype(str),
        "stated": stated.astype(str),
        "groups": np.arange(400),
        "eval_groups": np.arange(1000, 1060),
    }


@pytest.mark.parametrize("holds", ["local", "stated", "neither"])
def test_the_planted_side_is_named(holds: str) -> None:
    found = agreement(**_setting(holds))
    assert getattr(found, holds).value > 0.9
    assert sum(getattr(found, name).value for name in ("local", "stated", "neither")) == pytest.approx(1)
    assert found.layer == 1
    assert found.fitted
    assert set(found.items[:20]) == {""}
    assert found.items[30] == holds
    assert getattr(found, holds).n == 40


def test_a_probe_that_reads_nothing_says_so() -> None:
    setting = _setting("local")
    setting["layers"] = {0: setting["layers"][0]}
    setting["eval_layers"] = {0: setting["eval_layers"][0]}
    assert not agreement(**setting).fitted


def test_too_few_of_either_is_unscored() -> None:
    setting = _setting("local")
    with pytest.raises(UnscoredError, match="differ in class in 0 items"):
        agreement(**{**setting, "stated": setting["local"]})
    with pytest.raises(UnscoredError, match="400 training items share no group"):
        agreement(**setting, fewest=500)
    with pytest.raises(UnscoredError, match="0 training items"):
        agreement(**{**setting, "groups": np.zeros(400), "eval_groups": np.zeros(60)})
    with pytest.raises(UnscoredError, match="differ in class in 0 items"):  # classes that the probe never saw
        agreement(**{**setting, "stated": np.full(60, "9")})
