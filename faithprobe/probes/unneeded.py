"""Decodable is not used: values that the answer needs against values of the same problem that it does not need.

In a program such as `x0 = 14 - 11. x1 = x0 - 18. x2 = x0 + 4. What is x1?` the model states x2 like any other value,
and nothing depends on it. What can be read about x2 is there for other reasons than the answer: because the text tells
it, or because whatever writes a value must have it. So the information about needed values is worth as much as it
exceeds that about unneeded ones, read by the same family, in the same problems and at the same *depth*, the number of
operations on the longest path from the given inputs, since deeper values are harder to compute and to read.

Of the shipped tasks, `programs` has steps that the answer does not need (`unneeded=`); so has any task with a graph of
which the answer leaves out a part. The answer itself is read out at the end, and is matched with nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import product
from math import inf, sqrt

import numpy as np

from faithprobe.errors import UnscoredError
from faithprobe.probes.record import Information
from faithprobe.scores.statistics import Interval, clustered_mean
from faithprobe.tasks.graph import Graph


def depths(graph: Graph) -> dict[str, int]:
    """Of every step: operations on the longest path from the given inputs; 1 where all operands are given."""
    found = dict.fromkeys(graph.inputs, 0)
    for step in graph.steps:  # in an order of computation
        found[step.name] = 1 + max((found[operand] for operand in step.operands), default=0)
    return {step.name: found[step.name] for step in graph.steps}


def depth_of(graph: Graph, step: str) -> int:
    """Of one step. Raises KeyError where the graph has no step of this name."""
    return depths(graph)[step]


def matched(graph: Graph) -> tuple[tuple[str, str], ...]:
    """Every (needed, unneeded) pair of steps of one depth, the answer left out; empty where there is none."""
    by_depth: dict[int, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for name, depth in depths(graph).items():
        if name != graph.answer:
            by_depth[depth][name not in graph.needed].append(name)
    return tuple(pair for depth in sorted(by_depth) for pair in product(*by_depth[depth]))


@dataclass(frozen=True)
class Contrast:
    """Information beyond controls about needed and unneeded values, as fractions of their entropies, unclipped."""

    needed: Interval
    unneeded: Interval
    difference: Interval
    """needed - unneeded, clustered by problem: what both hold of one problem cancels."""
    n_both: int
    """Problems that have both; the others tell about one side only."""


def contrast(
    needed: Information,
    unneeded: Information,
    *,
    groups: Sequence[Hashable] | np.ndarray,
    unneeded_groups: Sequence[Hashable] | np.ndarray | None = None,
    level: float = 0.95,
) -> Contrast:
    """Needed minus unneeded, with an interval over problems.

    Both are means over items, so the difference is a function of cluster totals; its variance is the jackknife's, which
    leaves one problem out of both sides at a time. Fractions of entropies, because two steps may have other targets.

    Args:
        needed: information about steps that the answer needs.
        unneeded: about steps that it does not need, of the same depth (`matched`), read by the same family of probes at
            the same place.
        groups: (items of `needed`,) the problem of each.
        unneeded_groups: (items of `unneeded`,); None: the same as `groups`.
        level: coverage of the interval.

    Raises UnscoredError where no problem has both, ValueError where lengths do not fit.
    """
    other = groups if unneeded_groups is None else unneeded_groups
    sides = [_fractions(needed, groups, "needed"), _fractions(unneeded, other, "unneeded")]
    problems = list(dict.fromkeys([*sides[0][1], *sides[1][1]]))
    code = {problem: k for k, problem in enumerate(problems)}
    totals = [
        (np.bincount(rows, weights=values, minlength=len(problems)), np.bincount(rows, minlength=len(problems)))
        for values, names in sides
        for rows in [np.array([code[name] for name in names])]
    ]
    both = int(((totals[0][1] > 0) & (totals[1][1] > 0)).sum())
    if not both:
        raise UnscoredError(
            f"none of {len(problems)} problems has a needed and an unneeded item; match steps of the same problems"
        )
    of_needed, of_unneeded = (clustered_mean(values, names, level=level, share=False) for values, names in sides)
    value = of_needed.value - of_unneeded.value
    counts = [count for _, count in totals]
    if any((count.sum() - count == 0).any() for count in counts):  # a side that is one problem
        return Contrast(of_needed, of_unneeded, Interval(value, -inf, inf, len(problems)), both)
    left_out = [(sums.sum() - sums) / (count.sum() - count) for sums, count in totals]
    n = len(problems)
    variance = (n - 1) / n * float(np.square(left_out[0] - left_out[1] - value).sum())
    half = _t_quantile(n - 1, level) * sqrt(variance)
    return Contrast(of_needed, of_unneeded, Interval(value, value - half, value + half, n), both)


def _fractions(
    found: Information, groups: Sequence[Hashable] | np.ndarray, name: str
) -> tuple[np.ndarray, list[Hashable]]:
    """(scored items,) gain over entropy, and the problem of each."""
    if len(groups) != len(found.item_bits):
        raise ValueError(f"{len(groups)} groups for {len(found.item_bits)} {name} items: one group per item")
    values = (found.item_bits - found.item_control_bits) / found.entropy
    known = ~np.isnan(values)
    return values[known], [group for group, kept in zip(groups, known, strict=True) if kept]


def _t_quantile(degrees: int, level: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(degrees, (1 + level) / 2))
