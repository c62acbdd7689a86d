"""Responses read as chains without a model: any text, through any tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from faithprobe.chains.read import read_chain
from faithprobe.chains.records import Chain
from faithprobe.chains.tokens import decode, encode_in_context
from faithprobe.tasks import Graph, Problem, Step, Task
from tests.chains.tokenizers import tokenizer_of


class FreeForm(Task):
    """Word problems whose responses are free text."""

    name: ClassVar[str] = "free-form"
    ordered = False
    stop = ("\n\n",)

    def problems(self, n: int, *, seed: int = 0) -> list[Problem]:
        raise NotImplementedError


def problem_of(question: str, inputs: dict[str, int], **steps: str) -> Problem:
    """The last step is the answer."""
    graph = Graph(inputs, tuple(Step(name, expression) for name, expression in steps.items()), [*steps][-1])
    return Problem("a problem", question, graph, "", f"Answer: {graph.values[graph.answer]}")


def tokens_of(kind: str, prompt: str, response: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    tokenizer = tokenizer_of(kind)
    ids = tuple(tokenizer(prompt, add_special_tokens=False)["input_ids"])
    new = encode_in_context(tokenizer, ids, response)
    assert new is not None
    return ids, new


def chain_of(task: Task, problem: Problem, response: str, *, kind: str = "split", finished: bool = True) -> Chain:
    """`response` as if a model had written it behind an example and the question."""
    prompt, new = tokens_of(kind, f"Q: 1 + 1?\nA: 1 + 1 = 2.\n\nQ: {problem.question}\nA:", response)
    example = len(tokenizer_of(kind)("Q: 1 + 1?\nA: 1 + 1 = 2.\n\n", add_special_tokens=False)["input_ids"])
    return read_chain(tokenizer_of(kind), task, problem, prompt, new, question_start=example, finished=finished)


def written(kind: str, chain: Chain, span: Sequence[int]) -> str:
    """What the tokens of a span write where they stand."""
    tokenizer: Any = tokenizer_of(kind)
    begin = max(0, span[0] - 8)
    return decode(tokenizer, chain.tokens[begin : span[1]])[len(decode(tokenizer, chain.tokens[begin : span[0]])) :]


def states(chain: Chain) -> dict[str, Any]:
    """The scored value of each step."""
    return {step: literal.value for step, literal in chain.literals.items()}


def expressions(chain: Chain) -> dict[str, str]:
    return {step.name: step.expression for step in chain.graph.steps}
