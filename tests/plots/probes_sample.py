"""A probe run as `faithprobe probe` makes it, with numbers that are set by hand: what a report must be able to show."""

from __future__ import annotations

from collections.abc import Sequence
from math import log2
from typing import Any

import pandas as pd

from faithprobe.scores.probe_tables import SOURCES

ENTROPY = {"class": log2(53), "last digit": log2(10), "parity": 1.0, "mod 3": log2(3)}
SITES = {"before": 0.05, "ahead": 0.4, "predicting": 0.9}
"""Position: the share of a target's entropy that the best layer tells."""
INFO: dict[str, Any] = {
    "model": "SmolLM2-360M",
    "fingerprint": "06b4bbff2e4eb8ce",
    "task": "arithmetic",
    "task_options": {"steps": 3},
    "problems": 2000,
    "seed": 7,
    "layers": [0, 6, 12, 18, 24, 30],
    "responses": "generated",
    "shuffles": 20,
    "processes": 1,
    "versions": {"faithprobe": "0.1.0", "torch": "2.6.0"},
    "command": "faithprobe probe --model SmolLM2-360M --task arithmetic --problems 2000 --out runs/probes",
    "seconds": 251.8,
    "date": "2026-01-02",
    "unscored": {"v3/ahead": "12 held-out operand combinations, at least 20 are needed"},
}


def sources(
    steps: Sequence[str] = ("v1", "v2", "v3"),
    targets: Sequence[str] = ("class", "last digit", "parity", "value"),
    layers: Sequence[int] = (0, 6, 12, 18, 24, 30),
    sites: Sequence[str] = tuple(SITES),
) -> pd.DataFrame:
    """Activations rise with depth to the layer before the last; text tells a fixed part, text-linear most of that."""
    rows: list[dict[str, Any]] = []
    best = layers[max(0, len(layers) - 2)]
    for number, step in enumerate(steps):
        for site in sites:
            for target in targets:
                entropy = ENTROPY.get(target)
                whole = 1.0 if entropy is None else entropy
                for index, layer in enumerate(layers):
                    depth = (index + 1) / len(layers) if layer <= best else 0.8
                    own = whole * SITES[site] * min(1.0, 0.15 + depth) * (1 - 0.15 * number)
                    common = {
                        "step": step,
                        "position": site,
                        "target": target,
                        "measure": "R2" if entropy is None else "bits",
                        "layer": layer,
                        "entropy": entropy,
                        "chance": None if entropy is None else 2**-entropy,
                        "control": "",
                        "n": 380,
                        "items": 400,
                        "n_train": 1600,
                        "chosen": layer == best,
                    }
                    scores = {
                        "activations": own,
                        "text": 0.12 * whole,
                        "text-linear": whole * 0.1 * min(1.0, 0.3 + depth),
                        "embedding": -0.02 * whole,
                        "random twin": whole * (0.08 - 0.02 * index),
                    }
                    for source, score in scores.items():
                        row = {"source": source, "score": score, "low": score - 0.06 * whole}
                        row["high"] = score + 0.06 * whole
                        if entropy is not None:
                            right = min(1.0, 2**-entropy + 0.9 * max(0.0, score) / whole)
                            row |= {"accuracy": right, "accuracy_low": right - 0.04, "accuracy_high": right + 0.03}
                        rows.append(common | row)
                    shuffled = {"score": -0.03 * whole, "low": -0.08 * whole, "high": 0.01 * whole}
                    rows.append(common | {"source": "shuffled"} | shuffled)
                    beyond = own - 0.12 * whole
                    row = {"score": beyond, "low": beyond - 0.07 * whole, "high": beyond + 0.07 * whole}
                    if entropy is not None:
                        rows.append(common | {"source": "control task", "accuracy": 0.3})
                        right = min(1.0, 2**-entropy + 0.9 * own / whole)
                        row |= {"accuracy": right - 0.3, "accuracy_low": right - 0.35, "accuracy_high": right - 0.24}
                    rows.append(common | row | {"source": "beyond control", "control": "text"})
    return pd.DataFrame(rows, columns=list(SOURCES))
