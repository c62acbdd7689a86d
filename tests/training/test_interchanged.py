"""Going on from a state of another run: equal to what is equal in theory, and right about known wirings."""

from __future__ import annotations

import random

import pytest

from faithprobe.chains.subject import Subject
from faithprobe.interventions.swap import replacements
from faithprobe.metrics.base import Settings, run_metric
from faithprobe.tasks import load_task
from faithprobe.training.continuation import State, continued
from faithprobe.training.interchanged import FROM_TEXT, interchanged, same_value, sources
from faithprobe.training.markovian import MarkovianSubject
from tests.subjects import answered, forced_references, organism, text_of
from tests.tiny import tiny_language_model


def of_family(family: str) -> Subject:
    """A random model with chains of several lengths, which says only a little."""
    task = load_task("arithmetic", shots=1, steps=3)
    task.max_new_tokens = 6
    return Subject(tiny_language_model(family, max_position_embeddings=512), task, batch_size=3)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma"])
def test_a_state_that_differs_by_the_literal_alone_is_the_replaced_text(family):
    """In front of the literal both runs agree, so seeing its state *is* reading the other literal; gemma has layers
    with a sliding window, which take no padding in the middle."""
    subject = of_family(family)
    states, swapped, alone = [], [], []
    for chain in forced_references(subject, 3):
        for step in ("v1", "v2"):
            end = chain.literals[step].span[1]
            (made,) = replacements(subject, chain, step, n=1, rng=random.Random(0))
            states += [
                State(chain.tokens[: end + 1], source, chain.literals[step].span)
                for source in (made.tokens, chain.tokens[:end])
            ]
            swapped.append((*made.tokens, chain.tokens[end]))
            alone.append(chain.tokens[: end + 1])
    assert len({len(state.row) for state in states}) > 1
    tails = continued(subject, states)
    given = [text_of(subject, row[-1:]) for row in alone]
    assert tails[::2] == [g + tail for g, tail in zip(given, subject.complete(swapped))]
    assert tails[1::2] == [g + tail for g, tail in zip(given, subject.complete(alone))]
    assert tails[::2] != tails[1::2]


def test_one_text_seen_with_different_states_has_different_continuations():
    """All rows have the same tokens: nothing of them may be shared from the literal on."""
    subject = organism("faithful")
    (chain,) = answered(subject, 1)
    span = chain.literals["v1"].span
    found = sources(subject, chain, "v1", n=3, rng=random.Random(0))
    tails = continued(subject, [State(chain.tokens[: span[1] + 1], one.tokens, span) for one in found])
    answers = [subject.answer(chain.text[: chain.literals["v1"].chars[1]] + " " + tail) for tail in tails]
    assert answers == [one.closed_form for one in found]
    assert len(set(answers)) == 3


def test_sources_are_runs_of_other_problems():
    subject = organism("faithful")
    for chain in answered(subject, 4):
        start, end = chain.literals["v2"].span
        found = sources(subject, chain, "v2", n=3, rng=random.Random(0))
        assert len({one.value for one in found}) == 3
        for one in found:
            assert len(one.tokens) == end
            assert text_of(subject, one.tokens[start:end]) == str(one.value)
            assert one.tokens[: chain.n_prompt] != chain.tokens[: chain.n_prompt]
            assert one.closed_form == chain.closed_form("v2", one.value) != chain.answer
        placebo = same_value(subject, chain, "v2", rng=random.Random(0))
        assert placebo is not None
        assert placebo.tokens[start:end] == chain.tokens[start:end]
        assert placebo.tokens[: chain.n_prompt] != chain.tokens[: chain.n_prompt]


@pytest.mark.parametrize(
    ("name", "truth"),
    [
        ("faithful", {"v1": 1, "v2": 1, "v3": 1}),
        ("decorative", {"v1": 1, "v2": 0, "v3": 1}),
        ("copy", {"v1": 0, "v2": 0, "v3": 1}),
        ("post-hoc", {"v1": 0, "v2": 0, "v3": 0}),
    ],
)
def test_the_answer_follows_the_states_that_it_depends_on_by_construction(name, truth):
    subject = organism(name)
    chains = answered(subject, 3)
    found = run_metric("interchanged", interchanged, subject, chains, Settings(replacements=3))
    assert {step for _, step in found.rows} == set(truth)
    for (_, step), row in found:
        assert (row.value, row.n) == (truth[step], 3)
        assert (row.detail["moved"], row.detail["competence"]) == (0, 1)


def test_what_passes_no_state_on_is_unscored_with_the_reason():
    plain = organism("faithful")
    subject = MarkovianSubject(plain.model, plain.task)
    chains = answered(plain, 1)
    found = interchanged(subject, chains, Settings(replacements=3))
    assert {row.unscored for _, row in found} == {FROM_TEXT}
