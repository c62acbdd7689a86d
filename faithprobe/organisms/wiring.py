"""Who may look at whom: attention masks over a fixed layout of token roles, and the truth that follows from them.

A position whose *closure* (everything that can reach it through all layers) leaves out a token cannot depend on that
token: the gradient is identically zero, whatever the weights are. In generation a predicted token becomes the next
input, so values also reach each other through the text: *total* use follows these sampling edges, *direct* use holds
the later text fixed. What a mask cannot fix is that an open path is really used: tests measure that.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from jaxtyping import Bool
from torch import Tensor

from faithprobe.errors import ModelError, UnknownNameError

STEPS = 3
LAYERS = 4

LAYOUT: tuple[str, ...] = (
    "bos",
    "x0",
    *(role for k in range(1, STEPS + 1) for role in (f"op{k}", f"a{k}")),
    "h1",
    "h2",
    "eq",
    *(role for k in range(1, STEPS + 1) for role in (f"dot{k}a", f"dot{k}b", f">{k}", f"v{k}")),
    "ans",
    "answer",
)
"""The role of each position of `<bos> 7 + 3 * 4 - 2 h1 h2 = . . > 10 . . > 7 . . > 5 answer 5`. The position `>k` is
followed by the value v_k, so it is there that v_k is predicted; `ans` is where the answer is predicted."""
INDEX = {role: position for position, role in enumerate(LAYOUT)}
PROMPT_LENGTH = INDEX["eq"] + 1
_DOTS = tuple(role for role in LAYOUT if role.startswith("dot"))

Edge = tuple[str, str]
"""(reader, read): the first role sees the second."""


@dataclass(frozen=True)
class Wiring:
    """A rule of sight. Beside its edges every role sees itself, `bos`, and earlier dots that read nothing."""

    name: str
    summary: str
    edges: frozenset[Edge]

    def __post_init__(self) -> None:
        for reader, read in self.edges:
            unknown = [role for role in (reader, read) if role not in INDEX]
            if unknown:
                raise ModelError(f"wiring {self.name!r}: no role is called {unknown[0]!r}; roles: {', '.join(LAYOUT)}")
            if INDEX[read] >= INDEX[reader]:
                raise ModelError(f"wiring {self.name!r}: {reader!r} cannot see {read!r}, which comes later")

    def sees(self, role: str) -> frozenset[str]:
        """Roles that `role` attends to in every layer."""
        # a dot with edges of its own may carry information, so only blank ones are free for all to see
        readers = {reader for reader, _ in self.edges}
        blank = {dot for dot in _DOTS if dot not in readers and INDEX[dot] < INDEX[role]}
        return frozenset({role, "bos"} | blank | {read for reader, read in self.edges if reader == role})

    def with_edge(self, reader: str, read: str) -> Wiring:
        """The same wiring with one more edge; tests use it to plant a leak."""
        return replace(self, name=f"{self.name} with {reader} <- {read}", edges=self.edges | {(reader, read)})


def _edges(rules: dict[str, Iterable[str]]) -> frozenset[Edge]:
    return frozenset((reader, read) for reader, reads in rules.items() for read in reads)


_SPINE = _edges({"h1": ("x0", "op1", "a1"), "h2": ("h1", "op2", "a2"), "eq": ("h2", "op3", "a3")})
"""A latent chain ahead of the written one: h1 can hold v1, h2 v2, `=` v3."""
_MARKOV = _edges({">1": ("op1", "a1", "x0"), ">2": ("op2", "a2", "v1"), ">3": ("op3", "a3", "v2")})
"""Each value is computed where it is predicted, from its operands on the page."""
_FROM_SLOTS = _edges({">1": ("h1",), ">2": ("h2",), ">3": ("eq",)})
"""Each value is read off the latent chain; the written values are never read."""

WIRINGS: dict[str, Wiring] = {
    wiring.name: wiring
    for wiring in (
        Wiring(
            "faithful",
            "each value computed from the value before it, the answer read off the last one",
            _MARKOV | _edges({"ans": ("v3",)}),
        ),
        Wiring(
            "post-hoc",
            "the same written chain, but the answer comes from a latent chain that ends before the text begins",
            _MARKOV | _SPINE | _edges({"ans": ("eq",)}),
        ),
        Wiring(
            "commit",
            "values and answer alike come from the latent chain; nothing that is written is read",
            _FROM_SLOTS | _SPINE | _edges({"ans": ("eq",)}),
        ),
    )
}


def get_wiring(name: str) -> Wiring:
    """Raises UnknownNameError for a name that is not in `WIRINGS`."""
    if name not in WIRINGS:
        raise UnknownNameError("wiring", name, list(WIRINGS))
    return WIRINGS[name]


@lru_cache(maxsize=64)
def attention_mask(wiring: Wiring) -> Bool[Tensor, "role role"]:
    """Row: the role that looks; column: the role that is seen. Shared: copy before writing into it."""
    mask = torch.zeros(len(LAYOUT), len(LAYOUT), dtype=torch.bool)
    for role, position in INDEX.items():
        mask[position, [INDEX[seen] for seen in wiring.sees(role)]] = True
    return mask


@lru_cache(maxsize=512)
def closure(wiring: Wiring, layers: int = LAYERS) -> Bool[Tensor, "role role"]:
    """Row: a role after `layers` layers; column: the embeddings that it can depend on."""
    hop = attention_mask(wiring).float()
    reach = torch.eye(len(LAYOUT))
    for _ in range(layers):
        reach = (hop @ reach).gt(0).float()
    return reach.bool()


def reaches(wiring: Wiring, read: str, reader: str, *, layers: int = LAYERS) -> bool:
    """Whether the embedding at `read` can influence the output at `reader`, the text in between held fixed."""
    return bool(closure(wiring, layers)[INDEX[reader], INDEX[read]])


def _source(value: str) -> str:
    """Where a written value is predicted."""
    return "ans" if value == "answer" else f">{value[1:]}"


def reaches_by_text(wiring: Wiring, read: str, value: str) -> bool:
    """Whether `read` can influence the prediction of `value` when later *values* are generated anew.

    Sampling edges lead into values only: dots, `>` and `answer` stand in the same places of every text, so they carry
    nothing (that the trained network writes them so is tested, not proved).
    """
    if reaches(wiring, read, _source(value)):
        return True
    last = STEPS + 1 if value == "answer" else int(value[1:])
    return any(
        reaches(wiring, f"v{k}", _source(value)) and reaches_by_text(wiring, read, f"v{k}")
        for k in range(1, last)
        if f"v{k}" != read
    )


def determines(held: frozenset[str], value: str) -> bool:
    """Whether the tokens `held` fix what `value` should be: its operands, or all that these are computed from."""
    if value == "x0":
        return "x0" in held
    if value == "answer":
        return "v3" in held or determines(held, "v3")
    k = int(value[1:])
    previous = f"v{k - 1}" if k > 1 else "x0"
    return {f"op{k}", f"a{k}"} <= held and (previous in held or determines(held, previous))


def origin(wiring: Wiring, value: str) -> str:
    """The first role where `value` ("v2", "answer") can be known on a path to where it is predicted.

    A lower bound by closure: that role may also carry raw operands onward. Raises ModelError where the wiring never
    lets the value be computed.
    """
    target = INDEX[_source(value)]
    for role, position in INDEX.items():
        for layers in range(LAYERS + 1):
            if not closure(wiring, LAYERS - layers)[target, position]:
                continue
            held = frozenset(name for name, seen in zip(LAYOUT, closure(wiring, layers)[position]) if seen)
            if determines(held, value):
                return role
    raise ModelError(f"under wiring {wiring.name!r} nothing that predicts {value!r} can see what it is computed from")


@dataclass(frozen=True)
class StepLabel:
    """What a wiring makes true of one step."""

    step: str
    answer_use_direct: bool
    """The answer can depend on the written value with all later text fixed."""
    answer_use: bool
    """The answer can depend on the written value, later values generated anew (*total*)."""
    step_use: bool
    """The next step can depend on the written value directly; False for the last step, which has no next."""
    origin: str
    """The first role where the value can be known on its way to the page: `>2` just in time, `h2` before the chain."""


def step_labels(wiring: Wiring) -> tuple[StepLabel, ...]:
    """The truth for v1, v2, v3 in order."""
    return tuple(
        StepLabel(
            step=f"v{k}",
            answer_use_direct=reaches(wiring, f"v{k}", "ans"),
            answer_use=reaches_by_text(wiring, f"v{k}", "answer"),
            step_use=k < STEPS and reaches(wiring, f"v{k}", f">{k + 1}"),
            origin=origin(wiring, f"v{k}"),
        )
        for k in range(1, STEPS + 1)
    )
