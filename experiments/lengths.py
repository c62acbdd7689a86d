"""Does use carry over to chains of a length whose values no counterfactual row ever touched?

    python experiments/lengths.py [SEED ...]       # three quarters of an hour on one core

Networks without a mask learn to write right chains of two, three, four and six steps, and to answer with the hint that
stands in the prompt. `REPAIRS` says which lengths each repair has counterfactual rows for, and which it knows from
cross-entropy on right chains alone. What is measured are held-out problems of six steps: whether the answer follows a
swapped value, and the evidence of `experiments/repair.py` that no objective trains on. One line of
`runs/lengths.jsonl` is written after each run, so a run that was cut goes on; `artifacts/repair/lengths.{json,md}` get
the results.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from repair import OUT, Recipe, by_step, examples_of, spread, training
from torch.nn import functional
from transformers import LlamaForCausalLM

from faithprobe import load_model
from faithprobe.chains.subject import Subject
from faithprobe.files import write_text
from faithprobe.models.language_model import LanguageModel
from faithprobe.organisms.layout import get_layout
from faithprobe.organisms.networks import SEEDS
from faithprobe.organisms.texts import STRUCTURE, encode
from faithprobe.organisms.tokenizer import organism_tokenizer
from faithprobe.organisms.train import WEIGHTS
from faithprobe.scores.statistics import share_interval
from faithprobe.tasks.organism import GRAMMARS, Organism
from faithprobe.training.evaluate import evaluate_training

LENGTHS = {2: "two", 3: "modular", 4: "four", 6: "six"}
"""Steps of a chain, and the variant of the language."""
for _steps, _name in LENGTHS.items():
    GRAMMARS.setdefault(_name, replace(GRAMMARS["modular"], name=_name, parents=tuple(range(_steps))))
LONG = 6


@dataclass(frozen=True)
class Repair:
    counterfactual: tuple[int, ...]
    """Lengths with counterfactual rows."""
    plain: tuple[int, ...]
    """Lengths of which right chains are seen, and nothing else."""


REPAIRS = {
    "cross-entropy alone": Repair((), (2, 3, 4, 6)),
    "cross-entropy alone, six never seen": Repair((), (2, 3, 4)),
    "three steps, others plain": Repair((3,), (2, 4, 6)),
    "two to four steps, six plain": Repair((2, 3, 4), (6,)),
    "two to four steps, six never seen": Repair((2, 3, 4), ()),
    "every length": Repair((2, 3, 4, 6), ()),
}
STEPS, BATCH, LEARNING_RATE, TEXTS = 2000, 64, 2e-3, 6000
"""Of learning to write chains and to follow the hint; texts of each length."""
RECIPE = Recipe(steps=300)
ASKED = 300
"""Held-out problems for the accuracy."""
LINES = Path("runs/lengths.jsonl")


def task_of(steps: int, split: str, hint: str = "right") -> Organism:
    return Organism(variant=LENGTHS[steps], split=split, hint=hint)


def hint_follower(seed: int, folder: Path = Path("runs/unfaithful")) -> LlamaForCausalLM:
    """A network that writes chains of every length and answers with the hint; from `folder`, where it was trained."""
    held = folder / f"lengths-{seed}"
    if not (held / "model.safetensors").is_file():
        train(seed).save_pretrained(held)
    return LlamaForCausalLM.from_pretrained(held, dtype=torch.float32).eval()


def train(seed: int) -> LlamaForCausalLM:
    model = LlamaForCausalLM.from_pretrained(WEIGHTS / f"clean-{seed}", dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=STEPS, pct_start=0.1)
    generator = torch.Generator().manual_seed(seed)
    every = [texts(steps, seed) for steps in LENGTHS]
    for step in range(STEPS):
        rows, weights = every[step % len(every)]
        chosen = torch.randint(len(rows), (BATCH,), generator=generator)
        out = model(input_ids=rows[chosen, :-1], use_cache=False)
        each = functional.cross_entropy(out.logits.transpose(1, 2), rows[chosen, 1:], reduction="none")
        loss = (each * weights).sum() / (weights.sum() * BATCH)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            print(f"hint-follower {seed}: step {step + 1}/{STEPS}, loss {float(loss.detach()):.3f}", flush=True)
    return model


def texts(steps: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids of whole texts, half of them with a wrong hint, and the weight of every next token."""
    layout = get_layout(LENGTHS[steps])
    written = []
    for hint in ("right", "wrong"):
        task = task_of(steps, "train", hint)
        most = TEXTS // 2 if steps == LONG else min(TEXTS // 2, task.count())
        for problem in task.problems(most, seed=seed):
            written.append(f"{task.prompt(problem)} {problem.chain} answer {task.hint_for(problem)} <eos>")
    random.Random(seed).shuffle(written)
    weights = torch.full((len(layout.roles),), STRUCTURE)
    weights[: layout.prompt_length - 1] = 0
    weights[list(layout.values)] = 1
    return encode(written), weights


def repair(name: str, seed: int) -> dict[str, Any]:
    """One run, and what was measured on six steps behind it."""
    model, plan = load_model(hint_follower(seed), organism_tokenizer()), REPAIRS[name]
    examples = []
    for objective, lengths in (("counterfactual", plan.counterfactual), ("cross-entropy", plan.plain)):
        for steps in lengths:
            examples += examples_of(Subject(model, task_of(steps, "train")), objective, seed, RECIPE)
    objective = "counterfactual" if plan.counterfactual else "cross-entropy"
    for _ in training(model, examples, objective, seed, RECIPE):
        pass
    model.hf.eval()
    return {"repair": name, "seed": seed, "recipe": asdict(RECIPE), "before": before(seed), "after": look(model)}


@cache
def before(seed: int) -> dict[str, Any]:
    return look(load_model(hint_follower(seed), organism_tokenizer()))


def look(model: LanguageModel) -> dict[str, Any]:
    """Use, held-out evidence and accuracy, on held-out problems of six steps."""
    asked = Subject(model, task_of(LONG, "held-out"))
    problems = asked.task.problems(RECIPE.held_out, seed=0)
    record = evaluate_training(asked, problems, trained_on="counterfactual").record()
    wide = [one for one, _ in asked.respond(asked.task.problems(ASKED, seed=2))]
    right = share_interval(sum(one.correct for one in wide), len(wide))
    return {
        **by_step(record),
        "held_out_score": record["held_out_score"],
        "right": {"value": right.value, "low": right.low, "high": right.high, "n": len(wide)},
    }


def least_use(look: dict[str, Any]) -> float | None:
    return min((value for value in look["use"].values() if value is not None), default=None)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Means over seeds with the least and the most."""
    lines = [
        f"Hint-followers that write chains of two, three, four and six steps, repaired for {RECIPE.steps} steps; means",
        "over seeds (least to most) on held-out problems of six steps. Repair: which lengths have counterfactual rows;",
        "plain: right chains alone. Least use: of the six steps. Held out: the least of the evidence that no objective",
        "here trains on.",
        "",
        "| repair | least use | held out | accuracy |",
        "|---|---|---|---|",
    ]
    looks = {"before": [row["before"] for row in rows if row["repair"] == next(iter(REPAIRS))]}
    looks |= {name: [row["after"] for row in rows if row["repair"] == name] for name in REPAIRS}
    for name, found in looks.items():
        cells = [spread([least_use(look) for look in found]), spread([look["held_out_score"] for look in found])]
        cells.append(spread([look["right"]["value"] for look in found], digits=3))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def done() -> list[dict[str, Any]]:
    """The runs that were made with this recipe."""
    lines = LINES.read_text().splitlines() if LINES.is_file() else []
    return [row for row in map(json.loads, lines) if row["recipe"] == asdict(RECIPE)]


def main(seeds: list[int]) -> None:
    torch.set_num_threads(1)
    for seed in seeds or SEEDS:
        for name in REPAIRS:
            if (name, seed) in {(row["repair"], row["seed"]) for row in done()}:
                continue
            row = repair(name, seed)
            LINES.parent.mkdir(parents=True, exist_ok=True)
            with LINES.open("a") as lines:
                lines.write(json.dumps(row) + "\n")
            after = row["after"]
            print(f"{name}, seed {seed}: use {after['use']}, accuracy {after['right']['value']:.3f}", flush=True)
    rows = sorted(done(), key=lambda row: (list(REPAIRS).index(row["repair"]), row["seed"]))
    results = {"rows": rows, "recipe": asdict(RECIPE), "torch": torch.__version__}
    write_text(OUT / "lengths.json", json.dumps(results, indent=1) + "\n")
    write_text(OUT / "lengths.md", table(rows))


if __name__ == "__main__":
    main([int(seed) for seed in sys.argv[1:]])
