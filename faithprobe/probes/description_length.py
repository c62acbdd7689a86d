"""How well do activations compress the labels? Online description length: how much *and how soon* a probe reads.

The labels of t_1 < t_2 < ... < t_S = n items are sent in blocks. The first block has the uniform code; each later one
is coded by a probe that was fitted on all items before it (Voita and Titov, EMNLP 2020, arXiv 2003.12298, equation 3),

    L(y | x) = t_1 log2 K  -  sum_s sum_{t_s < i <= t_{s+1}} log2 p_s(y_i | x_i),      compression = n log2 K / L.

A probe that reads a label from ten examples and one that needs a thousand end at the same accuracy, and have different
lengths: L charges for the effort of learning to read, without counting parameters. (Held-out bits at n items,
`information`, are the last term only.) Block ends are those of the paper: .1, .2, .4, .8, 1.6, 3.2, 6.25, 12.5, 25,
50 and 100 % of the items; ends below a floor of items are left out, because components and penalty need some.

What differs from the paper: items come in an order of whole *groups* (connected components of problems and operand
combinations), so that no block is coded by a probe that has seen one of its groups; the penalty of each probe is chosen
by grouped folds of the items before the block, and where the probe does not beat the label frequencies on them
(`ignorance`), these code the block. The label frequencies alone, in the same blocks, give a length too (`null`): what
is saved beyond *that* is read from x, what is saved beyond the uniform code may only be that one class is frequent.

Lengths are means over several orders of the groups. Their interval is about the order, which is all that is random
here: it does not say what other problems would give.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import log2

import numpy as np

from faithprobe.errors import UnscoredError
from faithprobe.probes.chunks import Features
from faithprobe.probes.estimator import loss_bits
from faithprobe.probes.ignorance import informed
from faithprobe.probes.inputs import FEWEST_TRAINING, check_features, check_labels, encode, inner_folds
from faithprobe.probes.sources import Source, part_of, projected
from faithprobe.probes.splits import Fold, Groups, connected_components, largest_share, select
from faithprobe.scores.statistics import Interval, clustered_mean

BLOCKS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.0625, 0.125, 0.25, 0.5, 1.0)
"""Ends of the blocks as shares of the items (Voita and Titov 2020, section 3.2)."""
FLOOR = 24
"""Items of the first block, at least."""


@dataclass(frozen=True)
class Codelength:
    """Bits that it takes to send the labels to someone who has the features."""

    bits: Interval
    """Over orders of the groups."""
    compression: float
    """Of the uniform code: its length over this one's; 1 or less where nothing is gained."""
    blocks: tuple[float, ...] = field(repr=False)
    """Bits an item in each block, mean over orders; the first is log2 K."""


@dataclass(frozen=True)
class DescriptionLength:
    """Online code of the labels given activations, given each control, and given nothing."""

    activations: Codelength
    controls: Mapping[str, Codelength]
    null: Codelength
    """By label frequencies alone."""
    uniform: float
    """n log2 K."""
    saved: Interval
    """Bits an item by which the activations' code is shorter than the shortest of the others, over orders."""
    control: str
    """Whose code that is: a control's, or `null`."""
    ends: tuple[int, ...]
    """Items sent at the end of each block, in the first order."""
    n: int


@dataclass(frozen=True)
class _Order:
    """The items in one order of the groups, and their blocks."""

    rows: np.ndarray
    clusters: np.ndarray
    """(all items,) the component of each."""
    ends: tuple[int, ...]
    folds: tuple[tuple[Fold, ...], ...]
    """Inner folds of the items before each block but the first; empty where they cannot be split."""


def online_codelength(
    x: Features,
    labels: Sequence[str] | np.ndarray,
    *,
    groups: Groups,
    controls: Mapping[str, Features] | None = None,
    blocks: Sequence[float] = BLOCKS,
    floor: int = FLOOR,
    orders: int = 5,
    fewest: int = FEWEST_TRAINING,
    seed: int = 0,
) -> DescriptionLength:
    """Codes the labels given one feature array (one layer), and given each control.

    Args:
        x: (items, features).
        labels: (items,) classes as text; `MISSING` is left out.
        groups: (items,) or a tuple of several, the problem first, then the operand combination.
        controls: name to (items, features).
        blocks: ends of the blocks as rising shares of the items, the last one 1.
        floor: items that the first block has at least.
        orders: of the groups; their spread is the interval.
        fewest: items with a label.
        seed: of the orders and inner folds.

    Raises UnscoredError, with the number, where there are too few items, classes or groups, or features are not finite;
    ValueError for blocks that do not rise to 1.
    """
    if list(blocks) != sorted(set(blocks)) or not blocks or blocks[0] <= 0 or blocks[-1] != 1:
        raise ValueError(f"blocks end at rising shares of the items, the last one 1, not at {list(blocks)}")
    if floor < 2 or orders < 1:
        raise ValueError(f"a floor of {floor} items and {orders} orders; at least 2 and 1")
    y, names = encode(labels)
    rows = np.flatnonzero(y >= 0)
    check_labels(y[rows], names)
    if len(rows) < fewest:
        raise UnscoredError(f"{len(rows)} items have a label, at least {fewest} are needed")
    sources = {"activations": x, **(controls or {})}
    check_features({name: {None: (some, some)} for name, some in sources.items()}, len(y), len(y))
    components = connected_components(select(groups, rows))
    if largest_share(components) > 0.5:
        raise UnscoredError(
            f"one connected component of the groupings holds {largest_share(components):.2f} of {len(rows)} items; "
            "give the operand combination alone as the grouping"
        )
    # Not of the seed alone: whoever shuffled the items with the same seed would get them back in order.
    rng = np.random.default_rng((seed, len(rows), orders))
    dealt = [_order(rows, components, groups, y, blocks, floor, rng, seed + k) for k in range(orders)]
    codes = {name: [_coded(some, order, y, len(names)) for order in dealt] for name, some in sources.items()}
    codes["null"] = [_coded(None, order, y, len(names)) for order in dealt]
    uniform = len(rows) * log2(len(names))
    lengths = {name: np.array([some.sum() for some in of_order]) for name, of_order in codes.items()}
    found = {
        name: Codelength(
            _over_orders(lengths[name]), uniform / float(lengths[name].mean()), _by_block(codes[name], dealt)
        )
        for name in codes
    }
    others = [name for name in codes if name != "activations"]
    control = min(others, key=lambda name: float(lengths[name].mean()))
    return DescriptionLength(
        activations=found["activations"],
        controls={name: found[name] for name in others if name != "null"},
        null=found["null"],
        uniform=uniform,
        saved=_over_orders((lengths[control] - lengths["activations"]) / len(rows)),
        control=control,
        ends=dealt[0].ends,
        n=len(rows),
    )


def _order(
    rows: np.ndarray,
    components: np.ndarray,
    groups: Groups,
    y: np.ndarray,
    blocks: Sequence[float],
    floor: int,
    rng: np.random.Generator,
    seed: int,
) -> _Order:
    place = rng.permutation(int(components.max()) + 1)[components]
    order = np.argsort(place, kind="stable")
    # Blocks end with a group, at the first item count that reaches the share.
    counts = np.cumsum(np.bincount(place))
    wanted = [max(share * len(rows), floor) for share in blocks]
    reached = np.minimum(np.searchsorted(counts, wanted), len(counts) - 1)
    ends = tuple(np.unique(counts[reached]).tolist())
    ordered = rows[order]
    clusters = np.full(len(y), -1)
    clusters[rows] = components
    return _Order(ordered, clusters, ends, tuple(_inner(groups, ordered[:end], y, seed) for end in ends[:-1]))


def _inner(groups: Groups, seen: np.ndarray, y: np.ndarray, seed: int) -> tuple[Fold, ...]:
    try:
        return inner_folds(groups, seen, y[seen], seed=seed)
    except UnscoredError:  # too few groups so far: label frequencies code the next block
        return ()


def _coded(x: Features | None, order: _Order, y: np.ndarray, n_classes: int) -> np.ndarray:
    """(items,) bits of each, in the order in which they are sent; without features, by label frequencies."""
    bits = np.full(len(order.rows), log2(n_classes))
    for begin, end, folds in zip(order.ends, order.ends[1:], order.folds, strict=False):
        seen, sent = order.rows[:begin], order.rows[begin:end]
        part = part_of(0, seen, sent, y[seen], y[sent], folds, n_classes=n_classes)
        bits[begin:end] = loss_bits(part.null, part.y_test)
        if x is None or not folds or len(np.unique(part.y_train)) < 2:
            continue
        source = Source([part], len(y))
        coordinates = projected((x, x), [part])
        source.add(None, source.read(coordinates, n_classes=n_classes), coordinates)
        if informed(source, order.clusters):
            bits[begin:end] = source.chosen_loss[sent]
    return bits


def _over_orders(values: np.ndarray) -> Interval:
    return clustered_mean(values, range(len(values)), share=False)


def _by_block(codes: Sequence[np.ndarray], orders: Sequence[_Order]) -> tuple[float, ...]:
    """Orders whose groups end elsewhere may have a block more; those that all have are told."""
    told = min(len(order.ends) for order in orders)
    each = [
        [bits[begin:end].mean() for begin, end in zip((0, *order.ends), order.ends[:told], strict=False)]
        for bits, order in zip(codes, orders, strict=True)
    ]
    return tuple(np.mean(each, axis=0).tolist())
