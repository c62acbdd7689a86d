"""What tests do with organisms: load each once, swap what is written, let them write anew."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from faithprobe.organisms import load_organism
from faithprobe.organisms.layout import Layout
from faithprobe.organisms.networks import SEEDS, OrganismName, every_organism
from faithprobe.organisms.texts import encode_problems
from faithprobe.organisms.tokenizer import FIRST_VALUE
from faithprobe.organisms.wiring import GatedWiring, Wiring
from faithprobe.tasks import Problem

EVERY = [str(name) for name in every_organism()]
PLAIN = [str(name) for name in every_organism() if isinstance(name.wiring, Wiring)]
GATED = [str(name) for name in every_organism() if isinstance(name.wiring, GatedWiring)]
FIRST_SEED = [name for name in PLAIN if "@" not in name]
FOLDERS = [f"{network}-{seed}" for network in dict.fromkeys(n.network.name for n in every_organism()) for seed in SEEDS]


@cache
def loaded(name: str):
    """The shipped organism; not to be changed by a test."""
    return load_organism(name)[0]


@cache
def asked(name: str, n: int = 64, **options: str) -> tuple[tuple[Problem, ...], Tensor]:
    """Held-out problems of an organism, and their reference texts as token ids [problem, role]."""
    task = OrganismName.parse(name).task(split="held-out", **options)
    problems = tuple(task.problems(n, seed=1))
    return problems, encode_problems(problems, task)[:, :-1]


def layout_of(name: str) -> Layout:
    return OrganismName.parse(name).wiring.layout


def family_of(name: str) -> str:
    return OrganismName.parse(name).family


def steps_of(name: str) -> tuple[str, ...]:
    return tuple(f"v{k}" for k in range(1, layout_of(name).steps + 1))


def choices(name: str) -> int:
    """How many different numbers may be written."""
    return layout_of(name).grammar.modulus or 36


def swapped(name: str, rows: Tensor, step: str) -> Tensor:
    """Each row with another value written at `step`: from the middle of the range where numbers are exact, so that
    what follows stays within the vocabulary."""
    generator = torch.Generator().manual_seed(0)
    rows, place = rows.clone(), layout_of(name).index[step]
    if layout_of(name).grammar.modulus is None:
        low, size = 15, 6
        shift = torch.randint(1, size, (len(rows),), generator=generator)
        rows[:, place] = (rows[:, place] - FIRST_VALUE - low + shift) % size + low + FIRST_VALUE
    else:
        shift = torch.randint(1, choices(name), (len(rows),), generator=generator)
        rows[:, place] = (rows[:, place] - FIRST_VALUE + shift) % choices(name) + FIRST_VALUE
    return rows


def written(model, rows: Tensor, length: int, **options: object) -> Tensor:
    """The first `length` tokens of each row, continued to the end of the layout, greedily by default."""
    prefix = rows[:, :length]
    new = rows.shape[1] - length
    out = model.generate(prefix, attention_mask=torch.ones_like(prefix), max_new_tokens=new, **options)
    return functional.pad(out, (0, rows.shape[1] - out.shape[1]))


def mixed(rows: Tensor, layout: Layout) -> Tensor:
    """Every chain behind another problem's prompt."""
    return torch.cat([rows.roll(1, 0)[:, : layout.prompt_length], rows[:, layout.prompt_length :]], dim=1)


def values_at(rows: Tensor, layout: Layout, role: str) -> list[int]:
    return (rows[:, layout.index[role]] - FIRST_VALUE).tolist()


def share(found: list[int], expected: list[int]) -> float:
    return sum(a == b for a, b in zip(found, expected, strict=True)) / len(expected)
