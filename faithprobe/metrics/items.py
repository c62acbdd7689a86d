"""What probes are fitted on and read from: the same step of many chains, with its targets, groups and controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from faithprobe.chains.capture import BEFORE
from faithprobe.chains.records import Chain
from faithprobe.chains.store import Trace
from faithprobe.errors import TaskError
from faithprobe.probes.inputs import Layers
from faithprobe.tasks import Graph, Value
from faithprobe.tasks.graph import evaluate, is_number, show_value


@dataclass(frozen=True)
class Traces:
    """The stored activations that probes need: of probe problems and of the model's own chains, each with its twin."""

    probe_chains: Mapping[str, Chain]
    """Teacher-forced reference responses, by problem id."""
    probe: Trace
    probe_twin: Trace
    own: Trace
    own_twin: Trace
    sites: tuple[str, ...]
    """Of the residual stream; the embedding is stored with them."""


@dataclass(frozen=True)
class Stored:
    """Activations of the items at one site and place, (items, d_model): read from the store by `x[begin:end]`."""

    store: Trace
    site: str
    label: str
    ids: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.ids), self.store.d_model

    def __getitem__(self, rows: slice, /) -> np.ndarray:
        return self.store.gather(self.site, self.label, self.ids[rows])[1].float().numpy()


@dataclass(frozen=True)
class Items:
    """One step at one place in many chains; every sequence has one entry an item."""

    ids: tuple[str, ...]
    local: tuple[Value | None, ...]
    """What the step's expression gives on its operands as stated: the probes' target."""
    stated: tuple[Value, ...]
    groups: tuple[str, ...]
    """The problem."""
    combinations: tuple[str, ...]
    """The step's expression and its operands: no combination stands on both sides of a split."""
    slots: tuple[Mapping[str, Value], ...]
    """Every literal that is visible at the place, by slot, and the operations: the text control."""
    layers: Layers
    """Layer to (items, d_model); as the twin and the embedding, read from the store a part at a time."""
    twin: Layers
    embedding: Stored

    def __len__(self) -> int:
        return len(self.ids)


def label(step: str, place: str) -> str:
    """How a position is called in the store; all steps share the one before the chain."""
    return BEFORE if place == BEFORE else f"{step}/{place}"


def items(chains: Mapping[str, Chain], step: str, place: str, trace: Trace, twin: Trace, sites: Sequence[str]) -> Items:
    """The items of one reference step at one place, in the order of the chains: what is dealt into folds must not
    depend on how an interrupted run has filled the store."""
    names = {id_: _stated(chain, step) for id_, chain in chains.items()}
    stored = set(trace.ids) & set(twin.ids)
    where = label(step, place)
    order = tuple(id_ for id_, name in names.items() if name and id_ in stored and where in trace.labels(id_))
    chosen = [chains[id_] for id_ in order]
    steps = [str(names[id_]) for id_ in order]

    layer = {int(site.split(".")[1]): site for site in sites}
    return Items(
        ids=order,
        local=tuple(_local(chain, name) for chain, name in zip(chosen, steps, strict=True)),
        stated=tuple(chain.values[name] for chain, name in zip(chosen, steps, strict=True)),
        groups=tuple(chain.group for chain in chosen),
        combinations=tuple(_combination(chain, name) for chain, name in zip(chosen, steps, strict=True)),
        slots=tuple(_slots(chain, name, place) for chain, name in zip(chosen, steps, strict=True)),
        layers={i: Stored(trace, site, where, order) for i, site in layer.items()},
        twin={i: Stored(twin, site, where, order) for i, site in layer.items()},
        embedding=Stored(trace, "hook_embed", where, order),
    )


@dataclass(frozen=True)
class Described:
    """What probes need to know of one step at one place, besides activations."""

    local: Value | None
    combination: str
    slots: Mapping[str, Value]
    last_literal: str
    """The literal that is visible last: the type of a control task."""


def describe(chain: Chain, step: str, place: str) -> Described:
    """Of a stated step that has a literal in the chain."""
    slots = _slots(chain, step, place)
    before = [other for other in chain.stated if place != BEFORE and other.span[1] <= chain.literals[step].span[0]]
    shown = [before[-1].value] if before else list(chain.problem.graph.inputs.values())[-1:]
    return Described(
        local=_local(chain, step),
        combination=_combination(chain, step),
        slots=slots,
        last_literal=show_value(shown[0]) if shown else "",
    )


def _stated(chain: Chain, reference: str) -> str | None:
    """The stated step that is the counterpart of a reference step."""
    return next(
        (name for name, other in chain.reference.items() if other == reference and name in chain.literals), None
    )


def _local(chain: Chain, step: str) -> Value | None:
    try:
        return chain.local(step)
    except TaskError:  # a division by zero, as stated: there is nothing to compute
        return None


def _combination(chain: Chain, step: str) -> str:
    operands = [str(chain.values.get(name)) for name in chain.graph[step].operands]
    return f"{chain.graph[step].expression}: {' '.join(operands)}"


def _slots(chain: Chain, step: str, place: str) -> dict[str, Value]:
    """The question shows every given input and operation, each alone and with its own sign; in the chain, earlier
    literals stand on the page as well."""
    problem = chain.problem.graph
    slots: dict[str, Value] = dict(problem.inputs)
    slots |= {f"{other.name} is": other.expression for other in problem.steps}
    slots |= _signed(problem)
    if place != BEFORE:
        literal = chain.literals[step]
        earlier = [other for other in chain.stated if other.span[1] <= literal.span[0]]
        slots |= {f"stated {chain.reference.get(other.step, other.step)}": other.value for other in earlier}
        operands = enumerate(chain.graph[step].operands)
        slots |= {f"operand {k}": chain.values[name] for k, name in operands if name in chain.values}
    return slots


def _signed(graph: Graph) -> dict[str, Value]:
    """What each given input adds to its step where all else is 0: `Subtract 5` says -5. Without these, a reader that is
    linear in operands and in operations could not add up a sum with minus signs, which is linear in what is visible."""
    found: dict[str, Value] = {}
    for step in graph.steps:
        for name in step.operands:
            if name in graph.inputs and is_number(graph.inputs[name]):
                alone = {**dict.fromkeys(step.operands, 0), name: graph.inputs[name]}
                with suppress(TaskError, ArithmeticError, LookupError, ValueError):  # not defined at 0
                    found[f"{name} in {step.name}"] = evaluate(step.expression, alone, graph.functions)
    return found
