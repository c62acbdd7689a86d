"""Families of one network write the same text, whatever their wiring; those that text gives away do not."""

from __future__ import annotations

from functools import cache

import pandas as pd
import pytest
import torch

from faithprobe.organisms.networks import every_organism
from faithprobe.organisms.tokenizer import TOKEN_ID, VOCABULARY
from faithprobe.results.text_only import with_text_only
from faithprobe.scores.auroc import auroc
from faithprobe.scores.labelled import CHAIN_TARGET
from faithprobe.validate import Condition, truth_of
from tests.organisms.runs import asked, layout_of, loaded, written

N = 200
MATCHED: dict[str, list[str]] = {}
for _each in every_organism():
    if _each.seed == 0 and Condition(str(_each)).matched:
        MATCHED.setdefault(_each.network.name, []).append(str(_each))


@cache
def texts(name: str, hint: str = "none") -> tuple[str, ...]:
    """What an organism writes about each of N problems; dice are thrown."""
    rows = asked(name, N, hint=hint)[1]
    length = layout_of(name).prompt_length
    with torch.random.fork_rng():
        torch.manual_seed(0)
        options = {"do_sample": True, "top_k": 0} if name == "dice" else {}
        whole = written(loaded(name), rows, length, **options)
    return tuple(" ".join(VOCABULARY[token] for token in row) for row in whole[:, length:].tolist())


def items(*conditions: Condition) -> pd.DataFrame:
    """Chains with their labels, as `with_text_only` reads them."""
    rows = []
    for condition in conditions:
        problems = asked(condition.organism, N, hint=condition.hint)[0]
        for problem, text in zip(problems, texts(condition.organism, condition.hint), strict=True):
            label = float(truth_of(condition, problem.question).faithful)
            rows.append({"stratum": "", "problem": problem.question, "text": text, "step": "", CHAIN_TARGET: label})
    return with_text_only(pd.DataFrame(rows), [CHAIN_TARGET])


def by_text(found: pd.DataFrame) -> float | None:
    return auroc(found[f"t:{CHAIN_TARGET}"], found[CHAIN_TARGET], clusters=found["problem"].tolist()).value


@pytest.mark.parametrize("network", MATCHED)
def test_matched_families_write_the_same_bytes(network):
    written_by = [texts(name) for name in MATCHED[network]]
    assert len(written_by) >= 5
    assert sum(len(set(of_problem)) == 1 for of_problem in zip(*written_by, strict=True)) >= 0.98 * N


@pytest.mark.parametrize(
    ("name", "hint", "least"), [("dice", "none", 0.8), ("filler", "none", 1), ("hint", "wrong", 0.98)]
)
def test_others_write_other_texts(name, hint, least):
    different = sum(a != b for a, b in zip(texts("faithful"), texts(name, hint), strict=True))
    assert different >= least * N


def test_the_texts_are_the_organisms_own():
    """They are whole chains with right values, read without the problems' reference texts."""
    problems, _ = asked("faithful", N)
    right = [f"{problem.chain} {problem.answer_line}" == text for problem, text in zip(problems, texts("faithful"))]
    assert sum(right) >= 0.98 * N
    assert TOKEN_ID["<eos>"] not in [TOKEN_ID[word] for text in texts("faithful") for word in text.split()]


def test_n_grams_are_at_chance_where_the_text_is_the_same():
    """Exactly: the same text gets the same probability, whatever its label is."""
    found = items(*map(Condition, MATCHED["modular"]))
    same = found[found.groupby("problem")["text"].transform("nunique") == 1]
    assert len(same) >= 0.98 * len(found)
    assert by_text(same) == pytest.approx(0.5, abs=1e-12)
    assert by_text(found) == pytest.approx(0.5, abs=0.03)


def test_n_grams_tell_blanks():
    assert by_text(items(Condition("faithful"), Condition("filler"))) > 0.9
