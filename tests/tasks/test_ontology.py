"""Ontologies: shortest ways, cycles, and English plurals."""

from __future__ import annotations

import itertools
import random

import pytest

from faithprobe.errors import TaskError
from faithprobe.tasks.ontology import UNKNOWN, Ontology, plural, read_theory


def test_hop_takes_the_shortest_way_and_the_reference_decides_between_equal_ones():
    rules = {"a": ("b", "c", "e"), "b": ("d",), "d": ("goal",), "c": ("goal",), "e": ("goal",)}
    assert Ontology(rules, ("goal", "other"), False, {}).path("a") == ["a", "c", "goal"]
    assert Ontology(rules, ("goal", "other"), False, {"a": "e"}).path("a") == ["a", "e", "goal"]


def test_hop_against_all_walks_on_random_ontologies():
    rng = random.Random(0)
    for _ in range(100):
        names = "abcdefgh"
        rules = {name: tuple(rng.sample(names, rng.randint(0, 3))) for name in names}  # with cycles
        ontology = Ontology(rules, ("g", "h"), False, {})
        for name in names:
            walks = [
                (name, *walk)
                for length in range(5)
                for walk in itertools.product(names, repeat=length)
                if all(b in rules[a] for a, b in itertools.pairwise((name, *walk))) and (name, *walk)[-1] in "gh"
            ]
            shortest = min(map(len, walks), default=None)
            path = ontology.path(name)
            if shortest is None:
                assert path[-1] == UNKNOWN or len(path) > 5
            else:
                assert tuple(path) in walks
                assert len(path) == shortest


def test_plurals_and_proper_names_are_read_as_their_singular():
    sentences = [
        "Prime numbers are Mersenne primes",
        "Mersenne primes are bright",
        "Tabbies are not cats",
        "Rex is a tabby",
    ]
    theory = read_theory([*sentences, "Each cat is luminous", "Impuses are lempuses"])
    assert [(subject, name) for subject, name, _ in theory.rules] == [
        ("prime number", "Mersenne prime"),
        ("Mersenne prime", "bright"),
        ("tabby", "not cat"),
        ("cat", "luminous"),
        ("impus", "lempus"),
    ]
    assert [plural(name) for name in ("impus", "butterfly", "cat")] == ["impuses", "butterflies", "cats"]


def test_other_sentences_are_refused():
    with pytest.raises(TaskError, match="neither a fact nor a rule"):
        read_theory(["Wumpuses sleep"])
