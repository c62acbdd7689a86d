"""A small language for wirings: who may look at whom, in which layers.

A position whose *closure* (everything that can reach it through the layers, see `truth`) leaves out a token cannot
depend on that token: the gradient is identically zero, whatever the weights are. The same weights can therefore be run
under many wirings, and only the wiring says what is true of the text that they write.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

from faithprobe.errors import ModelError
from faithprobe.organisms.layout import Layout


@dataclass(frozen=True)
class Edge:
    """`reader` sees `read` in the given layers (from 1)."""

    reader: str
    read: str
    layers: frozenset[int]


@dataclass(frozen=True)
class Wiring:
    """A rule of sight. Beside its edges every role sees itself, `bos`, and earlier dots that read nothing."""

    name: str
    summary: str
    layout: Layout
    edges: frozenset[Edge]

    def __post_init__(self) -> None:
        index, layers = self.layout.index, self.layout.layers
        for edge in self.edges:
            unknown = [role for role in (edge.reader, edge.read) if role not in index]
            if unknown:
                raise ModelError(
                    f"wiring {self.name!r}: no role is called {unknown[0]!r}; roles: {', '.join(self.layout.roles)}"
                )
            if index[edge.read] >= index[edge.reader]:
                raise ModelError(f"wiring {self.name!r}: {edge.reader!r} cannot see {edge.read!r}, which comes later")
            if not edge.layers or not edge.layers <= set(range(1, layers + 1)):
                raise ModelError(
                    f"wiring {self.name!r}: {edge.reader!r} sees {edge.read!r} in layers "
                    f"{sorted(edge.layers)}, but there are layers 1 to {layers}"
                )

    def sees(self, role: str, layer: int) -> frozenset[str]:
        """Roles that `role` attends to in a layer (from 1)."""
        index = self.layout.index
        free = {dot for dot in self._blank_dots if index[dot] < index[role]}
        read = {edge.read for edge in self.edges if edge.reader == role and layer in edge.layers}
        return frozenset({role, "bos"} | free | read)

    @cached_property
    def _blank_dots(self) -> frozenset[str]:
        # a dot with edges of its own may carry information, so only blank ones are free for all to see
        readers = {edge.reader for edge in self.edges}
        return frozenset(role for role in self.layout.roles if role.startswith("dot") and role not in readers)

    def with_edge(self, reader: str, read: str, layers: Iterable[int] | None = None) -> Wiring:
        """The same wiring with one more edge, in all layers by default; tests use it to plant a leak."""
        edge = Edge(reader, read, frozenset(layers or range(1, self.layout.layers + 1)))
        return replace(self, name=f"{self.name} with {reader} <- {read}", edges=self.edges | {edge})


@dataclass(frozen=True)
class GatedWiring:
    """One of two wirings, by what the prompt says: a problem whose words at `roles` are in `words` runs under `then`,
    any other under `otherwise`. The truth about such a network is one of each problem."""

    name: str
    summary: str
    roles: tuple[str, ...]
    words: frozenset[tuple[str, ...]]
    then: Wiring
    otherwise: Wiring

    def __post_init__(self) -> None:
        if self.then.layout != self.otherwise.layout:
            names = f"{self.then.layout.name!r} and {self.otherwise.layout.name!r}"
            raise ModelError(f"wiring {self.name!r} joins two layouts, {names}")
        late = [role for role in self.roles if self.layout.index.get(role, 10**6) >= self.layout.prompt_length]
        if late:
            raise ModelError(f"wiring {self.name!r}: the gate reads {late[0]!r}, which is no role of the prompt")

    @property
    def layout(self) -> Layout:
        return self.then.layout

    def choose(self, words: Sequence[str]) -> Wiring:
        """The wiring of a problem, given the words of its prompt, `<bos>` first."""
        key = tuple(words[self.layout.index[role]] for role in self.roles)
        return self.then if key in self.words else self.otherwise


AnyWiring: TypeAlias = Wiring | GatedWiring
