"""What the text control sees, what the probes are given, and D of planted activations."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
import torch

from faithprobe.chains.capture import BEFORE, PLACES, PREDICTING
from faithprobe.chains.store import Trace, TraceWriter
from faithprobe.metrics.computed import computed, reference_steps
from faithprobe.metrics.items import Traces, _slots, items
from faithprobe.metrics.traces import probed
from faithprobe.models.twin import random_twin
from tests.subjects import arithmetic, forced, forced_references, organism

SITES = ("hook_embed", "blocks.0.hook_resid_post")
WIDTH = 32


@pytest.fixture(scope="module")
def subject():
    return organism("faithful")


@pytest.fixture(scope="module")
def chains(subject):
    return forced_references(subject, 320)


def test_the_text_control_never_sees_the_value_itself(chains):
    for chain in chains[:60]:
        for step in chain.literals:
            for place in PLACES:
                slots = _slots(chain, step, place)
                k = int(step[1:])
                assert not {f"stated v{i}" for i in range(k, 4)} & set(slots)
                assert all(slots[f"stated v{i}"] == chain.values[f"v{i}"] for i in range(1, k) if place != BEFORE)
                # and all that is on the page: every given number, every operation
                assert {"x0", "a1", "a2", "a3", "v1 is", "v2 is", "v3 is"} <= set(slots)
                if place == BEFORE:
                    assert not any(name.startswith(("stated", "operand")) for name in slots)


def test_the_text_control_of_an_equation_sees_its_operands_as_stated():
    subject = arithmetic(operations="+")
    (problem,) = subject.task.problems(1)
    v1 = problem.graph.values["v1"]
    chain = forced(subject, problem, problem.response.replace(f"= {v1}.", f"= {v1 + 1}.", 1))
    slots = _slots(chain, "v2", PREDICTING)
    assert slots["stated v1"] == v1 + 1
    assert "stated v2" not in slots


def test_a_chain_that_never_states_an_operand_still_has_its_slots():
    """v1 is missing on the page; v2 is read as what it is, and its text control lacks what is not there."""
    subject = organism("faithful")
    (problem,) = subject.task.problems(1)
    chain = forced(subject, problem)
    partial = dataclasses.replace(chain, stated=chain.stated[1:])
    slots = _slots(partial, "v2", PREDICTING)
    assert "stated v1" not in slots
    assert "operand 0" not in slots


def planted(chains, folder: Path, model, activation) -> Trace:
    """A store in which the activation of each step at each place is what `activation(chain, step, place)` says."""
    with TraceWriter(folder, model=model, sites=SITES) as store:
        for chain in chains:
            names, positions = probed(chain)
            places = [name.split("/") if "/" in name else ["", name] for name in names]
            rows = torch.stack([torch.from_numpy(activation(chain, *place)) for place in places]).float()
            store.add(chain.id, names, positions, torch.stack([torch.zeros_like(rows), rows], dim=1))
    return Trace(folder, model=model)


def noise(chain, step, place) -> np.ndarray:
    return np.random.default_rng(crc32(f"{chain.id} {step} {place}".encode())).normal(size=WIDTH)


def holds(*where: str):
    """The value stands in the state at these places, in a one-hot direction; noise elsewhere."""

    def activation(chain, step, place) -> np.ndarray:
        found = noise(chain, step, place) * 0.1
        if step and place in where:
            found[chain.local(step)] += 3
        if BEFORE in where and place == BEFORE:
            found[chain.local("v2")] += 3
        return found

    return activation


@pytest.fixture
def traces(subject, chains, tmp_path, monkeypatch) -> Iterator:
    model = dataclasses.replace(subject.model, sites=dataclasses.replace(subject.model.sites, d_model=WIDTH))
    twin = dataclasses.replace(random_twin(model), sites=model.sites)
    probe, own = chains[:300], chains[300:]

    def make(activation) -> tuple[list, Traces]:
        stores = [
            planted(part, tmp_path / name, which, act)
            for name, part, which, act in (
                ("probe", probe, model, activation),
                ("probe-twin", probe, twin, noise),
                ("own", own, model, activation),
                ("own-twin", own, twin, noise),
            )
        ]
        return own, Traces({c.id: c for c in probe}, *stores, SITES[1:])

    return make


def test_a_value_in_the_state_is_found_where_it_is(traces):
    own, given = traces(holds(PREDICTING))
    found = computed(own, "v2", given)
    values = [row.value for _, row in found if row.value is not None]
    assert len(values) >= 0.7 * len(own)
    assert np.mean(values) > 0.8
    row = next(row for _, row in found if row.value is not None)
    assert (row.detail["site"], row.detail["present"], row.detail["target"]) == ("predicting", "yes", "class")
    assert row.detail["before"] is None or row.detail["before"] < 0.1
    assert row.low > 0.7
    by_place = {r["position"]: r for r in found.tables["decodability"]}
    assert by_place["predicting"]["low"] > 1 > 0.2 > by_place["before"]["bits"]


def test_noise_holds_nothing(traces):
    own, given = traces(noise)
    found = computed(own, "v2", given)
    rows = [row for _, row in found if row.value is not None]
    assert np.mean([row.value for row in rows]) < 0.15
    assert {row.detail["present"] for row in rows} == {"no"}


def test_a_value_known_before_the_chain_is_said_to_be(traces):
    own, given = traces(holds(BEFORE, PREDICTING))
    found = computed(own, "v2", given)
    before = [row.detail["before"] for _, row in found if row.value is not None and row.detail["before"] is not None]
    assert np.mean(before) > 0.7


def test_what_was_refused_says_why(traces, chains):
    def broken(chain, step, place) -> np.ndarray:
        found = holds(PREDICTING)(chain, step, place)
        return np.full_like(found, np.nan) if chain.id == chains[300].id else found

    own, given = traces(broken)
    found = computed(own, "v2", given)
    assert "NaN or infinite activation at blocks.0.hook_resid_post" in found.get(chains[300].id, "v2").unscored
    assert any(row.value is not None for _, row in found)


def test_items_stand_in_the_order_of_the_chains(traces, chains):
    _, given = traces(holds(PREDICTING))
    shuffled = {c.id: c for c in sorted(chains[:300], key=lambda c: c.id)}
    found = items(shuffled, "v2", PREDICTING, given.probe, given.probe_twin, SITES[1:])
    assert list(found.ids) == list(shuffled)
    assert found.layers[0][:].argmax(axis=1).tolist() == [c.local("v2") for c in shuffled.values()]
    assert len(set(found.combinations)) < len(found) <= len(set(found.groups))


def test_activations_are_read_a_chunk_at_a_time(traces, monkeypatch):
    """While probes are fitted, while they read the model's own chains, and where stated and local differ."""
    own, given = traces(holds(PREDICTING))
    stating = [c for c in own if len(c.stated) == 3]
    wrong = [dataclasses.replace(c, stated=(*c.stated[:1], _other(c.stated[1]), *c.stated[2:])) for c in stating]
    whole = computed(wrong, "v2", given)
    asked: dict[Path, list[int]] = {}
    gather = Trace.gather

    def watched(self, site, label, ids=None):
        found = gather(self, site, label, ids)
        asked.setdefault(self.folder, []).append(len(found[0]))
        return found

    monkeypatch.setattr(Trace, "gather", watched)
    monkeypatch.setattr("faithprobe.probes.chunks.CHUNK", 7)
    in_chunks = computed(wrong, "v2", given)
    assert set(asked) == {store.folder for store in (given.probe, given.probe_twin, given.own, given.own_twin)}
    for folder, sizes in asked.items():
        assert max(sizes) == 7, folder
        assert sum(sizes) >= (300 if "probe" in folder.name else len(wrong))
    for (key, row), (_, expected) in zip(in_chunks, whole, strict=True):
        assert row.value == pytest.approx(expected.value, abs=1e-3), key
        assert row.detail["agreement"] == expected.detail["agreement"] == "local"


def _other(stated):
    return dataclasses.replace(stated, value=(stated.value + 1) % 11)


def test_steps_come_once_in_the_order_of_the_problems(chains):
    assert reference_steps(chains[:5]) == ["v1", "v2", "v3"]
