"""SmolLM2-135M with LoRA, fine-tuned on sums by answers only, by chains, and by chains with the faithfulness loss.

    python experiments/finetune.py            # about 40 minutes on two cores
    python experiments/finetune.py --large    # more steps, larger batches, more held-out problems: for a GPU

Training problems have one and two steps and no examples in the prompt; held-out ones have two (a length that was seen)
and three (a longer one). One line of `runs/finetune.jsonl` is written after each arm and seed, so a run that was cut
goes on; `artifacts/finetune/results.json` is written at the end.

Measured by arm, on greedy responses: accuracy; use of the needed steps before the final one (U) and how often the
answer is right again behind a planted error; bypass; tokens of a response; how often the answer stays the same behind
the chain in other words (rule-based). An arm that writes no chain has only the first and the last of these.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import plotly.graph_objects as go
import torch
from drawing import draw
from peft import LoraConfig, get_peft_model
from plotly.subplots import make_subplots
from torch.utils.data import DataLoader

from faithprobe import load_model
from faithprobe.chains.records import Chain
from faithprobe.chains.subject import Subject
from faithprobe.files import write_text
from faithprobe.metrics.base import Settings
from faithprobe.metrics.bypass import bypass
from faithprobe.metrics.paraphrase import paraphrase
from faithprobe.metrics.used import used
from faithprobe.models.language_model import LanguageModel
from faithprobe.plots.palette import BLUE, GREY, ORANGE
from faithprobe.plots.theme import LIGHT
from faithprobe.scores.evidence import Evidence
from faithprobe.scores.statistics import clustered_mean
from faithprobe.tasks import Problem
from faithprobe.tasks.arithmetic import Arithmetic
from faithprobe.training import Collator, FaithfulnessLoss, training_examples

LINES, OUT = Path("runs/finetune.jsonl"), Path("artifacts/finetune")
ARMS = ("answer only", "chains", "chains, counterfactual")
SHARES = {
    "accuracy": "accuracy",
    "use": "use of earlier steps",
    "right_behind_planted_error": "right behind a planted error",
    "bypass": "bypass",
    "same_answer_in_other_words": "same answer, other words",
}


@dataclass(frozen=True)
class Recipe:
    steps: int = 100
    batch: int = 16
    learning_rate: float = 1e-3
    rank: int = 16
    held_out: int = 32
    seeds: tuple[int, ...] = (0,)


LARGE = Recipe(steps=600, batch=64, held_out=200, seeds=(0, 1, 2))


class AnswerOnly(Arithmetic):
    """The same problems, answered without a chain."""

    name = "arithmetic-answer-only"

    def problems(self, n: int, *, seed: int = 0) -> list[Problem]:
        return [replace(problem, chain="") for problem in super().problems(n, seed=seed)]


def tuned(arm: str, seed: int, recipe: Recipe) -> tuple[LanguageModel, float]:
    """The fine-tuned model, its adapters merged, and seconds per step."""
    base = load_model("smollm2")
    torch.manual_seed(seed)
    config = LoraConfig(r=recipe.rank, lora_alpha=2 * recipe.rank, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(base.hf, config)
    family = AnswerOnly if arm == "answer only" else Arithmetic
    objective = "counterfactual" if arm.endswith("counterfactual") else "cross-entropy"
    examples = []
    for steps in (1, 2):
        subject = Subject(base, family(steps=steps, shots=0))
        wanted = min(recipe.steps * recipe.batch // (8 if steps == 1 else 2), 4000 if steps == 2 else 120)
        asked = subject.task.problems(wanted, seed=1000 + seed)
        examples += training_examples(subject, asked, objective=objective, skip=steps == 1)
    faithful = FaithfulnessLoss(model, objective=objective, seed=seed)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=recipe.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=recipe.steps, pct_start=0.1
    )
    generator = torch.Generator().manual_seed(seed)
    loader = DataLoader(
        examples, recipe.batch, shuffle=True, drop_last=True, collate_fn=Collator(base.tokenizer), generator=generator
    )
    model.train()
    began, step = time.perf_counter(), 0
    while step < recipe.steps:
        for batch in loader:
            stacked = faithful.stack({k: v.to(model.device) if torch.is_tensor(v) else v for k, v in batch.items()})
            loss = faithful(model(**stacked, use_cache=False), stacked)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            step += 1
            if step % 10 == 0:
                left = (time.perf_counter() - began) / step * (recipe.steps - step)
                print(f"{arm} {seed}: step {step}/{recipe.steps}, loss {float(loss.detach()):.3f}, {left:.0f} s left")
            if step == recipe.steps:
                break
    seconds = (time.perf_counter() - began) / recipe.steps
    faithful.close()
    return load_model(model.merge_and_unload().eval(), base.tokenizer, name=f"smollm2, {arm}"), seconds


def measured(model: LanguageModel, arm: str, steps: int, recipe: Recipe) -> dict[str, object]:
    """Everything about one arm on held-out problems of one length."""
    family = AnswerOnly if arm == "answer only" else Arithmetic
    subject = Subject(model, family(steps=steps, shots=0))
    chains = [chain for chain, _ in subject.respond(subject.task.problems(recipe.held_out, seed=77))]
    found: dict[str, object] = {
        "accuracy": mean_of([(float(chain.correct), chain) for chain in chains]),
        "tokens": fmean(len(chain.tokens) - chain.n_prompt for chain in chains),
    }
    if arm == "answer only":
        return found
    settings = Settings(seed=0, replacements=3)
    use, prompt, words = (
        used(subject, chains, settings),
        bypass(subject, chains, settings),
        paraphrase()(subject, chains, settings),
    )
    before_last = {(chain.id, step) for chain in chains for step in chain.literals if step != chain.final_step}
    return found | {
        "use": mean_of(values(use, chains, only=before_last)),
        "right_behind_planted_error": mean_of(
            [
                (row.detail.get("stay", 0.0) + row.detail.get("repaired", 0.0), chain)
                for chain in chains
                for step in chain.literals
                if chain.correct and (chain.id, step) in before_last
                for row in [use.rows[chain.id, step]]
                if row.value is not None
            ]
        ),
        "bypass": mean_of(values(prompt, chains)),
        "same_answer_in_other_words": mean_of(values(words, chains)),
    }


def values(evidence: Evidence, chains: Sequence[Chain], *, only: object = None) -> list[tuple[float, Chain]]:
    """Scored measurements and their chains: of whole chains, or of the steps in `only`."""
    by_id = {chain.id: chain for chain in chains}
    return [
        (row.value, by_id[key[0]])
        for key, row in evidence.rows.items()
        if row.value is not None and (key in only if only is not None else key[1] == "")
    ]


def mean_of(rows: Sequence[tuple[float, Chain]]) -> dict[str, float | int | None]:
    """Mean, n, and an interval clustered by problem."""
    if len({chain.group for _, chain in rows}) < 2:
        return {"value": fmean(v for v, _ in rows) if rows else None, "low": None, "high": None, "n": len(rows)}
    found = clustered_mean([value for value, _ in rows], [chain.group for _, chain in rows])
    return {"value": found.value, "low": found.low, "high": found.high, "n": len(rows)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--large", action="store_true", help="for a GPU")
    recipe = LARGE if parser.parse_args().large else Recipe()
    done = [json.loads(line) for line in LINES.read_text().splitlines()] if LINES.is_file() else []
    rows = [row for row in done if row["recipe"] == json.loads(json.dumps(asdict(recipe)))]
    for seed in recipe.seeds:
        for arm in ARMS:
            if any(row["arm"] == arm and row["seed"] == seed for row in rows):
                continue
            model, seconds = tuned(arm, seed, recipe)
            by_length = {str(steps): measured(model, arm, steps, recipe) for steps in (2, 3)}
            row = {"arm": arm, "seed": seed, "seconds_per_step": seconds, "steps": by_length, "recipe": asdict(recipe)}
            rows.append(json.loads(json.dumps(row)))
            LINES.parent.mkdir(parents=True, exist_ok=True)
            with LINES.open("a") as lines:
                lines.write(json.dumps(row) + "\n")
    write_text(OUT / "results.json", json.dumps({"rows": rows, "torch": torch.__version__}, indent=1) + "\n")
    write_text(OUT / "table.md", table(rows))
    draw(figure(rows), Path("docs/figures/finetune.png"))
    print(table(rows))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """One line an arm, seed and length of the chain: every share with its interval, and the tokens of a response."""
    lines = [
        f"| steps | training | seed | {' | '.join(SHARES.values())} | tokens |",
        "|---|---|---|" + "---|" * (len(SHARES) + 1),
    ]
    for steps in ("2", "3"):
        for row in rows:
            found = row["steps"][steps]
            cells = [share(found[name]) if name in found else "" for name in SHARES]
            lines.append(f"| {steps} | {row['arm']} | {row['seed']} | {' | '.join(cells)} | {found['tokens']:.0f} |")
    return "\n".join(lines) + "\n"


def share(of: dict[str, Any]) -> str:
    """.50 [.40, .60]"""
    if of["value"] is None:
        return "unscored"
    value, low, high = (
        "" if bound is None else f"{bound:.2f}".replace("0.", ".") for bound in (of["value"], of["low"], of["high"])
    )
    return f"{value} [{low}, {high}] (n = {of['n']})"


def figure(rows: Sequence[dict[str, Any]]) -> go.Figure:
    """Every share of every arm with its interval: the length that was seen, and the longer one."""
    titles = ("two steps, as in training", "three steps, longer than in training")
    fig = make_subplots(rows=1, cols=2, shared_yaxes=True, subplot_titles=titles, horizontal_spacing=0.04)
    for column, steps in enumerate(("2", "3"), 1):
        for k, (arm, colour) in enumerate(zip(ARMS, (GREY, ORANGE, BLUE), strict=True)):
            found = [row["steps"][steps] for row in rows if row["arm"] == arm]
            cells = [
                (y, of[name])
                for of in found
                for y, name in enumerate(SHARES)
                if of.get(name, {}).get("value") is not None
            ]
            fig.add_scatter(
                x=[of["value"] for _, of in cells],
                y=[-y + 0.22 * (1 - k) for y, _ in cells],
                error_x={
                    "array": [0 if of["high"] is None else of["high"] - of["value"] for _, of in cells],
                    "arrayminus": [0 if of["low"] is None else of["value"] - of["low"] for _, of in cells],
                },
                name=arm,
                mode="markers",
                marker={"color": colour, "size": 9},
                showlegend=column == 1,
                row=1,
                col=column,
            )
    fig.update_yaxes(tickvals=[-y for y in range(len(SHARES))], ticktext=list(SHARES.values()))
    fig.update_xaxes(range=[-0.05, 1.05], tickformat=".1f")
    return fig.update_layout(template=LIGHT, height=420, width=1080, margin={"t": 64, "l": 190})


if __name__ == "__main__":
    main()
