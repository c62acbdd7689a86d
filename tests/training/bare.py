"""The loss in a bare PyTorch loop, on a tiny random model: what every adapter must agree with."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch.nn import functional

from faithprobe.chains.subject import Subject
from faithprobe.tasks.arithmetic import Arithmetic
from faithprobe.training import Collator, FaithfulnessLoss, training_examples
from tests.tiny import tiny_language_model

RATE = 0.05
"""Of plain gradient descent: what follows a gradient's direction only would hide a wrong scale."""


@cache
def subject() -> Subject:
    return Subject(tiny_language_model("llama"), Arithmetic(steps=2, shots=0))


@cache
def _examples(n: int, objective: str) -> list[dict[str, Any]]:
    problems = subject().task.problems(2 * n)
    found = training_examples(subject(), problems, objective=objective, counterfactuals=1, steps=("v1",), skip=True)
    assert len(found) >= n
    return found[:n]


def examples(n: int, objective: str = "counterfactual") -> list[dict[str, Any]]:
    """With one counterfactual each: with `share=1` there is nothing to draw."""
    return [dict(example) for example in _examples(n, objective)]


def batches(rows: Sequence[dict[str, Any]], size: int) -> list[dict[str, Any]]:
    collate = Collator(subject().model.tokenizer)
    return [collate(rows[first : first + size]) for first in range(0, len(rows), size)]


def train(
    model: Any, faithful: FaithfulnessLoss, parts: Sequence[dict[str, Any]], *, accumulate: int = 1
) -> list[dict[str, float]]:
    """One step of gradient descent for every `accumulate` batches; what each of them measured.

    Follows the cross-entropy of all tokens of a step, worked out by hand, and the mean of its batches' terms.
    """
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=RATE)
    logs = []
    model.train()
    for step, first in enumerate(range(0, len(parts), accumulate)):
        together = parts[first : first + accumulate]
        tokens = sum(int((part["labels"][:, 1:] != -100).sum()) for part in together)
        for part in together:
            batch = faithful.stack(part, step=step)
            out = model(**batch)
            predicted, labels = out.logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten()
            own = functional.cross_entropy(predicted, labels, ignore_index=-100, reduction="sum") / tokens
            (own + faithful.term(out, batch) / len(together)).backward()
            logs.append(faithful.logs)
        optimizer.step()
        optimizer.zero_grad()
    return logs


def distance(model: Any, other: Any) -> float:
    """The largest difference between the parameters of two models."""
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    return max(float((a.detach() - b.detach()).abs().max()) for a, b in pairs)
