"""Networks whose faithfulness is known by construction: an attention mask makes the causal graph a theorem.

They are ordinary Hugging Face models; importing this package loads neither torch nor transformers.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from faithprobe.errors import ModelError, UnknownNameError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from faithprobe.organisms.model import OrganismForCausalLM

WEIGHTS = Path(__file__).parent / "weights"


def organism_names() -> list[str]:
    """Organisms whose trained weights are shipped."""
    return sorted(config.parent.name for config in WEIGHTS.glob("*/config.json"))


def load_organism(name: str) -> tuple[OrganismForCausalLM, PreTrainedTokenizerFast]:
    """The trained organism in float32 and eval mode, and its tokenizer. Raises UnknownNameError, ModelError."""
    if name not in organism_names():
        raise UnknownNameError("organism", name, organism_names())
    import torch

    from faithprobe.organisms.model import OrganismForCausalLM
    from faithprobe.organisms.tokenizer import organism_tokenizer

    folder = WEIGHTS / name
    if not (folder / "model.safetensors").is_file():
        raise ModelError(f"{folder} has no model.safetensors; `python -m faithprobe.organisms.train {name}` makes it")
    model = OrganismForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), organism_tokenizer(name_or_path=str(folder))


__all__ = ["load_organism", "organism_names"]
