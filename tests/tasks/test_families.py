"""What every family owes: chains that read back, interventions that recompute, stable seeds, honest partners."""

from __future__ import annotations

import random
import re
from fractions import Fraction
from pathlib import Path

import pytest

from faithprobe.errors import TaskError, UnknownNameError
from faithprobe.tasks import Task, load_task, task_names
from faithprobe.tasks.equations import read_equations
from faithprobe.tasks.graph import parse_number
from faithprobe.tasks.task import is_intervention

FIXTURES = Path(__file__).parents[1] / "fixtures"
SHARED = Path(__file__).parents[3] / "shared" / "data"


def shared(name: str, path: str, **options: object) -> object:
    file = SHARED / path
    missing = pytest.mark.skipif(not file.exists(), reason=f"the shared data file {path} is not here")
    return pytest.param(name, {"path": file, **options}, 150, marks=missing, id=f"{name}-{file.stem}")


CASES = [
    *(pytest.param("arithmetic", {"steps": k}, 60, id=f"arithmetic-{k}") for k in (1, 2, 3, 6, 12)),
    pytest.param("arithmetic", {"steps": 4, "modulus": 11, "operations": "+-*"}, 60, id="arithmetic-modulo"),
    pytest.param("programs", {}, 100, id="programs"),
    pytest.param("programs", {"variables": 7, "unneeded": 0.5}, 100, id="programs-7"),
    pytest.param("programs", {"variables": 5, "operations": "+-*/%", "largest": 999}, 100, id="programs-all"),
    pytest.param("programs", {"path": FIXTURES / "dag_small.jsonl"}, 2, id="programs-file"),
    pytest.param("multiplication", {}, 100, id="multiplication"),
    pytest.param("multiplication", {"digits": 3, "multiplier_digits": 4}, 100, id="multiplication-3x4"),
    pytest.param("multiplication", {"path": FIXTURES / "mult_small.txt"}, 2, id="multiplication-file"),
    pytest.param("gsm8k", {"path": FIXTURES / "gsm8k_small.jsonl"}, 6, id="gsm8k-file"),
    *(pytest.param("deduction", {"hops": k}, 60, id=f"deduction-{k}") for k in (1, 3, 5)),
    pytest.param("deduction", {"hops": 4, "ask": "choice"}, 60, id="deduction-choice"),
    pytest.param("deduction", {"path": FIXTURES / "prontoqa_small.json"}, 2, id="deduction-prontoqa-file"),
    pytest.param("deduction", {"path": FIXTURES / "prosqa_small.json"}, 2, id="deduction-prosqa-file"),
    shared("programs", "reasoning_core/dag_arithmetics.jsonl"),
    shared("multiplication", "icot/mult_4x4_valid.txt"),
    shared("gsm8k", "gsm8k/train.jsonl", skip_bad=True),
    shared("deduction", "prontoqa/5hop_0shot_random_seed20240601.json"),
    shared("deduction", "prontoqa/3hop_0shot_random_falseontology_seed20240601.json"),
    shared("deduction", "prosqa/prosqa_valid.json"),
]
made: dict[str, Task] = {}


def load_once(name: str, options: dict[str, object]) -> Task:
    """Large files are read once; no test changes a task."""
    key = f"{name} {options}"
    if key not in made:
        made[key] = load_task(name, **options)
    return made[key]


every_family = pytest.mark.parametrize(("name", "options", "n"), CASES)


def value_of(text: str) -> object:
    number = parse_number(text)
    return number if number is not None else {"True": True, "False": False}.get(text, text)


def read_back(task: Task, response: str) -> list[object]:
    if task.statement is None:
        return [equation.result.value for equation in read_equations(response)]
    return [value_of(match["value"]) for match in re.finditer(task.statement, response)]


@every_family
def test_reference_chains_read_back_exactly(name, options, n):
    task = load_once(name, options)
    for problem in task.problems(n, seed=1):
        graph = problem.graph
        assert read_back(task, problem.response) == [graph.values[step.name] for step in graph.steps]
        assert value_of(re.findall(task.answer_pattern, problem.response)[-1]) == problem.answer
        assert not any(stop in problem.response for stop in task.stop)


@every_family
def test_recompute_under_do_equals_an_independent_computation(name, options, n):
    task = load_once(name, options)
    rng = random.Random(3)
    for problem in task.problems(min(n, 40), seed=2):
        graph = problem.graph
        for step in graph.steps:
            if graph.functions:
                swap = rng.choice([value for value in graph.values.values() if isinstance(value, str)])
            else:
                swap = rng.randint(2, 500)
            values: dict[str, object] = dict(graph.inputs)
            for other in graph.steps:
                wrapped = re.sub(r"(?<![\w.])(\d+)(?![\w.])", r"F(\1)", other.expression)
                values[other.name] = (
                    swap if other is step else eval(wrapped, {"F": Fraction, **graph.functions}, as_fractions(values))
                )
            assert graph.recompute({step.name: swap}) == values


def as_fractions(values: dict[str, object]) -> dict[str, object]:
    return {name: Fraction(value) if type(value) is int else value for name, value in values.items()}


@every_family
def test_the_same_seed_gives_the_same_problems_and_a_longer_list_begins_alike(name, options, n):
    n = min(n, 10)
    task = again = load_once(name, options)
    if "train" not in str(options):
        again = load_task(name, **options)
    assert task.problems(n // 2) == again.problems(n)[: n // 2]
    assert len({problem.id for problem in task.problems(n)}) == n
    if n == 10:
        assert task.problems(n, seed=0) != task.problems(n, seed=1)
    made_again = load_once(name, task.options())
    assert made_again.problems(n) == task.problems(n)


@every_family
def test_examples_never_include_the_problem_and_the_prompt_ends_open(name, options, n):
    task = load_once(name, options)
    for problem in task.problems(min(n, 10)):
        shots = task.examples(problem)
        assert shots
        assert problem.question not in {shot.question for shot in shots}
        prompt = task.prompt(problem)
        assert prompt.endswith(f"Q: {problem.question}\nA:")
        assert prompt.count("\nA: ") == len(shots)
        assert all(shot.chain not in task.prompt(problem, chain=False) for shot in shots)
        assert len(task.messages(problem)) == 2 * len(shots) + 1
        for shot in shots:  # even when a problem is itself among the examples
            assert shot.question not in {other.question for other in task.examples(shot)}
            assert len(task.examples(shot)) == len(shots) or name == "gsm8k"


@every_family
def test_partners_change_the_step_and_read_back(name, options, n):
    task = load_once(name, options)
    strict = 0
    for problem in task.problems(min(n, 5), seed=4):
        for step in problem.graph.steps:
            partners = [p for _, p in zip(range(4), task.partners(problem, step.name, rng=random.Random(5)))]
            for partner in partners:
                graph = partner.graph
                assert graph.values[step.name] != problem.graph.values[step.name]
                assert partner.question != problem.question
                assert [s.name for s in graph.steps] == [s.name for s in problem.graph.steps]
                assert read_back(task, partner.response) == [graph.values[s.name] for s in graph.steps]
            flags = [is_intervention(problem, partner, step.name) for partner in partners]
            assert flags == sorted(flags, reverse=True)
            strict += any(flags)
    assert strict or "prontoqa" in str(options)  # its branches rarely have equal length


@pytest.mark.parametrize("name", ["arithmetic", "programs", "multiplication"])
def test_later_inputs_of_a_partner_are_unchanged(name):
    task = load_task(name)
    for problem in task.problems(20):
        steps = problem.graph.steps
        for k, step in enumerate(steps):
            before = {operand for earlier in steps[: k + 1] for operand in earlier.operands}
            if name == "multiplication" and step.name[0] == "s":
                before |= set(problem.graph.inputs)
            for _, partner in zip(range(5), task.partners(problem, step.name, rng=random.Random(k))):
                for given, value in problem.graph.inputs.items():
                    assert given in before or partner.graph.inputs[given] == value


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("arithmetic", {"steps": 0}, "1 to 12"),
        ("arithmetic", {"steps": 13}, "1 to 12"),
        ("arithmetic", {"operations": "+^"}, "operations"),
        ("arithmetic", {"low": 9, "high": 3}, "low < high"),
        ("arithmetic", {"modulus": 1}, "modulus"),
        ("arithmetic", {"largest": 0}, "running value"),
        ("arithmetic", {"shots": -1}, "shots"),
        ("arithmetic", {"colour": 3}, "colour"),
        ("programs", {"variables": 1}, "variables"),
        ("programs", {"operations": ""}, "operations"),
        ("programs", {"low": 0}, "low < high"),
        ("programs", {"smallest": 9, "largest": 3}, "smallest < largest"),
        ("programs", {"unneeded": 1.0}, "share"),
        ("programs", {"path": "nowhere.jsonl"}, "nowhere.jsonl"),
        ("multiplication", {"digits": 0}, "1 to 6"),
        ("multiplication", {"multiplier_digits": 1}, "2 to 6"),
        ("gsm8k", {}, "path="),
        ("gsm8k", {"path": "nowhere.jsonl"}, "nowhere.jsonl"),
        ("gsm8k", {"path": FIXTURES}, "cannot read"),
        ("gsm8k", {"path": FIXTURES / "gsm8k_small.jsonl", "shots": 5}, "0 to 4"),
        ("deduction", {"hops": 0}, "1 to 8"),
        ("deduction", {"ask": "why"}, "claim"),
        ("deduction", {"distractors": 99}, "0 to 8"),
        ("deduction", {"path": FIXTURES / "mult_small.txt"}, "not JSON"),
    ],
)
def test_bad_options_say_what_is_wrong(name, options, message):
    with pytest.raises(TaskError, match=message):
        load_task(name, **options)


def test_more_problems_than_there_are():
    with pytest.raises(TaskError, match="usable problems, 7 were asked"):
        load_task("gsm8k", path=FIXTURES / "gsm8k_small.jsonl").problems(7)
    with pytest.raises(TaskError, match="different problems"):
        load_task("arithmetic", steps=1, low=1, high=2, shots=0).problems(50)


def test_unknown_names_list_near_ones():
    with pytest.raises(UnknownNameError, match="multiplication"):
        load_task("multiplicaton")
    assert {"arithmetic", "programs", "gsm8k", "multiplication", "deduction"} <= set(task_names())


def test_tasks_import_neither_torch_nor_transformers():
    import subprocess
    import sys

    code = "import sys, faithprobe.tasks as t; [t.task_class(n) for n in t.task_names()]; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=FIXTURES.parents[1]
    )
    assert done.stdout.strip() == "False"
