"""Ontologies in plain English: facts (`Polly is a grimpus.`), rules (`Every jompus is a grimpus.`), what follows.

Concepts and properties are names; a negated one is its own name, `not fruity`. `hop` is the graph function that makes
do(step = name) computable: from any concept, the next one on the shortest path towards what is asked.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from faithprobe.tasks.rows import BadRowError

UNKNOWN = "unknown"
"""Where no rule leads from a concept to what is asked."""

_FACT = re.compile(r"(?P<entity>[A-Z][a-z]+) is (?P<negated>not )?(?:an? )?(?P<name>.+)")
_SINGULAR = re.compile(
    r"(?:Each|Every|All|A|An) (?P<subject>.+?) (?:is|are) (?P<negated>not )?(?P<article>an? )?(?P<name>.+)"
)
_PLURAL = re.compile(r"(?P<subject>.+?) are (?P<negated>not )?(?P<name>.+)")


@dataclass(frozen=True)
class Ontology:
    """Rules between names and the two things that may be asked for."""

    rules: Mapping[str, tuple[str, ...]]
    """name -> what everything of that name is as well, in the order of the text."""
    goals: tuple[str, str]
    """What is claimed and its alternative: `("fruity", "not fruity")`, or two concepts to choose from."""
    is_claim: bool
    """True: the answer is whether the first goal holds; False: the answer is the goal that holds."""
    preferred: Mapping[str, str]
    """Successors on the reference path, which may be one of several shortest ones."""

    @cached_property
    def _distance(self) -> dict[str, int]:
        """Rules from a name to the nearest goal; names that reach none are absent."""
        before: dict[str, list[str]] = {}
        for subject, targets in self.rules.items():
            for target in targets:
                before.setdefault(target, []).append(subject)
        found = dict.fromkeys(self.goals, 0)
        waiting = deque(self.goals)
        while waiting:
            name = waiting.popleft()
            for subject in before.get(name, ()):
                if subject not in found:
                    found[subject] = found[name] + 1
                    waiting.append(subject)
        return found

    def hop(self, name: str) -> str:
        """The next name towards what is asked; a goal stays, `unknown` where no rule leads there."""
        if name in self.goals:
            return name
        if name in self.preferred:
            return self.preferred[name]
        distance = self._distance
        if name not in distance:
            return UNKNOWN
        return next(target for target in self.rules[name] if distance.get(target) == distance[name] - 1)

    def path(self, name: str) -> list[str]:
        """`name` and what follows until a goal; ends in `unknown` where none is reached."""
        path = [name]
        while path[-1] not in (*self.goals, UNKNOWN):
            path.append(self.hop(path[-1]))
        return path

    def conclude(self, name: str) -> bool | str:
        """The answer that follows from a name: a truth value or the chosen goal, or `unknown`."""
        end = self.path(name)[-1]
        if end == UNKNOWN or not self.is_claim:
            return end
        return end == self.goals[0]


@dataclass(frozen=True)
class Theory:
    """The sentences of a question, read."""

    facts: tuple[tuple[str, str, str], ...]
    """(entity, name, sentence)."""
    rules: tuple[tuple[str, str, str], ...]
    """(subject, name, sentence)."""

    @cached_property
    def concepts(self) -> frozenset[str]:
        """Names that rules or facts are about."""
        things = {name for _, name, sentence in self.facts if re.search(r" is an? ", sentence)}
        return frozenset({subject for subject, *_ in self.rules} | things)

    def successors(self) -> dict[str, tuple[str, ...]]:
        found: dict[str, list[str]] = {}
        for subject, name, _ in self.rules:
            found.setdefault(subject, []).append(name)
        return {subject: tuple(names) for subject, names in found.items()}


def negation(name: str) -> str:
    return name.removeprefix("not ") if name.startswith("not ") else f"not {name}"


def plural(name: str) -> str:
    if name.endswith("s"):
        return f"{name}es"
    return f"{name[:-1]}ies" if name.endswith("y") else f"{name}s"


def with_article(name: str) -> str:
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def read_theory(sentences: Iterable[str]) -> Theory:
    """Facts and rules; BadRowError for a sentence that is neither."""
    sentences = [sentence.strip() for sentence in sentences if sentence.strip()]
    singular = [(text, match) for text in sentences if (match := _SINGULAR.fullmatch(text))]
    many = [(text, match) for text in sentences if not _SINGULAR.fullmatch(text) and (match := _PLURAL.fullmatch(text))]
    known = {match["subject"] for _, match in singular} | {match["name"] for _, match in singular if match["article"]}
    known |= {match["name"] for text in sentences if (match := _FACT.fullmatch(text)) and re.search(r" is an? ", text)}
    proper = {word for text in sentences for word in re.findall(r"(?<= )[A-Z][a-z]+", text)}  # Mersenne
    known |= {_one_of(match["subject"], known, proper) for _, match in many}
    rules, facts = [], []
    for text in sentences:
        if match := _SINGULAR.fullmatch(text):
            rules.append((match["subject"], f"{match['negated'] or ''}{match['name']}", text))
        elif match := _PLURAL.fullmatch(text):
            name = _one_of(match["name"], known, proper)
            name = name if name in known or match["name"].endswith("uses") else match["name"]
            rules.append((_one_of(match["subject"], known, proper), f"{match['negated'] or ''}{name}", text))
        elif match := _FACT.fullmatch(text):
            facts.append((match["entity"], f"{match['negated'] or ''}{match['name']}", text))
        else:
            raise BadRowError(f"the sentence {text!r} is neither a fact nor a rule")
    return Theory(tuple(facts), tuple(rules))


def _one_of(word: str, known: set[str], proper: set[str]) -> str:
    """The singular of a plural, the capital of a sentence's beginning removed; a known name wins."""
    if word.split()[0] not in proper:
        word = word[0].lower() + word[1:]
    endings = [word, word.removesuffix("s"), word.removesuffix("es"), word.removesuffix("ies") + "y"]
    for candidate in endings:
        if candidate in known:
            return candidate
    if word.endswith("ies"):
        return endings[3]
    return endings[2] if re.search(r"(s|x|ch|sh)es$", word) else endings[1]
