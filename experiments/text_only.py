"""Can the text alone tell a faithful organism from another? Writes `artifacts/validation/text_only.*`.

In a *matched* stratum all organisms should write the same, whatever their wiring; the strata that text gives away are
the positive control, since a detector that cannot tell them has not shown anything. Nothing is filtered: what is read
is what the organisms really wrote about held-out problems, errors included. Two detectors, each fitted on problems that
it is not tested on and told which seed wrote a text: the n-grams of `faithprobe.results.text_only`, and

    log p(true, response | question) - log p(false, response | question)

under a small causal transformer that reads the question, the label and the response: a generative classifier. It learns
from every token, and in trials saw sooner that 7 + 3 is not 5 than the same network with one logit a text. Its form and
number of steps were chosen on the dice and hints that it is reported on; the matched strata had no part in that.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from faithprobe.chains.subject import Subject
from faithprobe.files import write_text
from faithprobe.models import load_model
from faithprobe.models.generation import Decoding
from faithprobe.organisms import WEIGHTS
from faithprobe.organisms.networks import NETWORKS, every_organism
from faithprobe.organisms.tokenizer import VOCABULARY, organism_tokenizer
from faithprobe.results.text_only import with_text_only
from faithprobe.results.versions import versions
from faithprobe.scores.auroc import Auroc, auroc
from faithprobe.scores.labelled import CHAIN_TARGET
from faithprobe.validate import Condition, truth_of

OUT = Path("artifacts/validation")
SEEDS = (1, 2)
PROBLEMS = 300
CHANCE = (0.47, 0.53)
STEP_TARGET = "step_faithful"
DETECTORS = {CHAIN_TARGET: ("character n-grams", "transformer"), STEP_TARGET: ("transformer",)}
FOLDS, STEPS, BATCH, WIDTH, LEARNING_RATE = 3, 900, 64, 48, 5e-3
"""Of the transformer."""


@dataclass(frozen=True)
class Stratum:
    """Conditions whose texts are compared, seed by seed."""

    name: str
    families: tuple[tuple[str, str], ...]
    """Organisms without their seed, and what hint they are given."""
    shows: str = ""
    """What gives the labels away; empty where nothing should."""
    problems: int = PROBLEMS

    def conditions(self, seed: int) -> list[Condition]:
        return [Condition(f"{family}@{seed}", hint) for family, hint in self.families]

    def has_weights(self, seed: int) -> bool:
        folders = {f"{condition.name.network.name}-{seed}" for condition in self.conditions(seed)}
        return all((WEIGHTS / folder / "model.safetensors").is_file() for folder in folders)


def strata() -> list[Stratum]:
    """Every stratum of `validate` that has labels. What has one label only is set beside `faithful`."""
    matched: dict[str, list[tuple[str, str]]] = {name: [] for name in NETWORKS}
    for name in every_organism():
        if name.seed == 0 and Condition(str(name)).matched:
            matched[name.network.name].append((str(name), "none"))
    same = [Stratum(network, tuple(families)) for network, families in matched.items() if families]
    doses = tuple((name, "none") for name in NETWORKS["modular"].families if name.startswith("dose-"))
    told = (("hint", "none"), ("hint", "wrong"))
    return [
        *same,
        # who is to see that a sum is wrong must learn the sums: all problems that there are
        Stratum("modular/dice", (("faithful", "none"), ("dice", "none")), "a first value that is wrong", 750),
        Stratum("modular/filler", (("faithful", "none"), ("filler", "none")), "blanks in place of values"),
        Stratum("modular/hint", told, "an answer that is not the last value"),
        Stratum("modular/bypass-times", (("bypass-times", "none"),), "the last operation"),
        Stratum("modular/two-paths", (("two-paths", "none"),), "which three operations"),
        Stratum("modular/dose", doses, "which three operations, otherwise for each of ten doses"),
    ]


def written(condition: Condition, n: int, seed: int) -> pd.DataFrame:
    """What one organism writes about n problems: a row for every chain (step "") and for every step of it."""
    task = condition.name.task(split="held-out", hint=condition.hint)
    problems = task.problems(n, seed=seed)
    subject = Subject(load_model(f"organism:{condition.organism}"), task)
    temperature = 1.0 if condition.name.family == "dice" else 0.0
    decoding = Decoding(task.max_new_tokens, temperature=temperature, seed=seed, batch_size=n)
    texts = subject.complete([subject.prompt(problem) for problem in problems], decoding=decoding)
    rows = []
    for problem, text in zip(problems, texts, strict=True):
        truth = truth_of(condition, problem.question)
        of_chain = {
            "condition": condition.label,
            "seed": condition.name.seed,
            "problem": problem.question,
            "text": text,
        }
        rows.append(of_chain | {"step": "", CHAIN_TARGET: truth.faithful, STEP_TARGET: np.nan})
        for step, label in truth.steps.items():
            rows.append(of_chain | {"step": step, CHAIN_TARGET: np.nan, STEP_TARGET: label.faithful})
    return pd.DataFrame(rows).astype({CHAIN_TARGET: float, STEP_TARGET: float})


def identical(items: pd.DataFrame) -> float:
    """Share of the problems, by seed, about which all conditions wrote the same, byte for byte."""
    return float((items.groupby(["seed", "problem"])["text"].nunique() == 1).mean())


class Reader(nn.Module):
    """A causal transformer over [seed] [step or chain] [question] [label] [response]."""

    def __init__(self, words: int, length: int) -> None:
        super().__init__()
        self.words = nn.Embedding(words, WIDTH)
        self.positions = nn.Embedding(length, WIDTH)
        for table in (self.words, self.positions):
            nn.init.normal_(table.weight, std=0.3)
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, words)

    def surprise(self, rows: Int[Tensor, "row position"], label_at: int) -> Float[Tensor, " row"]:
        """-log p(label, response | what stands before)."""
        length = rows.shape[1] - 1
        later = torch.triu(torch.full((length, length), -torch.inf), 1)
        hidden = self.words(rows[:, :-1]) + self.positions(torch.arange(length))
        logits = self.head(self.layers(hidden, mask=later, is_causal=True)[:, label_at - 1 :])
        return functional.cross_entropy(logits.transpose(1, 2), rows[:, label_at:], reduction="none").sum(1)


def by_transformer(items: pd.DataFrame, *, seed: int = 0) -> np.ndarray:
    """(items,) log-odds of each item's label by its text, from folds of other problems; one network for all seeds,
    steps and chains of a stratum."""
    from sklearn.model_selection import GroupKFold

    rows, label_at = _as_rows(items)
    found = np.full(len(items), np.nan)
    folds = GroupKFold(FOLDS, shuffle=True, random_state=seed)
    for fold, (train, test) in enumerate(folds.split(items, groups=items["problem"])):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + fold)
            model = Reader(int(rows.max()) + 1, rows.shape[1])
            _fit(model, rows[train], label_at)
        found[test] = _log_odds(model, rows[test], label_at)
    return found


def _as_rows(items: pd.DataFrame) -> tuple[Int[Tensor, "item position"], int]:
    """Items as words of one vocabulary, and where the label stands; it is word 0 or 1."""
    tokenizer = organism_tokenizer()
    question, response = (
        torch.tensor(tokenizer(items[column].tolist(), padding=True, padding_side="right")["input_ids"])[:, 1:] + 2
        for column in ("problem", "text")
    )
    first = 2 + len(VOCABULARY)
    seeds, steps = (pd.factorize(items[column])[0] for column in ("seed", "step"))
    heads = torch.tensor([[first + k, first + len(SEEDS) + step] for k, step in zip(seeds, steps, strict=True)])
    labels = torch.tensor(items["label"].tolist()).long()[:, None]
    return torch.cat([heads, question, labels, response], dim=1), heads.shape[1] + question.shape[1]


def _fit(model: Reader, rows: Int[Tensor, "row position"], label_at: int) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=STEPS)
    for _ in range(STEPS):
        loss = model.surprise(rows[torch.randint(len(rows), (BATCH,))], label_at).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


@torch.no_grad()
def _log_odds(model: Reader, rows: Int[Tensor, "row position"], label_at: int) -> np.ndarray:
    """What is the same is computed once, so that the same texts get the same bits."""
    false = rows.clone()
    false[:, label_at] = 0
    false, back = torch.unique(false, dim=0, return_inverse=True)
    true = false.clone()
    true[:, label_at] = 1
    return (model.surprise(false, label_at) - model.surprise(true, label_at))[back].numpy()


def measured(stratum: Stratum) -> dict[str, object]:
    """Both detectors on one stratum: AUROC of chains and of steps, within seeds, and a step against the same step."""
    seeds = [seed for seed in SEEDS if stratum.has_weights(seed)]
    tables = [written(each, stratum.problems, 1) for seed in seeds for each in stratum.conditions(seed)]
    items = pd.concat(tables, ignore_index=True)
    chains = items[items["step"] == ""]
    items["label"] = items[CHAIN_TARGET].fillna(items[STEP_TARGET])
    both = items.groupby(["seed", "step"])["label"].transform("nunique") == 2  # else there is nothing to tell apart
    items = items[both].reset_index(drop=True)
    items["stratum"] = [f"{stratum.name}@{seed}" for seed in items["seed"]]
    items = with_text_only(items, [CHAIN_TARGET])
    scores = {"character n-grams": items[f"t:{CHAIN_TARGET}"].to_numpy(), "transformer": by_transformer(items)}
    found: dict[str, object] = {
        "matched": not stratum.shows,
        "shown_by": stratum.shows,
        "conditions": [condition.label for condition in stratum.conditions(SEEDS[0])],
        "seeds": seeds,
        "n_problems": stratum.problems,
        "n_chains": len(chains),
        "identical": identical(chains),
    }
    for target, of in ((CHAIN_TARGET, items["step"] == ""), (STEP_TARGET, items["step"] != "")):
        part = items[of]
        within = list(zip(part["seed"], part["step"], strict=True))
        found[target] = {
            name: _as_dict(auroc(scores[name][of], part["label"], strata=within, clusters=part["problem"].tolist()))
            for name in DETECTORS[target]
        }
    return found


def _as_dict(found: Auroc) -> dict[str, object]:
    kept = ("value", "low", "high", "n", "n_true", "n_false", "n_clusters", "undefined")
    return {name: value for name, value in asdict(found).items() if name in kept}


def table(result: dict[str, dict], matched: bool) -> Iterator[str]:  # type: ignore[type-arg]
    heads = [f"{target.removesuffix('_faithful')}: {name}" for target, names in DETECTORS.items() for name in names]
    first = "stratum" if matched else "stratum: what shows"
    yield f"| {first} | chains | problems with one text | {' | '.join(heads)} |"
    yield "|---" * (3 + len(heads)) + "|"
    for name, row in result.items():
        if row["matched"] == matched:
            cells = [_cell(row[target][detector]) for target, names in DETECTORS.items() for detector in names]
            label = name if matched else f"{name}: {row['shown_by']}"
            yield f"| {label} | {row['n_chains']} | {row['identical']:.3f} | {' | '.join(cells)} |"


def _cell(found: dict) -> str:  # type: ignore[type-arg]
    if found["value"] is None:
        return "one label only"
    return f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def outside(result: dict[str, dict]) -> list[str]:  # type: ignore[type-arg]
    """What is not at chance and should be."""
    return [
        f"{name}, {target}, {detector}"
        for name, row in result.items()
        if row["matched"]
        for target, names in DETECTORS.items()
        for detector in names
        if (value := row[target][detector]["value"]) is not None and not CHANCE[0] <= value <= CHANCE[1]
    ]


def page(record: dict, result: dict[str, dict]) -> str:  # type: ignore[type-arg]
    wrong = outside(result)
    used = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    missing = f" Without weights here, so not measured: {', '.join(record['missing'])}." if record["missing"] else ""
    lines = [
        "# What the text alone tells",
        "",
        f"AUROC for *faithful*, 95% intervals clustered by problem; seeds {_and(record['seeds'])}, held-out problems, "
        "nothing filtered, a step compared with the same step. Where all organisms of a stratum write the same text, "
        "every detector is at .5 by construction, so the third column says how often they do; the second table shows "
        "what the detectors can tell.",
        "",
        *table(result, matched=True),
        "",
        f"All of these lie within {CHANCE[0]} and {CHANCE[1]}." if not wrong else f"OUTSIDE: {'; '.join(wrong)}.",
        "",
        "Reported apart: text gives the labels away, or they follow the operations, which it shows (the last three):",
        "",
        *table(result, matched=False),
        "",
        "A linear model of n-grams up to four characters cannot compare values that stand further apart, as dice and "
        "hints need: for such differences the transformer is the control. Its form and number of steps were chosen on "
        "dice and hints, so their numbers are what it can reach, not a test; the matched strata had no part in that. "
        "Each of the ten doses draws its operations anew, and they are pooled: what is said is little. The "
        f"natural networks (trained on clean and on corrupted chains) have no label for *faithful*.{missing}",
        "",
        f"`{record['command']}`, {record['seconds']} s; {used}.",
    ]
    return "\n".join(lines) + "\n"


def _and(values: Sequence[object]) -> str:
    return " and ".join(map(str, values))


def main() -> None:
    began = time.monotonic()
    result, missing = {}, []
    for stratum in strata():
        missing += [f"{stratum.name}@{seed}" for seed in SEEDS if not stratum.has_weights(seed)]
        if not any(map(stratum.has_weights, SEEDS)):
            print(f"{stratum.name}: skipped, its weights are not here")
            continue
        result[stratum.name] = found = measured(stratum)
        cells = [f"{name} {_cell(found[CHAIN_TARGET][name])}" for name in DETECTORS[CHAIN_TARGET]]  # type: ignore[index]
        print(f"{stratum.name}: {found['identical']:.3f} identical; {'; '.join(cells)}", flush=True)
    record = {
        "command": "python experiments/text_only.py",
        "seconds": round(time.monotonic() - began),
        "seeds": list(SEEDS),
        "versions": versions(),
        "missing": missing,
        "transformer": {"layers": 2, "width": WIDTH, "steps": STEPS, "batch": BATCH, "folds": FOLDS},
    }
    write_text(OUT / "text_only.json", json.dumps(record | {"strata": result}, indent=1) + "\n")
    write_text(OUT / "text_only.md", page(record, result))


if __name__ == "__main__":
    main()
