"""How each family's chains are cut: a cut chain and its answer read like a response."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from faithprobe.errors import UnscoredError
from faithprobe.tasks import load_task
from faithprobe.tasks.graph import show_value

FIXTURES = Path(__file__).parents[1] / "fixtures"
FAMILIES = pytest.mark.parametrize(
    ("name", "options"),
    [
        ("arithmetic", {}),
        ("programs", {}),
        ("multiplication", {}),
        ("deduction", {}),
        ("deduction", {"ask": "choice"}),
        ("gsm8k", {"path": FIXTURES / "gsm8k_small.jsonl"}),
        ("organism", {}),
    ],
)


@FAMILIES
def test_nothing_cut_off_gives_the_reference_response(name, options):
    task = load_task(name, **options)
    for problem in task.problems(5):
        text = task.truncated(problem, problem.response, len(problem.chain))
        assert f"{text} {show_value(problem.answer)}" == problem.response


@pytest.mark.parametrize("lead", ["", " ", "\n"])
def test_what_stands_before_the_cut_is_kept_and_white_space_is_not_doubled(lead):
    task = load_task("arithmetic")
    (problem,) = task.problems(1)
    response = lead + problem.response
    first = response.index(".") + 1
    assert task.truncated(problem, response, first) == f"{response[:first]} Answer:"
    assert task.truncated(problem, response, first + 1) == f"{response[:first]} Answer:"
    assert task.truncated(problem, response, 0) == f"{lead}Answer:"
    assert task.filler(problem, response, len(response), 3) == f"{lead}... ... ... Answer:"


def test_the_cue_is_read_off_the_answer_line():
    task = load_task("arithmetic")
    (problem,) = task.problems(1)
    assert task.answer_cue(problem) == "Answer:"
    assert task.answer_cue(replace(problem, answer_line="So the answer is $7.")) == "So the answer is $"
    for line in ("Done.", "7"):
        with pytest.raises(UnscoredError, match="'arithmetic' has no words that lead"):
            task.truncated(replace(problem, answer_line=line), problem.response, 3)
