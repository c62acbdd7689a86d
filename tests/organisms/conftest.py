from __future__ import annotations

import pytest
import torch

from faithprobe.organisms import load_organism
from faithprobe.organisms.train import encode_problems
from faithprobe.tasks.organism import Organism


@pytest.fixture(scope="session")
def organisms() -> dict:
    """The shipped organisms by name: (model, tokenizer). Not to be changed by a test."""
    return {name: load_organism(name) for name in ("faithful", "post-hoc", "commit")}


@pytest.fixture(scope="session")
def held_out() -> list:
    """All problems that no organism was trained on."""
    task = Organism(split="held-out")
    return task.problems(len(task))


@pytest.fixture(scope="session")
def rows(held_out) -> torch.Tensor:
    """Their reference texts as token ids [problem, 25], without the end token."""
    return encode_problems(held_out)[:, :-1]
