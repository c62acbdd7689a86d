"""The exact sweep: what a patch at every layer and position does, computed only where it can do anything.

One cell is one patch of one site at one layer l and one position t, taken from a source run of the same length:

    effect(l, t) = measure(base run with h(l, t) <- h_source(l, t)) - measure(base run)

Causality makes many cells exactly zero: positions in front of the first token that differs, positions behind the last
one that is read, what the last layer adds where nothing is read (no later layer looks at it), and any cell where both
runs hold the same vector. These are filled in. Of every other cell only what it can change is computed: positions from
t on, layers above l (`interventions.engine`).

A single layer and position is a weak edit: it leaves every redundant path as it was, so a small effect is not "not
computed" (windows in all layers are `interventions.splice`). The strongest cells are given placebos, a random and an
orthogonal direction of the same length as the true difference; what counts is the effect beyond them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from faithprobe.interventions.edits import EditError, Patch
from faithprobe.interventions.engine import Replay, replay
from faithprobe.interventions.placebo import orthogonal_source, random_source
from faithprobe.interventions.runs import Run, clean_runs
from faithprobe.models.language_model import LanguageModel
from faithprobe.models.prefixes import PrefixCache, Tokens

Read = Callable[[Float[Tensor, "read vocabulary"]], float]
"""From log-probabilities after the positions that are read to one number, such as `logit_difference`."""

SWEPT = ("hook_resid_pre", "hook_attn_out", "hook_mlp_out", "hook_resid_post")


@dataclass(frozen=True, eq=False)
class Sweep:
    """Effects of single patches of one pair of runs."""

    hook: str
    """What was patched in every layer: `hook_resid_post`."""
    layers: tuple[int, ...]
    positions: tuple[int, ...]
    effects: Float[Tensor, "layer position"]
    """In units of the measure; exact zeros where nothing can change."""
    computed: Bool[Tensor, "layer position"]
    """Cells that were run; the others are zero by causality."""
    placebos: Float[Tensor, "layer position"]
    """The placebo's effect that is largest in magnitude; NaN where none was run."""
    base: float
    """The measure of the base run."""
    source: float
    """The measure of the source run: what patching everything would give."""

    @property
    def beyond(self) -> Float[Tensor, "layer position"]:
        """Magnitude of the effect minus that of its placebo; NaN where no placebo was run."""
        return self.effects.abs() - self.placebos.abs()


def logit_difference(base_token: int, source_token: int) -> Read:
    """log p(source token) - log p(base token) after the last position that is read."""

    def read(logprobs: Float[Tensor, "read vocabulary"]) -> float:
        return float(logprobs[-1, source_token] - logprobs[-1, base_token])

    return read


def sweep(
    model: LanguageModel,
    base: Tokens,
    source: Tokens,
    *,
    read: Sequence[int],
    measure: Read,
    hook: str = "hook_resid_post",
    layers: Sequence[int] | None = None,
    positions: Sequence[int] | None = None,
    strongest: int = 16,
    seed: int = 0,
    prefixes: PrefixCache | None = None,
    batch_size: int = 32,
    progress: Callable[[int], None] | None = None,
) -> Sweep:
    """Every layer and position of one pair of runs.

    Args:
        base: token ids.
        source: token ids, equally many.
        read: positions after which the measure reads log-probabilities.
        hook: one of `SWEPT`.
        layers: default: all.
        positions: default: all.
        strongest: how many of the strongest cells are given placebos.
        seed: of the placebos.
        progress: called with the number of cells that were finished.

    Raises:
        EditError: runs of unequal length, or equal runs. ModelError: a model without keys and values.
    """
    if len(base) != len(source):
        raise EditError(f"base has {len(base)} tokens and source {len(source)}: a sweep patches equal positions")
    differing = [p for p, (a, b) in enumerate(zip(base, source)) if a != b]
    read = tuple(read)
    layers = tuple(range(model.n_layers) if layers is None else layers)
    positions = tuple(range(len(base)) if positions is None else positions)
    _check(model, hook, len(base), read=read, layers=layers, positions=positions)
    if not differing or differing[0] > max(read):
        raise EditError("base and source agree up to the last position that is read: every effect would be zero")
    prefixes = prefixes or PrefixCache(model)
    # Nobody behind the last position that is read can be seen from there.
    rows = [tuple(row[: max(read) + 1]) for row in (base, source)]
    sites = {layer: f"blocks.{layer}.{hook}" for layer in layers}
    runs = clean_runs(
        model,
        rows,
        prefixes=prefixes,
        reads=[read, read],
        sites=list(sites.values()),
        resid_pre=True,
        start_at=min(differing[0], *read),
        batch_size=batch_size,
    )
    clean, given = runs
    cells = [
        (layer, p)
        for p in positions
        if differing[0] <= p <= max(read)
        for layer in layers
        if not torch.equal(clean.at(sites[layer], [p]), given.at(sites[layer], [p]))
        and (p in read or hook == "hook_resid_pre" or layer < model.n_layers - 1)
    ]
    value = measure(clean.logprobs)

    def effects(patches: Sequence[Patch]) -> list[float]:
        def work(index: int, logprobs: Tensor) -> float:
            if progress is not None:
                progress(1)
            return measure(logprobs) - value

        replays = [Replay(clean, tuple(read), edits=(patch,)) for patch in patches]
        # Cells that hold the same vector are left out above; a difference near rounding still counts.
        return replay(model, replays, work, prefixes=prefixes, batch_size=batch_size, inert="allow")

    def patch(cell: tuple[int, int]) -> Patch:
        return Patch(sites[cell[0]], (cell[1],), given.at(sites[cell[0]], [cell[1]]))

    found = dict(zip(cells, effects([patch(cell) for cell in cells]), strict=True))
    chosen = sorted(cells, key=lambda cell: -abs(found[cell]))[:strongest]
    controls = [
        (cell, Patch(sites[cell[0]], (cell[1],), values))
        for cell in chosen
        for values in _placebos(clean, given, sites[cell[0]], cell[1], seed)
    ]
    placebos: dict[tuple[int, int], float] = {}
    for (cell, _), effect in zip(controls, effects([patch for _, patch in controls]), strict=True):
        placebos[cell] = max(placebos.get(cell, 0.0), effect, key=abs)
    return Sweep(
        hook=hook,
        layers=layers,
        positions=positions,
        effects=torch.tensor([[found.get((layer, p), 0.0) for p in positions] for layer in layers]),
        computed=torch.tensor([[(layer, p) in found for p in positions] for layer in layers]),
        placebos=torch.tensor([[placebos.get((layer, p), float("nan")) for p in positions] for layer in layers]),
        base=value,
        source=measure(given.logprobs),
    )


def _check(
    model: LanguageModel,
    hook: str,
    length: int,
    *,
    read: Sequence[int],
    layers: Sequence[int],
    positions: Sequence[int],
) -> None:
    if hook not in SWEPT:
        raise EditError(f"{hook!r} is not swept; there are {', '.join(SWEPT)}")
    if not read:
        raise EditError("nothing is read: name the positions after which the measure reads log-probabilities")
    outside = [p for p in read if not 0 <= p < length]
    if outside:
        raise EditError(f"positions {outside} are read: the runs have {length} tokens")
    outside = [layer for layer in layers if not 0 <= layer < model.n_layers]
    if outside:
        raise EditError(f"layers {outside}: the model has {model.n_layers}, counted from 0")
    outside = [p for p in positions if not 0 <= p < length]
    if outside:
        raise EditError(f"positions {outside}: the runs have {length} tokens")


def _placebos(base: Run, source: Run, site: str, position: int, seed: int) -> list[Float[Tensor, "1 width"]]:
    """A random and an orthogonal direction, as long as the true difference."""
    before, after = base.at(site, [position]), source.at(site, [position])
    generator = torch.Generator().manual_seed(random.Random(f"sweep {seed} {site} {position}").getrandbits(63))
    return [move(before, after, generator=generator) for move in (random_source, orthogonal_source)]
