"""Models with a task, and chains that they are made to write."""

from __future__ import annotations

from functools import cache

from faithprobe.chains.records import Chain
from faithprobe.chains.subject import Subject
from faithprobe.models import load_model
from faithprobe.tasks import Problem, load_task
from faithprobe.tasks.organism import Organism
from tests.tiny import Digits, tiny_language_model


@cache
def organism(name: str, **options: int) -> Subject:
    return Subject(load_model(f"organism:{name}"), Organism(), **options)


def arithmetic(digits: Digits = "split", **options: object) -> Subject:
    """A random model: good for what is done to texts, not for what it says."""
    task = load_task("arithmetic", **{"shots": 1, "steps": 3, **options})
    return Subject(tiny_language_model("llama", digits=digits, max_position_embeddings=512), task)


def answered(subject: Subject, n: int, *, seed: int = 0) -> list[Chain]:
    """What the model says, in the order of the problems."""
    problems = subject.task.problems(n, seed=seed)
    by_id = {chain.id: chain for chain, _ in subject.respond(problems)}
    return [by_id[problem.id] for problem in problems]


def forced(subject: Subject, problem: Problem, response: str | None = None) -> Chain:
    """A response, by default the reference's, as if the model had written it."""
    prompt = subject.prompt(problem)
    tokens = subject.forced(problem, problem.response if response is None else response)
    assert tokens is not None
    return subject.read(problem, prompt, tokens[len(prompt) :])


def forced_references(subject: Subject, n: int, *, seed: int = 0) -> list[Chain]:
    return [forced(subject, problem) for problem in subject.task.problems(n, seed=seed)]


def text_of(subject: Subject, tokens: tuple[int, ...]) -> str:
    return subject.model.tokenizer.decode(tokens)
