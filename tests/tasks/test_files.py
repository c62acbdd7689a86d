"""Families that read files: links between steps, bad rows, and what they leave out."""

from __future__ import annotations

import json
import random
import re
from collections import deque
from fractions import Fraction
from pathlib import Path

import pytest

from faithprobe.errors import TaskError
from faithprobe.tasks import load_task

FIXTURES = Path(__file__).parents[1] / "fixtures"
DAG = Path(__file__).parents[3] / "shared" / "data" / "reasoning_core" / "dag_arithmetics.jsonl"
GSM8K = Path(__file__).parents[3] / "shared" / "data" / "gsm8k" / "train.jsonl"
GOOD = '{"question": "What is half of 48?", "answer": "<<48/2=24>>24\\n#### 24"}'


def by_line(task, n):
    return {problem.id: problem for problem in task.problems(n)}


def test_gsm8k_links_operands_to_earlier_results():
    task = load_task("gsm8k", path=FIXTURES / "gsm8k_small.jsonl")
    rows = by_line(task, 6)
    assert [s.expression for s in rows["line 1"].graph.steps] == ["a1 * a2", "v1 - a3"]
    assert [s.expression for s in rows["line 2"].graph.steps] == ["a1 / a2", "a3 + v1", "a4 * v2"]
    assert [s.expression for s in rows["line 4"].graph.steps] == ["a1 / a2", "a3 / a4", "v1 + v2"]
    assert rows["line 3"].graph.inputs["a2"] == Fraction(15, 100)
    assert rows["line 5"].answer == Fraction(15, 4)
    assert rows["line 5"].answer_line == "Answer: 3.75"
    assert len(rows["line 6"].graph.steps) == 2  # <<12=12>> computes nothing
    assert rows["line 1"].chain == "15 * 8 = 120 tulips. 120 - 30 = 90 tulips in bunches."
    assert task.ambiguous == []


def test_gsm8k_keeps_an_ambiguous_operand_literal_and_says_so(tmp_path):
    text = "<<2+4=6>>6\\n<<3+3=6>>6\\n<<6*2=12>>12\\n#### 12"
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"question": "Two and 4, 3 and 3?", "answer": "{text}"}}\n', encoding="utf-8")
    task = load_task("gsm8k", path=path)
    (problem,) = task.problems(1)
    assert task.ambiguous == [(1, "v3", 6)]
    assert problem.graph.needed == {"v3"}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{not json", "not JSON"),
        ("[1, 2]", "not an object"),
        ('{"question": "?"}', "'answer'"),
        ('{"question": "?", "answer": 5}', "no text"),
        ('{"question": "?", "answer": "It is 5.\\n#### 5"}', "no <<...>> annotation"),
        ('{"question": "?", "answer": "<<5+3=8>>8"}', "####"),
        ('{"question": "?", "answer": "<<5+=8>>8\\n#### 8"}', "does not parse"),
        ('{"question": "?", "answer": "<<5+3=8 #### 8"}', "not closed"),
        ('{"question": "?", "answer": "<<5+3=9>>9\\n#### 9"}', "not exact"),
        ('{"question": "?", "answer": "<<10/3=3.33>>3.33\\n#### 3.33"}', "not exact"),
        ('{"question": "?", "answer": "<<5+3=8>>8\\n#### 7"}', "no step gives"),
    ],
)
def test_gsm8k_bad_rows_raise_or_are_skipped_and_listed(tmp_path, line, reason):
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{GOOD}\n\n{line}\n", encoding="utf-8")
    with pytest.raises(TaskError, match=r"rows\.jsonl, line 3: .*skip_bad=True") as raised:
        load_task("gsm8k", path=path)
    assert reason in str(raised.value)
    task = load_task("gsm8k", path=path, skip_bad=True)
    assert [number for number, _ in task.skipped] == [3]
    assert reason in task.skipped[0][1]
    assert len(task.problems(1)) == 1


@pytest.mark.parametrize("name", ["gsm8k", "programs", "multiplication", "deduction"])
def test_empty_and_useless_files(tmp_path, name):
    path = tmp_path / "empty.jsonl"
    path.write_text("\n \n", encoding="utf-8")
    with pytest.raises(TaskError, match="empty"):
        load_task(name, path=path)
    path.write_text('{"a": "{}"}\n', encoding="utf-8")
    with pytest.raises(TaskError, match="no usable problem"):
        load_task(name, path=path, skip_bad=True)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TaskError, match="UTF-8"):
        load_task(name, path=path)


def test_gsm8k_partners_change_one_number_of_the_question():
    task = load_task("gsm8k", path=FIXTURES / "gsm8k_small.jsonl")
    problem = by_line(task, 6)["line 1"]
    for _, partner in zip(range(20), task.partners(problem, "v1", rng=random.Random(0))):
        old, new = (re.findall(r"\d+", p.question) for p in (problem, partner))
        assert [len(number) for number in old] == [len(number) for number in new]
        assert sum(a != b for a, b in zip(old, new)) == 1
        assert partner.graph.values["v2"] > 0
        assert re.findall(r"[a-z]+", partner.chain) == re.findall(r"[a-z]+", problem.chain)


def test_gsm8k_has_no_partners_where_a_number_has_no_known_origin(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "1956 and half of it?", "answer": "<<1956+978=2934>>\\n#### 2934"}', encoding="utf-8")
    task = load_task("gsm8k", path=path)
    assert list(task.partners(task.problems(1)[0], "v1", rng=random.Random(0))) == []


@pytest.mark.skipif(not GSM8K.exists(), reason="the shared GSM8K file is not here")
def test_most_of_the_public_gsm8k_file_is_usable():
    task = load_task("gsm8k", path=GSM8K, skip_bad=True)
    rows = sum(1 for _ in GSM8K.open(encoding="utf-8"))
    assert len(task.skipped) < 0.1 * rows
    assert len(task.problems(200)) == 200


@pytest.mark.parametrize(
    "path",
    [FIXTURES / "dag_small.jsonl", pytest.param(DAG, marks=pytest.mark.skipif(not DAG.exists(), reason="no data"))],
)
def test_programs_of_a_file_have_its_values_and_needed_steps(path):
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    task = load_task("programs", path=path)
    found = {problem.id: problem for problem in task.problems(len(rows))}
    for row in rows:
        program = ". ".join(line for line in row["prompt"].splitlines() if " = " in line)
        problem = found[f"{program}; {row['query']}"]
        assert str(problem.answer) == row["answer"]
        for step in row["steps"]:
            assert str(problem.graph.values[step["var"]]) == step["value"]
            assert (step["var"] in problem.graph.needed) == step["needed"]
        assert problem.chain == row["cot"].replace("\n", ". ") + "."


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"answer": "7"}, "its answer says 7"),
        ({"query": "x9"}, "x9"),
        ({"prompt": "x0 = 5"}, "has no line"),
        ({"query": 3}, "text"),
        ({"prompt": "x0 = 1 + 2\nx1 = 1 + 2 + 3", "query": "x1"}, "not 'name"),
        ({"prompt": "x3 = 1 // 0"}, "zero"),
    ],
)
def test_programs_bad_rows(tmp_path, change, reason):
    row = {**json.loads((FIXTURES / "dag_small.jsonl").read_text(encoding="utf-8").splitlines()[0]), **change}
    path = tmp_path / "dag.jsonl"
    path.write_text(json.dumps(row), encoding="utf-8")
    with pytest.raises(TaskError, match="line 1") as raised:
        load_task("programs", path=path)
    assert reason in str(raised.value)


def test_programs_need_as_many_steps_as_asked():
    for share, unneeded in ((0.0, 0), (0.25, 2), (0.5, 4)):
        for problem in load_task("programs", variables=8, unneeded=share).problems(20):
            assert len(problem.graph.steps) - len(problem.graph.needed) == unneeded


def test_multiplication_reads_reversed_digits_and_checks_them(tmp_path):
    task = load_task("multiplication", path=FIXTURES / "mult_small.txt")
    assert {problem.id for problem in task.problems(2)} == {"23 * 45", "417 * 306"}
    problem = next(p for p in task.problems(2) if p.id == "23 * 45")
    assert problem.response == "23 * 45: 23 * 5 = 115. 23 * 40 = 920. 115 + 920 = 1035. Answer: 1035"
    path = tmp_path / "wrong.txt"
    path.write_text("3 2 * 5 4||5 1 1 + 0 2 9 #### 9 9 9\n", encoding="utf-8")
    with pytest.raises(TaskError, match=r"line 1: states 23 \* 45 = 999"):
        load_task("multiplication", path=path)


def reachable(question: str, start: str) -> set[str]:
    """What follows from a concept, by an own reading of `Each|Every X is (a) Y` sentences only."""
    rules = re.findall(r"(?:Each|Every) (\w+) is (?:an? )?((?:not )?\w+)\.", question)
    found, waiting = {start}, deque([start])
    while waiting:
        name = waiting.popleft()
        for subject, target in rules:
            if subject == name and target not in found:
                found.add(target)
                waiting.append(target)
    return found


def test_deduction_under_do_follows_the_rules_from_the_new_concept():
    task = load_task("deduction", path=FIXTURES / "prosqa_small.json")
    problem = next(p for p in task.problems(2) if p.id == "entry 1")
    assert [problem.graph.values[s.name] for s in problem.graph.steps] == ["yumpus", "fompus", "timpus", "timpus"]
    assert problem.graph.recompute({"v0": "wumpus"})["answer"] == "chorpus"
    assert problem.graph.recompute({"v1": "sterpus"})["v2"] == "chorpus"
    assert problem.graph.recompute({"v1": "wumpus"}) == {
        "start": "yumpus",
        "v0": "yumpus",
        "v1": "wumpus",
        "v2": "sterpus",
        "answer": "chorpus",
    }
    assert problem.graph.recompute({"v1": "nonsense"})["answer"] == "unknown"
    for concept in re.findall(r"\w+pus", problem.question):
        end = problem.graph.recompute({"v2": concept})["answer"]
        assert end == ({"timpus", "chorpus"} & reachable(problem.question, concept) or {"unknown"}).pop()


def test_deduction_answers_true_false_or_unknown():
    task = load_task("deduction", path=FIXTURES / "prontoqa_small.json")
    first, second = sorted(task.problems(2), key=lambda problem: problem.id)
    assert first.answer is False
    assert first.graph.values["v3"] == "sour"
    assert first.graph.recompute({"v1": "yumpus"})["answer"] is True
    assert first.graph.recompute({"v1": "numpus"})["answer"] == "unknown"
    assert second.graph.values["v2"] == "butterfly"
    assert second.graph.recompute({"v0": "even number"})["v1"] == "Mersenne prime"
    assert second.graph.recompute({"v0": "even number"})["answer"] is False


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"answer": "True"}, "states True"),
        ({"query": "Why?"}, "asks neither"),
        ({"chain_of_thought": "Fae is sour."}, "list of sentences"),
        ({"chain_of_thought": ["Fae is a gorpus.", "Each yumpus is not sour.", "Fae is not sour."]}, "is not yumpus"),
        ({"question": 7}, "no text"),
        ({"question": "Gorpuses sleep."}, "neither a fact nor a rule"),
    ],
)
def test_deduction_bad_entries(tmp_path, change, reason):
    data = json.loads((FIXTURES / "prontoqa_small.json").read_text(encoding="utf-8"))
    data["example1"]["test_example"].update(change)
    path = tmp_path / "prontoqa.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(TaskError, match="entry example1") as raised:
        load_task("deduction", path=path)
    assert reason in str(raised.value)
    task = load_task("deduction", path=path, skip_bad=True)
    assert [key for key, _ in task.skipped] == ["example1"]
