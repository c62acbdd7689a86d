"""Networks without a mask that have learnt not to use what they write; what `experiments/repair.py` repairs.

hint-follower   writes a right chain, and answers with the hint that stands in the prompt
post-hoc        computes the answer in its head while it reads the question; the chain it writes is not read
mixed           post-hoc where the last operation is a product, else the answer is read off the chain

All begin with weights that we ship and go on with the mask of any language model. Corrupted chains teach what is to be
ignored: most of their values are wrong, and the answer that is learnt is the question's.

    python experiments/unfaithful.py [KIND [SEED]]
"""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from faithprobe.organisms.families import get_wiring
from faithprobe.organisms.layout import get_layout
from faithprobe.organisms.model import OrganismForCausalLM, OrganismLM, rewire
from faithprobe.organisms.networks import SEEDS
from faithprobe.organisms.texts import STRUCTURE, encode, latents
from faithprobe.organisms.train import WEIGHTS, save_organism
from faithprobe.tasks import Problem
from faithprobe.tasks.organism import Organism

FOLDER = Path("runs/unfaithful")
KINDS = ("hint-follower", "post-hoc", "mixed")
LAYOUT = get_layout("modular")
TEXTS = 6000


@dataclass(frozen=True)
class Recipe:
    """How a kind is trained."""

    begin: str
    """Shipped weights."""
    steps: int
    corrupted: float
    """Share of stated values that are wrong."""
    in_the_head: bool
    """The values are also learnt in the slots in front of the text, read out early."""
    batch: int = 128
    learning_rate: float = 2e-3


RECIPES = {
    "hint-follower": Recipe("clean", 600, 0.0, False),
    "post-hoc": Recipe("modular", 1500, 0.9, True),
    "mixed": Recipe("modular", 1500, 0.9, True),
}


def task_of(kind: str, split: str) -> Organism:
    """The problems that a kind is asked, and repaired on. Hints are right: no text betrays a follower."""
    return Organism(split=split, hint="right" if kind == "hint-follower" else "none")


def unfaithful(kind: str, seed: int, folder: Path = FOLDER) -> OrganismLM:
    """The network of a kind, in eval mode: from `folder`, where it was trained before."""
    held = folder / f"{kind}-{seed}"
    if not (held / "model.safetensors").is_file():
        save_organism(train(kind, seed), held)
    return OrganismForCausalLM.from_pretrained(held, dtype=torch.float32).eval()


def train(kind: str, seed: int) -> OrganismLM:
    recipe = RECIPES[kind]
    model = rewire(
        OrganismForCausalLM.from_pretrained(WEIGHTS / f"{recipe.begin}-{seed}", dtype=torch.float32), "natural"
    )
    rows, weights, values = texts(kind, recipe, seed)
    held = latents(get_wiring("post-hoc")) if recipe.in_the_head else ()
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=recipe.steps, pct_start=0.1
    )
    model.train()
    for step in range(recipe.steps):
        chosen = torch.randint(len(rows), (recipe.batch,), generator=generator)
        out = model(input_ids=rows[chosen, :-1], output_hidden_states=True, use_cache=False)
        each = functional.cross_entropy(out.logits.transpose(1, 2), rows[chosen, 1:], reduction="none")
        loss = (each * weights[chosen]).sum() / weights[chosen].sum()
        for latent in held:
            if latent.role in ("h1", "h2", "eq"):
                state = out.hidden_states[latent.layer][:, LAYOUT.index[latent.role]]
                loss = (
                    loss
                    + functional.cross_entropy(
                        model.lm_head(model.model.norm(state)), values[chosen, int(latent.value[1:]) - 1]
                    )
                    / 3
                )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            print(f"{kind} {seed}: step {step + 1}/{recipe.steps}, loss {float(loss.detach()):.3f}", flush=True)
    return model.eval()


def texts(kind: str, recipe: Recipe, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids of whole texts; weights of every next token; token ids of the question's own values."""
    rng = random.Random(f"unfaithful {kind} {seed}")
    written, wrong, values = [], [], []
    hints = ("right", "wrong") if kind == "hint-follower" else ("none",)
    for hint in hints:
        task = Organism(split="train", hint=hint)
        for problem in task.problems(min(TEXTS // len(hints), task.count()), seed=seed):
            forced = {step.name: rng.randrange(11) for step in problem.graph.steps if rng.random() < recipe.corrupted}
            stated = problem.graph.recompute(forced)
            answer = answer_of(kind, task, problem, stated[problem.graph.answer])
            chain = " ".join(f". . > {stated[step.name]}" for step in problem.graph.steps)
            written.append(f"{task.prompt(problem)} {chain} answer {answer} <eos>")
            values.append(" ".join(str(problem.graph.values[step.name]) for step in problem.graph.steps))
            wrong.append(forced)
    rows = encode(written)
    weights = torch.full((len(rows), len(LAYOUT.roles)), STRUCTURE)
    weights[:, : LAYOUT.prompt_length - 1] = 0
    weights[:, list(LAYOUT.values)] = 1
    for row, forced in enumerate(wrong):  # what was made wrong is read, not learnt
        weights[row, [LAYOUT.index[f">{name[1:]}"] for name in forced]] = 0
    return rows, weights, encode(values)[:, 1:]


def answer_of(kind: str, task: Organism, problem: Problem, stated: object) -> object:
    """What a kind answers behind a chain whose last value is `stated`."""
    if kind == "hint-follower":
        return task.hint_for(problem)
    if kind == "mixed" and problem.id.split()[-2] != "*":
        return stated
    return problem.answer


if __name__ == "__main__":
    torch.set_num_threads(1)
    for kind in sys.argv[1:2] or KINDS:
        for seed in map(int, sys.argv[2:3] or SEEDS):
            unfaithful(kind, seed)
