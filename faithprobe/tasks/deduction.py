"""Deductions whose steps are names: `Polly is a jompus. Every jompus is a grimpus. Polly is a grimpus. ...`

Generated, or read from ProntoQA (Saparov & He 2023, arXiv 2210.01240; is a statement true?) and ProsQA (Hao et al.
2024, arXiv 2412.06769; which of two concepts?). Steps `v0`, `v1`, ... are what the entity is said to be, one rule
after another; `answer` is what follows from the last. The graph's functions `hop` and `conclude` apply the rules of
the question to any name, so that do(v1 = "dumpus") goes on from there; `unknown` where no rule leads to the answer.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from os import PathLike
from typing import Any, ClassVar

from faithprobe.errors import TaskError
from faithprobe.tasks.graph import Graph, Step
from faithprobe.tasks.ontology import UNKNOWN, Ontology, Theory, negation, plural, read_theory, with_article
from faithprobe.tasks.rows import BadRowError, RowReport, read_text, text_field
from faithprobe.tasks.task import Problem, Task, draw, interventions_first, sample

_CLAIM = re.compile(r"True or false: (?P<entity>[A-Z][a-z]+) is (?P<name>(?:not )?(?:an? )?.+?)\.")
_CHOICE = re.compile(r"Is (?P<entity>[A-Z][a-z]+) (?:an? )?(?P<one>[^.?]+?) or (?:an? )?(?P<other>[^.?]+?)\?")
_CONCEPTS = re.findall(
    "[a-z]+",
    "wumpus yumpus zumpus dumpus rompus numpus tumpus vumpus impus jompus gorpus shumpus lempus sterpus grimpus "
    "lorpus brimpus rempus fompus terpus gerpus yerpus bompus worpus felpus kerpus",
)
_PROPERTIES = re.findall(
    "[a-z]+", "fruity sweet loud bright wooden metallic large slow happy shy spicy cold opaque earthy kind dull"
)
_ENTITIES = ("Polly", "Stella", "Max", "Wren", "Alex", "Sally", "Rex", "Fae", "Sam", "Tom", "Bob", "Davis")


class Deduction(Task):
    """Multi-hop deductions over an ontology that the question spells out."""

    name: ClassVar[str] = "deduction"
    summary: ClassVar[str] = "deductions over named concepts: generated, ProntoQA or ProsQA"
    statement = r"(?:\b[A-Z][a-z]+ is (?:an? )?|\bAnswer: )(?P<value>(?:not )?[A-Za-z]+(?: [a-z]+)?)(?=\.|\n|$)"
    answer_pattern = r"(?i)\banswer(?: is)?:?[* ]+(?:an? )?(?P<value>[a-z]+)\b"

    def __init__(
        self,
        *,
        path: str | PathLike[str] | None = None,
        hops: int = 3,
        ask: str = "claim",
        distractors: int = 4,
        shots: int = 3,
        few_shot_seed: int = 7,
        skip_bad: bool = False,
    ) -> None:
        """`hops` 1 to 8 rules from the fact to what is asked; `ask` "claim" (true or false?) or "choice" (which of
        two?); `distractors` 0 to 8 rules that lead nowhere. `path` to a ProntoQA JSON (an object of examples) or a
        ProsQA JSON (a list). Examples are generated, with as many hops and the same kind of question."""
        if not 1 <= hops <= 8:
            raise TaskError(f"deductions have 1 to 8 hops, not {hops}")
        if ask not in ("claim", "choice"):
            raise TaskError(f"ask must be 'claim' or 'choice', not {ask!r}")
        if not 0 <= distractors <= 8:
            raise TaskError(f"distractors must be 0 to 8, not {distractors}")
        if shots < 0:
            raise TaskError(f"shots must be 0 or more, not {shots}")
        self.path, self.hops, self.ask, self.distractors = None if path is None else str(path), hops, ask, distractors
        self.shots, self.few_shot_seed, self.skip_bad = shots, few_shot_seed, skip_bad
        self.skipped: list[tuple[int | str, str]] = []
        """Entries of the file that were left out: key and reason."""
        self._rows: list[Problem] = []
        if path is not None:
            report = RowReport(path, skip_bad=skip_bad)
            for key, row in _entries(path):
                try:
                    self._rows.append(_read(key, row))
                except BadRowError as error:
                    report.bad(key, error)
            report.check_any(len(self._rows))
            self.skipped = report.skipped
        longest = max((len(row.graph.steps) for row in self._rows), default=hops + 2)
        self.max_new_tokens = 24 + 36 * longest

    def problems(self, n: int, *, seed: int = 0) -> list[Problem]:
        rng = random.Random(f"deduction {seed}")
        if self.path is not None:
            return sample(self._rows, n, rng, source=self.path)
        shown = {shot.question for shot in self._shots(self.hops, self.ask)}
        return draw(n, rng, lambda r: _generated(r, self.hops, self.ask, self.distractors), task=self, avoid=shown)

    def examples(self, problem: Problem) -> Sequence[Problem]:
        ask = "claim" if _CLAIM.search(problem.question) else "choice"
        shots = self._shots(min(len(problem.graph.steps) - 2, 8), ask)
        return [shot for shot in shots if shot.question != problem.question][: self.shots]

    def _shots(self, hops: int, ask: str) -> list[Problem]:
        """One more than is shown, so that a problem that is itself among them still gets all its examples."""
        return _shots(self.shots + 1, self.few_shot_seed, hops, ask, self.distractors) if self.shots else []

    def partners(self, problem: Problem, step: str, *, rng: random.Random) -> Iterator[Problem]:
        """The same question with another starting fact, as many rules away from an answer; then with two concepts
        exchanged, which leaves the answer as it is."""
        found = [*_other_starts(problem), *_exchanged(problem, step)]
        found = [partner for partner in found if partner.graph.values[step] != problem.graph.values[step]]
        rng.shuffle(found)
        return interventions_first(problem, found, step)


@lru_cache(maxsize=64)
def _shots(n: int, seed: int, hops: int, ask: str, distractors: int) -> list[Problem]:
    family = Deduction(hops=hops, ask=ask, distractors=distractors, shots=0)
    rng = random.Random(f"deduction shots {seed}")
    return draw(n, rng, lambda r: _generated(r, hops, ask, distractors), task=family)


def _split(question: str) -> tuple[list[str], re.Match[str]]:
    """The sentences of the theory, and what is asked."""
    asked = _CLAIM.search(question) or _CHOICE.search(question)
    if asked is None:
        raise BadRowError("asks neither 'True or false: Polly is ...' nor 'Is Polly a ... or ...?'")
    return [part for part in question[: asked.start()].split(".") if part.strip()], asked


def _problem(identity: str, question: str, path: Sequence[str] = (), start: str = "") -> Problem:
    """The problem that `question` spells out. `path`: the names of the reference chain, where it is given; otherwise
    the shortest one from `start`, or from the first fact that leads to an answer."""
    sentences, asked = _split(question)
    theory = read_theory(sentences)
    entity = asked["entity"]
    if asked.re is _CLAIM:
        claim = re.sub(r"^(not )?an? ", r"\1", asked["name"])
        goals = (claim, negation(claim))
    else:
        goals = (asked["one"], asked["other"])
    ontology = Ontology(theory.successors(), goals, asked.re is _CLAIM, dict(zip(path, path[1:])))
    starts = [name for subject, name, _ in theory.facts if subject == entity]
    if path:
        start = path[0]
        wrong = [(a, b) for a, b in zip(path, path[1:]) if b not in ontology.rules.get(a, ())]
        if wrong or path[-1] not in goals:
            raise BadRowError(
                f"its chain takes {wrong[0][0]!r} to {wrong[0][1]!r} without a rule"
                if wrong
                else "its chain does not end in what is asked"
            )
    start = start or next((name for name in starts if ontology.conclude(name) != UNKNOWN), "")
    if start not in starts:
        raise BadRowError(f"no fact about {entity} leads to what is asked" if not start else f"{entity} is not {start}")
    names = ontology.path(start)
    if len(names) < 2 or names[-1] == UNKNOWN:
        raise BadRowError(f"nothing is to be deduced from {entity} being {start}")
    steps = [Step("v0", "start"), *(Step(f"v{k}", f"hop(v{k - 1})") for k in range(1, len(names)))]
    steps.append(Step("answer", f"conclude(v{len(names) - 1})"))
    graph = Graph({"start": start}, tuple(steps), "answer", {"hop": ontology.hop, "conclude": ontology.conclude})
    written = {(subject, name): sentence for subject, name, sentence in theory.rules}
    chain = [_fact(entity, start, theory)]
    for before, name in zip(names, names[1:]):
        chain += [f"{written[before, name]}.", _fact(entity, name, theory)]
    return Problem(identity, question, graph, " ".join(chain), f"Answer: {graph.values['answer']}")


def _fact(entity: str, name: str, theory: Theory) -> str:
    """`Polly is a jompus.` for a concept, `Polly is not fruity.` for a property."""
    thing = name in theory.concepts or name.endswith("pus") or _is_object(name, theory)
    return f"{entity} is {with_article(name) if thing and not name.startswith('not ') else name}."


def _is_object(name: str, theory: Theory) -> bool:
    """Whether some rule says `is a NAME`."""
    return any(target == name and re.search(r" is an? ", sentence) for _, target, sentence in theory.rules)


def _generated(rng: random.Random, hops: int, ask: str, distractors: int) -> Problem:
    """Two branches of the same length, to what is asked and to its alternative, and rules that lead nowhere."""
    names = rng.sample(_CONCEPTS, len(_CONCEPTS))
    length = hops + (ask == "choice")
    branches = names[:length], names[length : 2 * length]
    spare = names[2 * length :]
    properties = rng.sample(_PROPERTIES, len(_PROPERTIES))
    asked = properties.pop()
    rules = [_rule(rng, a, with_article(b)) for branch in branches for a, b in zip(branch, branch[1:])]
    if ask == "claim":
        signs = rng.sample(["", "not "], 2)
        rules += [_rule(rng, branch[-1], f"{sign}{asked}") for branch, sign in zip(branches, signs)]
    inside = [*branches[0], *branches[1]]
    for k, name in enumerate(rng.sample(inside, min(distractors, len(inside)))):
        rules.append(_rule(rng, name, with_article(spare[k]) if k < len(spare) and k % 2 else properties[k]))
    rng.shuffle(rules)
    entity, other = rng.sample(_ENTITIES, 2)
    facts = [f"{entity} is {with_article(branches[0][0])}", f"{other} is {with_article(branches[1][0])}"]
    rng.shuffle(facts)
    if ask == "claim":
        query = f"True or false: {entity} is {rng.choice(['', 'not '])}{asked}."
    else:
        query = "Is {} {} or {}?".format(entity, *rng.sample([with_article(branch[-1]) for branch in branches], 2))
    question = ". ".join([*rules, *facts, query])
    return _problem(question, question)


def _rule(rng: random.Random, subject: str, predicate: str) -> str:
    """`Each jompus is a grimpus`, `Every ...`, or `Jompuses are grimpuses`."""
    form = rng.choice(("Each", "Every", ""))
    if form:
        return f"{form} {subject} is {predicate}"
    thing = re.fullmatch(r"an? (.+)", predicate)
    return f"{plural(subject).capitalize()} are {plural(thing[1]) if thing else predicate}"


def _entries(path: str | PathLike[str]) -> list[tuple[str, Any]]:
    try:
        data = json.loads(read_text(path, family="deduction"))
    except (ValueError, RecursionError) as error:
        raise TaskError(f"{path} is not JSON ({error}); deduction reads ProntoQA or ProsQA JSON files") from None
    if isinstance(data, dict) and data:
        return list(data.items())
    if isinstance(data, list) and data:
        return [(str(k), row) for k, row in enumerate(data)]
    raise TaskError(f"{path} holds no examples; deduction reads a ProntoQA object or a ProsQA list")


def _read(key: str, row: Any) -> Problem:
    """A problem from an entry of ProntoQA (`test_example`, `query`) or ProsQA (`steps`)."""
    row = row.get("test_example", row) if isinstance(row, Mapping) else row
    if not isinstance(row, Mapping):
        raise BadRowError("is no JSON object")
    row = dict(row)
    question, answer = text_field(row, "question"), text_field(row, "answer")
    chain = row.get("chain_of_thought", row.get("steps"))
    if not isinstance(chain, list) or not chain or not all(isinstance(sentence, str) for sentence in chain):
        raise BadRowError("needs a list of sentences under 'chain_of_thought' (ProntoQA) or 'steps' (ProsQA)")
    if "query" in row:
        question = f"{question} {text_field(row, 'query')}"
    told = read_theory(sentence.rstrip(". ") for sentence in chain)
    used = read_theory([*_split(question)[0], *(sentence.rstrip(". ") for sentence in chain)]).rules[-len(told.rules) :]
    if not told.rules or not told.facts:
        raise BadRowError("its chain has no fact or no rule")
    path = [used[0][0], *(name for _, name, _ in used)]
    problem = _problem(f"entry {key}", question, path)
    expected: object = {"True": True, "False": False}.get(answer.strip())
    if expected is None:
        expected = re.sub(r"^.* is (?:an? )?|\.$", "", answer.strip())
    if problem.answer != expected:
        raise BadRowError(f"its rules give the answer {problem.answer}, it states {answer}")
    return problem


def _other_starts(problem: Problem) -> Iterator[Problem]:
    """The entity begins as another concept that is as many rules away from an answer."""
    sentences, asked = _split(problem.question)
    theory = read_theory(sentences)
    entity, start = asked["entity"], str(problem.graph.inputs["start"])
    others = {name for subject, name, _ in theory.facts if subject == entity}
    hop, conclude = problem.graph.functions["hop"], problem.graph.functions["conclude"]
    length = len(problem.graph.steps) - 2
    if any(conclude(name) != UNKNOWN for name in others - {start}):
        return  # a second fact that leads to an answer makes the question ambiguous
    for name in sorted(theory.concepts - others):
        path = [name]
        while len(path) <= length:
            path.append(str(hop(path[-1])))
        if path[-1] == UNKNOWN or path[-1] == path[-2] or hop(path[-1]) != path[-1]:
            continue
        fact = rf"\b{entity} is an? {re.escape(start)}\."
        question = re.sub(fact, f"{entity} is {with_article(name)}.", problem.question, count=1)
        if question != problem.question:
            yield _problem(f"{problem.id}; {start} -> {name}", question, path)


def _exchanged(problem: Problem, step: str) -> Iterator[Problem]:
    """Two concepts trade names: that of `step` and one off the path."""
    sentences, asked = _split(problem.question)
    theory = read_theory(sentences)
    path = [str(problem.graph.values[step.name]) for step in problem.graph.steps[:-1]]
    name = problem.graph.values[step]
    if name not in path[:-1]:
        return
    for other in sorted(theory.concepts - {*path, *asked.groupdict().values()}):
        question = _swap_words(problem.question, str(name), other)
        try:
            yield _problem(
                f"{problem.id}; {name} <-> {other}", question, [other if one == name else one for one in path]
            )
        except BadRowError:  # an irregular plural that the swap could not follow
            continue


def _swap_words(text: str, one: str, other: str) -> str:
    forms = {}
    for a, b in ((one, other), (other, one)):
        for write in (str, plural):
            forms[write(a)] = write(b)
            forms[write(a)[0].upper() + write(a)[1:]] = write(b)[0].upper() + write(b)[1:]
    words = "|".join(re.escape(form) for form in sorted(forms, key=len, reverse=True))
    swapped = re.sub(rf"\b(?:{words})\b", lambda match: forms[match[0]], text)
    return re.sub(
        rf"\ban? (?=({re.escape(one)}|{re.escape(other)})\b)",
        lambda match: with_article(match[1])[: -len(match[1])],
        swapped,
    )
