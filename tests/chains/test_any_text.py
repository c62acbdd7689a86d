"""Reading never raises and never takes long, whatever a model writes: garbage, cut characters, very long lines."""

from __future__ import annotations

import random
import time
from contextlib import suppress

import pytest

from faithprobe.chains.read import parse_value, read_chain, read_response
from faithprobe.errors import TaskError
from faithprobe.tasks import load_task
from tests.chains.reading import FreeForm, chain_of, problem_of
from tests.chains.tokenizers import tokenizer_of

CLIPS = problem_of(
    "Natalia sold 48 clips in April and half as many in May. How many clips did she sell altogether?",
    {"a1": 48, "a2": 2},
    v1="a1 / a2",
    v2="a1 + v1",
)
PIECES = [
    *"0123456789+-*/=%$().,:\n x×−🙂é²½٣𝟛\x00\ufffd\u202e\u200d\u2028",
    *("Answer: ", "answer is ", "#### ", "True", "wait", "0", "1,200", "\\boxed{7}", "x0 = ", "v1 = ", "1/0="),
    *("7 + 5 = 12. ", "12 - 3 = 9. ", "(2 * 6) % 11 = 1. ", "<<7+5=12>>", "48/2=24 ", "> 5 ", "Polly is a jompus. "),
    *("你好", "مرحبا", "e\u0301"),
]
TASKS = {
    "arithmetic": load_task("arithmetic", steps=2),
    "modulo": load_task("arithmetic", steps=4, modulus=11, operations="+-*"),
    "programs": load_task("programs"),
    "multiplication": load_task("multiplication"),
    "deduction": load_task("deduction"),
    "organism": load_task("organism"),
    "free": FreeForm(),
}


@pytest.mark.parametrize("name", TASKS)
def test_nothing_that_a_model_writes_raises(name):
    task = TASKS[name]
    problems = [CLIPS] if name == "free" else task.problems(4)
    rng = random.Random(name)
    kinds = ("byte-level", "sentencepiece")
    for trial in range(400):
        problem = rng.choice(problems)
        words = [*PIECES, *problem.response.split(" ")] if trial % 2 else PIECES
        text = "".join(rng.choice(words) + rng.choice(["", " "]) for _ in range(rng.randint(0, 60)))
        reading = read_response(task, problem, text)
        assert all(text[slice(*s.chars)] == s.text for s in reading.statements)
        if trial % 4:
            continue
        tokenizer = tokenizer_of(rng.choice(kinds))
        new = tokenizer(text, add_special_tokens=False)["input_ids"]
        cut = new[: rng.randint(0, len(new))] + [rng.randrange(len(tokenizer)) for _ in range(rng.randint(0, 3))]
        prompt = tokenizer(f"Q: {problem.question}\nA:")["input_ids"]
        chain = read_chain(tokenizer, task, problem, prompt, cut, question_start=0, finished=rng.random() < 0.5)
        check(chain)


def check(chain):
    """What holds for every chain."""
    steps = {step.name for step in chain.graph.steps}
    for literal in chain.stated:
        assert literal.step in steps
        assert chain.n_prompt <= literal.span[0] < literal.span[1] <= len(chain.tokens)
        assert chain.text[slice(*literal.chars)] == literal.text
        for operand, span in literal.operands.items():
            if not literal.overruled:
                begin, end = (
                    chain.offsets[span[0] - chain.question_start],
                    chain.offsets[span[1] - 1 - chain.question_start],
                )
                restated = (chain.question_text + chain.text)[begin[0] : end[1]]
                assert "%" in restated or parse_value("".join(restated.split())) == chain.values[operand]
    assert len(chain.literals) == len({literal.step for literal in chain.stated if not literal.overruled})
    assert set(chain.graph.inputs) <= set(chain.values)
    for step, literal in chain.literals.items():
        with suppress(TaskError):  # a division by zero
            assert chain.closed_form(step, literal.value) is not None
            chain.local(step)
        chain.true_value(step)


LONG = {
    "the same again": "1 + 1 = 2. " * 900,
    "corrections": "".join(f"1 + 1 = {k % 7}. " for k in range(900)),
    "ambiguous": "".join(f"2 + {k} = 2. " for k in range(900)),
    "running": "1 + 1 = 2" + " + 1 = 3 + 1 = 2" * 700,
    "names": "".join(f"x{k % 5} = {k} + 2 = {k + 2}. " for k in range(500)),
    "a number": "1" * 10_000,
    "numbers": "12 " * 3_300,
    "commas": "1," * 5_000,
    "operators": "1 + " * 2_500,
    "brackets": "(" * 10_000,
    "equals": "= " * 5_000,
    "dashes": "-" * 10_000,
    "spaces": "5" + " " * 9_990 + "- 3 = 2",
    "answers": "Answer: 1 + 1 = 2 " * 550,
    "names again": "Polly is a jompus. " * 520,
    "stars": "answer is:" + "*" * 9_000 + " 5",
}


@pytest.mark.parametrize("text", LONG.values(), ids=LONG)
def test_long_lines_are_read_in_time(text):
    for name in ("free", "arithmetic", "programs", "deduction"):
        task = TASKS[name]
        problem = CLIPS if name == "free" else task.problems(1)[0]
        begin = time.perf_counter()
        chain = chain_of(task, problem, text, finished=False)
        assert time.perf_counter() - begin < 10
        assert len(chain.text) <= len(text)
