"""What is fitted while items stream by is what is fitted on all of them, for every source and layer."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.linear_model import LinearRegression, Ridge

from faithprobe.errors import UnscoredError
from faithprobe.probes.closed_form import fit
from faithprobe.probes.columns import HELD_OUT, VALUE, columns_for
from faithprobe.probes.moments import Moments
from faithprobe.probes.stream import ACTIVATIONS, EMBEDDING, TEXT, TEXT_LINEAR, TWIN, Batch, Stream

N, LAYERS, WIDTH = 900, 3, 12
OPERANDS = np.random.default_rng(0).integers(1, 13, (N, 2))
VALUES = OPERANDS.prod(axis=1).tolist()
COMBINATIONS = [f"{a} {b}" for a, b in OPERANDS]
COLUMNS = columns_for(VALUES, COMBINATIONS, shuffles=2, draws=2)
LABELS, _ = COLUMNS.labels(VALUES, COMBINATIONS, OPERANDS[:, 1].tolist())
FOLD = COLUMNS.fold(COMBINATIONS)
BLOCKS = [block.columns for block in COLUMNS.blocks]
SPREAD = torch.from_numpy(COLUMNS.matrix(LABELS).std(axis=0)).clamp(min=1e-3)


def features(*, seed: int = 0) -> Batch:
    """Activations hold the text linearly, and something that is not in it; text repeats a slot, and shows a product
    of millions."""
    rng = np.random.default_rng(seed)
    one_hot = np.hstack([np.eye(13)[operand] for operand in OPERANDS.T])
    text = np.c_[one_hot, one_hot[:, :13], 1e6 * OPERANDS.prod(axis=1)]
    computed = np.sin(OPERANDS.prod(axis=1))[:, None]
    activations = [
        one_hot @ rng.normal(size=(26, WIDTH)) + computed * rng.normal(size=WIDTH) + 0.1 * rng.normal(size=(N, WIDTH))
        for _ in range(LAYERS)
    ]
    return Batch(
        torch.tensor(np.stack(activations)).float() + 30,
        torch.tensor(rng.normal(size=(LAYERS, N, WIDTH))).float(),
        torch.tensor(rng.normal(size=(N, WIDTH))).float(),
        torch.tensor(text),
    )


def some(batch: Batch, rows: np.ndarray) -> Batch:
    return Batch(batch.activations[:, rows], batch.twin[:, rows], batch.embedding[rows], batch.text[rows])


def empty() -> Stream:
    return Stream(COLUMNS, layers=LAYERS, d_model=WIDTH, slots=features().text.shape[1])


def streamed(batch: Batch, *, size: int = 64, fold: np.ndarray = FOLD, into: Stream | None = None) -> Stream:
    stream = into or empty()
    for rows in np.array_split(np.arange(N), N // size):
        stream.add(some(batch, rows), LABELS[rows], fold[rows])
    return stream


def sums_of(x: torch.Tensor) -> Moments:
    """Of training items that are all there."""
    train = np.flatnonzero(FOLD > HELD_OUT)
    y = torch.from_numpy(COLUMNS.matrix(LABELS[train]))
    return Moments.of(x[None, train].double(), y, torch.from_numpy(FOLD[train]), folds=COLUMNS.folds)


def linear_in_text(batch: Batch, layer: int, *, without: int = HELD_OUT) -> torch.Tensor:
    """By scikit-learn: the least-squares prediction of activations from the text, fitted on training items, or on those
    outside of one fold."""
    train = (FOLD > HELD_OUT) & (without != FOLD)
    text, x = batch.text.numpy(), batch.activations[layer].double().numpy()
    scale = np.abs(text).max(axis=0).clip(min=1)
    peer = LinearRegression().fit(text[train] / scale, x[train])
    return torch.from_numpy(peer.predict(text / scale))


@pytest.mark.parametrize("components", [None, 8])
def test_every_source_is_what_its_stored_items_give(components: int | None) -> None:
    batch = features()
    fitted = streamed(batch).fit(components=components)
    sources = {
        ACTIVATIONS: list(batch.activations),
        TWIN: list(batch.twin),
        EMBEDDING: [batch.embedding],
        TEXT: [batch.text],
        TEXT_LINEAR: [linear_in_text(batch, layer) for layer in range(LAYERS)],
    }
    assert set(fitted.sources) == set(sources)
    for source, cells in sources.items():
        assert len(fitted.sources[source]) == len(cells)
        for layer, (found, x) in enumerate(zip(fitted.sources[source], cells, strict=True)):

            def without(fold: int, layer: int = layer) -> Moments:
                """A left-out fold has no part in what is linear in the text."""
                return sums_of(linear_in_text(batch, layer, without=fold))

            learned = without if source == TEXT_LINEAR else None
            expected = fit(sums_of(x), BLOCKS, components=components, without=learned)
            assert torch.equal(found.penalty, expected.penalty), source
            assert torch.equal(found.informative, expected.informative), source
            seen = batch.text if source == TEXT_LINEAR else x
            difference = (found.predict(seen) - expected.predict(x)).abs().amax(dim=0)
            assert (difference / SPREAD).max() < 1e-6, source


def test_a_probe_of_a_layer_is_that_of_scikit_learn() -> None:
    """All the way from float32 batches to the page, without our own algebra on the other side."""
    batch = features()
    fitted = streamed(batch).fit(components=None)
    block = next(k for k, block in enumerate(COLUMNS.blocks) if block.target.name == VALUE)
    train = FOLD > HELD_OUT
    for layer in range(LAYERS):
        found = fitted.at(ACTIVATIONS, layer)
        x = batch.activations[layer].double().numpy()
        z = (x - x[train].mean(axis=0)) / x[train].std(axis=0)
        assert found.informative[block]
        peer = Ridge(alpha=float(found.penalty[block]) * train.sum(), solver="svd").fit(z[train], LABELS[train, block])
        mine = found.predict(batch.activations[layer])[:, BLOCKS[block].start].numpy()
        assert np.abs(mine - peer.predict(z)).max() < 1e-6 * LABELS[:, block].std()


def test_batches_in_any_size_and_order_give_the_same_probes() -> None:
    batch = features()
    whole = streamed(batch, size=N).fit()
    order = np.random.default_rng(1).permutation(N)
    stream = empty()
    for rows in np.array_split(order, 37):
        stream.add(some(batch, rows), LABELS[rows], FOLD[rows])
    assert stream.n == (FOLD > HELD_OUT).sum()
    again = stream.fit()
    for source, fits in whole.sources.items():
        for one, other in zip(fits, again.sources[source], strict=True):
            assert torch.allclose(one.coef, other.coef, rtol=1e-6, atol=1e-9 * float(one.coef.abs().max()))


def test_held_out_items_and_those_without_a_target_are_never_seen() -> None:
    """They may be anything, NaN included: nothing changes."""
    batch, fold = features(), FOLD.copy()
    fold[::7] = -1
    clean = streamed(batch, fold=fold)
    gone = torch.from_numpy(np.flatnonzero(fold <= HELD_OUT))
    for x in (batch.activations, batch.twin):
        x[:, gone] = torch.nan
    batch.embedding[gone] = torch.inf
    batch.text[gone] = -1e30
    spoiled = streamed(batch, fold=fold)
    assert clean.n == spoiled.n == (fold > HELD_OUT).sum()
    for name, tensor in clean.state().items():
        assert torch.equal(tensor, spoiled.state()[name])
        assert not tensor.isnan().any()
    assert not spoiled.moments[EMBEDDING].n[HELD_OUT]


def test_a_run_that_goes_on_from_its_state_is_the_same_run(tmp_path: Path) -> None:
    batch = features()
    through = streamed(batch)
    parts = np.array_split(np.arange(N), N // 64)
    before = empty()
    for rows in parts[:6]:
        before.add(some(batch, rows), LABELS[rows], FOLD[rows])
    save_file(before.state(), tmp_path / "moments.safetensors")
    after = empty()
    after.load(load_file(tmp_path / "moments.safetensors"))
    for rows in parts[6:]:
        after.add(some(batch, rows), LABELS[rows], FOLD[rows])
    for name, tensor in through.state().items():
        assert torch.equal(tensor, after.state()[name]), name
    one, other = through.fit(), after.fit()
    assert all(
        torch.equal(one.at(s, layer).coef, other.at(s, layer).coef) for s in one.sources for layer in range(LAYERS)
    )
    assert sum(t.nbytes for t in through.state().values()) == sum(t.nbytes for t in empty().state().values())


def test_what_is_not_linear_in_the_text_is_not_in_its_control() -> None:
    """The rest of the activations, beside the control, says nothing linear about the text."""
    batch = features()
    train = FOLD > HELD_OUT
    for layer in range(LAYERS):
        rest = batch.activations[layer].double() - linear_in_text(batch, layer)
        assert np.abs(np.corrcoef(rest[train].T, OPERANDS[train].T)[:WIDTH, WIDTH:]).max() < 1e-6
        assert rest[train].std() > 0.3


@pytest.mark.parametrize("scale", [1e-3, 1e4, 1e9])
def test_the_unit_of_a_number_in_the_text_means_nothing(scale: float) -> None:
    """Beside a product of a thousand million, one-hot literals are there all the same: probes say what they said."""
    batch, other = features(), features()
    batch.text[:, -1] /= 1e6
    other.text[:, -1] *= scale / 1e6
    one, same = streamed(batch).fit(), streamed(other).fit()
    for source in (TEXT, TEXT_LINEAR):
        found, again = one.at(source, 0), same.at(source, 0)
        assert found.informative.any()
        assert torch.equal(found.penalty, again.penalty)
        difference = (found.predict(batch.text) - again.predict(other.text)).abs().amax(dim=0)
        assert (difference / SPREAD).max() < 1e-6


def test_a_source_that_is_constant_gets_no_coefficients() -> None:
    batch = features()
    batch.embedding[:] = 0.1
    found = streamed(batch).fit().at(EMBEDDING, 0)
    assert not found.coef.any()
    assert not found.informative.any()


def test_a_stream_without_items_is_unscored() -> None:
    with pytest.raises(UnscoredError, match="0 items in 0 folds"):
        empty().fit()
    stream = empty()
    stream.add(some(features(), np.flatnonzero(FOLD == HELD_OUT)), LABELS[FOLD == HELD_OUT], FOLD[FOLD == HELD_OUT])
    assert stream.n == 0
