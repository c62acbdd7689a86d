"""Gradients through a linear probe. It does not work as a loss, and is here as the experiment that shows why.

    L = -log softmax(W h(l, pi) + b)[first token of the value],    pi: the position that predicts a stated value

W is fitted to the states as they are, a step at a time, and the model follows the gradient of L under the W of the
moment. What falls is the probe's error, and not only this probe's: fresh ones, on problems held out, read the value as
well. What the model does with the value stays as it was, since nothing asks that anything depends on it; the
probe reports what it was paid to find. (A penalty on what a probe finds is paid in the same coin: see the Obfuscation
Atlas, arXiv 2602.15515.) Probes are for diagnostics and rewards.
"""

from __future__ import annotations

import math
import warnings

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional


class ProbeLossWarning(UserWarning):
    """Given when a loss is made whose gradient goes through a probe."""


class OnlineProbe:
    """A linear probe from the residual stream to the vocabulary that is fitted while a model is trained through it.

    Attributes:
        linear: the probe; None before the first call.
        accuracy: of the last call, before its fit: how often the likeliest token was the label.
    """

    def __init__(self, vocabulary: int, *, learning_rate: float = 3e-3) -> None:
        """
        Args:
            vocabulary: how many tokens there are.
            learning_rate: of the probe's own AdamW, one step a call.
        """
        warnings.warn(
            "no gradient through a probe: this loss teaches a model to show a value, not to use it. It is here as the "
            "experiment that shows so; train with objective='counterfactual'",
            ProbeLossWarning,
            stacklevel=3,
        )
        self.vocabulary, self.learning_rate = vocabulary, learning_rate
        self.linear: nn.Linear | None = None
        self.accuracy = math.nan
        self._optimizer: torch.optim.Optimizer | None = None

    def __call__(
        self, states: Float[Tensor, "place d_model"], labels: Int[Tensor, " place"]
    ) -> Float[Tensor, "place vocabulary"]:
        """What the probe makes of the states, after a step of its own on them; only the states get a gradient."""
        # the model's precision is not the probe's
        with torch.autocast(states.device.type, enabled=False):
            seen = states.float()
            linear = self._fit(seen.detach(), labels)
            # copies: a later step of the probe must not change what this gradient is computed from
            return functional.linear(seen, linear.weight.detach().clone(), linear.bias.detach().clone())

    def _fit(self, states: Float[Tensor, "place d_model"], labels: Int[Tensor, " place"]) -> nn.Linear:
        if self.linear is None or self._optimizer is None:
            # made without its usual draw, which would move the caller's random numbers; the fit is convex
            self.linear = nn.utils.skip_init(
                nn.Linear, states.shape[1], self.vocabulary, device=states.device, dtype=torch.float32
            )
            for parameter in self.linear.parameters():
                nn.init.zeros_(parameter)
            self._optimizer = torch.optim.AdamW(self.linear.parameters(), lr=self.learning_rate)
        with torch.enable_grad():
            logits = self.linear(states)
            loss = functional.cross_entropy(logits, labels)
            self.accuracy = float((logits.argmax(-1) == labels).float().mean())
            loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad()
        return self.linear
