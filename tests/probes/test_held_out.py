"""Planted truths: what is computed is credited in bits; copies, sums of what is visible, and noise are not."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from faithprobe.errors import UnscoredError
from faithprobe.probes.columns import CONTROL_TASK, HELD_OUT, REAL, SHUFFLED, Columns, columns_for
from faithprobe.probes.held_out import CONTROLS, HeldOut, Reading, chosen, readings
from faithprobe.probes.stream import ACTIVATIONS, EMBEDDING, TEXT, TEXT_LINEAR, TWIN, Batch, Fitted, Stream

WIDTH = 24


@dataclass(frozen=True)
class World:
    """Items of one step: two operands, visible as one-hot text; a value; and what the model holds of it."""

    a: np.ndarray
    b: np.ndarray
    values: list[int]
    activations: np.ndarray
    """(layer, items, d)"""
    embedding: np.ndarray

    @property
    def text(self) -> np.ndarray:
        return np.hstack([np.eye(operand.max() + 1)[operand] for operand in (self.a, self.b)])

    @property
    def combinations(self) -> list[str]:
        return [f"{a} {b}" for a, b in zip(self.a, self.b, strict=True)]


def rng_of(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def map_of(signal: np.ndarray, *, seed: int, noise: float, width: int = WIDTH) -> np.ndarray:
    """(items, width): a random linear map of `signal` (items, k), plus noise."""
    rng = rng_of(seed)
    return signal @ rng.normal(size=(signal.shape[1], width)) + noise * rng.normal(size=(len(signal), width))


def world(
    n: int,
    value: Callable[[np.ndarray, np.ndarray], np.ndarray],
    held: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
    *,
    largest: int = 20,
    seed: int = 0,
    noise: float = 0.3,
    width: int = WIDTH,
) -> World:
    """`held(a, b, value)` is the signal that activations map linearly; a first layer holds noise alone."""
    a, b = rng_of(seed).integers(1, largest + 1, (2, n))
    values = value(a, b)
    empty = rng_of(seed + 1).normal(size=(n, width))
    return World(
        a,
        b,
        values.tolist(),
        np.stack([empty, map_of(held(a, b, values), seed=seed + 2, noise=noise, width=width)]),
        rng_of(seed + 3).normal(size=(n, width)),
    )


def measured(given: World, *, moduli: tuple[int, ...] = (), shuffles: int = 8, draws: int = 3, seed: int = 0):
    """Columns, probes and held-out items, streamed in float32 batches of 100."""
    n, (layers, _, width) = len(given.values), given.activations.shape
    columns = columns_for(given.values, given.combinations, moduli=moduli, shuffles=shuffles, draws=draws, seed=seed)
    labels, known = columns.labels(given.values, given.combinations, given.b.tolist())
    fold = np.where(known, columns.fold(given.combinations), -1)
    twin = rng_of(99).normal(size=given.activations.shape)
    x, other, embedding = (torch.tensor(v).float() for v in (given.activations, twin, given.embedding))
    text = torch.tensor(given.text)
    stream = Stream(columns, layers=layers, d_model=width, slots=text.shape[1])

    def batch(rows: np.ndarray) -> Batch:
        return Batch(x[:, rows], other[:, rows], embedding[rows], text[rows])

    for rows in np.array_split(np.arange(n), max(1, n // 100)):
        stream.add(batch(rows), labels[rows], fold[rows])
    rows = np.flatnonzero(fold == HELD_OUT)
    return columns, stream.fit(), HeldOut(batch(rows), labels[rows], [given.combinations[i] for i in rows])


def read(given: World, **options: object) -> dict[str, Reading]:
    """Each target at the layer that its training items choose."""
    columns, fitted, items = measured(given, **options)
    found = readings(fitted, columns, items)
    assert len(found) == len(given.activations) * len(columns.targets)
    layers = chosen(found)
    return {r.target.name: r for r in found if r.layer == layers[r.target.name]}


def bits(reading: Reading, source: str) -> float:
    return float(reading.sources[source].gain.mean())


def product_mod_7(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a * b % 7


def test_what_is_computed_is_worth_its_entropy_beyond_the_text() -> None:
    found = read(world(3000, product_mod_7, lambda a, b, v: np.eye(7)[v]))
    reading = found["class"]
    entropy = float(reading.surprisal.mean())
    assert 2.4 < entropy < np.log2(7) + 0.05
    assert reading.layer == 1
    assert bits(reading, ACTIVATIONS) > 0.93 * entropy
    assert abs(bits(reading, EMBEDDING)) < 0.05
    assert abs(bits(reading, TWIN)) < 0.05
    # Zero comes of an operand that 7 divides: that much is on the page. (Of a table of 20 x 20 the page knows more: in
    # the row of an operand, what has not been seen in training is what is left.)
    on_the_page = entropy - 0.81 * np.log2(6)
    assert bits(reading, TEXT) > on_the_page - 0.1
    assert bits(reading, TEXT) < entropy / 2
    assert reading.control == TEXT
    assert reading.beyond.value == pytest.approx(bits(reading, ACTIVATIONS) - bits(reading, TEXT))
    assert reading.beyond.low > 0.45 * entropy
    assert abs(reading.shuffled.mean()) < 0.05
    assert found["parity"].beyond.low > 0.2  # of a residue it is a function, though not a linear one


def test_no_text_knows_a_product_whose_factors_say_nothing_alone() -> None:
    """Units modulo 7: each factor alone leaves the product as uncertain as it was, so beyond is all of it."""

    def value(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a % 6 + 1) * (b % 6 + 1) % 7

    reading = read(world(3000, value, lambda a, b, v: np.eye(7)[v], largest=24))["class"]
    entropy = float(reading.surprisal.mean())
    assert entropy == pytest.approx(np.log2(6), abs=0.03)
    assert max(bits(reading, source) for source in CONTROLS) < 0.05
    assert min(bits(reading, source) for source in CONTROLS) > -0.1
    assert reading.beyond.value > 0.93 * entropy
    assert reading.sources[ACTIVATIONS].right.mean() > 0.97
    assert reading.chance < 0.25


def test_a_linear_function_of_the_text_is_a_copy_of_it() -> None:
    """Operands one-hot in the activations: their sum can be read there, and is credited to the page."""
    values = read(world(4000, np.add, lambda a, b, v: np.c_[np.eye(21)[a], np.eye(21)[b]], width=48, noise=0.05))
    value = values["value"]
    assert bits(value, ACTIVATIONS) > 0.95
    assert bits(value, TEXT) > 0.95
    assert value.beyond.low <= 0 or value.beyond.value < 0.001
    assert np.isnan(value.pointwise).all()
    assert value.selectivity is None
    for name in ("parity", "last digit"):
        assert values[name].beyond.low <= 0


def test_an_additive_class_is_no_more_than_its_text() -> None:
    found = read(world(3000, lambda a, b: a // 7 + b // 7, lambda a, b, v: np.c_[a // 7, b // 7], noise=0.05))
    assert bits(found["class"], ACTIVATIONS) > 0.5
    assert found["class"].control in (TEXT, TEXT_LINEAR)
    assert found["class"].beyond.low <= 0


def test_a_function_of_the_current_token_is_no_more_than_its_embedding() -> None:
    """The page shows other numbers than those that decide; the token decides, and the model keeps it."""
    given = world(3000, product_mod_7, lambda a, b, v: np.eye(2)[v % 2])
    token = rng_of(5).integers(0, 10, 3000)
    embedding = rng_of(6).normal(size=(10, WIDTH))[token]
    kept = np.stack([embedding, embedding @ rng_of(7).normal(size=(WIDTH, WIDTH))])
    given = replace(given, values=(token * 3 % 7).tolist(), activations=kept, embedding=embedding)
    for reading in read(given).values():
        assert bits(reading, ACTIVATIONS) > 0.9 * (reading.surprisal.mean() if reading.target.classes else 1)
        assert reading.control == EMBEDDING
        assert reading.beyond.low <= 0.002
        assert abs(reading.beyond.value) < 0.02


@pytest.mark.slow
def test_the_interval_of_noise_covers_nothing() -> None:
    """200 runs: `beyond` covers 0 in at least 95% of them, for every target, and credits noise in no more than 2.5%."""
    covered: dict[str, list[bool]] = {}
    above: dict[str, list[bool]] = {}
    for seed in range(200):
        table = rng_of(seed).integers(0, 6, (21, 21))  # of combinations: nothing is in the text either
        given = world(400, lambda a, b: table[a, b], lambda a, b, v: 0 * np.c_[a], seed=10 * seed, width=10, noise=1)  # noqa: B023
        columns, fitted, items = measured(given, shuffles=2, draws=0, seed=seed)
        for reading in readings(fitted, columns, items):
            if reading.layer == 1:
                name = reading.target.name
                covered.setdefault(name, []).append(reading.beyond.low <= 0 <= reading.beyond.high)
                above.setdefault(name, []).append(reading.beyond.low > 0)
    assert {name: len(runs) for name, runs in covered.items()} == dict.fromkeys(
        ("parity", "last digit", "class", "value"), 200
    )
    assert min(np.mean(runs) for runs in covered.values()) >= 0.95
    assert max(np.mean(runs) for runs in above.values()) <= 0.025


def test_a_probe_that_says_the_frequencies_gains_exactly_nothing() -> None:
    """Not 1e-17: an interval of rounding errors of one sign lies above 0, and would be credited."""
    for seed in range(10):
        table = rng_of(seed).integers(0, 6, (21, 21))
        given = world(400, lambda a, b: table[a, b], lambda a, b, v: 0 * np.c_[a], seed=10 * seed, width=10, noise=1)  # noqa: B023
        columns, fitted, items = measured(given, shuffles=1, draws=0)
        for reading in readings(fitted, columns, items):
            k = next(k for k, b in enumerate(columns.blocks) if b.target == reading.target and b.kind == REAL)
            if not fitted.at(ACTIVATIONS, reading.layer).informative[k] and reading.target.classes:
                assert not reading.sources[ACTIVATIONS].gain.any()
                assert reading.beyond.low <= 0 <= reading.beyond.high or reading.control != "none"


def test_controls_sit_at_chance_on_unseen_combinations_and_a_signal_is_selective() -> None:
    """Shuffled labels are a function of the combination: what a probe recites of them it cannot recite of new ones.
    A control task is a function of the last literal, which the activations do not hold here."""
    given = world(3000, product_mod_7, lambda a, b, v: np.eye(7)[v])
    columns, fitted, items = measured(given, shuffles=10, draws=5)
    predicted = {}
    for k, block in enumerate(columns.blocks):
        if block.target.name == "class":
            fit = fitted.at(ACTIVATIONS, 1)
            p = fit.probabilities(fit.predict(items.batch.of(ACTIVATIONS, 1)), block.columns).numpy()
            frequencies = np.bincount(items.labels[:, k].astype(int), minlength=7) / len(items.labels)
            right = float((p.argmax(axis=1) == items.labels[:, k]).mean())
            predicted.setdefault(block.kind, []).append((right, frequencies.max()))
    for kind in (SHUFFLED, CONTROL_TASK):
        right, most_frequent = np.mean(predicted[kind], axis=0)
        assert right < most_frequent + 0.05
    assert predicted[REAL][0][0] > 0.97
    reading = next(r for r in readings(fitted, columns, items) if r.layer == 1 and r.target.name == "class")
    assert len(reading.shuffled) == 10
    assert np.abs(reading.shuffled).max() < 0.1
    assert reading.selectivity is not None
    assert reading.selectivity.low > 0.6
    tasks = np.mean([right for right, _ in predicted[CONTROL_TASK]])
    assert reading.selectivity.value == pytest.approx(predicted[REAL][0][0] - tasks)


def test_a_probe_that_memorises_types_is_not_selective() -> None:
    """Activations that hold nothing but the last literal: the control task is learned as well as the real one."""
    given = world(3000, lambda a, b: b * 3 % 7, lambda a, b, v: np.eye(13)[b], largest=12, noise=0.05)
    reading = read(given, draws=8)["class"]
    assert reading.sources[ACTIVATIONS].right.mean() > 0.95
    assert reading.selectivity is not None
    assert reading.selectivity.value < 0.1


def test_gains_are_losses_against_the_training_frequencies() -> None:
    """By hand: the mixture of the probe and the null, in bits, and for numbers the share of squared error."""
    columns, fitted, items = measured(world(1500, product_mod_7, lambda a, b, v: np.c_[np.eye(7)[v], v], noise=1.5))
    found = {(r.target.name, r.layer): r for r in readings(fitted, columns, items)}
    for k, block in enumerate(columns.blocks):
        if block.kind != REAL:
            continue
        fit, true = fitted.at(ACTIVATIONS, 1), items.labels[:, k]
        raw = items.batch.activations[1].double() @ fit.coef + fit.intercept
        gain = found[block.target.name, 1].sources[ACTIVATIONS].gain
        if not block.target.classes:
            mean = float(fit.counts[block.columns.start] / fit.n)
            errors = ((true - raw[:, block.columns.start].numpy()) ** 2).sum()
            assert gain.mean() == pytest.approx(1 - errors / ((true - mean) ** 2).sum())
            continue
        counts = fit.counts[block.columns].numpy() + 0.5
        null = counts / counts.sum()
        p = 0.99 * fit.probabilities(raw, block.columns).numpy() + 0.01 * null
        rows = np.arange(len(true)), true.astype(int)
        assert gain == pytest.approx(np.log2(p[rows] / null[true.astype(int)]))
        reading = found[block.target.name, 1]
        assert reading.surprisal == pytest.approx(-np.log2(null[true.astype(int)]))
        assert reading.chance == pytest.approx((true == null.argmax()).mean())


def test_the_layer_is_chosen_without_the_held_out_items() -> None:
    """Held-out items whose activations are swapped between layers: the choice stays, and the numbers follow."""
    columns, fitted, items = measured(world(1500, product_mod_7, lambda a, b, v: np.eye(7)[v]))
    swapped = HeldOut(
        replace(items.batch, activations=items.batch.activations.flip(0)), items.labels, items.combinations
    )
    found, other = readings(fitted, columns, items), readings(fitted, columns, swapped)
    assert chosen(found) == chosen(other)
    assert chosen(found)["class"] == 1
    mine, theirs = (next(r for r in rs if r.layer == 1 and r.target.name == "class") for rs in (found, other))
    assert bits(mine, ACTIVATIONS) > 2 > 0 > bits(theirs, ACTIVATIONS)


def test_intervals_are_clustered_by_combination() -> None:
    """Copies of the held-out items add nothing: the interval stays as wide."""
    columns, fitted, items = measured(world(1500, product_mod_7, lambda a, b, v: np.eye(7)[v], noise=2))
    batch = items.batch
    four = Batch(
        batch.activations.repeat(1, 4, 1),
        batch.twin.repeat(1, 4, 1),
        batch.embedding.repeat(4, 1),
        batch.text.repeat(4, 1),
    )
    copied = HeldOut(four, np.tile(items.labels, (4, 1)), [*items.combinations] * 4)
    for once, often in zip(readings(fitted, columns, items), readings(fitted, columns, copied), strict=True):
        assert often.beyond.n == once.beyond.n == len(set(items.combinations))
        assert often.beyond.value == pytest.approx(once.beyond.value)
        assert often.beyond.high - often.beyond.low == pytest.approx(once.beyond.high - once.beyond.low, rel=0.02)


def test_equal_combinations_are_one_cluster_however_they_are_written() -> None:
    empty = torch.zeros(1, 3, 2)
    batch = Batch(empty, empty, empty[0], empty[0])
    items = HeldOut(batch, np.zeros((3, 1)), [frozenset((8, 0)), frozenset((0, 8)), frozenset((1, 8))])
    assert items.clusters.tolist() == [0, 0, 1]


def test_too_few_held_out_combinations_are_unscored() -> None:
    columns, fitted, items = measured(world(600, product_mod_7, lambda a, b, v: np.eye(7)[v]))
    seven = sorted(set(items.combinations))[:7]
    rows = [i for i, combination in enumerate(items.combinations) if combination in seven]
    batch = items.batch
    few = HeldOut(
        Batch(batch.activations[:, rows], batch.twin[:, rows], batch.embedding[rows], batch.text[rows]),
        items.labels[rows],
        [items.combinations[i] for i in rows],
    )
    with pytest.raises(UnscoredError, match="7 held-out operand combinations, at least 8"):
        readings(fitted, columns, few)


def test_sources_without_layers_have_one_probe() -> None:
    columns, fitted, _ = measured(world(600, product_mod_7, lambda a, b, v: np.eye(7)[v]))
    assert isinstance(columns, Columns)
    assert isinstance(fitted, Fitted)
    assert {source: len(fits) for source, fits in fitted.sources.items()} == {
        ACTIVATIONS: 2,
        TEXT_LINEAR: 2,
        TWIN: 2,
        EMBEDDING: 1,
        TEXT: 1,
    }
    assert fitted.at(TEXT, 1) is fitted.at(TEXT, 0)
    assert fitted.at(TWIN, 1) is not fitted.at(TWIN, 0)
