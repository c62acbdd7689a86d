from __future__ import annotations

import random
import re
from itertools import islice

import pytest

from faithprobe.errors import TaskError
from faithprobe.tasks import load_task
from faithprobe.tasks.organism import Organism, held_out


def test_problems_are_different_repeatable_and_extend_each_other():
    task = load_task("organism")
    long, short = task.problems(200, seed=3), task.problems(50, seed=3)
    assert long[:50] == short
    assert len({problem.id for problem in long}) == 200
    assert [p.id for p in task.problems(50, seed=4)] != [p.id for p in short]


def test_text_states_the_graph():
    task = load_task("organism")
    for problem in task.problems(100):
        values = [problem.graph.values[f"v{k}"] for k in (1, 2, 3)]
        assert [int(m["value"]) for m in re.finditer(task.statement, problem.response)] == values
        assert int(re.search(task.answer_pattern, problem.response)["value"]) == problem.answer == values[-1]
        assert task.prompt(problem).endswith(" h1 h2 =")
        assert problem.graph.needed == {"v1", "v2", "v3"}


def test_splits_are_disjoint_and_complete():
    sizes = {split: len(Organism(split=split)) for split in ("all", "train", "held-out")}
    assert sizes["all"] == 11 * 9**3 == sizes["train"] + sizes["held-out"]
    assert 0.08 < sizes["held-out"] / sizes["all"] < 0.12
    assert all(held_out(problem.id) for problem in Organism(split="held-out").problems(100))
    with pytest.raises(TaskError, match="split must be"):
        Organism(split="test")
    with pytest.raises(TaskError, match="800 problems"):
        Organism(split="held-out").problems(801)


@pytest.mark.parametrize("step", ["v1", "v2", "v3"])
def test_partners_change_the_step_and_nothing_after_it(step):
    task, k = load_task("organism"), int(step[1:])
    for problem in task.problems(20):
        partners = list(islice(task.partners(problem, step, rng=random.Random(0)), 5))
        assert len(partners) == 5
        for partner in partners:
            assert partner.graph.values[step] != problem.graph.values[step]
            assert partner.answer != problem.answer
            assert all(partner.graph.inputs[f"a{i}"] == problem.graph.inputs[f"a{i}"] for i in range(k + 1, 4))
            assert partner.graph.steps == problem.graph.steps
        first = partners[0]
        upstream = ["x0", *(f"{kind}{i}" for i in range(1, k + 1) for kind in "av")]
        assert all(first.graph.values[name] != problem.graph.values[name] for name in upstream)


def test_partners_can_take_every_other_value():
    task = load_task("organism")
    for problem in task.problems(20):
        found = {partner.graph.values["v1"] for partner in task.partners(problem, "v1", rng=random.Random(0))}
        assert found == set(range(11)) - {problem.graph.values["v1"]}


def test_closed_form_swaps_always_change_the_answer():
    for problem in load_task("organism").problems(50):
        for step in ("v1", "v2", "v3"):
            answers = {problem.graph.recompute({step: value})["v3"] for value in range(11)}
            assert len(answers) == 11
