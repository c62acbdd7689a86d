"""Attribution patching: a preview of the exact layer x position sweep, from one backward pass.

The exact effect of a cell is what the metric m gains when the base run's activation there is set to the source run's,
in a pass of its own. Its linear estimate is the difference of the activations times a gradient, for all cells at once:

    effect(site, position) = (h_source - h_base) . g,       g = sum_k w_k dm/dh (run k)

where the input embeddings of run k are those of the base run, moved to the source run's by a share a_k. One gradient,
at the base (a = 0, w = 1), is attribution patching (Nanda, "Attribution Patching", 2023; Syed et al., arXiv
2310.10348). It fails where attention or a norm saturates between the runs, and can then even have the wrong sign
(Kramar et al., AtP*, arXiv 2403.00745). The mean along the input path is that of integrated gradients (Sundararajan et
al., arXiv 1703.01365; for edges of circuits: Hanna et al., arXiv 2403.17806), here by trapezoids. At
`blocks.0.hook_resid_pre` these effects add up to m(source) - m(base), to the error of the sum over k (completeness).

Which of the two follows the exact sweep depends on how far a patch goes. One of the residual stream can carry all that
tells the runs apart, and needs the path; one of a single attention or MLP output stays near the base, and is described
by the gradient there, while the mean adds slopes of runs that it never comes to. `Attribution` holds both from one
pass, and `preview` takes each where it is the better one.

Measured on SmolLM2, two sums and two sums of sums whose first operand differs, 32 cells of each kind and pair
(`python -m benchmarks.preview`; lowest and highest correlation with the exact effects over the pairs):

                 Pearson                             Spearman
                 path, 4 runs     base alone         path, 4 runs     base alone
    resid_pre     .98 to 1.00     -.96 to  .99       .29 to .63        .02 to .83
    attn_out      .03 to  .99      .68 to 1.00       .22 to .73        .81 to  .99
    mlp_out      -.57 to  .89      .32 to  .97       .05 to .67        .86 to  .99

So the path finds the large effects of the residual stream, with their sign, and not the order of the small ones. A few
cells decide these Pearson correlations: their intervals over layers and positions are wide.

Either stays an estimate: what is reported is the exact effect, beside the `correlation` of the two on the cells that
were computed exactly (`interventions.agreement`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache

from faithprobe.interventions.edits import EditError
from faithprobe.models.forcing import right_pad
from faithprobe.models.generation import PrefixCache
from faithprobe.models.hooks import capture, edit, evaluating, require_fired
from faithprobe.models.language_model import LanguageModel


class OneGradientWarning(UserWarning):
    """Attribution patching with a single gradient was asked for."""


@dataclass(frozen=True)
class Metric:
    """A number that is read from the log-probabilities of one run."""

    value: Callable[[Float[Tensor, "row tail read vocabulary"]], Float[Tensor, " row"]]
    """From log-probabilities of the next token, of several runs, to one number each. Differentiable."""
    read: tuple[int, ...]
    """Positions after which they are read; those behind the run are in the tail."""
    tails: tuple[tuple[int, ...], ...] = ((),)
    """Tokens that are forced behind the run, one row for each: literals of several tokens need their own."""


def literal_difference(base: Sequence[int], source: Sequence[int], *, at: int) -> Metric:
    """LD = log p(source literal) - log p(base literal) behind position `at`, the run's last; literals are whole strings
    of tokens, in nats."""
    literals = (tuple(base), tuple(source))
    if not all(literals) or literals[0] == literals[1]:
        raise EditError(f"literals {literals[0]} and {literals[1]}: LD needs two different ones of at least one token")
    tails = tuple(dict.fromkeys(literal[:-1] for literal in literals))

    def value(logprobs: Tensor) -> Tensor:
        of_base, of_source = (
            sum(logprobs[:, tails.index(literal[:-1]), j, token] for j, token in enumerate(literal))
            for literal in literals
        )
        return torch.as_tensor(of_source - of_base)

    return Metric(value, tuple(range(at, at + max(map(len, literals)))), tails)


@dataclass(frozen=True, eq=False)
class Attribution:
    """Estimated effects of setting single cells of the base run to the source run's activations, in units of the
    metric, on the CPU."""

    effects: Float[Tensor, "site position"]
    """By the mean gradient along the path."""
    at_base: Float[Tensor, "site position"]
    """By the gradient at the base run alone: the plain estimate. For the residual stream it can have the wrong sign."""
    sites: tuple[str, ...]
    positions: tuple[int, ...]
    """From the first token that differs on. In front of it both runs agree, and every effect is exactly zero."""
    steps: int
    base: float
    """The metric of the base run."""
    source: float
    """The metric of the source run."""

    @property
    def preview(self) -> Float[Tensor, "site position"]:
        """The better of the two for each kind of site: the path's for the residual stream, the base's for what a single
        attention or MLP adds to it."""
        adds = torch.tensor([site.endswith(("hook_attn_out", "hook_mlp_out")) for site in self.sites])
        return torch.where(adds[:, None], self.at_base, self.effects)


def attribution(
    model: LanguageModel,
    base: Sequence[int],
    source: Sequence[int],
    metric: Metric,
    *,
    sites: Sequence[str] | None = None,
    steps: int = 4,
    prefixes: PrefixCache | None = None,
) -> Attribution:
    """Estimated effects at every site and position, from one forward and one backward pass over `steps` runs.

    Weights get no gradient, and the model is left as it was.

    Args:
        base: token ids.
        source: token ids, equally many.
        sites: by default the residual stream in front of every layer, `blocks.{i}.hook_resid_pre`.
        steps: runs along the path from base to source, both included: 4 to 8. 1 is the plain estimate, with a warning.
        prefixes: holds what both runs share in front of the first token that differs.

    Raises:
        EditError: runs of different length, without a difference, or read in front of it or behind their end.
    """
    base, source = tuple(base), tuple(source)
    first = _first_difference(base, source)
    last = len(base) - 1 + max(map(len, metric.tails))
    for position in metric.read:
        if not first <= position <= last:
            raise EditError(
                f"the metric reads behind position {position}; the runs differ from {first} on, and end with {last}"
            )
    default = [f"blocks.{i}.hook_resid_pre" for i in range(model.n_layers)]
    names = tuple(dict.fromkeys(default if sites is None else sites))
    shares, weights = path(steps)
    prefixes = prefixes or PrefixCache(model)
    start = prefixes.choose([base, source], padding="right")
    # All rows hold the base's tokens but the last ones: their embeddings are all that tells runs of one tail apart.
    runs = [*[base] * (len(shares) - 1), source]
    rows = [(*run, *tail) for run in runs for tail in metric.tails]
    cells = slice(first - start, len(base) - start)

    cache = prefixes.get(base[:start], len(rows)) if start else None  # in front of the hooks: they see the rows alone
    with (
        evaluating(model, gradients=True),
        edit(model, {"hook_embed": _along(shares, len(metric.tails))}) as fired,
        capture(model, names, detach=False) as seen,
    ):
        logprobs = _logprobs(model, rows, start, metric.read, cache)
        require_fired(fired)
        require_fired(seen)
        values = metric.value(rearrange(logprobs, "(run tail) ... -> run tail ...", tail=len(metric.tails)))
        total = (values * torch.tensor(weights).to(values)).sum()
        gradients = torch.autograd.grad(total, [seen[name][0] for name in names])
    found = [
        _effects(seen[name][0].detach()[:, cells], gradient[:, cells], len(metric.tails), weights[0])
        for name, gradient in zip(names, gradients, strict=True)
    ]
    return Attribution(
        effects=torch.stack([effects for effects, _ in found]).cpu(),
        at_base=torch.stack([at_base for _, at_base in found]).cpu(),
        sites=names,
        positions=tuple(range(first, len(base))),
        steps=steps,
        base=float(values[0].detach()),
        source=float(values[-1].detach()),
    )


def path(steps: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Shares a_k of the source, from 0 to 1, and weights w_k of the gradients there; they add up to 1."""
    if steps == 1:
        warnings.warn(
            "attribution with a single gradient, at the base run: for the residual stream it can have the wrong sign; "
            "take steps=4 to 8, and the exact sweep for what is reported",
            OneGradientWarning,
            stacklevel=3,
        )
        return (0.0, 1.0), (1.0, 0.0)
    if steps < 4:
        raise ValueError(
            f"steps={steps}: between base and source too little is seen; give 4 to 8 (or 1, the plain way)"
        )
    ends, inner = 0.5 / (steps - 1), 1 / (steps - 1)
    return tuple(k / (steps - 1) for k in range(steps)), (ends, *[inner] * (steps - 2), ends)


def _first_difference(base: Sequence[int], source: Sequence[int]) -> int:
    if len(base) != len(source):
        raise EditError(f"base has {len(base)} tokens and source {len(source)}: cells are compared at equal positions")
    differing = [i for i, (a, b) in enumerate(zip(base, source, strict=True)) if a != b]
    if not differing:
        raise EditError("base and source are the same tokens: no cell differs, and nothing would be measured")
    return differing[0]


def _along(
    shares: Sequence[float], n_tails: int
) -> Callable[[Float[Tensor, "row position d_model"]], Float[Tensor, "row position d_model"]]:
    """Embeddings of all runs, from those of the first one (the base) and the last one (the source)."""

    def interpolate(embeddings: Tensor) -> Tensor:
        runs = rearrange(embeddings.detach(), "(run tail) ... -> run tail ...", tail=n_tails)
        moved = torch.stack([torch.lerp(runs[0], runs[-1], share) for share in shares])
        return rearrange(moved, "run tail ... -> (run tail) ...").requires_grad_()

    return interpolate


def _logprobs(
    model: LanguageModel, rows: Sequence[Sequence[int]], start: int, read: Sequence[int], cache: DynamicCache | None
) -> Float[Tensor, "row read vocabulary"]:
    """As `forcing.force_behind`, with gradients."""
    ids = right_pad(rows, start, model.pad_id).to(model.device)
    past = {"past_key_values": cache, "use_cache": True} if cache is not None else {"use_cache": False}
    out = model.hf(
        input_ids=ids,
        attention_mask=torch.ones(len(rows), start + ids.shape[1], dtype=torch.long, device=model.device),
        logits_to_keep=torch.tensor([position - start for position in read], device=model.device),
        **past,
    )
    return out.logits.to(torch.promote_types(out.logits.dtype, torch.float32)).log_softmax(-1)


def _effects(
    h: Float[Tensor, "row position d_model"],
    gradient: Float[Tensor, "row position d_model"],
    n_tails: int,
    at_base: float,
) -> tuple[Float[Tensor, " position"], Float[Tensor, " position"]]:
    """Along the path and at the base. The gradients of a run's tails add up; its cells are the same in all of them.

    Gradients come with their run's weight in them; `at_base` is that of the base run.
    """
    kind = torch.promote_types(h.dtype, torch.float32)
    each = torch.einsum("pd,rpd->rp", h[-1].to(kind) - h[0].to(kind), gradient.to(kind))
    return each.sum(dim=0), each[:n_tails].sum(dim=0) / at_base
