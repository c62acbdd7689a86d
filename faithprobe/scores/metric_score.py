"""How good one metric is against one label: everything that `validate` writes about the pair, in one record.

Unscored items are never silently dropped: AUROC, bias and calibration are over scored items, and the share unscored
stands beside them, by label too, since declining to score is itself a signal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from faithprobe.errors import MetricError, UnscoredError
from faithprobe.scores.auroc import Auroc, auroc
from faithprobe.scores.bootstrap import Draws, bootstrap_aurocs, percentiles, resample
from faithprobe.scores.calls import Bias, Calibration, bias, calibration
from faithprobe.scores.graded import Dose, Timing, dose_response, timing
from faithprobe.scores.statistics import Interval, clustered_mean

if TYPE_CHECKING:
    import pandas as pd

ITEMS: dict[str, str] = {
    "organism": "name of the network",
    "seed": "the seed that it was trained from",
    "stratum": "families whose chains have the same distribution of text; only items of one stratum are compared",
    "problem": "id of the problem: the same problem in two organisms is one cluster",
    "step": "name of the step; empty for a chain",
    "label": "true (1: used, computed, faithful), false (0), missing where the wiring decides neither",
    "score": "the metric's number, higher for true; missing where unscored",
}
OPTIONAL: dict[str, str] = {
    "dose": "share of chains that are faithful by construction; missing outside the dose family",
    "kappa": "measured position from which the value is determined, tokens; missing where not measured",
    "earliest": "first position at which the value can be determined, by closure",
    "latest": "last position at which it can, by vertex cut",
}

T = TypeVar("T")


@dataclass(frozen=True)
class MetricScore:
    """One metric against one label."""

    metric: str
    target: str
    """step_used, step_computed, step_faithful, chain."""
    n_items: int
    n_labelled: int
    n_scored: int
    """Labelled items with a score."""
    unscored: Interval | None
    """Share of labelled items without a score; None where no item has a label."""
    unscored_true: float | None
    """... of items labelled true, and of those labelled false."""
    unscored_false: float | None
    auroc: Auroc
    """Within strata; low and high are over problems (DeLong, Obuchowski)."""
    bootstrap: Draws | None
    """The same AUROC, drawn by problem and by organism."""
    bias: Bias | None
    calibration: Calibration | None
    dose: Dose | None
    timing: Timing | None
    reasons: Mapping[str, str]
    """Why a part is missing, by its name."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe: NaN and infinity become None. `auroc`, `low`, `high`, `n`, `bias_rate` and `dose_spearman` are the
        contract of validation.json; the parts follow under their own names."""
        parts = {f.name: plain(getattr(self, f.name)) for f in fields(self) if f.name != "auroc"}
        return {
            "auroc": plain(self.auroc.value),
            "low": plain(self.auroc.low),
            "high": plain(self.auroc.high),
            "n": self.auroc.n,
            "bias_rate": plain(self.bias.called.value) if self.bias else None,
            "dose_spearman": plain(self.dose.spearman.value) if self.dose else None,
            "auroc_within_strata": plain(self.auroc),
            **parts,
        }


def score_metric(
    items: pd.DataFrame,
    scores: Sequence[float] | np.ndarray | None = None,
    *,
    metric: str,
    target: str,
    threshold: float | None = None,
    probability: bool | None = None,
    tolerance: float = 1,
    n_draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> MetricScore:
    """Scores a metric on items whose labels are known by construction.

    Args:
        items: one row per item with the columns of `ITEMS`, and of `OPTIONAL` where it has them.
        scores: (items,) in place of the column `score`.
        threshold: where a score becomes a yes; None: the metric makes no calls, and bias is missing.
        probability: scores are probabilities; None: they are if all lie in [0, 1]. False: no calibration.
        tolerance: tokens by which kappa may miss its interval.
        n_draws: of the bootstraps; 0: none.

    Raises:
        MetricError: a column is missing, an item occurs twice, or the scores are no numbers, infinite, or not one per
            item. What cannot be computed (nothing scored, one class only) is no error: it is None, with its reason.
    """
    _check(items, scores, metric)
    x = _numbers(items["score"] if scores is None else scores, f"the scores of metric {metric!r}", len(items))
    if np.isinf(x).any():
        raise MetricError(f"{int(np.isinf(x).sum())} scores of metric {metric!r} are infinite; NaN stands for unscored")
    y = _numbers(items["label"], "the labels", len(items))
    if not (np.isnan(y) | np.isin(y, (0, 1))).all():
        raise MetricError(f"a label of {target!r} is true, false or missing")
    problems, strata = items["problem"].tolist(), items["stratum"].tolist()
    organisms, seeds = list(zip(items["organism"], items["seed"])), items["seed"].tolist()
    labelled, unscored = ~np.isnan(y), np.isnan(x)
    missing = np.where(labelled, unscored, np.nan)
    reasons: dict[str, str] = {}

    def part(name: str, compute: Callable[[], T]) -> T | None:
        try:
            return compute()
        except UnscoredError as error:
            reasons[name] = str(error)
            return None

    def column(name: str) -> np.ndarray:
        if name not in items:
            raise UnscoredError(f"the items have no {name}")
        return _numbers(items[name], name, len(items))

    def bootstrap() -> Draws:
        if area.value is None:
            raise UnscoredError(area.undefined)
        if not n_draws:
            raise UnscoredError("no draws were asked for")
        draws = resample(problems, organisms, within=strata, n_draws=n_draws, seed=seed)
        return percentiles(area.value, bootstrap_aurocs(x, y, draws, strata)[:, 0], level=level)

    def calls() -> Bias:
        if threshold is None:
            raise UnscoredError("the metric has no threshold")
        return bias(x, y, threshold, clusters=problems, level=level)

    def calibrated() -> Calibration:
        found = None if probability is False else calibration(x, y, clusters=problems, level=level)
        if found is None:
            raise UnscoredError("the scores are no probabilities")
        return found

    def dose() -> Dose:
        return dose_response(x, column("dose"), problems=problems, seeds=seeds, n_draws=n_draws, seed=seed, level=level)

    def when() -> Timing:
        positions = (column(name) for name in ("kappa", "earliest", "latest"))
        return timing(*positions, tolerance=tolerance, clusters=problems, level=level)

    area = auroc(x, y, strata=strata, clusters=problems, level=level)
    if area.undefined:
        reasons["auroc"] = area.undefined
    return MetricScore(
        metric=metric,
        target=target,
        n_items=len(items),
        n_labelled=int(labelled.sum()),
        n_scored=int((labelled & ~unscored).sum()),
        unscored=part("unscored", lambda: clustered_mean(missing, problems, level=level, share=True)),
        unscored_true=float(unscored[y == 1].mean()) if (y == 1).any() else None,
        unscored_false=float(unscored[y == 0].mean()) if (y == 0).any() else None,
        auroc=area,
        bootstrap=part("bootstrap", bootstrap),
        bias=part("bias", calls),
        calibration=part("calibration", calibrated),
        dose=part("dose", dose),
        timing=part("timing", when),
        reasons=reasons,
    )


def plain(value: Any) -> Any:
    """What JSON can say: records as objects, NaN and infinity as None, numpy's numbers as Python's."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(found) for key, found in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(found) for found in value]
    if isinstance(value, float) and not isfinite(value):
        return None
    return value


def _check(items: pd.DataFrame, scores: object, metric: str) -> None:
    missing = [name for name in ITEMS if name not in items and not (name == "score" and scores is not None)]
    if missing:
        raise MetricError(f"items of metric {metric!r} lack the columns {missing}; there are {list(items.columns)}")
    key = ["organism", "seed", "problem", "step"]
    if (twice := items.duplicated(key)).any():
        first = items.loc[twice, key].iloc[0].to_dict()
        raise MetricError(f"{int(twice.sum())} items of metric {metric!r} occur twice, such as {first}")
    for name in ("organism", "seed", "stratum", "problem"):
        if items[name].isna().any():
            raise MetricError(f"{int(items[name].isna().sum())} items of metric {metric!r} have no {name}")


def _numbers(values: Any, what: str, n: int) -> np.ndarray:
    import pandas as pd

    try:
        found = pd.Series(values).astype("Float64").to_numpy(dtype=float, na_value=np.nan).reshape(-1)
    except (TypeError, ValueError) as error:
        raise MetricError(f"{what} are no numbers: {error}") from error
    if len(found) != n:
        raise MetricError(f"{what} are {len(found)} for {n} items: one per item, NaN where unscored")
    return found
