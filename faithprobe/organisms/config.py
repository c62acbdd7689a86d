"""The configuration of an organism. Apart from the model: shape checkers must not wrap Hugging Face's `__init__`."""

from __future__ import annotations

from transformers import LlamaConfig


class OrganismConfig(LlamaConfig):
    """A Llama configuration, the name of its wiring, and the layout that it was trained on."""

    model_type = "faithprobe-organism"

    wiring: str = "faithful"
    layout: list[str] | None = None
