"""Sites: named tensors of a model, written as TransformerLens writes them.

`blocks.3.hook_resid_post` is the residual stream after layer 3, [batch, position, d_model]. On an unmodified Hugging
Face model a site is the input or the output of one module; on a `TransformerBridge` it is the bridge's own hook point.

`blocks.3.attn.hook_z` are the outputs of the attention heads in front of the output projection, all heads one after
the other: [batch, position, n_heads * d_head]. Bridges do not have it: TransformerLens gives the heads an axis there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from faithprobe.errors import ModelError, UnknownNameError
from faithprobe.models.architectures import Layout, layout_of

HOOKS = ("hook_resid_pre", "hook_attn_out", "hook_mlp_out", "hook_resid_post")
"""The hooks of a block that are as wide as the residual stream, in the order in which they fire (attention and MLP may
run in parallel)."""

HEADS = "attn.hook_z"
"""The hook of a block at which heads can be told apart; it fires in front of `hook_attn_out`."""


@dataclass(frozen=True, eq=False)
class Site:
    """One named tensor of shape [batch, position, d_model]; of a `HEADS` site, [batch, position, n_heads * d_head]."""

    name: str
    path: str
    """Where the module is in the model: `model.layers.3.self_attn`."""
    module: nn.Module
    side: Literal["input", "output"]
    """The site is the first tensor that goes into the module, or the first that comes out of it."""


@dataclass(frozen=True, eq=False)
class Sites:
    """The sites of one model, by name. Reads the model and never changes it.

    A site exists only where a module computes its tensor: a hybrid layer without attention has no `hook_attn_out`.
    """

    n_layers: int
    d_model: int
    table: Mapping[str, Site]
    n_heads: int | None = None
    """Attention heads of a layer; None where the configuration does not say."""

    @classmethod
    def of(cls, model: Any) -> Sites:
        """The sites of a Hugging Face causal language model, or of a `TransformerBridge`.

        Wrappers are looked through: PEFT, `DistributedDataParallel`, `torch.compile` (hooks set on a compiled model
        before its first call are traced; later ones do not fire, so set them first or use the plain model).

        Raises:
            ModelError: the architecture is unknown, or its modules are not where its adapter says.
        """
        model = unwrapped(model)
        if is_bridge(model):
            return cls._of_bridge(model)
        layout = layout_of(model)
        blocks = _submodule(model, layout.blocks, layout)
        if not isinstance(blocks, Iterable):
            raise ModelError(f"{type(model).__name__}.{layout.blocks} is no list of layers")
        found = [Site("hook_embed", layout.embed, _submodule(model, layout.embed, layout), "output")]
        layers = list(blocks)
        for i, block in enumerate(layers):
            path = f"{layout.blocks}.{i}"
            found.append(Site(f"blocks.{i}.hook_resid_pre", path, block, "input"))
            inside: list[tuple[str, str | None, Literal["input", "output"]]] = [
                (HEADS, layout.attn_projection, "input"),
                ("hook_attn_out", layout.attn_out, "output"),
                ("hook_mlp_out", layout.mlp_out, "output"),
            ]
            for hook, inner, side in inside:
                module = _descend(block, inner)
                if module is not None:
                    found.append(Site(f"blocks.{i}.{hook}", f"{path}.{inner}", module, side))
            found.append(Site(f"blocks.{i}.hook_resid_post", path, block, "output"))
        return cls(len(layers), _width(model.config), {site.name: site for site in found}, _heads(model.config))

    @classmethod
    def _of_bridge(cls, bridge: Any) -> Sites:
        """Hook points are modules that return their input, so a site is the output of one."""
        n_layers = len(bridge.blocks)
        names = ["hook_embed", *(f"blocks.{i}.{hook}" for i in range(n_layers) for hook in HOOKS)]
        table = {}
        for name in names:
            block = bridge.blocks[int(name.split(".")[1])] if name.startswith("blocks.") else None
            # Such a block (Granite) calls its hook points only when TransformerLens hooks hang on them.
            if hasattr(block, "residual_contribution_scale") and not name.rpartition(".")[2].startswith("hook_resid"):
                continue
            point = bridge.get_hook_point(name)
            if point is not None:
                table[name] = Site(name, str(point.name), point, "output")
        return cls(n_layers, int(bridge.cfg.d_model), table, int(bridge.cfg.n_heads))

    def __getitem__(self, name: str) -> Site:
        """The site called `name`; `hook_out` is `hook_resid_post`. Raises UnknownNameError with near matches."""
        site = self.table.get(canonical(name))
        if site is None:
            hint = f"The model has {self.n_layers} layers, 0 to {self.n_layers - 1}."
            raise UnknownNameError("site", name, self.names(), hint)
        return site

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and canonical(name) in self.table

    def __iter__(self) -> Iterator[Site]:
        return iter(self.table.values())

    def names(self) -> list[str]:
        """Every site of this model, in the order of computation."""
        return list(self.table)

    def resid_post(self) -> list[str]:
        """The residual stream after each layer, from the first to the last."""
        return [f"blocks.{i}.hook_resid_post" for i in range(self.n_layers)]

    def layer(self, i: int) -> nn.Module:
        """The i-th decoder layer (on a bridge: the hook point of its output)."""
        return self[f"blocks.{i}.hook_resid_post"].module


def canonical(name: str) -> str:
    """`name` with the alias `blocks.{i}.hook_out` written as `blocks.{i}.hook_resid_post`."""
    head, _, hook = name.rpartition(".")
    return f"{head}.hook_resid_post" if hook == "hook_out" and head.count(".") == 1 else name


def is_bridge(model: object) -> bool:
    """Whether `model` is a TransformerLens bridge, without importing TransformerLens."""
    return any(cls.__name__ == "TransformerBridge" for cls in type(model).__mro__)


def unwrapped(model: Any) -> Any:
    """The Hugging Face model (or bridge) inside `torch.compile`, `DistributedDataParallel` and PEFT wrappers."""
    while True:
        if hasattr(model, "_orig_mod"):
            model = model._orig_mod
        elif type(model).__name__ in ("DistributedDataParallel", "DataParallel"):
            model = model.module
        elif hasattr(model, "peft_config") and hasattr(model, "get_base_model"):
            model = model.get_base_model()
        else:
            return model


def _width(config: Any) -> int:
    text = config.get_text_config(decoder=True)
    for field in ("hidden_size", "n_embd", "d_model", "model_dim"):
        if getattr(text, field, None):
            return int(getattr(text, field))
    raise ModelError(f"{type(config).__name__} does not say how wide the residual stream is (hidden_size)")


def _heads(config: Any) -> int | None:
    text = config.get_text_config(decoder=True)
    found = (getattr(text, field, None) for field in ("num_attention_heads", "n_head", "n_heads", "num_heads"))
    return next((heads for heads in found if isinstance(heads, int)), None)


def _submodule(model: nn.Module, path: str, layout: Layout) -> nn.Module:
    try:
        return model.get_submodule(path)
    except AttributeError as error:
        raise ModelError(
            f"{type(model).__name__} has no module {path!r}, where {layout} expects it: {error}"
        ) from error


def _descend(block: nn.Module, path: str | None) -> nn.Module | None:
    if path is None:
        return None
    try:
        return block.get_submodule(path)
    except AttributeError:
        return None
