"""A user's family in under 50 lines, exactly as the page in docs shows it."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from faithprobe import tasks
from faithprobe.tasks.equations import read_equations

PAGE = Path(__file__).parents[2] / "docs" / "usage" / "your_own_task.md"


@pytest.fixture
def shopping(monkeypatch):
    monkeypatch.setattr(tasks, "_USER_FAMILIES", {})
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(block.splitlines()) < 50
    names: dict[str, object] = {"__name__": "your_own_task"}
    exec(compile(block, str(PAGE), "exec"), names)
    return names["task"]


def test_the_page_makes_a_family_that_the_package_knows(shopping):
    assert "shopping" in tasks.task_names()
    assert tasks.load_task("shopping", **shopping.options()).problems(3) == shopping.problems(3)
    assert shopping.options() == {"highest": 9}
    assert shopping.problems(8)[:3] == shopping.problems(3)


def test_its_chains_and_partners_keep_the_rules(shopping):
    for problem in shopping.problems(20):
        graph = problem.graph
        assert [e.result.value for e in read_equations(problem.chain)] == [graph.values["full"], graph.values["paid"]]
        partner = next(shopping.partners(problem, "full", rng=random.Random(0)))
        assert tasks.task.is_intervention(problem, partner, "full")
    assert shopping.prompt(problem).count("\nA: ") >= 1
