"""What tests of the loss train on: texts of one length whose token ids fit every small model, and such models."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from faithprobe.chains.subject import Subject
from faithprobe.training.batches import Collator
from faithprobe.training.examples import Example, training_examples
from tests.subjects import organism
from tests.tiny import tiny_model

ORGANISM = "clean/natural"
"""A language model without a mask of its own, which has learnt to write and to use chains of three values."""


def subject() -> Subject:
    return organism(ORGANISM)


@cache
def _examples(objective: str, counterfactuals: int, steps: tuple[str, ...] | None) -> tuple[Example, ...]:
    problems = subject().task.problems(32, seed=3)
    made = training_examples(
        subject(), problems, objective=objective, counterfactuals=counterfactuals, steps=steps, skip=True
    )
    return tuple(made)


def examples(
    n: int = 8,
    objective: str = "counterfactual",
    *,
    counterfactuals: int = 1,
    steps: tuple[str, ...] | None = None,
) -> list[Example]:
    """The first `n` that have a counterfactual. With one step and one counterfactual, each has one group."""
    found = _examples(objective, counterfactuals, steps)
    assert len(found) >= n
    return list(found[:n])


def batch_of(given: list[Example]) -> dict[str, Any]:
    return Collator(subject().model.tokenizer)(given)


def batch(n: int = 8, objective: str = "counterfactual", **options: Any) -> dict[str, Any]:
    return batch_of(examples(n, objective, **options))


def small(family: str = "llama", seed: int = 0, **overrides: Any) -> Any:
    """A random model in train mode, without dropout."""
    if family == "gpt2":
        overrides = {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0, **overrides}
    return tiny_model(family, seed, **overrides).train()


def plain(given: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors of a batch alone."""
    return {name: value for name, value in given.items() if isinstance(value, Tensor)}


def gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.detach().clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], *, within: float = 1e-5) -> None:
    """Every tensor agrees, within so much of the largest entry of any of them."""
    assert found.keys() == expected.keys()
    scale = max(float(value.abs().max()) for value in expected.values())
    assert scale > 0
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, rtol=0, atol=within * scale, msg=lambda text, n=name: f"{n}: {text}"
        )
