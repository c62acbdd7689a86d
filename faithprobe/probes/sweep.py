"""All layers, positions, steps, targets and controls of activations that are in memory, in one call.

Of each site (a step at a place) every layer is fitted for all targets, their shuffles and control tasks at once, from
one factorisation (`leave_out`: penalties by leaving whole operand combinations out), and so is every control. What is
held out, and all that is random, is decided as in a stream (`columns`), so both give the same kind of numbers
(`held_out`). Where activations do not fit into memory, `faithprobe.probe` streams them.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from faithprobe.probes.closed_form import PENALTIES, Fit
from faithprobe.probes.columns import HELD_OUT, Columns, columns_for
from faithprobe.probes.held_out import HeldOut, Reading, readings
from faithprobe.probes.leave_out import Parts, deal, fit, threads
from faithprobe.probes.stream import ACTIVATIONS, EMBEDDING, TEXT, TEXT_LINEAR, TWIN, Batch, Fitted
from faithprobe.tasks.graph import Value


@dataclass(frozen=True)
class Site:
    """Items of one step at one place."""

    batch: Batch
    """Activations of every layer; the controls that there are."""
    values: Sequence[Value | None]
    """(items,) what is to be read: exact numbers, names or truth values; targets follow from them."""
    combinations: Sequence[Hashable]
    """(items,) operand combinations: what folds are made of. Put the problem in where one has several items."""
    types: Sequence[Hashable] = ()
    """(items,) of control tasks, such as the literal that is visible last; empty: no control task."""


@dataclass(frozen=True)
class Swept:
    """What was found at one site."""

    columns: Columns
    fitted: Fitted
    items: HeldOut
    readings: tuple[Reading, ...]
    n_train: int


def sweep(
    sites: Mapping[Hashable, Site],
    *,
    moduli: Sequence[int] = (),
    shuffles: int = 50,
    draws: int = 5,
    penalties: Sequence[float] = PENALTIES,
    workers: int | None = None,
    seed: int = 0,
) -> dict[Hashable, Swept]:
    """Fits and judges probes at every site and layer.

    Args:
        sites: by any name, such as `(step, position)`.
        moduli: residues to read besides parity and last digit.
        shuffles: label shuffles of each target.
        draws: control tasks of each class target.
        penalties: tried for each target, per item and feature of variance 1.
        workers: layers that are fitted at once on a CPU, each on one thread; default: as many as torch has threads.
        seed: of splits, shuffles and control tasks.

    Raises UnscoredError where a site supports no target or has too few held-out combinations.
    """
    plans = {
        name: _plan(site, moduli=moduli, shuffles=shuffles, draws=draws, seed=seed) for name, site in sites.items()
    }
    work = [
        (name, source, layer)
        for name, site in sites.items()
        for source in _sources(site.batch)
        for layer in range(_layers(site.batch, source))
    ]

    def run(task: tuple[Hashable, str, int]) -> Fit:
        name, source, layer = task
        return _fit(sites[name].batch, plans[name], source, layer, penalties)

    with threads(workers) as pool:
        found = dict(zip(work, pool.map(run, work), strict=True))
    swept = {}
    for name, site in sites.items():
        plan = plans[name]
        fitted = Fitted(
            {
                source: tuple(found[name, source, layer] for layer in range(_layers(site.batch, source)))
                for source in _sources(site.batch)
            }
        )
        items = HeldOut(
            site.batch.rows(plan.held_out),
            plan.labels[plan.held_out],
            [site.combinations[int(i)] for i in plan.held_out],
        )
        judged = tuple(readings(fitted, plan.columns, items))
        swept[name] = Swept(plan.columns, fitted, items, judged, len(plan.train))
    return swept


@dataclass(frozen=True)
class _Plan:
    columns: Columns
    labels: np.ndarray
    train: np.ndarray
    held_out: np.ndarray
    fold: Tensor
    """(training items,)"""
    y: Tensor
    parts: Parts


def _plan(site: Site, *, moduli: Sequence[int], shuffles: int, draws: int, seed: int) -> _Plan:
    columns = columns_for(
        site.values,
        site.combinations,
        moduli=moduli,
        shuffles=shuffles,
        draws=draws if len(site.types) else 0,
        seed=seed,
    )
    labels, known = columns.labels(site.values, site.combinations, site.types or site.combinations)
    fold = np.where(known, columns.fold(site.combinations), -1)
    train, held_out = np.flatnonzero(fold > HELD_OUT), np.flatnonzero(fold == HELD_OUT)
    parts = deal([site.combinations[int(i)] for i in train])
    y = torch.from_numpy(columns.matrix(labels[train])).to(site.batch.activations.device)
    return _Plan(columns, labels, train, held_out, torch.from_numpy(fold[train]), y, parts)


def _sources(batch: Batch) -> list[str]:
    found = [ACTIVATIONS]
    if batch.text is not None:
        found += [TEXT, TEXT_LINEAR]
    return found + [name for name, given in ((EMBEDDING, batch.embedding), (TWIN, batch.twin)) if given is not None]


def _layers(batch: Batch, source: str) -> int:
    return 1 if source in (TEXT, EMBEDDING) else len(batch.activations)


def _fit(batch: Batch, plan: _Plan, source: str, layer: int, penalties: Sequence[float]) -> Fit:
    rows = torch.from_numpy(plan.train)
    blocks = [block.columns for block in plan.columns.blocks]

    def fitted(x: Tensor) -> Fit:
        return fit(x, plan.y, plan.parts, blocks, penalties=penalties)

    x = batch.of(source, layer)[rows]
    if source != TEXT_LINEAR:
        return fitted(x)
    # Training items are predicted through weights that their fold had no part in (`stream._text_linear`).
    text, own = x.double(), batch.of(ACTIVATIONS, layer)[rows].double()
    linear = torch.empty_like(own)
    for k in plan.fold.unique():
        inside = plan.fold == k
        linear[inside] = text[inside] @ _least_squares(text[~inside], own[~inside])
    return fitted(linear).through(_least_squares(text, own))


def _least_squares(text: Tensor, activations: Tensor) -> Tensor:
    return torch.linalg.pinv(text - text.mean(dim=0), rtol=1e-6) @ (activations - activations.mean(dim=0))
