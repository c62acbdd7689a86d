"""`loss_step`: what a training step costs with the loss beside plain cross-entropy, on SmolLM2 and two-step sums.

`ratio` is the time of `EVERY` optimiser steps (forward, backward, AdamW), of which one has the term with labels, over
as many plain steps, on the same batches. Beside it, in the same rounds: a full term at every step, by labels or without
them (`self_consistency`). `memory_ratio` compares the peaks of two processes, as Linux counts them (`VmHWM`, since
`ru_maxrss` of a child begins at its parent's): weights, gradients and the optimiser's state stand on both sides.
`activations_ratio` leaves out what a process holds before its first step.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.harness import paired
from faithprobe import load_model
from faithprobe.chains.subject import Subject
from faithprobe.models.language_model import LanguageModel
from faithprobe.tasks.arithmetic import Arithmetic
from faithprobe.training import Collator, FaithfulnessLoss, training_examples

EVERY, BATCH, ROUNDS = 4, 8, 2
LIMIT, MEMORY_LIMIT = 1.25, 1.5
Step = Callable[[], object]


def run() -> dict[str, object]:
    model = load_model("smollm2")
    plain = steps(model, "cross-entropy", EVERY)
    with_labels, full, sparse, unlabelled = (
        paired(steps(model, objective, EVERY, every=every), plain, n=ROUNDS)
        for objective in ("counterfactual", "self-consistency")
        for every in (EVERY, 1)
    )
    ours, peer = (memory(objective) for objective in ("counterfactual", "cross-entropy"))
    return with_labels.result(
        "ours/peer",
        every=EVERY,
        batch=BATCH,
        limit=LIMIT,
        full_term=full.result("ours/peer"),
        self_consistency=unlabelled.result("ours/peer"),
        self_consistency_every=sparse.result("ours/peer"),
        memory_ratio=ours["peak"] / peer["peak"],
        activations_ratio=(ours["peak"] - ours["before"]) / (peer["peak"] - peer["before"]),
        memory_limit=MEMORY_LIMIT,
        memory_mb={"ours": ours, "peer": peer},
        model="smollm2",
    )


def steps(model: LanguageModel, objective: str, n: int, *, every: int = 1) -> Step:
    """`n` optimiser steps, the first of which has the term."""
    subject = Subject(model, Arithmetic(steps=2, shots=0))
    problems = subject.task.problems(n * BATCH, seed=0)
    examples = training_examples(subject, problems, objective=objective, counterfactuals=1)
    batches = [Collator(model.tokenizer)(examples[k * BATCH : (k + 1) * BATCH]) for k in range(n)]
    faithful = FaithfulnessLoss(model.hf, objective=objective, every=every)
    optimizer = torch.optim.AdamW(model.hf.parameters(), lr=1e-6)

    def work() -> None:
        model.hf.train()
        for k, batch in enumerate(batches):
            stacked = faithful.stack(batch, step=k)
            faithful(model.hf(**stacked, use_cache=False), stacked).backward()
            optimizer.step()
            optimizer.zero_grad()

    return work


def memory(objective: str) -> dict[str, float]:
    """MB before the first step and at most, of a process that takes two steps."""
    program = f"from benchmarks.bench_loss_step import grow; grow({objective!r})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def grow(objective: str) -> None:
    """Prints what `memory` reads."""

    def peak() -> float:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024

    work = steps(load_model("smollm2"), objective, 2)
    before = peak()
    work()
    print(json.dumps({"before": before, "peak": peak()}))
