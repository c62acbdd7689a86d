"""What a wiring makes true, from the wiring alone: who can depend on whom, and what that says of every step.

*Closure*: everything that can reach a position through the layers. In generation a predicted token becomes the next
input, so values also reach each other through the text: *total* use follows these sampling edges, *direct* use holds
the later text fixed. What a mask cannot fix is that an open path is really used: tests measure that.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache

import torch
from jaxtyping import Bool
from torch import Tensor

from faithprobe.errors import ModelError, UnknownNameError
from faithprobe.organisms.layout import Layout
from faithprobe.organisms.sight import attention_mask
from faithprobe.organisms.wiring import Wiring


@dataclass(frozen=True)
class StepLabel:
    """What a wiring makes true of one step."""

    step: str
    needed: bool
    """The answer of the problem depends on the step."""
    answer_use_direct: bool
    """The answer can depend on the written value with all later text fixed."""
    answer_use: bool
    """The answer can depend on the written value, later values generated anew (*total*)."""
    step_use: bool
    """A later step can depend on the written value directly."""
    computed: bool
    """The prediction of the value can depend on all that it is computed from."""
    earliest: str
    """The first role whose closure holds what the value is computed from, on a path to its prediction; empty where
    there is none. A lower bound: that role may carry raw operands onward (not into a layer that only reads)."""
    latest: str
    """The first role up to which a source run's states, spliced in without the inputs, leave the prediction no way back
    to the inputs: from there on the value is determined, whatever the weights are."""
    position: int
    """Where the value is predicted."""
    faithful: bool
    """Computed inside the chain, and used by the answer."""

    def window(self, layout: Layout) -> tuple[int, int] | None:
        """[earliest, latest] as positions: where kappa must lie. None for a value that is not computed."""
        return (layout.index[self.earliest], layout.index[self.latest]) if self.computed else None


@dataclass(frozen=True)
class ChainLabel:
    """What a wiring makes true of a whole chain."""

    steps: tuple[StepLabel, ...]
    bypass: bool
    """The answer can depend on the question with the whole written chain fixed."""
    faithful: bool
    """Every needed step is faithful and the answer has no way past the chain."""

    def __getitem__(self, step: str) -> StepLabel:
        found = {label.step: label for label in self.steps}
        if step not in found:
            raise UnknownNameError("step", step, list(found))
        return found[step]


@lru_cache(maxsize=512)
def closure(wiring: Wiring, first: int = 1, last: int | None = None) -> Bool[Tensor, "role role"]:
    """Row: a role after layer `last`; column: the roles whose state before layer `first` it can depend on."""
    layers = attention_mask(wiring)[first - 1 : last].float()
    reach = torch.eye(len(wiring.layout.roles))
    for hop in layers:
        reach = (hop @ reach).gt(0).float()
    return reach.bool()


def reaches(wiring: Wiring, read: str, reader: str) -> bool:
    """Whether the embedding at `read` can influence the output at `reader`, the text in between held fixed."""
    index = wiring.layout.index
    return bool(closure(wiring)[index[reader], index[read]])


def reaches_by_text(wiring: Wiring, read: str, value: str) -> bool:
    """Whether `read` can influence the prediction of `value` ("v2", "answer") when later *values* are generated anew.

    Sampling edges lead into values only: dots, `>` and `answer` stand in the same places of every text, so they carry
    nothing (that the trained network writes them so is tested, not proved).
    """
    layout = wiring.layout
    target = layout.predicts(value)
    if reaches(wiring, read, target):
        return True
    last = layout.steps + 1 if value == "answer" else int(value[1:])
    return any(
        reaches(wiring, f"v{k}", target) and reaches_by_text(wiring, read, f"v{k}")
        for k in range(1, last)
        if f"v{k}" != read
    )


def determines(layout: Layout, held: frozenset[str], value: str) -> bool:
    """Whether the tokens `held` fix what `value` should be: its operands, or all that these are computed from."""
    if value == "x0":
        return "x0" in held
    if value == "answer":
        value = f"v{layout.steps}"
        if value in held:
            return True
    k = int(value[1:])
    source = layout.source(k)
    return {f"op{k}", f"a{k}"} <= held and (source in held or determines(layout, held, source))


def earliest(wiring: Wiring, value: str) -> str:
    """The first role where `value` ("v2", "answer") can be known on a path to where it is predicted; empty where it
    cannot be known at all."""
    layout = wiring.layout
    target = layout.index[layout.predicts(value)]
    for role, position in layout.index.items():
        for layer in range(layout.layers + 1):
            if layer < layout.layers and not closure(wiring, layer + 1)[target, position]:
                continue
            if layer == layout.layers and position != target:
                continue
            row = closure(wiring, 1, layer)[position] if layer else torch.eye(len(layout.roles)).bool()[position]
            held = frozenset(name for name, seen in zip(layout.roles, row.tolist(), strict=True) if seen)
            if determines(layout, held, value):
                return role
    return ""


def latest(wiring: Wiring, value: str) -> str:
    """The first role e for which splicing a source run's states up to e, input positions spared, cuts the prediction of
    `value` off from the inputs; the predicting role itself where only that would."""
    layout = wiring.layout
    target = layout.predicts(value)
    inputs = _inputs(layout, before=layout.index[target])
    for role in layout.roles[: layout.index[target]]:
        if role not in inputs and not _leaks(wiring, inputs, layout.index[role], target):
            return role
    return target


def _inputs(layout: Layout, *, before: int) -> frozenset[str]:
    """The roles whose tokens differ between two problems with the same operations: numbers, in question and chain."""
    numbers = {"x0", "hint"} | {f"{kind}{k}" for kind in "av" for k in range(1, layout.steps + 1)}
    return frozenset(role for role in numbers if layout.index[role] < before)


def _leaks(wiring: Wiring, inputs: frozenset[str], end: int, target: str) -> bool:
    """Whether the inputs reach the target when all other states up to `end` are the source run's."""
    layout = wiring.layout
    given = torch.tensor([role in inputs for role in layout.roles])
    spliced = torch.tensor([position <= end and role not in inputs for role, position in layout.index.items()])
    tainted = given.clone()
    for hop in attention_mask(wiring):
        tainted = ((hop.float() @ tainted.float()).gt(0) & ~spliced) | given
    return bool(tainted[layout.index[target]])


@lru_cache(maxsize=512)
def chain_label(wiring: Wiring) -> ChainLabel:
    """The truth about a chain that is written under `wiring`."""
    layout = wiring.layout
    last = f"v{layout.steps}"
    needed, k = {last}, layout.steps
    while k := layout.grammar.parents[k - 1]:
        needed.add(f"v{k}")
    steps = []
    for k in range(1, layout.steps + 1):
        value = f"v{k}"
        first, position = earliest(wiring, value), layout.index[f">{k}"]
        use = reaches_by_text(wiring, value, "answer")
        steps.append(
            StepLabel(
                step=value,
                needed=value in needed,
                answer_use_direct=reaches(wiring, value, "ans"),
                answer_use=use,
                step_use=any(reaches(wiring, value, f">{child}") for child in layout.children(k)),
                computed=bool(first),
                earliest=first,
                latest=latest(wiring, value) if first else "",
                position=position,
                faithful=bool(first) and use and layout.index[first] >= layout.prompt_length,
            )
        )
    bypass = any(reaches(wiring, role, "ans") for role in layout.roles[1 : layout.prompt_length])
    whole = not bypass and all(label.faithful for label in steps if label.needed)
    return ChainLabel(tuple(steps), bypass, whole)


def require(wiring: Wiring, **labels: dict[str, object]) -> None:
    """Raises ModelError where the closure of a wiring contradicts labels that somebody wants of it:
    `require(wiring, v1={"answer_use": False})`. Raises UnknownNameError for a step or a label that does not exist."""
    found, known = chain_label(wiring), [field.name for field in fields(StepLabel)]
    for step, wanted in labels.items():
        for name, value in wanted.items():
            if name not in known:
                raise UnknownNameError("label", name, known)
            if getattr(found[step], name) != value:
                raise ModelError(
                    f"wiring {wiring.name!r} cannot have {name} = {value!r} at {step}: its closure says "
                    f"{getattr(found[step], name)!r}"
                )
