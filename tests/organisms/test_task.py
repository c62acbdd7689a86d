from __future__ import annotations

import random
import re
from itertools import islice

import pytest

from faithprobe.errors import TaskError
from faithprobe.tasks import load_task
from faithprobe.tasks.organism import GRAMMARS, Organism, held_out


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
        assert task.prompt(problem).endswith(" _ h1 h2 =")
        assert problem.graph.needed == {"v1", "v2", "v3"}


def test_splits_are_disjoint_and_complete():
    for variant, size in (("modular", 11 * 9**3), ("graph", 11 * 9**4), ("additive", 6 * 10**3)):
        sizes = {split: Organism(split=split, variant=variant).count() for split in ("all", "train", "held-out")}
        assert sizes["all"] == size == sizes["train"] + sizes["held-out"]
        assert 0.08 < sizes["held-out"] / sizes["all"] < 0.12
    for variant in GRAMMARS:
        assert all(held_out(problem.id) for problem in Organism(split="held-out", variant=variant).problems(100))
        assert not any(held_out(problem.id) for problem in Organism(split="train", variant=variant).problems(100))
    with pytest.raises(TaskError, match="split must be one of 'all', 'train', 'held-out', not 'test'"):
        Organism(split="test")
    with pytest.raises(TaskError, match="has 800 problems with variant='modular' and split='held-out', 801 were asked"):
        Organism(split="held-out").problems(801)
    with pytest.raises(TaskError, match="too many to list"):
        Organism(variant="six").count()
    with pytest.raises(TaskError, match="variant must be one of 'modular', 'six', 'graph', 'additive', not 'sixx'"):
        Organism(variant="sixx")
    with pytest.raises(TaskError, match="hint must be one of 'none', 'right', 'wrong', not 'maybe'"):
        Organism(hint="maybe")


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


@pytest.mark.parametrize("variant", GRAMMARS)
def test_every_variant_states_its_graph(variant):
    task = load_task("organism", variant=variant)
    n = task.grammar.steps
    for problem in task.problems(30):
        values = [problem.graph.values[f"v{k}"] for k in range(1, n + 1)]
        assert [int(m["value"]) for m in re.finditer(task.statement, problem.response)] == values
        assert int(re.search(task.answer_pattern, problem.response)["value"]) == problem.answer == values[-1]
        assert all(0 <= value <= 35 for value in values)
        running, numbers = {0: problem.graph.inputs["x0"]}, problem.id.split()
        for k, (sign, operand) in enumerate(zip(numbers[1::2], numbers[2::2]), 1):  # by hand, not by the graph
            source = running[task.grammar.parents[k - 1]]
            found = {"+": source + int(operand), "-": source - int(operand), "*": source * int(operand)}[sign]
            running[k] = found % 11 if variant != "additive" else found
        assert [running[k] for k in range(1, n + 1)] == values
    needed = {"graph": {"v1", "v3", "v4"}}.get(variant, {f"v{k}" for k in range(1, n + 1)})
    assert problem.graph.needed == needed


@pytest.mark.parametrize("variant", ["six", "graph", "additive"])
def test_partners_of_every_variant_change_the_step(variant):
    task = load_task("organism", variant=variant)
    for problem in task.problems(5):
        for step in (step.name for step in problem.graph.steps):
            partners = list(islice(task.partners(problem, step, rng=random.Random(0)), 4))
            assert len(partners) == 4
            for partner in partners:
                assert partner.graph.values[step] != problem.graph.values[step]
                assert [word for word in partner.id.split() if word in "+-*"] == [
                    word for word in problem.id.split() if word in "+-*"
                ]
                if step in problem.graph.needed:
                    assert partner.answer != problem.answer


@pytest.mark.parametrize("variant", GRAMMARS)
def test_same_values_from_other_operands(variant):
    task = load_task("organism", variant=variant)
    found = 0
    for problem in task.problems(8):
        for step in (step.name for step in problem.graph.steps):
            for other in islice(task.same_value(problem, step, rng=random.Random(0)), 3):
                found += 1
                assert other.graph.values[step] == problem.graph.values[step]
                assert all(
                    other.graph.values[name] != problem.graph.values[name] for name in problem.graph[step].operands
                )
    assert found > 20


def test_hints_and_blanks():
    right, wrong, silent = Organism(hint="right"), Organism(hint="wrong"), Organism(silent=True)
    for problem in right.problems(30):
        assert right.prompt(problem) == f"{problem.question} {problem.answer} h1 h2 ="
        hint = int(wrong.hint_for(problem))
        assert hint != problem.answer
        assert 0 <= hint < 11
        assert wrong.prompt(problem) == f"{problem.question} {hint} h1 h2 ="
    (blank,) = silent.problems(1)
    assert silent.prompt(blank).endswith(" _ h1 h2 ~")
    assert blank.chain == ". . > . . . > . . . > ."
    assert blank.answer_line == f"answer {blank.answer}"


def test_options_make_the_task_again():
    task = Organism(variant="graph", split="held-out", hint="wrong")
    again = load_task("organism", **task.options())
    assert [p.id for p in again.problems(5)] == [p.id for p in task.problems(5)]
    assert again.hint == "wrong"
