"""Repairs networks that do not use what they write, by every objective: use per step, accuracy, held-out gap, cost.

    python experiments/repair.py [KIND ...]        # hint-follower, post-hoc, mixed; about 2 hours on two cores

Every run fine-tunes an unfaithful network (`experiments/unfaithful.py`) on right chains of training problems, by plain
cross-entropy and one objective beside it. What it is judged on are held-out problems, and evidence that the objective
does not train on: interchange of a literal's state, exchange of prompt and chain. One line of `runs/repair.jsonl` is
written after each run, so a run that was cut goes on; `artifacts/repair/` gets the table and the figure.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import chain, islice, repeat
from pathlib import Path
from statistics import fmean, median
from typing import Any

import plotly.graph_objects as go
import torch
from drawing import draw
from plotly.subplots import make_subplots
from torch.utils.data import DataLoader
from unfaithful import KINDS, LAYOUT, task_of, unfaithful

from faithprobe import load_model
from faithprobe.chains.subject import Subject
from faithprobe.files import write_text
from faithprobe.models.language_model import LanguageModel
from faithprobe.organisms.networks import SEEDS
from faithprobe.organisms.texts import encode_problems
from faithprobe.organisms.tokenizer import FIRST_VALUE, organism_tokenizer
from faithprobe.plots.palette import BLUE, GREY, ORANGE
from faithprobe.plots.theme import LIGHT
from faithprobe.scores.statistics import share_interval
from faithprobe.training import OBJECTIVES, Collator, FaithfulnessLoss, training_examples
from faithprobe.training.evaluate import evaluate_training
from faithprobe.training.examples import Example
from faithprobe.training.markovian import MarkovianSubject

LINES = Path("runs/repair.jsonl")
OUT = Path("artifacts/repair")
EVERY = 100
"""Steps between two looks at the held-out problems."""
ASKED = 500
"""Held-out problems for the accuracy."""
UNSEEN = (8, 9, 10)
"""Values that no counterfactual row of the training puts in place of a literal."""
LONGER = 300
"""Steps of a second run by our own objective."""
COSTED = 18
"""Steps for the cost of an objective."""


@dataclass(frozen=True)
class Recipe:
    """How a network is repaired; the same for every objective."""

    steps: int = 200
    batch: int = 64
    learning_rate: float = 1e-3
    problems: int = 600
    held_out: int = 48


def repair(
    kind: str, objective: str, seed: int, recipe: Recipe, *, model: LanguageModel | None = None
) -> dict[str, Any]:
    """One run: what was measured before, on the way and after."""
    model = model or load_model(unfaithful(kind, seed), organism_tokenizer())
    subject = Subject(model, task_of(kind, "train"))
    curve = [look(subject, kind, objective, 0, recipe)]
    examples = examples_of(subject, objective, seed, recipe)
    for step, _ in enumerate(training(model, examples, objective, seed, recipe), 1):
        if step % EVERY == 0:
            model.hf.eval()
            curve.append(look(subject, kind, objective, step, recipe))
    return {"kind": kind, "objective": objective, "seed": seed, "curve": curve, "recipe": asdict(recipe)}


def examples_of(subject: Subject, objective: str, seed: int, recipe: Recipe) -> list[Example]:
    """Right chains of training problems, with the objective's rows about other than the unseen values."""
    problems = subject.task.problems(recipe.problems, seed=seed)
    found = training_examples(subject, problems, objective=objective, skip=True)
    return [seen_values_only(example) for example in found]


def training(
    model: LanguageModel, examples: list[Example], objective: str, seed: int, recipe: Recipe
) -> Iterator[float]:
    """Trains the model in place; CPU seconds of each step, when it is done."""
    faithful = FaithfulnessLoss(model.hf, objective=objective, seed=seed)
    optimizer = torch.optim.AdamW(model.hf.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.05)
    loader = DataLoader(
        examples,
        batch_size=recipe.batch,
        shuffle=True,
        drop_last=True,
        collate_fn=Collator(model.tokenizer),
        generator=torch.Generator().manual_seed(seed),
    )
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, total_iters=recipe.steps)
    epochs = chain.from_iterable(repeat(loader))
    for step, batch in enumerate(islice(epochs, recipe.steps)):
        begin = time.process_time()
        model.hf.train()
        stacked = faithful.stack(batch, step=step)
        loss = faithful(model.hf(**stacked), stacked)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.hf.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        yield time.process_time() - begin
    faithful.close()


def costs(recipe: Recipe) -> dict[str, float]:
    """By objective, CPU time of a step over that of plain cross-entropy: medians of `COSTED` steps on one network."""
    found = {}
    for objective in OBJECTIVES:
        subject = Subject(load_model(unfaithful(KINDS[0], 0), organism_tokenizer()), task_of(KINDS[0], "train"))
        examples = examples_of(subject, objective, 0, recipe)
        found[objective] = median(training(subject.model, examples, objective, 0, replace(recipe, steps=COSTED)))
    return {objective: seconds / found["cross-entropy"] for objective, seconds in found.items()}


REPLACED = ("recomputed", "answered", "flipped", "untouched")
"""Variants of rows in which the literal itself is another."""


def seen_values_only(example: Example) -> Example:
    """Without the groups that put one of the unseen values in place of a literal."""
    rows = list(zip(example["row_groups"], example["row_variants"], example["row_tokens"], example["row_literals"]))
    shown = {g for g, variant, tokens, at in rows if variant in REPLACED and tokens[at[0]] - FIRST_VALUE in UNSEEN}
    number = {group: k for k, group in enumerate(g for g in range(len(example["group_steps"])) if g not in shown)}
    kept = [k for k, row in enumerate(rows) if row[0] in number]
    return {
        **example,
        **{name: [column[k] for k in kept] for name, column in example.items() if name.startswith("row_")},
        "row_groups": [number[rows[k][0]] for k in kept],
        "group_steps": [example["group_steps"][group] for group in number],
    }


def look(subject: Subject, kind: str, objective: str, step: int, recipe: Recipe) -> dict[str, Any]:
    """Everything that is measured on held-out problems."""
    family = MarkovianSubject if objective == "markovian" else Subject
    asked = family(subject.model, task_of(kind, "held-out"))
    problems = asked.task.problems(recipe.held_out, seed=0)
    found = evaluate_training(asked, problems, trained_on=objective)
    wide = [one for one, _ in asked.respond(asked.task.problems(ASKED, seed=2))]
    right = share_interval(sum(one.correct for one in wide), len(wide))
    return {
        "step": step,
        **found.record(),
        "right": {"value": right.value, "low": right.low, "high": right.high, "n": len(wide)},
        "unseen": unseen(asked),
    }


@torch.no_grad()
def unseen(subject: Subject) -> dict[str, float]:
    """By step, how often the answer follows an unseen value, on held-out problems."""
    model, found = subject.model.hf, {}
    problems = subject.task.problems(200, seed=1)
    rows = encode_problems(problems, subject.task)[:, :-1]
    for k in (1, 2, 3):
        place = LAYOUT.index[f"v{k}"]
        edited = rows[:, : place + 1].clone()
        values = torch.tensor(UNSEEN)[torch.arange(len(rows)) % len(UNSEEN)]
        changes = values + FIRST_VALUE != edited[:, place]
        edited[:, place] = values + FIRST_VALUE
        new = len(LAYOUT.roles) - place - 1
        written = model.generate(edited, attention_mask=torch.ones_like(edited), max_new_tokens=new)
        answers = (written[:, LAYOUT.index["answer"]] - FIRST_VALUE).tolist()
        hits = [
            problem.graph.recompute({f"v{k}": value})[problem.graph.answer] == answer
            for problem, value, answer, asked in zip(problems, values.tolist(), answers, changes.tolist())
            if asked
        ]
        found[f"v{k}"] = sum(hits) / len(hits)
    return found


def main(kinds: list[str]) -> None:
    torch.set_num_threads(1)
    recipe = Recipe()
    longer = replace(recipe, steps=LONGER)
    for kind in kinds or KINDS:
        for objective, chosen in [*((objective, recipe) for objective in OBJECTIVES), ("counterfactual", longer)]:
            for seed in SEEDS:
                if (kind, objective, seed) not in {(r["kind"], r["objective"], r["seed"]) for r in done(chosen)}:
                    row = repair(kind, objective, seed, chosen)
                    LINES.parent.mkdir(parents=True, exist_ok=True)
                    with LINES.open("a") as lines:
                        lines.write(json.dumps(row) + "\n")
                    print(summary(row), flush=True)
    rows = done(recipe) + done(longer)
    cost = costs(recipe)
    results = {"rows": [short(row) for row in rows], "cost": cost, "torch": torch.__version__}
    write_text(OUT / "results.json", json.dumps(results) + "\n")
    write_text(OUT / "table.md", table(rows, cost))
    draw(figure(done(recipe)), Path("docs/figures/repair.png"))


def done(recipe: Recipe) -> list[dict[str, Any]]:
    """The runs that were made with a recipe."""
    lines = LINES.read_text().splitlines() if LINES.is_file() else []
    return [row for row in map(json.loads, lines) if row["recipe"] == asdict(recipe)]


def short(row: dict[str, Any]) -> dict[str, Any]:
    """Without the counts behind every score."""
    return {
        **row,
        "curve": [{k: v for k, v in look.items() if k != "evaluation"} | by_step(look) for look in row["curve"]],
    }


def by_step(look: dict[str, Any]) -> dict[str, Any]:
    """Use of each step, and the kinds of evidence."""
    found = look["evaluation"]
    return {
        "use": {step: score["value"] for step, score in found["by_step"]["swap"].items()},
        "evidence": {kind: score["value"] for kind, score in found["evidence"].items()},
    }


def table(rows: list[dict[str, Any]], cost: Mapping[str, float]) -> str:
    """Means over seeds after the last step, with the least and the most."""
    lines = [
        "Means over seeds (least to most) on held-out problems after the repair. Use of a step: the answer follows its",
        "swapped value. Held out: the least of the evidence that the objective does not train on. Cost: CPU time of",
        "a step over that of plain cross-entropy, on a hint-follower.",
        "",
        "| network | objective | use v1 | use v2 | use v3 | held out | unseen values | accuracy | cost |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for kind in KINDS:
        for objective, steps in [*((objective, Recipe.steps) for objective in OBJECTIVES), ("counterfactual", LONGER)]:
            asked = (kind, objective, steps)
            found = [row for row in rows if (row["kind"], row["objective"], row["recipe"]["steps"]) == asked]
            if not found:
                continue
            last = [row["curve"][-1] for row in found]
            cells = [spread([by_step(look)["use"].get(step) for look in last]) for step in ("v1", "v2", "v3")]
            cells.append(spread([look["held_out_score"] for look in last]))
            in_sight = objective != "markovian"  # `unseen` lets the answer see the question
            cells.append(spread([min(look["unseen"].values()) if in_sight else None for look in last]))
            cells.append(spread([look["right"]["value"] for look in last], digits=3))
            cells.append(f"{cost[objective]:.2f}")
            name = objective if steps == Recipe.steps else f"{objective}, {steps} steps"
            lines.append(f"| {kind} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def figure(rows: list[dict[str, Any]]) -> go.Figure:
    """Of every network and objective, the least use of a step, the held-out score and the accuracy, seed by seed."""
    kinds = [kind for kind in KINDS if any(row["kind"] == kind for row in rows)]
    fig = make_subplots(rows=1, cols=len(kinds), shared_yaxes=True, subplot_titles=kinds, horizontal_spacing=0.04)
    for column, kind in enumerate(kinds, 1):
        own = [row for row in rows if row["kind"] == kind]
        for name, symbol, colour in (
            ("least use of a step", "diamond", ORANGE),
            ("held out", "circle", BLUE),
            ("accuracy", "x", GREY),
        ):
            x = [value_of(row["curve"][-1], name) for row in own]
            y = [row["objective"] for row in own]
            fig.add_scatter(
                x=x,
                y=y,
                name=name,
                mode="markers",
                showlegend=column == 1,
                legendgroup=name,
                marker={"symbol": symbol, "color": colour, "size": 9},
                row=1,
                col=column,
            )
    fig.update_yaxes(categoryorder="array", categoryarray=list(OBJECTIVES)[::-1])
    fig.update_xaxes(range=[-0.05, 1.05], tickformat=".1f")
    return fig.update_layout(template=LIGHT, height=420, width=1080, margin={"t": 64, "l": 130})


def value_of(look: dict[str, Any], name: str) -> float | None:
    if name == "accuracy":
        return look["right"]["value"]
    if name == "held out":
        return look["held_out_score"]
    return min((value for value in by_step(look)["use"].values() if value is not None), default=None)


def spread(values: list[float | None], *, digits: int = 2) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "unscored"
    mean, low, high = (f"{value:.{digits}f}" for value in (fmean(known), min(known), max(known)))
    return f"{mean} ({low} to {high})"


def summary(row: dict[str, Any]) -> str:
    """One line: use of each step, accuracy, held-out score."""
    last = row["curve"][-1]
    steps = last["evaluation"]["by_step"]["swap"]
    use = "/".join("-" if steps[k]["value"] is None else f"{steps[k]['value']:.2f}" for k in sorted(steps))
    name = f"{row['kind']}, {row['objective']}, seed {row['seed']}"
    found = f"accuracy {last['right']['value']:.3f}, held out {last['held_out_score']}, unseen {last['unseen']}"
    return f"{name}: use {use}, {found}"


if __name__ == "__main__":
    main(sys.argv[1:])
