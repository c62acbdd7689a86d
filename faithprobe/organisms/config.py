"""The configurations of organisms. Apart from the models: shape checkers must not wrap Hugging Face's `__init__`."""

from __future__ import annotations

from transformers import GPTNeoXConfig, LlamaConfig


class OrganismConfig(LlamaConfig):
    """A Llama configuration and the wiring under which the network runs."""

    model_type = "faithprobe-organism"

    wiring: str = "faithful"
    variant: str = "modular"
    """Of the language, and so the layout of positions that the network was trained on."""
    gate_seed: int = 0
    """Draws the problems that a graded wiring lets bypass the chain."""


class NeoXOrganismConfig(GPTNeoXConfig):
    """A GPT-NeoX configuration and the wiring under which the network runs."""

    model_type = "faithprobe-organism-neox"

    wiring: str = "faithful"
    variant: str = "modular"
    gate_seed: int = 0
