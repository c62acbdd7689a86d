"""What the loss sees of a model while it runs: the state behind the last norm, and the residual stream at a layer.

Hooks sit on the body of a model and on its decoder layers, where they work in both kinds of gradient checkpointing, on
a fused head that returns no logits, under LoRA, `DistributedDataParallel` and FSDP. They look only at a pass that was
announced (`Taps.expect`), and only while the model trains: evaluation, generation and a reference's passes are left
alone. Gradient checkpointing runs a layer again during the backward pass; what was announced holds until the next
announcement, so a second run of a layer does what the first one did.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from faithprobe.errors import HookError, ModelError
from faithprobe.models.sites import Sites, unwrapped


@dataclass(frozen=True)
class Interchange:
    """At a layer, the residual stream at some positions of some rows is that of other rows of the batch."""

    layer: int
    rows: Int[Tensor, " place"]
    positions: Int[Tensor, " place"]
    source_rows: Int[Tensor, " place"]
    source_positions: Int[Tensor, " place"]


@dataclass
class Taps:
    """The hooks on one model. `close` takes them off; a copy of the model has none that act."""

    hf: Any
    """The Hugging Face model, without wrappers."""
    shape: tuple[int, int] | None = None
    """Rows and positions of the announced pass; None: look at nothing."""
    interchange: Interchange | None = None
    state: Float[Tensor, "row position d_model"] | None = None
    """Behind the last norm, of the announced pass."""
    graded: bool = False
    """Whether that pass ran with gradients on. A head that is trained would hide that it did not."""
    fired: int = 0
    """How often the interchange was done since it was announced."""
    capture: int | None = None
    """The layer whose output is kept of the announced pass."""
    captured: Float[Tensor, "row position d_model"] | None = None
    asleep: bool = False
    _handles: list[Any] = field(default_factory=list)

    @classmethod
    def on(cls, model: Any) -> Taps:
        """Sets the hooks. ModelError for what is no model, and for one that is compiled already: hooks set afterwards
        do not fire."""
        if not isinstance(model, nn.Module):
            held = ": pass its .hf" if hasattr(model, "hf") else ""
            raise ModelError(
                f"the loss takes the Hugging Face model that is trained, and a {type(model).__name__} is none{held}"
            )
        if any(_is_compiled(part) for part in model.modules()):
            raise ModelError(
                "the model is compiled already, and hooks set after torch.compile silently do not fire: make the "
                "FaithfulnessLoss first, then compile"
            )
        hf = unwrapped(model)
        taps = cls(hf)
        taps._handles.append(hf.base_model.register_forward_hook(_Hook(taps, None)))
        for i, layer in enumerate(taps.layers):
            taps._handles.append(layer.register_forward_hook(_Hook(taps, i)))
        return taps

    @property
    def layers(self) -> list[nn.Module]:
        sites = Sites.of(self.hf)
        return [sites.layer(i) for i in range(sites.n_layers)]

    def expect(
        self, shape: tuple[int, int] | None, interchange: Interchange | None = None, *, capture: int | None = None
    ) -> None:
        """Announces the next pass: its rows and positions, what is interchanged in it, which layer's output is kept."""
        self.shape, self.interchange, self.capture = shape, interchange, capture
        self.state, self.captured, self.graded, self.fired = None, None, False, 0

    @contextmanager
    def sleeping(self) -> Iterator[None]:
        """Passes of the body are not looked at."""
        before, self.asleep = self.asleep, True
        try:
            yield
        finally:
            self.asleep = before

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def logits(
        self, rows: Int[Tensor, " place"], positions: Int[Tensor, " place"]
    ) -> Float[Tensor, "place vocabulary"]:
        """What the head makes of the state at some places; for a model whose output has no logits. HookError where the
        announced pass was not seen."""
        if self.state is None:
            raise HookError(
                f"the output has no logits, and no pass of {self.shape} rows and positions was seen: call the model "
                "with the stacked batch, in train mode, before the loss; if it is compiled, make the FaithfulnessLoss "
                "first"
            )
        if not self.graded:
            raise HookError("what the model predicts has no gradient: its forward pass ran under torch.no_grad")
        head = self.hf.get_output_embeddings()
        weight, bias = head.weight, getattr(head, "bias", None)
        if hasattr(weight, "full_tensor"):  # FSDP2 shards it
            weight, bias = _gathered(weight), None if bias is None else _gathered(bias)
        states = self.state[rows, positions]
        logits = nn.functional.linear(states.to(weight.dtype), weight, bias)
        config = self.hf.config.get_text_config(decoder=True)
        for name in ("logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling"):
            scale = getattr(config, name, None)
            if scale is not None:
                divides = name == "logits_scaling" and config.model_type != "hyperclovax"
                logits = logits / scale if divides else logits * scale
        cap = getattr(config, "final_logit_softcapping", None)
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def states(self, rows: Int[Tensor, " place"], positions: Int[Tensor, " place"]) -> Float[Tensor, "place d_model"]:
        """The captured layer's output at some places, with its gradient. HookError where there is no such thing."""
        if self.captured is None:
            raise HookError(
                f"layer {self.capture} was not captured: no pass of {self.shape} rows and positions went through it in "
                "train mode; call the model with the stacked batch, and if it is compiled, make the FaithfulnessLoss "
                "first"
            )
        if not self.captured.requires_grad:
            raise HookError(
                f"the output of layer {self.capture} has no gradient: the pass ran under torch.no_grad, or nothing up "
                "to that layer is trained; under gradient checkpointing pass use_reentrant=False"
            )
        return self.captured[rows, positions]

    def seen(self, layer: int | None, output: Any) -> Any:
        """The hook: of a layer, or of the body (None)."""
        if self.asleep or self.shape is None or not self.hf.training:
            return None
        if layer is None:
            state = output[0] if isinstance(output, tuple) else output.last_hidden_state
            graded = torch.is_grad_enabled()
            if tuple(state.shape[:2]) == self.shape and (graded or not self.graded):  # not a later pass for metrics
                self.state, self.graded = state, graded
            return None
        planned = self.interchange
        if layer != self.capture and (planned is None or planned.layer != layer):
            return None
        stream = output[0] if isinstance(output, tuple) else output
        if tuple(stream.shape[:2]) != self.shape:
            return None
        if layer == self.capture and self.captured is None:  # not again when it is computed anew on the way back
            self.captured = stream
        if planned is None or planned.layer != layer:
            return None
        self.fired += 1
        changed = stream.clone()
        changed[planned.rows, planned.positions] = stream[planned.source_rows, planned.source_positions]
        return (changed, *output[1:]) if isinstance(output, tuple) else changed


class _Hook:
    """A hook that a copy of the model (a frozen reference) does not inherit."""

    def __init__(self, taps: Taps | None, layer: int | None) -> None:
        self.taps, self.layer = taps, layer

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        return None if self.taps is None else self.taps.seen(self.layer, output)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Hook:
        return _Hook(None, None)

    def __reduce__(self) -> Any:
        return _Hook, (None, None)


def _gathered(sharded: Any) -> Tensor:
    """A parameter that FSDP2 holds in shards, whole. What the processes ask of it is averaged, as FSDP averages all
    gradients; without saying so, each would keep its own wish for its own shard."""
    from torch.distributed.tensor import Partial

    mesh = sharded.device_mesh
    whole = sharded.full_tensor(grad_placements=[Partial()] * mesh.ndim)
    if whole.requires_grad:
        whole.register_hook(lambda gradient: gradient / mesh.size())
    return whole


def _is_compiled(module: nn.Module) -> bool:
    return hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
