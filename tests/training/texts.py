"""Chains of which the counterfactual texts are known by heart, and what is asked for in a row."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from faithprobe.chains.subject import Subject
from faithprobe.interventions.swap import replacements
from faithprobe.tasks import Graph, Problem, Task, load_task
from faithprobe.tasks.graph import Step
from faithprobe.training.examples import VARIANTS
from tests.subjects import arithmetic, forced, text_of
from tests.tiny import tiny_language_model

FIXTURES = Path(__file__).parents[1] / "fixtures"
SUM = Problem(
    id="7 +5 -3 +2",
    question="Start with 7. Add 5. Subtract 3. Add 2.",
    graph=Graph(
        {"x0": 7, "a1": 5, "a2": 3, "a3": 2},
        (Step("v1", "x0 + a1"), Step("v2", "v1 - a2"), Step("v3", "v2 + a3")),
        "v3",
    ),
    chain="Start with 7. Add 5: 7 + 5 = 12. Subtract 3: 12 - 3 = 9. Add 2: 9 + 2 = 11.",
    answer_line="Answer: 11",
)
MODULAR = Problem(
    id="7 + 3 * 4 - 2",
    question="7 + 3 * 4 - 2",
    graph=Graph(
        {"x0": 7, "a1": 3, "a2": 4, "a3": 2},
        (Step("v1", "(x0 + a1) % 11"), Step("v2", "(v1 * a2) % 11"), Step("v3", "(v2 - a3) % 11")),
        "v3",
    ),
    chain=". . > 10 . . > 7 . . > 5",
    answer_line="answer 5",
)


CLIPS = Problem(
    id="clips",
    question="Natalia sold 48 clips in April, and half as many in May. How many did she sell in all?",
    graph=Graph({"a1": 48, "a2": 2}, (Step("v1", "a1 / a2"), Step("v2", "a1 + v1")), "v2"),
    chain="48 / 2 = 24 clips in May. 48 + 24 = 72 clips in all.",
    answer_line="Answer: 72",
)


class Visitors(Task):
    """Names, and a truth value at the end."""

    name = "visitors"
    statement = r"comes (?P<value>[A-Z][a-z]+)"
    order = ("Ann", "Bob", "Eve", "Tom", "Kim")

    def problems(self, n: int, *, seed: int = 0) -> list[Problem]:
        return [self.of(first) for first in self.order[:n]]

    def of(self, first: str, *, aside: str = "") -> Problem:
        after = dict(zip(self.order, (*self.order[1:], self.order[0])))
        graph = Graph(
            {"first": first},
            (Step("v1", "after(first)"), Step("v2", "after(v1)"), Step("answer", "tall(v2)")),
            "answer",
            {"after": after.get, "tall": lambda name: name in ("Eve", "Kim")},
        )
        v1, v2, answer = (graph.values[name] for name in ("v1", "v2", "answer"))
        return Problem(
            first, f"Behind {first}.", graph, f"First comes {v1}. {aside}Then comes {v2}.", f"Answer: {answer}"
        )

    def partners(self, problem: Problem, step: str, *, rng: random.Random) -> Iterator[Problem]:
        return (self.of(name) for name in self.order if name != problem.id)


def words(digits: str = "split") -> Subject:
    model = tiny_language_model(digits=digits, max_position_embeddings=4096)
    return Subject(model, load_task("gsm8k", path=FIXTURES / "gsm8k_small.jsonl"))


def roomy(digits: str = "split") -> Subject:
    """A response of so many tokens is one that the model may write."""
    subject = arithmetic(digits)
    subject.task.max_new_tokens = 200
    return subject


def made(subject: Subject, problem: Problem, step: str, value: object, variants: Sequence[str], **options: object):
    """The rows of one replacement, as response texts and as the runs of tokens that are asked for."""
    chain = forced(subject, problem, **options)
    found = replacements(subject, chain, step, n=100, rng=random.Random(0))
    replacement = next(r for r in found if r.value == value)
    rows = {name: VARIANTS[name](subject, chain, replacement) for name in variants}
    for name, row in rows.items():
        if row is not None and name != "partner":
            assert row.tokens[: chain.n_prompt] == chain.tokens[: chain.n_prompt]
            assert row.literal == chain.literals[step].span
    return {
        name: None if row is None else (text_of(subject, row.tokens[chain.n_prompt :]), asked_for(subject, row))
        for name, row in rows.items()
    }


def asked_for(subject: Subject, row) -> list[str]:
    """What the targets write, neighbours together."""
    runs: list[list[int]] = []
    for target in row.targets:
        if runs and runs[-1][-1] == target - 1:
            runs[-1].append(target)
        else:
            runs.append([target])
    return [text_of(subject, tuple(row.tokens[t] for t in run)).strip() for run in runs]
