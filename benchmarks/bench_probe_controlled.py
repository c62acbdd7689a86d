"""`probe_controlled`: ridge in every layer and at every position, penalties chosen by leaving whole operand
combinations out, with 50 label shuffles, against the best single scikit-learn call for the same columns.

That call is `RidgeCV(alpha_per_target=True)` on standardised features, all targets at once: one decomposition for all
penalties and targets, leaving out single items in closed form. It cannot leave out groups; the only scikit-learn call
that can, `RidgeCV(cv=GroupKFold)`, refits every fold and penalty, chooses one penalty for all targets, and takes
several times as long (`grouped_s`). The loop over shuffles that people write, a `RidgeCV` for each, stands beside it
(`loop_s`).

The last digit, one-hot, is there to show what leaving out single items costs: its penalty then overfits, and the score
on unseen combinations falls far below that of the mean.

Ours fits as many layers at once as there are threads; scikit-learn's products have the same threads. Held-out scores
are on operand combinations that neither has seen: of the second step's value, its product with the first one, which no
sum of operands gives, and its last digit.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.harness import Paired, seconds
from benchmarks.inputs import activations
from faithprobe import load_model
from faithprobe.probes.leave_out import deal, fit_all

LAYERS, POSITIONS, TRAIN, HELD_OUT, SHUFFLES = 30, 20, 2000, 500, 50
PENALTIES = np.logspace(-4, 4, 11)
CHUNKS = 10

Said = list[np.ndarray]
"""(items, targets) predictions in each cell."""


def run() -> dict[str, object]:
    found = activations(load_model("smollm2"), 2600, layers=range(LAYERS), back=range(POSITIONS))
    groups = found.combinations["v2"]
    rng = np.random.default_rng(0)
    order = rng.permutation(groups.max() + 1)[groups]
    by_group = np.argsort(order, kind="stable")
    # a combination that stands on both sides of the cut is left out of the held-out items
    train = by_group[:TRAIN]
    test = by_group[TRAIN:][~np.isin(groups[by_group[TRAIN:]], groups[train])][:HELD_OUT]
    values = found.values["v2"][:, None].astype(float)
    shuffled = np.stack([rng.permutation(values[train, 0]) for _ in range(SHUFFLES)], axis=1)
    y = np.concatenate([values[train], shuffled], axis=1)
    product = values * found.values["v1"][:, None]
    digit = np.eye(10)[np.abs(found.values["v2"]) % 10]
    parts = deal(groups[train])

    def ours(cells: list[np.ndarray], y: np.ndarray) -> Said:
        fits = fit_all(
            [torch.from_numpy(x[train]) for x in cells],
            torch.from_numpy(y),
            parts,
            [slice(k, k + 1) for k in range(y.shape[1])],
            penalties=PENALTIES.tolist(),
            classes=False,
        )
        return [f.predict(torch.from_numpy(x[test])).numpy() for f, x in zip(fits, cells, strict=True)]

    def peer(cells: list[np.ndarray], y: np.ndarray) -> Said:
        said = []
        for x in cells:
            ridge = RidgeCV(PENALTIES * TRAIN, alpha_per_target=True)
            predicted = make_pipeline(StandardScaler(), ridge).fit(x[train], y).predict(x[test])
            said.append(predicted.reshape(len(test), -1))
        return said

    def r2(said: Said, target: np.ndarray) -> np.ndarray:
        """(cells,) on held-out combinations, of the first columns."""
        error = np.square(np.stack(said)[:, :, : target.shape[1]] - target[test]).sum(axis=(1, 2))
        return 1 - error / np.square(target[test] - target[train].mean(axis=0)).sum()

    cells = [found.x[layer, position] for layer in range(LAYERS) for position in range(POSITIONS)]
    rng.shuffle(cells)
    ours(cells[:4], y)
    peer(cells[:2], y)
    times, scores = [], []
    for chunk in (cells[k::CHUNKS] for k in range(CHUNKS)):
        said: list[Said] = []
        times.append(tuple(seconds(partial(_keep, said, work, chunk, y)) for work in (ours, peer)))
        scores.append([r2(each, values) for each in said])
    score = np.concatenate(scores, axis=1)
    difference = score[0] - score[1]
    assert difference.mean() > -0.001, f"held-out R2 is lower than scikit-learn's by {-difference.mean():.4f}"
    some = cells[::CHUNKS]
    further = {
        name: {
            side: float(r2(work(some, target[train]), target).mean()) for side, work in (("ours", ours), ("peer", peer))
        }
        for name, target in (("v1 * v2", product), ("last digit of v2", digit))
    }
    warnings.filterwarnings("ignore", module="sklearn")

    def loop() -> None:
        z = StandardScaler().fit_transform(cells[0][train])
        for column in y.T:
            RidgeCV(PENALTIES * TRAIN).fit(z, column)

    def grouped() -> None:
        folds = list(GroupKFold(5).split(y, groups=groups[train]))
        make_pipeline(StandardScaler(), RidgeCV(PENALTIES * TRAIN, cv=folds)).fit(cells[0][train], y)

    result = Paired(tuple(a for a, _ in times), tuple(b for _, b in times)).result()
    per_cell = len(cells) / CHUNKS
    ours_each = float(np.median([a for a, _ in times])) / per_cell
    loop_s = seconds(loop)
    return result | {
        "cells": len(cells),
        "items": TRAIN,
        "features": int(cells[0].shape[1]),
        "targets": int(y.shape[1]),
        "penalties": len(PENALTIES),
        "ours_s_per_cell": ours_each,
        "peer_s_per_cell": float(np.median([b for _, b in times])) / per_cell,
        "loop_s": loop_s,
        "loop_ratio": loop_s / ours_each,
        "grouped_s": seconds(grouped),
        "held_out_r2": {"v2": {"ours": float(score[0].mean()), "peer": float(score[1].mean())}, **further},
        "held_out_r2_difference": {
            "mean": float(difference.mean()),
            "min": float(difference.min()),
            "max": float(difference.max()),
        },
        "threads": torch.get_num_threads(),
    }


def _keep(
    said: list[Said], work: Callable[[list[np.ndarray], np.ndarray], Said], cells: list[np.ndarray], y: np.ndarray
) -> None:
    said.append(work(cells, y))
