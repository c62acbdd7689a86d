"""The probe loss fools fresh probes: what it raises is what can be read, not what is used.

    python experiments/probe_loss.py        # about 10 minutes on two cores

Hint-followers (`experiments/unfaithful.py`) are trained for 200 steps through a linear probe, and for as long by plain
cross-entropy. Before and after, new probes (scikit-learn's logistic regression) are fitted at the layer that was
trained on and at the others, to every stated value at the position that predicts it, on training problems; their
accuracy is that on held-out problems. Control: the same with the labels shuffled among the training problems. Use is
swap-and-regenerate. Results in `artifacts/repair/probe_loss.json` and `.md`.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from repair import Recipe, repair
from sklearn.linear_model import LogisticRegression
from unfaithful import task_of, unfaithful

from faithprobe import load_model
from faithprobe.chains.capture import record_forced
from faithprobe.chains.subject import Subject
from faithprobe.files import write_text
from faithprobe.metrics.traces import forced_chains
from faithprobe.models.language_model import LanguageModel
from faithprobe.organisms.networks import SEEDS
from faithprobe.organisms.tokenizer import organism_tokenizer

OUT = Path("artifacts/repair")
KIND, FITTED, TESTED = "hint-follower", 600, 300
STEPS = ("v1", "v2", "v3")


def states(model: LanguageModel, split: str, n: int) -> tuple[np.ndarray, np.ndarray]:
    """[problem, step, layer, d_model] at the predicting positions, and [problem, step] the stated values."""
    subject = Subject(model, task_of(KIND, split))
    chains = list(forced_chains(subject, subject.task.problems(n, seed=5), like=" "))
    positions = [[chain.literals[step].predicting for step in STEPS] for chain in chains]
    sites = model.sites.resid_post()
    rows = [chain.tokens for chain in chains]
    found: dict[int, np.ndarray] = {}
    for one in record_forced(model, rows, positions, sites, prefixes=subject.prefixes):
        found[one.index] = one.activations.numpy()
    values = np.array([[chain.literals[step].value for step in STEPS] for chain in chains])
    return np.stack([found[i] for i in range(len(chains))]), values


def probed(model: LanguageModel, seed: int) -> dict[str, dict[str, list[float]]]:
    """By step, held-out accuracy of fresh probes at every layer, and of probes for shuffled labels."""
    (x, y), (x_test, y_test) = states(model, "train", FITTED), states(model, "held-out", TESTED)
    rng, found = np.random.default_rng(seed), {}
    for k, step in enumerate(STEPS):
        accuracy, control = [], []
        for layer in range(x.shape[2]):
            for labels, into in ((y[:, k], accuracy), (rng.permutation(y[:, k]), control)):
                probe = LogisticRegression(C=1.0, max_iter=2000).fit(x[:, k, layer], labels)
                into.append(float(probe.score(x_test[:, k, layer], y_test[:, k])))
        found[step] = {"accuracy": accuracy, "shuffled": control}
    return found


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for seed in SEEDS:
        for objective in ("cross-entropy", "probe"):
            model = load_model(unfaithful(KIND, seed), organism_tokenizer())
            before = probed(model, seed)
            curve = repair(KIND, objective, seed, Recipe(), model=model)["curve"]
            model.hf.eval()
            after = probed(model, seed)
            use = {step: score["value"] for step, score in curve[-1]["evaluation"]["by_step"]["swap"].items()}
            rows.append({"seed": seed, "objective": objective, "before": before, "after": after, "use_after": use})
            print(objective, seed, {step: after[step]["accuracy"] for step in STEPS}, use, flush=True)
    write_text(OUT / "probe_loss.json", json.dumps({"rows": rows, "torch": torch.__version__}, indent=1) + "\n")
    write_text(OUT / "probe_loss.md", table(rows))


def table(rows: list[dict]) -> str:
    """Means over seeds and steps, by layer."""
    lines = [
        "| trained by | layer | fresh probes before | after | shuffled labels, after | use after |",
        "|---|---|---|---|---|---|",
    ]
    for objective in ("cross-entropy", "probe"):
        own = [row for row in rows if row["objective"] == objective]
        for layer in range(len(own[0]["after"]["v1"]["accuracy"])):
            cells = [
                fmean(row[when][step][what][layer] for row in own for step in STEPS)
                for when, what in (("before", "accuracy"), ("after", "accuracy"), ("after", "shuffled"))
            ]
            use = fmean(value for row in own for value in row["use_after"].values() if value is not None)
            lines.append(f"| {objective} | {layer} | " + " | ".join(f"{cell:.2f}" for cell in (*cells, use)) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
