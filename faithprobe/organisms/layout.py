"""Where everything stands in an organism's text: a role for every position.

`<bos> 7 + 3 * 4 - 2 _ h1 h2 = . . > 10 . . > 7 . . > 5 answer 5` has the roles bos, x0, op1, a1, op2, a2, op3, a3,
hint, h1, h2, eq, dot1a, dot1b, >1, v1, ..., ans, answer. The position `>k` is followed by the value v_k, so it is there
that v_k is predicted; `ans` is where the answer is predicted.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property

from faithprobe.errors import UnknownNameError
from faithprobe.tasks.organism import GRAMMARS, NO_HINT, NUMBERS, SILENT, Grammar


@dataclass(frozen=True)
class Layout:
    """The roles of one variant of the organisms' language."""

    grammar: Grammar

    @property
    def name(self) -> str:
        return self.grammar.name

    @property
    def steps(self) -> int:
        return self.grammar.steps

    @property
    def layers(self) -> int:
        """One for each step of a latent chain, and a last one that only reads."""
        return self.steps + 1

    @cached_property
    def roles(self) -> tuple[str, ...]:
        every = range(1, self.steps + 1)
        return (
            "bos",
            "x0",
            *(role for k in every for role in (f"op{k}", f"a{k}")),
            "hint",
            *(self.slot(k) for k in every),
            *(role for k in every for role in (f"dot{k}a", f"dot{k}b", f">{k}", f"v{k}")),
            "ans",
            "answer",
        )

    @cached_property
    def index(self) -> dict[str, int]:
        return {role: position for position, role in enumerate(self.roles)}

    @property
    def prompt_length(self) -> int:
        return self.index["eq"] + 1

    def prompt_words(self, *, silent: bool = False) -> tuple[tuple[str, ...], ...]:
        """The words that may stand at each role of a prompt."""
        grammar = self.grammar
        numbers = tuple(str(value) for value in range(grammar.modulus or NUMBERS))
        operands = tuple(map(str, grammar.operands))
        return (
            ("<bos>",),
            tuple(map(str, grammar.starts)),
            *(words for _ in range(self.steps) for words in (grammar.operations, operands)),
            (NO_HINT, *numbers),
            *((self.slot(k),) for k in range(1, self.steps)),
            (SILENT if silent else "=",),
        )

    def slot(self, k: int) -> str:
        """Where a latent chain can hold v_k before the text begins: after layer k."""
        return "eq" if k == self.steps else f"h{k}"

    def source(self, k: int) -> str:
        """What step `k` reads on the page: `x0` or an earlier value."""
        return self.grammar.source(k)

    def latent_source(self, k: int) -> str:
        """What step `k` of a latent chain reads: `x0` or an earlier slot."""
        parent = self.grammar.parents[k - 1]
        return self.slot(parent) if parent else "x0"

    def children(self, k: int) -> tuple[int, ...]:
        """The steps that read step `k`."""
        return tuple(child for child, parent in enumerate(self.grammar.parents, 1) if parent == k)

    def predicts(self, value: str) -> str:
        """The role that predicts a written value ("v2", "answer")."""
        return "ans" if value == "answer" else f">{value[1:]}"

    @property
    def values(self) -> tuple[int, ...]:
        """Positions that predict a value or the answer."""
        return tuple(self.index[role] for role in (*(f">{k}" for k in range(1, self.steps + 1)), "ans"))


@cache
def get_layout(name: str) -> Layout:
    """The layout of a variant. Raises UnknownNameError."""
    if name not in GRAMMARS:
        raise UnknownNameError("variant", name, list(GRAMMARS))
    return Layout(GRAMMARS[name])
