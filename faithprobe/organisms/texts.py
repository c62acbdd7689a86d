"""What a network is trained on: texts as token ids, with the weight of every predicted token."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from faithprobe.organisms.families import get_wiring
from faithprobe.organisms.layout import get_layout
from faithprobe.organisms.networks import Network
from faithprobe.organisms.tokenizer import organism_tokenizer
from faithprobe.organisms.wiring import GatedWiring, Wiring
from faithprobe.tasks.organism import Organism
from faithprobe.tasks.task import Problem

MOST_TEXTS = 20_000
STRUCTURE = 0.03
"""Weight of the dots, `>`, `answer` and the end, beside 1 for values and answer; .1 makes learning two to three times
slower."""


@dataclass(frozen=True)
class Latent:
    """A value that a role must hold after a layer for others to read: what the text gives no signal about."""

    role: str
    layer: int
    value: str


@dataclass(frozen=True)
class Source:
    """Texts that are learnt under one wiring."""

    wiring: Wiring
    rows: Int[Tensor, "text position"]
    """Whole texts, `<eos>` included."""
    weights: Float[Tensor, "text position-1"]
    """Of predicting the next token at each position; one position less than `rows`."""
    latents: tuple[Latent, ...]


def sources(network: Network, *, split: str = "train", seed: int = 0) -> list[Source]:
    """One for every family that is learnt; what a gate only mixes from others is left out."""
    found = []
    for family in network.families:
        wiring = get_wiring(family, network.variant)
        if isinstance(wiring, Wiring):
            found.append(_source(network, wiring, family, split, seed))
        elif family == "hint":
            found.append(_source(network, wiring.then, family, split, seed))
    return found


def texts_of(network: Network, family: str, *, split: str, n: int | None = None) -> Int[Tensor, "text position"]:
    """Reference texts of one family, as it should write them: for testing how exactly it does. Shared: copy before
    writing into it."""
    return _texts(network.variant, family if family in ("hint", "filler") else "", split, n or MOST_TEXTS)


@lru_cache(maxsize=8)  # most families write the same
def _texts(variant: str, kind: str, split: str, n: int) -> Int[Tensor, "text position"]:
    hint = "wrong" if kind == "hint" else "none"
    task = Organism(variant=variant, split=split, silent=kind == "filler", hint=hint)
    return encode([_text(task, problem, told=kind == "hint") for problem in _problems(task, n)])


def encode(texts: Sequence[str]) -> Int[Tensor, "text position"]:
    return torch.tensor(organism_tokenizer()(list(texts))["input_ids"])


def encode_problems(problems: Sequence[Problem], task: Organism | None = None) -> Int[Tensor, "text position"]:
    """Token ids of whole reference texts: the positions of the layout, then `<eos>`."""
    task = task or Organism()
    return encode([_text(task, problem) for problem in problems])


def _problems(task: Organism, most: int) -> list[Problem]:
    """All problems of the split, or `most` of them."""
    everything = task.grammar.size < 100_000
    return task.problems(min(most, task.count()) if everything else most, seed=0)


def _source(network: Network, wiring: Wiring, family: str, split: str, seed: int) -> Source:
    layout = get_layout(network.variant)
    rng = random.Random(f"{network.name} {family} {seed}")
    task = Organism(variant=network.variant, split=split, silent=family == "filler")
    tasks = [task]
    if family == "hint":
        tasks = [Organism(variant=network.variant, split=split, hint=kind) for kind in ("right", "wrong")]
    texts, wrong = [], []
    for asked in tasks:
        for problem in _problems(asked, MOST_TEXTS):
            forced = {
                f"v{k}": rng.randrange(asked.grammar.modulus or 1)
                for k in range(1, layout.steps + 1)
                if (family == "dice" and k == 1) or rng.random() < network.corrupted
            }
            texts.append(_text(asked, problem, told=family == "hint", forced=forced))
            wrong.append(forced)
    weights = torch.full((len(texts), len(layout.roles)), STRUCTURE)
    weights[:, : layout.prompt_length - 1] = 0
    weights[:, list(layout.values)] = 1
    if network.corrupted:  # what was made wrong is read, not learnt
        for row, forced in enumerate(wrong):
            weights[row, [layout.index[f">{value[1:]}"] for value in forced]] = 0
    return Source(wiring, encode(texts), weights, () if family == "natural" else latents(wiring))


def _text(task: Organism, problem: Problem, *, told: bool = False, forced: dict[str, int] | None = None) -> str:
    """Prompt and response; with `told` the answer is the hint, with `forced` some values are others and what depends
    on them follows."""
    prompt = task.prompt(problem)
    chain, answer = problem.chain, problem.answer_line
    if forced:
        values = problem.graph.recompute(forced)
        chain = " ".join(f". . > {values[step.name]}" for step in problem.graph.steps)
        answer = f"answer {values[problem.graph.answer]}"
    if told:
        answer = f"answer {task.hint_for(problem)}"
    return f"{prompt} {chain} {answer} <eos>"


def latents(wiring: Wiring | GatedWiring) -> tuple[Latent, ...]:
    """Where a wiring needs a value that is not predicted there: at every role that reads a step's operands and is read
    by another role."""
    if isinstance(wiring, GatedWiring):
        return tuple(dict.fromkeys(latents(wiring.then) + latents(wiring.otherwise)))
    layout = wiring.layout
    read = {edge.read for edge in wiring.edges}
    found = []
    for k in range(1, layout.steps + 1):
        for role in (layout.slot(k), f"dot{k}a", f">{k}"):
            at = [min(edge.layers) for edge in wiring.edges if edge.reader == role and edge.read == f"op{k}"]
            if at and role in read:
                found.append(Latent(role, at[0], f"v{k}"))
    return tuple(found)
