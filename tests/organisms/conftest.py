from __future__ import annotations

import pytest
import torch

from faithprobe.organisms import load_organism
from faithprobe.tasks.organism import Organism
from tests.organisms.runs import asked


@pytest.fixture(scope="session")
def organisms() -> dict:
    """Some shipped organisms by name: (model, tokenizer). Not to be changed by a test."""
    return {name: load_organism(name) for name in ("faithful", "post-hoc", "commit")}


@pytest.fixture(scope="session")
def held_out() -> list:
    """All problems of the first variant that no organism was trained on."""
    return list(asked("faithful", Organism(split="held-out").count())[0])


@pytest.fixture(scope="session")
def rows(held_out) -> torch.Tensor:
    """Their reference texts as token ids [problem, role], without the end token."""
    return asked("faithful", len(held_out))[1]
