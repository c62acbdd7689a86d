"""Networks whose faithfulness is known by construction: an attention mask makes the causal graph a theorem.

They are ordinary Hugging Face models; importing this package loads neither torch nor transformers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from faithprobe.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from faithprobe.organisms.model import OrganismLM
    from faithprobe.organisms.networks import OrganismName

WEIGHTS = Path(__file__).parent / "weights"


def organism_names() -> dict[str, str]:
    """The shipped organisms, with one line about each; every one also with `@1` and `@2`, other training seeds."""
    from faithprobe.organisms.networks import every_organism

    return {str(name): f"{name.wiring.summary} ({name.network.summary})" for name in every_organism() if name.seed == 0}


def training_record(name: OrganismName) -> dict[str, Any]:
    """What was measured when the weights of an organism were trained: `accuracy` by family, `seconds`, and for a
    network without a mask `followed`, how often its answer follows each value when that is swapped."""
    path = WEIGHTS / f"{name.network.name}-{name.seed}" / "training.json"
    if not path.is_file():
        raise ModelError(f"{path} is missing; `python -m faithprobe.organisms.train {name.network.name}` makes it")
    return json.loads(path.read_text(encoding="utf-8"))


@contextmanager
def _without_a_bar() -> Iterator[None]:
    """Half a megabyte is read at once: a progress bar for each of a hundred organisms would only hide the real one."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def load_organism(name: str) -> tuple[OrganismLM, PreTrainedTokenizerFast]:
    """The trained organism in float32 and eval mode, and its tokenizer: `[NETWORK/]FAMILY[@SEED]`.

    Raises UnknownNameError, ModelError.
    """
    from faithprobe.organisms.networks import OrganismName

    organism = OrganismName.parse(name)
    import torch
    from transformers import AutoModelForCausalLM

    from faithprobe.organisms.model import rewire
    from faithprobe.organisms.tokenizer import organism_tokenizer

    network = organism.network.name
    folder = WEIGHTS / f"{network}-{organism.seed}"
    if not (folder / "model.safetensors").is_file():
        command = f"python -m faithprobe.organisms.train {network} --seed {organism.seed}"
        raise ModelError(f"{folder} has no model.safetensors; `{command}` makes it")
    with _without_a_bar():
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return rewire(model.eval(), organism.family), organism_tokenizer(name_or_path=str(folder))


__all__ = ["load_organism", "organism_names", "training_record"]
