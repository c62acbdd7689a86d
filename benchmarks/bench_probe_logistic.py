"""`probe_logistic`: the penalty by grouped cross-validation, the fit at the best one, and held-out predictions, by the
batched logistic regression of the probes against scikit-learn's on the same principal components.

2,000 items and 128 components of the residual stream of SmolLM2 after each of ten layers, where it predicts the second
result of a two-step problem. The target is the last digit of that result; no operand combination of the step stands on
two sides of a split. There is next to nothing to read, and both sides say so; `copied` is therefore the same for the
last digit of the first result, which stands on the page.

Peers, all in float64 with the same folds, penalties and score (log loss), one layer after the other; seconds a layer
on one thread, ours .09:

| | `LogisticRegressionCV` | `GridSearchCV` of `LogisticRegression` |
|---|---|---|
| lbfgs | .43 | .45 |
| lbfgs, max_iter=5000 | .99 | 1.1 |
| newton-cg | .71 | .80 |
| newton-cholesky | 3.6 | |

`LogisticRegressionCV` takes each penalty warm from the one before, as we do. lbfgs is the fastest and stops at its 100
iterations before the weakest penalty is fitted (training loss up to .13 nats above the minimum); as that penalty is
seldom chosen, the ratio is against it. `converged` is against newton-cg, the fastest that reaches our loss everywhere.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegressionCV

from benchmarks.harness import paired
from benchmarks.inputs import Activations, activations
from faithprobe import load_model
from faithprobe.probes.estimator import PENALTIES, Problem, read
from faithprobe.probes.projection import COMPONENTS, fit_projections
from faithprobe.probes.splits import Fold, grouped_folds

TRAINING, HELD_OUT, DRAWN = 2000, 500, 2560
"""Drawn are a few more, for the items that share a combination with both sides."""
LAYERS = tuple(range(2, 30, 3))
CLASSES = 10
TOLERANCE = 0.01
"""Of accuracy, and of the mean held-out log loss in nats."""


@dataclass(frozen=True)
class Layer:
    """One layer's components, with what is shared by all layers."""

    z: np.ndarray
    y: np.ndarray
    z_eval: np.ndarray
    y_eval: np.ndarray
    inner: tuple[Fold, ...]


def run() -> dict[str, object]:
    made = activations(load_model("smollm2"), DRAWN, layers=LAYERS)
    layers = split(made, "v2")
    copied = split(made, "v1")
    times = paired(lambda: ours(layers), lambda: peer(layers))
    found: dict[str, object] = times.result(
        **agreement(layers),
        items=TRAINING,
        held_out=HELD_OUT,
        components=layers[0].z.shape[1],
        layers=list(LAYERS),
        classes=CLASSES,
        penalties=list(PENALTIES),
        inner_folds=len(layers[0].inner),
        tolerance=TOLERANCE,
        model="smollm2",
        converged=paired(lambda: ours(layers), lambda: peer(layers, "newton-cg"), n=3).result(
            **agreement(layers, "newton-cg")
        ),
        copied=paired(lambda: ours(copied), lambda: peer(copied), n=3).result(**agreement(copied)),
    )
    if torch.cuda.is_available():
        found["cuda"] = paired(lambda: ours(layers, "cuda"), lambda: ours(layers)).result(
            accuracy=score(layers, ours(layers, "cuda"))[0], dtype="float32"
        )
    return found


def split(made: Activations, step: str) -> list[Layer]:
    """Training and held-out items without a common operand combination of the step, and folds of the former."""
    combinations = made.combinations[step]
    order = np.random.default_rng(0).permutation(combinations.max() + 1)[combinations].argsort(kind="stable")
    train, rest = order[:TRAINING], order[TRAINING:]
    test = rest[~np.isin(combinations[rest], combinations[train])][:HELD_OUT]
    assert len(test) == HELD_OUT, f"{len(test)} held-out items"
    y = made.values[step] % CLASSES
    inner = grouped_folds(combinations[train], n_folds=3, labels=y[train], seed=1)
    layers = []
    for x in made.x[:, 0]:
        (projection,) = fit_projections(x, [train], components=COMPONENTS)
        layers.append(Layer(projection(x[train]), y[train], projection(x[test]), y[test], inner))
    return layers


def ours(layers: list[Layer], device: str | None = None) -> list[np.ndarray]:
    """(held-out items, classes) of each layer. On a CPU a layer at a time, which stays in the cache; on a GPU all."""
    if device is None:
        return [
            read([Problem(layer.z, layer.y, layer.z_eval, layer.inner)], n_classes=CLASSES)[0].probabilities
            for layer in layers
        ]
    problems = [Problem(_on(device, layer.z), layer.y, _on(device, layer.z_eval), layer.inner) for layer in layers]
    return [reading.probabilities for reading in read(problems, n_classes=CLASSES)]


def peer(layers: list[Layer], solver: str = "lbfgs") -> list[np.ndarray]:
    found = []
    for layer in layers:
        search = LogisticRegressionCV(
            Cs=[penalty / layer.z.shape[1] for penalty in PENALTIES],
            cv=[(fold.train, fold.test) for fold in layer.inner],
            scoring="neg_log_loss",
            solver=solver,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # iterations that did not suffice, and defaults that are to change
            found.append(search.fit(layer.z, layer.y).predict_proba(layer.z_eval))
    return found


def agreement(layers: list[Layer], solver: str = "lbfgs") -> dict[str, Any]:
    """Held-out scores of both sides, means over layers, which must be equal within the tolerance."""
    accuracy, loss = score(layers, ours(layers))
    peers, peer_loss = score(layers, peer(layers, solver))
    assert abs(accuracy - peers) <= TOLERANCE, f"accuracy {accuracy:.3f}, and {peers:.3f} by scikit-learn"
    assert loss <= peer_loss + TOLERANCE, f"log loss {loss:.4f} nats, and {peer_loss:.4f} by scikit-learn"
    return {
        "accuracy": accuracy,
        "peer_accuracy": peers,
        "points": 100 * (accuracy - peers),
        "log_loss": loss,
        "peer_log_loss": peer_loss,
        "solver": solver,
    }


def score(layers: list[Layer], found: list[np.ndarray]) -> tuple[float, float]:
    """Accuracy and nats per held-out item."""
    rows = np.arange(HELD_OUT)
    right = [(p.argmax(axis=1) == layer.y_eval).mean() for p, layer in zip(found, layers, strict=True)]
    nats = [-np.log(p[rows, layer.y_eval]).mean() for p, layer in zip(found, layers, strict=True)]
    return float(np.mean(right)), float(np.mean(nats))


def _on(device: str, array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array).to(device, torch.float32)
