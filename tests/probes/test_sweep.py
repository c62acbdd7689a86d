"""All sites, layers, targets and controls in one call say what they say when they are streamed."""

import numpy as np
import pytest
import torch

from faithprobe.errors import UnscoredError
from faithprobe.probes import Batch, Site, sweep
from faithprobe.probes.columns import HELD_OUT
from faithprobe.probes.held_out import HeldOut, readings
from faithprobe.probes.stream import ACTIVATIONS, EMBEDDING, TEXT, TEXT_LINEAR, TWIN, Stream

N, WIDTH = 1500, 16


def site(*, seed: int = 0, n: int = N, operands: int = 20) -> Site:
    """Layer 0 holds the operands, layer 1 also what a x b is modulo 7."""
    rng = np.random.default_rng(seed)
    a, b = rng.integers(1, operands, (2, n))
    values = (a * b) % 7
    page = np.hstack([np.eye(operands)[a], np.eye(operands)[b]])
    shown = page @ rng.normal(size=(page.shape[1], WIDTH))
    computed = np.eye(7)[values] @ rng.normal(size=(7, WIDTH))
    noise = 0.3 * rng.normal(size=(3, n, WIDTH))
    return Site(
        batch=Batch(
            torch.tensor(np.stack([shown + noise[0], shown + 3 * computed + noise[1]])).float(),
            torch.tensor(np.stack([noise[2], noise[2]])).float(),
            torch.tensor(np.eye(operands)[b] @ rng.normal(size=(operands, WIDTH))).float(),
            torch.tensor(page).float(),
        ),
        values=values.tolist(),
        combinations=[f"{i} {j}" for i, j in zip(a, b)],
        types=b.tolist(),
    )


def test_a_value_is_found_where_it_is_computed_beyond_every_control() -> None:
    found = sweep({"here": site()}, shuffles=4, draws=2)["here"]
    by_layer = {reading.layer: reading for reading in found.readings if reading.target.name == "class"}
    assert set(by_layer[1].sources) == {ACTIVATIONS, TEXT, TEXT_LINEAR, EMBEDDING, TWIN}
    assert by_layer[1].beyond.low > 1
    assert by_layer[0].beyond.low <= 0
    assert by_layer[1].selectivity is not None
    assert by_layer[1].selectivity.low > 0.3
    assert found.n_train + len(found.items.labels) == N


def test_it_agrees_with_what_a_stream_of_the_same_items_says() -> None:
    """Penalties are chosen by leaving out other groups, so nearly, not bit by bit."""
    given = site()
    found = sweep({"here": given}, shuffles=4, draws=2)["here"]
    columns = found.columns
    labels, _ = columns.labels(given.values, given.combinations, given.types)
    fold = columns.fold(given.combinations)
    stream = Stream(columns, layers=2, d_model=WIDTH, slots=given.batch.text.shape[1])
    stream.add(given.batch, labels, fold)
    held = np.flatnonzero(fold == HELD_OUT)
    items = HeldOut(given.batch.rows(held), labels[held], [given.combinations[i] for i in held])
    others = readings(stream.fit(), columns, items)
    for ours, other in zip(found.readings, others, strict=True):
        assert (ours.target, ours.layer) == (other.target, other.layer)
        for source in ours.sources:  # next to nothing may be read as nothing by one of the two
            near = 0.1 if (source, ours.layer) == (ACTIVATIONS, 1) else 0.3
            assert ours.sources[source].gain.mean() == pytest.approx(other.sources[source].gain.mean(), abs=near)


def test_sites_and_threads_do_not_change_each_other() -> None:
    alone = sweep({"b": site(seed=1)}, shuffles=2, draws=1, workers=1)["b"]
    together = sweep({"a": site(seed=0), "b": site(seed=1)}, shuffles=2, draws=1, workers=2)["b"]
    for one, other in zip(alone.readings, together.readings, strict=True):
        assert one.beyond == other.beyond


def test_controls_that_were_not_given_are_left_out() -> None:
    given = site()
    bare = Site(Batch(given.batch.activations), given.values, given.combinations)
    found = sweep({"here": bare}, shuffles=2)["here"]
    assert all(set(reading.sources) == {ACTIVATIONS} for reading in found.readings)
    assert all(reading.selectivity is None for reading in found.readings)


def test_too_few_combinations_are_unscored() -> None:
    with pytest.raises(UnscoredError, match="held-out operand combinations"):
        sweep({"here": site(operands=5)}, shuffles=2)
