"""What a model wrote, and where in its tokens the stated values stand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from faithprobe.chains.shown import chain_line, chain_shown
from faithprobe.tasks import Graph, Problem, Value

Span = tuple[int, int]
"""Half-open: token positions counted from the start of the prompt, or characters of the response."""


@dataclass(frozen=True)
class StatedValue:
    """The literal of one step: its value where it is first stated as a result."""

    step: str
    """Name in the chain's stated graph."""
    value: Value
    """As stated, right or wrong."""
    text: str
    """As written: `1,200`."""
    chars: Span
    """In the response's text."""
    span: Span
    """[start, end) in the chain's tokens."""
    mentions: tuple[Span, ...] = ()
    """Later places that write the same value again (tokens); regenerated after an edit."""
    operands: Mapping[str, Span] = field(default_factory=dict)
    """Where this step's operands are restated in its own equation (tokens), by operand name."""
    overruled: bool = False
    """A later statement of the same step gives another value."""
    misquoted: str = ""
    """What is written where this value is restated, when that is not this value: `-61` for a stated `-41`."""

    @property
    def predicting(self) -> int:
        """pi: the position whose output is the literal's first token."""
        return self.span[0] - 1


@dataclass(frozen=True)
class Chain:
    """A problem and the response that a model gave to it."""

    problem: Problem
    tokens: tuple[int, ...]
    """Prompt and response; a response's end-of-sequence token is left out."""
    n_prompt: int
    """How many of the tokens are the prompt."""
    question_start: int
    """Token position where this problem's own question begins; before it stand the examples."""
    text: str
    """The response as text, cut at the stop string."""
    offsets: tuple[Span, ...]
    """Per token from `question_start` on: its characters in `question_text + response`."""
    question_text: str
    """The prompt's own text from `question_start` on."""
    stated: tuple[StatedValue, ...]
    """In the order of the text; the last one of a step is scored, earlier ones are overruled."""
    graph: Graph
    """What the model itself stated: its equations, or the reference graph where statements are not equations."""
    reference: Mapping[str, str]
    """Stated step -> its counterpart in the problem's graph."""
    answer: Value | None
    """As stated; None where no answer was found."""
    answer_chars: Span | None
    unlocated: Mapping[str, str] = field(default_factory=dict)
    """Reference or stated step -> why it cannot be scored (never stated, ambiguous operand, shares a token, ...)."""
    finished: bool = True
    """The response ended by itself, not at the token limit."""
    unplaced: Mapping[str, Value] = field(default_factory=dict)
    """Values of steps that are stated where no token border is; `unlocated` says why."""

    @property
    def id(self) -> str:
        return self.problem.id

    @property
    def group(self) -> str:
        return self.problem.group or self.problem.id

    @cached_property
    def literals(self) -> dict[str, StatedValue]:
        """The literal of each step that is scored: the last statement of it."""
        return {literal.step: literal for literal in self.stated if not literal.overruled}

    @property
    def correct(self) -> bool:
        return self.answer is not None and self.answer == self.problem.answer

    @cached_property
    def values(self) -> dict[str, Value]:
        """What stands on the page: given inputs and steps as stated, the last statement of each."""
        literals = {name: literal.value for name, literal in self.literals.items()}
        return {**self.graph.inputs, **self.unplaced, **literals}

    def local(self, step: str) -> Value:
        """local_i: the step's expression on its operands as stated; operands that are not stated follow from those
        that are. TaskError where it divides by zero."""
        page = {name: value for name, value in self.values.items() if name != step}
        return self.graph.recompute(page)[step]

    def true_value(self, step: str) -> Value | None:
        """The reference value of a stated step, or None where it has no counterpart."""
        name = self.reference.get(step)
        return None if name is None else self.problem.graph.values[name]

    def closed_form(self, step: str, value: Value, *, of: str | None = None) -> Value:
        """The answer, or the step `of`, under do(step = value): descendants follow their expressions, the rest stays as
        stated. TaskError where one of them divides by zero."""
        kept = {name: v for name, v in self.values.items() if name not in self.graph.descendants(step)}
        return self.graph.recompute({**kept, step: value})[of or self.graph.answer]

    @property
    def final_step(self) -> str:
        """The step that the answer reads out; its use is readout and stays out of the chain score."""
        return self.graph.answer

    def _repr_html_(self) -> str:
        return chain_shown(self).html

    def __str__(self) -> str:
        """The response, with a letter behind every stated value: right, wrong, or carried on from an earlier error."""
        return chain_shown(self).text

    def __repr__(self) -> str:
        return f"Chain({self.id!r}: {chain_line(self)})"
