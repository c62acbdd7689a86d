"""Reference responses read back as chains, every family through every tokenizer, against independent recomputation."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path

import pytest

from faithprobe.errors import TaskError
from faithprobe.tasks import load_task
from faithprobe.tasks.graph import show_value
from tests.chains.reading import chain_of, problem_of, written
from tests.chains.tokenizers import KINDS

FIXTURES = Path(__file__).parents[1] / "fixtures"
SHARED = Path(__file__).parents[3] / "shared" / "data"


def shared(name, path, **options):
    file = SHARED / path
    missing = pytest.mark.skipif(not file.exists(), reason=f"the shared data file {path} is not here")
    return pytest.param(name, {"path": file, **options}, 50, marks=missing, id=f"{name}-{file.stem}")


FAMILIES = [
    *(pytest.param("arithmetic", {"steps": k}, 50, id=f"arithmetic-{k}") for k in (1, 3, 12)),
    pytest.param("arithmetic", {"steps": 4, "modulus": 11, "operations": "+-*"}, 80, id="arithmetic-modulo"),
    pytest.param("programs", {}, 50, id="programs"),
    pytest.param("programs", {"variables": 7, "unneeded": 0.5, "operations": "+-*/%"}, 50, id="programs-all"),
    pytest.param("multiplication", {"digits": 3, "multiplier_digits": 3}, 50, id="multiplication"),
    pytest.param("gsm8k", {"path": FIXTURES / "gsm8k_small.jsonl"}, 6, id="gsm8k-small"),
    pytest.param("deduction", {"hops": 4}, 50, id="deduction"),
    pytest.param("deduction", {"ask": "choice"}, 50, id="deduction-choice"),
    pytest.param("organism", {}, 50, id="organism"),
    shared("gsm8k", "gsm8k/train.jsonl", skip_bad=True),
    shared("programs", "reasoning_core/dag_arithmetics.jsonl"),
    shared("multiplication", "icot/mult_4x4_valid.txt"),
    shared("deduction", "prontoqa/5hop_0shot_random_seed20240601.json"),
    shared("deduction", "prosqa/prosqa_valid.json"),
]
every_family = pytest.mark.parametrize(("name", "options", "n"), FAMILIES)


@pytest.fixture(scope="module")
def tasks():
    return {}


def task_of(tasks, name, options):
    key = f"{name} {options}"
    if key not in tasks:
        tasks[key] = load_task(name, **options)
    return tasks[key]


def python_values(graph, fixed):
    """The graph's values by Python's own arithmetic, with some of them fixed."""
    values = {name: Fraction(v) if type(v) is int else v for name, v in {**graph.inputs, **fixed}.items()}
    for step in graph.steps:
        if step.name not in fixed:
            values[step.name] = eval(step.expression, dict(graph.functions), dict(values))
    return values


@every_family
def test_reference_responses_become_complete_chains(tasks, name, options, n):
    task = task_of(tasks, name, options)
    for problem in task.problems(n, seed=5):
        chain = chain_of(task, problem, f" {problem.response}")
        graph = problem.graph
        names = [step.name for step in graph.steps]
        assert not chain.unlocated
        assert [literal.step for literal in chain.stated] == names
        assert chain.values == graph.values
        assert chain.graph == graph
        assert chain.reference == {step: step for step in names}
        assert chain.correct
        assert chain.final_step == graph.answer
        for literal in chain.stated:
            assert written("split", chain, literal.span).strip() == literal.text == chain.text[slice(*literal.chars)]
            assert literal.predicting == literal.span[0] - 1
            assert not literal.overruled
            assert not literal.misquoted
            assert chain.local(literal.step) == chain.true_value(literal.step) == literal.value


@every_family
def test_closed_forms_are_what_python_computes(tasks, name, options, n):
    task = task_of(tasks, name, options)
    checked = 0
    for problem in task.problems(n, seed=6):
        chain = chain_of(task, problem, f" {problem.response}")
        graph = problem.graph
        others = [value for value in graph.values.values() if isinstance(value, str)]
        for step in chain.literals:
            value = chain.values[step]
            new = not value if isinstance(value, bool) else next((o for o in others if o != value), value)
            new = new if isinstance(value, bool | str) else value + 7
            descendants = [s.name for s in graph.steps if depends(graph, s.name, step)]
            kept = {k: v for k, v in graph.values.items() if k not in descendants and k not in graph.inputs}
            try:
                found = chain.closed_form(step, new)
            except TaskError:
                with pytest.raises(ZeroDivisionError):
                    python_values(graph, {**kept, step: new})
                continue
            assert found == python_values(graph, {**kept, step: new})[graph.answer]
            checked += 1
    assert checked >= n


def depends(graph, name, on):
    operands = re.findall(r"\w+", graph[name].expression) if name not in graph.inputs else []
    return name != on and any(o == on or (o in graph.values and depends(graph, o, on)) for o in operands)


@every_family
def test_mentions_are_the_later_words_that_write_the_value(tasks, name, options, n):
    task = task_of(tasks, name, options)
    for problem in task.problems(n, seed=7):
        chain = chain_of(task, problem, f" {problem.response}")
        others: dict[str, set[tuple[int, int]]] = {}  # what belongs to a step or a given input, in characters
        for literal in chain.stated:
            others.setdefault(literal.step, set()).add(literal.chars)
            for operand, span in literal.operands.items():
                others.setdefault(operand, set()).add(characters(chain, span))
        others.setdefault(chain.final_step, set()).add(chain.answer_chars)
        for literal in chain.stated:
            word = rf"(?<!\S)[(]*({re.escape(show_value(literal.value))})[.,:)]*(?!\S)"
            later = {m.span(1) for m in re.finditer(word, chain.text) if m.start(1) >= literal.chars[1]}
            foreign = set().union(*(spans for step, spans in others.items() if step != literal.step))
            assert {characters(chain, span) for span in literal.mentions} == later - foreign
            readers = [s for s in chain.stated if literal.step in s.operands]
            assert {s.operands[literal.step] for s in readers} <= set(literal.mentions)


def characters(chain, span):
    """Of the response, for tokens that bring no white space."""
    begin, end = (chain.offsets[at - chain.question_start] for at in (span[0], span[1] - 1))
    return begin[0] - len(chain.question_text), end[1] - len(chain.question_text)


@every_family
def test_operands_stand_where_they_are_restated(tasks, name, options, n):
    task = task_of(tasks, name, options)
    for problem in task.problems(min(n, 20), seed=8):
        chain = chain_of(task, problem, f" {problem.response}")
        for literal in chain.stated:
            if task.statement is not None:
                assert not literal.operands
                continue
            assert set(literal.operands) == set(problem.graph[literal.step].operands)
            for operand, span in literal.operands.items():
                assert written("split", chain, span) == show_value(chain.values[operand])
                assert span[1] < literal.span[0]


@pytest.mark.parametrize("kind", KINDS)
@every_family
def test_every_tokenizer_gives_the_same_chain(tasks, name, options, n, kind):
    task = task_of(tasks, name, options)
    for problem in task.problems(6 if n > 6 else n, seed=9):
        chain = chain_of(task, problem, f" {problem.response}", kind=kind)
        assert chain.text.strip() == problem.response
        assert not chain.unlocated
        assert chain.values == problem.graph.values
        assert chain.graph == problem.graph
        for literal in chain.stated:
            assert written(kind, chain, literal.span).strip() == literal.text
            for span in literal.mentions:
                assert written(kind, chain, span).strip() == literal.text
        whole = chain.question_text + chain.text
        for literal in chain.stated:
            a, _ = chain.offsets[literal.span[0] - chain.question_start]
            _, b = chain.offsets[literal.span[1] - 1 - chain.question_start]
            assert whole[a:b].strip() == literal.text


def test_values_are_those_on_the_page_and_locals_follow_from_them():
    problem = problem_of(
        "7 + 5 - 3 * 2", {"x0": 7, "a1": 5, "a2": 3, "a3": 2}, v1="x0 + a1", v2="v1 - a2", v3="v2 * a3"
    )
    chain = chain_of(load_task("arithmetic"), problem, " 7 + 5 = 13. 13 - 3 = 11. 11 * 2 = 22. Answer: 22")
    assert [chain.local(step) for step in ("v1", "v2", "v3")] == [12, 10, 22]
    assert [chain.true_value(step) for step in ("v1", "v2", "v3")] == [12, 9, 18]
    assert chain.closed_form("v1", 20) == 34
    assert chain.closed_form("v2", 20) == 40
    assert chain.closed_form("v3", 20) == 20
    assert not chain.correct
