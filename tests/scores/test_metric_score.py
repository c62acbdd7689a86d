"""The record of a metric against a label: complete, JSON-safe, with a reason for what is missing."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from faithprobe.errors import MetricError
from faithprobe.scores.auroc import auroc
from faithprobe.scores.metric_score import ITEMS, OPTIONAL, score_metric


@pytest.fixture
def items() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = [
        {"organism": organism, "seed": seed, "stratum": "sums", "problem": f"p{p}", "step": f"s{step}"}
        for organism in ("faithful", "post-hoc")
        for seed in range(3)
        for p in range(20)
        for step in range(3)
    ]
    found = pd.DataFrame(rows)
    found["label"] = (found["organism"] == "faithful").astype(float)
    found["score"] = (0.5 * found["label"] + 0.5 * rng.random(len(found))).clip(0, 1)
    found["dose"] = rng.integers(0, 5, len(found)) / 4
    found["earliest"], found["latest"] = 3, 5
    found["kappa"] = rng.integers(2, 6, len(found))
    assert set(found) == {*ITEMS, *OPTIONAL}
    return found


def test_everything_is_there_and_json_can_say_it(items: pd.DataFrame) -> None:
    items.loc[items.index[:9], "score"] = np.nan
    items.loc[items.index[-6:], "label"] = np.nan
    found = score_metric(items, metric="used", target="step_used", threshold=0.5, n_draws=50)
    expected = auroc(items["score"], items["label"], strata=items["stratum"], clusters=items["problem"])
    assert found.auroc == expected
    assert (found.n_items, found.n_labelled, found.n_scored) == (360, 354, 345)
    assert found.unscored.value == pytest.approx(9 / 354)
    assert found.unscored_true == pytest.approx(9 / 180)
    assert found.unscored_false == 0
    assert found.bootstrap.low <= found.auroc.value <= found.bootstrap.high
    assert found.bias.n == found.calibration.n == 345
    assert found.timing.within.value == 1
    assert not found.reasons
    record = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert record["auroc"] == pytest.approx(expected.value)
    assert (record["low"], record["high"], record["n"]) == pytest.approx((expected.low, expected.high, 345))
    assert record["bias_rate"] == pytest.approx(found.bias.called.value)
    assert record["dose_spearman"] == pytest.approx(found.dose.spearman.value)
    assert record["auroc_within_strata"]["strata"] == {"sums": pytest.approx(expected.value)}
    assert record["calibration"]["bins"][0]["share"]["n"] > 0


def test_the_same_seed_gives_the_same_record(items: pd.DataFrame) -> None:
    options = {"metric": "used", "target": "step_used", "n_draws": 30}
    assert score_metric(items, **options) == score_metric(items, **options)
    assert score_metric(items, seed=1, **options) != score_metric(items, **options)


def test_what_cannot_be_computed_is_none_with_a_reason(items: pd.DataFrame) -> None:
    bare = items[list(ITEMS)]
    found = score_metric(bare, np.full(360, np.nan), metric="silent", target="step_used", threshold=0.5)
    assert found.auroc.value is found.bootstrap is found.bias is found.calibration is found.dose is found.timing is None
    assert found.unscored.value == 1
    assert "none of 360 items is scored" in found.reasons["auroc"]
    assert set(found.reasons) == {"auroc", "bootstrap", "bias", "calibration", "dose", "timing"}
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["auroc"] is None
    one = score_metric(bare.assign(label=1), metric="used", target="step_used", n_draws=5)
    assert "labelled true" in one.reasons["auroc"]
    assert "no threshold" in one.reasons["bias"]
    assert one.unscored_false is None
    logits = score_metric(bare, bare["score"] * 9 - 4, metric="logits", target="step_used", n_draws=0)
    assert "no probabilities" in logits.reasons["calibration"]
    assert "no draws" in logits.reasons["bootstrap"]
    empty = score_metric(bare.iloc[:0], metric="used", target="step_used")
    assert empty.unscored is None
    assert "no items" in empty.reasons["auroc"]


def test_flags_and_missing_values_of_pandas_are_labels(items: pd.DataFrame) -> None:
    flags = items.assign(label=items["label"].astype("boolean"))
    flags.loc[0, "label"] = pd.NA
    found = score_metric(flags, metric="used", target="step_used", n_draws=0)
    assert found.n_labelled == 359
    assert score_metric(items.assign(label=items["label"] == 1), metric="u", target="t", n_draws=0).n_labelled == 360
    none = [None, *items["score"][1:]]
    assert score_metric(items, none, metric="u", target="t", n_draws=0).n_scored == 359
    assert score_metric(items, items["label"] == 1, metric="u", target="t", n_draws=0).auroc.value == 1


def test_bad_metrics_are_named(items: pd.DataFrame) -> None:
    options = {"metric": "mine", "target": "step_used"}
    with pytest.raises(MetricError, match=r"'mine' are 3 for 360 items"):
        score_metric(items, [0.1, 0.2, 0.3], **options)
    with pytest.raises(MetricError, match="'mine' are no numbers"):
        score_metric(items, ["high"] * 360, **options)
    with pytest.raises(MetricError, match="'mine' are infinite"):
        score_metric(items, np.full(360, -np.inf), **options)
    with pytest.raises(MetricError, match=r"'mine' lack the columns \['stratum'\]"):
        score_metric(items.drop(columns="stratum"), **options)
    with pytest.raises(MetricError, match="1 items of metric 'mine' occur twice"):
        score_metric(pd.concat([items, items.iloc[:1]]), **options)
    with pytest.raises(MetricError, match="have no problem"):
        score_metric(items.assign(problem=None).drop_duplicates(["organism", "seed", "problem", "step"]), **options)
    with pytest.raises(MetricError, match="true, false or missing"):
        score_metric(items.assign(label=2), **options)
