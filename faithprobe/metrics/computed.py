"""Computed (D): is there more about the value in the activations than on the page? And agreement (A).

Probes are fitted on teacher-forced reference responses to problems of their own. On those, cross-fitted, stands the
evidence that a value is there at all, at each place and layer (`decodability`); the place where it is clearest is
chosen there. Read from the model's own chains at that place, they give D of each instance.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from faithprobe.chains.capture import PLACES, PREDICTING
from faithprobe.chains.records import Chain
from faithprobe.errors import UnscoredError
from faithprobe.metrics.items import Items, Traces, items
from faithprobe.probes.agreement import agreement
from faithprobe.probes.features import one_hot_by_slot
from faithprobe.probes.information import Controls, Information, cross_fitted, transfer
from faithprobe.probes.targets import MISSING, labels_of, targets_for
from faithprobe.scores.evidence import Evidence, Key, Measurement


@dataclass(frozen=True)
class Fit:
    """One step's probes at one place: what was found on the probe problems."""

    place: str
    target: str
    train: Items
    labels: np.ndarray
    found: Information


def computed(chains: Sequence[Chain], step: str, traces: Traces, *, seed: int = 0) -> Evidence:
    """D of every literal of one reference step, with the step's interval; `decodability` rows for the figure.

    Detail of a measurement: `site`, D at each of them (`before` the chain, `ahead`, `predicting`), `present` (the
    step's value is there beyond all controls on the probe problems, the interval's lower end above 0: "yes" or "no"),
    `agreement`.
    """
    own = {chain.id: chain for chain in chains}
    keys = {id_: name for id_, chain in own.items() for name, ref in chain.reference.items() if ref == step}
    # These matrices are small: BLAS threads only wait for each other, on a busy machine 30 times longer than one works.
    table: list[dict[str, object]] = []
    with threadpool_limits(limits=1):
        try:
            fits = list(_fits(step, traces, seed))
            table = [row | {"step": step} for fit in fits for row in _table(fit)]
            rows = _read_own(step, fits, own, keys, traces, seed)
        except UnscoredError as error:
            rows = {(id_, name): Measurement.none(str(error)) for id_, name in keys.items()}
    return Evidence("computed", rows, {"decodability": tuple(table)})


def reference_steps(chains: Sequence[Chain]) -> list[str]:
    return list(dict.fromkeys(step.name for chain in chains for step in chain.problem.graph.steps))


def _fits(step: str, traces: Traces, seed: int) -> Iterator[Fit]:
    """Cross-fitted information at each place, about the target that tells most values apart.

    Raises UnscoredError where no place can be fitted.
    """
    reasons = []
    for place in PLACES:
        train = items(traces.probe_chains, step, place, traces.probe, traces.probe_twin, traces.sites)
        if not len(train):
            continue
        targets = targets_for(train.local)
        if not targets:
            reasons.append(f"the values of {step!r} on {len(train)} probe problems support no target")
            continue
        (text,) = one_hot_by_slot(train.slots)
        controls: Controls = {"text": text, "embedding": train.embedding, "random twin": train.twin}
        name = main_target(targets)
        try:
            found = cross_fitted(
                train.layers, targets[name], groups=(train.groups, train.combinations), controls=controls, seed=seed
            )
        except UnscoredError as error:
            reasons.append(str(error))
            continue
        reasons.append("")
        yield Fit(place, name, train, targets[name], found)
    if "" not in reasons:
        raise UnscoredError(next(iter(reasons), "no probe problem states the step"))


def main_target(targets: Mapping[str, np.ndarray]) -> str:
    """The target that tells most values apart: classes where there are few values, else the last digit, else parity."""
    return max(sorted(targets), key=lambda name: len(set(targets[name].tolist())))


def _table(fit: Fit) -> list[dict[str, object]]:
    return [{**row, "target": fit.target, "position": fit.place} for row in fit.found.table]


def _read_own(
    step: str, fits: Sequence[Fit], chains: Mapping[str, Chain], keys: Mapping[str, str], traces: Traces, seed: int
) -> dict[Key, Measurement]:
    main = fits[0].target
    of_main = [fit for fit in fits if fit.target == main]
    best = max(of_main, key=lambda fit: fit.found.gain.value)
    readings = {fit.place: _transfer(step, fit, chains, traces, seed) for fit in of_main}
    own, found = readings[best.place]
    by_site = {
        place: dict(zip(read.ids, information.pointwise.tolist(), strict=True))
        for place, (read, information) in readings.items()
    }
    says = _agreement(step, of_main, chains, traces, seed)
    refused = traces.own.refused
    rows = {
        (id_, name): Measurement.none(refused.get(id_, "the position was not recorded")) for id_, name in keys.items()
    }
    entropy = found.entropy
    for i, id_ in enumerate(own.ids):
        value = float(found.pointwise[i])
        if np.isnan(value):
            rows[id_, keys[id_]] = Measurement.none(f"too few probe problems with other operands have its {main}")
            continue
        rows[id_, keys[id_]] = Measurement(
            value,
            control=found.control_bits / entropy,
            n=found.n_eval,
            low=float(np.clip(best.found.gain.low / best.found.entropy, 0, 1)),
            high=float(np.clip(best.found.gain.high / best.found.entropy, 0, 1)),
            detail={
                "site": best.place,
                "target": main,
                "present": "yes" if best.found.gain.low > 0 else "no",
                **{place: _known(by_site.get(place, {}).get(id_)) for place in PLACES},
                "agreement": says.get(id_),
            },
        )
    return rows


def _known(value: float | None) -> float | None:
    return None if value is None or np.isnan(value) else value


def _transfer(step: str, fit: Fit, chains: Mapping[str, Chain], traces: Traces, seed: int) -> tuple[Items, Information]:
    own = items(chains, step, fit.place, traces.own, traces.own_twin, traces.sites)
    if not len(own):
        raise UnscoredError(f"no chain states {step!r} where it can be read {fit.place}")
    text, own_text = one_hot_by_slot(fit.train.slots, own.slots)
    # A class without a probe costs its own items their D, not the others theirs: D is read item by item.
    labels = labels_of(fit.target, own.local)
    labels[~np.isin(labels, fit.labels)] = MISSING
    found = transfer(
        fit.train.layers,
        fit.labels,
        own.layers,
        labels,
        groups=(fit.train.groups, fit.train.combinations),
        eval_groups=(own.groups, own.combinations),
        controls={"text": text, "embedding": fit.train.embedding, "random twin": fit.train.twin},
        eval_controls={"text": own_text, "embedding": own.embedding, "random twin": own.twin},
        seed=seed,
    )
    return own, found


def _agreement(
    step: str, fits: Sequence[Fit], chains: Mapping[str, Chain], traces: Traces, seed: int
) -> dict[str, str]:
    """What the state at the predicting position says where stated and local differ; empty where it cannot be read."""
    for fit in fits:
        if fit.place != PREDICTING:
            continue
        own = items(chains, step, fit.place, traces.own, traces.own_twin, traces.sites)
        try:
            found = agreement(
                fit.train.layers,
                fit.labels,
                own.layers,
                labels_of(fit.target, own.local),
                labels_of(fit.target, own.stated),
                groups=(fit.train.groups, fit.train.combinations),
                eval_groups=(own.groups, own.combinations),
                seed=seed,
            )
        except UnscoredError:
            return {}
        return dict(zip(own.ids, found.items, strict=True)) if found.fitted else {}
    return {}
